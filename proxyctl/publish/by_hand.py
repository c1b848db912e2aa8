"""Hand-written vhosts -> rejections for the names in them that nginx ignores.

Of two servers with one address and one name, nginx takes the first and warns about the second. What is made from labels comes
before the files in `sites`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from proxyctl.model import Neighbours, Rejection, RouteTable, VirtualHost
from proxyctl.publish.neighbours import Ignored, directives, ignored

SITES = "sites/"
RENDERED = ("*:80", "[::]:80")
"""Where the servers that are made from labels listen."""


def rejections(files: Mapping[str, str], table: RouteTable, neighbours: Neighbours) -> tuple[Rejection, ...]:
    """`files`: by name, those in `sites`. `neighbours`: the others, where nginx.conf is somebody else's."""
    found = [Ignored(*each) for each in neighbours.ignored]
    if files:
        vhosts = {vhost.host: vhost for vhost in table.vhosts}

        def taken(address: str, name: str) -> str:
            if address not in RENDERED:
                return ""
            if not name:
                return "the answer for unknown hosts"
            return _owner(vhosts[name]) if name in vhosts else ""

        parsed = {f"{SITES}{name}": list(directives(text)) for name, text in sorted(files.items())}
        found += ignored(parsed, taken)
    return tuple(_rejection(file, group) for file, group in _by_file(found).items())


def _owner(vhost: VirtualHost) -> str:
    names = sorted({routed.container for location in vhost.locations for routed in location.targets})
    if not names:
        return "a service with this label"
    return f"the label of {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"


def _by_file(found: Iterable[Ignored]) -> dict[str, list[Ignored]]:
    groups: dict[str, list[Ignored]] = {}
    for each in found:
        groups.setdefault(each.file, []).append(each)
    return groups


def _rejection(file: str, group: list[Ignored]) -> Rejection:
    shown = {f"{each.name or 'nothing, for unnamed requests,'} on {each.address} ({each.by} has it)": None for each in group}
    message = f"nginx ignores these of its server names: {', '.join(list(shown)[:8])}"
    hint = "an earlier server has the name: take it out of this file, or out of the other place"
    return Rejection("", file, "default", "conflict", "", message, hint)
