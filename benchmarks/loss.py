"""Requests lost while the containers of one service come and go under load: started, unhealthy, well again, stopped.

Half of them serve on for a second after their SIGTERM, half die of it at once. nginx never repeats a POST that it has sent, so
one that a process held when it died is lost whatever a proxy does: these are counted apart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from benchmarks.figures import Figures, Value, milliseconds
from tests.load import Load, Loss, Report
from tests.rig import Box, Rig

HOST = "app.example"
LABELS = {
    "host": HOST,
    "service": "app",
    "health.path": "/health",
    "health.interval": "500ms",
    "health.timeout": "1s",
}
LIVES, AT_ONCE, LIFE = 20, 5, 13.0
SHORT_LIVES, SHORT_AT_ONCE, SHORT_LIFE = 6, 3, 3.0
"""How many containers come and go, how many at the same time, and how long each lives, in seconds."""
UNHEALTHY_EVERY = 2


@dataclass(frozen=True, slots=True)
class Death:
    """A process that dies at once of its signal: when that was sent, and when the engine says it was dead (Unix time)."""

    signalled: float
    dead: float


def run(*, short: bool) -> Figures:
    lives, at_once, life = (SHORT_LIVES, SHORT_AT_ONCE, SHORT_LIFE) if short else (LIVES, AT_ONCE, LIFE)
    with Rig() as rig:
        controller = rig.controller()
        rig.run_container(LABELS, name="stays")
        controller.wait_for(HOST)
        reloads = len(controller.records("live"))
        with Load(HOST, controller.port) as load:
            deaths = _live(rig, lives, at_once, life)
            time.sleep(1)
        reloads = len(controller.records("live")) - reloads
        return _figures(load.report, deaths, lives, reloads)


def _live(rig: Rig, lives: int, at_once: int, life: float) -> Sequence[Death]:
    """All lives, `at_once` of them at a time and out of step."""
    first = threading.Semaphore(at_once)

    def one(number: int) -> Death | None:
        if first.acquire(blocking=False):
            time.sleep(life * (number % at_once) / at_once)
        return _one(rig, number, life)

    with ThreadPoolExecutor(at_once) as pool:
        return [death for death in pool.map(one, range(lives)) if death]


def _one(rig: Rig, number: int, life: float) -> Death | None:
    dies_at_once = number % 2 == 1
    box = rig.run_container(LABELS, name=f"app{number}", args=["--on-term", "exit" if dies_at_once else "drain:1s"])
    time.sleep(life / 3)
    if number // 2 % UNHEALTHY_EVERY == 0:
        box.tell("/set?health=503")
        time.sleep(life / 3)
        box.tell("/set?health=200")
    else:
        time.sleep(life / 3)
    time.sleep(life / 3)
    signalled = time.time()
    box.stop()
    dead = _finished(box)
    box.remove()
    return Death(signalled, dead) if dies_at_once else None


def _finished(box: Box) -> float:
    """The engine writes nanoseconds, which Python does not read."""
    text = box.inspect()["State"]["FinishedAt"]
    return datetime.strptime(text[:26].rstrip("Z").ljust(26, "0"), "%Y-%m-%dT%H:%M:%S.%f").replace(tzinfo=UTC).timestamp()


def _held(loss: Loss, deaths: Sequence[Death]) -> bool:
    """Whether a process that got this POST may have died of a signal meanwhile."""
    to_unix = time.time() - time.monotonic()
    began, ended = loss.began + to_unix, loss.ended + to_unix
    return loss.method == "POST" and any(began <= death.dead and death.signalled <= ended for death in deaths)


def _figures(report: Report, deaths: Sequence[Death], lives: int, reloads: int) -> Figures:
    held = sum(_held(loss, deaths) for loss in report.losses)
    lost_get, lost_post = report.lost_of("GET"), report.lost_of("POST") - held
    stray = sorted(name for name in report.answers if not name.startswith("app") and name != "stays")
    rows = [
        ("GET, new connections", f"{report.sent_of('GET', 'new'):,}", str(report.lost_of("GET", "new"))),
        ("GET, kept connections", f"{report.sent_of('GET', 'kept'):,}", str(report.lost_of("GET", "kept"))),
        ("POST", f"{report.sent_of('POST'):,}", str(lost_post)),
        (f"POST, held by one of {len(deaths)} that died at once", "", str(held)),
    ]
    values: dict[str, Value] = {
        "sent": report.sent_of(),
        "lost_get": lost_get,
        "lost_post": lost_post,
        "lost_post_held": held,
        "stray": len(stray),
        "reloads": reloads,
        "p99_ms": round(report.p99 * 1000, 1),
        "longest_ms": round(report.longest * 1000),
    }
    missed = []
    if lost_get or lost_post:
        missed.append(f"{report}")
    if stray:
        missed.append(f"answers of {', '.join(stray)}")
    return Figures(
        name="loss",
        title=(
            f"loss: {lives} containers came and went in {report.seconds:.0f} s, {reloads} reloads; "
            f"p99 {milliseconds(report.p99)}, longest {milliseconds(report.longest)}"
        ),
        columns=("", "sent", "lost"),
        rows=rows,
        values=values,
        missed=missed,
    )
