"""Two route tables -> one line for each thing that differs, for people: what came, what went, what changed its state."""

from __future__ import annotations

from collections.abc import Iterable

from proxyctl import identity
from proxyctl.model import Location, RouteTable, VirtualHost

MOST = 50


def between(before: RouteTable, after: RouteTable) -> tuple[str, ...]:
    """`+ a.example/git -> cgit`, `a.example/git: cgit-2 in, cgit-1 out (stopping)`, `- a.example/git`; at most
    MOST lines."""
    old, new = map(_by_place, identity.between(before.vhosts, after.vhosts))
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


def _by_place(vhosts: Iterable[VirtualHost]) -> dict[str, Location]:
    return {vhost.host + location.path: location for vhost in vhosts for location in vhost.locations}


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
