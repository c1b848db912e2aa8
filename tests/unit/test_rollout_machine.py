"""The blue-green machine: its table, each of its rules, and all of them under any interleaving of what can happen.

`HYPOTHESIS_PROFILE=chaos` runs 5,000 interleavings instead of 200.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxyctl.plan import rollout as machine
from proxyctl.plan.rollout import Turn
from proxyctl.plan.sight import Sight, outlook, until
from proxyctl.rollouts import SETTLING
from proxyctl.versions import CUT, TRANSITIONS, Illegal, Phase, Replica, ReplicaState, RolledBack, Rollout, Settings, Word
from tests.unit.rolling import ANSWERS, World, read_back, swapped

PROMOTE, ROLLBACK, PAUSE, RESUME, RETRY = (Word(verb) for verb in ("promote", "rollback", "pause", "resume", "retry"))
MANUAL = Settings("manual")
CANARY = Settings("canary", steps=(5, 50))
SHOP = Replica("", "", "", 0.0, "healthy", "", Settings())


def world(given: Settings | None = None, *, proves: bool = True) -> World:
    """v1 is live, alone."""
    made = World(settings=given or Settings())
    swapped_in = made.start("v1", "healthy")
    assert swapped_in == "v1-1"
    assert made.carrying == {"v1": 100}
    made.proves = proves
    return made


# ---------------------------------------------------------------- a swap


def test_a_new_version_takes_over_when_all_of_it_is_healthy_and_the_old_one_is_drained_after_its_bake() -> None:
    w = world()
    one, two = w.start("v2"), w.start("v2")
    assert (w.state.phase, w.carrying) == ("warming", {"v1": 100})
    w.turns(one, "healthy")
    assert (w.state.phase, w.carrying) == ("warming", {"v1": 100})
    w.turns(two, "healthy")
    assert (w.state.phase, w.carrying) == ("verifying", {"v2": 100})
    w.wait(29.9)
    assert w.state.phase == "verifying"
    w.wait(0.1)
    assert (w.state.phase, w.state.active, w.state.previous) == ("draining", "v2", "v1")
    w.workers_exit()
    assert (w.state.phase, w.carrying) == ("idle", {"v2": 100})


def test_cut_is_not_verified_before_nginx_was_proved_to_do_it() -> None:
    w = world(proves=False)
    w.start("v2", "healthy")
    w.wait(100.0)
    assert [w.state.phase, w.state.candidate] == ["cutting", "v2"]
    w.prove()
    assert [w.state.phase, w.state.candidate] == ["verifying", "v2"]


def test_old_version_is_drained_only_when_no_worker_knows_it() -> None:
    w = world()
    w.start("v2", "healthy")
    w.wait(30.0)
    w.wait(1000.0)
    assert (w.state.phase, set(w.state.draining)) == ("draining", {"v1"})
    w.workers_exit()
    assert "v1 is drained" in w.notes
    assert w.state.phase == "idle"


def test_versions_that_drain_are_told_whatever_the_phase_is() -> None:
    w = world()
    w.start("v2", "healthy")
    w.wait(30.0)
    w.remove(w.start("v3"))
    assert (w.state.phase, set(w.state.draining)) == ("idle", {"v1"})
    assert outlook(w.state, w.seen, w.now) == "v2 is live; v1 drains"


def test_what_workers_knew_before_the_first_version_was_chosen_drains() -> None:
    w = World(proves=False)
    w.workers = [frozenset({"v1"})]
    w.replicas = {v: replace(SHOP, container_id=v, version=v, created_unix=at) for v, at in (("v1", 1.0), ("v2", 2.0))}
    w.turn()
    assert (w.state.active, set(w.state.draining)) == ("v2", {"v1"})
    w.prove()
    w.workers_exit()
    assert not w.state.draining


def test_what_served_while_nothing_was_healthy_drains() -> None:
    w = swapped(World(), "v1", "v2")
    w.turns("v1-1", "unhealthy")
    w.turns("v2-2", "dead")
    assert w.carrying is None
    w.workers = [frozenset({"v1"})]
    w.turns("v2-2", "healthy")
    assert set(w.state.draining) == {"v1"}


@pytest.mark.parametrize("phase", ["idle", "failed", "draining"])
def test_frozen_is_said_whatever_the_phase_is(phase: Phase) -> None:
    w = world()
    if phase == "failed":
        w.turns(w.start("v2"), "dead")
    elif phase == "draining":
        w.start("v2", "healthy")
        w.wait(30.0)
    w.frozen = True
    w.turn()
    assert w.state.phase == phase
    assert outlook(w.state, w.seen, w.now).endswith("; frozen: `proxyctl unfreeze` goes on")


def test_a_drained_version_is_stopped_when_the_label_says_so_until_it_has_ended() -> None:
    w = world(Settings(retire="stop"))
    w.start("v2", "healthy")
    w.wait(30.0)
    assert not w.stopped
    w.workers_exit()
    assert w.stopped == {"v1-1"}
    w.turn()
    assert w.stopped == {"v1-1"}, "the engine may have failed"
    w.turns("v1-1", "dead")
    assert not w.stopped


def test_every_older_version_is_stopped_when_it_is_drained_and_not_only_the_last() -> None:
    w = world(Settings(retire="stop"))
    w.start("v2", "healthy")
    w.wait(30.0)
    w.start("v3", "healthy")
    w.wait(30.0)
    w.workers_exit()
    assert w.stopped == {"v1-1", "v2-2"}


def test_manual_waits_for_the_word() -> None:
    w = world(MANUAL)
    w.start("v2", "healthy")
    w.wait(1000.0)
    assert (w.state.phase, w.carrying) == ("ready", {"v1": 100})
    assert "waits for `proxyctl rollout promote shop`" in outlook(w.state, w.seen, w.now, "shop")
    w.say(PROMOTE)
    assert (w.state.phase, w.carrying) == ("verifying", {"v2": 100})


def test_canary_climbs_by_steps_each_as_long_as_the_bake() -> None:
    w = world(CANARY)
    w.start("v2", "healthy")
    assert w.carrying == {"v1": 95, "v2": 5}
    w.wait(29.0)
    assert w.carrying == {"v1": 95, "v2": 5}
    w.wait(1.0)
    assert w.carrying == {"v1": 50, "v2": 50}
    w.wait(30.0)
    assert (w.state.phase, w.carrying) == ("verifying", {"v2": 100})


def test_a_canary_that_turns_ill_gives_its_share_back() -> None:
    w = world(CANARY)
    each = w.start("v2", "healthy")
    w.turns(each, "unhealthy", "/health answered 503")
    assert (w.state.phase, w.carrying, set(w.state.draining)) == ("failed", {"v1": 100}, {"v2"})
    assert RolledBack("v2", "unhealthy", carried=True) in w.actions
    assert w.state.failures["v2"].text == "v2-2 is unhealthy: /health answered 503"


def test_a_newer_version_starts_over() -> None:
    w = world(CANARY)
    w.start("v2", "healthy")
    w.start("v3")
    assert (w.state.phase, w.state.candidate, w.carrying, set(w.state.draining)) == ("warming", "v3", {"v1": 100}, {"v2"})


def test_a_newer_version_waits_for_the_bake_of_the_one_that_has_the_traffic() -> None:
    w = world()
    w.start("v2", "healthy")
    w.start("v3", "healthy")
    assert (w.state.phase, w.state.candidate) == ("verifying", "v2")
    w.wait(30.0)
    assert (w.state.candidate, w.state.active, w.carrying, set(w.state.draining)) == ("v3", "v2", {"v3": 100}, {"v1"})


def test_when_the_old_version_is_gone_the_first_healthy_new_one_takes_over() -> None:
    w = world(MANUAL)
    w.turns("v1-1", "dead")
    w.remove("v1-1")
    one = w.start("v2")
    w.start("v2")
    assert w.state.phase == "warming"
    w.turns(one, "healthy")
    assert (w.state.phase, w.carrying) == ("verifying", {"v2": 100})


def test_containers_without_a_label_are_a_version_too() -> None:
    w = World()
    w.start("", "healthy")
    w.start("v1", "healthy")
    assert (w.state.active, w.state.candidate, w.carrying) == ("", "v1", {"v1": 100})


def test_an_older_version_that_comes_late_stands_by() -> None:
    w = swapped(World(), "v1", "v2")
    w.turns("v1-1", "dead")
    w.turns("v1-1", "healthy")
    assert (w.state.phase, w.carrying) == ("idle", {"v2": 100})


def test_a_replica_of_the_old_version_does_not_make_it_newer_and_a_version_that_comes_back_is_new() -> None:
    w = swapped(World(), "v1", "v2")
    w.start("v1", "healthy")
    assert w.state.phase == "idle"
    for each in ("v1-1", "v1-3"):
        w.remove(each)
    w.start("v1", "healthy")
    assert (w.state.phase, w.carrying) == ("verifying", {"v1": 100})


# ---------------------------------------------------------------- bad versions


def test_never_healthy_fails_at_the_deadline_and_is_latched_with_its_reason() -> None:
    w = world()
    each = w.start("v2")
    w.turns(each, "unhealthy", "connection refused")
    w.wait(60.0)
    assert (w.state.phase, w.carrying) == ("failed", {"v1": 100})
    assert w.state.failures["v2"].text == "not healthy within 60 s: v2-2 is unhealthy: connection refused"
    w.turns(each, "healthy")
    w.wait(1000.0)
    assert (w.state.phase, w.carrying) == ("failed", {"v1": 100}), "it is latched"
    w.start("v2", "healthy")
    assert w.carrying == {"v2": 100}, "a new container is a new try"


def test_one_that_ends_while_it_warms_up_fails_at_once() -> None:
    w = world()
    w.turns(w.start("v2"), "dead")
    assert (w.state.phase, w.state.failures["v2"].reason) == ("failed", "died")


@pytest.mark.parametrize(("state", "reason"), [("dead", "died"), ("unhealthy", "unhealthy"), ("stopping", "unhealthy")])
def test_one_that_turns_bad_in_its_bake_is_rolled_back(state: ReplicaState, reason: str) -> None:
    w = world()
    w.start("v2", "healthy")
    each = w.start("v2", "healthy")
    w.wait(29.0)
    w.turns(each, state)
    assert (w.state.phase, w.carrying, w.state.failures["v2"].reason) == ("failed", {"v1": 100}, reason)
    w.wait(1000.0)
    w.turns(each, "healthy")
    assert w.carrying == {"v1": 100}
    w.say(RETRY)
    assert w.carrying == {"v2": 100}


def test_one_that_turns_bad_when_the_old_one_is_gone_goes_on() -> None:
    w = world()
    w.remove("v1-1")
    each = w.start("v2", "healthy")
    w.turns(each, "unhealthy")
    w.wait(100.0)
    assert (w.state.phase, w.carrying) == ("verifying", {"v2": 100})
    w.turns(each, "healthy")
    w.wait(30.0)
    assert w.state.active == "v2"


def test_a_container_replaced_in_the_bake_does_not_hold_it_for_ever_when_the_old_version_is_gone() -> None:
    w = world()
    w.remove("v1-1")
    each = w.start("v2", "healthy")
    w.start("v2", "healthy")
    w.remove(each)
    assert (w.state.phase, w.carrying) == ("verifying", {"v2": 100})
    w.wait(30.0)
    assert w.state.active == "v2"
    w.start("v3", "healthy")
    assert w.carrying == {"v3": 100}


def test_one_ill_container_does_not_hold_the_bake_for_ever_when_the_old_version_is_gone() -> None:
    w = world()
    w.remove("v1-1")
    w.start("v2", "healthy")
    w.turns(w.start("v2", "healthy"), "unhealthy")
    w.wait(30.0)
    assert w.state.active == "v2"


def test_a_reboot_does_not_roll_the_version_before_out_again() -> None:
    w = swapped(World(), "v1", "v2")
    w.replicas["v2-2"] = replace(w.replicas["v2-2"], state="dead")
    w.replicas["v1-1"] = replace(w.replicas["v1-1"], state="warming")
    w.restart()
    w.turns("v2-2", "healthy")
    w.turns("v1-1", "healthy")
    w.wait(100.0)
    assert (w.state.phase, w.state.active, w.carrying) == ("idle", "v2", {"v2": 100})


@pytest.mark.parametrize("given", [Settings(), MANUAL, CANARY])
def test_after_a_boot_a_standby_that_is_up_first_answers_until_the_active_version_is_back(given: Settings) -> None:
    w = booted(given)
    w.turns("v1-1", "healthy")
    assert (w.state.phase, w.state.active, w.carrying) == ("idle", "v2", {"v1": 100})
    w.wait(20.0)
    w.turns("v2-2", "warming")
    w.turns("v2-2", "healthy")
    assert (w.state.phase, w.state.active, w.carrying) == ("idle", "v2", {"v2": 100})


def test_after_a_boot_a_standby_takes_over_from_an_active_version_that_does_not_come_back() -> None:
    w = booted(Settings())
    w.turns("v1-1", "healthy")
    w.wait(SETTLING)
    assert (w.state.candidate, w.state.cause, w.carrying) == ("v1", "failover", {"v1": 100})


def booted(given: Settings) -> World:
    """v2 was active and v1 stood by; nothing of them is up again yet."""
    w = world(given)
    w.start("v2", "healthy")
    w.say(PROMOTE) if given == MANUAL else None
    for _ in range(3):
        w.wait(30.0)
    w.workers_exit()
    assert (w.state.phase, w.state.active) == ("idle", "v2")
    w.replicas = {each: replace(replica, state="dead") for each, replica in w.replicas.items()}
    w.restart()
    return w


def test_after_a_boot_without_a_state_what_is_up_first_is_not_adopted_while_another_version_warms_up() -> None:
    w = World(settings=MANUAL)
    w.restart()
    w.start("v1")
    w.start("v2")
    w.turns("v1-1", "healthy")
    assert (w.state.active, w.carrying) == (None, None)
    w.turns("v2-2", "healthy")
    assert (w.state.active, w.carrying) == ("v2", {"v2": 100})


def test_a_weight_by_hand_survives_a_boot() -> None:
    w = world(MANUAL)
    w.start("v2", "healthy")
    w.say(Word("weight", 30))
    w.replicas = {each: replace(replica, state="dead") for each, replica in w.replicas.items()}
    w.restart()
    for each in ("v2-2", "v1-1"):
        w.turns(each, "warming")
    for each in ("v2-2", "v1-1"):
        w.turns(each, "healthy")
    assert (w.state.phase, w.carrying) == ("ready", {"v1": 70, "v2": 30})


def test_when_the_active_version_was_removed_an_older_one_takes_over_as_soon_as_it_is_healthy() -> None:
    w = swapped(World(settings=MANUAL), "v1")
    w.start("v2", "healthy")
    w.say(PROMOTE)
    w.wait(30.0)
    w.turns("v1-1", "warming")
    w.remove("v2-2")
    w.turns("v1-1", "healthy")
    assert (w.state.phase, w.carrying) == ("verifying", {"v1": 100})


def test_one_that_has_not_answered_since_a_restart_warms_up_again_and_is_not_blamed() -> None:
    w = world(proves=False)
    w.start("v2", "healthy")
    w.restart()
    w.turns("v2-2", "warming")
    assert (w.state.phase, w.carrying, w.state.failures) == ("warming", {"v1": 100}, {})
    w.turns("v2-2", "healthy")
    w.prove()
    assert (w.state.phase, w.carrying) == ("verifying", {"v2": 100})


@pytest.mark.parametrize("given", [MANUAL, CANARY])
def test_one_that_was_cut_to_before_a_restart_needs_no_second_word(given: Settings) -> None:
    w = world(given)
    w.start("v2", "healthy")
    w.proves = False
    w.say(PROMOTE)
    w.replicas["v2-2"] = replace(w.replicas["v2-2"], state="warming")
    w.restart()
    assert (w.state.phase, w.carrying) == ("warming", {"v1": 100})
    w.turns("v2-2", "healthy")
    assert (w.state.phase, w.carrying) == ("cutting", {"v2": 100})
    w.say(ROLLBACK)
    w.say(RETRY)
    assert w.state.phase == "ready"


def test_what_nginx_refuses_is_rolled_back() -> None:
    w = world(proves=False)
    w.start("v2", "healthy")
    w.refused = "host not found"
    w.turn()
    assert (w.state.phase, w.carrying, w.state.failures["v2"].text) == ("failed", {"v1": 100}, "host not found")


@pytest.mark.parametrize("state", ["dead", "unhealthy"])
def test_when_nothing_of_the_active_version_can_answer_a_healthy_standby_does_and_gives_it_back(state: ReplicaState) -> None:
    w = swapped(World(settings=MANUAL), "v1")
    w.start("v2", "healthy")
    w.say(PROMOTE)
    w.wait(30.0)
    w.workers_exit()
    w.turns("v2-2", state)
    assert (w.carrying, w.state.cause) == ({"v1": 100}, "failover")
    w.wait(30.0)
    assert (w.state.active, w.state.proven) == ("v1", "v2")
    w.turns("v2-2", "healthy")
    assert w.carrying == {"v2": 100}, "it was proved before: no word is needed"


def test_a_failed_version_is_better_than_none() -> None:
    w = world()
    each = w.start("v2", "healthy")
    w.turns(each, "unhealthy")
    w.turns(each, "healthy")
    assert w.carrying == {"v1": 100}
    w.turns("v1-1", "dead")
    assert w.carrying == {"v2": 100}


def test_nothing_is_healthy_what_lives_serves() -> None:
    w = swapped(World(), "v1", "v2")
    w.turns("v1-1", "unhealthy")
    w.turns("v2-2", "dead")
    assert w.carrying is None


# ---------------------------------------------------------------- words


def test_rollback_leads_to_the_version_before_and_latches_the_bad_one() -> None:
    w = swapped(World(), "v1", "v2")
    w.say(replace(ROLLBACK, who="kim", why="prices are wrong"))
    assert (w.state.phase, w.carrying) == ("verifying", {"v1": 100})
    assert w.state.failures["v2"].text == "rolled back (kim: prices are wrong)"
    w.wait(30.0)
    w.workers_exit()
    w.wait(1000.0)
    assert (w.state.active, w.carrying) == ("v1", {"v1": 100})
    w.say(RETRY)
    assert w.carrying == {"v2": 100}


def test_a_second_rollback_does_not_bring_the_bad_version_back() -> None:
    w = swapped(World(), "v1", "v2")
    w.say(ROLLBACK)
    with pytest.raises(Illegal, match="being rolled back to v1 already"):
        w.say(ROLLBACK)
    w.wait(30.0)
    w.workers_exit()
    assert (w.state.phase, w.state.active) == ("idle", "v1")
    with pytest.raises(Illegal, match="no older version than"):
        w.say(ROLLBACK)
    with pytest.raises(Illegal, match="v1 has the traffic already"):
        w.say(replace(ROLLBACK, to="v1"))
    with pytest.raises(Illegal, match="v9 has no container"):
        w.say(replace(ROLLBACK, to="v9"))
    w.say(replace(ROLLBACK, to="v2"))
    assert w.carrying == {"v2": 100}
    assert "v2" not in w.state.failures


@pytest.mark.parametrize("to", ["v1", "v2"])
def test_rollback_to_a_version_in_the_bake_of_another(to: str) -> None:
    w = swapped(World(), "v1", "v2")
    w.start("v3", "healthy")
    assert (w.state.phase, w.carrying) == ("verifying", {"v3": 100})
    w.say(replace(ROLLBACK, to=to))
    assert w.carrying == {to: 100}
    assert "v3" in w.state.failures


def test_rollback_goes_to_an_older_version_only() -> None:
    w = world(MANUAL)
    w.start("v2", "healthy")
    w.say(ROLLBACK)
    with pytest.raises(Illegal, match="no older version than"):
        w.say(ROLLBACK)
    assert w.carrying == {"v1": 100}


def test_rollback_in_the_bake_and_before_it() -> None:
    w = world(MANUAL)
    w.start("v2", "healthy")
    w.say(ROLLBACK)
    assert (w.state.phase, w.carrying) == ("failed", {"v1": 100})
    w.say(RETRY)
    w.say(PROMOTE)
    w.say(ROLLBACK)
    assert (w.state.phase, w.carrying) == ("failed", {"v1": 100})


def test_pause_stops_the_clock_and_what_protects_goes_on() -> None:
    w = world()
    each = w.start("v2", "healthy")
    w.wait(10.0)
    w.say(PAUSE)
    w.wait(1000.0)
    assert (w.state.phase, until(w.state, w.seen)) == ("verifying", float("inf"))
    w.say(RESUME)
    assert (w.state.phase, until(w.state, w.seen) - w.now) == ("verifying", 20.0)
    w.say(PAUSE)
    w.turns(each, "dead")
    assert w.carrying == {"v1": 100}


def test_frozen_nothing_begins_and_what_protects_goes_on() -> None:
    w = swapped(World(), "v1", "v2")
    w.frozen = True
    w.start("v3", "healthy")
    assert (w.state.phase, w.carrying) == ("idle", {"v2": 100})
    w.turns("v2-2", "dead")
    w.wait(1000.0)
    assert (w.state.phase, w.carrying) == ("verifying", {"v1": 100}), "what was served before, not what waits"
    w.frozen = False
    w.turn()
    w.wait(30.0)
    assert (w.state.active, w.carrying) == ("v1", {"v3": 100})


def test_a_weight_by_hand_stays_until_the_next_word() -> None:
    w = world(MANUAL)
    w.start("v2", "healthy")
    w.say(Word("weight", 20))
    w.wait(1000.0)
    assert w.carrying == {"v1": 80, "v2": 20}
    w.say(Word("weight", 0))
    assert (w.carrying, set(w.state.draining)) == ({"v1": 100}, {"v2"})
    w.say(PROMOTE)
    assert (w.carrying, set(w.state.draining), w.state.paused) == ({"v2": 100}, set(), False)


def test_maintenance_is_said_once() -> None:
    w = world()
    w.say(Word("maintenance", 1))
    assert w.state.maintenance
    with pytest.raises(Illegal, match="on already"):
        w.say(Word("maintenance", 1))


@pytest.mark.parametrize("word", [PROMOTE, ROLLBACK, RESUME, RETRY, Word("weight", 5), Word("maintenance", 0)])
def test_a_word_that_is_not_possible_changes_nothing(word: Word) -> None:
    w = world()
    before = w.state
    with pytest.raises(Illegal):
        w.say(word)
    assert w.state == before


def test_a_step_that_is_not_in_the_table_raises_and_changes_nothing() -> None:
    for phase in TRANSITIONS:
        for wanted in TRANSITIONS:
            turn = Turn(Rollout(phase=phase), World().seen, 0.0)
            if wanted in TRANSITIONS[phase]:
                turn.enter(wanted)
                assert turn.rollout.phase == wanted
            else:
                with pytest.raises(Illegal):
                    turn.enter(wanted)
                assert turn.rollout.phase == phase


# ---------------------------------------------------------------- any interleaving

VERSIONS = st.sampled_from(("", "v1", "v2", "v3"))
STATES = st.sampled_from(("coming", "warming", "healthy", "unhealthy", "stopping", "dead"))
SETTINGS = st.builds(
    Settings,
    strategy=st.sampled_from(("auto", "manual", "canary")),
    bake=st.sampled_from((0.0, 30.0)),
    deadline=st.just(60.0),
    retire=st.sampled_from(("keep", "stop")),
    steps=st.sampled_from(((5, 50), (25,), ())),
)
WORDS = st.one_of(
    st.sampled_from((PROMOTE, ROLLBACK, PAUSE, RESUME, RETRY, Word("maintenance", 1), Word("maintenance", 0))),
    st.builds(Word, st.just("weight"), st.integers(-1, 101)),
)


class Interleavings(RuleBasedStateMachine):
    """Checks after every turn: `_turned` compares the machine before and after it."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(proves=False)
        self.verified: float | None = None
        """When the version that is verified was proved live, and the time that was held since."""

    @initialize(proves=st.booleans(), first=SETTINGS)
    def begin(self, *, proves: bool, first: Settings) -> None:
        self.world.proves, self.world.settings = proves, first
        self.world.turn()

    def _turn(self, happens: Any) -> None:
        before = self.world.state
        happens()
        self._turned(before)

    @rule(version=VERSIONS, state=STATES, given=SETTINGS)
    @precondition(lambda self: len(self.world.replicas) < 7)
    def start(self, version: str, state: ReplicaState, given: Settings) -> None:
        self._turn(lambda: self.world.start(version, state, given))

    @rule(data=st.data(), state=STATES)
    @precondition(lambda self: self.world.replicas)
    def turn_one(self, data: st.DataObject, state: ReplicaState) -> None:
        each = data.draw(st.sampled_from(sorted(self.world.replicas)))
        self._turn(lambda: self.world.turns(each, state))

    @rule(version=VERSIONS, state=STATES)
    def turn_all(self, version: str, state: ReplicaState) -> None:
        self._turn(lambda: self.world.all_turn(version, state))

    @rule(data=st.data())
    @precondition(lambda self: self.world.replicas)
    def remove(self, data: st.DataObject) -> None:
        each = data.draw(st.sampled_from(sorted(self.world.replicas)))
        self._turn(lambda: self.world.remove(each))

    @rule(seconds=st.sampled_from((0.0, 1.0, 30.0, 61.0, 4000.0)))
    def time_passes(self, seconds: float) -> None:
        self._turn(lambda: self.world.wait(seconds))

    @rule()
    def nginx_proves(self) -> None:
        self._turn(self.world.prove)

    @rule()
    @precondition(lambda self: self.world.carrying not in (None, self.world.live))
    def nginx_refuses(self) -> None:
        self.world.refused = "[emerg] no"
        self._turn(self.world.turn)
        self.world.refused = ""

    @rule()
    def workers_exit(self) -> None:
        self._turn(self.world.workers_exit)

    @rule()
    def freeze_or_unfreeze(self) -> None:
        self.world.frozen = not self.world.frozen
        self._turn(self.world.turn)

    @rule(word=WORDS)
    def say(self, word: Word) -> None:
        before = self.world.state
        try:
            self.world.say(word)
        except Illegal:
            assert self.world.state == before
        else:
            self._turned(before, word)

    @rule()
    def restart(self) -> None:
        self._turn(self.world.restart)

    # ------------------------------------------------------------ what must hold

    def _turned(self, before: Rollout, word: Word | None = None) -> None:
        after = self.world.state
        self._never_overlaps(before, after)
        self._latch_holds(before, after, word)
        self._only_the_drained_is_stopped()
        assert self._reachable(before.phase, after.phase)

    def _reachable(self, start: Phase, end: Phase) -> bool:
        found, new = {start}, {start}
        while new:
            new = {after for phase in new for after in TRANSITIONS[phase]} - found
            found |= new
        return end in found

    def _never_overlaps(self, before: Rollout, after: Rollout) -> None:
        """One that has the traffic is settled or has failed before another one gets it, or cannot answer at all."""
        if before.phase in CUT and after.phase in CUT and after.candidate != before.candidate:
            answers = Sight(self.world.seen).healthy(before.candidate)
            assert after.active == before.candidate or before.candidate in after.failures or not answers

    def _latch_holds(self, before: Rollout, after: Rollout, word: Word | None) -> None:
        carrying = self.world.carrying or {}
        sight = Sight(self.world.seen)
        for version in after.failures.keys() & before.failures.keys() & carrying.keys():
            if before.failures[version] != after.failures[version] or version in (before.active, before.candidate):
                continue  # it had the traffic before
            others = [v for v in sight.by_version if sight.healthy(v) and v not in after.failures]
            assert not others or (word and word.verb == "rollback"), f"{version} is latched and {others} are healthy"

    def _only_the_drained_is_stopped(self) -> None:
        w = self.world
        stopped = {w.replicas[each].version for each in w.stopped}
        assert not stopped & (w.carrying or {}).keys()
        assert not w.drained, "called drained while a worker knows it"

    @invariant()
    def what_lives_is_served(self) -> None:
        w = self.world
        if w.state.active is None:
            return
        served = [r for r in w.replicas.values() if w.carrying is None or r.version in w.carrying]
        if any(r.state == "healthy" for r in w.replicas.values()):
            assert any(r.state == "healthy" for r in served), "something healthy is there, and not served"
        if any(r.state in ANSWERS for r in w.replicas.values()):
            assert any(r.state in ANSWERS for r in served), "something lives, and is not served"

    @invariant()
    def a_bad_version_is_back_by_itself(self) -> None:
        w, sight = self.world, Sight(self.world.seen)
        if w.state.phase in CUT and sight.healthy(w.state.active):
            assert sight.fault(w.state.candidate, w.state.members) is None

    @invariant()
    def traffic_is_the_active_version_s_and_the_candidate_s(self) -> None:
        carrying = self.world.carrying
        if carrying is not None:
            if not self.world.seen.settling:  # then a standby may answer for what has not come back yet
                assert carrying.keys() <= {self.world.state.active, self.world.state.candidate}
            assert sum(carrying.values()) == 100
            assert min(carrying.values()) > 0
        assert (self.world.state.candidate is None) == (self.world.state.phase in ("idle", "draining", "failed"))
        assert self.world.state.candidate is None or self.world.state.candidate != self.world.state.active

    @invariant()
    def the_state_round_trips_and_the_same_again_changes_nothing(self) -> None:
        w = self.world
        assert read_back(w.state) == w.state
        again, actions = machine.step(w.state, w.seen, w.now)
        assert again == w.state
        assert all(type(action).__name__ == "Stop" for action in actions)

    @invariant()
    def what_is_said_of_it_is_a_sentence(self) -> None:
        assert outlook(self.world.state, self.world.seen, self.world.now, "shop")

    @invariant()
    def time_alone_takes_it_further_when_it_says_so(self) -> None:
        w = self.world
        end = until(w.state, w.seen)
        if w.state.phase == "warming" and end < float("inf"):
            later, _ = machine.step(w.state, w.seen, max(end, w.now))
            assert (later.phase, later.candidate) != (w.state.phase, w.state.candidate)


Interleavings.TestCase.settings = settings(
    max_examples=5000 if settings().max_examples > 1000 else 200,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestInterleavings = Interleavings.TestCase
