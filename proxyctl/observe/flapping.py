"""Starts and ends of containers -> those that get no traffic for a while, since they end again and again.

Without this, each start and each end of a container in a crash loop is a reload of nginx.
"""

from __future__ import annotations

from collections.abc import Container

STEADY = 10.0
"""Seconds after its start from which a container is taken for steady; Docker resets its restart delay then, too."""
WITHIN = 60.0
"""Seconds in which ends are counted."""
ENDS = 2
"""Short runs in that time that make a container flap."""


class Flapping:
    """Times are monotonic."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._ends: dict[str, list[float]] = {}
        """When runs ended that were shorter than STEADY, by container id."""

    def started(self, container_id: str, at: float) -> bool:
        """Whether it flaps, and gets no traffic before it has run for STEADY."""
        self._started[container_id] = at
        return self._count(container_id, at) >= ENDS

    def ended(self, container_id: str, at: float, *, requested: bool) -> None:
        """`requested`: the container was stopped by a signal from outside, so this end is not counted."""
        began = self._started.pop(container_id, None)
        if began is not None and not requested and at - began < STEADY:
            recent = [end for end in self._ends.get(container_id, ()) if at - end < WITHIN]
            self._ends[container_id] = [*recent, at]

    def held(self, now: float) -> dict[str, str]:
        """Container id -> why it gets no traffic now."""
        found = {}
        for container_id in self._ends.keys() & self._started.keys():
            ends, began = self._count(container_id, self._started[container_id]), self._started[container_id]
            if ends >= ENDS and now - began < STEADY:
                found[container_id] = (
                    f"it is flapping: it ended {ends} times within {WITHIN:g} s, each time less than {STEADY:g} s after a start; "
                    f"it gets traffic when it has run for {STEADY:g} s"
                )
        return found

    def keep(self, present: Container[str]) -> None:
        """Forgets the containers that are gone."""
        self._started = {each: at for each, at in self._started.items() if each in present}
        self._ends = {each: ends for each, ends in self._ends.items() if each in present}

    def _count(self, container_id: str, at: float) -> int:
        return sum(at - end < WITHIN for end in self._ends.get(container_id, ()))
