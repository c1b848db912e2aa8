"""Containers that are being stopped, beside the loop: each may take its time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from proxyctl.model import EngineRefused, EngineUnavailable


class Stops:
    """`failed` is told, in words, when one could not be stopped; asking again tries again."""

    def __init__(self, stop: Callable[[str], Awaitable[None]], failed: Callable[[str], None]) -> None:
        self._stop = stop
        self._failed = failed
        self._under_way: dict[str, asyncio.Task[None]] = {}

    def begin(self, containers: Iterable[str]) -> None:
        self._under_way = {each: task for each, task in self._under_way.items() if not task.done()}
        for each in frozenset(containers) - self._under_way.keys():
            self._under_way[each] = asyncio.create_task(self._end(each), name=f"stop {each[:12]}")

    async def _end(self, container: str) -> None:
        try:
            await self._stop(container)
        except (EngineRefused, EngineUnavailable) as error:
            self._failed(f"{container[:12]} could not be stopped: {error}")

    def close(self) -> None:
        for task in self._under_way.values():
            task.cancel()
