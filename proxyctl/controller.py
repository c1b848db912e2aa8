"""The single writer: one Wake in, one CycleReport out, one decision in between.

A cycle reads what the wake names, decides, and publishes what differs from what is Live (never from what is on disk, so a lost
signal is not forgotten). Everything that fails leaves the last good configuration where it was.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from jinja2 import TemplateError

from proxyctl import steady
from proxyctl.acceptance import Acceptance
from proxyctl.model import (
    CycleReport,
    CycleResult,
    EngineRefused,
    EngineUnavailable,
    FileSet,
    Plan,
    RouteTable,
    Snapshot,
    Wake,
)
from proxyctl.observe.events import Wakes
from proxyctl.observe.inventory import Inventory
from proxyctl.observe.probes import Prober
from proxyctl.plan import changes, labels, planner, routes
from proxyctl.plan.ownership import ClaimRule
from proxyctl.plan.quarantine import Served
from proxyctl.plan.vhosts import NginxSettings, Renderer
from proxyctl.publish.draft import Drafts
from proxyctl.publish.nginx import JoinResult, NginxContainer, NginxInstance, NginxMissing
from proxyctl.publish.promote import Published, Reference
from proxyctl.publish.reload import Live, NotProved, Reloader
from proxyctl.publish.test import Refused, Tested, Tester
from proxyctl.retirement import Retirement
from proxyctl.state import State, StateStore

KEEP_GENERATIONS = 5
RETRY_AFTER = 3.0
"""The longest pause in seconds between two attempts after a failure: an attempt costs little, and what failed may be over."""
LONG_PARSE, CROWD = 0.5, 0.01
"""Seconds; share of all hosts."""
BURST, RATE = 20, 2.0
"""Reloads at once, and a second after that: old workers live on for a while after each."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What configuration decides; replaced as a whole when the files change."""

    defaults: labels.Defaults
    join: bool
    nginx: NginxSettings
    renderer: Renderer
    operator_files: Mapping[str, str]
    claims: tuple[ClaimRule, ...] = ()
    own_ports: frozenset[int] = frozenset()


@dataclass(slots=True)
class Parts:
    inventory: Inventory
    prober: Prober
    container: NginxContainer
    drafts: Drafts
    tester: Tester
    reference: Reference
    reloader: Reloader
    store: StateStore
    wakes: Wakes


@dataclass(slots=True)
class _Course:
    """What one cycle has come to so far."""

    number: int
    wake: Wake
    stages: dict[str, float] = field(default_factory=dict)
    result: CycleResult = "unchanged"
    error: str = ""
    changes: tuple[str, ...] = ()
    event_to_live: float | None = None
    retired: tuple[str, ...] = ()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.monotonic() - began


class Controller:
    def __init__(self, parts: Parts, policy: Policy, state: State, told: Callable[[CycleReport], None]) -> None:
        self._parts = parts
        self.policy = policy
        self._offered: Policy | None = None
        self._cycling = asyncio.Lock()
        self._planner = planner.Planner()
        good = Served(RouteTable(state.fallback_hosts), state.fallback_files)
        self._acceptance = Acceptance(parts.drafts, parts.tester, good)
        self._retirement = Retirement(state.generations, (target for target, _ in state.live_targets))
        self.state = state
        self._told = told
        self._number = 0
        self._kept: deque[FileSet] = deque(maxlen=KEEP_GENERATIONS)
        self._failures = 0
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._rested = 0.0
        """When (monotonic) as many reloads as BURST may go out at once again."""
        self._snapshot = Snapshot({})
        self._unjoinable: Mapping[str, str] = {}
        self.nginx: NginxInstance | None = None
        self.live: Live | None = None
        self._unretired: Live | None = None
        """A new proof whose old workers are not accounted for yet."""
        self.plan: Plan | None = None
        self.published = RouteTable()
        """The table that is live."""
        self._places: frozenset[str] | None = None
        """Of `published`; None before there is one in this run."""
        self._remembered: RouteTable | None = None
        self._born = time.monotonic()
        self._crowded: float | None = None
        """Since when (monotonic) a crowd warms up."""
        self._doubtful = parts.store.doubtful and parts.reference.is_marked()
        """The state is lost or old, and nginx serves what it does not tell about."""
        self.in_sync = False
        """Whether what is live is what is wanted, as of the latest cycle."""
        self.beat = time.monotonic()
        """When the loop last showed that it is alive (monotonic)."""

    @property
    def snapshot(self) -> Snapshot:
        """The containers as of the latest cycle that could read them."""
        return self._snapshot

    async def run(self) -> None:
        while True:
            wake = await self._parts.wakes.next()
            await self._pace(wake)
            await self.cycle(wake.merge(self._parts.wakes.take()))

    def offer(self, policy: Policy) -> None:
        """Takes a changed configuration over in the next cycle, if it renders and nginx accepts what it renders."""
        self._offered = policy
        self._parts.wakes.post(Wake(("configuration changed",), at=time.monotonic()))

    async def close(self) -> None:
        """Ends what runs beside the loop; nginx is left as it is."""
        for timer in self._timers.values():
            timer.cancel()
        await self._parts.prober.close()

    async def _pace(self, wake: Wake) -> None:
        """Holds back while it storms, until another reload may go out, or something urgent comes."""
        pause = self._rested - time.monotonic() - (BURST - 1) / RATE
        if pause > 0 and not wake.urgent:
            await self._parts.wakes.urgent_within(pause)

    async def look_at_files(self) -> None:
        """Wakes the loop when somebody else has changed what nginx runs, or would run after its next start."""
        async with self._cycling:
            if not self.live or not self._kept:
                return
            foreign = self._parts.reference.current() != self.live.digest
            if foreign or await self._parts.drafts.damaged(self._kept[-1]):
                self._parts.wakes.post(Wake(("somebody else changed the files of nginx",), relist=True, at=time.monotonic()))

    async def cycle(self, wake: Wake) -> CycleReport:
        """One whole decision. Never raises for what the outside world does: the report says it."""
        async with self._cycling:
            return await self._cycle(wake)

    async def _cycle(self, wake: Wake) -> CycleReport:
        self._number += 1
        course = _Course(self._number, wake)
        try:
            await self._decide(course)
        except EngineUnavailable as error:
            course.result, course.error = "unreadable", str(error)
        except Refused as error:
            course.result, course.error = "refused", str(error)
        except NotProved as error:
            course.result, course.error = "restored", error.reason
        except (EngineRefused, NginxMissing, OSError, TemplateError, ValueError) as error:
            course.result, course.error = "failed", f"{error}"
        self.in_sync = not course.error and not self._doubtful
        self._try_again(course)
        report = CycleReport(
            number=course.number,
            at_unix=time.time(),
            reasons=wake.reasons,
            result=course.result,
            digest=self.live.digest if self.live else "",
            changes=course.changes,
            error=course.error,
            rejections=self.plan.rejections if self.plan else (),
            stages=course.stages,
            event_to_live=course.event_to_live,
            reloads=self._parts.reloader.signals,
            retired=course.retired,
        )
        self.beat = time.monotonic()
        self._told(report)
        return report

    def _try_again(self, course: _Course) -> None:
        """A cycle that failed may have swallowed an event: everything is read anew, soon at first and then less often."""
        self._failures = self._failures + 1 if course.error else 0
        if self._failures:
            self._later(min(2.0 ** min(self._failures - 1, 16), RETRY_AFTER), "try again", relist=True)

    def _later(self, seconds: float, reason: str, *, relist: bool = False) -> None:
        """Wakes the loop for this reason, unless that is to happen by then already: every cycle may ask for it."""
        loop, timer = asyncio.get_running_loop(), self._timers.get(reason)
        if timer and not timer.cancelled() and timer.when() > loop.time():
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[reason] = loop.call_later(seconds, self._parts.wakes.post, Wake((reason,), relist=relist))

    # ------------------------------------------------------------ deciding

    async def _decide(self, course: _Course) -> None:
        wake, parts = course.wake, self._parts
        with course.stage("read"):
            self._snapshot = await parts.inventory.refresh(wake, time.monotonic())
            if self.nginx is None or wake.relist or wake.nginx:
                self.nginx = await parts.container.ensure()
        nginx = self.nginx
        if self._offered:
            await self._take_over(course, nginx, self._offered)
        with course.stage("plan"):
            networks = self._planner.networks(self._inputs(nginx))
        with course.stage("join"):
            joined = await parts.container.join(nginx, networks) if self.policy.join else JoinResult()
        self._unjoinable = joined.refused
        if joined.networks:
            self.state = replace(self.state, joined=self.state.joined | joined.networks)
            parts.store.save(self.state)
            self.nginx = nginx = await parts.container.ensure()
        self.plan = plan = self._plan(course, nginx)
        trusted = () if self.live else self.state.live_targets
        parts.prober.watch(plan.probes, trusted)
        if trusted:
            plan = self.plan = self._plan(course, nginx)
        if self._waits(plan):
            return
        leaving = asyncio.create_task(self._leave(nginx, plan))
        try:
            fileset = await self._bring_live(course, plan, nginx)
        finally:
            await leaving
            self.plan = replace(plan, rejections=plan.rejections + self._acceptance.rejections(plan.ahead))
        await self._remember(plan, fileset, tidy=wake.relist)
        if plan.ahead is not plan.table:
            await self._test_ahead(course, plan, nginx)
        if plan.holding:
            self._later(1.0, "warming up")
        if plan.until_unix < math.inf:
            self._later(max(0.0, plan.until_unix - steady.now()) + 0.01, "the end of a grace")

    def _waits(self, plan: Plan) -> bool:
        """Whether nginx had better go on with what it has, for a moment: without a state that tells what was healthy, a first
        publish before the first checks would drop sites that are served now; and where nginx needs long to parse, a crowd that
        warms up is published at once and not in parts."""
        now = time.monotonic()
        self._doubtful = self._doubtful and plan.holding > 0 and now - self._born < routes.WARM_UP
        crowd = self._parts.tester.parsing > LONG_PARSE and plan.holding > CROWD * len(plan.ahead.vhosts)
        self._crowded = (self._crowded or now) if crowd else None
        waits = self._doubtful or (self._crowded is not None and now - self._crowded < routes.WARM_UP)
        if waits:
            self._later(0.05, "waiting for the first checks")
        return waits

    async def _take_over(self, course: _Course, nginx: NginxInstance, offered: Policy) -> None:
        """Raises what is wrong with the offer, and then it is dropped and everything is as before. A hand-written vhost that is
        wrong is not: it goes into quarantine by itself."""
        before, self.policy, self._offered = self.policy, offered, None
        judged = False
        try:
            table = self._plan(course, nginx).ahead
            wanted = Served(table, before.operator_files)
            served = self._acceptance.reduce(wanted, wanted)
            with course.stage("test"):
                await self._acceptance.test(self._render(course, served, nginx), nginx)
            self._acceptance.pardon()
            judged = True
        except (Refused, TemplateError, ValueError):
            self.policy, judged = before, True
            self._parts.wakes.post(Wake(("back to the configuration before",)))
            raise
        finally:
            if not judged:  # the engine or the disk failed: the offer stands, unless there is a newer one
                self.policy = before
                if self._offered is None:
                    self._offered = offered

    def _plan(self, course: _Course, nginx: NginxInstance) -> Plan:
        with course.stage("plan"):
            return self._planner.plan(self._inputs(nginx))

    def _inputs(self, nginx: NginxInstance) -> routes.Inputs:
        return routes.Inputs(
            snapshot=self._snapshot,
            standing=self._parts.prober.standing,
            owners=self.plan.owners if self.plan else self.state.owners,
            nginx=nginx.view,
            defaults=self.policy.defaults,
            join=self.policy.join,
            unjoinable=self._unjoinable,
            published=self.state.places if self._places is None else self._places,
            now_unix=steady.now(),
            claims=self.policy.claims,
            own_ports=self.policy.own_ports,
        )

    def _render(self, course: _Course, served: Served, nginx: NginxInstance) -> FileSet:
        with course.stage("render"):
            return self.policy.renderer.render(served.table, nginx.view, self.policy.nginx, served.files)

    async def _is_live(self, fileset: FileSet, nginx: NginxInstance, wake: Wake) -> bool:
        """Whether nginx is known to run `fileset`; asks it when it is another nginx, or when everything is read anew."""
        if self.live and self.live.is_in(nginx) and self.live.digest == fileset.digest and not wake.relist:
            return True
        if self._parts.reference.current() != fileset.digest:
            return False
        adopted = await self._parts.reloader.adopt(fileset.digest, nginx, self.policy.nginx.workers)
        if adopted:
            self.live = self._unretired = adopted
        return adopted is not None

    # ------------------------------------------------------------ publishing

    async def _bring_live(self, course: _Course, plan: Plan, nginx: NginxInstance) -> FileSet:
        """Publishes what is wanted, less what nginx refuses of it, unless that is live already."""
        files = self.policy.operator_files
        wanted, coming = Served(plan.table, files), Served(plan.ahead, files)
        served = self._acceptance.reduce(wanted, coming)
        fileset = self._render(course, served, nginx)
        course.changes = changes.between(self.published, served.table)
        if not await self._is_live(fileset, nginx, course.wake):
            with course.stage("test"):
                tested = await self._acceptance.accept(wanted, fileset, lambda part: self._render(course, part, nginx), nginx)
            fileset, served = tested.draft.fileset, self._acceptance.reduce(wanted, coming)
            course.changes = changes.between(self.published, served.table)
            if not await self._is_live(fileset, nginx, course.wake):
                await self._publish(course, tested, wanted, nginx)
        if self._places is None or self.published is not served.table:
            self.published = served.table
            self._places = frozenset([vhost.host + loc.path for vhost in served.table.vhosts for loc in vhost.locations])
        self._acceptance.is_live(served, fileset)
        await self._retire(course, nginx)
        if course.wake.relist:
            await self._parts.drafts.mend(fileset)
        return fileset

    async def _retire(self, course: _Course, nginx: NginxInstance) -> None:
        if self._unretired:
            self._retirement.proved(self._unretired, self.published)
            self._unretired = None
        course.retired = await self._retirement.end(self._snapshot, self.published, lambda: self._parts.reloader.living(nginx))
        self._parts.inventory.watch_addresses(always=self._retirement.watchful)

    async def _publish(self, course: _Course, tested: Tested, wanted: Served, nginx: NginxInstance) -> None:
        with course.stage("promote"):
            published = await self._parts.reference.promote(tested, self.state.live_digest)
        try:
            await self._reload(course, published, nginx)
        except NotProved as error:
            await self._judge(error, published, wanted, tested.draft.fileset)
            await self._put_back(course, published, nginx, error)
        course.result = "live"
        if course.wake.at:
            course.event_to_live = time.monotonic() - course.wake.at

    async def _reload(self, course: _Course, published: Published, nginx: NginxInstance) -> None:
        now = time.monotonic()
        self._rested = min(max(self._rested, now) + 1 / RATE, now + BURST / RATE)
        with course.stage("prove"):
            self.live = self._unretired = await self._parts.reloader.reload(
                published, nginx, self.live, self.policy.nginx.workers, self._parts.tester.parsing
            )

    async def _judge(self, error: NotProved, published: Published, wanted: Served, fileset: FileSet) -> None:
        """Blames nobody for what nginx says about files that somebody else has changed meanwhile; mends them instead."""
        foreign = self._parts.reference.current() != published.digest
        mended = [name for each in (fileset, *self._kept) for name in await self._parts.drafts.mend(each)]
        if error.refused and not foreign and not mended:
            self._acceptance.blame(error.reason, wanted, fileset)

    async def _put_back(self, course: _Course, published: Published, nginx: NginxInstance, why: NotProved) -> None:
        """The last good configuration again, proved. Raises NotProved in any case: the wanted one is not live."""
        if not published.previous or published.previous == published.digest:
            raise why
        back = await self._parts.reference.restore(published)
        try:
            await self._reload(course, back, nginx)
        except NotProved as error:
            self.live = None
            raise NotProved(f"{why.reason}; and the last good configuration could not be proved: {error.reason}") from error
        raise NotProved(f"{why.reason}; the last good configuration is back")

    async def _test_ahead(self, course: _Course, plan: Plan, nginx: NginxInstance) -> None:
        """Lets nginx accept what will be needed when the containers that are being created run."""
        coming = Served(plan.ahead, self.policy.operator_files)
        fileset = self._render(course, self._acceptance.reduce(coming, coming), nginx)
        if self._acceptance.knows(fileset, nginx):
            return
        with course.stage("test"):
            await self._acceptance.accept(coming, fileset, lambda part: self._render(course, part, nginx), nginx)
        self.plan = replace(plan, rejections=plan.rejections + self._acceptance.rejections(plan.ahead))
        if course.result == "unchanged":
            course.result = "tested"

    async def _leave(self, nginx: NginxInstance, plan: Plan) -> None:
        """Takes nginx out of networks that it was put into and that have no target any more: at once, because what removes the
        last container removes its network next."""
        left = self.state.joined - plan.networks
        if left:
            self.nginx = None
            await self._parts.container.leave(nginx, left)
            self.state = replace(self.state, joined=self.state.joined - left)

    async def _remember(self, plan: Plan, fileset: FileSet, *, tidy: bool) -> None:
        if not self._kept or self._kept[-1].digest != fileset.digest:
            self._kept.append(fileset)
        if tidy:
            await self._parts.drafts.collect(self._kept)
        serving = self.state.live_targets
        if self._remembered is not self.published:
            self._remembered = self.published
            locations = [location for vhost in self.published.vhosts for location in vhost.locations]
            serving = tuple(dict.fromkeys((t.target, location.route) for location in locations for t in location.serving))
        fallback = self._acceptance.fallback()
        state = replace(
            self.state,
            owners=plan.owners,
            live_digest=fileset.digest,
            live_targets=serving,
            places=self._places or frozenset(),
            generations=self._retirement.generations,
            fallback_hosts=fallback.table.vhosts,
            fallback_files=fallback.files,
        )
        if state != self.state:
            self._parts.store.save(state)
            self.state = state
