"""Standing -> the answers of the API: plain dataclasses that msgspec writes, that the page shows and that the CLI reads back.

Names and meanings here are what scripts rely on: fields are added, never changed, unless `schema` changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from proxyctl.model import DrainPhase, Location, Rejection, RoutedTarget, TargetState
from proxyctl.serve.standing import Standing
from proxyctl.serve.swaps import Rollout, rollout_of
from proxyctl.versions import Order

SCHEMA = 1

RouteState = Literal["ok", "degraded", "fail-open", "starting", "maintenance", "down"]
"""degraded: something that should serve does not; fail-open: nothing is healthy, what is alive serves; starting: nothing has
passed its checks yet; maintenance: 503, by an operator's word; down: 503."""

WORST_FIRST: tuple[RouteState, ...] = ("down", "maintenance", "fail-open", "starting", "degraded", "ok")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    container: str
    container_id: str
    endpoint_id: str
    service: str
    address: str
    """Empty while it has none."""
    port: int
    weight: int
    state: TargetState
    reason: str
    serving: bool
    """nginx is sending it requests now."""
    version: str = ""
    """What the label says; empty without it."""
    exited: str = ""
    """How the container ended the last time, in words; empty when it never has, as far as is known."""
    exit_code: int | None = None
    """Of that end."""
    out_of_memory: bool = False
    """That end was a kill by the kernel, since the memory limit was reached."""
    restarts: int = 0
    """How often the engine has restarted the container by its restart policy, as of that end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    host: str
    path: str
    service: str
    name: str
    """Of the route in the container's labels."""
    scheme: str
    strip_path: bool
    state: RouteState
    live: bool
    """nginx runs it as it is wanted."""
    healthy: int
    present: int
    """Targets that are not down."""
    targets: tuple[Target, ...]

    @property
    def place(self) -> str:
        return self.host + (self.path if self.path != "/" else "")

    @property
    def shown_targets(self) -> str:
        """`2/3 healthy`, with what is down apart: an exited container that nobody removed is no worry."""
        if not self.targets:
            return "none"
        down = len(self.targets) - self.present
        return f"{self.healthy}/{self.present} healthy{f', {down} down' if down else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    service: str
    state: RouteState
    """The worst of its routes."""
    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    schema: int = SCHEMA
    services: tuple[Service, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTarget:
    """A target in one route."""

    host: str
    path: str
    route: str
    target: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    schema: int = SCHEMA
    targets: tuple[RouteTarget, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejections:
    schema: int = SCHEMA
    rejections: tuple[Rejection, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    endpoint: str
    connected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Nginx:
    container: str
    container_id: str
    image: str
    version: str
    started_at: str
    digest: str
    """Of the configuration that it was proved to run."""
    outdated: bool
    """The container was made from other settings than today's."""
    differing: tuple[str, ...] = ()
    """Keys of those settings."""
    renewal: str = ""
    """What to do about that."""
    up: bool | None = None
    """It runs and answers; null when that is not known."""
    started_unix: float | None = None
    starts: int = 0
    """How many starts of it this controller has seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    services: int
    routes: int
    targets: int
    """Containers that are not down, each counted once for a service."""
    healthy: int
    rejections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts:
    schema: int = SCHEMA
    frozen: bool
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What became of the configuration file, the templates and the hand-written vhosts."""

    taken_over: bool = True
    problems: tuple[str, ...] = ()
    """What was not taken over, and why: a line for each file. What was in effect before stays in effect."""
    taken_unix: float = 0.0
    """When everything was last taken over."""
    restart: tuple[str, ...] = ()
    """Keys that were changed and take effect when the controller is started again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    schema: int = SCHEMA
    version: str
    started_unix: float
    ready: bool
    in_sync: bool
    since_unix: float
    """When `in_sync` last changed."""
    error: str
    """Why not everything that is wanted is live."""
    host: DrainPhase = "serving"
    """Whether the host is to be left, and how far that is."""
    engine: Engine
    nginx: Nginx | None
    counts: Counts
    routes: tuple[Route, ...]
    rejections: tuple[Rejection, ...]
    rollouts: tuple[Rollout, ...] = ()
    frozen: bool = False
    freeze: Order | None = None
    """Who has frozen everything, why and since when."""
    configuration: Configuration = Configuration()


# ---------------------------------------------------------------- from a Standing


def routes(standing: Standing) -> tuple[Route, ...]:
    """Every wanted (host, path) with its targets, by host and path, and whether nginx runs it so."""
    live = {(host, location.path): location for host, location in _locations(standing, published=True)}
    return tuple(
        _route(standing, host, location, live.get((host, location.path)))
        for host, location in _locations(standing, published=False)
    )


def _locations(standing: Standing, *, published: bool) -> Iterator[tuple[str, Location]]:
    for vhost in (standing.published if published else standing.wanted).vhosts:
        for location in vhost.locations:
            yield vhost.host, location


def _route(standing: Standing, host: str, wanted: Location, live: Location | None) -> Route:
    serving = {t.target for t in live.serving} if live else set()
    targets = tuple(_target(standing, t, serving=t.target in serving) for t in wanted.targets)
    return Route(
        host=host,
        path=wanted.path,
        service=_service(standing, host, wanted),
        name=wanted.route,
        scheme=wanted.scheme,
        strip_path=wanted.strip_path,
        state=_state(wanted),
        live=live is not None and serving == {t.target for t in wanted.serving} and live.maintenance == wanted.maintenance,
        healthy=sum(t.state == "healthy" for t in targets),
        present=sum(t.state != "down" for t in targets),
        targets=targets,
    )


def _service(standing: Standing, host: str, wanted: Location) -> str:
    owner = standing.owners.get(host + wanted.path)
    return wanted.service or (owner.service if owner else "")


def _target(standing: Standing, routed: RoutedTarget, *, serving: bool) -> Target:
    target = routed.target
    end = standing.exits.get(target.container_id)
    return Target(
        container=routed.container,
        container_id=target.container_id,
        endpoint_id=target.endpoint_id,
        service=routed.service,
        address=target.address,
        port=target.port,
        weight=routed.weight,
        state=routed.state,
        reason=routed.reason,
        serving=serving,
        version=routed.version or "",
        exited=str(end) if end else "",
        exit_code=end.code if end else None,
        out_of_memory=bool(end and end.out_of_memory),
        restarts=end.restarts if end else 0,
    )


def _state(location: Location) -> RouteState:
    versions = {t.version for t in location.serving}
    states = {t.state for t in location.targets if not versions or t.version in versions}
    if location.maintenance:
        return "maintenance"
    if location.fail_open:
        return "fail-open"
    if not location.serving:
        return "starting" if "warming" in states else "down"
    restarting = any(t.state == "down" and t.reason == "restarting" and t.version in versions for t in location.targets)
    return "degraded" if restarting or states & {"warming", "unhealthy"} else "ok"


def service_states(standing: Standing) -> dict[str, RouteState]:
    """The worst state of each service's routes."""
    found: dict[str, RouteState] = {}
    for host, location in _locations(standing, published=False):
        service, state = _service(standing, host, location), _state(location)
        found[service] = min(found.get(service, state), state, key=WORST_FIRST.index)
    return found


def services(standing: Standing) -> Services:
    by_name: dict[str, list[Route]] = {}
    for route in routes(standing):
        by_name.setdefault(route.service, []).append(route)
    return Services(
        services=tuple(
            Service(service=name, state=min((r.state for r in own), key=WORST_FIRST.index), routes=tuple(own))
            for name, own in sorted(by_name.items())
        )
    )


def targets(standing: Standing) -> Targets:
    return Targets(
        targets=tuple(
            RouteTarget(host=route.host, path=route.path, route=route.name, target=target)
            for route in routes(standing)
            for target in route.targets
        )
    )


def service_names(standing: Standing) -> set[str]:
    return {_service(standing, host, location) for host, location in _locations(standing, published=False)}


def standing_of_targets(standing: Standing) -> Mapping[tuple[str, str, str, int], TargetState]:
    """(service, version, container id, port) -> its state, the worst when it stands differently in two routes."""
    order: tuple[TargetState, ...] = ("healthy", "warming", "stopping", "unhealthy", "down")
    found: dict[tuple[str, str, str, int], TargetState] = {}
    for _, location in _locations(standing, published=False):
        for routed in location.targets:
            key = (routed.service, routed.version or "", routed.target.container_id, routed.target.port)
            found[key] = max(found.get(key, routed.state), routed.state, key=order.index)
    return found


def status(standing: Standing) -> Status:
    return Status(
        version=standing.place.version,
        started_unix=standing.place.started_unix,
        ready=not standing.not_ready,
        in_sync=standing.in_sync,
        since_unix=standing.since_unix,
        error=standing.trouble,
        host=standing.host,
        engine=Engine(endpoint=standing.place.endpoint, connected=standing.connected),
        nginx=nginx(standing),
        counts=counts(standing),
        routes=routes(standing),
        rejections=standing.rejections,
        rollouts=rollouts(standing).rollouts,
        frozen=standing.frozen,
        freeze=standing.freezing,
        configuration=Configuration(
            taken_over=standing.taken_over,
            problems=standing.not_taken,
            taken_unix=standing.configuration.taken_unix,
            restart=standing.configuration.restart,
        ),
    )


def rollouts(standing: Standing, service: str = "") -> Rollouts:
    """Of one service, or of all."""
    found = tuple(rollout_of(told) for told in standing.rollouts if service in ("", told.service))
    return Rollouts(frozen=standing.frozen, rollouts=found)


def summary(runs: Nginx | None, counted: Counts) -> str:
    nginx_version = f"nginx {runs.version}" if runs else "no nginx"
    services_there = f"{counted.services} service{'' if counted.services == 1 else 's'}"
    return f"{nginx_version}, {services_there}, {counted.healthy} of {counted.targets} targets healthy"


def nginx(standing: Standing) -> Nginx | None:
    runs = standing.nginx
    if runs is None:
        return None
    return Nginx(
        container=runs.name,
        container_id=runs.id,
        image=runs.image,
        version=".".join(map(str, runs.view.version)),
        started_at=runs.started_at,
        digest=standing.live_digest,
        outdated=runs.outdated,
        differing=runs.differing,
        renewal=runs.renewal,
        up=standing.nginx_up,
        started_unix=standing.runs.started_unix,
        starts=standing.runs.starts,
    )


def counts(standing: Standing) -> Counts:
    states = standing_of_targets(standing).values()
    return Counts(
        services=len(service_names(standing)),
        routes=sum(1 for _ in _locations(standing, published=False)),
        targets=sum(state != "down" for state in states),
        healthy=sum(state == "healthy" for state in states),
        rejections=len(standing.rejections),
    )
