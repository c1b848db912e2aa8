"""A real engine is restarted: with live-restore its containers go on meanwhile, without it they end and are started again."""

from __future__ import annotations

import os
import signal
import time

from tests.chaos.scene import STANDING, Scene, Seen, fault

STARTS_WITHIN = 5.0


@fault(engine="live-restore", nginx_lives=False)
def engine_restarted_with_live_restore(scene: Scene) -> None:
    """`systemctl restart docker` with live-restore; a container dies while nobody watches, and is started again.

    For about a second the engine has taken its rules for published ports down and not put them up again: who connects then is
    refused, before nginx. Kept connections go on.
    """
    dies = scene.add("dies")
    scene.controller.wait_for(dies.host)
    nginx = scene.rig.client.inspect_container(scene.controller.nginx)["State"]["StartedAt"]
    pid = dies.pid
    scene.engine.stop(scene.turn([signal.SIGTERM, signal.SIGKILL]))
    os.kill(pid, signal.SIGKILL)
    time.sleep(scene.chance.uniform(0, 3))
    scene.engine.start()
    scene.over()
    scene.add("meanwhile")
    if scene.rig.client.inspect_container(scene.controller.nginx)["State"]["StartedAt"] != nginx:
        raise Seen("nginx did not live through it")
    for tenant in STANDING:
        if lost := scene.report(tenant).lost_of("kept"):
            raise Seen(f"{lost} requests on kept connections lost")


def _start_the_rest(scene: Scene) -> None:
    """An engine that was killed does not start again everything that ran (20.10, in some runs): its owner does."""
    end = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < end and not all(app.box.inspect()["State"]["Running"] for app in scene.apps):
        time.sleep(0.1)
    for app in scene.apps:
        app.box.start()


@fault(engine="plain", nginx_lives=False)
def engine_restarted(scene: Scene) -> None:
    """`systemctl restart docker` without live-restore: nginx and all containers end and start, with other addresses."""
    for tenant in ("one", "two"):
        scene.controller.wait_for(scene.add(tenant).host)
    for app in scene.apps:
        scene.departed(app)
    scene.engine.stop(scene.turn([signal.SIGTERM, signal.SIGKILL]))
    time.sleep(scene.chance.uniform(0, 2))
    scene.engine.start()
    _start_the_rest(scene)
    scene.over()
    for app in scene.apps:
        scene.arrived(app)
    scene.add("meanwhile")
