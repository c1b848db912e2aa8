"""Everything that shows what the controller does, put together: sinks for its reports, and the API on its two sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import structlog

from proxyctl.config import Config
from proxyctl.fileset import NginxWorker
from proxyctl.model import EngineRefused, EngineUnavailable
from proxyctl.report import CycleReport
from proxyctl.serve import listeners
from proxyctl.serve.api import Api, Sources
from proxyctl.serve.changes import Changes
from proxyctl.serve.feed import Feed
from proxyctl.serve.guard import Guard, Tokens
from proxyctl.serve.history import Cycle, History
from proxyctl.serve.metrics import Metrics
from proxyctl.serve.page import Page
from proxyctl.serve.standing import Standing

WORKERS_WITHIN = 1.0
"""Seconds that a scrape waits for the list of nginx's processes."""

log = structlog.get_logger()
Workers = Callable[[], Awaitable[Sequence[NginxWorker]]]
Connections = Callable[[Sequence[NginxWorker]], tuple[int, int] | None]


class Front:
    """`standing`, `workers` and `connections` (open ones and their limit) are read at each request; `page` gives the template."""

    def __init__(
        self,
        config: Config,
        standing: Callable[[History], Standing],
        workers: Workers,
        page: Callable[[], str],
        changes: Changes,
        connections: Connections = lambda _: None,
    ) -> None:
        self._config = config
        self._connections = connections
        self._workers = workers
        self._asking: asyncio.Task[Sequence[NginxWorker] | None] | None = None
        self._unix: listeners.UnixListener | None = None
        self._feed = Feed()
        self.history = History(config.state_dir / "history.jsonl")
        self.history.listeners.append(self._publish)
        self.metrics = Metrics(lambda: standing(self.history))
        self.sinks: tuple[Callable[[CycleReport], None], ...] = (self.history, self.metrics)
        self._api = Api(Sources(lambda: standing(self.history), self.history, self._feed, self._scrape, Page(page), changes))

    async def start(self) -> None:
        """Raises CannotListen or ConfigError, and then nothing listens."""
        settings = self._config.api
        address, path = self._config.api_address, Path(settings.socket)
        guard = Guard(settings.hosts, Tokens(Path(settings.token_file)) if settings.token_file else None)
        network = listeners.tcp(address) if address else None
        try:
            self._unix = listeners.UnixListener(path)
        except listeners.CannotListen:
            if network:
                network.close()
            raise
        await self._api.serve(self._unix.socket, None)
        if network:
            await self._api.serve(network, guard)
        log.info("listening", socket=str(path), address=settings.listen or "off")

    async def close(self) -> None:
        await self._api.close()
        if self._unix:
            self._unix.close()

    def _publish(self, cycle: Cycle) -> None:
        self._feed.publish(b"event: cycle\ndata: " + msgspec.json.encode(cycle) + b"\n\n")

    async def _scrape(self, accept: str) -> tuple[bytes, str]:
        workers = await self._read_workers()
        connections = await asyncio.to_thread(self._connections, workers) if workers else None
        return self.metrics.text(accept, workers, connections)

    async def _read_workers(self) -> Sequence[NginxWorker] | None:
        """At most one question to the engine at a time, whoever scrapes; None when it does not answer soon."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_workers())
        asking = self._asking  # another scrape may begin the next question meanwhile
        done, _ = await asyncio.wait({asking}, timeout=WORKERS_WITHIN)
        return asking.result() if done and not asking.cancelled() else None

    async def _ask_workers(self) -> Sequence[NginxWorker] | None:
        try:
            return await self._workers()
        except (EngineUnavailable, EngineRefused):
            return None
