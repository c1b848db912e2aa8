"""What a cycle works with: the configuration that decides, the parts that act, and the course of the cycle itself."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from proxyctl.model import Rejection
from proxyctl.observe.events import Wakes
from proxyctl.observe.inventory import Inventory
from proxyctl.observe.probes import Prober
from proxyctl.plan import labels
from proxyctl.plan.ownership import ClaimRule
from proxyctl.plan.vhosts import NginxSettings, Renderer
from proxyctl.publish.draft import Drafts
from proxyctl.publish.nginx import Nginx
from proxyctl.publish.promote import Reference
from proxyctl.publish.reload import Reloader
from proxyctl.publish.test import Tester
from proxyctl.report import CycleReport, CycleResult, Wake
from proxyctl.state import StateStore
from proxyctl.versions import FailureReason


@dataclass(frozen=True, slots=True)
class Policy:
    """What configuration decides; replaced as a whole when the files change."""

    defaults: labels.Defaults
    join: bool
    nginx: NginxSettings
    renderer: Renderer
    operator_files: Mapping[str, str]
    claims: tuple[ClaimRule, ...]
    own_ports: frozenset[int]


@dataclass(slots=True)
class Parts:
    inventory: Inventory
    prober: Prober
    nginx: Nginx
    drafts: Drafts
    tester: Tester
    reference: Reference
    reloader: Reloader
    store: StateStore
    wakes: Wakes
    stop: Callable[[str], Awaitable[None]]
    """`docker stop` of one container."""


@dataclass(slots=True)
class Course:
    """What one cycle has come to so far."""

    number: int
    wake: Wake
    stages: dict[str, float] = field(default_factory=dict)
    result: CycleResult = "unchanged"
    error: str = ""
    declined: str = ""
    """Why a changed configuration was not taken over."""
    changes: tuple[str, ...] = ()
    event_to_live: float | None = None
    retired: tuple[str, ...] = ()
    """Why old workers were ended."""
    drains_cut: tuple[str, ...] = ()
    """Services whose old version drained for too long."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.monotonic() - began

    def report(
        self,
        digest: str,
        rejections: tuple[Rejection, ...],
        reloads: int,
        rollouts: Iterable[str],
        rolled_back: Iterable[tuple[str, FailureReason]],
    ) -> CycleReport:
        """The cycle is over. `digest`: what is live; the rest as in CycleReport."""
        return CycleReport(
            number=self.number,
            at_unix=time.time(),
            reasons=self.wake.reasons,
            result=self.result,
            digest=digest,
            changes=self.changes,
            error=self.error,
            declined=self.declined,
            rejections=rejections,
            stages=self.stages,
            event_to_live=self.event_to_live,
            reloads=reloads,
            retired=self.retired,
            drains_cut=self.drains_cut,
            rollouts=tuple(rollouts),
            rolled_back=tuple(rolled_back),
        )
