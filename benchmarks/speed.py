"""From the start of a container to its first 200 through the proxy: proxyctl beside Traefik, one new host a container.

The three take turns, and the one that is not measured is stopped (SIGSTOP) meanwhile: both read every event of the engine, on
the same few cores.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from benchmarks.figures import Figures, Value, median, milliseconds, share
from tests.rig import LOOPBACK, Box, Controller, Rig, ask, endpoint, free_port, until

ROUNDS, SHORT_ROUNDS = 20, 2
POLL_EVERY = 0.0015
GIVE_UP = 15.0
QUIET = 5.0
"""Seconds without a change before each: Traefik holds changes back for up to 4 s after another (`providersThrottleDuration`)."""
TARGET_MEDIAN = 0.060
TARGET_RATIO = 0.1


class Proxy(Protocol):
    port: int

    @property
    def pid(self) -> int: ...


class Traefik:
    """The real one, as a process on the host, at the same engine; it sees the rig's containers only."""

    def __init__(self, rig: Rig) -> None:
        self.port = free_port()
        self._log = (rig.directory / "traefik.log").open("wb")
        self._process = subprocess.Popen(
            [
                f"{os.path.dirname(sys.executable)}/traefik",
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


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds to the first 200: since the start call was sent, and since the engine's start event."""

    since_call: float
    since_event: float


def run(*, short: bool) -> Figures:
    """Returns figures for proxyctl, and for Traefik with and without a health check."""
    rounds = SHORT_ROUNDS if short else ROUNDS
    with Rig() as rig:
        controller, traefik = rig.controller(), Traefik(rig)
        try:
            samples = _rounds(rig, controller, traefik, rounds)
        finally:
            traefik.stop()
    return _figures(samples)


def _rounds(rig: Rig, controller: Controller, traefik: Traefik, rounds: int) -> Mapping[str, Sequence[Sample]]:
    samples: dict[str, list[Sample]] = {"proxyctl": [], "Traefik, health check 1s": [], "Traefik, no health check": []}
    for number in range(rounds):
        for way in samples:
            host = f"{way[:1].lower()}{number}.example"
            mine: Mapping[str, str] = {"host": host} if way == "proxyctl" else {}
            other = {} if way == "proxyctl" else _traefik_labels(rig.run, host, check="no" not in way)
            proxy, rival = (controller, traefik) if way == "proxyctl" else (traefik, controller)
            with _stopped(rival):
                samples[way].append(_sample(rig, proxy, host, mine, other))
    return samples


def _traefik_labels(run: str, host: str, *, check: bool) -> dict[str, str]:
    name = host.partition(".")[0]
    labels = {
        "bench.traefik": run,
        "traefik.enable": "true",
        f"traefik.http.routers.{name}.rule": f"Host(`{host}`)",
        f"traefik.http.services.{name}.loadbalancer.server.port": "80",
    }
    if check:
        labels[f"traefik.http.services.{name}.loadbalancer.healthcheck.path"] = "/"
        labels[f"traefik.http.services.{name}.loadbalancer.healthcheck.interval"] = "1s"
    return labels


@contextmanager
def _stopped(proxy: Proxy) -> Iterator[None]:
    os.kill(proxy.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(proxy.pid, signal.SIGCONT)


def _sample(rig: Rig, proxy: Proxy, host: str, mine: Mapping[str, str], other: Mapping[str, str]) -> Sample:
    """`docker run` as its client does it: create, and start at once."""
    time.sleep(QUIET)
    box = rig.create_container(mine, other_labels=other, name=host.partition(".")[0])
    called = time.time()
    starter = threading.Thread(target=box.start)
    starter.start()
    answered = _first_answer(proxy.port, host)
    starter.join()
    started = _started(rig, box, called)
    box.remove()
    return Sample(answered - called, answered - started)


def _first_answer(port: int, host: str) -> float:
    """When a new connection got a 200 (Unix time)."""
    request = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    end = time.time() + GIVE_UP
    while time.time() < end:
        with socket.create_connection((LOOPBACK, port), timeout=GIVE_UP) as connection:
            connection.sendall(request)
            if connection.recv(64).startswith(b"HTTP/1.1 200 "):
                return time.time()
        time.sleep(POLL_EVERY)
    raise AssertionError(f"no 200 from {host} within {GIVE_UP:g} s")


def _started(rig: Rig, box: Box, since: float) -> float:
    filters = {"container": box.id, "event": "start"}
    for event in rig.client.events(since=int(since), until=int(time.time()) + 1, filters=filters, decode=True):
        return float(event["timeNano"]) / 1e9
    raise AssertionError(f"the engine has forgotten the start of {box.name}")


def _figures(samples: Mapping[str, Sequence[Sample]]) -> Figures:
    rows, values = [], dict[str, Value]()
    medians: dict[str, float] = {}
    for way, found in samples.items():
        calls, events = [s.since_call for s in found], [s.since_event for s in found]
        medians[way] = median(events)
        rows.append((way, *(milliseconds(f(v)) for v in (events, calls) for f in (median, lambda v: share(v, 0.9)))))
        key = way.lower().replace(",", "").replace(" ", "_")
        values |= {f"{key}_median_ms": round(median(events) * 1000, 1), f"{key}_p90_ms": round(share(events, 0.9) * 1000, 1)}
    own, checked, unchecked = medians.values()
    rows.append(("Traefik / proxyctl, health check", f"{checked / own:.1f} x", "", "", ""))
    rows.append(("Traefik / proxyctl, none", f"{unchecked / own:.1f} x", "", "", ""))
    missed = []
    if own > TARGET_MEDIAN:
        missed.append(f"median {milliseconds(own)}, wanted {milliseconds(TARGET_MEDIAN)}")
    if own > checked * TARGET_RATIO:
        missed.append(f"{own / checked:.2f} of Traefik's, wanted {TARGET_RATIO:g}")
    return Figures(
        name="speed",
        title=f"speed: container start -> first 200, {len(samples['proxyctl'])} each",
        columns=("", "since start event, median", "p90", "since start call, median", "p90"),
        rows=rows,
        values=values,
        missed=missed,
    )
