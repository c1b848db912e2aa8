"""CycleReport, Incident -> one log line with its reason: readable on a terminal, JSON otherwise."""

from __future__ import annotations

import logging
import os
import sys

import stamina
import structlog

from proxyctl.model import Rejection
from proxyctl.report import CycleReport, Incident, essence, is_reported


def configure() -> None:
    """Logs go to standard error; standard output belongs to data."""
    terminal = sys.stderr.isatty()
    renderer: structlog.typing.Processor
    if terminal:
        renderer = structlog.dev.ConsoleRenderer(colors="NO_COLOR" not in os.environ)
    else:
        renderer = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # What a retry is about is in the report of a cycle, once; stamina would write every attempt.
    stamina.instrumentation.set_on_retry_hooks([])


class CycleLog:
    """Writes what a cycle did. A cycle that changed nothing is silent, and so is one that fails as the one before it did."""

    def __init__(self) -> None:
        self._log = structlog.get_logger()
        self._rejections: frozenset[Rejection] = frozenset()
        self._error = ""

    def incident(self, incident: Incident, times: int) -> None:
        """`times`: how often it has happened lately. What happens again and again is written the 1st, 2nd, 4th, 8th time."""
        if not is_reported(times):
            return
        of_controller = incident.kind in ("controller-started", "controller-stopped")
        facts: dict[str, object] = {} if of_controller else {"container": incident.subject}
        if incident.service:
            facts["service"] = incident.service
        if incident.exit:
            facts |= {"exit_code": incident.exit.code, "out_of_memory": incident.exit.out_of_memory}
            facts["restarts"] = incident.exit.restarts
        if times > 1:
            facts["times"] = times
        write = self._log.info if incident.expected else self._log.warning
        write(incident.kind.replace("-", " "), what=incident.text, **facts)

    def __call__(self, report: CycleReport) -> None:
        facts = {"cycle": report.number, "reasons": "; ".join(report.reasons)}
        if report.result == "live":
            took = f"{sum(report.stages.values()) * 1000:.0f} ms"
            self._log.info("live", digest=report.digest[:12], changes="; ".join(report.changes), took=took, **facts)
        elif report.error and essence(report.error) != self._error:
            self._log.error(report.result, error=report.error, **facts)
        elif self._error and not report.error:
            self._log.info("recovered", **facts)
        for what in report.rollouts:
            self._log.info("rollout", what=what, cycle=report.number)
        for why in report.retired:
            self._log.warning("old workers ended", why=why, cycle=report.number)
        self._error = essence(report.error)
        now = frozenset(report.rejections)
        for rejection in sorted(now - self._rejections, key=lambda r: (r.container, r.route, r.label)):
            self._log.warning(
                "rejected",
                container=rejection.container,
                route=rejection.route,
                label=rejection.label,
                problem=rejection.message,
                hint=rejection.hint,
            )
        self._rejections = now
