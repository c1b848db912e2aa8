"""A host that is to be left is drained when no old worker of nginx is there and clients have what it said."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable

from proxyctl.model import DrainPhase
from proxyctl.publish.reload import Remains

AT_LEAST = 2.0
"""Seconds after the last old worker: what stands between nginx and a client (the engine's own proxy, say) has bytes, too."""
AT_MOST = 15.0
"""A client that does not read what is left for it, and one that is gone, hold nobody up for longer."""


class Leaving:
    def __init__(self) -> None:
        self.drained = False
        self._alone = math.inf
        """Since when (monotonic) no old worker is left."""
        self._closing: frozenset[str] = frozenset()
        """Of the connections that there were then, those that there still are; later ones are new workers'."""

    async def look(self, phase: DrainPhase, remains: Callable[[], Awaitable[Remains]]) -> None:
        if phase != "ending":
            self._alone, self.drained = math.inf, False
        elif not self.drained:
            there = await remains()
            self._closing = there.closing if self._alone == math.inf else self._closing & there.closing
            self._alone = math.inf if there.workers else min(self._alone, time.monotonic())
            self.drained = time.monotonic() - self._alone >= (AT_MOST if self._closing else AT_LEAST)
