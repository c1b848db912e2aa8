"""The judge of the fault runs: what somebody else answered before nginx let go of an address, and what after."""

from __future__ import annotations

import pytest

from tests.chaos.judge import Departure, Told, closed, trace
from tests.load import Stray

IN, OUT = "a.example/: rig1-web-1 in None", "a.example/: rig1-web-1 out (down: exited) None"
ENDED = "None 10.0.0.5 belongs to rig1-api-1 now"
LEFT = Departure("a.example", "web-1", "10.0.0.5", at=10.0)
FOR_EVER = float("inf")


@pytest.mark.parametrize(
    ("lines", "at"),
    [
        ([(5.0, IN), (10.6, OUT)], 10.6),
        ([(5.0, IN), (10.6, OUT), (11.3, ENDED)], 11.3),
        (
            [(5.0, IN), (10.6, OUT), (11.3, "10.0.0.5 belongs to rig1-api-12 now"), (11.4, "10.0.0.6 belongs to rig1-api-1 now")],
            10.6,
        ),
        ([(5.0, IN), (9.0, ENDED), (10.6, OUT)], 10.6),
        ([(5.0, IN), (9.0, ENDED), (10.6, OUT), (11.3, ENDED)], 11.3),
        ([(5.0, IN)], FOR_EVER),
        ([(5.0, IN), (10.6, "- a.example/ None")], 10.6),
        ([(5.0, IN), (10.6, "... and 7 more")], 10.6),
        ([(5.0, IN), (9.9, OUT)], 0.0),
        ([(5.0, IN), (9.0, OUT), (9.5, "a.example/: rig1-web-12 in None")], 0.0),
        ([(5.0, IN), (9.9, OUT), (11.3, ENDED)], 0.0),
        ([], 0.0),
        ([(10.8, IN), (11.2, OUT)], 0.0),
    ],
)
def test_when_nginx_let_go_of_who_left(lines: list[tuple[float, str]], at: float) -> None:
    told = [Told(when, text) for when, text in lines]
    assert closed([LEFT], "api-1", {"10.0.0.99"}, told) == at


def test_nobody_has_left() -> None:
    assert closed([], "api-1", {"10.0.0.5"}, [Told(5.0, IN), Told(11.3, ENDED)]) == 0.0


def test_where_the_address_that_was_left_is_not_known_it_is_that_of_who_answers() -> None:
    left = Departure("a.example", "web-1", "", at=10.0)
    assert closed([left], "api-1", {"10.0.0.5"}, [Told(5.0, IN), Told(10.6, OUT), Told(11.3, ENDED)]) == 11.3


def test_a_trace_tells_who_left_who_answered_and_what_was_said_of_them() -> None:
    told = [Told(5.0, IN), Told(10.6, OUT), Told(10.7, "b.example/: other in")]
    assert trace("a.example", [Stray(11.0, 11.1, "new", "api-1")], [LEFT], told) == [
        f"-6.000 s {IN}",
        "-1.000 s web-1 leaves 10.0.0.5",
        f"-0.400 s {OUT}",
        "+0.000 s a.example is answered by api-1",
    ]
    assert trace("a.example", [], [LEFT], told) == []
