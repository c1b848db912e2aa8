"""Whether nginx had better go on with what it has, for a moment."""

from __future__ import annotations

import time

from proxyctl.model import Plan
from proxyctl.observe.events import Wakes
from proxyctl.observe.probes import Prober
from proxyctl.plan.routes import WARM_UP

LONG_PARSE, CROWD, FEW = 0.5, 0.01, 10
"""Seconds; share of all targets; targets that are no crowd, however few there are."""
PARSES = 2
"""What a crowd may take, in parses: being published in parts costs one more."""
LOOK_EVERY = 0.02
"""Seconds between two looks at who has been asked by now."""


class Patience:
    """`doubtful`: the state is lost or old, and nginx serves what it does not tell about. Without what was healthy, a first
    publish before the first checks would drop sites that are served now."""

    def __init__(self, *, doubtful: bool) -> None:
        self.doubtful = doubtful
        self._born = time.monotonic()
        self._until: float | None = None
        """When (monotonic) a crowd has been waited for long enough."""

    def doubts(self, plan: Plan) -> bool:
        self.doubtful = self.doubtful and plan.holding > 0 and time.monotonic() - self._born < WARM_UP
        return self.doubtful

    async def waits(self, prober: Prober, parsing: float, wakes: Wakes, *, urgent: bool) -> bool:
        """Where nginx needs long to parse, a crowd is decided about, and published, when all of it has been asked, and not in
        parts; what is `urgent` does not wait for it. `parsing`: seconds that nginx needs."""
        now, few = time.monotonic(), max(FEW, CROWD * len(prober.standing))
        if parsing <= LONG_PARSE or prober.unasked <= few:
            self._until = None
            return False
        self._until = self._until or now + max(WARM_UP, PARSES * parsing)
        if urgent or now >= self._until:
            return False
        while prober.unasked and time.monotonic() < self._until and not wakes.urgent:
            await wakes.urgent_within(LOOK_EVERY)
        await wakes.urgent_within(LOOK_EVERY)  # what has passed once is asked again at once
        return True
