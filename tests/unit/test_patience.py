"""When nginx had better go on with what it has."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from proxyctl import patience
from proxyctl.model import ProbeResult, Target
from proxyctl.observe.events import Wakes
from proxyctl.observe.probes import Prober
from proxyctl.patience import Patience
from proxyctl.report import Wake
from tests.unit import make

SLOW, QUICK = 1.0, 0.1
"""Seconds that nginx needs to parse."""


def waiting_for(unasked: int, asked: int = 200) -> Prober:
    prober = Prober(lambda *_: None)
    prober.unasked = unasked
    prober.standing = {(Target(f"id{n}", "", "10.0.0.5", n), ""): ProbeResult("healthy", "", 0.0) for n in range(asked)}
    return prober


async def waits(prober: Prober, parsing: float = SLOW, *, urgent: bool = False, wakes: Wakes | None = None) -> bool:
    return await Patience(doubtful=False).waits(prober, parsing, wakes or Wakes(), urgent=urgent)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "WARM_UP", 0.2)
    monkeypatch.setattr(patience, "LOOK_EVERY", 0.005)


async def test_a_crowd_is_published_when_all_of_it_has_been_asked_where_a_reload_is_dear() -> None:
    crowd = waiting_for(50)
    asyncio.get_running_loop().call_later(0.05, setattr, crowd, "unasked", 0)
    began = asyncio.get_running_loop().time()
    assert await waits(crowd)
    assert crowd.unasked == 0
    assert asyncio.get_running_loop().time() - began < 0.2
    assert not await waits(waiting_for(50), QUICK)
    assert not await waits(crowd), "all have been asked"


async def test_what_is_urgent_waits_for_no_crowd_and_ends_the_wait_for_one() -> None:
    assert not await waits(waiting_for(50), urgent=True)
    crowd, wakes = waiting_for(50), Wakes()
    asyncio.get_running_loop().call_later(0.02, wakes.post, Wake(("die",), urgent=True))
    assert await waits(crowd, parsing=60.0, wakes=wakes)
    assert crowd.unasked == 50


async def test_a_few_targets_are_no_crowd_and_a_few_of_many_are_none() -> None:
    assert not await waits(waiting_for(10, asked=2))
    assert not await waits(waiting_for(30, asked=3000))
    assert await waits(waiting_for(31, asked=3000), parsing=0.6)


async def test_a_crowd_is_not_waited_for_longer_than_being_published_in_parts_would_take() -> None:
    crowd, clock, waiting, wakes = waiting_for(50), asyncio.get_running_loop().time, Patience(doubtful=False), Wakes()
    began = clock()
    assert await waiting.waits(crowd, 0.6, wakes, urgent=False)
    assert 1.2 <= clock() - began < 3
    assert not await waiting.waits(crowd, 0.6, wakes, urgent=False), "once for each crowd"
    crowd.unasked = 0
    assert not await waiting.waits(crowd, 0.6, wakes, urgent=False)
    crowd.unasked = 50
    assert await waiting.waits(crowd, 0.6, wakes, urgent=False)


def test_doubts_end_when_nobody_is_waited_for() -> None:
    plan = make.decide([])
    assert not Patience(doubtful=False).doubts(replace(plan, holding=1))
    doubtful = Patience(doubtful=True)
    assert doubtful.doubts(replace(plan, holding=1))
    assert not doubtful.doubts(plan)
    assert not doubtful.doubts(replace(plan, holding=1)), "once is enough"
