"""An operator's word -> what the machine of a service makes of it, or why that is not possible now."""

from __future__ import annotations

from dataclasses import replace

from proxyctl.plan.rollout import Turn, step, without
from proxyctl.plan.sight import outlook, shown
from proxyctl.versions import CUT, Action, Failure, Illegal, Order, RolledBack, Rollout, Seen, Version, Word


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
        by = f" ({word.who}{': ' if word.who and word.why else ''}{word.why})" if word.who or word.why else ""
        getattr(self, f"_obey_{word.verb}")(word, by)

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
        """The candidate is out when there is one, else the active version. `word.to`: where the traffic goes, also when that
        version has failed before."""
        rollout, text = self.rollout, f"rolled back{by}"
        if rollout.active is None:
            raise Illegal("no version has been served yet")
        if word.to is not None and word.to == self._carrying():
            raise Illegal(f"{shown(word.to)} has the traffic already")
        if rollout.candidate is not None and rollout.phase in CUT:
            self._give_back(word, text)
        elif rollout.candidate is not None and word.to is None:
            self.fail("operator", text)
            self.note(f"{shown(rollout.active)} was not rolled back: another `rollback` does that")
            return
        if word.to is None and rollout.candidate is not None:
            return
        back = self._before() if word.to is None else word.to
        if back == self.rollout.active:  # it has the traffic again
            return
        if back is None:
            hint = "`rollback --to VERSION` goes to one that has failed, or is newer"
            raise Illegal(
                f"there is no older version to go back to from {shown(rollout.active)} that is healthy and has not failed: {hint}"
            )
        if not self.sight.healthy(back):
            raise Illegal(f"{shown(back)} is not healthy" if self.sight.of(back) else f"{shown(back)} has no container")
        self._go_back(back, text, by)

    def _carrying(self) -> Version | None:
        return self.rollout.candidate if self.rollout.phase in CUT else self.rollout.active

    def _give_back(self, word: Word, text: str) -> None:
        """The candidate has the traffic, which goes to the active version."""
        rollout = self.rollout
        if rollout.cause == "rollback" and word.to is None:
            raise Illegal(
                f"{shown(rollout.active)} is being rolled back to {shown(rollout.candidate)} already: "
                "`rollback --to VERSION` goes to another version"
            )
        if word.to in (None, rollout.active) and not self.sight.started(rollout.active):
            raise Illegal(f"{shown(rollout.active)} is not running: start it first")
        if word.to not in (None, rollout.active) and not self.sight.healthy(word.to):
            raise Illegal(f"{shown(word.to)} is not healthy")
        self.fail("operator", text)
        if word.to is not None:
            self.rollout = replace(self.rollout, failures=without(self.rollout.failures, word.to))

    def _before(self) -> Version | None:
        """The version that was active before, else the newest that is older; healthy, and not one that has failed."""
        rollout = self.rollout
        able = [v for v in rollout.versions if v != rollout.active and v not in rollout.failures and self.sight.healthy(v)]
        if rollout.previous in able:
            return rollout.previous
        older = [v for v in able if self.born(v) < self.born(rollout.active)]
        return max(older, key=self.born, default=None)

    def _go_back(self, back: Version, text: str, by: str) -> None:
        rollout = self.rollout
        if rollout.active is None:
            raise Illegal("no version has been served yet")
        containers = frozenset(r.container_id for r in self.sight.of(rollout.active))
        self.note(f"{shown(rollout.active)} is rolled back to {shown(back)}{by}")
        self.actions.append(RolledBack(rollout.active, "operator", carried=True))
        failure = Failure("operator", text, self.now, containers)
        failures = {**without(rollout.failures, back), rollout.active: failure}
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
