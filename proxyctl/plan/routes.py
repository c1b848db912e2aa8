"""One container's route and its address -> a claim and a probe; the claims of one path and health -> the location: which of the
targets carry traffic.

Who owns a (host, path) is settled in ownership.py; planner.py puts it all together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

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

WARM_UP = 3.0
"""Seconds that a new place is left out (404) while its first target warms up, so that a start is one reload; then it is 503."""


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
    claims: tuple[ClaimRule, ...] = ()
    own_ports: frozenset[int] = frozenset()
    """Ports of the host that are proxyctl's: nginx's published ones and the API's. Never targets."""


def is_young(inputs: Inputs, claim: Claim) -> bool:
    """Whether it may be served in a moment."""
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
        join=inputs.join,
        own_ports=inputs.own_ports,
        nginx_label=f"{inputs.defaults.prefix}.nginx",
    )
    if isinstance(reached, Reached) and reached.network in inputs.unjoinable:
        networks.add(reached.network)  # to be tried again
        why = f"nginx cannot join {reached.network}: {inputs.unjoinable[reached.network]}"
        reached = Unreachable(why, f"set {inputs.defaults.prefix}.network to a network that nginx can join")
    match reached:
        case Unreachable(message, hint):
            prefix = inputs.defaults.prefix
            rejections.append(ownership.rejection(prefix, spec, route, "unreachable", "network", message, hint))
            return Claim(spec, route, container, None)
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


def location_of(
    standing: Mapping[ProbeKey, ProbeResult], stopping: frozenset[str], path: str, group: Iterable[Claim]
) -> Location:
    claims = sorted(group, key=lambda c: c.age)
    judged = [_judge(standing, stopping, claim) for claim in claims]
    healthy = [t for t in judged if t.state == "healthy"]
    alive = [t for t in judged if t.state == "unhealthy"] or [t for t in judged if t.state == "stopping"]
    chosen = {t.target for t in healthy or alive}
    targets = tuple(replace(t, serving=True) if t.target in chosen else t for t in judged)
    route = claims[0].route if claims else None
    return Location(
        path=path,
        strip_path=route.strip_path if route else False,
        scheme=route.scheme if route else "http",
        service=claims[0].spec.service if claims else "",
        route=route.name if route else "",
        targets=targets,
        fail_open=bool(chosen) and not healthy,
    )


def _judge(standing: Mapping[ProbeKey, ProbeResult], stopping: frozenset[str], claim: Claim) -> RoutedTarget:
    container, target = claim.container, claim.target
    state: TargetState
    reason = ""
    result = standing.get((target, claim.route.name)) if target else None
    if target is None or (target == PENDING and not result):
        state, reason = "down", container.state
    elif container.id in stopping:
        state, reason = "stopping", "it was sent its stop signal"
    elif container.state == "paused":
        state, reason = "unhealthy", "paused"
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
    )
