"""From the start of a container to its first 200 through the proxy: proxyctl beside Traefik, one new host a container.

Three situations: a container alone; alone, and it listens a second or two after its start; five one after another (what `docker
compose up` does). The proxies take turns, and the one that is not measured is stopped (SIGSTOP) meanwhile: all of them read every
event of the engine, on the same few cores.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.figures import Figures, Value, median, milliseconds, share
from benchmarks.traefik import Traefik, for_containers_of, traefik
from tests.rig import LOOPBACK, Box, Controller, Rig, until

ROUNDS, SHORT_ROUNDS = 20, 1
BOOTS = (1.1, 1.9, 1.3, 1.7, 1.5)
"""Seconds from start to listening, spread over one of the seconds at whose ends Traefik checks."""
GROUP = 5
GIVE_UP = 15.0
QUIET, SHORT_QUIET = 5.0, 0.2
"""Seconds without a container of anybody's coming or going before each measurement. Traefik holds a change back for 2 s after the
one before (`providersThrottleDuration`; after a removal it was late for up to 4 s), and proxyctl paces its reloads in a storm."""
QUIET_WITHIN = 12
"""Times that: a busy engine is measured as it is then, and the table says how often."""
TARGET_MEDIAN = 0.060
TARGET_RATIO = 0.1

OWN, CHECKED, UNCHECKED = "proxyctl", "Traefik, health check 1s", "Traefik, no health check"


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds to the first 200: since the start call was sent, and since the engine's start event, or since it listens."""

    since_call: float
    since_event: float


@dataclass(slots=True)
class Findings:
    """By proxy."""

    alone: dict[str, list[Sample]]
    booting: dict[str, list[Sample]]
    grouped: dict[str, list[Sample]]
    disturbed: int = 0

    def columns(self) -> dict[str, dict[str, list[float]]]:
        """Situation -> proxy -> seconds since the start event."""
        of = {"alone": self.alone, "listens 1-2 s later": self.booting, f"one of {GROUP}": self.grouped}
        return {what: {way: [s.since_event for s in found] for way, found in ways.items()} for what, ways in of.items()}


class Bustle:
    """When a container of anybody's came or went (Unix time), and the start of each of ours."""

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

    def wait_quiet(self, seconds: float) -> None:
        end = time.monotonic() + QUIET_WITHIN * seconds
        while time.time() - self.latest < seconds and time.monotonic() < end:
            time.sleep(0.1)

    def close(self) -> None:
        self._stream.close()


def run(*, short: bool) -> Figures:
    rounds, quiet = (SHORT_ROUNDS, SHORT_QUIET) if short else (ROUNDS, QUIET)
    with Rig() as rig, traefik(rig, *for_containers_of(rig)) as rival:
        findings = _Bench(rig, rig.controller(), rival, quiet).measure(rounds)
    return _figures(findings)


class _Bench:
    def __init__(self, rig: Rig, controller: Controller, rival: Traefik, quiet: float) -> None:
        self._rig = rig
        self._quiet = quiet
        self._controller = controller
        self._rival = rival
        self._bustle = Bustle(rig)
        self._number = 0

    def measure(self, rounds: int) -> Findings:
        ways = (OWN, CHECKED, UNCHECKED)
        alone, booting, grouped = ({way: list[Sample]() for way in ways} for _ in range(3))
        findings = Findings(alone, booting, grouped)
        for number in range(rounds):
            for way in ways:
                alone[way] += self._measure(way, findings)
                if number % 2 == 0:
                    booting[way] += self._measure(way, findings, boot=BOOTS[number // 2 % len(BOOTS)])
                if number % GROUP == 0:
                    grouped[way] += self._measure(way, findings, count=GROUP)
        self._bustle.close()
        return findings

    def _measure(self, way: str, findings: Findings, *, count: int = 1, boot: float = 0.0) -> list[Sample]:
        own, traefik = (self._controller.port, self._controller.pid), (self._rival.port, self._rival.pid)
        (port, _), (_, rival) = (own, traefik) if way == OWN else (traefik, own)
        with _stopped(rival):
            self._bustle.wait_quiet(self._quiet)
            began = time.time()
            samples = self._start(way, port, count, boot)
            findings.disturbed += self._bustle.foreign > began - self._quiet
        return samples

    def _start(self, way: str, port: int, count: int, boot: float) -> list[Sample]:
        """Containers as `docker run` makes them, create and start at once, one after another; all of them polled."""
        boxes: list[Box] = []
        with ThreadPoolExecutor(2 * count) as pool:
            calls, answers = [], []
            for _ in range(count):
                self._number += 1
                host = f"app{self._number}.example"
                box = self._create(way, host, boot)
                calls.append(time.time())
                started = pool.submit(box.start)
                answers.append(pool.submit(_first_answer, port, host, 0.0015 * count))
                if len(calls) < count:
                    started.result()
                boxes.append(box)
            answered = [answer.result() - boot for answer in answers]
        starts = self._bustle.starts
        until(lambda: all(box.id in starts for box in boxes), 5, "the start events")
        samples = [Sample(at - call, at - starts[box.id]) for at, call, box in zip(answered, calls, boxes, strict=True)]
        for box in boxes:
            box.remove()
        return samples

    def _create(self, way: str, host: str, boot: float) -> Box:
        name = host.partition(".")[0]
        args = ["--boot-delay", f"{boot * 1000:.0f}ms"]
        if way == OWN:
            return self._rig.create_container({"host": host}, name=name, args=args)
        labels = {
            "bench.traefik": self._rig.run,
            "traefik.enable": "true",
            f"traefik.http.routers.{name}.rule": f"Host(`{host}`)",
            f"traefik.http.services.{name}.loadbalancer.server.port": "80",
        }
        if way == CHECKED:
            labels[f"traefik.http.services.{name}.loadbalancer.healthcheck.path"] = "/"
            labels[f"traefik.http.services.{name}.loadbalancer.healthcheck.interval"] = "1s"
        return self._rig.create_container(other_labels=labels, name=name, args=args)


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
    situations = findings.columns()
    rows, values = [], dict[str, Value](disturbed=findings.disturbed)
    for way in (OWN, CHECKED, UNCHECKED):
        cells = [f"{milliseconds(median(found[way]))} / {milliseconds(share(found[way], 0.9))}" for found in situations.values()]
        rows.append((way, *cells, milliseconds(median([s.since_call for s in findings.alone[way]]))))
        for what, found in situations.items():
            key = f"{way} {what} ms".lower().replace(",", "").replace(" ", "_")
            values[key] = round(median(found[way]) * 1000, 1)
    for way in (CHECKED, UNCHECKED):
        ratios = [_ratio(median(found[way]), median(found[OWN])) for found in situations.values()]
        rows.append((f"{way} / {OWN}", *ratios, ""))
    own = median(situations["alone"][OWN])
    missed = [f"alone {milliseconds(own)}, wanted {milliseconds(TARGET_MEDIAN)}"] if own > TARGET_MEDIAN else []
    for what, found in situations.items():
        ratio = median(found[OWN]) / max(median(found[CHECKED]), 0.001)
        if ratio > TARGET_RATIO:
            missed.append(f"{what}: {ratio:.2f} of Traefik's with a health check, wanted {TARGET_RATIO:g}")
    counts = ", ".join(f"{len(found[OWN])} {what}" for what, found in situations.items())
    return Figures(
        name="speed",
        title=(
            f"speed: a container's start event (or its first listening) -> first 200, median / p90\n"
            f"{counts}; {findings.disturbed} measurements disturbed by other containers"
        ),
        columns=("", *situations, "alone, since the start call"),
        rows=rows,
        values=values,
        missed=missed,
    )


def _ratio(rival: float, own: float) -> str:
    """Nothing for a rival that routes what does not listen yet (and answers 502 until it does): it is not late at all."""
    return f"{rival / own:.1f} x" if rival > 0.002 else ""
