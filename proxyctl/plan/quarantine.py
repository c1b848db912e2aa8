"""A draft that nginx refuses -> whose fault it is, and what is served instead.

Refused is what was written for one host, or one hand-written file. It is left out until it changes; where an earlier form of it
was live, that one goes on with the targets of today. So one bad container, or one bad file, harms only itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from proxyctl.fileset import OWN_FILE, FileSet, Refusal
from proxyctl.model import Location, Rejection, RouteTable, VirtualHost

OBJECT = re.compile(r"/objects/([0-9a-f]{32}\.conf)(?::([0-9]{1,9}))?", re.ASCII)
PLACE = re.compile(r" in (/.+):[0-9]+$")
QUOTED = re.compile(r'"([^"]{3,})"')


@dataclass(frozen=True, slots=True)
class Suspects:
    """Sources to leave out. `certain`: nginx named them; else there are good ones among them: all that is new, or all that holds
    the word it quotes."""

    sources: frozenset[str]
    certain: bool = True


def culprits(reason: str, refused: FileSet, accepted: FileSet | None) -> Suspects:
    """The parts that nginx names by file and line, else those that hold the name it quotes, else all that are new.

    `accepted`: the last configuration that nginx took. Nobody when the draft has nothing new: then what nginx refuses is the
    frame around the vhosts, and nothing can be left out. Nobody either when it names a file beside them that is somebody else's.
    """
    place = PLACE.search(reason)
    if refused.neighbours and place and not place[1].startswith(refused.objects_dir.removesuffix("objects")):
        return Suspects(frozenset())
    known = {part.text for file in accepted.objects.values() for part in file.parts} if accepted else set()
    named = set()
    for name, line in OBJECT.findall(reason):
        file = refused.objects.get(name)
        if file and name != refused.sample:
            named |= {file.source_at(int(line))} if line else {part.source for part in file.parts}
    if named:
        return Suspects(frozenset(named))
    objects = (file for name, file in refused.objects.items() if name != refused.sample)
    new = [part for file in objects for part in file.parts if part.text not in known]
    quoted = [text for text in QUOTED.findall(reason) if "/" not in text or "objects" not in text]
    holders = frozenset(part.source for part in new if any(text in part.text for text in quoted))
    return Suspects(holders or frozenset(part.source for part in new), certain=len(holders) == 1)


@dataclass(frozen=True, slots=True)
class Served:
    """What was live, to fall back to."""

    table: RouteTable
    files: Mapping[str, str]


def essence(source: str, table: RouteTable, files: Mapping[str, str]) -> object:
    """What a refusal is about: it ends when this changes. None when the source is gone."""
    if source.startswith(OWN_FILE):
        return files.get(source.removeprefix(OWN_FILE))
    vhost = next((v for v in table.vhosts if v.host == source), None)
    return vhost and tuple((loc.path, loc.strip_path, loc.scheme) for loc in vhost.locations)


def still_held(refusals: Iterable[Refusal], table: RouteTable, files: Mapping[str, str]) -> dict[str, Refusal]:
    """The refusals whose cause is unchanged, by source."""
    return {r.source: r for r in refusals if r.essence is not None and essence(r.source, table, files) == r.essence}


def without(held: Iterable[str], table: RouteTable, files: Mapping[str, str], good: Served) -> Served:
    """Table and files with the last good form of what is held, or without it."""
    sources = frozenset(held)
    if not sources:
        return Served(table, files)
    old = {vhost.host: vhost for vhost in good.table.vhosts}
    vhosts = []
    for vhost in table.vhosts:
        if vhost.host not in sources:
            vhosts.append(vhost)
        elif vhost.host in old:
            vhosts.append(_as_before(old[vhost.host], vhost))
    kept = {}
    for name, text in files.items():
        chosen = good.files.get(name) if OWN_FILE + name in sources else text
        if chosen is not None:
            kept[name] = chosen
    return Served(RouteTable(tuple(vhosts)), kept)


def _as_before(old: VirtualHost, new: VirtualHost) -> VirtualHost:
    today = {location.path: location for location in new.locations}
    return replace(old, locations=tuple(_with_targets_of(location, today.get(location.path)) for location in old.locations))


def _with_targets_of(old: Location, new: Location | None) -> Location:
    if new is None or new.scheme != old.scheme:
        return replace(old, targets=(), fail_open=False)
    return replace(old, targets=new.targets, fail_open=new.fail_open)


def rejections(refusals: Iterable[Refusal], table: RouteTable) -> tuple[Rejection, ...]:
    """The refusals in the words of those whom they concern: one for each container that asks for the host."""
    found = []
    for refusal in refusals:
        if refusal.source.startswith(OWN_FILE):
            name = f"sites/{refusal.source.removeprefix(OWN_FILE)}"
            hint = "mend the file; what was live of it goes on until then"
            found.append(Rejection("", name, "default", "quarantined", "", f"nginx refuses it: {refusal.reason}", hint))
            continue
        vhost = next((v for v in table.vhosts if v.host == refusal.source), None)
        for location in vhost.locations if vhost else ():
            for routed in location.targets:
                message = f"nginx refuses what is made for {refusal.source}: {refusal.reason}"
                hint = "change the labels, or your own template; what was live of it goes on until then"
                container = routed.target.container_id
                found.append(Rejection(container, routed.container, location.route, "quarantined", "host", message, hint))
    return tuple(found)
