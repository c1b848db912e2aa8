"""What is wanted -> the part of it that nginx accepts, tested: what is refused goes into quarantine, the rest goes on.

Remembers the refusals (until their cause changes) and what was live last (to fall back to).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from proxyctl.fileset import OWN_FILE, FileSet, Refusal
from proxyctl.model import Rejection, RouteTable
from proxyctl.plan import quarantine
from proxyctl.plan.quarantine import Served, Suspects
from proxyctl.publish.draft import Draft, Drafts
from proxyctl.publish.nginx import NginxInstance
from proxyctl.publish.test import Refused, Tested, Tester

ATTEMPTS = 10
"""Tests in one cycle; each finds at least one culprit."""
RETRY_FIRST, RETRY_LAST = 60.0, 3600.0
"""Seconds after which what was refused is tried again though it has not changed; doubled each time. A verdict may be wrong."""
AT_ONCE = 1250
"""Hosts that one test shows, or hardly more."""
SPLITS = 40
"""Tests in one cycle to tell the culprits among many suspects; each halves a group of them."""

Render = Callable[[Served], FileSet]


class Acceptance:
    """`good`: what of the quarantined was live when the process before this one ended."""

    def __init__(self, drafts: Drafts, tester: Tester, good: Served) -> None:
        self._drafts = drafts
        self._tester = tester
        self._good = good
        self._live: FileSet | None = None
        self._refusals: dict[str, Refusal] = {}
        self._hopeless: set[str] = set()
        """Those of them whose last good form is refused, too, with the targets of today."""
        self._retries: dict[str, tuple[float, float]] = {}
        """Source -> when (monotonic) it is tried again though it has not changed, and the pause after that."""

    def reduce(self, wanted: Served, coming: Served) -> Served:
        """What is wanted without what nginx has refused. A refusal ends when its cause changes in `coming`, which is what is
        wanted and what will be when containers that are being created run."""
        held = quarantine.still_held(self._refusals.values(), coming.table, coming.files)
        self._retries = {source: retry for source, retry in self._retries.items() if source in held}
        now = time.monotonic()
        self._refusals = {source: refusal for source, refusal in held.items() if now < self._retries[source][0]}
        return self._reduced(wanted)

    def fallback(self) -> Served:
        """The last good form of what is in quarantine."""
        if not self._refusals:
            return Served(RouteTable(), {})
        hosts = tuple(vhost for vhost in self._good.table.vhosts if vhost.host in self._refusals)
        files = {name: text for name, text in self._good.files.items() if OWN_FILE + name in self._refusals}
        return Served(RouteTable(hosts), files)

    def _reduced(self, wanted: Served) -> Served:
        self._hopeless &= self._refusals.keys()
        good = self._good
        if self._hopeless:
            hosts = tuple(vhost for vhost in good.table.vhosts if vhost.host not in self._hopeless)
            good = Served(RouteTable(hosts), {n: text for n, text in good.files.items() if OWN_FILE + n not in self._hopeless})
        return quarantine.without(self._refusals, wanted.table, wanted.files, good)

    async def test(self, fileset: FileSet, nginx: NginxInstance) -> Tested:
        """Raises Refused. Thousands of hosts are shown in parts: nginx compares each upstream with all others, so that 10,000
        take it 2 s at once and a third of that in eighths."""
        untested = self._tester.untested(fileset, nginx)
        *parts, last = [None] if untested is None else _parts(fileset, untested)
        taken = 0.0
        for part in parts:
            taken += await self._tester.show(await self._drafts.write(fileset, part), nginx)
        return await self._tester.test(await self._drafts.write(fileset, last), nginx, taken)

    async def accept(self, wanted: Served, fileset: FileSet, render: Render, nginx: NginxInstance) -> Tested:
        """The largest part that nginx takes; `fileset` is the first try. Raises Refused when it refuses what none of the wanted
        brought in."""
        unsure: frozenset[str] = frozenset()
        for _ in range(ATTEMPTS):
            try:
                tested = await self.test(fileset, nginx)
            except Refused as refused:
                suspects = self._hold(refused.reason, wanted, fileset)
                if not suspects.sources:
                    self._pardon(unsure)  # it is refused without them, too
                    raise
                unsure |= frozenset() if suspects.certain else suspects.sources
            else:
                tested = await self._acquit(unsure, tested, wanted, render, nginx)
                self._tester.trust()
                return tested
            fileset = render(self._reduced(wanted))
        raise Refused(f"more than {ATTEMPTS} culprits in one cycle; the next one goes on")

    async def _acquit(
        self, unsure: frozenset[str], tested: Tested, wanted: Served, render: Render, nginx: NginxInstance
    ) -> Tested:
        """Lets those out of quarantine that nginx takes, when it did not say whom it means: halves of a group that it refuses are
        tried in turn, down to single ones."""
        groups = _halves(sorted(unsure))
        for _ in range(SPLITS):
            if not groups:
                break
            group = groups.pop()
            held = {source: self._refusals.pop(source) for source in group}
            try:
                tested = await self.test(render(self._reduced(wanted)), nginx)
            except Refused:
                self._refusals |= held
                groups += _halves(group)
        return tested

    def blame(self, reason: str, wanted: Served, refused: Draft) -> frozenset[str] | None:
        """Puts the culprits of a reload that was refused into quarantine; returns them. None where nginx names none of many and
        was not shown all of it: it is next, and then halves of them are."""
        suspects = quarantine.culprits(reason, refused.fileset, self._live)
        if not suspects.certain and refused.untested is not None:
            return None
        return self._hold(reason, wanted, refused.fileset).sources

    def _hold(self, reason: str, wanted: Served, refused: FileSet) -> Suspects:
        """Into quarantine; returns those that were not there."""
        suspects = quarantine.culprits(reason, refused, self._live)
        guilty = suspects.sources - self._refusals.keys()
        hopeless = suspects.sources - guilty - self._hopeless
        self._hopeless |= hopeless
        for source in guilty:
            self._refusals[source] = Refusal(source, quarantine.essence(source, wanted.table, wanted.files), reason)
            _, pause = self._retries.get(source, (0.0, RETRY_FIRST))
            self._retries[source] = (time.monotonic() + pause, min(pause * 2, RETRY_LAST))
        return Suspects(guilty | hopeless, suspects.certain)

    def refused(self, source: str) -> str:
        """Why it is in quarantine; empty when it is not."""
        return self._refusals[source].reason if source in self._refusals else ""

    def _pardon(self, sources: frozenset[str]) -> None:
        for source in sources:
            self._refusals.pop(source, None)
            self._retries.pop(source, None)

    @property
    def live_files(self) -> Mapping[str, str]:
        """The hand-written vhosts that are live."""
        return self._good.files

    def knows(self, fileset: FileSet, nginx: NginxInstance) -> bool:
        """Whether nginx has accepted everything in it."""
        return self._tester.untested(fileset, nginx) == frozenset()

    def is_live(self, served: Served, fileset: FileSet) -> None:
        """Notes what to fall back to."""
        self._good, self._live = served, fileset

    def pardon(self) -> None:
        """Tries everything again: the templates have changed."""
        self._refusals.clear()
        self._retries.clear()

    def rejections(self, table: RouteTable) -> tuple[Rejection, ...]:
        return quarantine.rejections(self._refusals.values(), table)


def _parts(fileset: FileSet, untested: frozenset[str]) -> list[frozenset[str]]:
    """What is hand-written may refer to anything, so it is in every part."""
    if not untested:
        return [untested]
    own = frozenset(name for name, file in fileset.objects.items() if file.parts[0].source.startswith(OWN_FILE))
    parts, hosts = [set(own)], 0
    for name in sorted(untested):
        if hosts >= AT_ONCE:
            parts.append(set(own))
            hosts = 0
        parts[-1].add(name)
        hosts += len(fileset.objects[name].parts)
    return [frozenset(part) for part in parts]


def _halves(group: list[str]) -> list[list[str]]:
    """Nothing for a group of one: that is the culprit."""
    middle = len(group) // 2
    return [group[:middle], group[middle:]] if middle else []
