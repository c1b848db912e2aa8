"""What a cycle changed, in lines for people."""

from __future__ import annotations

import pytest

from proxyctl.model import Container, RouteTable
from proxyctl.plan import changes
from tests.unit.make import container, decide, location, routed, table

ONE = container("web-1", {"host": "a.example", "service": "web"}, networks={"front": "10.0.0.5"})
TWO = container("web-2", {"host": "a.example", "service": "web"}, created=200.0, networks={"front": "10.0.0.6"})
GIT = container("git", {"host": "a.example", "path": "/git", "service": "web"}, networks={"front": "10.0.0.7"})


def served(*containers: Container, states: dict[str, str | None] | None = None, stopping: tuple[str, ...] = ()) -> RouteTable:
    """When a.example/ was served before."""
    return decide(containers, states, stopping=stopping, published=["a.example/"], owners=decide([ONE]).owners).table


BOTH = served(ONE, TWO)
FAILING = served(ONE, TWO, states={"web-2": "unhealthy"})
STOPPING = served(ONE, TWO, stopping=("web-1",))
UNHEALTHY = served(ONE, states={"web-1": "unhealthy"})
WARMING = served(ONE, states={"web-1": "warming"})


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        pytest.param(RouteTable(), decide([ONE, TWO]).table, ["+ a.example/ -> web-1, web-2"], id="a place comes"),
        pytest.param(RouteTable(), WARMING, ["+ a.example/ -> nothing healthy yet"], id="a place without anybody"),
        pytest.param(decide([ONE, GIT]).table, decide([ONE]).table, ["- a.example/git"], id="a place goes"),
        pytest.param(served(ONE), BOTH, ["a.example/: web-2 in"], id="a target comes"),
        pytest.param(BOTH, served(TWO), ["a.example/: web-1 out (gone)"], id="a target is removed"),
        pytest.param(BOTH, FAILING, ["a.example/: web-2 out (unhealthy: refused)"], id="a target fails"),
        pytest.param(BOTH, STOPPING, ["a.example/: web-1 out (stopping: it was sent its stop signal)"], id="a target stops"),
        pytest.param(served(ONE), served(TWO), ["a.example/: web-1 out (gone), web-2 in"], id="a swap"),
        pytest.param(served(ONE), UNHEALTHY, ["a.example/: nothing healthy, what is alive serves"], id="fail open"),
        pytest.param(BOTH, BOTH, [], id="nothing"),
        pytest.param(served(ONE, TWO, states={"web-2": "warming"}), served(ONE), [], id="nothing that carries traffic"),
    ],
)
def test_a_line_says(before: RouteTable, after: RouteTable, lines: list[str]) -> None:
    assert list(changes.between(before, after)) == lines


def test_the_last_target_that_goes_leaves_503() -> None:
    before, after = table(("a.example", location("/", routed()))), table(("a.example", location("/")))
    assert changes.between(before, after) == ("a.example/: 503 from now on, web out (gone)",)


def test_lines_are_in_the_order_of_places_and_there_are_not_too_many() -> None:
    many = table(*((f"h{number:03}.example", location("/", routed())) for number in range(changes.MOST + 7)))
    lines = changes.between(RouteTable(), many)
    assert len(lines) == changes.MOST + 1
    assert lines[0] == "+ h000.example/ -> web"
    assert list(lines[:-1]) == sorted(lines[:-1])
    assert lines[-1] == "... and 7 more"
