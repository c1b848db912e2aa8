"""Whether targets are well: real sockets on 127.0.0.1, asked by the prober itself."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyctl.model import HealthType, Probe, ProbeResult, Target
from proxyctl.observe import probes
from proxyctl.observe.probes import Prober
from tests.unit import make


class Server:
    """Answers each request with the next of `statuses`, the last one for ever; 0 means no answer, -1 nonsense."""

    def __init__(self) -> None:
        self.port = 0
        self.statuses = [200]
        self.heads: list[str] = []
        self.at: list[float] = []
        self.connections = 0
        self.open = self.most = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.most = max(self.most, self.open)
        while head := await reader.read(65536):
            self.heads.append(head.decode("latin-1"))
            self.at.append(time.monotonic())
            status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
            if status:
                location = "Location: /elsewhere\r\n" if 300 <= status < 400 else ""
                text = f"HTTP/1.1 {status} x\r\n{location}Content-Length: 0\r\n\r\n" if status > 0 else "\x00nonsense\r\n\r\n"
                writer.write(text.encode())
        self.open -= 1
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    listening = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    server.port = int(listening.sockets[0].getsockname()[1])
    yield server
    listening.close()
    await listening.wait_closed()


class Watching:
    """A prober and all that it tells."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.since: list[float] = []
        self.prober = Prober(self._changed)

    def _changed(self, probe: Probe, result: ProbeResult, since: float) -> None:
        self.told.append((result.state, result.reason))
        self.since.append(since)
        assert probe.route == "default"

    @property
    def result(self) -> ProbeResult:
        (result,) = self.prober.standing.values()
        return result

    async def until(self, true: Callable[[], object], within: float = 5.0) -> None:
        end = time.monotonic() + within
        while not true():
            assert time.monotonic() < end, (self.told, self.result)
            await asyncio.sleep(0.001)

    async def state(self, state: str) -> None:
        await self.until(lambda: self.result.state == state)


@pytest.fixture
async def watching() -> AsyncIterator[Watching]:
    watching = Watching()
    yield watching
    await watching.prober.close()
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("probe")]


def http(server: Server, **more: Any) -> Probe:
    return make.probe(server.port, "http", **({"rise": 1, "fall": 1, "interval": 0.02} | more))


def tcp(server: Server, **more: Any) -> Probe:
    return make.probe(server.port, "tcp", **({"rise": 1, "fall": 1, "interval": 0.02} | more))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---------------------------------------------------------------- rise and fall


async def test_a_target_is_healthy_after_so_many_good_checks_in_a_row(server: Server, watching: Watching) -> None:
    server.statuses = [200, 200, 500, 200, 200, 200]
    watching.prober.watch([http(server, rise=3)])
    await watching.state("healthy")
    assert len(server.heads) == 6
    assert watching.told == [("healthy", "")]


async def test_a_target_that_warms_up_is_asked_every_few_milliseconds(server: Server, watching: Watching) -> None:
    began = time.monotonic()
    watching.prober.watch([tcp(server, rise=5, interval=60.0)])
    await watching.state("healthy")
    assert time.monotonic() - began < 0.5


async def test_the_checks_of_a_slow_start_grow_rarer(server: Server, watching: Watching) -> None:
    server.statuses = [503]
    watching.prober.watch([http(server, interval=60.0)])
    await asyncio.sleep(0.5)
    early = len(server.heads)
    await asyncio.sleep(0.5)
    assert len(server.heads) - early < early / 2
    assert len(server.heads) - early >= 5, "within a twentieth of the time it has taken"


async def test_a_target_that_has_settled_is_asked_every_interval(server: Server, watching: Watching) -> None:
    watching.prober.watch([http(server, interval=0.1)])
    await watching.state("healthy")
    await asyncio.sleep(0.55)
    assert 4 <= len(server.heads) <= 7


async def test_one_bad_check_is_not_yet_unhealthy_when_two_are_asked_for(server: Server, watching: Watching) -> None:
    server.statuses = [200, 500, 200, 500, 500, 500]
    watching.prober.watch([http(server, fall=2)])
    await watching.state("unhealthy")
    assert len(server.heads) == 5
    assert watching.told == [("healthy", ""), ("unhealthy", "/ answered 500")]


async def test_an_unhealthy_target_comes_back_after_so_many_good_checks(server: Server, watching: Watching) -> None:
    server.statuses = [200, 200, 500, 200, 500, 200, 200]
    watching.prober.watch([http(server, rise=2)])
    await watching.until(lambda: [state for state, _ in watching.told] == ["healthy", "unhealthy", "healthy"])
    assert len(server.heads) == 7


async def test_a_target_that_never_passed_is_warming_and_says_why(server: Server, watching: Watching) -> None:
    server.statuses = [503]
    watching.prober.watch([http(server, fall=10**6)])
    await watching.until(lambda: watching.result.reason)
    assert (watching.result.state, watching.result.reason) == ("warming", "/ answered 503")
    assert watching.told == []


async def test_a_change_is_told_with_the_time_of_the_check_that_began_it(server: Server, watching: Watching) -> None:
    server.statuses = [503] * 6 + [200]
    watching.prober.watch([http(server, rise=3, interval=60.0)])
    await watching.state("healthy")
    assert server.at[5] < watching.since[0] < server.at[7]


async def test_a_change_has_its_own_time_and_a_new_reason_has_not(server: Server, watching: Watching) -> None:
    server.statuses = [500, 500, 404]
    watching.prober.watch([http(server)])
    first = watching.result.since_unix
    await watching.until(lambda: "404" in watching.result.reason)
    assert watching.result.since_unix == first
    server.statuses = [200]
    await watching.state("healthy")
    assert watching.result.since_unix > first


# ---------------------------------------------------------------- one check


@pytest.mark.parametrize(
    ("answered", "passes"),
    [(200, True), (204, True), (399, True), (400, False), (503, False), (301, True)],
)
async def test_http_passes_on_200_to_399_and_follows_no_redirect(
    answered: int, passes: bool, server: Server, watching: Watching
) -> None:
    server.statuses = [answered]
    said = await watching.prober.check(http(server))
    assert said == ("" if passes else f"/ answered {answered}")
    assert len(server.heads) == 1


async def test_http_passes_on_the_statuses_that_the_label_names(server: Server, watching: Watching) -> None:
    server.statuses = [401, 200]
    probe = http(server, status=((401, 401), (500, 599)))
    assert await watching.prober.check(probe) == ""
    assert await watching.prober.check(probe) == "/ answered 200"


async def test_http_asks_for_the_path_under_the_host_of_the_route(server: Server, watching: Watching) -> None:
    await watching.prober.check(http(server, path="/up?deep=1", host="h.example"))
    (head,) = server.heads
    assert head.startswith("GET /up?deep=1 HTTP/1.1\r\n")
    assert "\r\nHost: h.example\r\n" in head
    assert "\r\nUser-Agent: proxyctl-health\r\n" in head


async def test_every_check_is_a_connection_of_its_own(server: Server, watching: Watching) -> None:
    for _ in range(3):
        await watching.prober.check(http(server))
    assert server.connections == 3


async def test_an_https_target_is_spoken_to_in_tls(server: Server, watching: Watching) -> None:
    assert await watching.prober.check(http(server, scheme="https")) != ""
    assert server.heads[0].startswith("\x16\x03")


@pytest.mark.parametrize("kind", ["http", "tcp"])
async def test_nobody_listening_is_said_so(kind: HealthType, watching: Watching) -> None:
    assert await watching.prober.check(make.probe(free_port(), kind)) == "connection refused"


async def test_a_target_that_does_not_answer_in_time_is_said_so(server: Server, watching: Watching) -> None:
    server.statuses = [0]
    began = time.monotonic()
    assert await watching.prober.check(http(server, timeout=0.05)) == "no answer within 0.05 s"
    assert time.monotonic() - began < 1


async def test_nonsense_is_a_failed_check_and_not_the_end_of_checking(server: Server, watching: Watching) -> None:
    server.statuses = [-1, -1, 200]
    watching.prober.watch([http(server)])
    await watching.state("healthy")


async def test_tcp_asks_for_a_connection_and_sends_nothing(server: Server, watching: Watching) -> None:
    assert await watching.prober.check(tcp(server)) == ""
    await asyncio.sleep(0.01)
    assert (server.connections, server.heads) == (1, [])


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
@pytest.mark.parametrize("kind", ["http", "tcp"])
async def test_an_ipv6_target_is_reached(kind: HealthType, watching: Watching) -> None:
    server = Server()
    listening = await asyncio.start_server(server.answer, "::1", 0)
    port = int(listening.sockets[0].getsockname()[1])
    probe = replace(make.probe(port, kind), target=Target("id-web", "endpoint", "::1", port))
    assert await watching.prober.check(probe) == ""
    listening.close()
    await listening.wait_closed()


@pytest.mark.parametrize(
    "path", ["/%", "/[", "/\\", "/a/../b", "//x//y", "/?a=b&c=%zz", '/"<>|^`{}', "/a;b,c", "/%2F%41", "/:@!$&'()*+"]
)
async def test_the_path_is_sent_as_it_is_written(path: str, server: Server, watching: Watching) -> None:
    assert await watching.prober.check(http(server, path=path)) == ""
    assert server.heads[0].startswith(f"GET {path} HTTP/1.1\r\n")


# ---------------------------------------------------------------- Docker's word


async def test_docker_alone_says_when_its_healthcheck_is_the_check(server: Server, watching: Watching) -> None:
    probe = make.probe(server.port, "docker", "starting")
    for health, state in (("starting", "warming"), ("unhealthy", "warming"), ("healthy", "healthy"), ("unhealthy", "unhealthy")):
        watching.prober.watch([replace(probe, docker_health=health)])  # type: ignore[arg-type]
        assert watching.result.state == state
    await asyncio.sleep(0.02)
    assert server.connections == 0
    assert watching.told == [("healthy", ""), ("unhealthy", "Docker's HEALTHCHECK fails")]


async def test_docker_can_object_to_a_target_that_answers(server: Server, watching: Watching) -> None:
    probe = http(server)
    watching.prober.watch([replace(probe, docker_health="starting")])
    await watching.state("healthy")
    watching.prober.watch([replace(probe, docker_health="unhealthy")])
    assert (watching.result.state, watching.result.reason) == ("unhealthy", "Docker's HEALTHCHECK fails")
    asked = len(server.heads)
    await watching.until(lambda: len(server.heads) > asked + 2)
    assert watching.result.state == "unhealthy"
    watching.prober.watch([replace(probe, docker_health="healthy")])
    await watching.state("healthy")


async def test_docker_cannot_make_a_target_healthy_that_does_not_answer(server: Server, watching: Watching) -> None:
    server.statuses = [503]
    watching.prober.watch([replace(http(server), docker_health="healthy")])
    await watching.until(lambda: len(server.heads) > 2)
    assert watching.result.state == "warming"


async def test_without_a_check_a_target_is_healthy_at_once_and_never_asked(server: Server, watching: Watching) -> None:
    watching.prober.watch([make.probe(server.port, "none", "unhealthy")])
    assert watching.result.state == "healthy"
    assert watching.told == [("healthy", "")], "or nobody would route it before the next event"
    await asyncio.sleep(0.02)
    assert server.connections == 0


async def test_a_check_that_becomes_another_kind_is_done_in_the_new_way(server: Server, watching: Watching) -> None:
    probe = http(server)
    asked_by_docker = replace(probe, check=replace(probe.check, type="docker"), docker_health="healthy")
    watching.prober.watch([asked_by_docker])
    assert watching.result.state == "healthy"
    await asyncio.sleep(0.01)
    server.statuses = [500]
    watching.prober.watch([probe])
    await watching.state("unhealthy")
    watching.prober.watch([asked_by_docker])
    assert watching.result.state == "healthy"
    asked = len(server.heads)
    await asyncio.sleep(0.1)
    assert len(server.heads) <= asked + 1


# ---------------------------------------------------------------- who is watched


async def test_what_was_live_before_is_trusted_until_it_fails(server: Server, watching: Watching) -> None:
    server.statuses = [500]
    probe = http(server, fall=2)
    watching.prober.watch([probe], trusted=[probe.key])
    assert watching.result.state == "healthy"
    await watching.state("unhealthy")
    assert len(server.heads) == 2


async def test_trust_is_for_that_very_run_of_the_container(server: Server, watching: Watching) -> None:
    probe = http(server)
    watching.prober.watch([probe], trusted=[(replace(probe.target, endpoint_id="before"), probe.route)])
    assert watching.result.state == "warming"


async def test_who_is_not_watched_any_more_is_not_asked_and_not_told(server: Server, watching: Watching) -> None:
    watching.prober.watch([http(server)])
    await watching.state("healthy")
    watching.prober.watch([])
    assert watching.prober.standing == {}
    asked = server.connections
    await asyncio.sleep(0.1)
    assert server.connections <= asked + 1
    assert watching.told == [("healthy", "")]


async def test_watching_again_does_not_begin_anew(server: Server, watching: Watching) -> None:
    watching.prober.watch([http(server, interval=60.0)])
    await watching.state("healthy")
    for _ in range(5):
        watching.prober.watch([http(server, interval=60.0)])
        await asyncio.sleep(0.001)
    assert (len(server.heads), watching.result.state) == (1, "healthy")


async def test_another_start_of_a_container_is_another_target(server: Server, watching: Watching) -> None:
    probe = http(server)
    watching.prober.watch([probe])
    await watching.state("healthy")
    watching.prober.watch([replace(probe, target=replace(probe.target, endpoint_id="next"))])
    assert watching.result.state == "warming"
    await watching.state("healthy")


async def test_one_route_that_fails_says_nothing_about_another_of_the_same_target(server: Server, watching: Watching) -> None:
    good, bad = http(server), replace(http(server, status=((404, 404),)), route="x")
    watching.prober.watch([good, bad])
    await watching.until(lambda: watching.prober.standing[good.key].state == "healthy")
    await watching.until(lambda: watching.prober.standing[bad.key].reason)
    assert watching.prober.standing[bad.key].state == "warming"


async def test_so_many_checks_at_once_and_no_more(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "AT_ONCE", 3)
    server.statuses = [0]
    prober = Prober(lambda *_: None)
    probe = http(server, timeout=0.03)
    prober.watch([replace(probe, target=replace(probe.target, container_id=f"id-{n}")) for n in range(20)])
    await asyncio.sleep(0.15)
    assert server.most == 3
    assert server.connections > 6
    await prober.close()


@given(interval=st.floats(0.1, 3600), now=st.floats(0, 1e7))
def test_settled_targets_are_asked_around_their_interval(interval: float, now: float) -> None:
    pause = probes._until_next(interval, now)
    assert interval * 0.9 - 1e-6 <= pause <= interval * 1.16
