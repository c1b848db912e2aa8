"""An operator's word -> what the machine of a service makes of it, or why that is not possible now."""

from __future__ import annotations

from dataclasses import replace

from proxyctl.plan.rollout import Turn, step, without
from proxyctl.plan.sight import outlook, shown
from proxyctl.versions import CUT, Action, Failure, Illegal, Order, RolledBack, Rollout, Seen, Version, Word, signature


def obey(rollout: Rollout, word: Word, seen: Seen, now: float) -> tuple[Rollout, tuple[Action, ...]]:
    """An operator's word, and everything that follows from it. Raises Illegal, and then nothing has changed."""
    turn = _Listener(rollout, seen, now)
    turn.notice()
    turn.obey(word)
    after, actions = step(turn.rollout, seen, now)
    return after, (*turn.actions, *actions)


def close(rollout: Rollout, word: Word, now: float) -> tuple[Rollout, tuple[Action, ...]]:
    """Maintenance of a service that has no versions, and so no machine. Raises Illegal."""
    turn = _Listener(rollout, Seen((), None), now)
    turn.obey(word)
    return turn.rollout, tuple(turn.actions)


class _Listener(Turn):
    def obey(self, word: Word) -> None:
        getattr(self, f"_obey_{word.verb}")(word, signature(word.who, word.why))

    def _obey_promote(self, _: Word, by: str) -> None:
        rollout = self.rollout
        if self.seen.frozen:
            raise Illegal("everything is frozen: unfreeze first")
        if rollout.phase in CUT:
            raise Illegal(f"{shown(rollout.candidate)} has the traffic already")
        if rollout.phase != "ready":
            raise Illegal(f"no version is ready: {outlook(rollout, self.seen, self.now)}")
        self.note(f"{shown(rollout.candidate)} is promoted{by}")
        self.rollout = replace(rollout, paused=False, held_unix=None)
        self.cut()

    def _obey_rollback(self, word: Word, by: str) -> None:
        """The candidate is out when there is one, else the active version. `word.to`: the version that gets the traffic, also one
        that has failed before."""
        rollout, text = self.rollout, f"rolled back{by}"
        if rollout.active is None:
            raise Illegal("no version has been served yet")
        is_cut = rollout.phase in CUT
        if word.to is not None and word.to == (rollout.candidate if is_cut else rollout.active):
            raise Illegal(f"{shown(word.to)} has the traffic already")
        if word.to is None and rollout.candidate is not None and not is_cut:
            self.fail("operator", text)
            self.note(f"{shown(rollout.active)} was not rolled back: another `rollback` does that")
            return
        if word.to is None and is_cut and rollout.cause == "rollback":
            raise Illegal(
                f"{shown(rollout.active)} is being rolled back to {shown(rollout.candidate)} already: "
                "`rollback --to VERSION` goes to another version"
            )
        back = self._checked(rollout.active if is_cut else self._before()) if word.to is None else self._checked(word.to)
        if is_cut:
            self.fail("operator", text)
        if back != rollout.active:
            self._go_back(rollout.active, back, text, by)
        else:
            self.rollout = replace(self.rollout, failures=without(self.rollout.failures, back))

    def _checked(self, back: Version | None) -> Version:
        """Raises Illegal when traffic cannot go there."""
        active = self.rollout.active
        if back is None:
            hint = "`rollback --to VERSION` goes to one that has failed, or is newer"
            raise Illegal(f"no older version than {shown(active)} is healthy and has not failed: {hint}")
        if back == active and not self.sight.started(back):
            raise Illegal(f"{shown(back)} is not running: start it first")
        if back != active and not self.sight.healthy(back):
            raise Illegal(f"{shown(back)} is not healthy" if self.sight.of(back) else f"{shown(back)} has no container")
        return back

    def _before(self) -> Version | None:
        """The version that was active before, else the newest that is older; healthy, and not one that has failed."""
        rollout = self.rollout
        able = [v for v in rollout.versions if v != rollout.active and v not in rollout.failures and self.sight.healthy(v)]
        if rollout.previous in able:
            return rollout.previous
        older = [v for v in able if self.born(v) < self.born(rollout.active)]
        return max(older, key=self.born, default=None)

    def _go_back(self, active: Version, back: Version, text: str, by: str) -> None:
        rollout = self.rollout
        containers = frozenset(r.container_id for r in self.sight.of(active))
        self.note(f"{shown(active)} is rolled back to {shown(back)}{by}")
        self.actions.append(RolledBack(active, "operator", carried=True))
        failure = Failure("operator", text, self.now, containers)
        failures = {**without(rollout.failures, back), active: failure}
        self.rollout = replace(
            rollout, failures=failures, paused=False, held_unix=rollout.held_unix if self.seen.frozen else None
        )
        self.begin(back, "rollback", "cutting")

    def _obey_pause(self, _: Word, by: str) -> None:
        if self.rollout.paused:
            raise Illegal("it is paused already")
        self.note(f"paused{by}")
        self.rollout = replace(self.rollout, paused=True, held_unix=self.rollout.held_unix or self.now)

    def _obey_resume(self, _: Word, by: str) -> None:
        if not self.rollout.paused:
            raise Illegal("it is not paused")
        self.note(f"resumed{by}")
        self.rollout = replace(self.rollout, paused=False)
        self.notice()

    def _obey_retry(self, _: Word, by: str) -> None:
        tried = [v for v in self.rollout.failures if self.sight.started(v)]
        if not tried:
            raise Illegal("no failed version has a running container")
        newest = max(tried, key=self.born)
        if newest == self.rollout.active:
            raise Illegal(f"{shown(newest)} is being served")
        self.note(f"{shown(newest)} is tried again{by}")
        versions = self.rollout.versions
        born = max((known.born_unix for known in versions.values()), default=0.0)
        known = versions[newest]
        if known.born_unix < born:  # it was asked for by name: it counts as the newest
            versions = {**versions, newest: replace(known, born_unix=born + 0.001)}
        self.rollout = replace(self.rollout, versions=versions, failures=without(self.rollout.failures, newest))

    def _obey_weight(self, word: Word, by: str) -> None:
        if not 0 <= word.value < 100:
            raise Illegal("write a weight from 0 to 99; all of it is `promote`")
        if self.seen.frozen:
            raise Illegal("everything is frozen: unfreeze first")
        if self.rollout.phase != "ready":
            raise Illegal(f"no version is ready: {outlook(self.rollout, self.seen, self.now)}")
        rollout = self.rollout
        draining = without(rollout.draining, rollout.candidate)
        if rollout.candidate is not None and rollout.weight and not word.value:
            draining = {**draining, rollout.candidate: self.now}
        self.note(f"{shown(rollout.candidate)} carries {word.value} % until it is promoted or resumed{by}")
        self.enter("ready", weight=word.value, paused=True, held_unix=rollout.held_unix or self.now, draining=draining)

    def _obey_maintenance(self, word: Word, by: str) -> None:
        on = bool(word.value)
        if on == self.rollout.maintenance:
            raise Illegal(f"maintenance is {'on' if on else 'off'} already")
        self.note(f"maintenance is {'on' if on else 'off'}{by}")
        order = Order(self.now, word.who, word.why) if on else None
        self.rollout = replace(self.rollout, maintenance=on, maintained=order)
