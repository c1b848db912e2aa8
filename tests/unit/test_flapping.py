"""Which containers get no traffic for a while, since they end again and again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxyctl.observe.flapping import STEADY, WITHIN, Flapping
from proxyctl.plan import planner
from tests.unit import make
from tests.unit.make import container, serving


def looped(runs: list[tuple[float, float]], *, requested: bool = False) -> Flapping:
    """`runs`: when each began and ended."""
    flapping = Flapping()
    for began, ended in runs:
        flapping.started("web", began)
        flapping.ended("web", ended, requested=requested)
    return flapping


def test_two_short_runs_make_a_container_flap_until_it_has_run_for_a_while() -> None:
    flapping = looped([(0.0, 1.0), (1.1, 2.0)])
    assert flapping.held(2.0) == {}, "it does not run"
    assert flapping.started("web", 2.2)
    assert "it ended 2 times within 60 s" in flapping.held(2.3)["web"]
    assert flapping.held(2.2 + STEADY) == {}


@pytest.mark.parametrize(
    ("runs", "requested", "next_start"),
    [
        pytest.param([(0.0, 1.0)], False, 1.1, id="one end"),
        pytest.param([(0.0, STEADY), (11.0, 11.0 + STEADY)], False, 22.0, id="long runs"),
        pytest.param([(0.0, 1.0), (1.1, 2.0)], True, 2.1, id="it was stopped"),
        pytest.param([(0.0, 1.0), (1.1, 2.0)], False, 2.0 + WITHIN, id="long ago"),
    ],
)
def test_no_other_container_flaps(runs: list[tuple[float, float]], requested: bool, next_start: float) -> None:
    flapping = looped(runs, requested=requested)
    assert not flapping.started("web", next_start)
    assert flapping.held(next_start) == {}


def test_what_is_gone_is_forgotten() -> None:
    flapping = looped([(0.0, 1.0), (1.1, 2.0)])
    flapping.keep({"web"})
    assert flapping.started("web", 2.1)
    flapping.keep(())
    assert not flapping.started("web", 2.2)


def test_a_flapping_target_gets_no_traffic_and_says_why() -> None:
    web = {"host": "a.example", "service": "web"}
    boxes = [container("web-1", web), container("web-2", web, created=200.0, networks={"front": "10.0.0.6"})]
    machine, inputs = planner.Planner(), make.inputs(make.snapshot(boxes), make.Standing({}))
    assert serving(machine.plan(inputs).table) == {"a.example/": ["web-1", "web-2"]}
    held = replace(inputs, snapshot=replace(inputs.snapshot, flapping={"id-web-2": "it is flapping"}))
    plan = machine.plan(held)
    assert serving(plan.table) == {"a.example/": ["web-1"]}
    assert [(t.state, t.reason) for t in plan.table.vhosts[0].locations[0].targets][1] == ("warming", "it is flapping")
    assert serving(machine.plan(inputs).table) == {"a.example/": ["web-1", "web-2"]}
