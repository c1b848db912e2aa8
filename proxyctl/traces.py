"""What happens outside of cycles -> Incidents for the log, the history and the metrics: ends and starts of nginx, ends of
targets, starts and ends of the controller.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Protocol

from proxyctl import __version__
from proxyctl.model import Container, EngineEvent, Exit, RouteTable
from proxyctl.observe.exits import Engine, Exits
from proxyctl.plan.labels import service_of
from proxyctl.processes import booted_unix
from proxyctl.report import Incident
from proxyctl.serve.history import History
from proxyctl.serve.log import CycleLog
from proxyctl.serve.metrics import Metrics
from proxyctl.serve.runs import NginxRuns
from proxyctl.serve.standing import Controller, Runs


class Known(Protocol):
    """inventory.Inventory, as much as is needed here."""

    def known(self, container_id: str) -> Container | None: ...
    def is_ours(self, event: EngineEvent) -> bool: ...


class Traces:
    def __init__(self, engine: Engine, inventory: Known, log: CycleLog, began_unix: float, prefix: str) -> None:
        """`prefix`: of the labels."""
        self._inventory = inventory
        self._prefix = prefix
        self._log = log
        self._began = began_unix
        self._exits = Exits(engine, self._ended)
        self._runs: NginxRuns | None = None
        self._sinks: tuple[History, Metrics] | None = None
        self._ending: dict[str, tuple[str, str, bool]] = {}
        """Containers that have ended and whose Exit is not known yet: name, service, and whether it is nginx."""
        self._tables = RouteTable(), RouteTable()
        """The latest that were looked at: what is routed, and what will be."""
        self._containers: Mapping[str, Container] = {}
        self._services: dict[str, str] = {}
        """Container id -> service, in that table."""
        self._down: tuple[str, ...] = ()

    @property
    def runs(self) -> Runs:
        return self._runs.shown() if self._runs else Runs()

    @property
    def exits(self) -> Mapping[str, Exit]:
        return self._exits.latest

    def resume(self, nginx_run: str) -> None:
        """`nginx_run`: the run of nginx that the controller before this one saw last; empty when there was none."""
        self._runs = NginxRuns(nginx_run, self._began, booted_unix)

    def begin(self, history: History, metrics: Metrics) -> None:
        """The controller has started: from now on, everything is recorded."""
        self._sinks = history, metrics
        before = history.latest("controller-started", "controller-stopped")
        crashed = before is not None and before.incident == "controller-started"
        text = f"proxyctl {__version__} was started, pid {os.getpid()}"
        if crashed:
            text += "; the one before it was killed or crashed"
        self._record(Incident("controller-started", time.time(), "proxyctl", text, expected=not crashed))

    def end(self, by: str) -> None:
        """The controller ends: `by` a signal, or, when it is empty, because of an error."""
        text = f"proxyctl {__version__} ends {f'on {by}' if by else 'because of an error'}; nginx goes on with what is live"
        self._record(Incident("controller-stopped", time.time(), "proxyctl", text, expected=bool(by)))

    def close(self) -> None:
        self._exits.close()

    def note(self, event: EngineEvent, *, is_nginx: bool) -> None:
        """Takes in an event of any container, before the inventory does."""
        if not is_nginx and not self._inventory.is_ours(event):
            return
        container = self._inventory.known(event.container_id)
        if event.action == "die":
            labels = event.labels or (container.labels if container else {})
            name = labels.get("name") or (container.name if container else event.container_id[:12])
            service = self._services.get(event.container_id)
            if service is None and not is_nginx:
                service = service_of(labels, name, event.container_id, self._prefix)
            self._ending[event.container_id] = (name, service or "", is_nginx)
        self._exits.note(event, container.stop_signal if container else 0)

    def look(self, controller: Controller) -> None:
        """After a cycle: what has become of nginx, and of targets that are down."""
        nginx = controller.nginx
        if nginx and self._runs and controller.nginx_up is not False:
            started = self._runs.look(nginx, time.time(), self._exits.latest.get(nginx.id))
            if started:
                self._record(started)
        if controller.plan is None:
            return
        table, ahead, containers = controller.plan.table, controller.plan.ahead, controller.snapshot.containers
        if table is not self._tables[0] or ahead is not self._tables[1]:
            self._tables = table, ahead
            routed = [t for vhost in table.vhosts for location in vhost.locations for t in location.targets]
            coming = [t for vhost in ahead.vhosts for location in vhost.locations for t in location.targets]
            self._services = {t.target.container_id: t.service for t in (*coming, *routed)}
            self._down = tuple(dict.fromkeys(t.target.container_id for t in routed if t.state == "down"))
        if self._down or containers is not self._containers:
            self._containers = containers
            self._exits.follow(containers.keys() | ({nginx.id} if nginx else set()), self._down)

    def _ended(self, container_id: str, end: Exit) -> None:
        name, service, is_nginx = self._ending.pop(container_id, ("", "", False))
        if is_nginx:
            self._record(Incident("nginx-exited", time.time(), name, f"nginx {name} {end.verb}", exit=end, expected=False))
        elif name:
            self._record(Incident("target-exited", time.time(), name, f"{name} {end.verb}", service, end, end.requested))

    def _record(self, incident: Incident) -> None:
        """A target that was stopped on request is counted, no more: what follows from it is among the changes of a cycle."""
        if self._sinks is None:
            return
        history, metrics = self._sinks
        metrics.incident(incident)
        if incident.kind != "target-exited" or not incident.expected:
            self._log.incident(incident, history.record(incident).times)
