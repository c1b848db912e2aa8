"""Types of versions that replace each other: what is seen of them, what is remembered, what is said to them and what they do.

All frozen and plain, so that a rollout round-trips through the state file at any step. Times are seconds; `unix` ones come from a
clock that nobody sets (`steady`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Strategy = Literal["auto", "manual", "canary"]
Retire = Literal["keep", "stop"]
Phase = Literal["idle", "warming", "ready", "cutting", "verifying", "draining", "failed"]
CUT: frozenset[Phase] = frozenset({"cutting", "verifying"})
"""The candidate has the traffic."""
TRANSITIONS: Mapping[Phase, frozenset[Phase]] = {
    "idle": frozenset({"warming", "cutting"}),
    "warming": frozenset({"warming", "ready", "cutting", "failed", "idle"}),
    "ready": frozenset({"warming", "ready", "cutting", "failed", "idle"}),
    "cutting": frozenset({"verifying", "failed", "warming"}),
    "verifying": frozenset({"draining", "failed", "warming"}),
    "draining": frozenset({"warming", "cutting", "idle"}),
    "failed": frozenset({"warming", "cutting", "idle"}),
}
RESTING: frozenset[Phase] = frozenset({"idle", "draining", "failed"})
"""No swap is under way; the next one may begin."""
Cause = Literal["newer", "failover", "rollback"]
"""Why traffic moves: a newer version, the active one cannot answer, an operator."""
ReplicaState = Literal["coming", "warming", "healthy", "unhealthy", "stopping", "dead"]
"""coming: created and never started; dead: not running, whatever it was told to do next."""
ANSWERS: frozenset[str] = frozenset({"healthy", "unhealthy", "stopping"})
"""States in which traffic may be given when there is nothing better."""
FailureReason = Literal["deadline", "died", "unhealthy", "refused", "operator"]
Verb = Literal["promote", "rollback", "pause", "resume", "retry", "weight", "maintenance"]

Version = str
"""What an owner typed; empty for containers without the label."""
Shares = Mapping[Version, int]
"""Which versions carry traffic, and how much of a hundred each."""


class Illegal(Exception):  # noqa: N818
    """A word or a step that is not possible now; its message says why, and what is."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How one version wants to be rolled out; times in seconds, `steps` in percent."""

    strategy: Strategy = "auto"
    bake: float = 30.0
    deadline: float = 60.0
    retire: Retire = "keep"
    steps: tuple[int, ...] = (5, 25, 50)
    drain: float = 0.0
    """After so long, connections to the old version are cut; 0: when nginx ends its old workers."""


PLAIN_ROLLOUT = Settings()


@dataclass(frozen=True, slots=True)
class Replica:
    """One container of a service: the worst of its targets counts."""

    container_id: str
    container: str
    version: Version
    created_unix: float
    state: ReplicaState
    reason: str
    settings: Settings


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of one service at one moment."""

    replicas: tuple[Replica, ...]
    live: Shares | None
    """What nginx was proved to do; None when that is not known."""
    known: frozenset[Version] = frozenset()
    """Versions that any worker of nginx knows a target of, old ones too."""
    frozen: bool = False
    refused: str = ""
    """Why what was wanted cannot be live."""
    settling: bool = False
    """This process has just begun, after a boot perhaps: what does not run yet may in a moment."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A version that is not tried again until a container comes that is not one of these, or an operator says so."""

    reason: FailureReason
    text: str
    at_unix: float
    containers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Known:
    """A version whose containers have been there without a gap since it was `born`."""

    born_unix: float
    containers: frozenset[str]


def signature(who: str, why: str) -> str:
    """` (kim: prices are wrong)`, for the end of a sentence; empty when neither is known."""
    return f" ({': '.join(filter(None, (who, why)))})" if who or why else ""


@dataclass(frozen=True, slots=True)
class Order:
    """Who ordered something that lasts, why, and since when."""

    since_unix: float
    who: str = ""
    why: str = ""

    @property
    def signature(self) -> str:
        return signature(self.who, self.why)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One service, whole: what an operator said and what was learned. `active`: the version that carries traffic, and gets it
    back; while the candidate is cut to and verified, that is the old one. None before any version was healthy."""

    phase: Phase = "idle"
    active: Version | None = None
    candidate: Version | None = None
    previous: Version | None = None
    """What was active before: where `rollback` leads."""
    proven: Version | None = None
    """The latest that passed its bake on its own merits: after a failover it comes back without a word."""
    cause: Cause = "newer"
    promoted: bool = False
    """The candidate was cut to: it is again, without another word, when it has to warm up once more."""
    since_unix: float = 0.0
    """When the phase, or the step of it, began."""
    weight: int = 0
    """Percent that the candidate carries while it is not cut to."""
    members: frozenset[str] = frozenset()
    """Containers of the candidate that have been started since it was chosen."""
    versions: Mapping[Version, Known] = field(default_factory=dict)
    failures: Mapping[Version, Failure] = field(default_factory=dict)
    draining: Mapping[Version, float] = field(default_factory=dict)
    """Versions without traffic that old workers of nginx may still know, and since when (unix)."""
    retiring: frozenset[str] = frozenset()
    """Containers that are to be stopped."""
    paused: bool = False
    held_unix: float | None = None
    """Since when nothing advances, because it is paused or frozen."""
    maintenance: bool = False
    maintained: Order | None = None
    """Who ordered the maintenance; None without it, or when an earlier release saved the state."""
    empty_unix: float | None = None
    """Since when the service has no container."""


@dataclass(frozen=True, slots=True)
class Word:
    """What an operator says. `value`: the percent of `weight`, or whether `maintenance` is on; `to`: where `rollback` leads."""

    verb: Verb
    value: int = 0
    who: str = ""
    why: str = ""
    to: Version | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """A line for people."""

    text: str


@dataclass(frozen=True, slots=True)
class RolledBack:
    """A version failed; `carried`: it had traffic, which goes back."""

    version: Version
    reason: FailureReason
    carried: bool


@dataclass(frozen=True, slots=True)
class Stop:
    """Containers to stop: drained, and not kept."""

    containers: frozenset[str]


Action = Note | RolledBack | Stop


@dataclass(frozen=True, slots=True)
class Told:
    """One service for those who show it. `shares`: None when whatever lives serves; `outlook`: what comes next, and when."""

    service: str
    rollout: Rollout
    replicas: tuple[Replica, ...]
    shares: Shares | None
    outlook: str
    live: bool = False
    """nginx was proved to give traffic so."""
