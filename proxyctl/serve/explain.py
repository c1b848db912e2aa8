"""A URL and a Standing -> which container answers it, and why others do not.

Picks as nginx does: the exact name before a wildcard, the longest wildcard first, then the longest path prefix that ends at a
slash (docs: nginx.org/en/docs/http/server_names.html). No other host is tried once a name has matched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal
from urllib.parse import unquote, urlsplit

from proxyctl import values
from proxyctl.model import Container, Rejection
from proxyctl.serve.standing import Standing
from proxyctl.serve.views import SCHEMA, Route, Target, routes

FOREIGN = re.compile(r"traefik\.(http|tcp)\.routers\.|caddy(_[0-9]+)?$|VIRTUAL_HOST$|virtual[._-]host$", re.IGNORECASE)
"""Labels of Traefik, caddy-docker-proxy and nginx-proxy that have host names."""
NEAREST = 3
MOST_TOLD = 3
"""Targets in the summary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    schema: int = SCHEMA
    url: str
    host: str
    path: str
    answer: Literal["served", "unavailable", "unknown-path", "unknown-host"]
    """served: by a target; unavailable: nginx answers 503; unknown-host: what nginx.unknown_host says;
    unknown-path: 404."""
    summary: str
    route: Route | None
    rejections: tuple[Rejection, ...]
    """Of containers whose labels ask for this host."""
    nearest: tuple[str, ...] = ()
    """Known hosts that are written like this one."""
    paths: tuple[str, ...] = ()
    """Paths that the host has."""


def split(url: str) -> tuple[str, str]:
    """`a.example/git`, `https://a.example:8443/git?x` -> (host, path). Raises BadValue."""
    try:
        parts = urlsplit(url.strip() if "://" in url else f"//{url.strip()}")
    except ValueError as error:
        raise values.BadValue(f"{values.shown(url)} is not a URL", "write a host name and a path, like a.example/git") from error
    return values.host(parts.hostname or ""), unquote(parts.path) or "/"


def explain(standing: Standing, url: str) -> Explanation:
    """Raises BadValue when `url` has no host name."""
    host, path = split(url)
    known = routes(standing)
    own = _of_host(known, host)
    route = _of_path(own, path)
    asking = _asking(standing, host)
    nearest = () if own else tuple(get_close_matches(host, {r.host for r in known}, n=NEAREST, cutoff=0.5))
    answer, summary = _answer(standing, host, path, own, route)
    return Explanation(
        url=url,
        host=host,
        path=path,
        answer=answer,
        summary=summary,
        route=route,
        rejections=asking,
        nearest=nearest,
        paths=tuple(r.path for r in own),
    )


def _of_host(known: Iterable[Route], host: str) -> tuple[Route, ...]:
    matching = [route for route in known if matches(route.host, host)]
    best = max((route.host for route in matching), key=lambda name: (name == host, len(name)), default="")
    return tuple(route for route in matching if route.host == best)


def matches(name: str, host: str) -> bool:
    """Whether the server name `name` answers for `host`, as nginx sees it; `*.` stands for one label or more."""
    return name == host or (name.startswith("*.") and host.endswith(name[1:]))


def _of_path(own: Iterable[Route], path: str) -> Route | None:
    fitting = [r for r in own if r.path == "/" or path == r.path or path.startswith(f"{r.path}/")]
    return max(fitting, key=lambda r: len(r.path), default=None)


def _answer(
    standing: Standing, host: str, path: str, own: tuple[Route, ...], route: Route | None
) -> tuple[Literal["served", "unavailable", "unknown-path", "unknown-host"], str]:
    late = "" if standing.in_sync else f" (nginx does not run the latest configuration: {standing.trouble})"
    if not own:
        answer = "nginx answers as nginx.unknown_host says, 404 by default"
        return "unknown-host", f"no service has the host {host}: {answer}{late}{_elsewhere(standing, host)}"
    if route is None:
        return "unknown-path", f"{host} has no {path}: nginx answers 404{late}"
    serving = [t for t in route.targets if t.serving]
    if route.state == "maintenance":
        order = _ordered(standing, route.service)
        return "unavailable", f"{route.place} ({route.service}) is in maintenance{order}: nginx answers 503{late}"
    if not serving:
        return "unavailable", f"no target of {route.place} ({route.service}) serves: nginx answers 503{late}{_why(route)}"
    names = ", ".join(t.container for t in serving)
    open_ = ", though none of them is healthy: nothing is" if route.state == "fail-open" else ""
    return "served", f"{route.place} belongs to {route.service} and goes to {names}{open_}{late}"


def _elsewhere(standing: Standing, host: str) -> str:
    """A container whose labels ask another proxy for the host."""
    word = re.compile(rf"(?<![A-Za-z0-9.-]){re.escape(host)}(?![A-Za-z0-9.-])", re.IGNORECASE)
    for container in sorted(standing.containers.values(), key=lambda c: c.name):
        for key, text in container.labels.items():
            if FOREIGN.match(key) and word.search(text):
                hint = f"set {standing.place.label_prefix}.host={host}"
                return f"; {container.name} has it in {key}, which proxyctl does not read: {hint}"
    return ""


def _ordered(standing: Standing, service: str) -> str:
    """Who put the service into maintenance, and why."""
    order = next((told.rollout.maintained for told in standing.rollouts if told.service == service), None)
    return order.signature if order else ""


def reason_of(target: Target) -> str:
    """Why it is in its state: how it ended, when it does not run."""
    return (target.exited if target.state == "down" else "") or target.reason


def _why(route: Route) -> str:
    """What is wrong with its targets, those that are there first."""
    present = sorted(route.targets, key=lambda t: t.state == "down")
    told = [f"{t.container} is {t.state} ({reason_of(t)})" if reason_of(t) else f"{t.container} is {t.state}" for t in present]
    if not told:
        return "; its containers were removed"
    return f"; {', '.join(told[:MOST_TOLD])}{f' and {len(told) - MOST_TOLD} more' if len(told) > MOST_TOLD else ''}"


def _asking(standing: Standing, host: str) -> tuple[Rejection, ...]:
    asking = {c.id for c in standing.containers.values() if _asks(c, host, standing.place.label_prefix)}
    return tuple(r for r in standing.rejections if r.container_id in asking)


def _asks(container: Container, host: str, prefix: str) -> bool:
    """By the text of its labels: a rejected container has nothing else."""
    return any(
        matches(part.lower().rstrip("."), host)
        for key, text in container.labels.items()
        if key.startswith(f"{prefix}.") and key.endswith("host") and not key.endswith("health.host")
        for part in values.comma_list(text)
    )
