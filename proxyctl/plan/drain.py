"""A host that is to be left: first its balancer is told, then what is under way ends."""

from __future__ import annotations

import math

from proxyctl.model import Drain, DrainPhase


def phase(drain: Drain | None, now_unix: float) -> DrainPhase:
    """Without `drained`, which is for nginx's workers to say."""
    if drain is None:
        return "serving"
    return "noticing" if not drain.since_unix or now_unix < ends(drain) else "ending"


def ends(drain: Drain | None) -> float:
    """When the balancer has had its time (unix)."""
    return drain.since_unix + drain.notice if drain else math.inf
