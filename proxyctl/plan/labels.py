"""One container's labels -> a `ServiceSpec` and the `Rejection`s its owner must see.

The grammar is three tables of keys, below. A key that is in none of them rejects the route (a typo in an auth label must not
open a site) and names the nearest key that is. Lists of keys are shown to users: docs/labels.md is tested against them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from typing import Any, cast, get_args

from proxyctl import values
from proxyctl.model import Container, HealthCheck, HealthType, Rejection, RejectionReason, RouteSpec, Scheme, ServiceSpec
from proxyctl.values import BadValue, OverLimit
from proxyctl.versions import PLAIN_ROLLOUT, Retire, Settings, Strategy

Parser = Callable[[str], Any]

SCHEMES = ("http", "https", "grpc", "grpcs")
HEALTH_TYPES = ("http", "tcp", "docker", "none")
MAX_LABELS = 512
"""With the prefix, in one container: as many as its routes can use."""
MAX_KEY = 80
"""Characters of a key that are looked at: more than any that is known has, and a key that is cut is none."""
MAX_VALUE = 16_384
"""Characters of one value: as many as its hosts can use."""
MAX_ROUTES = 32
MAX_HOSTS = 64
MAX_PLACES = 256
"""Hosts of all routes of one container, together."""
MAX_MISTAKES = 32
"""That are looked for in one container: what it costs everybody, and what its owner reads, has an end."""
OWN_DOMAIN = "proxyctl.invalid"
"""Names under it are nginx's own: the answer while a host boots, and the sample that is in every draft."""
DEFAULT_ROUTE = "default"
"""What the route of the plain labels is called."""

ROUTE_KEYS: Mapping[str, Parser] = {
    "host": lambda text: values.hosts(text, MAX_HOSTS),
    "path": values.path,
    "strip-path": values.boolean,
}
TARGET_KEYS: Mapping[str, Parser] = {
    "port": lambda text: values.integer(text, 1, 65535),
    "scheme": lambda text: values.one_of(text, SCHEMES),
    "network": values.name,
    "weight": lambda text: values.integer(text, 1, 1000),
    "health.type": lambda text: values.one_of(text, HEALTH_TYPES),
    "health.path": values.request_target,
    "health.port": lambda text: values.integer(text, 1, 65535),
    "health.host": values.host,
    "health.interval": lambda text: values.duration(text, 0.1, 3600),
    "health.timeout": lambda text: values.duration(text, 0.01, 300),
    "health.rise": lambda text: values.integer(text, 1, 100),
    "health.fall": lambda text: values.integer(text, 1, 100),
    "health.status": values.status_ranges,
}
CONTAINER_KEYS: Mapping[str, Parser] = {
    "enable": values.boolean,
    "service": values.name,
    "version": values.name,
    "rollout": lambda text: values.one_of(text, get_args(Strategy)),
    "rollout.bake": lambda text: values.duration(text, 0, 86400),
    "rollout.deadline": lambda text: values.duration(text, 1, 86400),
    "rollout.retire": lambda text: values.one_of(text, get_args(Retire)),
    "rollout.steps": values.steps,
    "rollout.drain": lambda text: values.duration(text, 1, 7 * 86400),
}
_OF_A_ROUTE = {**ROUTE_KEYS, **TARGET_KEYS}
_PLAINLY = {**_OF_A_ROUTE, **CONTAINER_KEYS}
_ROLLOUT = {"rollout": "strategy"} | {f"rollout.{key}": key for key in ("bake", "deadline", "retire", "steps", "drain")}

ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(
        ("tls", "https", "ssl", "certresolver", "letsencrypt", "letsencrypt-host", "cert-name"),
        "nginx is given port 80 only: let what is in front of it end TLS, and name that in nginx.trusted_proxies",
    ),
    **dict.fromkeys(
        ("redirect", "redirects", "middleware", "middlewares", "auth", "basicauth", "headers", "ratelimit"),
        "there is no label for that: write a vhost by hand, in nginx/sites of the state directory",
    ),
    **dict.fromkeys(("rule", "routers", "domain", "domains", "hostname", "virtual-host"), "write PREFIX.host=NAME"),
    **dict.fromkeys(
        ("virtual-port", "services", "loadbalancer", "upstream", "upstreams", "reverse-proxy"), "write PREFIX.port=PORT"
    ),
    **dict.fromkeys(("virtual-path", "prefix", "pathprefix"), "write PREFIX.path=/PATH"),
    **dict.fromkeys(("virtual-proto", "protocol", "proto"), "write PREFIX.scheme=http, https, grpc or grpcs"),
    **dict.fromkeys(("traefik", "caddy"), "write PREFIX.host=NAME, and PREFIX.port=PORT when the image exposes several ports"),
    **dict.fromkeys(("entrypoint", "entrypoints"), "leave it out: nginx listens where nginx.http says"),
}
"""First words of labels and variables that other proxies have -> what to write here."""

_ROUTE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
_PLAIN = ""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What configuration says for labels that are not there."""

    prefix: str
    default_host: str
    """A host with `{service}` in it, or empty."""
    network: str
    interval: float
    timeout: float
    rise: int
    fall: int
    rollout: Settings = PLAIN_ROLLOUT


@dataclass(frozen=True, slots=True)
class Parsed:
    spec: ServiceSpec | None
    rejections: tuple[Rejection, ...]


def parse(container: Container, defaults: Defaults) -> Parsed:
    """The container's routes that can be served and a Rejection for each that cannot; neither when it asks for nothing."""
    prefix = defaults.prefix + "."
    start, end = len(prefix), len(prefix) + MAX_KEY
    found = ((key[start:end], value) for key, value in container.labels.items() if key.startswith(prefix))
    mine = dict(islice(found, MAX_LABELS + 1))
    if not mine or "nginx" in mine or "nginx.settings" in mine:
        return Parsed(None, ())
    reader = _Reader(container, defaults)
    if len(mine) > MAX_LABELS:
        hint = f"{MAX_LABELS} at the most: give the routes to several containers"
        reader.reject(_PLAIN, "limit", "*", f"more than {MAX_LABELS} labels in one container", hint)
        return Parsed(None, tuple(reader.rejections))
    groups = reader.group(mine)
    if groups.get(_PLAIN, {}).get("enable") is False:
        return Parsed(None, ())
    if reader.refused_all:
        return Parsed(None, tuple(reader.rejections))
    plain = groups.pop(_PLAIN, {})
    service = service_of(container.labels, container.name, container.id, defaults.prefix)
    routes = []
    names = [name for name in sorted(groups) if name not in reader.refused]
    if _PLAIN not in reader.refused and ("host" in plain or not groups):
        names.insert(0, _PLAIN)
    for name in names[:MAX_ROUTES]:
        inherited = {key: value for key, value in plain.items() if key in TARGET_KEYS}
        route = reader.route(name, service, inherited | groups.get(name, plain))
        if route and reader.takes_places(name, route):
            routes.append(route)
    if len(names) > MAX_ROUTES:
        reader.reject(_PLAIN, "limit", "routes", f"{len(names)} routes in one container", f"{MAX_ROUTES} are served")
    said = {_ROLLOUT[key]: value for key, value in plain.items() if key in _ROLLOUT}
    spec = ServiceSpec(
        container.id,
        container.name,
        service,
        "service" in plain,
        container.created_unix,
        tuple(routes),
        plain.get("version"),
        replace(defaults.rollout, **said) if said else defaults.rollout,
    )
    return Parsed(spec if routes else None, tuple(reader.rejections))


def service_of(labels: Mapping[str, str], name: str, container_id: str, prefix: str) -> str:
    """What the label says, else `PROJECT.SERVICE` of compose, else the container's name, else the start of its id."""
    parts = [labels.get(f"com.docker.compose.{part}", "") for part in ("project", "service")]
    for said in (labels.get(f"{prefix}.service"), ".".join(parts) if all(parts) else name):
        with suppress(BadValue):
            if said:
                return values.name(said)
    return container_id[:12]


@lru_cache(maxsize=1024)
def _nearest(key: str, known: tuple[str, ...]) -> str:
    """Remembered, because the labels of every container are read in every cycle."""
    return next(iter(get_close_matches(key, [*known, "routes.NAME.host"], n=1, cutoff=0.5)), "")


def _elsewhere(key: str, prefix: str) -> str:
    """What to write instead of a label that other proxies have; empty when none has it."""
    word = key.lower().removeprefix("http.").partition(".")[0].replace("_", "-")
    return ELSEWHERE.get(word, "").replace("PREFIX", prefix)


class _Reader:
    """Reads one container's labels and collects what is wrong with them."""

    def __init__(self, container: Container, defaults: Defaults) -> None:
        self.container = container
        self.defaults = defaults
        self.rejections: list[Rejection] = []
        self.refused: set[str] = set()
        self.taken: dict[tuple[str, str], str] = {}
        """By host and path: the route that serves it."""

    @property
    def refused_all(self) -> bool:
        """A plain key that nobody understands may have been meant for every route."""
        return _PLAIN in self.refused

    def reject(self, route: str, reason: RejectionReason, key: str, problem: str, hint: str) -> None:
        label = f"{self.defaults.prefix}.{f'routes.{route}.' if route else ''}{key}"
        self.refused.add(route)
        self.rejections.append(
            Rejection(self.container.id, self.container.name, route or DEFAULT_ROUTE, reason, label, problem, hint)
        )

    def group(self, mine: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Parsed values by route name; the empty name is the plain one."""
        groups: dict[str, dict[str, Any]] = {}
        for full, text in sorted(mine.items()):
            if len(self.rejections) == MAX_MISTAKES:
                hint = "correct the others first; no route of the container is served until then"
                self.reject(_PLAIN, "limit", "*", f"more than {MAX_MISTAKES} mistakes in the labels of one container", hint)
                break
            route, key = _PLAIN, full
            if full.startswith("routes."):
                route, _, key = full.removeprefix("routes.").partition(".")
                if not _ROUTE_NAME.fullmatch(route) or route == DEFAULT_ROUTE or not key:
                    name = f"NAME in lower-case letters, digits and hyphens, not {DEFAULT_ROUTE}"
                    hint = f"write {self.defaults.prefix}.routes.NAME.host, {name}"
                    self.reject(_PLAIN, "unknown-label", values.shown(full)[1:-1], "not a route label", hint)
                    continue
            groups.setdefault(route, {})
            parser = self._parser(route, key)
            if parser is None:
                continue
            try:
                values.within(text, MAX_VALUE)
                groups[route][key] = parser(text)
            except BadValue as bad:
                self.reject(route, "limit" if isinstance(bad, OverLimit) else "bad-value", key, bad.problem, bad.hint)
        return groups

    def _parser(self, route: str, key: str) -> Parser | None:
        known = _OF_A_ROUTE if route else _PLAINLY
        if key in known:
            return known[key]
        if key in CONTAINER_KEYS:
            self.reject(
                route, "unknown-label", key, "belongs to the container, not to a route", f"write {self.defaults.prefix}.{key}"
            )
        else:
            hint = _elsewhere(key, self.defaults.prefix) or self._nearest(route, key, tuple(known))
            self.reject(route, "unknown-label", values.shown(key)[1:-1], "is not a label that proxyctl knows", hint)
        return None

    def _nearest(self, route: str, key: str, known: tuple[str, ...]) -> str:
        where = f"{self.defaults.prefix}.{f'routes.{route}.' if route else ''}"
        near = _nearest(key, known)
        return f"did you mean {where}{near}?" if near else f"write {where} and one of {', '.join(known)}"

    def takes_places(self, name: str, route: RouteSpec) -> bool:
        """One container serves a place by one route: a second one is a slip of the pen, or its path was forgotten."""
        shared = next((host for host in route.hosts if (host, route.path) in self.taken), None)
        if shared:
            place = shared if route.path == "/" else shared + route.path
            other = self.taken[shared, route.path]
            hint = "choose another host or path, or remove one of the two routes"
            self.reject(name, "conflict", "host", f"the route {other} of this container serves {place} already", hint)
        elif len(self.taken) + len(route.hosts) > MAX_PLACES:
            hint = f"{MAX_PLACES} at the most: give the routes to several containers"
            self.reject(name, "limit", "host", f"more than {MAX_PLACES} hosts in the routes of one container", hint)
        else:
            self.taken.update(dict.fromkeys(((host, route.path) for host in route.hosts), route.name))
            return True
        return False

    def route(self, name: str, service: str, found: Mapping[str, Any]) -> RouteSpec | None:
        hosts = self._hosts(name, service, found)
        port = self._port(name, found)
        health = self._health(name, hosts, port, found)
        if found.get("strip-path") and found.get("scheme") in ("grpc", "grpcs"):
            hint = "leave it out: gRPC's methods are its paths"
            self.reject(name, "bad-value", "strip-path", "is not possible with gRPC", hint)
            return None
        if not hosts or not port or not health:
            return None
        return RouteSpec(
            name=name or DEFAULT_ROUTE,
            hosts=hosts,
            path=found.get("path", "/"),
            strip_path=found.get("strip-path", False),
            port=port,
            scheme=cast("Scheme", found.get("scheme", "http")),
            network=found.get("network", self.defaults.network),
            weight=found.get("weight", 1),
            health=health,
        )

    def _hosts(self, name: str, service: str, found: Mapping[str, Any]) -> tuple[str, ...]:
        hosts: tuple[str, ...] = found.get("host", ())
        if not hosts and self.defaults.default_host:
            try:
                hosts = (values.host(self.defaults.default_host.replace("{service}", service)),)
            except BadValue as bad:
                self.reject(
                    name,
                    "no-host",
                    "host",
                    bad.problem,
                    f"set {self.defaults.prefix}.host: no name can be made of service {service}",
                )
                return ()
        if not hosts:
            hint = f"set {self.defaults.prefix}.{f'routes.{name}.' if name else ''}host=NAME"
            self.reject(name, "no-host", "host", "no host name", hint)
        if any(f".{host}".endswith(f".{OWN_DOMAIN}") for host in hosts):
            self.reject(name, "bad-value", "host", f"names under {OWN_DOMAIN} are proxyctl's own", "choose another name")
            return ()
        return hosts

    def _port(self, name: str, found: Mapping[str, Any]) -> int:
        exposed = self.container.exposed
        if "port" in found:
            return cast("int", found["port"])
        if len(exposed) == 1:
            return exposed[0]
        if 80 in exposed:
            return 80
        what = f"the image exposes {', '.join(map(str, exposed))}" if exposed else "the image exposes no port"
        self.reject(name, "no-port", "port", what, f"set {self.defaults.prefix}.port to the port inside the container")
        return 0

    def _health(self, name: str, hosts: tuple[str, ...], port: int, found: Mapping[str, Any]) -> HealthCheck | None:
        implied = "http" if "health.path" in found else "docker" if self.container.has_healthcheck else "tcp"
        kind = found.get("health.type", implied)
        if kind == "docker" and not self.container.has_healthcheck:
            hint = "write http or tcp, or give the image a HEALTHCHECK"
            self.reject(name, "bad-value", "health.type", "the image has no HEALTHCHECK", hint)
            return None
        first = hosts[0].removeprefix("*.") if hosts else ""
        return HealthCheck(
            type=cast("HealthType", kind),
            path=found.get("health.path", "/"),
            port=found.get("health.port", port),
            host=found.get("health.host", first),
            interval=found.get("health.interval", self.defaults.interval),
            timeout=found.get("health.timeout", self.defaults.timeout),
            rise=found.get("health.rise", self.defaults.rise),
            fall=found.get("health.fall", self.defaults.fall),
            status=found.get("health.status", ((200, 399),)),
        )
