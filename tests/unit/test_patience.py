"""When nginx had better go on with what it has."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from proxyctl.model import Plan, RouteTable
from proxyctl.patience import Patience
from proxyctl.plan.routes import WARM_UP
from tests.unit import make

PLAN = replace(make.decide([]), ahead=make.table(*((f"h{n}.example", make.location("/")) for n in range(200))))
SLOW, QUICK = 1.0, 0.1
"""Seconds that nginx needs to parse."""


def holding(hosts: int) -> Plan:
    return replace(PLAN, holding=hosts)


def test_a_crowd_that_warms_up_is_published_at_once_where_a_reload_is_dear() -> None:
    assert Patience(doubtful=False).waits(holding(50), SLOW, 0, urgent=False)
    assert not Patience(doubtful=False).waits(holding(50), QUICK, 0, urgent=False)


def test_what_is_urgent_waits_for_no_crowd() -> None:
    assert not Patience(doubtful=False).waits(holding(50), SLOW, 50, urgent=True)


def test_a_few_hosts_are_no_crowd_and_a_few_of_many_are_none() -> None:
    """A small machine may need long for an `nginx -t` of two hosts."""
    two = replace(PLAN, ahead=make.table(("a.example", make.location("/")), ("b.example", make.location("/"))), holding=2)
    assert not Patience(doubtful=False).waits(two, SLOW, 2, urgent=False)
    many = replace(PLAN, ahead=make.table(*((f"h{n}.example", make.location("/")) for n in range(3000))), holding=30)
    assert not Patience(doubtful=False).waits(many, SLOW, 30, urgent=False)
    assert Patience(doubtful=False).waits(replace(many, holding=31), SLOW, 31, urgent=False)


def test_the_last_of_a_crowd_are_asked_before_it_is_published() -> None:
    waiting = Patience(doubtful=False)
    assert waiting.waits(holding(50), SLOW, 50, urgent=False)
    assert waiting.waits(holding(1), SLOW, 1, urgent=False)
    assert not waiting.waits(holding(1), SLOW, 0, urgent=False)
    assert not waiting.waits(holding(1), SLOW, 1, urgent=False), "that is no crowd any more"


def test_a_crowd_is_waited_for_as_long_as_another_reload_would_take(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    waiting = Patience(doubtful=False)
    assert waiting.waits(holding(50), SLOW, 50, urgent=False)
    now += WARM_UP + 0.1
    assert not waiting.waits(holding(50), SLOW, 50, urgent=False)
    assert waiting.waits(holding(50), 2 * WARM_UP, 50, urgent=False)


def test_without_hosts_there_is_no_crowd() -> None:
    assert not Patience(doubtful=False).waits(replace(PLAN, ahead=RouteTable()), SLOW, 0, urgent=False)
