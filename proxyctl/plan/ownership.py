"""Who may serve a (host, path): claims of containers -> one owner each, and a Rejection for everybody else.

The service that has a place keeps it; among newcomers the container that was created first wins, by id when they are equal. A
host belongs to one compose project; another one gets a part of it only by a rule of the operator (`[[claims]]`). A container
of another project joins a service only when that service's own containers name it with a label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from proxyctl.model import Container, Owner, Rejection, RejectionReason, RouteSpec, ServiceSpec, Target
from proxyctl.plan import labels

EXITED_GRACE = 10.0
"""Seconds that an exited container keeps its hosts against a challenger: a restart must not lose them."""
GONE_GRACE = 300.0
"""Seconds that a host whose containers were removed is answered with 503 before it is unknown (404)."""
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

    @property
    def age(self) -> tuple[float, str]:
        return (self.spec.created_unix, self.spec.container_id)

    @property
    def project(self) -> str:
        return project_of(self.container)

    @property
    def present(self) -> bool:
        return self.container.state in PRESENT


def project_of(container: Container) -> str:
    """Its compose project; empty for containers that were started by hand, which count as one project."""
    return container.labels.get("com.docker.compose.project", "")


def rejection(
    prefix: str, spec: ServiceSpec, route: RouteSpec, reason: RejectionReason, key: str, message: str, hint: str
) -> Rejection:
    """One for a route as a whole; `key` is the label to look at."""
    label = f"{prefix}.{'' if route.name == labels.DEFAULT_ROUTE else f'routes.{route.name}.'}{key}"
    return Rejection(spec.container_id, spec.container, route.name, reason, label, message, hint)


def shown(place: Place) -> str:
    """As people write it: `a.example`, `a.example/git`."""
    host, path = place
    return host if path == "/" else host + path


def _matches(text: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


def _seniority(claim: Claim) -> tuple[bool, float, str]:
    """Who is there before who is not, then by age."""
    return (not claim.present, *claim.age)


def _is_of(claim: Claim, owner: Owner) -> bool:
    """Whether a host of this owner is the claim's too."""
    return claim.project == owner.project or claim.spec.service == owner.service


class Court:
    """Hears all claims of one cycle. `owners`: who has what so far."""

    def __init__(self, owners: Mapping[str, Owner], rules: tuple[ClaimRule, ...], prefix: str, now_unix: float) -> None:
        self._owners = owners
        self._rules = rules
        self._prefix = prefix
        self._now = now_unix
        self._told: set[tuple[str, str]] = set()
        self.rejections: list[Rejection] = []

    def settle(self, claims: Mapping[Place, list[Claim]]) -> tuple[dict[str, Owner], dict[Place, list[Claim]]]:
        """Gives every host to one project and every place to one service. Owners are by host, and by host and path; places that
        lost their last claim keep an empty list for a while."""
        every = sorted((c for group in claims.values() for c in group), key=_seniority)
        founders: dict[str, Claim] = {}
        for claim in every:
            founders.setdefault(claim.spec.service, claim)
        owners = self._hosts(claims)
        owned: dict[Place, list[Claim]] = {}
        for place, group in claims.items():
            admitted = [c for c in group if self._is_admitted(c, place, founders[c.spec.service], owners[place[0]])]
            if not admitted:
                continue
            written = "".join(place)
            owner = self._next(admitted, self._owners.get(written), lambda claim, before: claim.spec.service == before.service)
            owners[written] = owner
            owned[place] = self._agreeing(place, [c for c in admitted if c.spec.service == owner.service])
            for claim in admitted:
                if claim.spec.service != owner.service:
                    hint = f"choose another host or path, or remove the containers of {owner.service}"
                    self._reject(claim, "host-taken", "host", f"{shown(place)} belongs to the service {owner.service}", hint)
        self._hold(owners, owned)
        return owners, owned

    def _hosts(self, claims: Mapping[Place, list[Claim]]) -> dict[str, Owner]:
        by_host: dict[str, list[Claim]] = {}
        for (host, _), group in claims.items():
            by_host.setdefault(host, []).extend(group)
        return {host: self._next(group, self._owners.get(host), _is_of) for host, group in by_host.items()}

    def _hold(self, owners: dict[str, Owner], owned: dict[Place, list[Claim]]) -> None:
        """Places whose containers were removed: nobody's, and still known."""
        for written, owner in self._owners.items():
            host, slash, path = written.partition("/")
            lost = owner.lost_unix or self._now
            if slash and written not in owners and self._now - lost < GONE_GRACE:
                owners[written] = Owner(owner.service, owner.project, lost)
                owned[host, slash + path] = []

    # ------------------------------------------------------------ who may ask

    def _is_admitted(self, claim: Claim, place: Place, founder: Claim, host_owner: Owner) -> bool:
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
        if not rules and not _is_of(claim, host_owner):
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
        ranked = sorted(group, key=_seniority)
        own = [c for c in ranked if before and is_of(c, before)]
        if before and own:
            lost = before.lost_unix or self._now
            if own[0].present:
                return Owner(before.service, before.project)
            if not ranked[0].present or self._now - lost < EXITED_GRACE:
                return Owner(before.service, before.project, lost)
        return Owner(ranked[0].spec.service, ranked[0].project, 0.0 if ranked[0].present else self._now)

    def _agreeing(self, place: Place, group: list[Claim]) -> list[Claim]:
        """The claims that can share one upstream: the oldest living one says how it is spoken to."""
        living = [c for c in group if c.present]
        first = min(living or group, key=lambda c: c.age)
        how = (first.route.scheme, first.route.strip_path)
        for claim in living:
            if (claim.route.scheme, claim.route.strip_path) != how:
                spoken = f"scheme={how[0]}, strip-path={str(how[1]).lower()}"
                hint = f"give all containers of the service {claim.spec.service} the same labels"
                self._reject(claim, "conflict", "scheme", f"{first.spec.container} serves {shown(place)} with {spoken}", hint)
        return [c for c in group if (c.route.scheme, c.route.strip_path) == how]
