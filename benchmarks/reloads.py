"""What 100 reloads do to those who are there meanwhile, and what old workers hold that websockets keep.

Every reload is a change as users make them: a container with another host comes, or goes. First with one client of each lasting
kind and 40 that pause between their requests; then with one more websocket before each change, so that as many old workers stay
until `worker_shutdown_timeout`. The containers are in a network of their own: an old worker that knows an address which
somebody else's container gets is ended at once, and other runs on the same engine would see to that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass

import aiohttp

from benchmarks.figures import Figures, Value, milliseconds
from benchmarks.idle import resident
from benchmarks.memory import NginxMemory, Reading
from tests.lasting import Cut, Held, Site, echo, session
from tests.load import Load, Report
from tests.rig import Box, Controller, Rig, until

RELOADS, DOWNLOAD, CUT_AFTER = 100, 60, 120
SHORT_RELOADS, SHORT_DOWNLOAD, SHORT_CUT_AFTER = 6, 6, 12
"""How many; seconds of the download; `worker_shutdown_timeout` of the second part, in seconds: more than its reloads take."""
EVERY = 1.0
"""Seconds from one change to the next in the first part, at least."""
HOST, OTHER = "stays.example", "other.example"
CLIENTS, PAUSE = 40, (1.0, 4.0)
"""Clients that keep their connection, and how long they are idle, in seconds: less than `keepalive_min_timeout`. They do not look
whether it was closed meanwhile."""
WITHIN = 30.0
LATE = 15.0
"""Seconds in which old workers are gone when nothing keeps them any more, or when their time is over."""


@dataclass(frozen=True, slots=True)
class Lasting:
    """The first part. `across`: reloads from the beginning to the end of each connection; `retired`: old workers ended early."""

    reloads: int
    seconds: float
    held: list[Held]
    across: list[int]
    idle: Report
    retired: int
    before: Reading
    most: Reading
    after: Reading
    controller: tuple[float, float]
    """MiB before and after."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """The second part. `young`: websockets whose worker's time was not over after the last reload; `alive`: those that echoed."""

    reloads: int
    seconds: float
    young: int
    alive: int
    gone_after: float
    """Seconds from the last reload to the end of the last old worker."""
    before: Reading
    full: Reading
    """With all websockets open."""
    after: Reading

    @property
    def old(self) -> int:
        return self.full.workers - self.before.workers

    @property
    def each(self) -> float:
        """MiB of one old worker."""
        return (self.full.memory - self.before.memory) / max(self.old, 1)


class Churn:
    """A site that stays, and a container of another one that comes and goes."""

    def __init__(self, rig: Rig, controller: Controller) -> None:
        network = rig.network("sites")
        rig.run_container({"host": HOST}, name="stays", network=network, args=["--idle", "3600s"])
        self._controller = controller
        self.address = Box(rig.client, controller.nginx, controller.nginx).address
        self._other: Box = rig.create_container({"host": OTHER}, name="other", network=network)
        self._runs = False
        controller.wait_for(HOST)
        self._first = self._live

    @property
    def _live(self) -> int:
        return len(self._controller.records("live"))

    @property
    def reloads(self) -> int:
        return self._live - self._first

    def change(self) -> None:
        """Returns when it is proved live: until then an old worker may take the next connection."""
        before = self.reloads
        if self._runs:
            self._other.stop()
        else:
            self._other.start()
        self._runs = not self._runs

        def proved() -> bool:
            return self.reloads > before and (self._controller.ask(OTHER).status == 200) == self._runs

        until(proved, WITHIN, f"a change of {OTHER}")


def run(*, short: bool) -> Figures:
    reloads, download, cut_after = (SHORT_RELOADS, SHORT_DOWNLOAD, SHORT_CUT_AFTER) if short else (RELOADS, DOWNLOAD, CUT_AFTER)
    return _figures(_lasting(reloads, download), _pinned(reloads, cut_after), cut_after)


def _lasting(reloads: int, download: int) -> Lasting:
    with Rig() as rig:
        controller = rig.controller()
        churn, memory, began = Churn(rig, controller), resident(controller.pid), time.monotonic()
        with NginxMemory(rig, controller) as nginx:
            with Load(HOST, controller.port, new_per_second=0, keepalive_clients=CLIENTS, pause=PAUSE, look=False) as load:
                ends = asyncio.run(_hold(churn, reloads, download))
            done, seconds = churn.reloads, time.monotonic() - began
            until(lambda: nginx.workers == nginx.before.workers, LATE, "the end of the old workers")
        return Lasting(
            reloads=done,
            seconds=seconds,
            held=[held for held, _ in ends],
            across=[across for _, across in ends],
            idle=load.report,
            retired=len(controller.records("old workers ended")),
            before=nginx.before,
            most=nginx.most,
            after=nginx.read(),
            controller=(memory, resident(controller.pid)),
        )


async def _hold(churn: Churn, reloads: int, download: int) -> list[tuple[Held, int]]:
    """Every lasting kind across the changes, with the reloads that each has seen."""
    over = asyncio.Event()

    async def across(work: Awaitable[Held]) -> tuple[Held, int]:
        before = churn.reloads
        return await work, churn.reloads - before

    async with session() as client, asyncio.TaskGroup() as group:
        site = Site(client, churn.address, HOST)
        works = (site.websocket(over), site.events(over), site.upload(over), site.download(download))
        tasks = [group.create_task(across(work)) for work in works]
        while churn.reloads < reloads:
            _, _ = await asyncio.gather(asyncio.to_thread(churn.change), asyncio.sleep(EVERY))
        over.set()
    return [task.result() for task in tasks]


def _pinned(reloads: int, cut_after: int) -> Pinned:
    with Rig() as rig:
        controller = rig.controller({"nginx": {"worker_shutdown_timeout": f"{cut_after}s"}})
        churn = Churn(rig, controller)
        return asyncio.run(_pin(churn, NginxMemory(rig, controller), reloads, cut_after))


async def _pin(churn: Churn, nginx: NginxMemory, reloads: int, cut_after: int) -> Pinned:
    sockets: list[tuple[float, aiohttp.ClientWebSocketResponse]] = []
    async with session() as client:
        site, began = Site(client, churn.address, HOST), time.monotonic()
        while churn.reloads < reloads:
            sockets.append((time.monotonic(), await site.connect()))
            await asyncio.to_thread(churn.change)
        done, last = churn.reloads, time.monotonic()
        echoed = [await _echoes(socket) for _, socket in sockets]
        full = nginx.read()
        young = [opened + cut_after > time.monotonic() for opened, _ in sockets]

        def gone() -> bool:
            return nginx.workers == nginx.before.workers

        await asyncio.to_thread(until, gone, cut_after + LATE, "the end of the old workers", 0.2)
        gone_after = time.monotonic() - last
    return Pinned(
        reloads=done,
        seconds=last - began,
        young=sum(young),
        alive=sum(echo for echo, counts in zip(echoed, young, strict=True) if counts),
        gone_after=gone_after,
        before=nginx.before,
        full=full,
        after=nginx.read(),
    )


async def _echoes(socket: aiohttp.ClientWebSocketResponse) -> bool:
    try:
        await echo(socket, "still there")
    except (aiohttp.ClientError, OSError, TimeoutError, Cut):
        return False
    return True


def _figures(lasting: Lasting, pinned: Pinned, cut_after: int) -> Figures:
    idle, cut = lasting.idle, [f"{held.what}: {held.error}" for held in lasting.held if held.error]
    missed = list(cut)
    if idle.lost_of():
        missed.append(f"{idle}")
    if lasting.retired:
        missed.append(f"{lasting.retired} times old workers were ended early")
    if pinned.alive < pinned.young:
        missed.append(f"{pinned.young - pinned.alive} of {pinned.young} websockets cut before {cut_after} s")
    rows: list[tuple[str, ...]] = [
        (f"{CLIENTS} clients that pause {PAUSE[0]:g}-{PAUSE[1]:g} s", f"{idle.sent_of():,} requests, {idle.lost_of()} lost", "0")
    ]
    for held, across in zip(lasting.held, lasting.across, strict=True):
        steps = f"{held.steps:,} {held.unit}, longest gap {milliseconds(held.gap)}"
        rows.append(
            (f"{held.what}, {held.ended - held.began:.0f} s, {across} reloads", f"{steps}: {held.error or 'whole'}", "whole")
        )
    before, most, after = lasting.before, lasting.most, lasting.after
    rows += [
        ("nginx: before", _reading(before), ""),
        ("  at most", _reading(most), ""),
        ("  after", _reading(after), ""),
        ("controller: before, after", " MiB; ".join(f"{memory:.1f}" for memory in lasting.controller) + " MiB", ""),
        (
            f"a websocket before each change, {pinned.reloads} reloads in {pinned.seconds:.0f} s",
            f"{pinned.alive} of {pinned.young} alive after the last",
            "all",
        ),
        ("nginx: before", _reading(pinned.before), ""),
        ("  with all of them open", _reading(pinned.full), ""),
        ("  one old worker", f"{pinned.each:.2f} MiB", ""),
        (
            f"  all old workers gone (timeout {cut_after} s)",
            f"{pinned.gone_after:.0f} s after the last reload; {_reading(pinned.after)}",
            f"{cut_after + LATE:.0f} s",
        ),
    ]
    values: dict[str, Value] = {
        "reloads": lasting.reloads,
        "sent": idle.sent_of(),
        "lost": idle.lost_of(),
        "cut": len(cut),
        "retired": lasting.retired,
        "across": min(lasting.across),
        "events_gap_ms": round(next(held.gap for held in lasting.held if held.what == "event stream") * 1000),
        "workers": after.workers,
        "before_mib": round(before.memory, 1),
        "most_mib": round(most.memory, 1),
        "after_mib": round(after.memory, 1),
        "pinned_reloads": pinned.reloads,
        "pinned_open": pinned.alive,
        "pinned_cut": pinned.young - pinned.alive,
        "pinned_old_workers": pinned.old,
        "pinned_full_mib": round(pinned.full.memory, 1),
        "pinned_after_mib": round(pinned.after.memory, 1),
        "old_worker_mib": round(pinned.each, 2),
        "gone_after_s": round(pinned.gone_after, 1),
    }
    return Figures(
        name="reloads",
        title=(
            f"reloads: {lasting.reloads} in {lasting.seconds:.0f} s under connections that last, "
            f"then {pinned.reloads} with a websocket opened before each"
        ),
        columns=("", "found", "wanted"),
        rows=rows,
        values=values,
        missed=missed,
    )


def _reading(reading: Reading) -> str:
    return f"{reading.workers} workers, {reading.memory:.1f} MiB"
