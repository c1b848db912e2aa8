"""Specs, addresses and health -> the route table: who is served where, and which of its targets carry traffic.

The same input always gives the same table; who owns a (host, path) is settled in ownership.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from proxyctl.model import (
    Container,
    Location,
    NginxView,
    Owner,
    Plan,
    Probe,
    ProbeKey,
    ProbeResult,
    Rejection,
    RoutedTarget,
    RouteSpec,
    RouteTable,
    ServiceSpec,
    Snapshot,
    Target,
    TargetState,
    VirtualHost,
)
from proxyctl.plan import labels, ownership
from proxyctl.plan.ownership import PRESENT, Claim, ClaimRule
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


def plan(inputs: Inputs) -> Plan:
    """The whole decision of one cycle."""
    rejections: list[Rejection] = []
    networks: set[str] = set()
    probes: dict[ProbeKey, Probe] = {}
    claims: dict[tuple[str, str], list[Claim]] = defaultdict(list)
    for container in sorted(inputs.snapshot.containers.values(), key=lambda c: (c.created_unix, c.id)):
        parsed = labels.parse(container, inputs.defaults)
        if container.state in PRESENT:
            rejections.extend(parsed.rejections)
        spec = parsed.spec
        if spec is None:
            continue
        for route in spec.routes:
            claim = _claim(inputs, container, spec, route, rejections, networks)
            for host in route.hosts:
                claims[host, route.path].append(claim)
            if claim.target and claim.target != PENDING:
                probe = _probe(claim, claim.target)
                probes[probe.key] = probe
    court = ownership.Court(inputs.owners, inputs.claims, inputs.defaults.prefix, inputs.now_unix)
    owners, owned = court.settle(claims)
    rejections += court.rejections
    held = {key for key, group in owned.items() if _is_warming_up(inputs, key, group)}
    table = _table(inputs, {key: group for key, group in owned.items() if key not in held})
    coming = bool(held) or any(claim.target == PENDING for group in owned.values() for claim in group)
    return Plan(
        table=table,
        ahead=_table(replace(inputs, standing=_Hopeful()), owned) if coming else table,
        rejections=tuple(rejections),
        probes=tuple(probes.values()),
        networks=frozenset(networks),
        owners=owners,
        holds_back=any(claim.target != PENDING and _is_young(inputs, claim) for key in held for claim in owned[key]),
    )


def _is_warming_up(inputs: Inputs, key: tuple[str, str], group: list[Claim]) -> bool:
    """A place that nobody could reach so far, and that may be served in a moment."""
    if "".join(key) in inputs.published:
        return False
    location = _location(inputs, key[1], group)
    return not location.serving and any(_is_young(inputs, claim) for claim in group)


def _is_young(inputs: Inputs, claim: Claim) -> bool:
    if claim.container.state == "created":
        return True
    result = inputs.standing.get((claim.target, claim.route.name)) if claim.target else None
    return claim.target is not None and (
        result is None or (result.state == "warming" and inputs.now_unix - result.since_unix < WARM_UP)
    )


class _Hopeful(dict[ProbeKey, ProbeResult]):
    """Takes every target for healthy: what the table looks like when all that is coming has come."""

    def get(self, key: ProbeKey, default: object = None) -> ProbeResult:  # noqa: ARG002
        return ProbeResult("healthy", "", 0.0)


def _claim(
    inputs: Inputs,
    container: Container,
    spec: ServiceSpec,
    route: RouteSpec,
    rejections: list[Rejection],
    networks: set[str],
) -> Claim:
    if container.state not in ALIVE and container.state != "created":
        return Claim(spec, route, container, None)
    reached = reach(container, route, inputs.nginx, inputs.snapshot.containers, join=inputs.join, own_ports=inputs.own_ports)
    if isinstance(reached, Reached) and reached.network in inputs.unjoinable:
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


def _probe(claim: Claim, target: Target) -> Probe:
    """A target behind a published port is checked through that port."""
    route = claim.route
    check = replace(route.health, port=target.port) if route.health.port == route.port else route.health
    return Probe(target, route.name, check, claim.container.health, route.scheme)


def _table(inputs: Inputs, owned: Mapping[tuple[str, str], list[Claim]]) -> RouteTable:
    hosts: dict[str, list[Location]] = defaultdict(list)
    for (host, path), group in sorted(owned.items()):
        hosts[host].append(_location(inputs, path, group))
    return RouteTable(tuple(VirtualHost(host, tuple(locations)) for host, locations in hosts.items()))


def _location(inputs: Inputs, path: str, group: Iterable[Claim]) -> Location:
    claims = sorted(group, key=lambda c: c.age)
    judged = [_judge(inputs, claim) for claim in claims]
    healthy = [t for t in judged if t.state == "healthy"]
    alive = [t for t in judged if t.state == "unhealthy"] or [t for t in judged if t.state == "stopping"]
    chosen = {t.target for t in healthy or alive}
    targets = tuple(replace(t, serving=t.target in chosen) for t in judged)
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


def _judge(inputs: Inputs, claim: Claim) -> RoutedTarget:
    container, target = claim.container, claim.target
    state: TargetState
    reason = ""
    result = inputs.standing.get((target, claim.route.name)) if target else None
    if target is None or (target == PENDING and not result):
        state, reason = "down", container.state
    elif container.id in inputs.snapshot.stopping:
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
