"""What is wanted -> the part of it that nginx accepts, tested: what is refused goes into quarantine, the rest goes on.

Remembers the refusals (until their cause changes) and what was live last (to fall back to).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from proxyctl.model import FileSet, Refusal, Rejection, RouteTable
from proxyctl.plan import quarantine
from proxyctl.plan.quarantine import Served
from proxyctl.publish.draft import Drafts
from proxyctl.publish.nginx import NginxInstance
from proxyctl.publish.test import Refused, Tested, Tester

ATTEMPTS = 10
"""Tests in one cycle; each finds at least one culprit."""

Render = Callable[[Served], FileSet]


class Acceptance:
    def __init__(self, drafts: Drafts, tester: Tester) -> None:
        self._drafts = drafts
        self._tester = tester
        self._good = Served(RouteTable(), {})
        self._objects: Mapping[str, str] = {}
        self._refusals: dict[str, Refusal] = {}

    def reduce(self, wanted: Served, coming: Served) -> Served:
        """What is wanted without what nginx has refused. A refusal ends when its cause changes in `coming`, which is what is
        wanted and what will be when containers that are being created run."""
        self._refusals = quarantine.still_held(self._refusals.values(), coming.table, coming.files)
        return quarantine.without(self._refusals, wanted.table, wanted.files, self._good)

    async def accept(self, wanted: Served, fileset: FileSet, render: Render, nginx: NginxInstance) -> Tested:
        """The largest part that nginx takes; `fileset` is the first try. Raises Refused when it refuses what none of the wanted
        brought in."""
        for _ in range(ATTEMPTS):
            try:
                return await self._tester.test(await self._drafts.write(fileset), nginx)
            except Refused as refused:
                if not self.blame(refused.reason, wanted, fileset):
                    raise
            fileset = render(quarantine.without(self._refusals, wanted.table, wanted.files, self._good))
        raise Refused(f"more than {ATTEMPTS} culprits in one cycle; the next one goes on")

    def blame(self, reason: str, wanted: Served, refused: FileSet) -> bool:
        """Puts the culprits of a refusal into quarantine; False when there is none that is not there already."""
        guilty = quarantine.culprits(reason, refused, self._objects) - self._refusals.keys()
        for source in guilty:
            self._refusals[source] = Refusal(source, quarantine.essence(source, wanted.table, wanted.files), reason)
        return bool(guilty)

    def knows(self, fileset: FileSet, nginx: NginxInstance) -> bool:
        return self._tester.knows(fileset, nginx)

    def is_live(self, served: Served, fileset: FileSet) -> None:
        """Notes what to fall back to."""
        self._good, self._objects = served, fileset.objects

    def pardon(self) -> None:
        """Tries everything again: the templates have changed."""
        self._refusals.clear()

    def rejections(self, table: RouteTable) -> tuple[Rejection, ...]:
        return quarantine.rejections(self._refusals.values(), table)
