"""What is seen of one service -> who carries traffic, until when nothing happens, and a sentence about it for people."""

from __future__ import annotations

import math
from collections.abc import Iterable

from proxyctl.versions import ANSWERS, CUT, FailureReason, Replica, Rollout, Seen, Settings, Shares, Version


class Sight:
    """Questions about the replicas that are seen."""

    def __init__(self, seen: Seen) -> None:
        self.settling = seen.settling
        self.by_version: dict[Version, list[Replica]] = {}
        for replica in sorted(seen.replicas, key=lambda r: (r.created_unix, r.container_id)):
            self.by_version.setdefault(replica.version, []).append(replica)

    def of(self, version: Version | None) -> list[Replica]:
        return [] if version is None else self.by_version.get(version, [])

    def started(self, version: Version | None) -> list[Replica]:
        return [r for r in self.of(version) if r.state not in ("coming", "dead")]

    def answers(self, version: Version | None) -> bool:
        """Something of it may be given traffic when there is nothing better."""
        return any(r.state in ANSWERS for r in self.of(version))

    def healthy(self, version: Version | None) -> bool:
        """Something of it can answer."""
        return any(r.state == "healthy" for r in self.of(version))

    def whole(self, version: Version | None) -> bool:
        """All that is there of it can answer."""
        living = [r for r in self.of(version) if r.state != "dead"]
        return bool(living) and all(r.state == "healthy" for r in living)

    def settings(self, version: Version | None) -> Settings:
        """Its newest container's."""
        replicas = self.of(version)
        return replicas[-1].settings if replicas else Settings()

    def fault(self, version: Version | None, members: frozenset[str]) -> tuple[FailureReason, str] | None:
        """Why it must not have traffic: a container of it has ended, or is ill."""
        replicas = {r.container_id: r for r in self.of(version)}
        for each in sorted(members):
            if each not in replicas:
                return "died", f"a container of it ({each[:12]}) was removed"
            if replicas[each].state == "dead" and not self.settling:
                return "died", f"{replicas[each].container} ended" + (
                    f": {replicas[each].reason}" if replicas[each].reason else ""
                )
        for replica in replicas.values():
            if replica.state in ("unhealthy", "stopping"):
                return "unhealthy", f"{replica.container} is {replica.state}: {replica.reason}".rstrip(": ")
        return None


def shares(rollout: Rollout, seen: Seen) -> Shares | None:
    """Which versions carry traffic. None: whatever lives, since there is no version to go by, or none of it lives."""
    if rollout.active is None:
        return None
    wanted: dict[Version, int] = {rollout.active: 100}
    if rollout.phase in CUT and rollout.candidate is not None:
        wanted = {rollout.candidate: 100}
    elif rollout.phase == "ready" and rollout.candidate is not None and rollout.weight:
        wanted = {rollout.active: 100 - rollout.weight, rollout.candidate: rollout.weight}
    sight = Sight(seen)
    if any(sight.answers(version) for version in wanted) or not any(sight.answers(version) for version in sight.by_version):
        return wanted
    standby = best(rollout, sight)
    return None if standby is None else {standby: 100}


def best(rollout: Rollout, sight: Sight) -> Version | None:
    """Of the healthy versions, the one to go to when what should have the traffic cannot answer."""
    healthy = [version for version in rollout.versions if sight.healthy(version)]
    active, candidate, previous = rollout.active, rollout.candidate, rollout.previous
    return max(
        healthy,
        key=lambda v: (v not in rollout.failures, v == active, v == candidate, v == previous, rollout.versions[v].born_unix),
        default=None,
    )


def until(rollout: Rollout, seen: Seen) -> float:
    """When time alone may take the machine further (unix); infinite when it does not."""
    if rollout.held_unix is not None:
        return math.inf
    settings = Sight(seen).settings(rollout.candidate)
    if rollout.phase == "warming":
        return rollout.since_unix + settings.deadline
    if rollout.phase == "verifying" or (rollout.phase == "ready" and rollout.weight and settings.strategy == "canary"):
        return rollout.since_unix + settings.bake
    return math.inf


def shown(version: Version | None) -> str:
    return version or "the version without a label"


def outlook(rollout: Rollout, seen: Seen, now: float, service: str = "SERVICE") -> str:
    """What is the case, what comes next and when, in one sentence."""
    sight, candidate = Sight(seen), shown(rollout.candidate)
    settings = sight.settings(rollout.candidate)
    held = "paused: `proxyctl rollout resume` goes on" if rollout.paused else "frozen: `proxyctl unfreeze` goes on"
    left = f"{max(0.0, until(rollout, seen) - now):.0f} s"
    waits = rollout.held_unix is not None
    if rollout.active is None:
        return "no version has been healthy yet"
    match rollout.phase:
        case "warming":
            healthy = sum(r.state == "healthy" for r in sight.of(rollout.candidate))
            text = f"{candidate} warms up: {healthy} of {len(sight.of(rollout.candidate))} healthy"
            return f"{text}; {held if waits else f'given up in {left}'}"
        case "ready" if rollout.weight:
            then = (
                f"the next step is in {left}"
                if settings.strategy == "canary"
                else f"`proxyctl rollout promote {service}` goes on"
            )
            return f"{candidate} carries {rollout.weight} %; {held if waits else then}"
        case "ready" if waits:
            return f"{candidate} is ready; {held}"
        case "ready" if settings.strategy == "manual":
            return f"{candidate} is ready and waits for `proxyctl rollout promote {service}`"
        case "ready":
            return f"{candidate} is ready and goes on at once"
        case "cutting":
            return f"traffic goes to {candidate} as soon as nginx is proved to do it"
        case "verifying":
            return f"{candidate} has the traffic; {held if waits else f'its bake ends in {left}'}"
        case _:
            latest = max(rollout.failures.items(), key=lambda item: item[1].at_unix, default=None)
            said = [f"{shown(rollout.active)} is live"]
            if rollout.phase == "failed" and latest:
                said.append(f"{shown(latest[0])} failed: {latest[1].text}")
            if rollout.draining:
                said.append(f"{_and(rollout.draining)} {'drains' if len(rollout.draining) == 1 else 'drain'}")
            return "; ".join([*said, held] if waits else said)


def _and(versions: Iterable[Version]) -> str:
    return " and ".join(shown(version) for version in sorted(versions))
