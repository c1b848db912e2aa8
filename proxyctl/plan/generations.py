"""Old workers of nginx and what they still know -> which of them must end.

A kept connection goes on asking the worker that took it, with the configuration of its start. Docker gives a freed address to the
next container at once, so such a worker can lead to somebody else's application for as long as it lives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from proxyctl.fileset import Freed, Generation
from proxyctl.model import ProbeKey, RoutedTarget, RouteTable, Snapshot, Target, VirtualHost


def serving(vhosts: Iterable[VirtualHost]) -> dict[Target, str]:
    """Targets that nginx is told about, with their services."""
    return {t.target: t.service for vhost in vhosts for location in vhost.locations for t in location.targets if t.serving}


def serving_of(vhosts: Iterable[VirtualHost], some: Iterable[Target]) -> dict[Target, str]:
    """The same, of those among `some` alone. By container first: the digest of a whole target is dear."""
    ids = {target.container_id for target in some}
    return {
        t.target: t.service
        for vhost in vhosts
        for location in vhost.locations
        for t in location.targets
        if t.target.container_id in ids and t.serving
    }


def carrying(vhosts: Iterable[VirtualHost]) -> Iterable[ProbeKey]:
    """Targets that nginx is told about, each with its route. Once, where it is the same object: its digest is dear."""
    return {
        (id(t.target), location.route): (t.target, location.route)
        for vhost in vhosts
        for location in vhost.locations
        for t in location.targets
        if t.serving
    }.values()


def advance(
    generations: Iterable[Generation], run: str, ending: frozenset[int], before: Mapping[Target, str], now: Mapping[Target, str]
) -> tuple[Generation, ...]:
    """The generations after a proof. `ending`: the old workers that still live, in this `run` of nginx; those that are in no
    generation yet were started with `before`, what was live until now. `now`: what is live, or of it what is in `before`."""
    freed = frozenset(Freed(target, service) for target, service in before.items() if target not in now)
    past = [g for g in generations if g.run == run]
    newly = ending.difference(*(g.workers for g in past))
    older = (Generation(run, g.workers & ending, g.freed | freed) for g in past)
    return tuple(g for g in (*older, Generation(run, newly, freed)) if g.workers)


def endangered(generations: Iterable[Generation], snapshot: Snapshot, table: RouteTable) -> dict[int, str]:
    """Workers that know an address which another service's container has now -> a word on why. Another container of the
    same service may have it: that is the same application."""
    knowing = [g for g in generations if g.freed]
    if not knowing:
        return {}
    targets = [t for vhost in table.vhosts for location in vhost.locations for t in location.targets]
    holders = _holders({freed.target.address for g in knowing for freed in g.freed}, snapshot, targets)
    holding = frozenset().union(*holders.values())
    services = {t.target.container_id: t.service for t in targets if t.target.container_id in holding}
    found: dict[int, str] = {}
    for generation in knowing:
        for freed in sorted(generation.freed, key=lambda f: f.target):
            target = freed.target
            for holder in holders.get(target.address, set()) | holders.get(f"{target.address} {target.port}", set()):
                if holder != target.container_id and services.get(holder, "") != freed.service:
                    name = snapshot.containers[holder].name if holder in snapshot.containers else holder[:12]
                    found |= dict.fromkeys(generation.workers, f"{target.address} belongs to {name} now")
    return found


def _holders(wanted: set[str], snapshot: Snapshot, targets: Iterable[RoutedTarget]) -> dict[str, set[str]]:
    """Ids of the containers that have these addresses now. Through the host's address, a port tells them apart."""
    holders: dict[str, set[str]] = {}
    for container in snapshot.containers.values():
        if container.state == "running":
            for endpoint in container.endpoints:
                for address in (endpoint.ipv4, endpoint.ipv6):
                    if address in wanted:
                        holders.setdefault(address, set()).add(container.id)
    for t in targets:
        if t.target.address in wanted:
            holders.setdefault(f"{t.target.address} {t.target.port}", set()).add(t.target.container_id)
    return holders
