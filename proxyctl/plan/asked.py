"""What containers ask for, and the same found by host, service, network and target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from proxyctl.model import Container, Probe, ProbeKey, Rejection
from proxyctl.plan.ownership import Claim
from proxyctl.plan.targets import ALIVE
from proxyctl.versions import Version


@dataclass(frozen=True, slots=True)
class Asked:
    """What one container asks for."""

    container: Container
    hosts: tuple[str, ...]
    """Each once."""
    rejections: tuple[Rejection, ...]
    claims: tuple[Claim, ...]
    probes: tuple[Probe, ...]
    networks: tuple[str, ...]

    @property
    def joins(self) -> tuple[str, ...]:
        """The networks, once it runs. Before that nginx stays where it is in one of them, and joins none."""
        return self.networks if self.container.state in ALIVE else ()

    @property
    def age(self) -> tuple[float, str]:
        """What the elder has less of."""
        return (self.container.created_unix, self.container.id)

    @property
    def is_lent(self) -> bool:
        """Whether its network is another container's."""
        return self.container.network_mode.startswith("container:")

    def is_reached_in(self, networks: Collection[str]) -> bool:
        """Whether `networks` of nginx are nothing to it: it has one, it is reached there, and nginx is in it."""
        only = self.container.endpoints[0].network if len(self.container.endpoints) == 1 else ""
        return only in networks and self.networks == (only,)

    @property
    def service(self) -> str:
        return self.claims[0].spec.service if self.claims else ""

    @property
    def version(self) -> Version | None:
        return self.claims[0].spec.version if self.claims else None


def hosts_of(claims: Sequence[Claim]) -> tuple[str, ...]:
    """Each once. Mostly there is one route, and nothing has to be kept twice."""
    if len(claims) == 1:
        return claims[0].route.hosts
    return tuple(dict.fromkeys(host for claim in claims for host in claim.route.hosts))


class Register:
    """What all of them ask for."""

    def __init__(self) -> None:
        self.by_id: dict[str, Asked] = {}
        self._askers: dict[str, tuple[str, ...]] = {}
        """Host -> ids of the containers that ask for it."""
        self._services: dict[str, tuple[str, ...]] = {}
        """Service -> ids of its containers."""
        self.labelled: Counter[str] = Counter()
        """Service -> how many of its containers have a version."""
        self._networks: Counter[str] = Counter()
        self._joins: Counter[str] = Counter()
        self.probes: dict[ProbeKey, Probe] = {}

    @property
    def networks(self) -> frozenset[str]:
        """In which a target is, or will be when it is started."""
        return frozenset(+self._networks)

    @property
    def joins(self) -> frozenset[str]:
        """In which a target is."""
        return frozenset(+self._joins)

    def askers(self, host: str) -> Iterator[Asked]:
        """Who asks for it."""
        return (self.by_id[each] for each in self._askers.get(host, ()))

    def replicas(self, service: str) -> Iterator[Asked]:
        """Its containers."""
        return (self.by_id[each] for each in self._services.get(service, ()))

    def put(self, asked: Asked) -> None:
        """One that is not in it."""
        container_id, service = asked.container.id, asked.service
        self.by_id[container_id] = asked
        self._networks.update(asked.networks)
        self._joins.update(asked.joins)
        for probe in asked.probes:
            self.probes[probe.key] = probe
        if asked.version is not None:
            self.labelled[service] += 1
        for host in asked.hosts:
            self._askers[host] = (*self._askers.get(host, ()), container_id)
        if service:
            self._services[service] = (*self._services.get(service, ()), container_id)

    def take(self, container_id: str) -> Asked | None:
        """Takes it out, if it is in it."""
        asked = self.by_id.pop(container_id, None)
        if asked is None:
            return None
        self._networks.subtract(asked.networks)
        self._joins.subtract(asked.joins)
        for probe in asked.probes:
            del self.probes[probe.key]
        if asked.version is not None:
            self.labelled -= Counter({asked.service: 1})
        for index, keys in ((self._askers, asked.hosts), (self._services, filter(None, (asked.service,)))):
            for key in keys:
                index[key] = tuple(other for other in index[key] if other != container_id)
                if not index[key]:
                    del index[key]
        return asked
