"""Thousands of routed containers: how soon all of them are live, and what one more costs.

The containers are simulated; nginx, its reloads, the health checks and the requests are real (see tests/simulated.py). Every
container has one host, a compose project of its own, and the default check, a TCP connection each 5 s. All of it shares the same
cores: the controller, nginx, the simulated engine, and the backend that answers checks and requests.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection
from itertools import islice
from pathlib import Path

from benchmarks.cost import cpu_seconds
from benchmarks.figures import Figures, Value, median
from benchmarks.idle import resident
from benchmarks.traefik import traefik
from tests.rig import LOOPBACK, Controller, Rig, ask, until
from tests.simulated import Simulation

SIZES, SHORT_SIZES = (1_000, 10_000), (100,)
ROUNDS, SHORT_ROUNDS = 5, 1
PEER_ROUNDS = 3
TRIES, SHORT_TRIES = 15, 1
"""Rounds at the most: one in which the controller happens to read everything says nothing about its CPU."""
IDLE, SHORT_IDLE = 60, 2
"""Seconds in which nothing happens; two of the controller's readings of everything are in a minute."""
SETTLE = CHECKED_EVERY = 5.0
AFTER_LIST = 1.0
QUIET = 2.0
"""Seconds after a change is live until the controller is done with it."""
WITHIN = 180.0
SAMPLE = 20
TARGET_START, TARGET_MORE, TARGET_CALLS, TARGET_CPU, TARGET_MEMORY = 8.0, 3.5, 3, 0.2, 120.0
NGINX_RELOAD = 2.8
"""Seconds, at the most, that nginx's own reload of 10,000 took when the targets were set. What it takes here stands beside it,
and says how this machine compares."""
TRACKED = Path("/proc/sys/net/netfilter/nf_conntrack_count")
"""Connections that the kernel keeps in mind, which is where the checks' own go on living when they are over. A full table
(nf_conntrack_max) drops everybody's new ones."""
PEER_SETTLES = 2.5
"""Seconds after a change; Traefik holds the next one back for two."""


@dataclass(slots=True)
class Peer:
    """Traefik without health checks, on the same containers. Seconds, and MiB."""

    start: float
    more: list[float]
    more_cpu: float
    calls: int
    memory: float


@dataclass(frozen=True, slots=True)
class More:
    """One more container."""

    host: str
    took: float
    """Seconds from its start event to the first 200."""
    cpu: float
    """Seconds of the controller's."""
    calls: Counter[str]


@dataclass(slots=True)
class Findings:
    """Seconds, unless said otherwise; of one number of containers."""

    count: int
    peer: Peer
    start: float = 0.0
    idle_percent: float = 0.0
    tracked: int = 0
    """Connections that the kernel tracks, after that; 0 where it does not say."""
    more: list[float] = field(default_factory=list)
    more_cpu: list[float] = field(default_factory=list)
    """Less often checked: see `_quieten`."""
    calls: Counter[str] = field(default_factory=Counter)
    """For one more, the round that had most."""
    less: list[float] = field(default_factory=list)
    test: float = 0.0
    reload: float = 0.0
    memory: float = 0.0
    peak: float = 0.0
    """MiB."""
    restart: float = 0.0
    restart_reloads: int = 0
    silent: int = 0
    """Hosts that did not answer when all were said to be live; `start` waits for them."""


def run(*, short: bool) -> Figures:
    rounds, tries, idle = (SHORT_ROUNDS, SHORT_TRIES, SHORT_IDLE) if short else (ROUNDS, TRIES, IDLE)
    return _figures([_measure(size, rounds, tries, idle) for size in (SHORT_SIZES if short else SIZES)])


def _measure(count: int, rounds: int, tries: int, idle: int) -> Findings:
    with Rig() as rig, Simulation(rig, count) as simulation:
        found = Findings(count, _traefik(rig, simulation, min(rounds, PEER_ROUNDS)))
        controller = rig.controller(simulation.sections, start=False)
        began = time.monotonic()
        controller.start(wait=False)
        _wait_live(controller, simulation.hosts)
        found.start = time.monotonic() - began
        silent = _silent(controller.port, simulation.hosts)
        found.silent = len(silent)
        for host in silent:
            _wait_answer(controller, host)
            found.start = time.monotonic() - began
        time.sleep(SETTLE)
        found.idle_percent = _idle(controller.pid, idle)
        found.tracked = int(TRACKED.read_text()) if TRACKED.exists() else 0
        found.test = median([_tested(rig, controller) for _ in range(rounds)])
        found.reload = median([_reloaded(rig, controller) for _ in range(rounds)])
        ran = [_one_more(simulation, controller) for _ in range(rounds)]
        found.more = [one.took for one in ran]
        for host in [one.host for one in ran]:
            since = simulation.remove(host)
            _wait_answer(controller, host, yes=False)
            found.less.append(time.time() - since)
            time.sleep(QUIET)
        found.memory, found.peak = resident(controller.pid), resident(controller.pid, peak=True)
        _restart(found, controller)
        _quieten(controller)
        tried = (_one_more(simulation, controller) for _ in range(tries))
        ran = list(islice((one for one in tried if not one.calls["GET /containers/json"]), rounds))
        found.more_cpu = [one.cpu for one in ran]
        found.calls = max((one.calls for one in ran), key=Counter.total, default=found.calls)
        return found


def _traefik(rig: Rig, simulation: Simulation, rounds: int) -> Peer:
    """It routes by the label that the controller reads, too."""
    rule = f'Host(`{{{{ index .Labels "{rig.prefix}.host" }}}}`)'
    settings = (f"--providers.docker.endpoint={simulation.endpoint}", f"--providers.docker.defaultrule={rule}")
    began = time.monotonic()
    with traefik(rig, *settings) as peer:
        until(partial(_answers, peer.port, simulation.hosts[-1]), WITHIN, "a Traefik that routes")
        until(lambda: not _silent(peer.port, simulation.hosts[:: max(1, len(simulation.hosts) // SAMPLE)]), WITHIN, "all routed")
        start = time.monotonic() - began
        more, spent, calls = [], [], 0
        for _ in range(rounds):
            time.sleep(PEER_SETTLES)
            simulation.calls()
            before = cpu_seconds(peer.pid)
            (host,), since = simulation.run()
            until(partial(_answers, peer.port, host), WITHIN, f"a 200 from {host}")
            more.append(time.time() - since)
            time.sleep(QUIET)
            spent.append(cpu_seconds(peer.pid) - before)
            calls = max(calls, simulation.calls().total())
            simulation.remove(host)
        return Peer(start, more, median(spent), calls, resident(peer.pid))


def _answers(port: int, host: str) -> bool:
    return ask(port, host).status == 200


def _wait_live(controller: Controller, hosts: list[str]) -> None:
    """A sample of the hosts answers, and the controller says that all is well."""
    for host in [*hosts[:: max(1, len(hosts) // SAMPLE)], hosts[-1]]:
        _wait_answer(controller, host)
    _wait_ready(controller)


def _wait_ready(controller: Controller) -> None:
    until(lambda: controller.ask_api("/readyz").status == 200, WITHIN, "a controller that is ready")


def _restart(found: Findings, controller: Controller) -> None:
    """A crash and a new start, with nginx going on."""
    controller.kill()
    reloads, began = len(controller.records("live")), time.monotonic()
    controller.start(wait=False)
    _wait_ready(controller)
    found.restart = time.monotonic() - began
    time.sleep(QUIET)
    found.restart_reloads = len(controller.records("live")) - reloads


def _wait_answer(controller: Controller, host: str, *, yes: bool = True) -> None:
    def said() -> bool:
        assert controller.running, controller.tail()
        return (controller.ask(host).status == 200) == yes

    until(said, WITHIN, f"{'a' if yes else 'no'} 200 from {host}")


def _silent(port: int, hosts: list[str]) -> list[str]:
    """Those of them that do not answer 200."""
    silent = []
    with closing(HTTPConnection(LOOPBACK, port, timeout=5)) as connection:
        for host in hosts:
            connection.request("GET", "/", headers={"Host": host})
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                silent.append(host)
    return silent


def _idle(pid: int, seconds: int) -> float:
    """Percent of one core while nothing happens."""
    began, before = time.monotonic(), cpu_seconds(pid)
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / (time.monotonic() - began) * 100


def _quieten(controller: Controller) -> None:
    """One check an hour: 2,000 a second are CPU, too, and vary by more than one container costs."""
    with controller.config.open("a", encoding="utf-8") as file:
        file.write('[health]\ninterval = "1h"\n')
    time.sleep(2 * CHECKED_EVERY)


def _one_more(simulation: Simulation, controller: Controller) -> More:
    """Begins when the controller has just listed everything."""
    until(lambda: simulation.calls()["GET /containers/json"], WITHIN, "a list of all", every=0.1)
    time.sleep(AFTER_LIST)
    simulation.calls()
    before = cpu_seconds(controller.pid)
    (host,), since = simulation.run()
    _wait_answer(controller, host)
    took = time.time() - since
    time.sleep(QUIET)
    return More(host, took, cpu_seconds(controller.pid) - before, simulation.calls())


def _tested(rig: Rig, controller: Controller) -> float:
    """`nginx -t` of what is live."""
    began = time.monotonic()
    made = rig.client.exec_create(controller.nginx, ["nginx", "-t", "-q", "-c", "/etc/proxyctl/conf/nginx.conf"])
    rig.client.exec_start(made["Id"])
    assert rig.client.exec_inspect(made["Id"])["ExitCode"] == 0
    return time.monotonic() - began


def _reloaded(rig: Rig, controller: Controller) -> float:
    """A reload of what is live, by hand: until no worker from before takes connections."""

    def serving() -> set[str]:
        rows = rig.client.top(controller.nginx, "-eo pid,args")["Processes"]
        return {pid for pid, title in rows if title.startswith("nginx: worker process") and "shutting down" not in title}

    before, began = serving(), time.monotonic()
    rig.client.kill(controller.nginx, "HUP")
    until(lambda: (now := serving()) and not now & before, WITHIN, "new workers")
    took = time.monotonic() - began
    time.sleep(QUIET)
    return took


def _figures(all_found: list[Findings]) -> Figures:
    """The targets are for the greatest number."""
    last, missed = all_found[-1], list[str]()
    targets = (
        ("start to all live", last.start, TARGET_START, "s"),
        ("one more", max(last.more), TARGET_MORE, "s"),
        ("engine calls", last.calls.total() if last.more_cpu else float("inf"), TARGET_CALLS, ""),
        ("CPU for one more", median(last.more_cpu or [float("inf")]), TARGET_CPU, "s"),
        ("memory", last.memory, TARGET_MEMORY, "MiB"),
    )
    missed += [f"{what} {value:.3g} {unit}".strip() + f", wanted {most:g}" for what, value, most, unit in targets if value > most]
    missed += [f"{found.restart_reloads} reloads at a restart" for found in all_found if found.restart_reloads]
    missed += [f"{found.silent} of {found.count} hosts did not answer" for found in all_found if found.silent]
    rows: list[tuple[str, ...]] = []

    def row(what: str, own: Callable[[Findings], str], wanted: str = "", peer: Callable[[Peer], str] = lambda _: "") -> None:
        cells = [(own(found), peer(found.peer)) for found in all_found]
        rows.append((what, *(cell for pair in cells for cell in pair), wanted))

    row(
        "process started -> every host live",
        lambda f: f"{f.start:.1f} s",
        f"{TARGET_START:g} s",
        lambda p: f"{p.start:.1f} s",
    )
    row(
        "one more: start event -> first 200, median / worst",
        lambda f: _both(f.more),
        f"{TARGET_MORE:g} s",
        lambda p: _both(p.more),
    )
    row("  of that nginx's own: a reload by hand", lambda f: f"{f.reload:.2f} s", f"{NGINX_RELOAD:g} s when this was set")
    row("  nginx -t by hand", lambda f: f"{f.test:.2f} s")
    row("  engine calls for it", lambda f: str(f.calls.total()), str(TARGET_CALLS), lambda p: f"{p.calls:,}")
    row(
        "  controller's CPU for it, checks left out, median / worst",
        lambda f: _both(f.more_cpu),
        f"{TARGET_CPU:g} s",
        lambda p: f"{p.more_cpu:.2f} s",
    )
    row("one less: die event -> no more 200, median / worst", lambda f: _both(f.less))
    row("crashed and started: ready again", lambda f: f"{f.restart:.1f} s, {f.restart_reloads} reloads")
    row("idle CPU, of one core", lambda f: f"{f.idle_percent:.1f} %")
    row("  connections that the kernel tracks then", lambda f: f"{f.tracked:,}")
    row("memory", lambda f: f"{f.memory:.0f} MiB", f"{TARGET_MEMORY:g} MiB", lambda p: f"{p.memory:.0f} MiB")
    row("memory, peak", lambda f: f"{f.peak:.0f} MiB")
    calls = ", ".join(f"{number} {what}" for what, number in last.calls.most_common())
    return Figures(
        name="scale",
        title=(
            "scale: simulated containers, a real nginx, real checks and requests; nothing else is simulated\n"
            f"engine calls for one more: {calls}; {os.cpu_count()} cores\n"
            "Traefik 3.7.15 without health checks, on the same containers before"
        ),
        columns=("", *(name for found in all_found for name in (f"{found.count:,}", "Traefik")), "wanted"),
        rows=rows,
        values=_values(all_found),
        missed=missed,
    )


def _both(values: list[float]) -> str:
    return f"{median(values):.2f} / {max(values):.2f} s" if values else "not measured"


def _values(all_found: list[Findings]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for found in all_found:
        of = f"{found.count}_"
        values |= {
            f"{of}start_s": round(found.start, 2),
            f"{of}traefik_start_s": round(found.peer.start, 2),
            f"{of}traefik_more_s": round(median(found.peer.more), 2),
            f"{of}more_s": round(median(found.more), 3),
            f"{of}more_cpu_s": round(median(found.more_cpu or [-1.0]), 3),
            f"{of}more_calls": found.calls.total(),
            f"{of}less_s": round(median(found.less), 3),
            f"{of}nginx_test_s": round(found.test, 3),
            f"{of}nginx_reload_s": round(found.reload, 3),
            f"{of}idle_percent": round(found.idle_percent, 2),
            f"{of}tracked": found.tracked,
            f"{of}memory_mib": round(found.memory, 1),
            f"{of}peak_mib": round(found.peak, 1),
            f"{of}restart_s": round(found.restart, 2),
            f"{of}restart_reloads": found.restart_reloads,
            f"{of}silent": found.silent,
        }
    return values
