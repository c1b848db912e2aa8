"""CycleReports and Incidents -> what is worth remembering: cycles that changed something or failed, starts and ends of nginx, of
targets and of the controller; the newest 500, and a file of them. What happens again and again is one entry with a count.

The file only helps people: when it cannot be read or written, that is logged once and nothing else happens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import structlog

from proxyctl.model import Rejection
from proxyctl.report import CycleReport, CycleResult, Incident, IncidentKind, essence, is_reported

KEEP = 500
ROTATE_AT = 1 << 20
"""Bytes; what is older moves to the file's `.1`, and the `.1` before it goes."""
MOST_LISTED = 50
"""Changes and rejections listed in one entry."""
AGAIN_WITHIN = 600.0
"""Seconds within which the same changes count as the same entry."""
INCIDENT_AGAIN_WITHIN: Mapping[IncidentKind, float] = {
    "controller-started": 60.0,
    "controller-stopped": 60.0,
    "nginx-adopted": 60.0,
    "nginx-started": 600.0,
    "nginx-exited": 600.0,
    "target-exited": 3600.0,
}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """One cycle as it is told: in the file, at /api/v1/cycles and /api/v1/events. Times in seconds."""

    schema: int = 1
    number: int
    at_unix: float
    result: CycleResult
    reasons: tuple[str, ...] = ()
    digest: str = ""
    """Live after the cycle."""
    changes: tuple[str, ...] = ()
    error: str = ""
    rejected: tuple[Rejection, ...] = ()
    """Rejections that the cycle before did not have."""
    settled: tuple[str, ...] = ()
    """`container label` of rejections that are gone."""
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    event_to_live: float | None = None
    incident: IncidentKind | None = None
    """Set when the entry is about something that happened outside of a cycle: `changes` says what, `number` is that of the cycle
    before."""
    subject: str = ""
    """The container of the incident."""
    exit_code: int | None = None
    out_of_memory: bool = False
    restarts: int = 0
    """By the restart policy of the container, as the engine counts them."""
    times: int = 1
    """How often the same has happened; `at_unix` is when it happened last, and the rest is as it was then."""
    first_unix: float = 0.0
    """When it happened first; 0 when that was the only time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycles:
    schema: int = 1
    cycles: tuple[Cycle, ...]


class History:
    """A sink of reports. `listeners` are told every entry that is kept."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._entries: deque[Cycle] = deque(maxlen=KEEP)
        self._latest: tuple[object, ...] = ()
        self._torn = False
        self._told = False
        self._number, self._digest = 0, ""
        """Of the latest cycle."""
        self.listeners: list[Callable[[Cycle], None]] = []
        self.in_sync = False
        """As of the latest cycle."""
        self.since_unix = 0.0
        """When `in_sync` last changed."""
        self.error = ""
        self.rejections: tuple[Rejection, ...] = ()
        """As of the latest cycle."""
        if file:
            self._load(file)

    def __call__(self, report: CycleReport) -> None:
        self._follow(report)
        before, after = frozenset(self.rejections), frozenset(report.rejections)
        came, went = after - before, before - after
        self.rejections = report.rejections
        what = (report.result, essence(report.error), report.changes)
        again = bool(report.error) and what == self._latest
        self._latest = what
        if (
            came
            or went
            or report.retired
            or report.rollouts
            or report.declined
            or not (again or (report.result in ("unchanged", "tested") and not report.error))
        ):
            alone = bool(report.retired or report.rollouts or report.declined)
            self._keep(_entry(report, came, went), every=True, alone=alone)
        self._number, self._digest = report.number, report.digest

    def record(self, incident: Incident) -> Cycle:
        """Remembers it, and returns the entry that counts it."""
        end = incident.exit
        return self._keep(
            Cycle(
                number=self._number,
                at_unix=round(incident.at_unix, 3),
                result="unchanged",
                digest=self._digest,
                changes=(incident.text,),
                incident=incident.kind,
                subject=incident.subject,
                exit_code=end.code if end else None,
                out_of_memory=bool(end and end.out_of_memory),
                restarts=end.restarts if end else 0,
            )
        )

    def latest(self, *kinds: IncidentKind) -> Cycle | None:
        """The newest entry of these kinds."""
        return next((entry for entry in reversed(self._entries) if entry.incident in kinds), None)

    def _follow(self, report: CycleReport) -> None:
        in_sync = not report.error
        if in_sync != self.in_sync or not self.since_unix:
            self.in_sync, self.since_unix = in_sync, report.at_unix
        self.error = report.error

    def newest(self, limit: int) -> tuple[Cycle, ...]:
        """At most `limit` entries, the newest first."""
        return tuple(reversed(self._entries))[:limit]

    # ------------------------------------------------------------ the file

    def _keep(self, entry: Cycle, *, every: bool = False, alone: bool = False) -> Cycle:
        """Of what happens again and again, the file and the listeners get the 1st, 2nd, 4th, 8th time and so on. `every`: the
        listeners get each one, without the count. `alone`: it is never counted with others."""
        plain, entry = entry, self._counted(entry, None if alone else _sameness(entry))
        rare = is_reported(entry.times)
        if self._file and rare:
            try:
                self._append(self._file, msgspec.json.encode(entry) + b"\n")
            except OSError as error:
                self._torn = True
                self._tell(f"{self._file} is not written: {error.strerror}")
            else:
                self._told = False
        if every or rare:
            for listener in self.listeners:
                listener(plain if every else entry)
        return entry

    def _counted(self, entry: Cycle, same: tuple[object, ...] | None) -> Cycle:
        """Takes the entry in, in place of the one that it repeats."""
        within = INCIDENT_AGAIN_WITHIN[entry.incident] if entry.incident else AGAIN_WITHIN
        recent = (old for old in reversed(self._entries) if abs(entry.at_unix - old.at_unix) < within)
        before = next((old for old in recent if _sameness(old) == same), None) if same else None
        if before:
            entry = replace(entry, times=before.times + 1, first_unix=before.first_unix or before.at_unix)
            self._entries.remove(before)
        self._entries.append(entry)
        return entry

    def _append(self, file: Path, line: bytes) -> None:
        if file.exists() and file.stat().st_size + len(line) > ROTATE_AT:
            file.replace(file.with_name(f"{file.name}.1"))
        with file.open("ab") as stream:
            stream.write(b"\n" + line if self._torn else line)
        self._torn = False

    def _load(self, file: Path) -> None:
        for path in (file.with_name(f"{file.name}.1"), file):
            try:
                raw = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                self._tell(f"{path} is not read: {error.strerror}")
                continue
            self._torn = bool(raw) and not raw.endswith(b"\n")  # by an end in the middle of a write
            for entry in filter(None, map(_decoded, raw.splitlines()[-KEEP:])):
                if entry.times > 1:
                    earlier = next((old for old in reversed(self._entries) if _is_earlier(old, entry)), None)
                    if earlier:
                        self._entries.remove(earlier)
                self._entries.append(entry)
        if self._entries:
            self._number = self._entries[-1].number

    def _tell(self, problem: str) -> None:
        if not self._told:
            log.warning("history", problem=problem)
        self._told = True


def _entry(report: CycleReport, came: frozenset[Rejection], went: frozenset[Rejection]) -> Cycle:
    return Cycle(
        number=report.number,
        at_unix=round(report.at_unix, 3),
        result=report.result,
        reasons=report.reasons,
        digest=report.digest,
        changes=(*_declined(report), *report.rollouts, *report.changes, *(f"old workers ended: {why}" for why in report.retired))[
            :MOST_LISTED
        ],
        error=report.error,
        rejected=tuple(sorted(came, key=lambda r: (r.container, r.route, r.label)))[:MOST_LISTED],
        settled=tuple(sorted({f"{r.container} {r.label}" for r in went}))[:MOST_LISTED],
        seconds=round(sum(report.stages.values()), 4),
        stages={stage: round(seconds, 4) for stage, seconds in report.stages.items()},
        event_to_live=None if report.event_to_live is None else round(report.event_to_live, 4),
    )


def _sameness(entry: Cycle) -> tuple[object, ...] | None:
    """What entries have in common that are counted as one; None for one that is always on its own."""
    if entry.incident:
        return entry.incident, entry.subject
    plain = entry.result == "live" and not (entry.rejected or entry.settled or entry.error)
    return ("live", entry.changes) if plain and entry.changes else None


def _is_earlier(old: Cycle, new: Cycle) -> bool:
    """Whether the file has `new` as a later state of the same entry."""
    return _sameness(old) == _sameness(new) and new.first_unix in (old.first_unix, old.at_unix)


def _declined(report: CycleReport) -> tuple[str, ...]:
    return (f"configuration not taken over: {report.declined}",) if report.declined else ()


def _decoded(line: bytes) -> Cycle | None:
    """None for a line that a crash tore, or that another release wrote."""
    try:
        return msgspec.json.decode(line, type=Cycle)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
