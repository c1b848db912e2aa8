"""CycleReports -> what is worth remembering: the cycles that changed something or failed, the newest 500, and a file of them.

The file only helps people: when it cannot be read or written, that is logged once and nothing else happens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from proxyctl.model import Rejection
from proxyctl.report import CycleReport, CycleResult, essence

KEEP = 500
ROTATE_AT = 1 << 20
"""Bytes; what is older moves to the file's `.1`, and the `.1` before it goes."""
MOST_LISTED = 50
"""Changes and rejections listed in one entry."""

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
            self._keep(_entry(report, came, went))

    def _follow(self, report: CycleReport) -> None:
        in_sync = not report.error
        if in_sync != self.in_sync or not self.since_unix:
            self.in_sync, self.since_unix = in_sync, report.at_unix
        self.error = report.error

    def newest(self, limit: int) -> tuple[Cycle, ...]:
        """At most `limit` entries, the newest first."""
        return tuple(reversed(self._entries))[:limit]

    # ------------------------------------------------------------ the file

    def _keep(self, entry: Cycle) -> None:
        self._entries.append(entry)
        if self._file:
            try:
                self._append(self._file, msgspec.json.encode(entry) + b"\n")
            except OSError as error:
                self._torn = True
                self._tell(f"{self._file} is not written: {error.strerror}")
            else:
                self._told = False
        for listener in self.listeners:
            listener(entry)

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
            self._entries.extend(entry for entry in map(_decoded, raw.splitlines()[-KEEP:]) if entry)

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


def _declined(report: CycleReport) -> tuple[str, ...]:
    return (f"configuration not taken over: {report.declined}",) if report.declined else ()


def _decoded(line: bytes) -> Cycle | None:
    """None for a line that a crash tore, or that another release wrote."""
    try:
        return msgspec.json.decode(line, type=Cycle)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
