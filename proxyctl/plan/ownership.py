"""Who may serve a (host, path): claims of containers -> one owner each, and a Rejection for everybody else.

The service that has a place keeps it; among newcomers the container that was created first wins, by id when they are equal. A
host belongs to one compose project; another one gets a part of it only by a rule of the operator (`[[claims]]`). A container
of another project joins a service only when that service's own containers name it with a label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from proxyctl.model import Container, Owner, Rejection, RejectionReason, RouteSpec, ServiceSpec, Target
from proxyctl.plan import labels
from proxyctl.versions import Illegal

EXITED_GRACE = 10.0
"""Seconds that an exited container keeps its hosts against a challenger: a restart must not lose them."""
GONE_GRACE = 300.0
"""Seconds that a host whose containers were removed is answered with 503 before it is unknown (404)."""
MOST_SHOWN = 10
"""Hosts that a message lists."""
PRESENT = frozenset({"created", "running", "paused", "restarting"})

Place = tuple[str, str]
"""(host, path)."""


@dataclass(frozen=True, slots=True)
class ClaimRule:
    """The operator's word on who may own what. An empty `paths`, `projects` or `images` means any; patterns are shell-like."""

    hosts: tuple[str, ...]
    paths: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()
    images: tuple[str, ...] = ()

    def covers(self, host: str, path: str) -> bool:
        under = any(path == p or path.startswith(p.rstrip("/") + "/") for p in self.paths)
        return _matches(host, self.hosts) and (under or not self.paths)

    def admits(self, container: Container) -> bool:
        project = project_of(container)
        return (not self.projects or _matches(project, self.projects)) and (
            not self.images or _matches(container.image, self.images)
        )


@dataclass(frozen=True, slots=True)
class Claim:
    """One container's wish to serve one (host, path)."""

    spec: ServiceSpec
    route: RouteSpec
    container: Container
    target: Target | None
    """None: not running, or not reachable."""
    unreachable: str = ""
    """Why nginx cannot reach it, though it runs or will."""
    project: str = field(init=False, compare=False, repr=False)
    present: bool = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """What each decision about a place asks several times."""
        object.__setattr__(self, "project", project_of(self.container))
        object.__setattr__(self, "present", self.container.state in PRESENT)

    @property
    def age(self) -> tuple[float, str]:
        return (self.spec.created_unix, self.spec.container_id)


def project_of(container: Container) -> str:
    """Its compose project; empty for containers that were started by hand, which count as one project."""
    return container.labels.get("com.docker.compose.project", "")


def rejection(
    prefix: str, spec: ServiceSpec, route: RouteSpec, reason: RejectionReason, key: str, message: str, hint: str
) -> Rejection:
    """One for a route as a whole; `key` is the label to look at."""
    label = f"{prefix}.{'' if route.name == labels.DEFAULT_ROUTE else f'routes.{route.name}.'}{key}"
    return Rejection(spec.container_id, spec.container, route.name, reason, label, message, hint)


def grace_end(owner: Owner, now_unix: float) -> float:
    """When the next grace of an owner without a container ends (unix)."""
    exited = owner.lost_unix + EXITED_GRACE
    return exited if now_unix < exited else owner.lost_unix + GONE_GRACE


def shown(place: Place) -> str:
    """As people write it: `a.example`, `a.example/git`."""
    host, path = place
    return host if path == "/" else host + path


def _matches(text: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


def seniority(claim: Claim) -> tuple[bool, float, str]:
    """Who is there before who is not, then by age."""
    return (not claim.present, *claim.age)


def is_of(claim: Claim, owner: Owner) -> bool:
    """Whether a host of this owner is the claim's too."""
    return claim.project == owner.project or claim.spec.service == owner.service


def without(host: str, owners: Mapping[str, Owner], holders: Sequence[str]) -> tuple[dict[str, Owner], str]:
    """The owners but those of `host` and its places, and the service that had it. `holders`: names of its containers that are
    there. Raises Illegal."""
    if host not in owners:
        others = ", ".join(sorted(written for written in owners if "/" not in written)[:MOST_SHOWN]) or "none"
        raise Illegal(f"no service has the host {host}; hosts that are taken: {others}")
    if holders:
        raise Illegal(f"{host} is served by {holders[0]}, which would take it again at once: remove that container first")
    return {written: owner for written, owner in owners.items() if written.partition("/")[0] != host}, owners[host].service


class Court:
    """Hears the claims on one host. `founder` tells the senior claim of a service, on whatever host."""

    def __init__(self, rules: tuple[ClaimRule, ...], prefix: str, now_unix: float, founder: Callable[[str], Claim]) -> None:
        self._rules = rules
        self._prefix = prefix
        self._now = now_unix
        self._founder = founder
        self._told: set[tuple[str, str]] = set()
        self.rejections: list[Rejection] = []

    def settle(
        self, host: str, claims: Mapping[str, list[Claim]], before: Mapping[str, Owner], by_hand: str = ""
    ) -> tuple[dict[str, Owner], dict[str, list[Claim]]]:
        """Gives the host to one project and each of its paths to one service. Owners, those `before` too, are by host, and by
        host and path; paths that lost their last claim keep an empty list for a while. `by_hand`: the file of somebody else's
        that has the host, which makes it nobody's here."""
        if by_hand:
            self._dismiss(host, claims, by_hand)
            return {}, {}
        owners: dict[str, Owner] = {}
        owned: dict[str, list[Claim]] = {}
        everybody = [claim for group in claims.values() for claim in group]
        if everybody:
            owners[host] = self._owner_of_host(everybody, before.get(host))
        for path, group in claims.items():
            place = (host, path)
            admitted = [c for c in group if self._is_admitted(c, place, owners[host])]
            if not admitted:
                continue
            owner = self._next(admitted, before.get(host + path), lambda claim, one: claim.spec.service == one.service)
            owners[host + path] = owners[host] if owner == owners[host] else owner
            owned[path] = self._agreeing(place, [c for c in admitted if c.spec.service == owner.service])
            for claim in admitted:
                if claim.spec.service != owner.service:
                    hint = f"choose another host or path, or remove the containers of {owner.service}"
                    self._reject(claim, "host-taken", "host", f"{shown(place)} belongs to the service {owner.service}", hint)
        self._hold(host, owners, owned, before)
        return owners, owned

    def _dismiss(self, host: str, claims: Mapping[str, list[Claim]], by_hand: str) -> None:
        for claim in (claim for group in claims.values() for claim in group):
            hint = f"choose another host, or take the name out of {by_hand}"
            self._reject(claim, "host-taken", "host", f"{host} belongs to the hand-written vhost in {by_hand}", hint)

    def _owner_of_host(self, group: list[Claim], before: Owner | None) -> Owner:
        """Whoever had it keeps it against other projects for a grace, also when its containers were removed."""
        if before and not any(is_of(claim, before) for claim in group):
            lost = self._lost(before)
            if self._now - lost < GONE_GRACE:
                return Owner(before.service, before.project, lost)
        return self._next(group, before, is_of)

    def _lost(self, owner: Owner) -> float:
        """Since when it has no container; a clock that was set back does not count."""
        return min(owner.lost_unix or self._now, self._now)

    def _hold(self, host: str, owners: dict[str, Owner], owned: dict[str, list[Claim]], before: Mapping[str, Owner]) -> None:
        """Places whose containers were removed: nobody's, and still known. Their host is kept for its project with them."""
        for written, owner in before.items():
            lost = self._lost(owner)
            if written not in owners and self._now - lost < GONE_GRACE:
                owners[written] = Owner(owner.service, owner.project, lost)
                if written != host:
                    owned[written.removeprefix(host)] = []

    # ------------------------------------------------------------ who may ask

    def _is_admitted(self, claim: Claim, place: Place, host_owner: Owner) -> bool:
        founder = self._founder(claim.spec.service)
        rules = [rule for rule in self._rules if rule.covers(*place)]
        if rules and not any(rule.admits(claim.container) for rule in rules):
            self._reject(
                claim, "not-allowed", "host", f"{shown(place)} is kept for others by [[claims]]", "ask the operator for a rule"
            )
            return False
        if claim.project != founder.project and not founder.spec.named:
            message = f"the service {claim.spec.service} belongs to {founder.spec.container}, of another project"
            hint = f"choose another service name, or set {self._prefix}.service on the containers of that project too"
            self._reject(claim, "not-allowed", "service", message, hint)
            return False
        if not rules and not is_of(claim, host_owner):
            message = f"{place[0]} belongs to the service {host_owner.service}, of another project"
            hint = "choose another host, or ask the operator for a [[claims]] rule"
            self._reject(claim, "host-taken", "host", message, hint)
            return False
        return True

    def _reject(self, claim: Claim, reason: RejectionReason, key: str, message: str, hint: str) -> None:
        """Once for a route, and only while its container is there."""
        told = (claim.spec.container_id, claim.route.name)
        if claim.present and told not in self._told:
            self._told.add(told)
            self.rejections.append(rejection(self._prefix, claim.spec, claim.route, reason, key, message, hint))

    # ------------------------------------------------------------ who gets it

    def _next(self, group: list[Claim], before: Owner | None, is_of: Callable[[Claim, Owner], bool]) -> Owner:
        """The owner from now on: as before while that has a container, and for a grace when it has exited; else the senior."""
        ranked = sorted(group, key=seniority)
        own = [c for c in ranked if before and is_of(c, before)]
        if before and own:
            lost = self._lost(before)
            if own[0].present:
                return Owner(before.service, before.project)
            if not ranked[0].present or self._now - lost < EXITED_GRACE:
                return Owner(before.service, before.project, lost)
        return Owner(ranked[0].spec.service, ranked[0].project, 0.0 if ranked[0].present else self._now)

    def _agreeing(self, place: Place, group: list[Claim]) -> list[Claim]:
        """The claims that can share one upstream: of each version, the oldest living one says how it is spoken to."""
        versions = {c.spec.version: [] for c in group}  # type: dict[str | None, list[Claim]]
        for claim in group:
            versions[claim.spec.version].append(claim)
        return [claim for one in versions.values() for claim in self._alike(place, one)]

    def _alike(self, place: Place, group: list[Claim]) -> list[Claim]:
        living = [c for c in group if c.present]
        first = min(living or group, key=lambda c: c.age)
        how = (first.route.scheme, first.route.strip_path)
        for claim in living:
            if (claim.route.scheme, claim.route.strip_path) != how:
                spoken = f"{self._prefix}.scheme={how[0]}, {self._prefix}.strip-path={str(how[1]).lower()}"
                hint = f"give all containers of the service {claim.spec.service} the same labels"
                self._reject(claim, "conflict", "scheme", f"{first.spec.container} serves {shown(place)} with {spoken}", hint)
        return [c for c in group if (c.route.scheme, c.route.strip_path) == how]
