"""Two route tables -> one line for each thing that differs, for people: what came, what went, what changed its state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from proxyctl.model import Location, RouteTable, VirtualHost

MOST = 50


def between(before: RouteTable, after: RouteTable) -> tuple[str, ...]:
    """`+ a.example/git -> cgit`, `a.example/git: cgit-2 in, cgit-1 out (stopping)`, `- a.example/git`; at most
    MOST lines."""
    if before == after:
        return ()
    hosts_before, hosts_after = ({vhost.host: vhost for vhost in table.vhosts} for table in (before, after))
    changed = {host for host in hosts_before.keys() | hosts_after.keys() if hosts_before.get(host) is not hosts_after.get(host)}
    old, new = _by_place(hosts_before, changed), _by_place(hosts_after, changed)
    lines = [f"- {place}" for place in old.keys() - new.keys()]
    for place in new.keys() - old.keys():
        serving = ", ".join(t.container for t in new[place].serving)
        lines.append(f"+ {place} -> {serving or 'nothing healthy yet'}")
    for place in old.keys() & new.keys():
        moved = _moved(old[place], new[place])
        if moved:
            lines.append(f"{place}: {moved}")
    lines.sort(key=lambda line: line.lstrip("+- "))
    return (*lines[:MOST], f"... and {len(lines) - MOST} more") if len(lines) > MOST else tuple(lines)


def _by_place(vhosts: Mapping[str, VirtualHost], hosts: Iterable[str]) -> dict[str, Location]:
    return {host + location.path: location for host in hosts if host in vhosts for location in vhosts[host].locations}


def _moved(old: Location, new: Location) -> str:
    before = {t.target: t for t in old.serving}
    after = {t.target: t for t in new.serving}
    now = {t.target.container_id: t for t in new.targets}
    parts = [f"{after[target].container} in" for target in after.keys() - before.keys()]
    for target in before.keys() - after.keys():
        gone = now.get(target.container_id)
        why = ": ".join(filter(None, (gone.state, gone.reason))) if gone else "gone"
        parts.append(f"{before[target].container} out ({why})")
    if new.fail_open and not old.fail_open:
        parts.append("nothing healthy, what is alive serves")
    if not after and before:
        parts.append("503 from now on")
    return ", ".join(sorted(parts))
