"""What systemd is told, by sd_notify(3): ready, reloading, stopping, a line for `systemctl status`, and signs of life.

The protocol is a datagram of lines. Without NOTIFY_SOCKET nothing is told.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping

import structlog

from proxyctl.report import CycleReport
from proxyctl.serve import views
from proxyctl.serve.standing import Standing

READY_WITHIN = 30.0
"""Seconds after which a start counts as done though nothing is live yet: a boot must not wait for an engine."""
STATUS_EVERY = 1.0
LOOK_AGAIN = 1.0
"""Seconds between two looks at a loop that showed no life."""

log = structlog.get_logger()


class Notifier:
    """Where to, and how often signs of life are wanted, from the environment that systemd gives a service."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog = int(environment.get("WATCHDOG_USEC", "0")) / 1e6 if mine else 0.0
        """Seconds without a sign of life after which the service is killed; 0: never."""
        self._told = False

    def __bool__(self) -> bool:
        return bool(self._address)

    def send(self, *lines: str) -> None:
        """One datagram. A socket that takes none is logged once: the work goes on."""
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(1.0)
                sender.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            if not self._told:
                log.warning("systemd is not told", socket=self._address, error=str(error))
            self._told = True


class Systemd:
    """A sink of reports. `standing` is read for each status and each sign of life."""

    def __init__(self, notifier: Notifier, standing: Callable[[], Standing]) -> None:
        self._notifier = notifier
        self._standing = standing
        self._started = False
        self._reloading = False
        self._problem = ""
        self._news = asyncio.Event()

    def __call__(self, _: CycleReport) -> None:
        self._news.set()
        if not self._started and not self._standing().trouble:
            self._ready()

    async def run(self) -> None:
        if not self._notifier:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._show())
            if self._notifier.watchdog:
                group.create_task(self._beat(self._notifier.watchdog / 2))
            await asyncio.sleep(READY_WITHIN)
            if not self._started:
                self._ready()

    def reloading(self) -> None:
        """A changed configuration is being read."""
        self._reloading = self._started
        if self._reloading:
            self._notifier.send(
                "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=Taking over the configuration"
            )

    def reloaded(self, problem: str = "") -> None:
        """It is live, or `problem` says why not; that is shown until a later one is."""
        self._problem = problem
        if self._reloading:
            self._reloading = False
            self._ready()

    def stopping(self) -> None:
        self._notifier.send("STOPPING=1", "STATUS=Ending; nginx goes on with what is live")

    def _ready(self) -> None:
        self._started = True
        if self._notifier:
            self._notifier.send("READY=1", f"STATUS={self._line()}")

    def _line(self) -> str:
        text = line(self._standing())
        if self._problem:
            text = f"Configuration not taken over: {self._problem}{'' if self._problem in text else f'. {text}'}"
        return " ".join(text.split())

    async def _show(self) -> None:
        shown = ""
        while True:
            await self._news.wait()
            self._news.clear()
            if not self._reloading and (text := self._line()) != shown:
                shown = text
                self._notifier.send(f"STATUS={text}")
            await asyncio.sleep(STATUS_EVERY)

    async def _beat(self, every: float) -> None:
        while True:
            alive = self._standing().alive
            if alive:
                self._notifier.send("WATCHDOG=1")
            await asyncio.sleep(every if alive else min(every, LOOK_AGAIN))


def line(standing: Standing) -> str:
    """Whether the world is as the labels ask."""
    if standing.trouble:
        return f"Not in sync: {standing.trouble}"
    return f"In sync: {views.summary(views.nginx(standing), views.counts(standing))}"
