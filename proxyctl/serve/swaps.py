"""The versions of one service, as the API, the page and the command line show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from proxyctl.versions import CUT, Order, Phase, Told

VersionStanding = Literal["active", "candidate", "standby", "draining", "failed", "gone"]
"""active: has the traffic, and gets it back; candidate: is being rolled out; failed: not tried again by itself; draining: without
new traffic, and old workers of nginx may know it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """`version` is empty for containers without the label."""

    version: str
    standing: VersionStanding
    weight: int
    """Percent of the traffic."""
    healthy: int
    containers: tuple[str, ...]
    reason: str
    """Why it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """The versions of one service."""

    service: str
    state: Phase
    since_unix: float
    active: str | None
    candidate: str | None
    previous: str | None
    """What was active before."""
    paused: bool
    maintenance: bool
    maintained: Order | None = None
    """Who wants the maintenance, why and since when."""
    draining: tuple[str, ...]
    """Versions without new traffic that workers of nginx may know."""
    live: bool
    """nginx was proved to give traffic as it should."""
    outlook: str
    """What is the case, what comes next and when."""
    versions: tuple[Version, ...]
    """The newest first."""


def rollout_of(told: Told) -> Rollout:
    state = told.rollout
    back = _is_going_back(told)
    names = {replica.version for replica in told.replicas} | state.failures.keys() | {v for v in (state.active,) if v is not None}
    born = {version: known.born_unix for version, known in state.versions.items()}
    return Rollout(
        service=told.service,
        state=state.phase,
        since_unix=state.since_unix,
        active=state.candidate if back else state.active,
        candidate=None if back else state.candidate,
        previous=state.active if back else state.previous,
        paused=state.paused,
        maintenance=state.maintenance,
        maintained=state.maintained,
        draining=tuple(sorted(state.draining)),
        live=told.live,
        outlook=told.outlook,
        versions=tuple(_version(told, version) for version in sorted(names, key=lambda v: (-born.get(v, 0.0), v))),
    )


def _is_going_back(told: Told) -> bool:
    """Whether an operator has taken the traffic from the active version: it is active no more, though nothing is proved yet."""
    return told.rollout.cause == "rollback" and told.rollout.phase in CUT


def _version(told: Told, version: str) -> Version:
    state = told.rollout
    active = state.candidate if _is_going_back(told) else state.active
    replicas = [replica for replica in told.replicas if replica.version == version and replica.state != "dead"]
    standings: tuple[tuple[VersionStanding, bool], ...] = (
        ("active", version == active),
        ("candidate", version == state.candidate),
        ("failed", version in state.failures),
        ("draining", version in state.draining),
        ("standby", bool(replicas)),
    )
    return Version(
        version=version,
        standing=next((standing for standing, so in standings if so), "gone"),
        weight=(told.shares or {}).get(version, 0),
        healthy=sum(replica.state == "healthy" for replica in replicas),
        containers=tuple(replica.container for replica in replicas),
        reason=state.failures[version].text if version in state.failures else "",
    )
