"""Targets that answer as they are told, and a prober with all that it tells. Real sockets on 127.0.0.1."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxyctl.model import Probe, ProbeResult
from proxyctl.observe.probes import Prober
from tests.unit import make

NEEDS_IPV6 = pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")

UNASKED = ProbeResult("warming", "", 0.0)


class Server:
    """Answers each request with the next of `statuses`, the last one for ever; 0 means no answer, -1 nonsense."""

    def __init__(self) -> None:
        self.port = 0
        self.statuses = [200]
        self.heads: list[str] = []
        self.at: list[float] = []
        self.connections = self.ended = self.resets = 0
        self.open = self.most = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.most = max(self.most, self.open)
        while head := await self._read(reader):
            self.heads.append(head.decode("latin-1"))
            self.at.append(time.monotonic())
            status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
            if status:
                location = "Location: /elsewhere\r\n" if 300 <= status < 400 else ""
                text = f"HTTP/1.1 {status} x\r\n{location}Content-Length: 0\r\n\r\n" if status > 0 else "\x00nonsense\r\n\r\n"
                writer.write(text.encode())
        self.open -= 1
        self.ended += 1
        writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.read(65536)
        except ConnectionError:
            self.resets += 1
            return b""


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
        """Of the one target; as good as warming while it has not been asked."""
        return next(iter(self.prober.standing.values()), UNASKED)

    async def until(self, true: Callable[[], object], within: float = 5.0) -> None:
        end = time.monotonic() + within
        while not true():
            assert time.monotonic() < end, (self.told, self.result)
            await asyncio.sleep(0.001)

    async def state(self, state: str) -> None:
        await self.until(lambda: self.result.state == state)


def http(server: Server, **more: Any) -> Probe:
    return make.probe(server.port, "http", **({"rise": 1, "fall": 1, "interval": 0.02} | more))


def tcp(server: Server, **more: Any) -> Probe:
    return make.probe(server.port, "tcp", **({"rise": 1, "fall": 1, "interval": 0.02} | more))
