"""Wakes of the loop that are due later, each for a reason: asking again for the same one asks for the sooner of the two."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxyctl.model import Wake


class Timers:
    def __init__(self, post: Callable[[Wake], None]) -> None:
        self._post = post
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def later(self, seconds: float, reason: str, *, relist: bool = False) -> None:
        """Wakes the loop for this reason, unless that is to happen by then already: every cycle may ask for it."""
        loop, timer = asyncio.get_running_loop(), self._timers.get(reason)
        if timer and not timer.cancelled() and timer.when() > loop.time():
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[reason] = loop.call_later(seconds, self._post, Wake((reason,), relist=relist))

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
