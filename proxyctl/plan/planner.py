"""Decides over and over, and remembers what it has worked out: a decision costs as much as has changed since the one before."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from typing import cast

from proxyctl import identity
from proxyctl.model import (
    Container,
    Owner,
    Plan,
    Probe,
    ProbeKey,
    ProbeResult,
    Rejection,
    RouteTable,
    ServiceSpec,
    VirtualHost,
)
from proxyctl.plan import labels, ownership
from proxyctl.plan.asked import Asked, Register, hosts_of
from proxyctl.plan.ownership import PRESENT, Claim
from proxyctl.plan.routes import (
    HOPEFUL,
    Inputs,
    claim_of,
    has_stand_in,
    is_young,
    location_of,
    newest,
    probe_of,
    replica_state,
    vhost_of,
    wishes,
)
from proxyctl.plan.targets import PENDING
from proxyctl.versions import Replica, Shares


def plan(inputs: Inputs) -> Plan:
    """The whole decision of one cycle."""
    return Planner().plan(inputs)


NOBODY = frozenset[tuple[str, str]]()
AGE = attrgetter("age")
NO_NETWORKS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class _Host:
    """What was decided about one host."""

    vhost: VirtualHost | None
    ahead: VirtualHost | None
    rejections: tuple[Rejection, ...]
    admitted: frozenset[tuple[str, str]]
    """(container id, path) of claims that may be served here, where there are versions."""


class Planner:
    """The same inputs give the same plan as from a new one, which is what `plan` does."""

    def __init__(self) -> None:
        self._around: tuple[object, ...] = ()
        self._read_with: labels.Defaults | None = None
        self._parsed: dict[str, tuple[Container, labels.Parsed]] = {}
        self._forget()

    def _forget(self) -> None:
        self._containers: Mapping[str, Container] = {}
        self._standing: Mapping[ProbeKey, ProbeResult] = {}
        self._stopping: frozenset[str] = frozenset()
        self._flapping: Mapping[str, str] = {}
        self._nginx_in: Mapping[str, str] = NO_NETWORKS
        self._nginx_is = ""
        self._register = Register()
        self._has_asked = False
        self._asked_anew: set[str] = set()
        """Hosts that containers which were read anew ask for, and that have not been decided since."""
        self._lent: frozenset[str] = frozenset()
        """Ids of containers that live in the network of another one: they change with that."""
        self._stirred: set[str] = set()
        """Services of which something has changed since they were last asked for."""
        self._shares: Mapping[str, Shares] = {}
        self._maintenance: frozenset[str] = frozenset()
        self._founders: dict[str, Claim] = {}
        self._hosts: dict[str, _Host] = {}
        self._restless: dict[str, float] = {}
        """Hosts that time alone can change -> when the next grace of theirs ends (unix)."""
        self._coming: set[str] = set()
        """Hosts that will be otherwise when what is being created runs."""
        self._holding: set[str] = set()
        """Hosts with a place that waits for its first target."""
        self._rejecting: set[str] = set()
        self._stand_ins: set[str] = set()
        """Hosts with a place where nothing lives of the versions that carry the traffic, and another version answers."""
        self._owners: dict[str, dict[str, Owner]] = {}
        """By host, as they were decided: the host's own and those of its places."""
        self._owners_flat: Mapping[str, Owner] = {}
        self._plan: Plan | None = None

    def needs(self, inputs: Inputs) -> tuple[frozenset[str], Collection[Probe]]:
        """What has to be done before anything is decided: networks that nginx must be in, and targets that must be asked."""
        self._ask(inputs)
        known = self._plan if not self._has_asked else None
        return self._register.joins, known.probes.values() if known else tuple(self._register.probes.values())

    def plan(self, inputs: Inputs) -> Plan:
        """One decision. Inputs are compared with those before by identity first: what is the same object costs nothing."""
        self._ask(inputs)
        hosts, asked = self._asked_anew, self._has_asked
        self._asked_anew, self._has_asked = set(), False
        hosts |= self._moved(inputs)
        hosts |= self._reowned(inputs)
        hosts |= self._reshared(inputs)
        hosts |= self._restless.keys()
        before = {host: self._owners.get(host) for host in hosts}
        for host in sorted(hosts):  # so that all of them, in the order in which they came, are nearly sorted
            self._decide(host, inputs)
            if self._register.labelled:
                self._stirred.update([asked.service for asked in self._register.askers(host)])
        for index in (self._coming, self._holding, self._restless):
            if not index:
                index.clear()  # which gives its memory back: at a start, every host was in it
        if self._plan is None or hosts or asked:
            self._plan = self._sum_up(hosts, before, asked=asked or self._plan is None)
        return self._plan

    # ------------------------------------------------------------ what has changed

    def _moved(self, inputs: Inputs) -> set[str]:
        """Hosts whose targets have another standing."""
        ids = set(inputs.snapshot.stopping ^ self._stopping)
        flapping = inputs.snapshot.flapping
        if flapping is not self._flapping:
            ids |= {key for key, _ in flapping.items() ^ self._flapping.items()}
            self._flapping = flapping
        before, now = self._standing, inputs.standing
        gone, new = identity.between(before.values(), now.values())
        if gone or new:
            other = set(map(id, chain(gone, new)))
            ids |= {key[0].container_id for key, result in chain(before.items(), now.items()) if id(result) in other}
            self._standing = dict(now)
        self._stopping = inputs.snapshot.stopping
        asked = self._register.by_id
        return {host for each in ids if each in asked for host in asked[each].hosts}

    def _ask(self, inputs: Inputs) -> None:
        """Reads the labels of containers that are new or have changed, and notes the hosts that this concerns."""
        nginx = replace(inputs.nginx, networks=NO_NETWORKS, container="")
        around = (nginx, inputs.defaults, inputs.join, inputs.unjoinable, inputs.claims, inputs.own_ports)
        if around != self._around:
            self._forget()
            self._around = around
        if inputs.defaults != self._read_with:
            self._parsed.clear()
            self._read_with = inputs.defaults
        now, before, networks = inputs.snapshot.containers, self._containers, inputs.nginx.networks
        is_same = networks == self._nginx_in and inputs.nginx.container == self._nginx_is
        if (now is before or now == before) and is_same:
            self._containers = now
            return
        self._has_asked = True
        changed = {each for each, container in now.items() if before.get(each) is not container and before.get(each) != container}
        changed |= before.keys() - now.keys()
        changed |= self._lent
        if inputs.nginx.container != self._nginx_is:
            changed |= {self._nginx_is, inputs.nginx.container}
            self._nginx_is = inputs.nginx.container
        if networks != self._nginx_in:
            changed |= {each for each, asked in self._register.by_id.items() if not asked.is_reached_in(networks)}
            self._nginx_in = networks
        hosts: set[str] = set()
        services: set[str] = set()
        for each in changed:
            old = self._register.take(each)
            new = self._read(inputs, now[each]) if each in now else None
            if new is None:
                self._parsed.pop(each, None)
            for asked in filter(None, (old, new)):
                hosts.update(asked.hosts)
                services.add(asked.service)
            if new:
                self._register.put(new)
        self._stirred |= services
        known = self._register.by_id
        self._lent = frozenset(each for each in self._lent | changed if each in known and known[each].is_lent)
        for service in services - {""}:
            self._founders.pop(service, None)
            hosts |= self.hosts(service)
        self._containers = now
        self._asked_anew |= hosts

    def _reowned(self, inputs: Inputs) -> set[str]:
        """Hosts whose owners are given otherwise than they were decided here."""
        if inputs.owners is self._owners_flat:
            return set()
        given: dict[str, dict[str, Owner]] = {}
        for written, owner in inputs.owners.items():
            given.setdefault(written.partition("/")[0], {})[written] = owner
        hosts = {host for host in given.keys() | self._owners.keys() if given.get(host) != self._owners.get(host)}
        self._owners, self._owners_flat = given, inputs.owners
        return hosts

    def _reshared(self, inputs: Inputs) -> set[str]:
        """Hosts of services whose traffic goes to other versions."""
        services = set(inputs.maintenance ^ self._maintenance)
        before, now = self._shares, inputs.shares
        if now is not before and now != before:
            services |= {each for each in before.keys() | now.keys() if before.get(each) != now.get(each)}
        self._shares, self._maintenance = now, inputs.maintenance
        return {host for service in services for host in self.hosts(service)}

    # ------------------------------------------------------------ versions

    def hosts(self, service: str) -> frozenset[str]:
        """That its containers ask for."""
        return frozenset(host for asked in self._register.replicas(service) for host in asked.hosts)

    def holders(self, host: str) -> list[str]:
        """Names of the containers that are there and are served at this host, or will be as soon as they run."""
        askers = sorted((asked for asked in self._register.askers(host) if asked.container.state in PRESENT), key=AGE)
        owners = self._owners.get(host, {})
        return [
            asked.container.name
            for asked in askers
            if any(ownership.is_of(claim, owner) for claim in asked.claims for owner in owners.values())
        ]

    def has(self, service: str) -> bool:
        """Whether it has containers."""
        return any(True for _ in self._register.replicas(service))

    def is_versioned(self, service: str) -> bool:
        """Whether any container of it has a version."""
        return self._register.labelled.get(service, 0) > 0

    def stirred(self) -> set[str]:
        """Services of which something has changed since the last call."""
        found, self._stirred = self._stirred, set()
        return found

    @property
    def stand_ins(self) -> set[str]:
        """Services of which a version answers somewhere that has no share of the traffic."""
        decided = (self._hosts[host].vhost for host in self._stand_ins)
        return {location.service for vhost in decided if vhost for location in vhost.locations}

    def replicas(self, inputs: Inputs, service: str) -> tuple[Replica, ...]:
        """Its containers with their versions. Who asks to be one and may not be served anywhere is none."""
        found = (self._replica(inputs, asked) for asked in self._register.replicas(service))
        return tuple(replica for replica in found if replica)

    def _replica(self, inputs: Inputs, asked: Asked) -> Replica | None:
        container, spec = asked.container, asked.claims[0].spec
        places = [(host, claim.route.path) for claim in asked.claims for host in claim.route.hosts]
        shut = [place for place in places if not self._admits(container.id, *place)]
        if len(shut) == len(places):
            return None
        state, reason = replica_state(inputs, container, asked.claims)
        if state not in ("dead", "coming", "stopping"):  # a version that would lose a site of the one before is not well
            if shut:
                state, reason = "unhealthy", f"it may not serve {ownership.shown(shut[0])}"
            elif asked.rejections:
                state, reason = "unhealthy", f"{asked.rejections[0].label} {asked.rejections[0].message}"
        version = spec.version or ""
        return Replica(container.id, container.name, version, container.created_unix, state, reason, spec.rollout)

    def _admits(self, container_id: str, host: str, path: str) -> bool:
        decided = self._hosts.get(host)
        return decided is not None and (container_id, path) in decided.admitted

    def _admitted(self, owned: Mapping[str, list[Claim]]) -> frozenset[tuple[str, str]]:
        groups = ((path, claim) for path, group in owned.items() for claim in group)
        return frozenset((claim.container.id, path) for path, claim in groups if self.is_versioned(claim.spec.service))

    def _is_elsewhere(self, group: list[Claim], shares: Shares | None) -> bool:
        """Whether the versions that carry the service's traffic are there and do not ask for this place."""
        if shares is None or not group or any((claim.spec.version or "") in shares for claim in group):
            return False
        others = self._register.replicas(group[0].spec.service)
        return any((asked.version or "") in shares and asked.container.state in PRESENT for asked in others)

    # ------------------------------------------------------------ what is decided

    def _read(self, inputs: Inputs, container: Container) -> Asked:
        known = self._parsed.get(container.id)
        parsed = known[1] if known and known[0] is container else labels.parse(container, inputs.defaults)
        self._parsed[container.id] = (container, parsed)
        rejections = list(parsed.rejections) if container.state in PRESENT else []
        claims, probes, networks = [], [], set[str]()
        for route in parsed.spec.routes if parsed.spec else ():
            claim = claim_of(inputs, container, cast("ServiceSpec", parsed.spec), route, rejections, networks)
            claims.append(claim)
            if claim.target and claim.target != PENDING:
                probes.append(probe_of(claim, claim.target))
        return Asked(container, hosts_of(claims), tuple(rejections), tuple(claims), tuple(probes), tuple(networks))

    def _founder(self, service: str) -> Claim:
        if service not in self._founders:
            claims = (claim for asked in self._register.replicas(service) for claim in asked.claims)
            self._founders[service] = min(claims, key=ownership.seniority)
        return self._founders[service]

    def _decide(self, host: str, inputs: Inputs) -> None:
        """Everything about one host."""
        askers = sorted(self._register.askers(host), key=AGE)
        places: dict[str, list[Claim]] = {}
        for asked in askers:
            for claim in asked.claims:
                if host in claim.route.hosts:
                    places.setdefault(claim.route.path, []).append(claim)
        court = ownership.Court(inputs.claims, inputs.defaults.prefix, inputs.now_unix, self._founder)
        owners, owned = court.settle(host, places, self._owners.get(host, {}), inputs.nginx.neighbours.hosts.get(host, ""))
        if owners:
            self._owners[host] = owners
        else:
            self._owners.pop(host, None)
        self._restless.pop(host, None)
        for index in (self._coming, self._holding, self._rejecting, self._stand_ins):
            index.discard(host)
        if not owned and not court.rejections:
            self._hosts.pop(host, None)
            return
        owned = {path: group for path, group in owned.items() if group or host + path in inputs.published}  # else it is unknown
        standing, snapshot = inputs.standing, inputs.snapshot
        shares, closed = wishes(inputs, owned)
        locations = {
            path: location_of(standing, snapshot, path, group, shares.get(path), maintenance=path in closed)
            for path, group in sorted(owned.items())
            if not shares or not self._is_elsewhere(group, shares.get(path))
        }
        young = {p for p in locations if not locations[p].serving and any(is_young(inputs, c) for c in owned[p])} - closed
        held = {path for path in young if host + path not in inputs.published}
        coming = bool(held) or any(claim.target == PENDING for group in owned.values() for claim in group)
        vhost = vhost_of(host, [location for path, location in locations.items() if path not in held])
        ahead = vhost
        if coming:
            hoped = replace(snapshot, flapping={})
            ahead = vhost_of(
                host, [location_of(HOPEFUL, hoped, path, group, newest(group)) for path, group in sorted(owned.items())]
            )
        before = self._hosts.get(host)
        vhost = _as_before(before, vhost)
        self._hosts[host] = _Host(
            vhost=vhost,
            ahead=_as_before(before, ahead) if coming else vhost,
            rejections=tuple(court.rejections),
            admitted=self._admitted(owned) if self._register.labelled else NOBODY,
        )
        if young or any(owner.lost_unix for owner in owners.values()):
            self._restless[host] = min(
                (ownership.grace_end(owner, inputs.now_unix) for owner in owners.values() if owner.lost_unix), default=math.inf
            )
        starting = (claim for path in held for claim in owned[path] if claim.container.state != "created")
        holding = any(is_young(inputs, claim) for claim in starting)
        stood_in = any(has_stand_in(location, shares.get(path)) for path, location in locations.items())
        indexes = (self._coming, self._holding, self._rejecting, self._stand_ins)
        for index, belongs in zip(indexes, (coming, holding, court.rejections, stood_in), strict=True):
            if belongs:
                index.add(host)

    def _sum_up(self, hosts: set[str], before: Mapping[str, dict[str, Owner] | None], *, asked: bool) -> Plan:
        decided = [self._hosts[host] for host in sorted(self._hosts)]
        vhosts = tuple([each.vhost for each in decided if each.vhost])
        known = (self._plan.table, self._plan.ahead) if self._plan else ()
        table = next((each for each in known if each.vhosts == vhosts), None) or RouteTable(vhosts)
        ahead = RouteTable(tuple([each.ahead for each in decided if each.ahead])) if self._coming else table
        told: dict[tuple[str, str], Rejection] = {}  # once for a route, whatever the number of its hosts
        for host in sorted(self._rejecting):
            for rejection in self._hosts[host].rejections:
                told.setdefault((rejection.container_id, rejection.route), rejection)
        probes = self._plan.probes if self._plan and not asked else dict(self._register.probes)
        if hosts:
            owners = dict(self._owners_flat)
            for host in hosts:
                for written in before[host] or ():
                    owners.pop(written, None)
                owners |= self._owners.get(host, {})
            self._owners_flat = owners
        return Plan(
            table=table,
            ahead=ahead,
            rejections=(*self._refused(), *told.values()),
            probes=probes,
            networks=self._register.networks,
            owners=self._owners_flat,
            holding=len(self._holding),
            until_unix=min(self._restless.values(), default=math.inf),
        )

    def _refused(self) -> Iterator[Rejection]:
        """What containers ask for and cannot have. That nginx cannot reach one which ends is no mistake of its labels."""
        for asked in sorted((each for each in self._register.by_id.values() if each.rejections), key=AGE):
            ends = asked.container.id in self._stopping
            yield from (one for one in asked.rejections if not (ends and one.reason == "unreachable"))


def _as_before(before: _Host | None, vhost: VirtualHost | None) -> VirtualHost | None:
    """The object that there was, where it says the same: what was to come has come."""
    return next((known for known in (before.vhost, before.ahead) if known == vhost), vhost) if before else vhost
