"""What nginx is at each look -> its starts: how many were seen, when the latest was, and an Incident for each."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from proxyctl.model import Exit
from proxyctl.report import Incident
from proxyctl.serve.standing import Nginx, Runs

TICKS = 100
"""Of the clock in /proc, in a second (USER_HZ, the same on every Linux)."""


class NginxRuns:
    """`before`: the run that an earlier controller saw last, empty when there was none. `began_unix`: when this one started."""

    def __init__(self, before: str, began_unix: float, boot_unix: Callable[[], float]) -> None:
        self._run = before
        self._began = began_unix
        self._boot_unix = boot_unix
        self._seen = False
        self.starts = 0
        self.started_unix: float | None = None

    def shown(self) -> Runs:
        return Runs(self.starts, self.started_unix)

    def look(self, nginx: Nginx, now_unix: float, end: Exit | None = None) -> Incident | None:
        """None while it is the run that it was. `end`: how the run before ended, where that is known."""
        run, before, first = nginx.run, self._run, not self._seen
        if not first and run == before:
            return None
        self._run, self._seen = run, True
        self.started_unix = self._start_of(nginx.started_at)
        fresh = self.started_unix is not None and self.started_unix >= self._began
        if first and not fresh:
            missed = before not in ("", run)
            self.starts += missed
            since = f", running since {nginx.started_at[:19]}Z" if "T" in nginx.started_at else ""
            text = f"nginx {nginx.name} was adopted{since}"
            if missed:
                text += "; it was started again while proxyctl was not running"
            return Incident("nginx-adopted", now_unix, nginx.name, text, expected=not missed)
        self.starts += 1
        if first and not before:
            return Incident("nginx-started", now_unix, nginx.name, f"nginx {nginx.name} was started")
        why = f"; the run before it ended: {end}" if end else ""
        return Incident("nginx-started", now_unix, nginx.name, f"nginx {nginx.name} was started again{why}", expected=False)

    def _start_of(self, started_at: str) -> float | None:
        """`2026-11-24T06:04:07.811003720Z` of a container, or `pid ticks` of a process of the host, as Unix time."""
        try:
            if "T" in started_at:
                return datetime.fromisoformat(started_at).timestamp()
            return self._boot_unix() + int(started_at.split()[1]) / TICKS
        except (IndexError, ValueError):
            return None
