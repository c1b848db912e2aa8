"""What is wanted -> live: the part of it that nginx accepts, tested, promoted, reloaded and proved; else the last good, put back.

Compares with what was proved live, never with what is on disk.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from proxyctl import identity, steady
from proxyctl.acceptance import Acceptance
from proxyctl.cycle import Course, Parts, Policy
from proxyctl.fileset import FileSet
from proxyctl.model import DrainPhase, Plan, RouteTable, Snapshot, VirtualHost
from proxyctl.plan import changes, vhosts
from proxyctl.plan.quarantine import Served
from proxyctl.publish.draft import Draft
from proxyctl.publish.nginx import NginxInstance, NginxMissing
from proxyctl.publish.promote import Published
from proxyctl.publish.reload import NOWHERE, Live, NotProved, Silent
from proxyctl.publish.test import Refused, Tested
from proxyctl.report import Wake
from proxyctl.retirement import Retirement
from proxyctl.state import State

KEEP_GENERATIONS = 5
BURST, RATE = 20, 2.0
"""Reloads at once, and a second after that: old workers live on for a while after each."""
PARSE_EACH = 0.0003
"""Seconds that nginx needs to parse one host more, measured with 10,000: it compares each upstream with all before it."""
REPLACED = (
    "state.runtime is not the directory that {0} was started with, which would find no sites after a reload: docker restart {0}"
)


class PutBack(NotProved):
    """What was wanted cannot be live; the last good configuration is, proved. `blamed`: hosts and hand-written files that nginx
    refused; empty when nobody is known to be at fault, None when a look at the whole will tell."""

    def __init__(self, reason: str, blamed: frozenset[str] | None) -> None:
        super().__init__(reason)
        self.blamed = blamed


class Publication:
    """`state`: what the process before this one had come to."""

    def __init__(self, parts: Parts, policy: Policy, state: State) -> None:
        self._parts = parts
        self.policy = policy
        good = Served(RouteTable(state.fallback_hosts), state.fallback_files)
        self.acceptance = Acceptance(parts.drafts, parts.tester, good)
        self.retirement = Retirement(state.generations, (target for target, _ in state.live_targets))
        self._kept: deque[FileSet] = deque(maxlen=KEEP_GENERATIONS)
        self._rested = 0.0
        """When (monotonic) as many reloads as BURST may go out at once again."""
        self.live: Live | None = None
        self._last_digest = state.live_digest
        self._unretired: Live | None = None
        """A new proof whose old workers are not accounted for yet."""
        self._silent: tuple[object, ...] = ()
        """What was published when nginx answered nowhere, and where that was: looking for it once is enough."""
        self._mute: tuple[object, ...] = ()
        """Which nginx answered nowhere though the last good configuration is published: nothing more can be done about that."""
        self.silence = ""
        """Why nginx does not answer its clients, as of the latest look between cycles; empty while it does."""
        self.table = RouteTable()
        """The one that is live."""
        self._alive: frozenset[str] = frozenset()
        """Names of the upstreams that have a target."""
        self.drain: DrainPhase = "serving"
        self.places = state.places
        """Hosts with paths that are live: `a.example/git`."""

    @property
    def pause(self) -> float:
        """Seconds until another reload may go out; negative when it may."""
        return self._rested - time.monotonic() - (BURST - 1) / RATE

    def parsing(self, hosts: int) -> float:
        """Seconds that nginx may need to parse so many, and what is hand-written beside them."""
        return max(self._parts.tester.parsing, PARSE_EACH * hosts)

    async def is_touched(self) -> bool:
        """Whether somebody else has changed what nginx runs, or would run after its next start."""
        if not self.live or not self._kept:
            return False
        return self._published() != self.live.digest or bool(await self._parts.drafts.damaged(self._kept[-1]))

    def _published(self) -> str:
        """The digest that nginx would read now; empty when there is none, or nothing leads to it."""
        reference = self._parts.reference
        return "" if self.policy.nginx.wait_after_boot and not reference.is_marked() else reference.current()

    def render(self, course: Course, served: Served, nginx: NginxInstance) -> FileSet:
        with course.stage("render"):
            return self.policy.renderer.render(
                served.table, nginx.view, replace(self.policy.nginx, drain=self.drain), served.files
            )

    async def _is_live(self, fileset: FileSet, nginx: NginxInstance, wake: Wake) -> bool:
        """Whether nginx is known to run `fileset`; asks it when it is another nginx, or when everything is read anew."""
        known = self.live is not None and self.live.is_in(nginx) and self.live.digest == fileset.digest
        if known and not wake.relist and not self.silence:
            return True
        if self._published() != fileset.digest:
            return False
        adopted = await self._parts.reloader.adopt(fileset.digest, nginx, self.workers(nginx), self.live)
        if adopted:
            self.live = self._unretired = adopted
        return adopted is not None

    async def bring_live(
        self, course: Course, plan: Plan, snapshot: Snapshot, nginx: NginxInstance, intend: Callable[[RouteTable], None]
    ) -> FileSet:
        """Publishes what is wanted, less what nginx refuses of it, unless that is live already. `intend`: is told what nginx is
        about to be given, which it may know even when nobody is left to prove it."""
        if nginx.view.neighbours.refused:
            raise Refused(nginx.view.neighbours.refused)
        if self._parts.reference.is_replaced((nginx.id, nginx.started_at)) and self.policy.nginx.wait_after_boot:
            raise NginxMissing(REPLACED.format(nginx.name))
        files = self.policy.operator_files
        wanted, coming = Served(plan.table, files), Served(plan.ahead, files)
        served = self.acceptance.reduce(wanted, coming)
        fileset = self.render(course, served, nginx)
        course.changes = changes.between(self.table, served.table)
        if not await self._is_live(fileset, nginx, course.wake):
            with course.stage("test"):
                tested = await self.acceptance.accept(wanted, fileset, lambda part: self.render(course, part, nginx), nginx)
            if tested.draft.fileset is not fileset:
                fileset, served = tested.draft.fileset, self.acceptance.reduce(wanted, coming)
                course.changes = changes.between(self.table, served.table)
            if not await self._is_live(fileset, nginx, course.wake):
                await self._check_answers(nginx)
                self.retirement.attempted(served.table)
                intend(served.table)
                await self._parts.drafts.mark_alive(self._alive_with(served.table))
                await self._publish(course, tested, wanted, nginx)
        if self.table is not served.table:
            gone, new = (_places(vhosts) for vhosts in identity.between(self.table.vhosts, served.table.vhosts))
            self.places = (self.places if self.table.vhosts else frozenset()) - gone | new
            self._alive = self._alive_with(served.table)
            self.table = served.table
            await self._parts.drafts.mark_alive(self._alive)
        self.acceptance.is_live(served, fileset)
        self._last_digest = fileset.digest
        await self._retire(course, snapshot, nginx)
        if not self._kept or self._kept[-1].digest != fileset.digest:
            self._kept.append(fileset)
        if course.wake.relist:
            await self._parts.drafts.mend(fileset)
            await self._parts.drafts.collect(self._kept)
        return fileset

    async def _check_answers(self, nginx: NginxInstance) -> None:
        """Raises Silent while an nginx that could not be reached does not answer: what is published to it could not be proved,
        and another reload every few seconds would not help."""
        if self._mute and self._mute == _run(nginx) and await self._parts.reloader.digest(nginx) is None:
            raise Silent(NOWHERE)
        self._mute = ()

    def _alive_with(self, table: RouteTable) -> frozenset[str]:
        """Names of the files of upstreams and targets once `table` is live."""
        gone, new = identity.between(self.table.vhosts, table.vhosts)
        return self._alive - vhosts.alive_files(gone) | vhosts.alive_files(new)

    async def test_ahead(self, course: Course, coming: Served, nginx: NginxInstance) -> bool:
        """Whether there was anything that nginx had not accepted before. Raises Refused."""
        fileset = self.render(course, self.acceptance.reduce(coming, coming), nginx)
        if self.acceptance.knows(fileset, nginx):
            return False
        with course.stage("test"):
            await self.acceptance.accept(coming, fileset, lambda part: self.render(course, part, nginx), nginx)
        return True

    async def _retire(self, course: Course, snapshot: Snapshot, nginx: NginxInstance) -> None:
        now = steady.now()
        if self._unretired:
            self.retirement.proved(self._unretired, self.table, snapshot, now)
            self._unretired = None
        living = partial(self._parts.reloader.living, nginx)
        course.retired = await self.retirement.end(snapshot, self.table, now, nginx.id, living)
        self._parts.inventory.watch_addresses(always=self.retirement.is_watchful(now))

    async def _publish(self, course: Course, tested: Tested, wanted: Served, nginx: NginxInstance) -> None:
        with course.stage("promote"):
            published = await self._parts.reference.promote(tested, self._last_digest)
        hosts = len(wanted.table.vhosts)
        try:
            await self._reload(course, published, nginx, hosts)
        except NotProved as error:
            where = (published.digest, nginx.id, nginx.started_at, nginx.addresses)
            if isinstance(error, Silent) and not self._parts.reference.can_restore(published):
                self._mute = _run(nginx)
            if isinstance(error, Silent) and where != self._silent:
                self._silent = where
                raise
            blamed = await self._judge(error, published, wanted, tested.draft)
            await self._put_back(course, published, nginx, max(hosts, len(self.table.vhosts)), error, blamed)
        course.result = "live"
        if course.wake.at:
            course.event_to_live = time.monotonic() - course.wake.at

    async def _reload(self, course: Course, published: Published, nginx: NginxInstance, hosts: int) -> None:
        now = time.monotonic()
        self._rested = min(max(self._rested, now) + 1 / RATE, now + BURST / RATE)
        before, self.live = self.live, None  # until it is proved, whatever interrupts the proof
        with course.stage("prove"):
            self.live = self._unretired = await self._parts.reloader.reload(
                published,
                nginx,
                before,
                self.workers(nginx),
                self.parsing(hosts),
                lambda: self._published() == published.digest,
            )

    def workers(self, nginx: NginxInstance) -> int:
        return nginx.view.neighbours.workers or self.policy.nginx.workers

    async def _judge(self, error: NotProved, published: Published, wanted: Served, draft: Draft) -> frozenset[str] | None:
        """Who is at fault: nobody, for what nginx says about files that somebody else has changed meanwhile; they are mended."""
        foreign = self._published() != published.digest
        mended = [name for each in (draft.fileset, *self._kept) for name in await self._parts.drafts.mend(each)]
        if foreign or mended:
            return frozenset()
        self._parts.tester.doubt()
        return self.acceptance.blame(error.reason, wanted, draft) if error.refused else frozenset()

    async def _put_back(
        self,
        course: Course,
        published: Published,
        nginx: NginxInstance,
        hosts: int,
        why: NotProved,
        blamed: frozenset[str] | None,
    ) -> None:
        """The last good configuration again, proved. Raises NotProved in any case: the wanted one is not live."""
        if not self._parts.reference.can_restore(published):
            raise why
        await self._parts.drafts.mark_alive(self._alive)
        back = await self._parts.reference.restore(published)
        if not back.digest:
            raise NotProved(f"{why.reason}; nothing of ours is published")
        try:
            await self._reload(course, back, nginx, hosts)
        except Silent:
            self._mute = _run(nginx)
            raise
        except NotProved as error:
            raise NotProved(f"{why.reason}; and the last good configuration could not be proved: {error.reason}") from error
        raise PutBack(f"{why.reason}; the last good configuration is back", blamed)


def _run(nginx: NginxInstance) -> tuple[object, ...]:
    return nginx.id, nginx.started_at, nginx.addresses


def _places(vhosts: Iterable[VirtualHost]) -> frozenset[str]:
    return frozenset([vhost.host + location.path for vhost in vhosts for location in vhost.locations])
