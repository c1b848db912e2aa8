"""A whole controller on a host in miniature (bench.py): real planning, files, probes and proofs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from proxyctl.controller import Controller
from proxyctl.cycle import Parts, Policy
from proxyctl.model import Container, DrainPhase
from proxyctl.observe.events import Wakes
from proxyctl.observe.inventory import Inventory
from proxyctl.observe.probes import Prober
from proxyctl.plan.vhosts import Renderer
from proxyctl.publish import test as testing
from proxyctl.publish.draft import Drafts
from proxyctl.publish.nginx import NginxContainer
from proxyctl.publish.promote import Reference
from proxyctl.publish.reload import Reloader
from proxyctl.report import CycleReport, Wake
from proxyctl.state import StateStore
from tests.unit import bench, make

RELIST = Wake(("test",), relist=True)


def site(name: str, host: str = "", address: str = "10.0.0.5", **more: Any) -> Container:
    """Healthy without being asked, so that no test waits for a check."""
    said = {"host": host or f"{name}.example", "health.type": "none"}
    return make.container(name, said | more.pop("said", {}), networks={more.pop("network", "front"): address}, **more)


WEB, API = site("web"), site("api")
BEFORE = site("web", state="created")


def policy(templates: Mapping[str, str] | None = None, files: Mapping[str, str] | None = None) -> Policy:
    settings = make.settings(bench.TOKEN, wait_after_boot=False)
    renderer = Renderer(templates) if templates else make.shipped()
    return Policy(make.defaults(), True, settings, renderer, files or {}, claims=(), own_ports=frozenset())


class Rig:
    """A controller on a host. `again()` is the controller after a restart."""

    def __init__(self, directory: Path) -> None:
        bench.folders(directory)
        self.conf = directory / "conf"
        self.engine = bench.Engine(directory)
        self.nginx = self.engine.nginx
        self.store = StateStore(directory / "state")
        (directory / "state").mkdir()
        self.reports: list[CycleReport] = []
        self.controllers: list[Controller] = []
        self.runs = False
        """Whether the prober wakes the loop; `cycle` needs no waking."""
        self.build()

    def _changed(self, *_: object) -> None:
        self.news = True
        if self.runs:
            self.wakes.post(Wake(("probe",)))

    def build(self) -> None:
        self.wakes = Wakes()
        self.inventory = Inventory(self.engine, "proxyctl", self.wakes.post)
        self.reference = Reference(self.conf / "nginx.conf", self.conf, self.engine.directory / "boot", str(self.conf))
        drafts = Drafts(self.conf)
        drafts.prepare()
        parts = Parts(
            inventory=self.inventory,
            prober=Prober(self._changed),
            nginx=NginxContainer(self.engine, bench.spec(self.engine.directory)),
            drafts=drafts,
            tester=testing.Tester(self.engine),
            reference=self.reference,
            reloader=Reloader(self.engine, bench.TOKEN),
            store=self.store,
            wakes=self.wakes,
            stop=self.engine.stop,
        )
        self.parts = parts
        state = self.store.load()
        self.controller = Controller(parts, policy(), replace(state, token=bench.TOKEN), self.reports.append)
        self.controllers.append(self.controller)

    async def cycle(self, wake: Wake = RELIST, *containers: Container) -> CycleReport:
        """With these containers beside those that are there. What that lets the prober find out is in it too."""
        self.engine.put(*containers)
        self.news = False
        report = await self.controller.cycle(wake)
        after = await self.controller.cycle(replace(wake, relist=False)) if self.news else report
        return report if after.result == "unchanged" else after

    async def live(self, *containers: Container) -> CycleReport:
        report = await self.cycle(RELIST, *containers)
        assert (report.result, report.error) == ("live", "")
        self.engine.calls.clear()
        return report

    async def remove(self, container: Container) -> CycleReport:
        del self.engine.containers[container.id]
        return await self.cycle()

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not true():  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.005)

    def phase(self) -> DrainPhase:
        """Whether the host is to be left."""
        return self.controller.drain

    def served(self) -> str:
        """All that nginx reads now."""
        return bench.whole(self.conf / (self.conf / "nginx.conf").readlink())


def waiting(name: str) -> list[asyncio.TimerHandle]:
    """Timers that will post a wake for this reason."""
    loop: Any = asyncio.get_running_loop()
    handles = [handle for handle in loop._scheduled if not handle.cancelled()]
    return [h for h in handles if h._args and isinstance(h._args[0], Wake) and name in h._args[0].reasons]
