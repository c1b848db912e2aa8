"""Wake -> Snapshot: all containers, whole or not at all, at a bounded number of engine calls for each event.

After the first listing an event costs one inspect of its container. Inspect waits for the engine's own lock on the container, so
it never shows the state from before the event, which the list call may.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from proxyctl.model import Container, Snapshot, Wake

SIGKILL = 9
RELIST_FROM = 64
"""From this many containers on, one list call is cheaper than that many inspects."""


class Engine(Protocol):
    async def list_containers(self) -> list[Container]: ...
    async def inspect(self, container: str) -> Container | None: ...


class Inventory:
    """Remembers what the engine said, and asks again for what a Wake names."""

    def __init__(self, engine: Engine, label_prefix: str) -> None:
        self._engine = engine
        self._prefix = label_prefix + "."
        self._known: dict[str, Container] = {}
        self._inspected: set[str] = set()
        self._stopping: dict[str, float] = {}
        self._listed = False

    async def refresh(self, wake: Wake, now: float) -> Snapshot:
        """Reads what the wake asks for. Raises what the engine raises, and then knows no less than before."""
        if wake.relist or not self._listed or len(wake.containers) >= RELIST_FROM:
            await self._relist()
        elif wake.containers:
            await self._inspect(wake.containers)
        await self._note_signals(wake, now)
        self._forget_survivors(now)
        return Snapshot(dict(self._known), frozenset(self._stopping))

    async def _relist(self) -> None:
        listed = {container.id: container for container in await self._engine.list_containers()}
        for container_id, container in listed.items():
            before = self._known.get(container_id)
            if before and container_id in self._inspected:
                listed[container_id] = replace(
                    container,
                    exposed=before.exposed,
                    has_healthcheck=before.has_healthcheck,
                    stop_signal=before.stop_signal,
                    stop_timeout=before.stop_timeout,
                )
        self._known, self._listed = listed, True
        self._inspected &= listed.keys()
        # The list call shows the ports of running containers only.
        await self._inspect(c.id for c in listed.values() if c.state != "running" and self._is_ours(c))

    async def _inspect(self, ids: Iterable[str]) -> None:
        wanted = [i for i in ids if i]
        for container_id, container in zip(wanted, await asyncio.gather(*map(self._engine.inspect, wanted)), strict=True):
            if container is None:
                self._known.pop(container_id, None)
                self._inspected.discard(container_id)
            else:
                self._known[container_id] = container
                self._inspected.add(container_id)

    def _is_ours(self, container: Container) -> bool:
        return container.id not in self._inspected and any(key.startswith(self._prefix) for key in container.labels)

    async def _note_signals(self, wake: Wake, now: float) -> None:
        unread = {i for i, _ in wake.killed if i in self._known and self._is_ours(self._known[i])}
        await self._inspect(unread)
        for container_id, number in wake.killed:
            container = self._known.get(container_id)
            if container and number in (container.stop_signal, SIGKILL):
                self._stopping[container_id] = now

    def _forget_survivors(self, now: float) -> None:
        """Takes back what did not die of its signal, or died and was started again."""
        for container_id, since in list(self._stopping.items()):
            container = self._known.get(container_id)
            if container is None or container.state != "running" or now - since > container.stop_timeout + 1:
                del self._stopping[container_id]
