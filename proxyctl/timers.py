"""Wakes of the loop that are due later, each for a reason: asking again for the same one asks for the sooner of the two."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from proxyctl import steady
from proxyctl.report import Wake

RETRY_AFTER = 3.0
"""The longest pause in seconds between two attempts after a failure: an attempt costs little, and what failed may be over."""


class Timers:
    def __init__(self, post: Callable[[Wake], None]) -> None:
        self._post = post
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._failures = 0

    def later(self, seconds: float, reason: str, *, relist: bool = False) -> None:
        """Wakes the loop for this reason, unless that is to happen by then already: every cycle may ask for it."""
        loop, timer = asyncio.get_running_loop(), self._timers.get(reason)
        if timer and not timer.cancelled() and timer.when() > loop.time():
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[reason] = loop.call_later(seconds, self._post, Wake((reason,), relist=relist))

    def at(self, unix: float, reason: str) -> None:
        """Just after this time by `steady.now`; infinite: never."""
        if unix < math.inf:
            self.later(max(0.0, unix - steady.now()) + 0.01, reason)

    def try_again(self, *, failed: bool, learned: bool = False) -> None:
        """A cycle that failed may have swallowed an event: everything is read anew, soon at first and then less often. At once,
        but not twice in a row, where it `learned` who is to blame, or that nginx has to be looked for."""
        self._failures = self._failures + 1 if failed else 0
        if self._failures:
            pause = 0.0 if learned and self._failures == 1 else min(2.0 ** min(self._failures - 1, 16), RETRY_AFTER)
            self.later(pause, "try again", relist=True)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
