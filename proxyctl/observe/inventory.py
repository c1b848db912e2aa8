"""Wake -> Snapshot: all containers, whole or not at all, at a bounded number of engine calls for each event.

After the first listing an event costs one inspect of its container. Inspect waits for the engine's own lock on the container, so
it never shows the state from before the event, which the list call may.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from proxyctl.model import Container, EngineEvent, Snapshot, Wake

SIGKILL = 9
PATIENCE = 0.04
"""Seconds that a cycle waits for inspects. The engine answers one only when it is done with what it does to the container (a
start takes 200 ms), and the others need not wait for that."""
RELIST_FROM = 64
"""From this many containers on, one list call is cheaper than that many inspects."""


class Engine(Protocol):
    async def list_containers(self) -> list[Container]: ...
    async def inspect(self, container: str) -> Container | None: ...


class Inventory:
    """Remembers what the engine said, and asks again for what a Wake names."""

    def __init__(self, engine: Engine, label_prefix: str, late: Callable[[str, bool], None]) -> None:
        """`late` is called with the id of a container whose reading came after its cycle, and whether it failed. One that came
        is in the next Snapshot."""
        self._engine = engine
        self._prefix = label_prefix + "."
        self._known: dict[str, Container] = {}
        self._inspected: set[str] = set()
        self._stopping: dict[str, float] = {}
        self._listed = False
        self._lenders: frozenset[str] = frozenset()
        self._late = late
        self._asked: dict[str, int] = {}
        self._answered: dict[str, int] = {}
        self._readings: set[asyncio.Task[None]] = set()

    def concerns(self, event: EngineEvent) -> bool:
        """Whether an event can change what is routed: it is about a container that has a label of ours or lends its network."""
        known = self._known.get(event.container_id)
        if known and event.action == "connect" and known.state != "running":
            return False
        labels = event.labels if event.labels is not None else known.labels if known else {}
        return any(key.startswith(self._prefix) for key in labels) or event.container_id in self._lenders

    async def refresh(self, wake: Wake, now: float) -> Snapshot:
        """Reads what the wake asks for. Raises what the engine raises, and then knows no less than before."""
        for container_id in wake.died & self._known.keys():
            self._known[container_id] = replace(self._known[container_id], state="exited")
        if wake.relist or not self._listed or len(wake.containers) >= RELIST_FROM:
            await self._relist()
        elif wake.containers:
            await self._inspect(wake.containers, PATIENCE)
        await self._note_signals(wake, now)
        self._forget_survivors(now)
        modes = (container.network_mode for container in self._known.values())
        self._lenders = frozenset(mode.removeprefix("container:") for mode in modes if mode.startswith("container:"))
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
        self._asked = {container_id: number for container_id, number in self._asked.items() if container_id in listed}
        self._answered = {container_id: number for container_id, number in self._answered.items() if container_id in listed}
        # The list call shows the ports of running containers only.
        await self._inspect((c.id for c in listed.values() if c.state != "running" and self._is_ours(c)), None)

    async def _inspect(self, ids: Iterable[str], patience: float | None) -> None:
        tasks = {asyncio.create_task(self._read(container_id), name=container_id) for container_id in ids if container_id}
        if not tasks:
            return
        done, pending = await asyncio.wait(tasks, timeout=patience)
        for task in pending:
            self._readings.add(task)
            task.add_done_callback(self._came_late)
        for task in done:
            task.result()

    def _came_late(self, task: asyncio.Task[None]) -> None:
        self._readings.discard(task)
        if not task.cancelled():
            self._late(task.get_name(), task.exception() is not None)

    async def _read(self, container_id: str) -> None:
        """One inspect. Of two that overlap, the one that was asked for first does not overwrite the other."""
        number = self._asked[container_id] = self._asked.get(container_id, 0) + 1
        container = await self._engine.inspect(container_id)
        if number < self._answered.get(container_id, 0):
            return
        self._answered[container_id] = number
        if container is None:
            self._known.pop(container_id, None)
            self._inspected.discard(container_id)
            self._asked.pop(container_id, None)
            self._answered.pop(container_id, None)
        else:
            self._known[container_id] = container
            self._inspected.add(container_id)
            if container.network_mode.startswith("container:"):
                await self._read(container.network_mode.removeprefix("container:"))

    def _is_ours(self, container: Container) -> bool:
        return container.id not in self._inspected and any(key.startswith(self._prefix) for key in container.labels)

    async def _note_signals(self, wake: Wake, now: float) -> None:
        unread = {i for i, _ in wake.killed if i in self._known and self._is_ours(self._known[i])}
        await self._inspect(unread, None)
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
