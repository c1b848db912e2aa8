"""What the controller knows at one moment, as everything that shows it takes it: the API, the metrics, the page.

`read` copies references out of a running controller, so one answer is made of one moment. Controller, nginx and Live are given as
Protocols, since this package imports none of those that act.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from proxyctl.model import Container, DrainPhase, Exit, NginxView, Owner, Plan, Rejection, RouteTable, Snapshot
from proxyctl.serve.history import History
from proxyctl.versions import Order, Told

LATE = 60.0
"""Seconds past the resync interval without a sign of life before the loop counts as stuck, unless it waits for the engine."""


class Nginx(Protocol):
    """publish.nginx.NginxInstance, as much as is shown."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def image(self) -> str: ...
    @property
    def started_at(self) -> str: ...
    @property
    def run(self) -> str: ...
    @property
    def outdated(self) -> bool: ...
    @property
    def differing(self) -> tuple[str, ...]: ...
    @property
    def renewal(self) -> str: ...
    @property
    def view(self) -> NginxView: ...


class Live(Protocol):
    """publish.reload.Live."""

    @property
    def digest(self) -> str: ...


class Controller(Protocol):
    """controller.Controller, as much as is shown."""

    @property
    def nginx(self) -> Nginx | None: ...
    @property
    def live(self) -> Live | None: ...
    @property
    def plan(self) -> Plan | None: ...
    @property
    def published(self) -> RouteTable: ...
    @property
    def snapshot(self) -> Snapshot: ...
    @property
    def beat(self) -> float: ...
    @property
    def frozen(self) -> bool: ...
    @property
    def freezing(self) -> Order | None: ...
    def versions(self) -> tuple[Told, ...]: ...
    @property
    def drain(self) -> DrainPhase: ...
    @property
    def silence(self) -> str: ...
    @property
    def nginx_up(self) -> bool | None: ...


@dataclass(frozen=True, slots=True)
class Place:
    """What does not change while the process runs."""

    version: str
    endpoint: str
    """Of the engine."""
    label_prefix: str
    resync: float
    started_unix: float


def refused_files(rejections: Iterable[Rejection]) -> tuple[str, ...]:
    """Hand-written vhosts that nginx does not accept: a line for each."""
    return tuple(f"{r.container}: {r.message}" for r in rejections if r.reason == "quarantined" and not r.container_id)


@dataclass(frozen=True, slots=True)
class Configuration:
    """What became of the files that the controller reads: its configuration, templates and hand-written vhosts."""

    problem: str = ""
    """Why the latest configuration or templates were not taken over; empty when they were."""
    restart: tuple[str, ...] = ()
    """Keys that were changed and take effect when the controller is started again."""
    taken_unix: float = 0.0
    """When everything was last taken over."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Starts of nginx."""

    starts: int = 0
    """How many this controller has seen."""
    started_unix: float | None = None
    """When the latest was; None when it is not known."""


@dataclass(frozen=True, slots=True)
class Standing:
    place: Place
    connected: bool
    """Whether the engine's event stream stands."""
    nginx: Nginx | None
    live_digest: str
    in_sync: bool
    """Live is what is wanted, as of the latest finished cycle."""
    since_unix: float
    """When `in_sync` last changed; 0 before the first cycle."""
    error: str
    """Why the latest cycle failed, or why nginx does not answer; else empty."""
    alive: bool
    wanted: RouteTable
    published: RouteTable
    """The table that nginx runs."""
    owners: Mapping[str, Owner] = field(default_factory=dict)
    rejections: tuple[Rejection, ...] = ()
    containers: Mapping[str, Container] = field(default_factory=dict)
    rollouts: tuple[Told, ...] = ()
    frozen: bool = False
    freezing: Order | None = None
    """Who has frozen everything, and why."""
    host: DrainPhase = "serving"
    configuration: Configuration = Configuration()
    nginx_up: bool | None = None
    """nginx runs and answers; None when that was never known."""
    runs: Runs = Runs()
    exits: Mapping[str, Exit] = field(default_factory=dict)
    """How containers ended the last time, by id."""

    @property
    def not_taken(self) -> tuple[str, ...]:
        """What is written in files and not in effect, since it is wrong: a line for each, with the reason. What was in effect
        before stays, so that this is no reason to take the host out of a balancer."""
        return ((self.configuration.problem,) if self.configuration.problem else ()) + refused_files(self.rejections)

    @property
    def taken_over(self) -> bool:
        """Whether everything that is written in files is in effect."""
        return not self.not_taken and not (self.nginx and self.nginx.view.neighbours.refused)

    @property
    def not_ready(self) -> str:
        """Why a balancer should send nothing here, in words; empty when it may."""
        return self.trouble or (f"the host is to be left: {self.host}" if self.host != "serving" else "")

    @property
    def trouble(self) -> str:
        """Why not everything that is wanted is live, in words; empty when it is."""
        if not self.alive:
            return "the controller's loop has shown no life for a while"
        if not self.since_unix:
            return "starting: no cycle has ended yet"
        if self.error:
            return self.error
        return "" if self.live_digest else "nothing is live yet"


def read(
    controller: Controller,
    place: Place,
    history: History,
    *,
    connected: bool,
    waiting: bool = False,
    configuration: Configuration = Configuration(),
    runs: Runs = Runs(),
    exits: Mapping[str, Exit] | None = None,
) -> Standing:
    """`waiting`: for an answer of the engine. Calls end by themselves, but the pull of an image may take minutes."""
    plan = controller.plan
    age = time.monotonic() - controller.beat
    return Standing(
        place=place,
        connected=connected,
        nginx=controller.nginx,
        live_digest=controller.live.digest if controller.live else "",
        in_sync=history.in_sync and controller.live is not None and not controller.silence,
        since_unix=history.since_unix,
        error=history.error or controller.silence,
        alive=waiting or age < place.resync + LATE,
        wanted=plan.table if plan else RouteTable(),
        published=controller.published,
        owners=plan.owners if plan else {},
        rejections=history.rejections,
        containers=controller.snapshot.containers,
        rollouts=controller.versions(),
        frozen=controller.frozen,
        freezing=controller.freezing,
        host=controller.drain,
        configuration=configuration,
        nginx_up=controller.nginx_up,
        runs=runs,
        exits=exits or {},
    )
