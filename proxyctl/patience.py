"""Whether nginx had better go on with what it has, for a moment."""

from __future__ import annotations

import time

from proxyctl.model import Plan
from proxyctl.plan.routes import WARM_UP

LONG_PARSE, CROWD, FEW = 0.5, 0.01, 10
"""Seconds; share of all hosts; hosts that are no crowd, however few there are."""


class Patience:
    """`doubtful`: the state is lost or old, and nginx serves what it does not tell about. Without what was healthy, a first
    publish before the first checks would drop sites that are served now."""

    def __init__(self, *, doubtful: bool) -> None:
        self.doubtful = doubtful
        self._born = time.monotonic()
        self._crowded: float | None = None
        """Since when (monotonic) a crowd warms up."""

    def waits(self, plan: Plan, parsing: float, unasked: int, *, urgent: bool) -> bool:
        """Where nginx needs long to parse, a crowd that warms up is published at once and not in parts; what is `urgent` does not
        wait for it. `parsing`: seconds that nginx needs; `unasked`: targets that wait for their first check."""
        now = time.monotonic()
        self.doubtful = self.doubtful and plan.holding > 0 and now - self._born < WARM_UP
        large = plan.holding > max(FEW, CROWD * len(plan.ahead.vhosts)) or (self._crowded is not None and unasked > 0)
        crowd = parsing > LONG_PARSE and large
        self._crowded = (self._crowded or now) if crowd else None
        return self.doubtful or (self._crowded is not None and now - self._crowded < max(WARM_UP, parsing) and not urgent)
