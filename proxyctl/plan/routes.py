"""Specs, addresses and health -> the route table: who is served where, and which of its targets carry traffic.

Ownership is per (host, path): the service that has it keeps it, a challenger gets a Rejection; among newcomers the container
that was created first wins, by id when they are equal. The same input always gives the same table.
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
    RejectionReason,
    RoutedTarget,
    RouteSpec,
    RouteTable,
    ServiceSpec,
    Snapshot,
    Target,
    TargetState,
    VirtualHost,
)
from proxyctl.plan import labels
from proxyctl.plan.targets import ALIVE, PENDING, Reached, Unreachable, reach

EXITED_GRACE = 10.0
"""Seconds that an exited container keeps its hosts against a challenger: a restart must not lose them."""
GONE_GRACE = 300.0
"""Seconds that a host whose containers were removed is answered with 503 before it is unknown (404)."""
WARM_UP = 3.0
"""Seconds that a new place is left out (404) while its first target warms up, so that a start is one reload; then it is 503."""
PRESENT = frozenset({"created", "running", "paused", "restarting"})


@dataclass(frozen=True, slots=True)
class _Claim:
    """One container's wish to serve one (host, path)."""

    spec: ServiceSpec
    route: RouteSpec
    container: Container
    target: Target | None
    """None: not running, or not reachable."""

    @property
    def age(self) -> tuple[float, str]:
        return (self.spec.created_unix, self.spec.container_id)


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


def plan(inputs: Inputs) -> Plan:
    """The whole decision of one cycle."""
    rejections: list[Rejection] = []
    networks: set[str] = set()
    probes: dict[ProbeKey, Probe] = {}
    claims: dict[tuple[str, str], list[_Claim]] = defaultdict(list)
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
    owners, owned = _settle(inputs, claims, rejections)
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


def _is_warming_up(inputs: Inputs, key: tuple[str, str], group: list[_Claim]) -> bool:
    """A place that nobody could reach so far, and that may be served in a moment."""
    if "".join(key) in inputs.published:
        return False
    location = _location(inputs, key[1], group)
    return not location.serving and any(_is_young(inputs, claim) for claim in group)


def _is_young(inputs: Inputs, claim: _Claim) -> bool:
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
) -> _Claim:
    if container.state not in ALIVE and container.state != "created":
        return _Claim(spec, route, container, None)
    reached = reach(container, route, inputs.nginx, inputs.snapshot.containers, join=inputs.join)
    if isinstance(reached, Reached) and reached.network in inputs.unjoinable:
        why = f"nginx cannot join {reached.network}: {inputs.unjoinable[reached.network]}"
        reached = Unreachable(why, f"set {inputs.defaults.prefix}.network to a network that nginx can join")
    match reached:
        case Unreachable(message, hint):
            rejections.append(_rejection(inputs, spec, route, "unreachable", "network", message, hint))
            return _Claim(spec, route, container, None)
        case Reached(target, network):
            if network:
                networks.add(network)
            return _Claim(spec, route, container, target)


def _probe(claim: _Claim, target: Target) -> Probe:
    """A target behind a published port is checked through that port."""
    route = claim.route
    check = replace(route.health, port=target.port) if route.health.port == route.port else route.health
    return Probe(target, route.name, check, claim.container.health, route.scheme)


def _rejection(
    inputs: Inputs, spec: ServiceSpec, route: RouteSpec, reason: RejectionReason, key: str, message: str, hint: str
) -> Rejection:
    label = f"{inputs.defaults.prefix}.{'' if route.name == labels.DEFAULT_ROUTE else f'routes.{route.name}.'}{key}"
    return Rejection(spec.container_id, spec.container, route.name, reason, label, message, hint)


def _settle(
    inputs: Inputs, claims: Mapping[tuple[str, str], list[_Claim]], rejections: list[Rejection]
) -> tuple[dict[str, Owner], dict[tuple[str, str], list[_Claim]]]:
    """Gives every (host, path) to one service; held ones without a claim keep an empty list for a while."""
    owners: dict[str, Owner] = {}
    owned: dict[tuple[str, str], list[_Claim]] = {}
    told: set[tuple[str, str]] = set()
    for key, group in claims.items():
        written = "".join(key)
        owner = _owner(group, inputs.owners.get(written), inputs.now_unix)
        owners[written] = owner
        owned[key] = _agreeing(inputs, key, [c for c in group if c.spec.service == owner.service], rejections)
        for claim in group:
            challenger = (claim.spec.container_id, claim.route.name)
            if claim.spec.service != owner.service and claim.container.state in PRESENT and challenger not in told:
                told.add(challenger)
                message = f"{written} belongs to the service {owner.service}"
                hint = f"choose another host or path, or remove the containers of {owner.service}"
                rejections.append(_rejection(inputs, claim.spec, claim.route, "host-taken", "host", message, hint))
    for written, owner in inputs.owners.items():
        lost = owner.lost_unix or inputs.now_unix
        if written not in owners and inputs.now_unix - lost < GONE_GRACE:
            host, slash, path = written.partition("/")
            owners[written] = Owner(owner.service, lost)
            owned[host, slash + path] = []
    return owners, owned


def _owner(group: list[_Claim], incumbent: Owner | None, now: float) -> Owner:
    present = [c for c in group if c.container.state in PRESENT]
    if incumbent and any(c.spec.service == incumbent.service for c in present):
        return Owner(incumbent.service)
    if incumbent and any(c.spec.service == incumbent.service for c in group):
        lost = incumbent.lost_unix or now
        if not present or now - lost < EXITED_GRACE:
            return Owner(incumbent.service, lost)
    first = min(present or group, key=lambda c: c.age)
    return Owner(first.spec.service, 0.0 if present else now)


def _agreeing(inputs: Inputs, key: tuple[str, str], group: list[_Claim], rejections: list[Rejection]) -> list[_Claim]:
    """The claims that can share one upstream: the oldest living one says how it is spoken to."""
    living = [c for c in group if c.container.state in PRESENT]
    first = min(living or group, key=lambda c: c.age)
    how = (first.route.scheme, first.route.strip_path)
    for claim in living:
        if (claim.route.scheme, claim.route.strip_path) != how:
            message = f"{first.spec.container} serves {''.join(key)} with scheme={how[0]}, strip-path={str(how[1]).lower()}"
            hint = f"give all containers of the service {claim.spec.service} the same labels"
            rejections.append(_rejection(inputs, claim.spec, claim.route, "conflict", "scheme", message, hint))
    return [c for c in group if (c.route.scheme, c.route.strip_path) == how]


def _table(inputs: Inputs, owned: Mapping[tuple[str, str], list[_Claim]]) -> RouteTable:
    hosts: dict[str, list[Location]] = defaultdict(list)
    for (host, path), group in sorted(owned.items()):
        hosts[host].append(_location(inputs, path, group))
    return RouteTable(tuple(VirtualHost(host, tuple(locations)) for host, locations in hosts.items()))


def _location(inputs: Inputs, path: str, group: Iterable[_Claim]) -> Location:
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


def _judge(inputs: Inputs, claim: _Claim) -> RoutedTarget:
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
