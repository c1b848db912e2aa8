"""From the start of a container to its first 200 through the proxy: proxyctl beside Traefik, one new host a container.

Two situations: a container that starts alone, and five one after another (what `docker compose up` does). The proxies take
turns, and the one that is not measured is stopped (SIGSTOP) meanwhile: all read every event of the engine, on the same few cores.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figures, Value, median, milliseconds, share
from tests.rig import LOOPBACK, Box, Controller, Rig, ask, endpoint, free_port, until

ROUNDS, SHORT_ROUNDS = 20, 2
GROUP = 5
GIVE_UP = 15.0
QUIET = 5.0
"""Seconds without a container of anybody's coming or going before each measurement. Traefik holds a change back for 2 s after the
last one (`providersThrottleDuration`), and takes two of these to forget a removal; proxyctl paces its reloads in a storm."""
QUIET_WITHIN = 60.0
"""A busy engine is measured as it is after so long, and the table says how often."""
TARGET_MEDIAN = 0.060
TARGET_RATIO = 0.1

OWN, CHECKED, UNCHECKED = "proxyctl", "Traefik, health check 1s", "Traefik, no health check"


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds to the first 200: since the start call was sent, and since the engine's start event."""

    since_call: float
    since_event: float


@dataclass(slots=True)
class Findings:
    """By proxy."""

    alone: dict[str, list[Sample]]
    grouped: dict[str, list[Sample]]
    disturbed: int = 0


class Traefik:
    """The real one, as a process on the host, at the same engine; it sees the rig's containers only."""

    def __init__(self, rig: Rig) -> None:
        self.port = free_port()
        self._log = (rig.directory / "traefik.log").open("wb")
        self._process = subprocess.Popen(
            [
                Path(sys.executable).with_name("traefik"),
                f"--entrypoints.web.address={LOOPBACK}:{self.port}",
                f"--providers.docker.endpoint={endpoint() or 'unix:///var/run/docker.sock'}",
                "--providers.docker.exposedbydefault=false",
                f"--providers.docker.constraints=Label(`bench.traefik`,`{rig.run}`)",
            ],
            stdout=self._log,
            stderr=self._log,
            cwd=rig.directory,
        )
        until(lambda: ask(self.port, "nobody.invalid").status == 404, 15, "a Traefik that answers")

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._log.close()


class Traffic:
    """Notes when a container of anybody's comes or goes (Unix time), and the start of each."""

    def __init__(self, rig: Rig) -> None:
        self._run = rig.run
        self._stream = rig.client.events(filters={"event": ["create", "start", "die", "destroy"]}, decode=True)
        self.latest = self.foreign = time.time()
        self.starts: dict[str, float] = {}
        threading.Thread(target=self._follow, name="engine events", daemon=True).start()

    def _follow(self) -> None:
        for event in self._stream:
            self.latest = at = float(event["timeNano"]) / 1e9
            if f"{self._run}-" not in event["Actor"]["Attributes"].get("name", ""):
                self.foreign = at
            elif event["Action"] == "start":
                self.starts[event["Actor"]["ID"]] = at

    def wait_quiet(self) -> None:
        end = time.monotonic() + QUIET_WITHIN
        while time.time() - self.latest < QUIET and time.monotonic() < end:
            time.sleep(0.1)

    def close(self) -> None:
        self._stream.close()


def run(*, short: bool) -> Figures:
    rounds = SHORT_ROUNDS if short else ROUNDS
    with Rig() as rig:
        traefik = Traefik(rig)
        try:
            findings = _Bench(rig, rig.controller(), traefik).measure(rounds)
        finally:
            traefik.stop()
    return _figures(findings)


class _Bench:
    def __init__(self, rig: Rig, controller: Controller, traefik: Traefik) -> None:
        self._rig = rig
        self._controller = controller
        self._traefik = traefik
        self._traffic = Traffic(rig)
        self._number = 0

    def measure(self, rounds: int) -> Findings:
        ways = (OWN, CHECKED, UNCHECKED)
        findings = Findings({way: [] for way in ways}, {way: [] for way in ways})
        for number in range(rounds):
            for way in ways:
                findings.alone[way] += self._measure(way, 1, findings)
                if number % GROUP == 0:
                    findings.grouped[way] += self._measure(way, GROUP, findings)
        self._traffic.close()
        return findings

    def _measure(self, way: str, count: int, findings: Findings) -> list[Sample]:
        own, traefik = (self._controller.port, self._controller.pid), (self._traefik.port, self._traefik.pid)
        (port, _), (_, rival) = (own, traefik) if way == OWN else (traefik, own)
        with _stopped(rival):
            self._traffic.wait_quiet()
            began = time.time()
            samples = self._start(way, port, count)
            findings.disturbed += self._traffic.foreign > began - QUIET
        return samples

    def _start(self, way: str, port: int, count: int) -> list[Sample]:
        """Containers as `docker run` makes them, create and start at once, one after another; all of them polled."""
        boxes: list[Box] = []
        with ThreadPoolExecutor(2 * count) as pool:
            calls, answers = [], []
            for _ in range(count):
                self._number += 1
                host = f"app{self._number}.example"
                box = self._create(way, host)
                calls.append(time.time())
                started = pool.submit(box.start)
                answers.append(pool.submit(_first_answer, port, host, 0.0015 * count))
                if len(calls) < count:
                    started.result()
                boxes.append(box)
            answered = [answer.result() for answer in answers]
        until(lambda: all(box.id in self._traffic.starts for box in boxes), 5, "the start events")
        samples = [
            Sample(at - call, at - self._traffic.starts[box.id]) for at, call, box in zip(answered, calls, boxes, strict=True)
        ]
        for box in boxes:
            box.remove()
        return samples

    def _create(self, way: str, host: str) -> Box:
        name = host.partition(".")[0]
        if way == OWN:
            return self._rig.create_container({"host": host}, name=name)
        labels = {
            "bench.traefik": self._rig.run,
            "traefik.enable": "true",
            f"traefik.http.routers.{name}.rule": f"Host(`{host}`)",
            f"traefik.http.services.{name}.loadbalancer.server.port": "80",
        }
        if way == CHECKED:
            labels[f"traefik.http.services.{name}.loadbalancer.healthcheck.path"] = "/"
            labels[f"traefik.http.services.{name}.loadbalancer.healthcheck.interval"] = "1s"
        return self._rig.create_container(other_labels=labels, name=name)


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _first_answer(port: int, host: str, every: float) -> float:
    """When a new connection got a 200 (Unix time)."""
    request = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    end = time.time() + GIVE_UP
    while time.time() < end:
        with socket.create_connection((LOOPBACK, port), timeout=GIVE_UP) as connection:
            connection.sendall(request)
            if connection.recv(64).startswith(b"HTTP/1.1 200 "):
                return time.time()
        time.sleep(every)
    raise AssertionError(f"no 200 from {host} within {GIVE_UP:g} s")


def _figures(findings: Findings) -> Figures:
    alone = {way: [s.since_event for s in found] for way, found in findings.alone.items()}
    grouped = {way: [s.since_event for s in found] for way, found in findings.grouped.items()}
    rows, values = [], dict[str, Value](disturbed=findings.disturbed)
    for way, found in alone.items():
        calls = median([s.since_call for s in findings.alone[way]])
        rows.append((way, *_both(found), milliseconds(calls), *_both(grouped[way])))
        key = way.lower().replace(",", "").replace(" ", "_")
        values[f"{key}_alone_ms"] = round(median(found) * 1000, 1)
        values[f"{key}_of_five_ms"] = round(median(grouped[way]) * 1000, 1)
    for way in (CHECKED, UNCHECKED):
        ratios = [median(times[way]) / median(times[OWN]) for times in (alone, grouped)]
        rows.append((f"{way} / {OWN}", f"{ratios[0]:.1f} x", "", "", f"{ratios[1]:.1f} x", ""))
    own = median(alone[OWN])
    missed = [f"alone {milliseconds(own)}, wanted {milliseconds(TARGET_MEDIAN)}"] if own > TARGET_MEDIAN else []
    for situation, times in (("alone", alone), ("of five", grouped)):
        ratio = median(times[OWN]) / median(times[CHECKED])
        if ratio > TARGET_RATIO:
            missed.append(f"{situation} {ratio:.2f} of Traefik's with a health check, wanted {TARGET_RATIO:g}")
    return Figures(
        name="speed",
        title=(
            f"speed: a container's start event -> first 200; {len(alone[OWN])} alone, {len(grouped[OWN])} in groups of {GROUP}; "
            f"{findings.disturbed} measurements disturbed by other containers"
        ),
        columns=("", "alone, median", "p90", "since the start call", f"one of {GROUP}, median", "p90"),
        rows=rows,
        values=values,
        missed=missed,
    )


def _both(values: Sequence[float]) -> tuple[str, str]:
    return milliseconds(median(values)), milliseconds(share(values, 0.9))
