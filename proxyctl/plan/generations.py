"""Old workers of nginx and what they still know -> which of them must end.

A kept connection goes on asking the worker that took it, with the configuration of its start. Docker gives a freed address to the
next container at once, so for some seconds such a worker can send a request to another application.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from proxyctl.fileset import Freed, Generation
from proxyctl.model import Container, ProbeKey, RoutedTarget, RouteTable, Snapshot, Target, VirtualHost
from proxyctl.plan.ownership import project_of

LAST_REQUEST = 20.0
"""Seconds after the proof of the next configuration in which an old worker may still send a request that is new: on a connection
that was idle (5 s, keepalive_min_timeout) or had sent no whole header yet (10 s, client_header_timeout), and then again after
failures (10 s, proxy_next_upstream_timeout). A body that a client is still sending takes longer."""


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
    generations: Iterable[Generation],
    run: str,
    ending: frozenset[int],
    before: Mapping[Target, str],
    now: Mapping[Target, str],
    containers: Mapping[str, Container],
    now_unix: float,
) -> tuple[Generation, ...]:
    """The generations after a proof. `ending`: the old workers that still live, in this `run` of nginx; those that are in no
    generation yet were started with `before`, what was live until now. `now`: what is live, or of it what is in `before`."""
    freed = frozenset(
        Freed(target, service, _project(containers, target.container_id))
        for target, service in before.items()
        if target not in now
    )
    past = [g for g in generations if g.run == run]
    newly = ending.difference(*(g.workers for g in past))
    older = (Generation(run, g.workers & ending, g.freed | freed, g.since_unix) for g in past)
    return tuple(g for g in (*older, Generation(run, newly, freed, now_unix)) if g.workers)


def dangerous(generations: Iterable[Generation], now_unix: float) -> list[Generation]:
    """Those that may still send a new request to an address that is not its target's any more."""
    return [g for g in generations if g.freed and (not g.since_unix or now_unix - g.since_unix < LAST_REQUEST)]


def endangered(
    generations: Iterable[Generation], snapshot: Snapshot, table: RouteTable, now_unix: float, nginx_id: str = ""
) -> dict[int, str]:
    """Workers that may still send a request to an address that now belongs to another project -> the reason. A container of the
    same service or compose project may have the address, and so may nginx itself, which has the current configuration."""
    knowing = dangerous(generations, now_unix)
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
                if holder in (target.container_id, nginx_id) or services.get(holder, "") == freed.service:
                    continue
                if not freed.project or freed.project != _project(snapshot.containers, holder):
                    name = snapshot.containers[holder].name if holder in snapshot.containers else holder[:12]
                    found |= dict.fromkeys(generation.workers, f"{target.address} belongs to {name} now")
    return found


def _project(containers: Mapping[str, Container], container_id: str) -> str:
    """Empty for a container that is not there, too."""
    return project_of(containers[container_id]) if container_id in containers else ""


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
