"""Whether nginx answers: what counts as silence, and that it does not flap."""

from __future__ import annotations

import random
from dataclasses import replace

from proxyctl.publish.heartbeat import FAILURES, SUCCESSES, Heartbeat
from proxyctl.publish.nginx import NginxInstance
from tests.unit.desk import NGINX

OWN, OTHER, PORT = ("10.0.0.1", 80), ("10.1.0.1", 80), ("127.0.0.1", 8080)
WITH_PORT = replace(NGINX, addresses=(OWN, OTHER, PORT), published=(PORT,))


class Seen:
    """A heartbeat of an nginx whose addresses answer such a share of the connections."""

    def __init__(self, nginx: NginxInstance | None = WITH_PORT, workers: int = 2) -> None:
        self.nginx = nginx
        self.shares = {OWN: 1.0, OTHER: 1.0, PORT: 1.0}
        self.connections = 0
        self.told: list[str] = []
        self._random = random.Random(7)
        self.heartbeat = Heartbeat(lambda: self.nginx, lambda: workers, self._answers, self.told.append)

    async def _answers(self, address: tuple[str, int]) -> bool:
        self.connections += 1
        return self._random.random() < self.shares[address]

    async def look(self, times: int = 1) -> list[str]:
        self.told.clear()
        for _ in range(times):
            await self.heartbeat.look()
        return self.told


async def test_an_nginx_that_answers_is_not_spoken_of_and_costs_a_connection_an_address() -> None:
    seen = Seen()
    assert await seen.look(100) == []
    assert seen.connections == 200, "its own address, and the port that the host publishes"


async def test_one_failure_is_none_and_two_are_told_once() -> None:
    seen = Seen()
    await seen.look()
    seen.shares = dict.fromkeys(seen.shares, 0.0)
    assert await seen.look(FAILURES - 1) == []
    assert await seen.look(20) == ["nginx does not answer at 10.0.0.1:80"]
    seen.shares = dict.fromkeys(seen.shares, 1.0)
    assert await seen.look(SUCCESSES - 1) == []
    assert await seen.look(20) == [""]


async def test_one_of_two_workers_that_hangs_is_told_without_flapping() -> None:
    seen = Seen()
    seen.shares = dict.fromkeys(seen.shares, 0.5)
    (told,) = await seen.look(500)
    assert "does not answer every connection" in told


async def test_one_of_eight_workers_that_hangs_is_told_without_flapping() -> None:
    seen = Seen(workers=8)
    seen.shares = dict.fromkeys(seen.shares, 7 / 8)
    assert len(await seen.look(2000)) == 1


async def test_another_network_is_enough() -> None:
    seen = Seen()
    await seen.look()
    seen.shares[OWN] = 0.0
    assert await seen.look(20) == []


async def test_a_published_port_counts_when_it_has_answered_in_this_run() -> None:
    seen = Seen()
    seen.shares[PORT] = 0.0
    assert await seen.look(20) == [], "a controller in another network namespace reaches none"
    seen.shares[PORT] = 1.0
    await seen.look()
    seen.shares[PORT] = 0.0
    (told,) = await seen.look(20)
    assert "127.0.0.1:8080, where the host publishes it, although it answers at 10.0.0.1:80" in told
    seen.nginx = replace(WITH_PORT, started_at="later")
    assert await seen.look(20) == [""]


async def test_without_an_nginx_nothing_is_said() -> None:
    assert await Seen(None).look(10) == []


async def test_an_nginx_without_an_address_is_told() -> None:
    (told,) = await Seen(replace(NGINX, addresses=())).look(10)
    assert "in no network" in told
