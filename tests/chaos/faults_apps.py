"""Apps that take over each other's address or host, that are ill, that crash again and again, or that come and go by dozens."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from docker.errors import APIError

from tests.chaos.faults_process import restart
from tests.chaos.scene import STEADY, App, Scene, Seen, fault
from tests.rig import until

ROUNDS = 3
CRASHES = 20
MOST = 30
"""Containers that come and go in the bustle."""


def under_traffic(scene: Scene, tenant: str) -> App:
    """Some clients pause so long that their connection's worker has not heard from them since the container left."""
    app = scene.add(tenant)
    scene.controller.wait_for(app.host)
    scene.load(tenant, new_per_second=60, keepalive_clients=30, pause=(0.05, 1.5))
    time.sleep(STEADY)
    return app


def successors(scene: Scene, number: int) -> tuple[App, App]:
    """One that is served under traffic, and another tenant's, not started, for its address."""
    former = under_traffic(scene, f"former{number}")
    return former, scene.create(f"next{number}", address=former.address)


def let_go(scene: Scene, app: App, number: int) -> None:
    """It ends in one of the ways in which containers end."""
    match scene.turn(["stop", "kill", "remove"], number):
        case "stop":
            scene.stop(app)
        case "kill":
            scene.kill(app)
        case _:
            scene.remove(app)


def started_there(scene: Scene, app: App) -> None:
    """Started as soon as the address is free."""

    def started() -> bool:
        try:
            scene.start(app)
        except APIError:
            return False
        return True

    until(started, 5, f"an address for {app.name}")


@fault(nginx_lives=False)
def address_reused(scene: Scene) -> None:
    """A container ends, and another tenant's gets its address at once, three times, with kept connections."""
    for number in range(ROUNDS):
        former, successor = successors(scene, number)
        let_go(scene, former, number)
        started_there(scene, successor)
        scene.reused(former, successor)
        time.sleep(scene.chance.uniform(0.2, 0.6))


def joined_at(scene: Scene, app: App, address: str) -> float:
    """Connects it to the stage's network. Since when it has the address (monotonic): the engine's call takes longer."""
    routes = Path(f"/proc/{app.pid}/net/fib_trie")
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(scene.rig.client.connect_container_to_network, app.box.id, scene.stage.network, ipv4_address=address)
        until(lambda: call.done() or f" {address}\n" in routes.read_text(encoding="ascii"), 10, f"{address} at {app.name}", 0.001)
        at = time.monotonic()
        call.result()
    return at


@fault(nginx_lives=False)
def address_reused_by_connect(scene: Scene) -> None:
    """`docker network disconnect` of one, `connect` of another tenant's with its address: nobody stops or starts."""
    client, network = scene.rig.client, scene.stage.network
    for number in range(ROUNDS):
        former = under_traffic(scene, f"former{number}")
        other = scene.create(f"next{number}", outside=True)
        other.box.start()
        scene.departed(former)
        client.disconnect_container_from_network(former.box.id, network)
        scene.arrived(other, joined_at(scene, other, former.address))
        scene.reused(former, other)
        time.sleep(scene.chance.uniform(0.2, 0.6))


@fault(short=True)
def two_claim_one_host(scene: Scene) -> None:
    """Another project's container wants a host that somebody has: it does not get it, nor after a restart of the controller."""
    incumbent = scene.add("claimed")
    scene.controller.wait_for(incumbent.host)
    scene.load("claimed", counts=True)
    challenger = scene.add("challenger", labels={"host": "claimed.example"})
    challenger.alive = False
    said = scene.controller.wait_rejected(challenger.name)
    if "claimed.example" not in f"{said['problem']} {said['hint']}":
        raise Seen(f"the rejection does not tell the host: {said}")
    time.sleep(0.5)
    if scene.chance.random() < 0.5:
        scene.controller.kill()
    else:
        scene.controller.stop()
    if scene.chance.random() < 0.5:
        scene.counted.discard("claimed")
        scene.stop(incumbent, 0)
        scene.start(incumbent)
    scene.add("meanwhile")
    scene.over_at = restart(scene)


# ---------------------------------------------------------------- health


CHECKED = {"health.path": "/health", "health.interval": "200ms", "health.timeout": "300ms"}


def ward(scene: Scene, count: int, post_share: float = 0.2) -> list[App]:
    """Containers of one service that say themselves how they are, under traffic of which nothing may be lost."""
    apps = [scene.add("ward", labels=CHECKED) for _ in range(count)]
    until(lambda: not scene.wrong(), 10, "all of them served")
    time.sleep(STEADY)
    scene.load("ward", counts=True, post_share=post_share)
    return apps


@fault()
def health_flapping(scene: Scene) -> None:
    """Three of a service say 503 and 200 in turn for 4 s, all of them at times."""
    apps = ward(scene, 3)
    until_then = time.monotonic() + 4
    while time.monotonic() < until_then:
        scene.chance.choice(apps).box.tell(f"/set?health={scene.chance.choice([200, 503])}")
        time.sleep(scene.chance.uniform(0, 0.2))
    for app in apps:
        app.box.tell("/set?health=200")


@fault()
def health_hanging(scene: Scene) -> None:
    """One of two does not answer its check any more, and later it does."""
    ill, well = ward(scene, 2)
    ill.box.tell("/set?health=hang")
    until(lambda: {scene.ask("ward").backend for _ in range(8)} == {well.name}, 10, "the one that hangs to be out")
    time.sleep(scene.chance.uniform(0, 1))
    ill.box.tell("/set?health=200")


@fault()
def health_slow(scene: Scene) -> None:
    """One answers its check a second late. Where its label allows that, it is served; the other one is not."""
    ward(scene, 1)
    scene.add("ward", labels={**CHECKED, "health.path": "/slow", "health.timeout": "3s"})
    never = scene.add("ward", labels={**CHECKED, "health.path": "/slow"})
    never.alive = False
    time.sleep(1)


@fault()
def app_paused(scene: Scene) -> None:
    """`docker pause` of one of two: what it took waits, everybody else is served by the other one."""
    ill, _ = ward(scene, 2)
    scene.rig.client.pause(ill.box.id)
    time.sleep(scene.chance.uniform(1, 2.5))
    scene.rig.client.unpause(ill.box.id)


# ---------------------------------------------------------------- many events


def reloads(scene: Scene) -> int:
    return len(scene.controller.records("live"))


@fault()
def crash_loop(scene: Scene) -> None:
    """A container ends at once, twenty times over and with a restart policy: nginx is not reloaded for each."""
    before = reloads(scene)
    policy = {"RestartPolicy": {"Name": "on-failure"}} if scene.chance.random() < 0.5 else {}
    app = scene.create("crashing", host_config=policy, Entrypoint=["/backend", "--healthcheck", "/", "--port", "1"])
    for _ in range(CRASHES):
        app.box.start()
        time.sleep(scene.chance.uniform(0, 0.1))
    scene.rig.client.update_container(app.box.id, restart_policy=cast("Any", {"Name": "no"}))
    count = reloads(scene) - before
    scene.notes.append(f"{count} reloads")
    if count > CRASHES // 4:
        raise Seen(f"{count} reloads for {CRASHES} crashes")


@fault()
def crash_loop_of_a_healthy_one(scene: Scene) -> None:
    """One of two is well for a moment, ends and is started again, eight times: two reloads for each, and nothing lost."""
    apps = ward(scene, 2, post_share=0)  # a POST that one of them had taken is nobody else's
    before = reloads(scene)
    for _ in range(8):
        scene.kill(apps[0])
        scene.start(apps[0])
        time.sleep(scene.chance.uniform(0, 0.5))
    count = reloads(scene) - before
    scene.notes.append(f"{count} reloads")
    if count > 2 * 8 + 2:
        raise Seen(f"{count} reloads for 8 crashes")


@fault(nginx_lives=False)
def bustle(scene: Scene) -> None:
    """Thirty containers of six tenants start, stop, are removed and started again; addresses change hands all the while."""
    tenants = [f"crowd{number}" for number in range(6)]
    for tenant in tenants[:3]:
        scene.load(tenant, new_per_second=20, keepalive_clients=4)
    before, there = reloads(scene), list[App]()
    for _ in range(2 * MOST):
        alive = [app for app in there if app.alive]
        dead = [app for app in there if not app.alive]
        step = scene.chance.random()
        if len(there) < MOST and (step < 0.5 or not alive):
            there.append(scene.add(scene.chance.choice(tenants), address="any"))
        elif step < 0.75 and alive:
            scene.stop(scene.chance.choice(alive), 0)
        elif dead and step < 0.9:
            scene.start(scene.chance.choice(dead))
        elif dead:
            gone = scene.chance.choice(dead)
            gone.box.remove()
            there.remove(gone)
    scene.notes.append(f"{reloads(scene) - before} reloads")
