"""Versions of one service swap under load; the old one dies at once, on `docker stop`, as soon as `wait --drained` returns.

New connections at a fixed rate, kept ones, requests that take 3 s, a websocket and an event stream run all the while. What a
client keeps open goes on with the version that took it until the client is done, and draining waits for that: so the two lasting
clients come anew with each version. Then the same load on Traefik, whose users weigh two services in a file: 5 swaps.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.figures import Figures, Value, milliseconds
from benchmarks.traefik import for_containers_of, traefik
from tests.lasting import Held, Site, session
from tests.load import Load, Report
from tests.rig import LOOPBACK, Box, Controller, Rig, ask, until

HOST = "shop.example"
SWAPS, SHORT_SWAPS = 20, 1
RIVAL_SWAPS, SHORT_RIVAL_SWAPS = 5, 1
SLOW = 3000
"""Milliseconds of a slow request."""
BAKE = 1.0
LABELS = {
    "host": HOST,
    "service": "shop",
    "rollout.bake": f"{BAKE:g}s",
    "health.path": "/health",
    "health.interval": "500ms",
    "health.rise": "1",
}
RIVAL_SETTLES = 2.5
"""Seconds that whoever runs Traefik waits for it to see the new container before the old one is stopped, as its guides do."""


@dataclass(slots=True)
class Swap:
    took: float
    """Seconds from the start of the new container until the old one could be stopped."""
    late: int
    """Answers of the old version after it was called drained."""


@dataclass(slots=True)
class Findings:
    report: Report
    slow: Report
    swaps: list[Swap] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    ended: int = 0
    """Times that old workers were ended because of an address."""

    @property
    def lost(self) -> int:
        return self.report.lost_of() + self.slow.lost_of()

    @property
    def cut(self) -> int:
        return sum(bool(held.error) for held in self.held)


class Lasting:
    """A websocket and an event stream in a thread of their own, until they are over."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._over = threading.Event()
        self._held: list[Held] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    async def _run(self) -> None:
        over = asyncio.Event()
        async with session() as client, asyncio.TaskGroup() as group:
            site = Site(client, self._address, HOST)
            tasks = [group.create_task(site.websocket(over, 0.2)), group.create_task(site.events(over, 0.2))]
            await asyncio.to_thread(self._over.wait)
            over.set()
        self._held = [task.result() for task in tasks]

    def end(self) -> list[Held]:
        self._over.set()
        self._thread.join(20)
        return self._held


class Traffic:
    """300 requests a second on new connections, a fifth of them POSTs, 40 kept ones, and requests that take 3 s."""

    def __init__(self, port: int) -> None:
        self._load = Load(HOST, port, timeout=15)
        self._slow = Load(HOST, port, path=f"/slow?ms={SLOW}", new_per_second=3, post_share=0, keepalive_clients=2, timeout=15)

    def __enter__(self) -> Self:
        self._load.start()
        self._slow.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._load.stop()
        self._slow.stop()

    @property
    def findings(self) -> Findings:
        return Findings(self._load.report, self._slow.report)

    def last(self, version: str) -> float:
        """When it answered last (monotonic)."""
        found = (each.answers.get(version) for each in (self._load.report, self._slow.report))
        return max((answers.last for answers in found if answers), default=0.0)


def run(*, short: bool) -> Figures:
    with Rig() as rig:
        own = _own(rig, SHORT_SWAPS if short else SWAPS)
    with Rig() as rig:
        rival = _rival(rig, SHORT_RIVAL_SWAPS if short else RIVAL_SWAPS)
    return _figures(own, rival)


def _own(rig: Rig, swaps: int) -> Findings:
    rig.network("shop")  # one of its own: workers that know an address which a stranger gets are ended with all they hold
    controller = rig.controller()
    old = _run(rig, 1, {**LABELS, "version": "v1"})
    controller.wait_for(HOST, backend="v1")
    made: list[Swap] = []
    held: list[Held] = []
    with Traffic(controller.port) as traffic:
        for number in range(2, swaps + 2):
            lasting = Lasting(f"{LOOPBACK}:{controller.port}")
            time.sleep(1)
            began = time.monotonic()
            new = _run(rig, number, {**LABELS, "version": f"v{number}"})
            _wait(controller, f"v{number}")
            held += lasting.end()
            _wait(controller, f"v{number}", "--drained")
            drained = time.monotonic()
            old.stop()
            made.append(Swap(drained - began, int(traffic.last(f"v{number - 1}") > drained)))
            old.remove()
            old = new
        time.sleep(1)
    found = traffic.findings
    found.swaps, found.held, found.ended = made, held, len(controller.records("old workers ended"))
    return found


def _run(rig: Rig, number: int, labels: dict[str, str]) -> Box:
    args = ["--name", f"v{number}", "--boot-delay", "300ms"]
    return rig.run_container(labels, name=f"shop-v{number}", args=args, network=f"{rig.run}-shop")


def _wait(controller: Controller, version: str, *more: str) -> None:
    program = [str(Path(sys.executable).with_name("proxyctl")), "--config", str(controller.config)]
    subprocess.run(
        [*program, "wait", "shop", "--version", version, "--timeout", "60s", *more], check=True, capture_output=True, timeout=90
    )


# ---------------------------------------------------------------- Traefik


def _weigh(rules: Path, weights: dict[str, int]) -> None:
    """A weighted service over those of the containers, replaced by one rename: what its documentation has for swaps."""
    lines = ["http:", "  routers:", "    shop:", f'      rule: "Host(`{HOST}`)"', "      service: shop", "  services:"]
    lines += ["    shop:", "      weighted:", "        services:"]
    lines += [f"          - {{name: {name}@docker, weight: {weight}}}" for name, weight in weights.items()]
    new = rules.parent / "shop.yaml"
    new.write_text("\n".join(lines) + "\n", encoding="utf-8")
    new.replace(rules / "shop.yaml")


def _rival_labels(rig: Rig, version: str) -> dict[str, str]:
    service = f"traefik.http.services.{version}.loadbalancer"
    return {
        "bench.traefik": rig.run,
        "traefik.enable": "true",
        f"traefik.http.routers.{version}.rule": f"Host(`{version}.{HOST}`)",
        f"traefik.http.routers.{version}.service": version,
        f"{service}.server.port": "80",
        f"{service}.healthcheck.path": "/health",
        f"{service}.healthcheck.interval": "500ms",
    }


def _rival(rig: Rig, swaps: int) -> Findings:
    rules = rig.directory / "rules"
    rules.mkdir()
    with traefik(rig, *for_containers_of(rig), f"--providers.file.directory={rules}", "--providers.file.watch=true") as rival:
        port = rival.port
        old = _run_rival(rig, 1)
        _weigh(rules, {"v1": 1})
        _answers(port, HOST, "v1")
        made: list[Swap] = []
        with Traffic(port) as traffic:
            for number in range(2, swaps + 2):
                began = time.monotonic()
                new = _run_rival(rig, number)
                _answers(port, f"v{number}.{HOST}", f"v{number}")
                _weigh(rules, {f"v{number - 1}": 0, f"v{number}": 1})
                _answers(port, HOST, f"v{number}")
                time.sleep(RIVAL_SETTLES)
                stopped = time.monotonic()
                old.stop()
                made.append(Swap(stopped - began, int(traffic.last(f"v{number - 1}") > stopped)))
                _weigh(rules, {f"v{number}": 1})
                old.remove()
                old = new
            time.sleep(1)
        found = traffic.findings
        found.swaps = made
        return found


def _answers(port: int, host: str, version: str) -> None:
    until(lambda: ask(port, host).backend == version, 20, f"{host} answered by {version}")


def _run_rival(rig: Rig, number: int) -> Box:
    version = f"v{number}"
    args = ["--name", version, "--boot-delay", "300ms"]
    return rig.run_container(other_labels=_rival_labels(rig, version), name=f"rival-{version}", args=args)


def _figures(own: Findings, rival: Findings) -> Figures:
    rows, values = [], dict[str, Value]()
    for name, found in (("proxyctl", own), ("Traefik, weighted services", rival)):
        longest = max(swap.took for swap in found.swaps)
        late = sum(swap.late for swap in found.swaps)
        sent = found.report.sent_of() + found.slow.sent_of()
        held = f"{found.cut} of {len(found.held)}" if found.held else ""
        rows.append((name, str(len(found.swaps)), f"{sent:,}", str(found.lost), str(found.slow.lost_of()), held, str(late)))
        key = name.partition(",")[0].lower()
        values |= {f"{key}_swaps": len(found.swaps), f"{key}_sent": sent, f"{key}_lost": found.lost, f"{key}_late": late}
        values |= {f"{key}_cut": found.cut, f"{key}_longest_s": round(longest, 2)}
    missed = []
    if own.lost:
        missed.append(f"{own.report}; slow: {own.slow}; old workers ended {own.ended} times")
    if own.cut or sum(swap.late for swap in own.swaps):
        missed.append(f"{own.cut} cut, {sum(swap.late for swap in own.swaps)} versions that answered after they were drained")
    mean = sum(swap.took for swap in own.swaps) / len(own.swaps)
    return Figures(
        name="rollouts",
        title=(
            f"rollouts: from the start of a new version until the old one could be stopped: {milliseconds(mean)} on average, "
            f"{milliseconds(BAKE)} of them its bake"
        ),
        columns=("", "swaps", "requests", "lost", "of 3 s ones", "websockets and streams cut", "answered after drained"),
        rows=rows,
        values=values,
        missed=missed,
    )
