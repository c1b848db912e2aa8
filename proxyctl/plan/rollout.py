"""The blue-green machine of one service: (state, what is seen, now) -> (state, actions), a transition table and its guards.

A step that is not in the table raises and changes nothing. What carries traffic is `sight.shares`; the rest is when and why that
changes. Three things go before every wish: traffic is where something is healthy, a version that failed waits for a new
container or an operator, and one swap ends before the next one begins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from proxyctl.plan.sight import Sight, best, shares, shown
from proxyctl.versions import (
    CUT,
    RESTING,
    TRANSITIONS,
    Action,
    Cause,
    Failure,
    FailureReason,
    Illegal,
    Known,
    Note,
    Phase,
    RolledBack,
    Rollout,
    Seen,
    Settings,
    Stop,
    Version,
)

T = TypeVar("T")

STEPS = 12
"""Transitions in one step, at most: from a new container to its bake are five."""
REMEMBERED = 16
"""Failed versions."""


def restarted(rollout: Rollout, now: float) -> Rollout:
    """As a new process takes it up: the clock of a phase begins anew, because nobody knows how long there was no process."""
    return replace(
        rollout,
        since_unix=now,
        held_unix=None if rollout.held_unix is None else now,
        draining=dict.fromkeys(rollout.draining, now),
    )


def step(rollout: Rollout, seen: Seen, now: float) -> tuple[Rollout, tuple[Action, ...]]:
    """Everything that follows from what is seen, at once. The same input once more changes nothing."""
    turn = Turn(rollout, seen, now)
    turn.notice()
    for _ in range(STEPS):
        before = turn.rollout
        turn.advance()
        if turn.rollout == before:
            break
    turn.drain()
    return turn.rollout, tuple(turn.actions)


class Turn:
    def __init__(self, rollout: Rollout, seen: Seen, now: float) -> None:
        self.rollout = rollout
        self.seen = seen
        self.now = now
        self.sight = Sight(seen)
        self.actions: list[Action] = []

    def note(self, text: str) -> None:
        self.actions.append(Note(text))

    def enter(self, phase: Phase, **changes: Any) -> None:
        """The only place where a phase changes."""
        if phase not in TRANSITIONS[self.rollout.phase]:
            raise Illegal(f"from {self.rollout.phase} there is no way to {phase}")
        self.rollout = replace(self.rollout, phase=phase, since_unix=self.now, **changes)

    # ------------------------------------------------------------ what is learned

    def notice(self) -> None:
        """Births, latches and clocks, before anything is decided."""
        rollout, sight = self.rollout, self.sight
        versions: dict[Version, Known] = {}
        for version in sorted(sight.by_version, key=lambda v: (sight.of(v)[0].created_unix, v)):
            here = sight.started(version)
            ids = frozenset(r.container_id for r in here)
            before = rollout.versions.get(version)
            if before and ids & before.containers:
                versions[version] = Known(before.born_unix, ids)
            elif here:
                born = here[0].created_unix
                others = (*rollout.versions.items(), *versions.items())
                taken = {known.born_unix for other, known in others if other != version}
                while born in taken:  # Docker lists whole seconds: who is seen later is later
                    born += 0.001
                versions[version] = Known(born, ids)
        if rollout.active is not None and rollout.active not in versions and rollout.active in rollout.versions:
            versions[rollout.active] = Known(rollout.versions[rollout.active].born_unix, frozenset())
        failures = {
            version: failure
            for version, failure in rollout.failures.items()
            if {r.container_id for r in sight.of(version) if r.state != "dead"} <= failure.containers
        }
        held = rollout.paused or self.seen.frozen
        since, held_unix = rollout.since_unix, rollout.held_unix
        if held and held_unix is None:
            held_unix = self.now
        elif not held and held_unix is not None:
            since, held_unix = since + max(0.0, self.now - held_unix), None
        empty = None if self.seen.replicas else rollout.empty_unix or self.now
        self.rollout = replace(
            rollout,
            versions=versions,
            failures=failures,
            since_unix=min(since, self.now),
            held_unix=held_unix,
            members=rollout.members | {r.container_id for r in sight.started(rollout.candidate)},
            empty_unix=empty,
        )

    @property
    def _held(self) -> bool:
        return self.rollout.held_unix is not None

    def _elapsed(self, seconds: float) -> bool:
        return not self._held and self.now - self.rollout.since_unix >= seconds

    # ------------------------------------------------------------ what is decided

    def advance(self) -> None:
        """One transition, if there is one."""
        rollout = self.rollout
        if rollout.active is None:
            self._adopt()
        elif rollout.phase in CUT:
            self._watch()
        elif not self.sight.healthy(rollout.active) and self._fail_over():
            return
        elif rollout.phase in RESTING:
            self._look_out()
        elif self._start_over():
            return
        elif rollout.phase == "warming":
            self._warm()
        else:
            self._gate()

    def _adopt(self) -> None:
        """The first version that is healthy, the newest of them, is what there is."""
        healthy = [v for v in self.rollout.versions if self.sight.healthy(v)]
        if not healthy:
            return
        newest = max(healthy, key=self.born)
        coming = any(r.state in ("coming", "warming") for r in self.seen.replicas if r.version != newest)
        if not (self.seen.settling and coming):
            self.rollout = replace(self.rollout, active=newest, proven=newest, since_unix=self.now)

    def born(self, version: Version | None) -> float:
        known = self.rollout.versions.get(version) if version is not None else None
        return known.born_unix if known else -math.inf

    def _newest(self) -> Version | None:
        """The newest version that may be rolled out: later than the active one, started, and not latched."""
        active = self.rollout.active
        found = [
            version
            for version, known in self.rollout.versions.items()
            if version != active
            and known.containers
            and version not in self.rollout.failures
            and known.born_unix > self.born(active)
        ]
        return max(found, key=self.born, default=None)

    def _look_out(self) -> None:
        newest = self._newest()
        if newest is not None and not self._held:
            self.begin(newest, "newer")
        elif self.rollout.phase == "failed" and not self.rollout.failures:
            self.enter("idle", candidate=None)

    def begin(self, version: Version, cause: Cause, phase: Phase = "warming") -> None:
        """`version` becomes the candidate. What the one before it had carried is on its way out."""
        rollout = self.rollout
        draining = dict(rollout.draining)
        if rollout.phase == "ready" and rollout.weight and rollout.candidate is not None:
            draining.setdefault(rollout.candidate, self.now)
        if phase == "cutting":
            draining.pop(version, None)
        self.enter(
            phase,
            candidate=version,
            cause=cause,
            promoted=False,
            weight=0,
            members=frozenset(r.container_id for r in self.sight.started(version)),
            draining=draining,
        )

    def _start_over(self) -> bool:
        """A still newer version takes the candidate's place; one whose containers have all been removed is withdrawn."""
        rollout, newest = self.rollout, self._newest()
        if newest is not None and self.born(newest) > self.born(rollout.candidate) and newest != rollout.candidate:
            if not self._held:
                self.note(f"{shown(newest)} comes while {shown(rollout.candidate)} was {rollout.phase}: starts over with it")
                self.begin(newest, "newer")
                return True
        elif not self.sight.of(rollout.candidate) and not rollout.weight:
            self.note(f"{shown(rollout.candidate)} was removed before it was served")
            self.enter("idle", candidate=None, weight=0, members=frozenset())
            return True
        return False

    def _fail_over(self) -> bool:
        """Nothing of the active version can answer and something else can: traffic goes there at once, whatever is held."""
        rollout, sight = self.rollout, self.sight
        chosen = best(rollout, sight)
        if chosen is None or (sight.settling and sight.of(rollout.active) and not sight.answers(rollout.active)):
            return False  # while it comes back after a boot, a standby answers for it
        cause: Cause = "newer" if self.born(chosen) > self.born(rollout.active) else "failover"
        self.note(f"nothing of {shown(rollout.active)} can answer: traffic goes to {shown(chosen)}")
        self.begin(chosen, cause, "cutting")
        return True

    def _warm(self) -> None:
        rollout, settings = self.rollout, self.sight.settings(self.rollout.candidate)
        fault = self.sight.fault(rollout.candidate, rollout.members)
        if fault and fault[0] == "died":
            self.fail(*fault)
        elif self._held:
            return
        elif self.sight.whole(rollout.candidate):
            self.enter("ready")
        elif self._elapsed(settings.deadline):
            ill = next(r for r in self.sight.of(rollout.candidate) if r.state != "healthy")
            text = f"not healthy within {settings.deadline:g} s: {ill.container} is {ill.state}"
            self.fail("deadline", f"{text}: {ill.reason}".rstrip(": "))

    def _gate(self) -> None:
        """READY: at once, by a word, or in steps."""
        rollout, settings = self.rollout, self.sight.settings(self.rollout.candidate)
        fault = self.sight.fault(rollout.candidate, rollout.members)
        if fault and (rollout.weight or fault[0] == "died"):
            self.fail(*fault)
        elif rollout.weight and self.seen.refused:
            self.fail("refused", self.seen.refused)
        elif not rollout.weight and not self.sight.whole(rollout.candidate):
            self.enter("warming")
        elif self._held:
            return
        elif (
            settings.strategy == "auto" or rollout.promoted or rollout.cause == "rollback" or rollout.candidate == rollout.proven
        ):
            self.cut()
        elif settings.strategy == "canary":
            self._climb(settings)

    def _climb(self, settings: Settings) -> None:
        """The next step, when this one has been live for the bake time."""
        rollout = self.rollout
        if rollout.weight and (dict(self.seen.live or {}) != shares(rollout, self.seen) or not self._elapsed(settings.bake)):
            return
        higher = [weight for weight in settings.steps if weight > rollout.weight]
        if higher:
            self.enter("ready", weight=min(higher), draining=without(rollout.draining, rollout.candidate))
            self.note(f"{shown(rollout.candidate)} carries {min(higher)} %")
        else:
            self.cut()

    def cut(self) -> None:
        rollout = self.rollout
        self.enter("cutting", promoted=True, weight=0, draining=without(rollout.draining, rollout.candidate))

    def _watch(self) -> None:
        """The candidate has the traffic: back, when it turns bad and there is something better."""
        rollout, sight = self.rollout, self.sight
        fault = sight.fault(rollout.candidate, rollout.members)
        healthy = any(sight.healthy(version) for version in sight.by_version)
        better = sight.healthy(rollout.active)
        if not sight.healthy(rollout.candidate) and healthy:
            if fault is None:
                self._warm_again()
                return
            better = True
        elif not sight.answers(rollout.candidate):
            better = any(sight.answers(version) for version in sight.by_version)
        if fault and better:
            self.fail(*fault)
            return
        if sight.healthy(rollout.candidate):  # nothing better: what has ended is no reason to wait for ever
            self.rollout = replace(rollout, members=frozenset(r.container_id for r in sight.started(rollout.candidate)))
        if rollout.phase == "cutting":
            if self.seen.refused and sight.started(rollout.active):
                self.fail("refused", self.seen.refused)
            elif self.seen.live is not None and dict(self.seen.live) == {rollout.candidate: 100}:
                self.enter("verifying")
        elif sight.healthy(rollout.candidate) and self._elapsed(sight.settings(rollout.candidate).bake):
            self._settle()

    def _warm_again(self) -> None:
        """Nothing is wrong with the candidate, but it has not answered since this process or its containers began."""
        rollout = self.rollout
        draining = {**rollout.draining, rollout.candidate or "": self.now}
        if rollout.cause == "failover":
            self.enter("failed", candidate=None, members=frozenset(), draining=draining)
        else:
            self.enter("warming", draining=draining)

    def _settle(self) -> None:
        """The bake is over: the candidate is the active version, the old one drains behind it."""
        rollout = self.rollout
        if rollout.candidate is None or rollout.active is None:
            raise Illegal("nothing was cut to")
        proven = rollout.proven if rollout.cause == "failover" else rollout.candidate
        self.note(f"{shown(rollout.candidate)} has passed its bake; {shown(rollout.active)} drains")
        self.enter(
            "draining",
            active=rollout.candidate,
            previous=rollout.active,
            candidate=None,
            promoted=False,
            proven=proven,
            members=frozenset(),
            failures=without(rollout.failures, rollout.candidate),
            draining={**rollout.draining, rollout.active: self.now},
        )

    def fail(self, reason: FailureReason, text: str) -> None:
        """The candidate is out, and latched; traffic is the active version's."""
        rollout, version = self.rollout, self.rollout.candidate
        if version is None or rollout.active is None:
            raise Illegal("nothing was rolled out")
        carried = rollout.phase in CUT or rollout.weight > 0
        containers = frozenset(r.container_id for r in self.sight.of(version)) | rollout.members
        latched = {**without(rollout.failures, version), version: Failure(reason, text, self.now, containers)}
        oldest = sorted(latched, key=lambda v: latched[v].at_unix)[: max(0, len(latched) - REMEMBERED)]
        back = f"; {shown(rollout.active)} has the traffic again" if carried else f"; {shown(rollout.active)} goes on serving"
        self.note(f"{shown(version)} failed: {text}{back}")
        self.actions.append(RolledBack(version, reason, carried))
        self.enter(
            "failed",
            candidate=None,
            promoted=False,
            weight=0,
            members=frozenset(),
            paused=False,
            held_unix=rollout.held_unix if self.seen.frozen else None,
            failures={v: failure for v, failure in latched.items() if v not in oldest},
            draining={**rollout.draining, version: self.now} if carried else rollout.draining,
        )

    # ------------------------------------------------------------ what goes

    def drain(self) -> None:
        """A version is drained when nothing of nginx knows it any more; then it stands by, or is stopped."""
        rollout = self.rollout
        carrying = shares(rollout, self.seen)
        live = self.seen.live
        if carrying is not None:
            left = self.seen.known - carrying.keys() - {rollout.active}
            rollout = self.rollout = replace(rollout, draining={**dict.fromkeys(left, self.now), **rollout.draining})
        if live is not None and carrying is not None and dict(live) == dict(carrying):
            for version in sorted(rollout.draining.keys() - self.seen.known - carrying.keys()):
                self._drained(version)
        rollout = self.rollout
        if rollout.phase == "draining" and not rollout.draining:
            self.enter("idle")
        needed = (shares(self.rollout, self.seen) or {}).keys()
        living = {r.container_id for r in self.seen.replicas if r.state not in ("dead", "stopping") and r.version not in needed}
        retiring = self.rollout.retiring & living
        if retiring and not self._held:
            self.actions.append(Stop(retiring))
        self.rollout = replace(
            self.rollout,
            retiring=retiring,
            versions={v: known for v, known in self.rollout.versions.items() if known.containers or v == self.rollout.active},
        )

    def _drained(self, version: Version) -> None:
        rollout = self.rollout
        retired: frozenset[str] = frozenset()
        older = self.born(version) < self.born(rollout.active) and version not in rollout.failures
        if older and version not in (rollout.proven, rollout.candidate) and self.sight.settings(rollout.active).retire == "stop":
            retired = frozenset(r.container_id for r in self.sight.started(version))
        self.note(f"{shown(version)} is drained" + (" and is stopped" if retired else ""))
        self.rollout = replace(rollout, draining=without(rollout.draining, version), retiring=rollout.retiring | retired)


def without(mapping: Mapping[Version, T], version: Version | None) -> dict[Version, T]:
    return {key: value for key, value in mapping.items() if key != version}
