"""Requests a second through the vhost that proxyctl renders, against the same one as a good administrator writes it by hand.

Both nginx run the same image with as many workers and the same backend behind them, and take many short turns, so that what
else the machine does hits both. The load (wrk) runs in the network namespace of the nginx it measures: no port forwarder is in
between.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figures, median
from tests.rig import NGINX, Box, Rig, until

TURNS, SECONDS = 25, 1
SHORT_TURNS, SHORT_SECONDS = 2, 1
CONNECTIONS = 32
HOST = "app.example"
TARGET_RATIO = 0.97

BY_HAND = """\
worker_processes {workers};
error_log stderr warn;
pid /run/nginx.pid;

events {{
    worker_connections 4096;
}}

http {{
    access_log off;
    server_tokens off;
    tcp_nopush on;
    keepalive_timeout 75s;
    keepalive_requests 10000;

    upstream app {{
        server {address}:80;
        keepalive 32;
    }}

    server {{
        listen 80;
        server_name {host};

        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_buffering off;
            proxy_buffer_size 32k;
            proxy_buffers 8 32k;
            proxy_max_temp_file_size 0;
        }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """`cpu`: microseconds of nginx's workers for each request."""

    per_second: float
    cpu: float


def run(*, short: bool) -> Figures:
    """Raises RuntimeError when wrk is not there, when it may not enter the namespaces, or when a request fails."""
    _check_tools()
    turns, seconds = (SHORT_TURNS, SHORT_SECONDS) if short else (TURNS, SECONDS)
    with Rig() as rig:
        controller = rig.controller({"health": {"interval": "30s"}})
        backend = rig.run_container({"host": HOST}, name="app")
        controller.wait_for(HOST)
        ways = {"proxyctl": _pid(rig, controller.nginx), "by hand": _pid(rig, _by_hand(rig, backend).id)}
        found: dict[str, list[Turn]] = {way: [] for way in ways}
        for number in range(turns + 1):
            for way, pid in sorted(ways.items(), reverse=number % 2 == 0):
                turn = _turn(pid, seconds if number else 1)
                if number:  # the first one warms up
                    found[way].append(turn)
    return _figures(found, seconds)


def _check_tools() -> None:
    if not shutil.which("wrk") or not shutil.which("nsenter"):
        raise RuntimeError("wrk and nsenter are needed: apt-get install wrk util-linux")
    if os.geteuid():
        raise RuntimeError("root is needed: the load runs in the network namespace of the nginx that it measures")


def _by_hand(rig: Rig, backend: Box) -> Box:
    folder = rig.directory / "by-hand"
    folder.mkdir()
    text = BY_HAND.format(workers=os.cpu_count() or 1, address=backend.address, host=HOST)
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    binds = {"Binds": [f"{folder}/nginx.conf:/etc/nginx/nginx.conf:ro"]}
    return rig.run_container(name="by-hand", image=NGINX, args=["nginx", "-g", "daemon off;"], host_config=binds)


def _pid(rig: Rig, container: str) -> int:
    """nginx's master, on the host, once its workers run."""
    pid = int(rig.client.inspect_container(container)["State"]["Pid"])
    until(lambda: _workers(pid), 10, f"the workers of {container}")
    return pid


def _workers(master: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{master}/task/{master}/children").read_text(encoding="ascii").split()]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (proc(5), stat: the fields after the name)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _turn(master: int, seconds: int) -> Turn:
    time.sleep(0.3)
    workers = _workers(master)
    before = sum(map(cpu_seconds, workers))
    command = ["wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{seconds}s"]
    enter = ["nsenter", f"--net=/proc/{master}/ns/net"]
    done = subprocess.run(
        [*enter, *command, "--header", f"Host: {HOST}", "http://127.0.0.1:80/"],
        capture_output=True,
        text=True,
        timeout=seconds + 30,
        check=False,
    )
    spent = sum(map(cpu_seconds, workers)) - before
    total = re.search(r"([0-9]+) requests in", done.stdout)
    per_second = re.search(r"Requests/sec: +([0-9.]+)", done.stdout)
    if not total or not per_second or not int(total[1]) or "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise RuntimeError(f"wrk: {done.stderr or done.stdout}")
    return Turn(float(per_second[1]), spent / int(total[1]) * 1e6)


def _figures(found: dict[str, list[Turn]], seconds: int) -> Figures:
    rates = {way: median([turn.per_second for turn in turns]) for way, turns in found.items()}
    cpu = {way: median([turn.cpu for turn in turns]) for way, turns in found.items()}
    pairs = zip(found["proxyctl"], found["by hand"], strict=True)
    ratio = median([own.per_second / hand.per_second for own, hand in pairs])
    rows = [(way, f"{rates[way]:,.0f}", _range(turns), f"{cpu[way]:.1f} µs") for way, turns in found.items()]
    rows.append(("proxyctl / by hand, turn by turn", f"{ratio:.3f}", "", f"{cpu['proxyctl'] / max(cpu['by hand'], 1e-9):.3f}"))
    return Figures(
        name="cost",
        title=f"cost: requests a second, median of {len(found['proxyctl'])} turns of {seconds} s",
        columns=("", "requests/s", "lowest - highest", "nginx CPU a request"),
        rows=rows,
        values={
            "proxyctl_per_second": round(rates["proxyctl"]),
            "by_hand_per_second": round(rates["by hand"]),
            "ratio": round(ratio, 3),
            "proxyctl_cpu_us": round(cpu["proxyctl"], 2),
            "by_hand_cpu_us": round(cpu["by hand"], 2),
        },
        missed=[] if ratio >= TARGET_RATIO else [f"ratio {ratio:.3f}, wanted {TARGET_RATIO:g}"],
    )


def _range(turns: Sequence[Turn]) -> str:
    rates = [turn.per_second for turn in turns]
    return f"{min(rates):,.0f} - {max(rates):,.0f}"
