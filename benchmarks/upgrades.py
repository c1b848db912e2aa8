"""What an upgrade costs those who are there meanwhile: another controller, another nginx, and both beside the old ones.

Under 300 requests a second on new connections, a fifth of them POSTs, and 40 kept ones. Two nginx cannot have one port, so
replacing it in place loses what comes until the new one answers. A second controller with an nginx of its own on another port
loses nothing: the balancer in front changes over, told by `proxyctl host drain`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figures, milliseconds
from tests.load import Load, Report
from tests.rig import NGINX, Box, Controller, Rig, until

HOST = "app.example"
ROUNDS, SHORT_ROUNDS = 5, 1
BEFORE = AFTER = 1.0
"""Seconds of load around each change."""


@dataclass(slots=True)
class Tally:
    sent: int = 0
    lost: int = 0
    outage: float = 0.0
    """The longest time from the first loss to the last one, in seconds."""

    def add(self, report: Report) -> None:
        self.sent += report.sent_of()
        self.lost += report.lost_of()
        began = min((loss.began for loss in report.losses), default=0.0)
        ended = max((loss.ended for loss in report.losses), default=0.0)
        self.outage = max(self.outage, ended - began)


def run(*, short: bool) -> Figures:
    rounds = SHORT_ROUNDS if short else ROUNDS
    controller, nginx, beside = Tally(), Tally(), Tally()
    with Rig() as rig:
        rig.run_container({"host": HOST}, name="app")
        running = rig.controller()
        running.wait_for(HOST)
        for number in range(rounds):
            controller.add(_another_controller(running))
            nginx.add(_another_nginx(rig, running, number))
        for _ in range(rounds):
            report, running = _side_by_side(rig, running)
            beside.add(report)
    missed = [
        f"{tally.lost} lost by {what}" for what, tally in (("a controller", controller), ("two beside", beside)) if tally.lost
    ]
    return Figures(
        name="upgrades",
        title=f"upgrades: what {rounds} of each cost, under 300 requests/s on new connections and 40 kept ones",
        columns=("", "lost", "of", "longest outage", "wanted"),
        rows=[
            ("the controller, in place", str(controller.lost), f"{controller.sent:,}", milliseconds(controller.outage), "0"),
            ("nginx, in place", str(nginx.lost), f"{nginx.sent:,}", milliseconds(nginx.outage), ""),
            ("both, side by side", str(beside.lost), f"{beside.sent:,}", milliseconds(beside.outage), "0"),
        ],
        values={
            "controller_lost": controller.lost,
            "nginx_lost": nginx.lost,
            "nginx_sent": nginx.sent,
            "nginx_outage_ms": round(nginx.outage * 1000),
            "beside_lost": beside.lost,
        },
        missed=missed,
    )


def _another_controller(running: Controller) -> Report:
    """As `docker compose up -d` replaces it: ended, started, in sync again."""
    with Load(HOST, running.port) as load:
        time.sleep(BEFORE)
        assert running.stop() == 0
        running.start(wait=False)
        until(lambda: _ready(running), 30, "a controller in sync", every=0.1)
        time.sleep(AFTER)
    return load.report


def _another_nginx(rig: Rig, running: Controller, number: int) -> Report:
    """The same program under another tag, since the image is what counts; the container is removed, and made anew by itself."""
    image = f"{NGINX.partition(':')[0]}:next{number}"
    rig.client.tag(NGINX, image.partition(":")[0], tag=image.partition(":")[2])
    try:
        _start_with(running, NGINX, image)
        with Load(HOST, running.port) as load:
            time.sleep(BEFORE)
            Box(rig.client, running.nginx, running.nginx).remove()
            until(lambda: running.ask(HOST).status == 200, 30, "an answer of the new nginx")
            time.sleep(AFTER)
        assert rig.client.inspect_container(running.nginx)["Config"]["Image"] == image
    finally:
        _start_with(running, image, NGINX)
        Box(rig.client, running.nginx, running.nginx).remove()
        running.wait_for(HOST)
        rig.client.remove_image(image)
    return load.report


def _side_by_side(rig: Rig, old: Controller) -> tuple[Report, Controller]:
    """The load is its own balancer: it changes over when the old nginx says that it is to be left."""
    with Load(HOST, old.port) as load:
        time.sleep(BEFORE)
        new = rig.controller()
        new.wait_for(HOST)
        until(lambda: new.ask("10.0.0.1", "/-/ready").status == 200, 10, "another nginx that is ready")
        program: list[str | Path] = [Path(sys.executable).with_name("proxyctl"), "--config", old.config]
        draining = subprocess.Popen([*program, "host", "drain", "--notice", "1s"], stdout=subprocess.DEVNULL)
        until(lambda: old.ask("10.0.0.1", "/-/ready").status == 503, 10, "an old nginx that is to be left")
        load.move(new.port)
        assert draining.wait(60) == 0
        old.stop()
        Box(rig.client, old.nginx, old.nginx).remove()
        time.sleep(AFTER)
    return load.report, new


def _start_with(running: Controller, before: str, image: str) -> None:
    running.stop()
    running.config.write_text(running.config.read_text().replace(before, image))
    running.start(wait=False)
    until(lambda: _ready(running), 30, "a controller in sync", every=0.1)


def _ready(running: Controller) -> bool:
    return running.ask_api("/readyz").status == 200
