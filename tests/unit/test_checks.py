"""One check of one target: what passes, what is asked for, and the words for a failure."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from proxyctl.model import HealthType, Target
from tests.rig import free_port
from tests.unit import make
from tests.unit.asked import NEEDS_IPV6, Server, Watching, http, tcp

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


@NEEDS_IPV6
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
