"""Everything that can make a cycle run: the engine's events, file changes, a timer -> coalesced Wakes."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Protocol

import stamina
from watchfiles import awatch

from proxyctl.model import EngineEvent, EngineRefused, EngineUnavailable
from proxyctl.report import Wake

LOOK_EVERY, LOOK_SHARE = 4.0, 50.0
"""Seconds between two lists, at least, and as a multiple of what one takes."""
LOOK_STEP = 0.5
"""Seconds after which it is seen whether it is time: a list that took long once need not take long again."""
LOOK_AGAIN = 5.0
"""Seconds after which a folder that was not there is looked for again."""


class Engine(Protocol):
    def events(self) -> AsyncGenerator[EngineEvent | None, None]: ...


class Wakes:
    """A queue of one: whatever is posted while a cycle runs is one Wake for the next."""

    def __init__(self) -> None:
        self._pending: Wake | None = None
        self._there = asyncio.Event()
        self._urgent = asyncio.Event()

    def post(self, wake: Wake) -> None:
        self._pending = self._pending.merge(wake) if self._pending else wake
        self._there.set()
        if wake.urgent:
            self._urgent.set()

    @property
    def urgent(self) -> bool:
        """Whether something urgent is pending."""
        return self._urgent.is_set()

    async def urgent_within(self, seconds: float) -> None:
        """Returns when something urgent is pending, or after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._urgent.wait()

    async def next(self) -> Wake:
        await self._there.wait()
        return self.take()

    def take(self) -> Wake:
        """What is pending now; an empty Wake when nothing is."""
        wake, self._pending = self._pending or Wake(), None
        self._there.clear()
        self._urgent.clear()
        return wake


class EngineEvents:
    """Follows one engine for ever. `connected` tells whether the stream stands now."""

    def __init__(self, engine: Engine, wakes: Wakes, note: Callable[[EngineEvent], None]) -> None:
        self._engine = engine
        self._wakes = wakes
        self._note = note
        self.connected = False

    async def run(self) -> None:
        while True:
            try:
                async for attempt in stamina.retry_context(
                    on=(EngineUnavailable, EngineRefused),
                    attempts=None,
                    timeout=None,
                    wait_initial=0.1,
                    wait_max=10.0,
                    wait_jitter=1.0,
                ):
                    with attempt:
                        await self._follow()
            except _Ended:
                await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311 - spreads load only

    async def _follow(self) -> None:
        """One subscription. Fails as the engine does before it stands (back off), with _Ended after it has (begin anew)."""
        async with aclosing(self._engine.events()) as stream:
            try:
                async for event in stream:
                    if event is None:
                        self.connected = True
                        self._wakes.post(Wake(("engine connected",), relist=True, at=time.monotonic()))
                    else:
                        self._note(event)
            except (EngineUnavailable, EngineRefused) as error:
                if not self.connected:
                    raise
                raise _Ended from error
            finally:
                self.connected = False
        raise _Ended


class _Ended(Exception):  # noqa: N818
    """A subscription that stood has ended."""


async def tick(wakes: Wakes, seconds: float) -> None:
    """Asks for a full reading every so often: events are hints, and the engine keeps few of them."""
    while True:
        await asyncio.sleep(seconds)
        wakes.post(Wake(("resync",), relist=True))


async def look(wakes: Wakes, took: Callable[[], float]) -> None:
    """Asks for a list of the containers as often as that costs little: an event can be lost. `took`: seconds of the latest."""
    clock = asyncio.get_running_loop().time
    latest = clock()
    while True:
        await asyncio.sleep(LOOK_STEP)
        if clock() - latest >= max(LOOK_EVERY, took() * LOOK_SHARE):
            latest = clock()
            wakes.post(Wake(("look",), look=True))


async def changes(folders: Iterable[Path], wanted: Callable[[Path], bool]) -> AsyncIterator[frozenset[Path]]:
    """Wanted files that came, went or changed directly in `folders`, in batches. Folders may appear later, and go at any time.
    Where the kernel has no watch left (128 for all of root's by default), they are looked at every few seconds."""
    every, polling = list(folders), False
    seen = {folder for folder in every if folder.is_dir()}
    while True:
        there = {folder for folder in every if folder.is_dir()}
        appeared = frozenset(path for folder in there - seen for path in _files(folder) if wanted(path))
        if appeared:
            yield appeared
        seen = there
        if not there:
            await asyncio.sleep(LOOK_AGAIN)
            continue
        watch = awatch(
            *there,
            watch_filter=lambda _, path: wanted(Path(path)) or Path(path) in every,
            step=50,
            debounce=200,
            recursive=False,
            rust_timeout=int(LOOK_AGAIN * 1000),
            yield_on_timeout=True,
            force_polling=polling,
            poll_delay_ms=int(LOOK_AGAIN * 1000),
        )
        try:
            async for batch in watch:
                changed = frozenset(Path(text) for _, text in batch)
                paths = frozenset(path for path in changed if wanted(path))
                if paths:
                    yield paths
                seen = there - changed  # a folder that was replaced is another one, and comes with its files
                if seen != there or {folder for folder in every if folder.is_dir()} != there:
                    break
        except FileNotFoundError:
            seen = set()  # one of them has gone meanwhile: whatever is there is looked at
        except (OSError, RuntimeError):  # what watchfiles raises for no watch left is one of its own
            if polling:
                await asyncio.sleep(LOOK_AGAIN)
            polling, seen = True, set()


def _files(folder: Path) -> list[Path]:
    with suppress(OSError):
        return list(folder.iterdir())
    return []
