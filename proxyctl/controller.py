"""The single writer: one Wake in, one CycleReport out, one decision in between.

A cycle reads what the wake names, decides, and publishes what differs from what is Live (never from what is on disk, so a lost
signal is not forgotten). Everything that fails leaves the last good configuration where it was.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import structlog
from jinja2 import TemplateError

from proxyctl import identity, steady
from proxyctl.cycle import Course, Parts, Policy
from proxyctl.fileset import FileSet
from proxyctl.leaving import Leaving
from proxyctl.model import Drain, DrainPhase, EngineRefused, EngineUnavailable, Plan, RouteTable, Snapshot
from proxyctl.patience import Patience
from proxyctl.plan import drain, generations, ownership, planner, routes
from proxyctl.plan.quarantine import Served
from proxyctl.plan.vhosts import Unsafe
from proxyctl.publication import Publication, PutBack
from proxyctl.publish import by_hand
from proxyctl.publish.nginx import NginxInstance, NginxMissing
from proxyctl.publish.reload import Live, NotProved, Silent
from proxyctl.publish.test import Refused
from proxyctl.report import CycleReport, Wake
from proxyctl.rollouts import Rollouts
from proxyctl.state import State
from proxyctl.stops import Stops
from proxyctl.timers import RETRY_AFTER, Timers
from proxyctl.versions import Illegal, Order, Told, Word, signature

log = structlog.get_logger()

GRACES_END = 10.0
"""Seconds: graces that end close together end in one reload."""
ADDRESSES = 1000
"""Networks in which the address of nginx is remembered."""
WRITTEN_WITHIN = 1.0
"""Seconds after which a decision is written down though a new place that waits for its first target is about to go live."""


class Controller:
    def __init__(self, parts: Parts, policy: Policy, state: State, told: Callable[[CycleReport], None]) -> None:
        self._parts = parts
        self._publication = Publication(parts, policy, state)
        self._offered: Policy | None = None
        self._cycling = asyncio.Lock()
        self._planner = planner.Planner()
        self.rollouts = Rollouts(state.rollouts, steady.now(), frozen=state.frozen, order=state.freeze)
        self._stops = Stops(parts.stop, lambda why: self._timers.later(RETRY_AFTER, why))
        self.state = state
        self._told = told
        self._number = 0
        self._timers = Timers(parts.wakes.post)
        self.snapshot = Snapshot({})
        """The containers as of the latest cycle that could read them."""
        self._unjoinable: Mapping[str, str] = {}
        self._leaving = Leaving()
        self.nginx: NginxInstance | None = None
        self._has_left = False  # a network: its description is old
        self.plan: Plan | None = None
        self._remembered: RouteTable | None = None
        self._waiting = 0.0
        self._patience = Patience(doubtful=parts.store.doubtful and parts.reference.is_marked())
        self.in_sync = False
        """Whether what is live is what is wanted, as of the latest cycle."""
        self.declined: tuple[Policy, str] | None = None
        """The latest configuration that was not taken over, and why."""
        self._unreadable = ""
        """Why the latest configuration could not be read, until it is reported."""
        self._latest_fault = ""
        self._runs: bool | None = None
        """Whether nginx runs, as of the latest look; None before one that could tell."""
        self.silence = ""
        """Why nginx does not answer its clients, as of the latest look; empty while it does."""
        self.beat = time.monotonic()
        """When the loop last showed that it is alive (monotonic)."""

    @property
    def policy(self) -> Policy:
        return self._publication.policy

    @property
    def live(self) -> Live | None:
        return self._publication.live

    @property
    def published(self) -> RouteTable:
        """The table that is live."""
        return self._publication.table

    @property
    def workers(self) -> int:
        """How many workers nginx has."""
        return self._publication.workers(self.nginx) if self.nginx else 1

    async def answers(self, address: tuple[str, int]) -> bool:
        """Whether nginx answers a new connection to one of its addresses."""
        return await self._parts.reloader.answers(address)

    @property
    def nginx_up(self) -> bool | None:
        """Whether nginx runs and answers its clients; None while nothing is known of it."""
        return self._runs and not self.silence

    @property
    def drain(self) -> DrainPhase:
        return "drained" if self._leaving.drained else self._publication.drain

    async def change_drain(self, notice: float | None, who: str) -> None:
        """Lets the host be left, with so many seconds for the balancer to notice; None: no more. Raises OSError, and then nothing
        has changed. It holds over restarts."""
        async with self._cycling:
            since = self.state.drain.since_unix if self.state.drain else 0.0
            self._save(drain=None if notice is None else Drain(since, notice))
        reason = f"{'undrained' if notice is None else 'drained'} by {who}"
        self._parts.wakes.post(Wake((reason,), urgent=True, at=time.monotonic()))

    async def release(self, host: str, who: str, why: str = "") -> str:
        """Lets another project have the host at once; returns the service that had it. Raises Illegal, OSError."""
        async with self._cycling:
            if self.plan is None:
                raise Illegal("the controller has just started and has read nothing yet: try again")
            kept, service = ownership.without(host, self.plan.owners, self._planner.holders(host))
            self._save(owners=kept)
            self.plan = replace(self.plan, owners=kept)
        self._parts.wakes.post(Wake((f"{host} was released{signature(who, why)}",), urgent=True, at=time.monotonic()))
        return service

    async def run(self) -> None:
        while True:
            wake = await self._parts.wakes.next()
            await self._pace(wake)
            await self.cycle(wake.merge(self._parts.wakes.take()))

    def offer(self, policy: Policy) -> None:
        """Takes a changed configuration over in the next cycle, if it renders and nginx accepts what it renders."""
        self._offered = policy
        self._parts.wakes.post(Wake(("configuration changed",), at=time.monotonic()))

    def unreadable(self, problem: str) -> None:
        """A changed configuration could not even be read: the next report says so."""
        self._unreadable = problem
        self._parts.wakes.post(Wake(("configuration changed",), at=time.monotonic()))

    async def close(self) -> None:
        """Ends what runs beside the loop; nginx is left as it is."""
        self._timers.close()
        self._stops.close()
        await self._parts.prober.close()

    async def _pace(self, wake: Wake) -> None:
        """Holds back while it storms, until another reload may go out, or something urgent comes."""
        pause = self._publication.pause
        if pause > 0 and not wake.urgent:
            await self._parts.wakes.urgent_within(pause)

    def heard(self, silence: str) -> None:
        """Takes in why nginx does not answer its clients, or, when empty, that it does again; see `Heartbeat`."""
        self.silence = self._publication.silence = silence
        reason = "nginx does not answer" if silence else "nginx answers again"
        self._parts.wakes.post(Wake((reason,), relist=True, urgent=True, at=time.monotonic()))

    async def look_at_files(self) -> None:
        """Wakes the loop when somebody else has changed what nginx runs, or would run after its next start."""
        async with self._cycling:
            try:
                touched = await self._publication.is_touched()
            except OSError:  # what cannot be looked at is not as it was
                touched = True
            if touched:
                self._parts.wakes.post(Wake(("somebody else changed the files of nginx",), relist=True, at=time.monotonic()))

    async def cycle(self, wake: Wake) -> CycleReport:
        """One whole decision. Never raises for what the outside world does: the report says it."""
        async with self._cycling:
            return await self._cycle(wake)

    async def _cycle(self, wake: Wake) -> CycleReport:
        self._number += 1
        course, learned = Course(self._number, wake, declined=self._unreadable), False
        self._unreadable = ""
        try:
            await self._decide(course)
        except EngineUnavailable as error:
            course.result, course.error = "unreadable", str(error)
        except Refused as error:
            course.result, course.error = "refused", str(error)
        except Silent as error:
            course.result, course.error, learned = "failed", self.silence or error.reason, True
        except PutBack as error:
            course.result, course.error, learned = "restored", error.reason, True
        except NotProved as error:
            course.result, course.error = "failed", error.reason
        except (EngineRefused, NginxMissing, OSError, TemplateError, Unsafe) as error:
            course.result, course.error = "failed", f"{error}"
        except Exception as error:  # noqa: BLE001 - nginx goes on with what it has, and the next cycle may succeed
            course.result, course.error = "failed", self._fault(error)
        if self.silence and not course.error:
            course.result, course.error = "failed", self.silence
        self.in_sync = not course.error and not self._patience.doubtful
        self._timers.try_again(failed=bool(course.error), learned=learned)
        report = course.report(
            self.live.digest if self.live else "",
            self.plan.rejections if self.plan else (),
            self._parts.reloader.signals,
            self.rollouts.lines,
            ((service, failed.reason) for service, failed in self.rollouts.rolled_back),
        )
        self.rollouts.lines.clear()
        self.rollouts.rolled_back.clear()
        self.beat = time.monotonic()
        self._told(report)
        return report

    def _fault(self, error: Exception) -> str:
        """Logs a fault of proxyctl itself, once until there is another one; what a report says of it."""
        text = f"internal error, see the log: {type(error).__name__}: {error}"
        if text != self._latest_fault:
            log.error("internal error", exc_info=error)
        self._latest_fault = text
        return text

    # ------------------------------------------------------------ deciding

    async def _decide(self, course: Course) -> None:
        wake, parts = course.wake, self._parts
        with course.stage("read"):
            nginx = await self._read(wake)
        if self._offered and not nginx.view.neighbours.refused:
            await self._consider(course, nginx, self._offered)
        with course.stage("plan"):
            networks, _ = self._planner.needs(self._inputs(nginx))
        with course.stage("join"):
            missing = networks - nginx.view.networks.keys() if self.policy.join and not nginx.view.host_network else frozenset()
            self._save(joined=self.state.joined | (missing - self._unjoinable.keys()))  # so that it will leave them, too
            joined = await parts.nginx.join(nginx, missing, self.state.addresses)
            self._unjoinable = joined.refused
            others = {network: each for network, each in self.state.addresses.items() if network not in joined.asked}
            self._save(
                joined=(self.state.joined | joined.networks) - joined.refused.keys(),
                addresses=dict([*others.items(), *joined.asked.items()][-ADDRESSES:]),
            )
        if joined.networks:
            self.nginx = nginx = await parts.nginx.ensure()
        with course.stage("plan"):
            _, probes = self._planner.needs(self._inputs(nginx))
        parts.prober.watch(probes, () if self.live else self.state.live_targets)
        if await self._patience.waits(parts.prober, self._publication.parsing(len(probes)), parts.wakes, urgent=wake.urgent):
            self._timers.later(0.0, "a crowd was asked")
            return
        self.plan = plan = self._plan(course, nginx)
        plan = await self._roll(course, nginx, plan)
        if self._patience.doubts(plan):
            self._timers.later(0.05, "waiting for the first checks")
            return
        self._publication.drain = drain.phase(self.state.drain, steady.now())
        leaving = asyncio.create_task(self._leave(nginx, plan))
        try:
            fileset = await self._publication.bring_live(course, plan, self.snapshot, nginx, self._intend)
        except PutBack as error:
            if error.blamed is not None:
                self.rollouts.refused(self._planner, error.reason, error.blamed)
            raise
        except (NotProved, EngineUnavailable, EngineRefused):
            if self.live is None:
                self.rollouts.unknown()
            raise
        finally:
            await leaving
            self.plan = self._with_refusals(plan, nginx)
        self._roll_on(nginx, plan)
        self._remember(course, plan, fileset, nginx)
        self._stops.begin(self.rollouts.to_stop & self.rollouts.retiring)
        self.rollouts.to_stop.clear()
        if plan.ahead is not plan.table:
            await self._test_ahead(course, plan, nginx)
        await self._follow_drain(nginx)
        if plan.holding:
            self._timers.later(1.0, "warming up")
        if plan.until_unix < math.inf:
            self._timers.at(math.ceil(plan.until_unix / GRACES_END) * GRACES_END, "the end of a grace")

    async def _read(self, wake: Wake) -> NginxInstance:
        """Takes in what the containers are and, at the same time, what nginx is."""
        known = self.nginx if self.in_sync and not (wake.relist or wake.nginx or self._has_left) else None
        looking = asyncio.sleep(0, known) if known else self._parts.nginx.ensure()
        reading = self._parts.inventory.refresh(wake, time.monotonic())
        snapshot, nginx = await asyncio.gather(reading, looking, return_exceptions=True)
        if isinstance(snapshot, BaseException):
            raise snapshot
        self.snapshot = snapshot
        if isinstance(nginx, BaseException):
            self._runs = False if isinstance(nginx, NginxMissing) else self._runs
            raise nginx
        self.nginx, self._has_left, self._runs = nginx, False, True
        return nginx

    async def _follow_drain(self, nginx: NginxInstance) -> None:
        phase = self._publication.drain
        await self._leaving.look(phase, lambda: self._parts.reloader.remains(nginx))
        if phase == "noticing" and self.state.drain:
            if not 0 < self.state.drain.since_unix <= steady.now():  # or the clock was set back before this process
                self._save(drain=replace(self.state.drain, since_unix=steady.now()))
            self._timers.at(drain.ends(self.state.drain), "the balancer has noticed")
        elif phase == "ending" and not self._leaving.drained:
            self._timers.later(0.5, "requests end")

    # ------------------------------------------------------------ versions

    async def _roll(self, course: Course, nginx: NginxInstance, plan: Plan) -> Plan:
        """Steps the machines; the plan when traffic goes to other versions then. What is intended is saved before it is done."""
        rollouts, before = self.rollouts, (self.rollouts.shares, self.rollouts.maintenance)
        if rollouts.draining and self._publication.retirement.known:
            self._publication.retirement.survive(await self._parts.reloader.living(nginx))
            course.drains_cut = rollouts.cut_drains(self._publication.retirement.cut, steady.now())
        rollouts.turn(self._planner, self._inputs(nginx), steady.now(), self._publication.retirement.known, self.published)
        if (rollouts.shares, rollouts.maintenance) != before:
            self.plan = plan = self._plan(course, nginx)
        self._save(rollouts=dict(self.rollouts.states), frozen=self.rollouts.frozen, freeze=self.rollouts.order)
        return plan

    def _roll_on(self, nginx: NginxInstance, plan: Plan) -> None:
        """Tells the machines what is live, and comes back when time takes them further."""
        rollouts, now = self.rollouts, steady.now()
        if rollouts.proved(self._planner, plan, self.published, self._publication.acceptance.refused) or self._planner.stand_ins:
            before = rollouts.shares
            rollouts.turn(self._planner, self._inputs(nginx), now, self._publication.retirement.known, self.published)
            if rollouts.shares is not before:
                self._timers.later(0.0, "the next version")
        self._timers.at(rollouts.next(now), "a rollout goes on")
        if rollouts.draining:
            self._timers.later(rollouts.look_after(now), "old workers")

    async def say(self, service: str, word: Word) -> str:
        """An operator's word: what was done, and what comes next. It is kept before this returns. Raises Illegal, OSError."""
        async with self._cycling:
            if self.nginx is None:
                raise Illegal("the controller has just started and has read nothing yet: try again")
            undo = self.rollouts.undoing()
            done = self.rollouts.say(self._planner, self._inputs(self.nginx), service, word, steady.now())
            self._keep_word(undo)
            self._parts.wakes.post(Wake((f"{word.verb} {service}",), urgent=True, at=time.monotonic()))
            return "; ".join(filter(None, (done, self.rollouts.outlook(service, steady.now()))))

    def _keep_word(self, undo: Callable[[], None]) -> None:
        try:
            self._save(rollouts=dict(self.rollouts.states), frozen=self.rollouts.frozen, freeze=self.rollouts.order)
        except OSError:
            undo()
            raise

    @property
    def frozen(self) -> bool:
        return self.rollouts.frozen

    @property
    def freezing(self) -> Order | None:
        """Who has frozen everything, and why."""
        return self.rollouts.order

    def versions(self) -> tuple[Told, ...]:
        """The versions of every service, for those who show them."""
        return self.rollouts.told(steady.now())

    async def freeze(self, *, on: bool, who: str, why: str = "") -> None:
        """No version is swapped in until it is off again. Raises Illegal, OSError."""
        async with self._cycling:
            undo = self.rollouts.undoing()
            self.rollouts.freeze(on, Order(steady.now(), who, why))
            self._keep_word(undo)
            self._parts.wakes.post(Wake(("freeze" if on else "unfreeze",), at=time.monotonic()))

    # ------------------------------------------------------------ another configuration

    async def _consider(self, course: Course, nginx: NginxInstance, offered: Policy) -> None:
        """Takes the offer over, or remembers why not: everything goes on with the configuration of before."""
        try:
            await self._take_over(course, nginx, offered)
        except (Refused, TemplateError, ValueError) as error:
            is_known = isinstance(error, Refused | TemplateError | Unsafe)
            course.declined = f"{error}" if is_known else self._fault(error)
            self.declined = (offered, course.declined)

    async def _take_over(self, course: Course, nginx: NginxInstance, offered: Policy) -> None:
        """Raises what is wrong with the offer, and then it is dropped and everything is as before. A hand-written vhost that is
        wrong is not: it goes into quarantine by itself."""
        publication = self._publication
        before, publication.policy, self._offered = self.policy, offered, None
        judged = False
        try:
            table = self._plan(course, nginx).ahead
            wanted = Served(table, before.operator_files)
            served = publication.acceptance.reduce(wanted, wanted)
            with course.stage("test"):
                await publication.acceptance.test(publication.render(course, served, nginx), nginx)
            publication.acceptance.pardon()
            judged = True
        except (Refused, TemplateError, ValueError):
            publication.policy, judged = before, True
            raise
        finally:
            if not judged:  # the engine or the disk failed: the offer stands, unless there is a newer one
                publication.policy = before
                if self._offered is None:
                    self._offered = offered

    def _plan(self, course: Course, nginx: NginxInstance) -> Plan:
        with course.stage("plan"):
            return self._planner.plan(self._inputs(nginx))

    def _inputs(self, nginx: NginxInstance) -> routes.Inputs:
        return routes.Inputs(
            snapshot=self.snapshot,
            standing=self._parts.prober.standing,
            owners=self.plan.owners if self.plan else self.state.owners,
            nginx=nginx.view,
            defaults=self.policy.defaults,
            join=self.policy.join,
            unjoinable=self._unjoinable,
            published=self._publication.places,
            now_unix=steady.now(),
            claims=self.policy.claims,
            own_ports=self.policy.own_ports,
            shares=self.rollouts.shares,
            maintenance=self.rollouts.maintenance,
        )

    def _with_refusals(self, plan: Plan, nginx: NginxInstance) -> Plan:
        """The plan, with what nginx refuses of it and what it ignores of the hand-written vhosts."""
        acceptance = self._publication.acceptance
        refused, live = acceptance.rejections(plan.ahead), acceptance.live_files
        files = {name: text for name, text in self.policy.operator_files.items() if live.get(name) == text}
        ignored = by_hand.rejections(files, plan.table, nginx.view.neighbours)
        return replace(plan, rejections=plan.rejections + refused + ignored)

    async def _test_ahead(self, course: Course, plan: Plan, nginx: NginxInstance) -> None:
        """Lets nginx accept what will be needed when the containers that are being created run."""
        publication = self._publication
        if await publication.test_ahead(course, Served(plan.ahead, self.policy.operator_files), nginx):
            self.plan = self._with_refusals(plan, nginx)
            if course.result == "unchanged":
                course.result = "tested"

    async def _leave(self, nginx: NginxInstance, plan: Plan) -> None:
        """Takes nginx out of networks that it was put into and that have no target any more: at once, because what removes the
        last container removes its network next."""
        left = self.state.joined - plan.networks
        if left:
            self._has_left = True
            if await self._parts.nginx.leave(nginx, left):
                self.state = replace(self.state, joined=self.state.joined - left)
            else:
                self._timers.later(1.0, "nginx has just been started")

    def _intend(self, table: RouteTable) -> None:
        """Saves what nginx is about to be told beside what it knows, so that a crash before the proof forgets no target."""
        _, new = identity.between(self.published.vhosts, table.vhosts)
        self._save(live_targets=self.state.live_targets.union(generations.carrying(new)))

    def _remember(self, course: Course, plan: Plan, fileset: FileSet, nginx: NginxInstance) -> None:
        self._waiting = (self._waiting or time.monotonic()) if plan.holding and course.result != "live" else 0.0
        if time.monotonic() - self._waiting < WRITTEN_WITHIN:
            return
        serving = self.state.live_targets
        if self._remembered is not self.published:
            self._remembered = self.published
            serving = frozenset(generations.carrying(self.published.vhosts))
        fallback = self._publication.acceptance.fallback()
        self._save(
            owners=plan.owners,
            live_digest=fileset.digest,
            live_targets=serving,
            places=self._publication.places,
            generations=self._publication.retirement.generations,
            fallback_hosts=fallback.table.vhosts,
            fallback_files=fallback.files,
            rollouts=dict(self.rollouts.states),
            nginx_run=nginx.run,
        )

    def _save(self, **changes: Any) -> None:
        """Writes down what has changed, and then holds it for true. Raises OSError, and then all is as before."""
        state = replace(self.state, **changes)
        self._parts.store.save(state)
        self.state = state
