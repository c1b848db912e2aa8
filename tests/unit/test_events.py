"""What wakes a cycle: coalesced, urgent where it must be, without a gap at any reconnect."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from watchfiles import awatch

from proxyctl.model import EngineEvent, EngineRefused, EngineUnavailable
from proxyctl.observe import events
from proxyctl.observe.events import EngineEvents, Wakes
from proxyctl.report import Wake
from tests.unit import clock

# ---------------------------------------------------------------- coalescing


async def test_what_is_posted_while_a_cycle_runs_is_one_wake() -> None:
    wakes = Wakes()
    wakes.post(Wake(("start a",), at=2.0))
    wakes.post(Wake(("die b",), urgent=True, at=1.0))
    wakes.post(Wake(("resync",), relist=True))
    wakes.post(Wake(("nginx",), nginx=True))
    assert await wakes.next() == Wake(("start a", "die b", "resync", "nginx"), relist=True, nginx=True, urgent=True, at=1.0)


async def test_a_wake_is_handed_out_once() -> None:
    wakes = Wakes()
    wakes.post(Wake(("start",)))
    await wakes.next()
    waiting = asyncio.create_task(wakes.next())
    await asyncio.sleep(0)
    assert not waiting.done()
    wakes.post(Wake(("die",)))
    assert await waiting == Wake(("die",))


def test_a_storm_of_events_does_not_grow_a_wake() -> None:
    wake = Wake()
    for number in range(1000):
        wake = wake.merge(Wake((f"start {number}", "start again")))
    assert len(wake.reasons) == len({*wake.reasons}) == 8


@pytest.mark.parametrize(("one", "other", "oldest"), [(2.0, 1.0, 1.0), (0.0, 3.0, 3.0), (3.0, 0.0, 3.0), (0.0, 0.0, 0.0)])
def test_the_time_of_a_wake_is_that_of_its_oldest_event(one: float, other: float, oldest: float) -> None:
    assert Wake(at=one).merge(Wake(at=other)).at == oldest


def test_something_urgent_ends_the_pause_and_nothing_else_does() -> None:
    async def pause() -> tuple[float, float, float]:
        loop, wakes = asyncio.get_running_loop(), Wakes()
        spent = []
        for after, urgent in ((3.0, True), (2.0, False), (0.0, True)):
            loop.call_later(after, wakes.post, Wake(urgent=urgent)) if after else wakes.post(Wake(urgent=urgent))
            began = loop.time()
            await wakes.urgent_within(10.0)
            spent.append(loop.time() - began)
            await wakes.next()
        return spent[0], spent[1], spent[2]

    assert clock.run(pause()) == pytest.approx((3.0, 10.0, 0.0))


def test_everything_is_read_anew_every_so_often() -> None:
    async def count() -> int:
        wakes, found = Wakes(), 0
        ticking = asyncio.create_task(events.tick(wakes, 30.0))
        with suppress(TimeoutError):
            async with asyncio.timeout(95.0):
                while True:
                    found += (await wakes.next()).relist
        ticking.cancel()
        return found

    assert clock.run(count()) == 3


@pytest.mark.parametrize(("took", "looks"), [(0.001, 25), (0.08, 25), (0.4, 5), (10.0, 0)])
def test_the_containers_are_listed_as_often_as_that_costs_little(took: float, looks: int) -> None:
    async def count() -> int:
        wakes, found = Wakes(), 0
        looking = asyncio.create_task(events.look(wakes, lambda: took))
        with suppress(TimeoutError):
            async with asyncio.timeout(101.0):
                while True:
                    wake = await wakes.next()
                    found += wake.look and not wake.relist
        looking.cancel()
        return found

    assert clock.run(count()) == looks


# ---------------------------------------------------------------- the engine's stream

EVENT = EngineEvent("start", "id-web", 0)
Script = Sequence[EngineEvent | Exception | float | None]


class Engine:
    """Each subscription plays the next script: None stands for `subscribed`, a number for a pause, an exception ends it."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.asked_at: list[float] = []
        self.closed = 0

    async def events(self) -> AsyncGenerator[EngineEvent | None, None]:
        self.asked_at.append(asyncio.get_running_loop().time())
        try:
            for step in self.scripts.pop(0) if self.scripts else (None, 1e6):
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                    continue
                yield step
        finally:
            self.closed += 1


GONE = EngineUnavailable("gone")


def follow(*scripts: Script, seconds: float = 1000.0) -> tuple[Engine, list[Wake], list[EngineEvent], list[bool]]:
    """What comes of the scripts: the engine, the wakes, the events that were noted, and `connected` at each of them."""
    engine, wakes, noted, connected = Engine(*scripts), Wakes(), [], []

    async def collect() -> list[Wake]:
        found: list[Wake] = []

        def note(event: EngineEvent) -> None:
            noted.append(event)
            connected.append(following.connected)

        following = EngineEvents(engine, wakes, note)
        task = asyncio.create_task(following.run())
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    found.append(await wakes.next())
        connected.append(following.connected)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        connected.append(following.connected)
        return found

    return engine, clock.run(collect()), noted, connected


def test_the_list_is_asked_for_after_the_subscription_stands_and_before_its_first_event() -> None:
    order: list[str] = []

    class Ordered(Engine):
        async def events(self) -> AsyncGenerator[EngineEvent | None, None]:
            order.append("subscribe")
            yield None
            yield EVENT
            await asyncio.sleep(1e6)

    class Noted(Wakes):
        def post(self, wake: Wake) -> None:
            order.append("list" if wake.relist else "?")

    async def run() -> None:
        task = asyncio.create_task(EngineEvents(Ordered(), Noted(), lambda _: order.append("event")).run())
        await asyncio.sleep(1)
        task.cancel()

    clock.run(run())
    assert order == ["subscribe", "list", "event"]


def test_events_are_noted_while_the_stream_stands() -> None:
    engine, wakes, noted, connected = follow([None, EVENT, 1.0, EVENT, 1e6])
    assert [wake.relist for wake in wakes] == [True]
    assert noted == [EVENT, EVENT]
    assert connected == [True, True, True, False]
    assert len(engine.asked_at) == engine.closed == 1


@pytest.mark.parametrize("end", [GONE, EngineRefused(500, "no")], ids=["lost", "refused"])
def test_a_stream_that_ends_is_begun_anew_at_once_and_everything_is_listed_again(end: Exception) -> None:
    engine, wakes, noted, _ = follow([None, 100.0, end], [None, EVENT])
    assert [wake.relist for wake in wakes[:2]] == [True, True]
    assert noted == [EVENT]
    assert engine.asked_at[1] - engine.asked_at[0] <= 100.5 + 0.1


def test_a_stream_that_ends_without_a_word_is_begun_anew_without_a_rush() -> None:
    engine, _, _, _ = follow(*([None] for _ in range(500)), seconds=20.0)
    assert 20 <= len(engine.asked_at) <= 201


@pytest.mark.parametrize("error", [GONE, EngineRefused(503, "starting")], ids=["unavailable", "refused"])
def test_an_engine_that_does_not_answer_is_asked_less_and_less_often_and_never_given_up(error: Exception) -> None:
    engine, wakes, _, connected = follow(*([error] for _ in range(60)), seconds=300.0)
    pauses = [b - a for a, b in zip(engine.asked_at, engine.asked_at[1:], strict=False)]
    assert pauses[0] <= 1.2
    assert all(pause <= 11.0 for pause in pauses)
    assert min(pauses[-5:]) >= 5.0
    assert 25 < len(pauses) < 60
    assert wakes == []
    assert connected == [False, False]


def test_the_patience_begins_anew_when_a_stream_has_stood() -> None:
    engine, _, noted, _ = follow(*([GONE] for _ in range(12)), [None, GONE], [None, EVENT], seconds=300.0)
    assert noted == [EVENT]
    assert engine.asked_at[13] - engine.asked_at[12] <= 0.5


# ---------------------------------------------------------------- files


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LOOK_AGAIN", 0.1)


class Following:
    """Batches of changed file names."""

    def __init__(self, *folders: Path) -> None:
        self._batches: AsyncIterator[frozenset[Path]] = events.changes(folders, lambda path: path.suffix == ".conf")
        self._next: asyncio.Task[frozenset[Path]] | None = None

    async def begin(self) -> None:
        async def step() -> frozenset[Path]:
            return await anext(self._batches)

        self._next = asyncio.create_task(step())
        await asyncio.sleep(0.3)

    async def seen(self, *names: str, again: Callable[[], object] = lambda: None) -> None:
        """Returns when the next batch is of these files."""
        assert self._next is not None
        began = time.monotonic()
        while not self._next.done():
            again()
            await asyncio.wait([self._next], timeout=0.3)
            assert time.monotonic() - began < 10, "no batch came"
        assert {path.name for path in self._next.result()} == {*names}

    async def next(self) -> set[str]:
        assert self._next is not None
        return {path.name for path in await asyncio.wait_for(self._next, 10)}

    async def end(self) -> None:
        assert self._next is not None
        self._next.cancel()
        with suppress(asyncio.CancelledError):
            await self._next


@pytest.mark.usefixtures("quick")
async def test_wanted_files_that_change_are_told_together_and_others_are_not(tmp_path: Path) -> None:
    following = Following(tmp_path)
    await following.begin()
    for name in ("a.conf", "b.conf", "c.txt"):
        (tmp_path / name).write_text("x")
    await following.seen("a.conf", "b.conf")
    await following.end()


@pytest.mark.usefixtures("quick")
async def test_a_folder_may_come_later_with_its_files_in_it(tmp_path: Path) -> None:
    following = Following(tmp_path / "later")
    await following.begin()
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "a.conf").write_text("x")
    (tmp_path / "later" / "c.txt").write_text("x")
    await following.seen("a.conf")
    await following.end()


@pytest.mark.usefixtures("quick")
async def test_a_folder_may_come_later_than_another(tmp_path: Path) -> None:
    (tmp_path / "now").mkdir()
    following = Following(tmp_path / "now", tmp_path / "later")
    await following.begin()
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "a.conf").write_text("x")
    await following.seen("a.conf")
    await following.end()


def move_away(folder: Path) -> None:
    folder.rename(folder.with_name("old"))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("away", [move_away, shutil.rmtree])
async def test_a_folder_that_was_replaced_is_followed_on(away: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "sites"
    folder.mkdir()
    following = Following(folder)
    await following.begin()
    away(folder)
    folder.mkdir()
    await following.seen("a.conf", again=lambda: (folder / "a.conf").write_text(str(time.monotonic())))
    await following.end()


@pytest.mark.usefixtures("quick")
async def test_a_folder_that_goes_while_its_files_are_read_ends_nothing(tmp_path: Path) -> None:
    sites = tmp_path / "sites"
    (ready := tmp_path / "ready").mkdir()
    (ready / "a.conf").write_text("x")
    following = Following(tmp_path, sites)
    await following.begin()
    shutil.copytree(ready, sites)
    await following.seen("a.conf")
    shutil.rmtree(sites)  # before the next batch is asked for
    for _ in range(2):  # that it has gone may be told first
        await following.begin()
        sites.mkdir(exist_ok=True)
        (sites / "b.conf").write_text("x")
        if await following.next() == {"b.conf"}:
            break
    else:
        pytest.fail("it is not followed any more")
    await following.end()


async def test_where_no_watch_is_left_the_files_are_looked_at_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def exhausted(*folders: Path, force_polling: bool, **more: Any) -> AsyncIterator[Any]:
        if not force_polling:
            raise RuntimeError("error creating recommended watcher: Too many open files (os error 24)")
        async for batch in awatch(*folders, force_polling=True, **more):
            yield batch

    monkeypatch.setattr(events, "awatch", exhausted)
    monkeypatch.setattr(events, "LOOK_AGAIN", 0.2)
    following = Following(tmp_path)
    (tmp_path / "a.conf").write_text("x")
    await following.begin()
    await following.seen("a.conf")
    await following.begin()
    await following.seen("b.conf", again=lambda: (tmp_path / "b.conf").write_text(str(time.monotonic())))
    await following.end()
