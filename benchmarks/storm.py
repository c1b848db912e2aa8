"""Hundreds of containers started as fast as the engine can, and removed again, while a site that was there before is asked.

Each has a host of its own. They are created beforehand, as compose does, so what is measured is the engine's starting; on few
cores that takes far longer than what proxyctl does, and it takes the cores, too.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.cost import cpu_seconds
from benchmarks.figures import Figures, Value
from benchmarks.idle import resident
from benchmarks.memory import NginxMemory, Reading
from tests.load import Load, Report
from tests.rig import Box, Controller, Rig, until

CONTAINERS, SHORT_CONTAINERS = 500, 15
AT_ONCE = 4
"""Requests to the engine: more are no faster on two cores, and Docker 20.10 can lock itself for ever when many containers end at
the same time."""
NEIGHBOURS = Path("/proc/sys/net/ipv4/neigh/default/gc_thresh3")
NEIGHBOURS_EACH, NEIGHBOURS_OF_OTHERS = 4, 128
"""What the kernel must remember for each container, or it drops packets: it, for the host and for nginx, and these two for it."""
PER_SECOND = 200
STEADY = 0.3
"""Seconds without a wrong answer: workers from before a reload accept for another 100 ms."""
STAYS = "stays.example"
SETTLE = 5.0
WITHIN = 120.0
FORGOTTEN_WITHIN = 330.0
"""Seconds until the last removed host is nobody's again: proxyctl answers 503 for it for five minutes."""
BURST, PACE = 20, 2.0
"""Reloads that go out at once, and in a second after that: docs/architecture.md."""
TARGET_LAST, TARGET_MEMORY = 5.0, 120.0
"""Seconds from the last start to an answer of every host; MiB of the controller at most, as with 10,000 containers."""


@dataclass(slots=True)
class Phase:
    """What happened until the engine had done it all, and then until every host answered as it must. Seconds and MiB."""

    engine: float = 0.0
    rest: float = 0.0
    reloads: int = 0
    cpu: float = 0.0


@dataclass(slots=True)
class Findings:
    containers: int
    creating: float = 0.0
    starting: Phase = field(default_factory=Phase)
    removing: Phase = field(default_factory=Phase)
    silent: int = 0
    """Hosts that did not answer when all of them had."""
    resident: float = 0.0
    peak: float = 0.0
    afterwards: float = 0.0
    """MiB of the controller: before, at most, and when all is as before."""


def run(*, short: bool) -> Figures:
    count = min(SHORT_CONTAINERS if short else CONTAINERS, _room())
    with Rig() as rig, ThreadPoolExecutor(AT_ONCE) as pool:
        controller, network, found = rig.controller(), rig.network("storm"), Findings(count)
        rig.run_container({"host": STAYS}, name="stays", network=network)
        controller.wait_for(STAYS)
        found.resident = resident(controller.pid)
        with (
            NginxMemory(rig, controller) as nginx,
            Load(STAYS, controller.port, new_per_second=PER_SECOND, keepalive_clients=0) as load,
        ):
            hosts = [f"app{number}.example" for number in range(count)]
            began = time.monotonic()
            boxes = list(
                pool.map(lambda host: rig.create_container({"host": host}, name=host.partition(".")[0], network=network), hosts)
            )
            found.creating = time.monotonic() - began
            time.sleep(SETTLE)
            found.starting = _phase(controller, hosts, lambda: list(pool.map(Box.start, boxes)), 200)
            found.silent = sum(controller.ask(host).status != 200 for host in hosts)
            found.removing = _phase(controller, hosts, lambda: list(pool.map(Box.remove, boxes)), 503)
        if not short:
            until(lambda: all(controller.ask(host).status == 404 for host in hosts), FORGOTTEN_WITHIN, "404 everywhere", every=1)
        found.peak, found.afterwards = resident(controller.pid, peak=True), resident(controller.pid)
        return _figures(found, load.report, nginx.before, nginx.most, nginx.read())


def _room() -> int:
    """How many containers the kernel's table of neighbours has room for: one for all network namespaces."""
    if not NEIGHBOURS.exists():  # shown in the first network namespace only
        return sys.maxsize
    return (int(NEIGHBOURS.read_text(encoding="ascii")) - NEIGHBOURS_OF_OTHERS) // NEIGHBOURS_EACH


def _phase(controller: Controller, hosts: Sequence[str], act: Callable[[], object], status: int) -> Phase:
    """`status`: what every host answers in the end. The rest is over with the last wrong answer."""
    reloads, spent, began = len(controller.records("live")), cpu_seconds(controller.pid), time.monotonic()
    act()
    acted = wrong = time.monotonic()
    asked, right = deque(hosts), 0

    def steady() -> bool:
        nonlocal wrong, right
        while right < len(hosts) or time.monotonic() - wrong < STEADY:
            if controller.ask(asked[0]).status != status:
                wrong, right = time.monotonic(), 0
                return False
            asked.rotate(-1)
            right += 1
        return True

    until(steady, WITHIN, f"{status} from {len(hosts)} hosts")
    return Phase(
        engine=acted - began,
        rest=wrong - acted,
        reloads=len(controller.records("live")) - reloads,
        cpu=cpu_seconds(controller.pid) - spent,
    )


def _figures(found: Findings, load: Report, before: Reading, most: Reading, after: Reading) -> Figures:
    start, end = found.starting, found.removing
    allowed = BURST + PACE * (start.engine + start.rest)
    missed = []
    if found.containers == _room():
        missed.append(f"{CONTAINERS} containers: {NEIGHBOURS} has room for no more than {found.containers}")
    if start.rest > TARGET_LAST:
        missed.append(f"all live {start.rest:.1f} s after the last start, wanted {TARGET_LAST:g}")
    if start.reloads > allowed:
        missed.append(f"{start.reloads} reloads, wanted at most {allowed:.0f}")
    if found.silent:
        missed.append(f"{found.silent} hosts did not answer")
    if found.peak > TARGET_MEMORY:
        missed.append(f"{found.peak:.0f} MiB, wanted {TARGET_MEMORY:g}")
    if load.lost_of():
        missed.append(f"{load}")
    rows = [
        ("the engine has started all, removed all", f"{start.engine:.1f} s", f"{end.engine:.1f} s", ""),
        ("the last one -> every host answers so", f"{start.rest:.1f} s", f"{end.rest:.1f} s", f"{TARGET_LAST:g} s"),
        ("reloads", str(start.reloads), str(end.reloads), f"{allowed:.0f} for starting"),
        ("controller's CPU", f"{start.cpu:.1f} s", f"{end.cpu:.1f} s", ""),
        ("controller's memory: at most, after", f"{found.peak:.0f} MiB", f"{found.afterwards:.0f} MiB", f"{TARGET_MEMORY:g} MiB"),
        (f"nginx's memory: at most ({most.workers} workers), after", f"{most.memory:.0f} MiB", f"{after.memory:.0f} MiB", ""),
    ]
    return Figures(
        name="storm",
        title=(
            f"storm: {found.containers} containers on {os.cpu_count()} cores; {load.lost_of()} of {load.sent_of():,} requests "
            f"lost beside them\nbefore: controller {found.resident:.0f} MiB, nginx {before.memory:.0f} MiB"
        ),
        columns=("", "started", "removed", "wanted"),
        rows=rows,
        values=_values(found, load, most, after),
        missed=missed,
    )


def _values(found: Findings, load: Report, most: Reading, after: Reading) -> dict[str, Value]:
    start, end = found.starting, found.removing
    return {
        "containers": found.containers,
        "create_s": round(found.creating, 1),
        "start_s": round(start.engine, 1),
        "live_after_last_s": round(start.rest, 2),
        "start_reloads": start.reloads,
        "start_cpu_s": round(start.cpu, 1),
        "remove_s": round(end.engine, 1),
        "gone_after_last_s": round(end.rest, 2),
        "remove_reloads": end.reloads,
        "remove_cpu_s": round(end.cpu, 1),
        "silent": found.silent,
        "sent": load.sent_of(),
        "lost": load.lost_of(),
        "peak_mib": round(found.peak, 1),
        "afterwards_mib": round(found.afterwards, 1),
        "nginx_most_mib": round(most.memory, 1),
        "nginx_workers_most": most.workers,
        "nginx_after_mib": round(after.memory, 1),
    }
