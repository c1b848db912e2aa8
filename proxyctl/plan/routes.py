"""One container's route and its address -> a claim and a probe; the claims of one path and health -> the location: which of the
targets carry traffic.

Who owns a (host, path) is settled in ownership.py; planner.py puts it all together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from proxyctl.model import (
    Container,
    Location,
    NginxView,
    Owner,
    Probe,
    ProbeKey,
    ProbeResult,
    Rejection,
    RoutedTarget,
    RouteSpec,
    ServiceSpec,
    Snapshot,
    Target,
    TargetState,
    VirtualHost,
)
from proxyctl.plan import labels, ownership
from proxyctl.plan.ownership import Claim, ClaimRule
from proxyctl.plan.targets import ALIVE, PENDING, Reached, Unreachable, reach
from proxyctl.versions import ANSWERS, ReplicaState, Shares

WARM_UP = 3.0
"""Seconds that a new place is left out (404) while its first target warms up, so that a start is one reload; then it is 503."""

MIXED = 2
"""Versions that share the traffic."""
WORST_FIRST: tuple[Literal["stopping", "down", "unhealthy", "warming"], ...] = ("stopping", "down", "unhealthy", "warming")


@dataclass(frozen=True, slots=True)
class Inputs:
    snapshot: Snapshot
    standing: Mapping[ProbeKey, ProbeResult]
    owners: Mapping[str, Owner]
    nginx: NginxView
    defaults: labels.Defaults
    join: bool
    unjoinable: Mapping[str, str]
    """Networks that the engine does not let nginx into, and its reason."""
    published: frozenset[str]
    """Hosts with paths that are live: `a.example/git`."""
    now_unix: float
    claims: tuple[ClaimRule, ...]
    own_ports: frozenset[int]
    """Ports of the host that are proxyctl's: nginx's published ones and the API's. Never targets."""
    shares: Mapping[str, Shares]
    """Service -> its versions that carry traffic. Of a service that is not in it, all containers do."""
    maintenance: frozenset[str]
    """Services that are answered with 503 by their operator's wish."""


def is_young(inputs: Inputs, claim: Claim) -> bool:
    """Whether it may be served in a moment, or, when it has not been started yet, at some time."""
    if claim.target == PENDING or claim.container.state == "created":
        return claim.container.state == "created"
    result = inputs.standing.get((claim.target, claim.route.name)) if claim.target else None
    return claim.target is not None and (
        result is None or (result.state == "warming" and inputs.now_unix - result.since_unix < WARM_UP)
    )


class _Hopeful(dict[ProbeKey, ProbeResult]):
    """Takes every target for healthy: what the table looks like when all that is coming has come."""

    def get(self, key: ProbeKey, default: object = None) -> ProbeResult:  # noqa: ARG002
        return ProbeResult("healthy", "", 0.0)


HOPEFUL = _Hopeful()


def claim_of(
    inputs: Inputs,
    container: Container,
    spec: ServiceSpec,
    route: RouteSpec,
    rejections: list[Rejection],
    networks: set[str],
) -> Claim:
    if container.state not in ALIVE and container.state != "created":
        return Claim(spec, route, container, None)
    reached = reach(
        container,
        route,
        inputs.nginx,
        inputs.snapshot.containers,
        unjoinable=inputs.unjoinable if inputs.join else None,
        own_ports=inputs.own_ports,
        nginx_label=f"{inputs.defaults.prefix}.nginx",
    )
    if isinstance(reached, Unreachable) or not reached.network:  # what was refused is tried again
        networks.update(e.network for e in container.endpoints if e.network in inputs.unjoinable)
    match reached:
        case Unreachable(message, hint):
            prefix = inputs.defaults.prefix
            rejections.append(ownership.rejection(prefix, spec, route, "unreachable", "network", message, hint))
            return Claim(spec, route, container, None, message)
        case Reached(target, network):
            if network:
                networks.add(network)
            return Claim(spec, route, container, target)


def probe_of(claim: Claim, target: Target) -> Probe:
    """A target behind a published port is checked through that port."""
    route = claim.route
    check = replace(route.health, port=target.port) if route.health.port == route.port != target.port else route.health
    return Probe(target, route.name, check, claim.container.health, route.scheme)


def vhost_of(host: str, locations: list[Location]) -> VirtualHost | None:
    return VirtualHost(host, tuple(locations)) if locations else None


def wishes(inputs: Inputs, owned: Mapping[str, list[Claim]]) -> tuple[dict[str, Shares | None], set[str]]:
    """By path, which versions carry its traffic; and the paths that are in maintenance."""
    if not inputs.shares and not inputs.maintenance:
        return {}, set()
    services = {path: group[0].spec.service for path, group in owned.items() if group}
    shares = {path: inputs.shares.get(service) for path, service in services.items()}
    return shares, {path for path, service in services.items() if service in inputs.maintenance}


def location_of(
    standing: Mapping[ProbeKey, ProbeResult],
    snapshot: Snapshot,
    path: str,
    group: Iterable[Claim],
    shares: Shares | None = None,
    *,
    maintenance: bool = False,
) -> Location:
    """`shares`: the versions that carry traffic; without it, all do. Where nothing of them lives, another one stands in."""
    claims = sorted(group, key=lambda c: c.age)
    judged = [_judge(standing, snapshot, claim) for claim in claims]
    shares = _with_stand_in(judged, shares)
    carrying = [(c, t) for c, t in zip(claims, judged, strict=True) if shares is None or (c.spec.version or "") in shares]
    first = next((c for c, _ in carrying if c.present), carrying[0][0] if carrying else claims[0] if claims else None)
    route = first.route if first else None
    able = [t for c, t in carrying if route and _how(c.route) == _how(route)]
    healthy = [t for t in able if t.state == "healthy"]
    alive = [t for t in able if t.state == "unhealthy"] or [t for t in able if t.state == "stopping"]
    weights = _weights(() if maintenance else healthy or alive, shares)
    targets = tuple([_carrying(t, weights[t.target]) if t.target in weights else t for t in judged])
    return Location(
        path=path,
        strip_path=route.strip_path if route else False,
        scheme=route.scheme if route else "http",
        service=claims[0].spec.service if claims else "",
        route=route.name if route else "",
        targets=targets,
        fail_open=bool(weights) and not healthy,
        maintenance=maintenance,
    )


def _carrying(t: RoutedTarget, weight: int) -> RoutedTarget:
    return RoutedTarget(t.target, t.container, t.service, weight, t.state, t.reason, serving=True, version=t.version)


def _with_stand_in(judged: Iterable[RoutedTarget], shares: Shares | None) -> Shares | None:
    """The versions that answer at one place: those with a share, or else the newest that is as well as can be had there."""
    alive = [target for target in judged if target.state in ANSWERS]
    best = [target for target in alive if target.state == "healthy"] or alive
    if shares is None or not best or any((target.version or "") in shares for target in best):
        return shares
    return {best[-1].version or "": 100}


def has_stand_in(location: Location, shares: Shares | None) -> bool:
    """Whether a version answers there that has no share."""
    return shares is not None and any((target.version or "") not in shares for target in location.serving)


def _how(route: RouteSpec) -> tuple[object, ...]:
    """What all targets of one upstream have in common."""
    return (route.scheme, route.strip_path)


def _weights(chosen: Iterable[RoutedTarget], shares: Shares | None) -> dict[Target, int]:
    """For nginx, which compares them within one upstream: as labelled, and between versions as their shares are."""
    weights = {t.target: t.weight for t in chosen}
    versions = {t.target: t.version or "" for t in chosen}
    if shares is None or len(set(versions.values())) < MIXED:
        return weights
    whole = {version: sum(weights[t] for t in weights if versions[t] == version) for version in set(versions.values())}
    fine = {t: max(1, round(1000 * shares[versions[t]] * weight / whole[versions[t]])) for t, weight in weights.items()}
    common = math.gcd(*fine.values())
    return {t: weight // common for t, weight in fine.items()}


def newest(group: Iterable[Claim]) -> Shares | None:
    """All traffic to the version that was created last; None where nobody has one."""
    claims = sorted(group, key=lambda c: c.age)
    return {claims[-1].spec.version or "": 100} if any(c.spec.version is not None for c in claims) else None


def replica_state(inputs: Inputs, container: Container, claims: Iterable[Claim]) -> tuple[ReplicaState, str]:
    """The worst of a container's targets."""
    if container.state == "created":
        return "coming", "not started yet"
    if container.state not in ALIVE:
        return "dead", ""
    judged = [_judge(inputs.standing, inputs.snapshot, claim) for claim in claims]
    for state in WORST_FIRST:
        for target in judged:
            if target.state == state:
                return ("unhealthy", f"nginx cannot reach it: {target.reason}") if state == "down" else (state, target.reason)
    return "healthy", ""


def _judge(standing: Mapping[ProbeKey, ProbeResult], snapshot: Snapshot, claim: Claim) -> RoutedTarget:
    container, target = claim.container, claim.target
    state: TargetState
    reason = ""
    result = standing.get((target, claim.route.name)) if target else None
    if target is None or (target == PENDING and not result):
        state, reason = "down", claim.unreachable or container.state
    elif container.id in snapshot.stopping:
        state, reason = "stopping", "it was sent its stop signal"
    elif container.state == "paused":
        state, reason = "unhealthy", "paused"
    elif container.id in snapshot.flapping:
        state, reason = "warming", snapshot.flapping[container.id]
    elif result is None:
        state, reason = "warming", "not checked yet"
    else:
        state, reason = result.state, result.reason
    return RoutedTarget(
        target or Target(container.id, "", "", claim.route.port),
        container.name,
        claim.spec.service,
        claim.route.weight,
        state,
        reason,
        serving=False,
        version=claim.spec.version,
    )
