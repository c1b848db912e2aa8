"""The engine goes away, stands still, says no, or tells its events wrong. It is the relay that does it; the engine goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from tests.chaos.scene import Scene, Seen, fault
from tests.rig import until


def turmoil(scene: Scene, *, seconds: float = 1.0) -> None:
    """What happens meanwhile: one starts, one that was served stops, one is replaced by another."""
    gone, old = scene.apps[-2:]

    def replace() -> None:
        scene.add(old.tenant)
        scene.remove(old)

    steps: list[Callable[[], object]] = [lambda: scene.stop(gone, 0), lambda: scene.add("newcomer"), replace]
    scene.chance.shuffle(steps)
    for step in steps:
        step()
        time.sleep(scene.chance.uniform(0, seconds / 3))


def before(scene: Scene) -> None:
    """Two that are served when the fault begins, for `turmoil`."""
    apps = [scene.create(tenant) for tenant in ("leaving", "replaced")]
    with ThreadPoolExecutor(len(apps)) as pool:
        list(pool.map(scene.start, apps))
    until(lambda: not scene.wrong(), 10, "both of them served")


@fault()
def engine_gone(scene: Scene) -> None:
    """Nothing answers at the socket for up to 4 s."""
    before(scene)
    scene.relay.cut()
    turmoil(scene)
    time.sleep(scene.chance.uniform(0, 3))
    scene.relay.restore()


@fault()
def engine_gone_for_long(scene: Scene) -> None:
    """Nothing answers at the socket for 25 s: long enough for every pause between attempts to be at its longest."""
    before(scene)
    scene.relay.cut()
    turmoil(scene)
    time.sleep(25)
    scene.relay.restore()


@fault()
def engine_hung(scene: Scene) -> None:
    """The engine stands still for up to 4 s; then what it was asked is answered, and what it had to tell is told."""
    before(scene)
    scene.relay.hang()
    turmoil(scene)
    time.sleep(scene.chance.uniform(0, 3))
    scene.relay.restore()


@fault(short=True)
def engine_hung_and_restarted(scene: Scene) -> None:
    """The engine stands still, is ended and comes back: what it was asked is never answered."""
    before(scene)
    scene.relay.hang()
    turmoil(scene)
    scene.relay.cut()
    time.sleep(scene.chance.uniform(0, 1))
    scene.relay.restore()


@fault()
def engine_hung_for_long(scene: Scene) -> None:
    """The engine stands still for 20 s: longer than the controller waits for an answer."""
    before(scene)
    scene.relay.hang()
    turmoil(scene)
    time.sleep(20)
    scene.relay.restore()


@fault(short=True)
def engine_says_500(scene: Scene) -> None:
    """The events' stream ends, and 500 to everything for a while, and for a while to the list alone."""
    before(scene)
    for calls in scene.chance.sample(["", "^GET /containers/json$"], 2):
        scene.relay.refuse(500, calls)
        scene.relay.cut()
        scene.relay.restore()
        if not calls:
            turmoil(scene)
        time.sleep(scene.chance.uniform(0.5, 1.5))
        scene.relay.lift()


@fault()
def engine_says_500_now_and_then(scene: Scene) -> None:
    """500 to every call of one kind, for two seconds each: the list, inspect, exec, top, kill."""
    before(scene)
    calls = ["GET /containers/json", "/containers/[^/]+/json", "/exec", "/top", "/kill", "GET /events"]
    scene.chance.shuffle(calls)
    for number, call in enumerate(calls):
        scene.relay.refuse(500, call)
        if number == 1:
            turmoil(scene)
        else:
            scene.add(f"extra{number}")
        time.sleep(2)
        scene.relay.lift()


@fault()
def engine_says_409(scene: Scene) -> None:
    """409 to what changes something and to top, as an engine does that is busy with the container, for 2 s."""
    before(scene)
    scene.relay.refuse(409, "^POST |/top")
    turmoil(scene)
    time.sleep(scene.chance.uniform(0, 2))
    scene.relay.lift()


@fault()
def engine_slow(scene: Scene) -> None:
    """Every answer comes up to 2 s late."""
    before(scene)
    scene.relay.delay(scene.chance.uniform(0.5, 2), "containers|exec")
    turmoil(scene)
    time.sleep(1)
    scene.relay.lift()


# ---------------------------------------------------------------- events


@fault()
def events_dropped(scene: Scene) -> None:
    """Half of the events for some seconds do not arrive: what none tells of is found in the next list."""
    before(scene)
    count = 0

    def dropped(events: list[bytes]) -> Iterable[bytes]:
        nonlocal count
        kept = [event for event in events if scene.chance.random() < 0.5]
        count += len(events) - len(kept)
        return kept

    scene.relay.change_events(dropped)
    turmoil(scene)
    time.sleep(1)
    scene.relay.lift()
    scene.notes.append(f"{count} dropped")
    if not count:
        raise Seen("no event was dropped")


@fault()
def events_doubled(scene: Scene) -> None:
    """Every event arrives twice, at once or a second later."""
    before(scene)
    late = scene.chance.random() < 0.5
    kept: list[bytes] = []

    def twice(events: list[bytes]) -> Iterable[bytes]:
        if not late:
            return [event for event in events for _ in range(2)]
        earlier = kept[:]
        kept[:] = events
        return [*events, *earlier]

    scene.relay.change_events(twice)
    turmoil(scene)
    time.sleep(1)
    scene.relay.lift()


@fault()
def events_out_of_order(scene: Scene) -> None:
    """What comes within half a second arrives in another order, while containers are restarted."""
    before(scene)

    def shuffled(events: list[bytes]) -> Iterable[bytes]:
        return scene.chance.sample(events, len(events))

    scene.relay.change_events(shuffled, gather=0.5)
    again = scene.add("again")
    scene.stop(again, 0)
    scene.start(again)
    turmoil(scene)
    time.sleep(1)
    scene.relay.lift()


def noise(scene: Scene, count: int) -> list[bytes]:
    """Events of containers that are not there, as the engine tells them; every third has the labels of a routed one."""
    actions = ["create", "start", "die", "kill", "destroy", "health_status: healthy"]
    made = []
    for number in range(count):
        labels = {f"{scene.rig.prefix}.host": f"noise{number}.example"} if number % 3 == 0 else {}
        container, now = f"{scene.chance.getrandbits(256):064x}", time.time_ns()
        action = scene.chance.choice(actions)
        attributes = {"image": "noise", "name": f"noise{number}", "signal": "15", **labels}
        event = {
            "status": action,
            "id": container,
            "from": "noise",
            "Type": "container",
            "Action": action,
            "Actor": {"ID": container, "Attributes": attributes},
            "scope": "local",
            "time": now // 10**9,
            "timeNano": now,
        }
        made.append(json.dumps(event).encode())
    return made


@fault(short=True)
def events_500_at_once(scene: Scene) -> None:
    """500 events of other containers at once, in the middle of some that matter."""
    before(scene)
    scene.relay.say(noise(scene, 250))
    turmoil(scene, seconds=0.3)
    scene.relay.say(noise(scene, 250))
