"""What the controller takes while nothing happens: CPU, memory and reloads with many routed containers."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.cost import cpu_seconds
from benchmarks.figures import Figures
from tests.rig import Rig

CONTAINERS, SECONDS = 200, 300
SHORT_CONTAINERS, SHORT_SECONDS = 5, 5
SETTLE = 5.0
TARGET_CPU, TARGET_MEMORY = 1.0, 80.0


def run(*, short: bool) -> Figures:
    containers, seconds = (SHORT_CONTAINERS, SHORT_SECONDS) if short else (CONTAINERS, SECONDS)
    with Rig() as rig:
        controller = rig.controller()
        hosts = [f"app{number}.example" for number in range(containers)]
        rig.run_containers({"labels": {"host": host}, "name": host.partition(".")[0]} for host in hosts)
        for host in hosts:
            controller.wait_for(host, within=60, steady=0)
        time.sleep(SETTLE)
        reloads, spent, began = len(controller.records("live")), cpu_seconds(controller.pid), time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        return _figures(
            containers=containers,
            seconds=took,
            cpu=(cpu_seconds(controller.pid) - spent) / took * 100,
            memory=resident(controller.pid),
            reloads=len(controller.records("live")) - reloads,
        )


def resident(pid: int, *, peak: bool = False) -> float:
    """Resident memory of a process in MiB: now, or the most that it ever had."""
    name = "VmHWM:" if peak else "VmRSS:"
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def _figures(*, containers: int, seconds: float, cpu: float, memory: float, reloads: int) -> Figures:
    missed = []
    if cpu >= TARGET_CPU:
        missed.append(f"{cpu:.2f} % of a core, wanted less than {TARGET_CPU:g}")
    if memory >= TARGET_MEMORY:
        missed.append(f"{memory:.0f} MiB, wanted less than {TARGET_MEMORY:g}")
    if reloads:
        missed.append(f"{reloads} reloads, wanted none")
    return Figures(
        name="idle",
        title=f"idle: {containers} routed containers, {seconds:.0f} s in which nothing happens",
        columns=("", "controller", "wanted"),
        rows=[
            ("CPU, of one core", f"{cpu:.2f} %", f"< {TARGET_CPU:g} %"),
            ("memory", f"{memory:.0f} MiB", f"< {TARGET_MEMORY:g} MiB"),
            ("reloads", str(reloads), "0"),
        ],
        values={"containers": containers, "cpu_percent": round(cpu, 2), "memory_mib": round(memory, 1), "reloads": reloads},
        missed=missed,
    )
