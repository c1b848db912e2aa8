"""Small builders of model values: what a test does not name has a plain default. And one way to decide about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from proxyctl.fileset import FileSet
from proxyctl.model import (
    Container,
    ContainerState,
    DockerHealth,
    DrainPhase,
    Endpoint,
    HealthCheck,
    HealthType,
    Location,
    Neighbours,
    NginxView,
    Owner,
    Plan,
    Probe,
    ProbeKey,
    ProbeResult,
    PublishedPort,
    RoutedTarget,
    RouteSpec,
    RouteTable,
    Scheme,
    Snapshot,
    Target,
    VirtualHost,
)
from proxyctl.plan import labels, planner, routes, vhosts
from proxyctl.plan.ownership import ClaimRule
from proxyctl.plan.targets import ALIVE
from proxyctl.versions import Shares

REPOSITORY = Path(__file__).parents[2]
FRONT = {"front": "10.0.0.5"}
NOW = 1_000.0


def container(
    name: str = "web-1",
    said: Mapping[str, str] | None = None,
    *,
    created: float = 100.0,
    state: ContainerState = "running",
    health: DockerHealth = "none",
    networks: Mapping[str, str] = FRONT,
    ipv6: Mapping[str, str] | None = None,
    mode: str = "front",
    exposed: tuple[int, ...] = (80,),
    published: tuple[PublishedPort, ...] = (),
    compose: str = "",
    **more: Any,
) -> Container:
    """`said`: labels without `proxyctl.` in front; `networks`: name to address while it runs; `compose`: `PROJECT/SERVICE`."""
    text = {f"proxyctl.{key}": value for key, value in (said or {}).items()}
    if compose:
        project, _, service = compose.partition("/")
        text |= {"com.docker.compose.project": project, "com.docker.compose.service": service}
    endpoints = tuple(
        Endpoint(net, f"id-{net}", f"{name}@{net}", ip, (ipv6 or {}).get(net, ""), "")
        if state in ALIVE
        else Endpoint(net, f"id-{net}", "", "", "", "")
        for net, ip in networks.items()
    )
    return Container(
        id=f"id-{name}",
        name=name,
        image="image",
        created_unix=created,
        state=state,
        health=health,
        labels=text | more.pop("labels", {}),
        endpoints=endpoints,
        network_mode=mode,
        exposed=exposed,
        published=published,
        **more,
    )


def defaults(prefix: str = "proxyctl", default_host: str = "", network: str = "") -> labels.Defaults:
    return labels.Defaults(prefix, default_host, network, interval=5.0, timeout=2.0, rise=2, fall=2)


NOBODY = Neighbours()


def view(
    version: tuple[int, ...] = (1, 31, 3),
    networks: Mapping[str, str] | None = None,
    *,
    host_network: bool = False,
    ipv6: bool = False,
    conf_dir: str = "/etc/proxyctl/conf",
    runtime_dir: str = "/etc/proxyctl/boot",
    logs_dir: str = "/var/log/nginx",
    neighbours: Neighbours = NOBODY,
    container: str = "",
) -> NginxView:
    known = {"front": "10.0.0.1"} if networks is None else networks
    return NginxView(version, known, host_network, ipv6, conf_dir, runtime_dir, logs_dir, neighbours, container)


def check(kind: HealthType = "tcp", port: int = 80, **more: Any) -> HealthCheck:
    plain: dict[str, Any] = {"path": "/", "host": "a.example", "interval": 5.0, "timeout": 2.0, "rise": 2, "fall": 2}
    return HealthCheck(type=kind, port=port, **(plain | {"status": ((200, 399),)} | more))


def route(hosts: tuple[str, ...] = ("a.example",), *, port: int = 80, network: str = "") -> RouteSpec:
    return RouteSpec("default", hosts, "/", False, port, "http", network, 1, check(port=port))


# ---------------------------------------------------------------- deciding


def snapshot(containers: Iterable[Container], stopping: Iterable[str] = ()) -> Snapshot:
    """`stopping`: names."""
    return Snapshot({c.id: c for c in containers}, frozenset(f"id-{name}" for name in stopping))


class Standing(dict[ProbeKey, ProbeResult]):
    """The state of each target by its container's name; whoever is not named is healthy. `since`: of all of them."""

    def __init__(self, states: Mapping[str, Any], since: float = 0.0) -> None:
        super().__init__()
        self.states, self.since = states, since

    def get(self, key: ProbeKey, default: object = None) -> Any:
        container_id = key[0].container_id
        state = self.states.get(container_id.removeprefix("id-"), "healthy") if container_id else None
        return ProbeResult(state, "" if state == "healthy" else "refused", self.since) if state else default


def inputs(snapshot: Snapshot, standing: Mapping[ProbeKey, ProbeResult]) -> routes.Inputs:
    """Nobody owns anything, nothing is published, no operator has said anything."""
    return routes.Inputs(
        snapshot=snapshot,
        standing=standing,
        owners={},
        nginx=view(),
        defaults=defaults(),
        join=True,
        unjoinable={},
        published=frozenset(),
        now_unix=NOW,
        claims=(),
        own_ports=frozenset(),
        shares={},
        maintenance=frozenset(),
    )


def decide(
    containers: Iterable[Container],
    states: Mapping[str, str | None] | None = None,
    *,
    stopping: Iterable[str] = (),
    owners: Mapping[str, Owner] | None = None,
    nginx: NginxView | None = None,
    said: labels.Defaults | None = None,
    join: bool = True,
    unjoinable: Mapping[str, str] | None = None,
    published: Iterable[str] = (),
    now: float = NOW,
    since: float = 0.0,
    claims: tuple[ClaimRule, ...] = (),
    own_ports: Iterable[int] = (),
    shares: Mapping[str, Shares] | None = None,
) -> Plan:
    """`states`: by container name, healthy when it is not there, None for one that was never probed."""
    return planner.plan(
        replace(
            inputs(snapshot(containers, stopping), Standing(states or {}, since)),
            owners=owners or {},
            nginx=nginx or view(),
            defaults=said or defaults(),
            join=join,
            unjoinable=unjoinable or {},
            published=frozenset(published),
            now_unix=now,
            claims=claims,
            own_ports=frozenset(own_ports),
            shares=shares or {},
        )
    )


def places(table: RouteTable) -> dict[str, Location]:
    return {vhost.host + location.path: location for vhost in table.vhosts for location in vhost.locations}


def serving(table: RouteTable) -> dict[str, list[str]]:
    """Place to the names of the containers that carry its traffic."""
    return {place: [t.container for t in location.serving] for place, location in places(table).items()}


def refusals(plan: Plan) -> list[tuple[str, str]]:
    return [(rejection.container, rejection.reason) for rejection in plan.rejections]


# ---------------------------------------------------------------- rendering


def routed(address: str = "10.0.0.5:80", weight: int = 1, *, serving: bool = True) -> RoutedTarget:
    """`address`: `10.0.0.5:80` or `[fd00::5]:80`."""
    host, _, port = address.rpartition(":")
    target = Target("id-web", "endpoint", host.strip("[]"), int(port))
    return RoutedTarget(target, "web", "web", weight, "healthy" if serving else "warming", "", serving)


def location(
    path: str = "/", *targets: RoutedTarget, scheme: Scheme = "http", strip: bool = False, service: str = "web"
) -> Location:
    return Location(path, strip, scheme, service, "default", targets, fail_open=False)


def table(*found: tuple[str, Location]) -> RouteTable:
    """Locations with their hosts, in the order that planning gives them."""
    hosts: dict[str, list[Location]] = {}
    for host, place in sorted(found, key=lambda item: (item[0], item[1].path)):
        hosts.setdefault(host, []).append(place)
    return RouteTable(tuple(VirtualHost(host, tuple(group)) for host, group in hosts.items()))


def site(host: str = "a.example") -> RouteTable:
    return table((host, location("/", routed())))


def templates(**changed: str) -> dict[str, str]:
    """The shipped ones; `server="..."` replaces server.conf.j2."""
    shipped = {name: (REPOSITORY / "templates" / name).read_text(encoding="utf-8") for name in vhosts.TEMPLATES}
    return shipped | {next(name for name in shipped if name.startswith(f"{key}.")): text for key, text in changed.items()}


@cache
def shipped() -> vhosts.Renderer:
    return vhosts.Renderer(templates(), shipped=True)


TOKEN = "f" * 32


def settings(
    token: str = TOKEN,
    *,
    workers: int = 2,
    trusted_proxies: tuple[str, ...] = (),
    wait_after_boot: bool = True,
    included: bool = False,
    drain: DrainPhase = "serving",
) -> vhosts.NginxSettings:
    return vhosts.NginxSettings(workers, 3600, trusted_proxies, token, wait_after_boot, included, drain)


def render(
    what: RouteTable | None = None,
    nginx: NginxView | None = None,
    how: vhosts.NginxSettings | None = None,
    operator_files: Mapping[str, str] | None = None,
    renderer: vhosts.Renderer | None = None,
) -> FileSet:
    return (renderer or shipped()).render(what or RouteTable(), nginx or view(), how or settings(), operator_files or {})


def probe(port: int, kind: HealthType = "tcp", docker: DockerHealth = "none", **more: Any) -> Probe:
    """Of a target on 127.0.0.1. `rise`, `fall`, `interval`, `timeout`, `path`, `host`, `status` as in HealthCheck."""
    target = Target("id-web", "endpoint", "127.0.0.1", port)
    scheme = more.pop("scheme", "http")
    return Probe(target, "default", check(kind, port, **more), docker, scheme)
