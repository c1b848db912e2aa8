"""Containers that crash again and again and change addresses, beside long connections of another site."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from time import sleep

from tests.chaos.scene import App, Scene, Seen, fault
from tests.lasting import Held, Site, session

ROUNDS = 6


async def _held(address: str, host: str, seconds: float) -> list[Held]:
    over = asyncio.Event()
    async with session() as clients:
        site = Site(clients, address, host)
        long = [asyncio.create_task(each) for each in (site.websocket(over), site.events(over), site.download(seconds, 50_000))]
        await asyncio.sleep(seconds)
        over.set()
        return list(await asyncio.gather(*long))


@fault()
def crash_loops_beside_long_connections(scene: Scene) -> None:
    """Three containers of one project end, and start at each other's address, six times: no connection of another site is cut."""
    own = scene.rig.network(f"long{scene.seed}")
    site = scene.rig.run_container({"host": "long.example"}, name=f"long{scene.seed}", network=own)
    try:
        scene.controller.wait_for("long.example")
        place = scene.rig.client.inspect_container(scene.controller.nginx)["NetworkSettings"]["Networks"][own]
        apps = [scene.create(f"crash{number}", address="any", project="shop") for number in range(3)]
        with ThreadPoolExecutor(1) as pool:
            long = pool.submit(lambda: asyncio.run(_held(place["IPAddress"], "long.example", 3.0 + 1.5 * ROUNDS)))
            sleep(1)
            _crash(scene, apps)
            cut = [f"{each.what}: {each.error}" for each in long.result() if each.error]
        if cut:
            raise Seen(f"cut: {', '.join(cut)}")
    finally:
        site.remove()


def _crash(scene: Scene, apps: list[App]) -> None:
    """The engine gives the lowest free address to whoever starts first."""
    places = set[str]()
    for _ in range(ROUNDS):
        for app in apps:
            if app.alive:
                scene.kill(app)
        for app in scene.chance.sample(apps, len(apps)):
            scene.start(app)
        places.add(" ".join(app.address for app in apps))
        sleep(1)
    scene.notes.append(f"{len(places)} orders of addresses")
