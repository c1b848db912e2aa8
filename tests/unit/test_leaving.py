"""When a host that is left counts as drained."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from proxyctl import leaving
from proxyctl.publish.reload import Remains
from proxyctl.publish.workers import TABLES, closing_of
from tests.rig import LOOPBACK, until
from tests.unit.asked import NEEDS_IPV6


class Host:
    """With a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.asked = 0
        self._leaving = leaving.Leaving()
        monkeypatch.setattr(leaving, "time", SimpleNamespace(monotonic=lambda: self.now))

    async def is_drained(self, after: float, *closing: str, workers: bool = False) -> bool:
        async def remains() -> Remains:
            self.asked += 1
            return Remains(workers, frozenset(closing))

        self.now += after
        await self._leaving.look("ending", remains)
        return self._leaving.drained


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


async def test_an_old_worker_is_waited_for_and_then_the_least(host: Host) -> None:
    assert not await host.is_drained(60.0, workers=True)
    assert not await host.is_drained(0.5)
    assert not await host.is_drained(leaving.AT_LEAST - 0.1)
    assert not await host.is_drained(0.0, workers=True), "it was started again meanwhile"
    assert not await host.is_drained(0.5)
    assert await host.is_drained(leaving.AT_LEAST)


async def test_what_a_worker_left_is_waited_for_and_what_came_later_is_not(host: Host) -> None:
    assert not await host.is_drained(0.0, "slow", "quick")
    assert not await host.is_drained(leaving.AT_LEAST, "slow", "later")
    assert await host.is_drained(1.0, "later")


async def test_a_client_that_does_not_read_holds_nobody_up_for_long(host: Host) -> None:
    assert not await host.is_drained(0.0, "stuck")
    assert not await host.is_drained(leaving.AT_MOST - 0.1, "stuck")
    assert await host.is_drained(0.1, "stuck")


async def test_drained_stays_drained_and_is_not_asked_for_again(host: Host) -> None:
    await host.is_drained(0.0)
    assert await host.is_drained(leaving.AT_LEAST)
    asked = host.asked
    assert await host.is_drained(1.0, "another", workers=True)
    assert host.asked == asked


@pytest.mark.parametrize("family", [socket.AF_INET, pytest.param(socket.AF_INET6, marks=NEEDS_IPV6)])
def test_the_kernel_says_which_connections_are_not_over(family: socket.AddressFamily) -> None:
    """Of real ones: one that was closed and is not read, and one that was closed by its client first."""

    def mine() -> int:
        ports = {f"{listener.getsockname()[1]:04X}", f"{other.getsockname()[1]:04X}"}
        tables = "".join(path.read_text(encoding="ascii") for path in map(Path("/proc/net").joinpath, TABLES) if path.exists())
        return sum(ends.split()[0].rpartition(":")[2] in ports for ends in closing_of(tables))

    here = LOOPBACK if family == socket.AF_INET else "::1"
    with socket.socket(family) as listener, socket.socket(family) as client, socket.socket(family) as other:
        listener.bind((here, 0))
        listener.listen()
        client.connect(listener.getsockname())
        served = listener.accept()[0]
        served.sendall(b"x" * 1000)
        assert mine() == 0, "it is open"
        served.close()
        assert mine() == 1
        other.connect(listener.getsockname())
        accepted = listener.accept()[0]
        other.shutdown(socket.SHUT_WR)
        assert mine() == 1, "what this host connected itself, and its client closed first, is not nginx's to send"
        accepted.close()
        while client.recv(4096):
            pass
        client.close()
        until(lambda: mine() == 0, 2, "the kernel to be done", every=0.01)
