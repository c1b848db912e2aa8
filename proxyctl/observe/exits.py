"""Events and inspections -> how containers ended: exit status, out of memory, how often the engine has restarted them.

The event has the exit status, and only an inspect has the rest. Nothing waits for it: traffic has left the target by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any, Protocol

from proxyctl.model import EngineEvent, EngineRefused, EngineUnavailable, Exit

ENDING = frozenset({2, 3, 9, 15})
"""Signals that are sent to end a process: SIGINT, SIGQUIT, SIGKILL, SIGTERM."""
SIGKILLED = 128 + 9
"""Exit status of a process that was killed by SIGKILL, as the kernel does when memory runs out."""
AT_ONCE = 8
"""Inspections at one time of containers that had ended before an event could tell."""


class Engine(Protocol):
    async def last_exit(self, container: str) -> Exit | None: ...


class Exits:
    """`told(container_id, exit)` is called for every end that an event tells. `latest` is by container id."""

    def __init__(self, engine: Engine, told: Callable[[str, Exit], None]) -> None:
        self._engine = engine
        self._told = told
        self._requested: set[str] = set()
        self._out_of_memory: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: set[str] = set()
        """Ids of containers about which the engine was asked without an event."""
        self.latest: dict[str, Exit] = {}

    def note(self, event: EngineEvent, stop_signal: int = 0) -> None:
        """Takes in an event of a container that matters."""
        container_id = event.container_id
        match event.action:
            case "kill" if event.signal in ENDING or event.signal == stop_signal:
                self._requested.add(container_id)
            case "oom":
                self._out_of_memory.add(container_id)
            case "start":
                self._requested.discard(container_id)
                self._out_of_memory.discard(container_id)
            case "die":
                found = Exit(
                    event.exit_code,
                    out_of_memory=container_id in self._out_of_memory,
                    requested=container_id in self._requested,
                )
                self._begin(self._follow_up(container_id, found))

    def follow(self, present: Iterable[str], down: Iterable[str]) -> None:
        """Forgets containers that are gone, and asks about those in `down` of which no event has told."""
        there = set(present)
        self._requested &= there
        self._out_of_memory &= there
        self._asked &= there
        for container_id in self.latest.keys() - there:
            del self.latest[container_id]
        for container_id in down:
            if len(self._tasks) >= AT_ONCE:
                return
            if container_id not in self.latest and container_id not in self._asked:
                self._asked.add(container_id)
                self._begin(self._ask(container_id))

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow_up(self, container_id: str, found: Exit) -> None:
        inspected = await self._inspect(container_id)
        if inspected:
            # the flag of an earlier end stays until the next one: only an end by SIGKILL can be of this kind
            killed = inspected.out_of_memory and found.code == SIGKILLED
            found = replace(found, out_of_memory=found.out_of_memory or killed, restarts=inspected.restarts)
        self.latest[container_id] = found
        self._told(container_id, found)

    async def _ask(self, container_id: str) -> None:
        inspected = await self._inspect(container_id)
        if inspected:
            self.latest.setdefault(container_id, inspected)

    async def _inspect(self, container_id: str) -> Exit | None:
        try:
            return await self._engine.last_exit(container_id)
        except (EngineRefused, EngineUnavailable):
            return None
