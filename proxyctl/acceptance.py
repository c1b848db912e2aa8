"""What is wanted -> the part of it that nginx accepts, tested: what is refused goes into quarantine, the rest goes on.

Remembers the refusals (until their cause changes) and what was live last (to fall back to).
"""

from __future__ import annotations

from collections.abc import Callable

from proxyctl.model import FileSet, Refusal, Rejection, RouteTable
from proxyctl.plan import quarantine
from proxyctl.plan.quarantine import Served, Suspects
from proxyctl.publish.draft import Drafts
from proxyctl.publish.nginx import NginxInstance
from proxyctl.publish.test import Refused, Tested, Tester

ATTEMPTS = 10
"""Tests in one cycle; each finds at least one culprit."""
SPLITS = 40
"""Tests in one cycle to tell the culprits among many suspects; each halves a group of them."""

Render = Callable[[Served], FileSet]


class Acceptance:
    def __init__(self, drafts: Drafts, tester: Tester) -> None:
        self._drafts = drafts
        self._tester = tester
        self._good = Served(RouteTable(), {})
        self._live: FileSet | None = None
        self._refusals: dict[str, Refusal] = {}

    def reduce(self, wanted: Served, coming: Served) -> Served:
        """What is wanted without what nginx has refused. A refusal ends when its cause changes in `coming`, which is what is
        wanted and what will be when containers that are being created run."""
        self._refusals = quarantine.still_held(self._refusals.values(), coming.table, coming.files)
        return self._reduced(wanted)

    def _reduced(self, wanted: Served) -> Served:
        return quarantine.without(self._refusals, wanted.table, wanted.files, self._good)

    async def test(self, fileset: FileSet, nginx: NginxInstance) -> Tested:
        """Raises Refused."""
        return await self._tester.test(await self._drafts.write(fileset, self._tester.untested(fileset, nginx)), nginx)

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
                    raise
                unsure |= frozenset() if suspects.certain else suspects.sources
            else:
                return await self._acquit(unsure, tested, wanted, render, nginx)
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

    def blame(self, reason: str, wanted: Served, refused: FileSet) -> None:
        """Puts the culprits of a reload that was refused into quarantine."""
        self._hold(reason, wanted, refused)

    def _hold(self, reason: str, wanted: Served, refused: FileSet) -> Suspects:
        """Into quarantine; returns those that were not there."""
        suspects = quarantine.culprits(reason, refused, self._live)
        guilty = suspects.sources - self._refusals.keys()
        for source in guilty:
            self._refusals[source] = Refusal(source, quarantine.essence(source, wanted.table, wanted.files), reason)
        return Suspects(guilty, suspects.certain)

    def knows(self, fileset: FileSet, nginx: NginxInstance) -> bool:
        """Whether nginx has accepted everything in it."""
        return self._tester.untested(fileset, nginx) == frozenset()

    def is_live(self, served: Served, fileset: FileSet) -> None:
        """Notes what to fall back to."""
        self._good, self._live = served, fileset

    def pardon(self) -> None:
        """Tries everything again: the templates have changed."""
        self._refusals.clear()

    def rejections(self, table: RouteTable) -> tuple[Rejection, ...]:
        return quarantine.rejections(self._refusals.values(), table)


def _halves(group: list[str]) -> list[list[str]]:
    """Nothing for a group of one: that is the culprit."""
    middle = len(group) // 2
    return [group[:middle], group[middle:]] if middle else []
