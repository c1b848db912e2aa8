"""What wakes a cycle and what came of it: what the log, the metrics, the API and the page are told. Times as in `model`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from proxyctl.model import Exit, Rejection
from proxyctl.versions import FailureReason


@dataclass(frozen=True, slots=True)
class Wake:
    """Why a cycle runs. `relist`: read everything anew; `look`: list the containers, no more; `nginx`: look at its container
    again; `urgent`: skip the pacing."""

    reasons: tuple[str, ...] = ()
    relist: bool = False
    nginx: bool = False
    urgent: bool = False
    at: float = 0.0
    """Monotonic time of the oldest event in it."""
    look: bool = False

    def merge(self, other: Wake) -> Wake:
        reasons = (*self.reasons, *(r for r in other.reasons if r not in self.reasons))
        return Wake(
            reasons=reasons[:8],
            nginx=self.nginx or other.nginx,
            relist=self.relist or other.relist,
            urgent=self.urgent or other.urgent,
            look=self.look or other.look,
            at=min(self.at, other.at) if self.at and other.at else self.at or other.at,
        )


_VARYING = re.compile(r"[0-9a-f]{12,}|\d{4}[/-]\d\d[/-]\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+Z?)?")
"""Identifiers and times: what differs in a message each time that the same thing fails."""


def essence(error: str) -> str:
    """The message without what differs each time, to tell a new problem from the one before."""
    return _VARYING.sub("", error)


CycleResult = Literal["unchanged", "tested", "live", "refused", "restored", "unreadable", "failed"]
"""tested: a draft was accepted ahead of need; refused: nginx -t said no; restored: not provable, last good is back."""


@dataclass(frozen=True, slots=True)
class CycleReport:
    """One cycle: what the log, the metrics, the API and the page show of it."""

    number: int
    at_unix: float
    reasons: tuple[str, ...]
    result: CycleResult
    digest: str
    changes: tuple[str, ...]
    """One line for each route or target that came, went or changed."""
    error: str
    rejections: tuple[Rejection, ...]
    stages: Mapping[str, float]
    """Seconds spent in each stage: read, plan, join, render, test, promote, prove."""
    event_to_live: float | None
    """Seconds from the oldest event of the cycle to Live."""
    reloads: int
    retired: tuple[str, ...] = ()
    """Why old workers of nginx were ended, or could not be: a line for each address that is somebody else's now."""
    rollouts: tuple[str, ...] = ()
    """What became of versions: a line for each thing."""
    declined: str = ""
    """Why a changed configuration was not taken over; everything goes on with the one before."""
    rolled_back: tuple[tuple[str, FailureReason], ...] = ()
    """Services whose version failed, and why."""
    drains_cut: tuple[str, ...] = ()
    """Services whose connections to the old version were cut, because they went on for too long."""


IncidentKind = Literal[
    "controller-started", "controller-stopped", "nginx-adopted", "nginx-started", "nginx-exited", "target-exited"
]


def is_reported(times: int) -> bool:
    """Of what happens again and again, the 1st, 2nd, 4th, 8th time and so on."""
    return times & (times - 1) == 0


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that happened outside of a cycle and that an operator may look for later."""

    kind: IncidentKind
    at_unix: float
    subject: str
    """The container, or proxyctl itself."""
    text: str
    service: str = ""
    exit: Exit | None = None
    expected: bool = True
    """It happened on request; otherwise it is logged as a warning."""
