"""A host that is to be left is drained when no old worker of nginx has been there for a moment."""

from __future__ import annotations

import math
import time

from proxyctl.model import DrainPhase

LAST_BYTES = 2.0
"""Seconds for what a worker has handed to the kernel at its end, and its client has not read yet."""


class Leaving:
    def __init__(self) -> None:
        self.drained = False
        self._alone = math.inf
        """Since when (monotonic) no old worker is left."""

    def look(self, phase: DrainPhase, *, alone: bool) -> None:
        """`alone`: no worker is there but those that take connections."""
        self._alone = min(self._alone, time.monotonic()) if alone and phase == "ending" else math.inf
        self.drained = phase == "ending" and (self.drained or time.monotonic() - self._alone >= LAST_BYTES)
