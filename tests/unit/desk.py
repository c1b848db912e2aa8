"""A front that serves real model values: what a controller holds, a directory of its own, real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from proxyctl.config import Api, Config, State
from proxyctl.fileset import NginxWorker
from proxyctl.model import Container, DrainPhase, Exit, Plan, Rejection, RouteTable, Snapshot
from proxyctl.publish.nginx import NginxInstance
from proxyctl.publish.reload import Live
from proxyctl.report import CycleReport, CycleResult
from proxyctl.serve import standing
from proxyctl.serve.changes import Changes
from proxyctl.serve.front import Front
from proxyctl.serve.history import History
from proxyctl.versions import Illegal, Order, Told, Word
from tests.rig import free_port
from tests.unit import make

DIGEST = "d" * 32
NGINX = NginxInstance(
    id="id-nginx",
    started_at="2026-11-24T06:00:00Z",
    image_id="sha256:0",
    view=make.view(),
    addresses=(("10.0.0.1", 80),),
    outdated=False,
    image="nginx:1.31.3",
    name="edge",
)


@dataclass
class Held:
    """What a controller holds, in its own shape."""

    nginx: NginxInstance | None = None
    live: Live | None = None
    plan: Plan | None = None
    published: RouteTable = field(default_factory=RouteTable)
    snapshot: Snapshot = field(default_factory=lambda: Snapshot({}))
    beat: float = field(default_factory=time.monotonic)
    drain: DrainPhase = "serving"
    silence: str = ""
    nginx_up: bool | None = True
    told: list[tuple[object, ...]] = field(default_factory=list)
    """Changes that were asked for."""

    frozen: bool = False
    freezing: Order | None = None
    rollouts: tuple[Told, ...] = ()
    said: list[tuple[str, Word]] = field(default_factory=list)
    """What operators have said, by service; `refusal`: why not."""
    refusal: str = ""

    async def change_drain(self, notice: float | None, who: str) -> None:
        self.told.append(("drain", notice, who))

    def versions(self) -> tuple[Told, ...]:
        return self.rollouts

    async def say(self, service: str, word: Word) -> str:
        self._refuse()
        self.said.append((service, word))
        return f"{word.verb} is done; and goes on"

    async def freeze(self, *, on: bool, who: str, why: str = "") -> None:
        self._refuse()
        self.frozen, self.freezing = on, Order(1_000.0, who, why) if on else None

    async def release(self, host: str, who: str, why: str = "") -> str:
        self._refuse()
        self.told.append(("release", host, who, why))
        return "shop"

    def _refuse(self) -> None:
        if self.refusal:
            raise Illegal(self.refusal)


class Desk:
    """A front, what it shows, and where it answers."""

    def __init__(self, directory: Path, **api: Any) -> None:
        self.directory = directory
        self.held = Held()
        self.connected = True
        self.workers: Sequence[NginxWorker] = ()
        self.connections: tuple[int, int] | None = (11, 8192)
        self.workers_after = 0.0
        self.exits: dict[str, Exit] = {}
        self.template = (make.REPOSITORY / "templates" / "dashboard.html.j2").read_text(encoding="utf-8")
        self.port = free_port()
        where = {"listen": f"127.0.0.1:{self.port}", "socket": str(directory / "run" / "api.sock")}
        self.config = Config(state=State(dir=str(directory)), api=Api(**(where | api)))
        self.place = standing.Place("1.2.3", "unix:///run/docker.sock", "proxyctl", resync=30.0, started_unix=1.0)
        self.changes = Changes(self.held)
        self.front = Front(
            self.config, self._standing, self._workers, lambda: self.template, self.changes, lambda _: self.connections
        )
        self._number = 0

    def _standing(self, history: History) -> standing.Standing:
        return standing.read(
            self.held, self.place, history, connected=self.connected, runs=standing.Runs(1, 1000.5), exits=self.exits
        )

    async def _workers(self) -> Sequence[NginxWorker]:
        await asyncio.sleep(self.workers_after)
        return self.workers

    @property
    def socket(self) -> Path:
        return Path(self.config.api.socket)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def config_file(self, **sections: Mapping[str, Any]) -> Path:
        """The configuration as a file, for commands."""
        data = {"state": {"dir": str(self.directory)}, "api": {"listen": self.config.api.listen, "socket": str(self.socket)}}
        path = self.directory / "config.toml"
        path.write_bytes(_toml(data | sections))
        return path

    def decide(self, containers: Iterable[Container], states: Mapping[str, str | None] | None = None, **more: Any) -> Plan:
        """The plan of these containers, proved live."""
        found = tuple(containers)
        plan = make.decide(found, states, **more)
        self.held.snapshot = make.snapshot(found)
        self.held.nginx, self.held.live = NGINX, Live(DIGEST, NGINX.id, NGINX.started_at, frozenset({1, 2}))
        self.held.plan, self.held.published = plan, plan.table
        self.report("live", changes=("+ all",), rejections=plan.rejections)
        return plan

    def report(
        self,
        result: CycleResult = "unchanged",
        error: str = "",
        changes: tuple[str, ...] = (),
        rejections: tuple[Rejection, ...] = (),
        **more: Any,
    ) -> CycleReport:
        """One cycle, told to every sink."""
        self._number += 1
        plain: dict[str, Any] = {
            "at_unix": time.time(),
            "reasons": ("test",),
            "digest": DIGEST if self.held.live else "",
            "stages": {"read": 0.002, "plan": 0.001},
            "event_to_live": None,
            "reloads": 0,
        }
        facts = {"number": self._number, "result": result, "error": error, "changes": changes, "rejections": rejections}
        made = CycleReport(**(plain | facts | more))
        for sink in self.front.sinks:
            sink(made)
        return made

    async def followed(self) -> None:
        """Returns when somebody follows the events."""
        while not len(self.front._feed):  # noqa: ASYNC110 - a follower comes from another process
            await asyncio.sleep(0.02)

    async def get(self, path: str, **more: Any) -> tuple[int, Any, Mapping[str, str]]:
        """(status, JSON or text, headers) over TCP."""
        async with aiohttp.ClientSession() as session:
            return await _read(session, self.url + path, **more)

    async def ask(self, path: str, **more: Any) -> tuple[int, Any, Mapping[str, str]]:
        """The same over the unix socket."""
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.socket))) as session:
            return await _read(session, "http://anything" + path, **more)


async def _read(session: aiohttp.ClientSession, url: str, method: str = "GET", **more: Any) -> tuple[int, Any, Mapping[str, str]]:
    async with session.request(method, url, **more) as response:
        text = await response.text()
        body = json.loads(text) if response.content_type == "application/json" and text else text
        return response.status, body, response.headers


def _toml(data: Mapping[str, Mapping[str, Any]]) -> bytes:
    lines = []
    for section, keys in data.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    return "\n".join(lines).encode()


@asynccontextmanager
async def opened(directory: Path, **api: Any) -> AsyncIterator[Desk]:
    """`api`: keys of [api]."""
    desk = Desk(directory, **api)
    await desk.front.start()
    try:
        yield desk
    finally:
        await desk.front.close()
