"""Requests lost while the containers of one service come and go under load: started, unhealthy, well again, stopped.

Half of them serve on for two seconds after their SIGTERM, half die of it at once. nginx never repeats a POST that it has sent, so
one that a process held when it died is lost whatever a proxy does: these are counted apart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.figures import Figures, Value, milliseconds
from tests.load import Death, Load, Loss, Report
from tests.rig import Rig

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

    def one(number: int) -> Death:
        if first.acquire(blocking=False):
            time.sleep(life * (number % at_once) / at_once)
        return _one(rig, number, life)

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(one, range(lives)))


def _one(rig: Rig, number: int, life: float) -> Death:
    """Odd ones die at once."""
    box = rig.run_container(LABELS, name=f"app{number}", args=["--on-term", "exit" if number % 2 else "drain:2s"])
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
    death = Death(signalled, box.when("FinishedAt"))
    box.remove()
    return death


def _beside(loss: Loss, deaths: Sequence[Death]) -> str:
    """A loss that nothing accounts for, and which process had its signal or died near it."""
    to_unix = time.time() - time.monotonic()
    near = [
        f"app{number} had its signal {began:.3f} s before it began and was dead {ended:.3f} s before it ended"
        for number, death in enumerate(deaths)
        if (began := loss.began + to_unix - death.signalled) > -1 and (ended := loss.ended + to_unix - death.dead) < 1
    ]
    return f"{loss.kind} {loss.method} {loss.status or loss.error}: {'; '.join(near)}"


def _figures(report: Report, deaths: Sequence[Death], lives: int, reloads: int) -> Figures:
    at_once = deaths[1::2]
    held = report.held(at_once)
    lost_get, lost_post = report.lost_of("GET"), report.lost_of("POST") - held
    stray = sorted(name for name in report.answers if not name.startswith("app") and name != "stays")
    rows = [
        ("GET, new connections", f"{report.sent_of('GET', 'new'):,}", str(report.lost_of("GET", "new"))),
        ("GET, kept connections", f"{report.sent_of('GET', 'kept'):,}", str(report.lost_of("GET", "kept"))),
        ("POST", f"{report.sent_of('POST'):,}", str(lost_post)),
        (f"POST, held by one of {len(at_once)} that died at once", "", str(held)),
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
        missed += [_beside(loss, deaths) for loss in report.losses if not any(one.may_have_held(loss) for one in at_once)]
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
