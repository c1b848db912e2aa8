"""Unix time that nobody sets: the wall clock as it was when the process began, and what has passed since.

For graces and ages. Somebody who moves the clock by an hour ends no grace early and prolongs none.
"""

from __future__ import annotations

import time

_BEGAN = time.time() - time.monotonic()


def now() -> float:
    """Seconds since 1970."""
    return _BEGAN + time.monotonic()
