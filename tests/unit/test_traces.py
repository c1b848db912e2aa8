"""How containers ended, and which run of nginx is which."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from proxyctl.model import EngineEvent, EngineUnavailable, Exit
from proxyctl.observe.engine_json import read_event, read_exit
from proxyctl.observe.exits import AT_ONCE, Exits
from proxyctl.publish.nginx import NginxInstance
from proxyctl.serve.runs import NginxRuns
from tests.unit.desk import NGINX

BEGAN = 1796000000.0


class Inspected:
    """An engine that knows how containers ended; it does not answer for those that it does not know."""

    def __init__(self, **ends: Exit) -> None:
        self.ends = ends
        self.asked: list[str] = []

    async def last_exit(self, container: str) -> Exit | None:
        self.asked.append(container)
        if container not in self.ends:
            raise EngineUnavailable("no answer")
        return self.ends[container]


def event(action: str, signal: int = 0, code: int | None = None) -> EngineEvent:
    return EngineEvent(action, "web", signal, exit_code=code)


@pytest.mark.parametrize(
    ("events", "inspected", "expected", "words"),
    [
        ([event("die", code=3)], Exit(None, restarts=4), Exit(3, restarts=4), "exited with status 3, restarted 4 times"),
        ([event("die", code=0)], None, Exit(0), "exited with status 0"),
        ([event("kill", 15), event("die", code=143)], Exit(143), Exit(143, requested=True), "stopped (status 143)"),
        ([event("kill", 37), event("die", code=0)], Exit(0), Exit(0, requested=True), "stopped (status 0)"),
        (
            [event("kill", 1), event("die", code=1)],
            Exit(1, restarts=1),
            Exit(1, restarts=1),
            "exited with status 1, restarted once",
        ),
        ([event("kill", 15), event("start"), event("die", code=1)], Exit(1), Exit(1), "exited with status 1"),
        (
            [event("oom"), event("die", code=137)],
            None,
            Exit(137, out_of_memory=True),
            "killed, out of memory (status 137)",
        ),
        (
            [event("die", code=137)],
            Exit(137, out_of_memory=True),
            Exit(137, out_of_memory=True),
            "killed, out of memory (status 137)",
        ),
        ([event("die", code=3)], Exit(None, out_of_memory=True), Exit(3), "exited with status 3"),
    ],
)
async def test_an_end_is_told_with_its_cause(
    events: list[EngineEvent], inspected: Exit | None, expected: Exit, words: str
) -> None:
    told: list[tuple[str, Exit]] = []
    exits = Exits(Inspected(**({"web": inspected} if inspected else {})), lambda *end: told.append(end))
    for each in events:
        exits.note(each, stop_signal=37)
    await asyncio.sleep(0.01)
    assert told == [("web", expected)]
    assert exits.latest == {"web": expected}
    assert str(expected) == words


async def test_containers_that_had_ended_before_are_asked_about_once_and_a_few_at_a_time() -> None:
    names = [f"c{n}" for n in range(AT_ONCE + 2)]
    engine = Inspected(**dict.fromkeys(names[1:], Exit(1)))
    exits = Exits(engine, lambda *_: None)
    exits.follow(names, names)
    assert len(engine.asked) == 0
    await asyncio.sleep(0.01)
    assert len(engine.asked) == AT_ONCE
    for _ in range(3):
        exits.follow(names, names)
        await asyncio.sleep(0.01)
    assert sorted(engine.asked) == sorted(names)
    exits.follow(names[:2], ())
    assert exits.latest == {"c1": Exit(1)}


def test_the_exit_status_is_read_from_events_and_inspections() -> None:
    def die(**attributes: str) -> int | None:
        found = read_event({"Type": "container", "Action": "die", "Actor": {"ID": "c1", "Attributes": attributes}})
        assert found
        return found.exit_code

    assert (die(exitCode="137"), die(containerExitCode="1"), die(exitCode="x"), die()) == (137, 1, None, None)
    state = {"Status": "exited", "Running": False, "ExitCode": 137, "OOMKilled": True, "FinishedAt": "2026-12-01T11:28:21Z"}
    assert read_exit({"State": state, "RestartCount": 2}) == Exit(137, out_of_memory=True, restarts=2)
    assert read_exit({"State": state | {"Status": "restarting", "Running": True}}) == Exit(137, out_of_memory=True)
    assert read_exit({"State": state | {"Status": "running", "Running": True, "ExitCode": 0}}) == Exit(None, out_of_memory=True)
    assert read_exit({"State": state | {"FinishedAt": "0001-01-01T00:00:00Z"}}) is None


# ---------------------------------------------------------------- nginx

EARLIER = replace(NGINX, started_at="2026-11-24T06:00:00.811003720Z")
LATER = replace(NGINX, started_at="2027-01-01T06:00:00Z")


def runs(before: str = "") -> NginxRuns:
    return NginxRuns(before, BEGAN, lambda: 500.0)


@pytest.mark.parametrize(
    ("before", "nginx", "kind", "starts", "expected"),
    [
        ("", EARLIER, "nginx-adopted", 0, True),
        (f"{EARLIER.id} {EARLIER.started_at}", EARLIER, "nginx-adopted", 0, True),
        ("id-nginx 2026-11-01T00:00:00Z", EARLIER, "nginx-adopted", 1, False),
        ("", LATER, "nginx-started", 1, True),
        (f"{EARLIER.id} {EARLIER.started_at}", LATER, "nginx-started", 1, False),
    ],
)
def test_the_first_look_adopts_nginx_or_sees_it_start(
    before: str, nginx: NginxInstance, kind: str, starts: int, expected: bool
) -> None:
    found = runs(before)
    incident = found.look(nginx, BEGAN + 1)
    assert incident
    assert (incident.kind, incident.expected, found.starts) == (kind, expected, starts)
    assert found.look(nginx, BEGAN + 2) is None


def test_a_start_later_tells_how_the_run_before_ended() -> None:
    found = runs()
    found.look(EARLIER, BEGAN + 1)
    incident = found.look(LATER, BEGAN + 2, Exit(137))
    assert incident
    assert incident.text == "nginx edge was started again; the run before it ended: exited with status 137"
    assert found.shown().starts == 1
    assert found.shown().started_unix == 1798783200.0


def test_the_start_of_an_nginx_of_the_host_is_read_in_ticks_since_the_boot() -> None:
    found = runs()
    found.look(replace(NGINX, started_at="4711 250"), BEGAN)
    assert found.started_unix == 502.5
