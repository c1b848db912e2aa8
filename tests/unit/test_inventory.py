"""Events and listings -> Snapshot: never partial, never older than what was known, at a bounded number of engine calls."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from proxyctl.model import Container, EngineEvent, EngineRefused, EngineUnavailable, Snapshot
from proxyctl.observe import inventory
from proxyctl.observe.inventory import PROJECT, Inventory
from proxyctl.report import Wake
from tests.unit.make import container

WEB = container("web", {"host": "a.example"})
STRANGER = container("stranger")


class Host:
    """An engine that answers when it is let. `calls`: what it was asked, in order."""

    def __init__(self, *containers: Container) -> None:
        self.containers = {c.id: c for c in containers}
        self.calls: list[str] = []
        self.held: dict[str, asyncio.Event] = {}
        self.fails: Exception | None = None
        self.refuses: dict[str, Exception] = {}
        """By container: what an inspect of it raises."""
        self.inspected: dict[str, Container | None] = {}
        """What an inspect says that the list does not."""

    def hold(self, call: str) -> asyncio.Event:
        """Answers to this call wait for the event."""
        return self.held.setdefault(call, asyncio.Event())

    async def list_containers(self) -> list[Container]:
        found = list(self.containers.values())
        await self._answer("list")
        return found

    async def inspect(self, container: str) -> Container | None:
        found = self.inspected.get(container, self.containers.get(container))
        await self._answer(container)
        if container in self.refuses:
            raise self.refuses[container]
        return found

    async def _answer(self, call: str) -> None:
        self.calls.append(call)
        if call in self.held:
            await self.held[call].wait()
        if self.fails:
            raise self.fails


class Watched:
    """An inventory, its host and what it has posted."""

    def __init__(self, *containers: Container) -> None:
        self.host = Host(*containers)
        self.posted: list[Wake] = []
        self.inventory = Inventory(self.host, "proxyctl", self.posted.append)

    async def listed(self) -> Watched:
        await self.refresh(relist=True)
        self.host.calls.clear()
        return self

    async def refresh(self, *, relist: bool = False, now: float = 0.0) -> Snapshot:
        return await self.inventory.refresh(Wake(relist=relist), now or time.monotonic())

    async def note(self, action: str, of: Container, *, signal: int = 0, bare: bool = False) -> None:
        """`bare`: an event that carries no labels, as those of networks."""
        self.inventory.note(EngineEvent(action, of.id, signal, None if bare else of.labels))
        for _ in range(5):
            await asyncio.sleep(0)


async def watch(*containers: Container) -> Watched:
    return await Watched(*containers).listed()


# ---------------------------------------------------------------- listing


async def test_the_first_snapshot_is_one_list_whatever_woke_it() -> None:
    watched = Watched(WEB, STRANGER)
    assert (await watched.refresh()).containers == {WEB.id: WEB, STRANGER.id: STRANGER}
    assert watched.host.calls == ["list"]


async def test_a_snapshot_without_news_asks_nothing() -> None:
    watched = await watch(WEB)
    assert (await watched.refresh()).containers == {WEB.id: WEB}
    assert watched.host.calls == []


async def test_the_same_containers_are_the_same_object_and_others_are_not() -> None:
    """So thousands of them are not compared one by one, and a plan is not made of what has changed under it."""
    watched = await watch(WEB)
    before = (await watched.refresh()).containers
    watched.host.containers = {WEB.id: replace(WEB)}
    assert (await watched.refresh(relist=True)).containers is before
    watched.host.containers = {WEB.id: WEB, STRANGER.id: STRANGER}
    assert (await watched.refresh(relist=True)).containers == {WEB.id: WEB, STRANGER.id: STRANGER}
    assert before == {WEB.id: WEB}


async def test_a_list_forgets_what_is_gone_and_finds_what_came() -> None:
    watched = await watch(WEB)
    await watched.note("start", WEB)
    watched.host.containers = {STRANGER.id: STRANGER}
    assert (await watched.refresh(relist=True)).containers == {STRANGER.id: STRANGER}
    assert not watched.inventory._inspected
    assert not watched.inventory._news


async def test_ports_of_an_idle_container_are_asked_once_because_the_list_has_none() -> None:
    idle, other = replace(WEB, state="created", exposed=()), replace(STRANGER, state="exited")
    watched = Watched(idle, other)
    await watched.refresh()
    await watched.refresh(relist=True)
    assert watched.host.calls == ["list", WEB.id, "list"]


async def test_a_list_does_not_forget_what_only_inspect_knows() -> None:
    watched = await watch(WEB)
    full = replace(WEB, exposed=(80, 81), has_healthcheck=True, stop_signal=3, stop_timeout=60.0)
    watched.host.containers[WEB.id] = full
    await watched.note("start", WEB)
    watched.host.containers[WEB.id] = replace(WEB, name="renamed")
    assert (await watched.refresh(relist=True)).containers == {WEB.id: replace(full, name="renamed")}


@pytest.mark.parametrize("error", [EngineUnavailable("gone"), EngineRefused(500, "no")])
async def test_a_list_that_fails_raises_and_leaves_what_was_known(error: Exception) -> None:
    watched = await watch(WEB)
    watched.host.fails = error
    with pytest.raises(type(error)):
        await watched.refresh(relist=True)
    watched.host.fails = None
    assert (await watched.refresh()).containers == {WEB.id: WEB}


async def test_a_first_list_that_fails_is_tried_again_by_the_next_snapshot() -> None:
    watched = Watched(WEB)
    watched.host.fails = EngineUnavailable("not yet")
    with pytest.raises(EngineUnavailable):
        await watched.refresh()
    watched.host.fails = None
    assert (await watched.refresh()).containers == {WEB.id: WEB}


async def test_a_list_that_was_asked_before_an_event_does_not_undo_it() -> None:
    watched = await watch(WEB, STRANGER)
    letting = watched.host.hold("list")
    listing = asyncio.create_task(watched.refresh(relist=True))
    await asyncio.sleep(0)
    watched.host.containers[WEB.id] = replace(WEB, state="exited")
    await watched.note("die", WEB)
    letting.set()
    assert (await listing).containers[WEB.id].state == "exited"


async def test_a_list_that_was_asked_before_a_container_came_does_not_lose_it() -> None:
    watched = await watch(STRANGER)
    letting = watched.host.hold("list")
    listing = asyncio.create_task(watched.refresh(relist=True))
    await asyncio.sleep(0)
    watched.host.containers[WEB.id] = WEB
    await watched.note("start", WEB)
    letting.set()
    assert (await listing).containers.keys() == {WEB.id, STRANGER.id}


# ---------------------------------------------------------------- events


@pytest.mark.parametrize("action", ["create", "start", "pause", "unpause", "rename", "health_status", "connect"])
async def test_an_event_is_one_inspect_and_then_one_wake(action: str) -> None:
    watched = await watch(WEB)
    changed = replace(WEB, health="healthy")
    watched.host.containers[WEB.id] = changed
    began = time.monotonic()
    await watched.note(action, WEB)
    assert watched.host.calls == [WEB.id]
    (wake,) = watched.posted
    assert (wake.reasons, wake.relist, wake.urgent) == ((f"{action} id-web",), False, False)
    assert began <= wake.at <= time.monotonic()
    assert (await watched.refresh()).containers == {WEB.id: changed}


async def test_the_wake_has_the_time_of_the_event_and_not_of_the_answer() -> None:
    watched = await watch(WEB)
    letting = watched.host.hold(WEB.id)
    await watched.note("start", WEB)
    assert watched.posted == []
    noted = time.monotonic()
    await asyncio.sleep(0.02)
    letting.set()
    await asyncio.sleep(0.001)
    assert watched.posted[0].at <= noted


async def test_a_container_that_is_removed_is_forgotten() -> None:
    watched = await watch(WEB)
    del watched.host.containers[WEB.id]
    await watched.note("destroy", WEB)
    assert (await watched.refresh()).containers == {}
    assert len(watched.posted) == 1
    await watched.refresh(relist=True)  # one that was under way could have told of it still
    assert watched.inventory._news == {}


async def test_death_is_believed_at_once_without_asking() -> None:
    watched = await watch(WEB)
    watched.inventory.note(EngineEvent("die", WEB.id, 0, WEB.labels))
    assert [wake.urgent for wake in watched.posted] == [True]
    assert (await watched.refresh()).containers[WEB.id].state == "exited"
    assert watched.host.calls == []


async def test_a_list_does_not_bring_back_who_has_died() -> None:
    """Docker tells of a death before its list does; it answers about one container when it is done with it."""
    watched = await watch(WEB)
    letting = watched.host.hold(WEB.id)
    watched.inventory.note(EngineEvent("die", WEB.id, 0, WEB.labels))
    assert (await watched.refresh(relist=True)).containers[WEB.id].state == "exited"
    assert (await watched.refresh(relist=True)).containers[WEB.id].state == "exited"
    watched.host.containers[WEB.id] = dead = replace(WEB, state="exited", endpoints=())
    letting.set()
    await asyncio.sleep(0.001)
    assert (await watched.refresh(relist=True)).containers == {WEB.id: dead}
    watched.host.calls.clear()
    watched.host.containers[WEB.id] = WEB
    assert (await watched.refresh(relist=True)).containers == {WEB.id: WEB}
    assert watched.host.calls == ["list"]


@pytest.mark.parametrize("seen", ["by a list", "by an inspect"])
async def test_who_was_started_again_runs_though_no_event_says_so(seen: str) -> None:
    """That of its death came late, or that of its start never."""
    watched = await watch(WEB)
    watched.inventory.note(EngineEvent("die", WEB.id, 0, WEB.labels))
    if seen == "by a list":
        watched.host.containers[WEB.id] = replace(WEB, state="exited", endpoints=())
        await watched.refresh(relist=True)
    watched.host.containers[WEB.id] = again = container("web", {"host": "a.example"}, networks={"front": "10.0.0.77"})
    await watched.refresh(relist=True)
    await asyncio.sleep(0.001)
    assert (await watched.refresh()).containers == {WEB.id: again}


async def test_an_answer_from_before_a_death_is_not_believed() -> None:
    watched = await watch(WEB)
    letting = watched.host.hold(WEB.id)
    await watched.note("start", WEB)
    await watched.note("die", WEB)
    letting.set()
    await asyncio.sleep(0.001)
    assert (await watched.refresh()).containers[WEB.id].state == "exited"


async def test_of_two_answers_the_one_that_was_asked_last_counts() -> None:
    watched = await watch(WEB)
    letting = watched.host.hold(WEB.id)
    await watched.note("pause", WEB)
    watched.host.containers[WEB.id] = replace(WEB, health="healthy")
    del watched.host.held[WEB.id]
    await watched.note("unpause", WEB)
    letting.set()
    await asyncio.sleep(0.001)
    assert (await watched.refresh()).containers[WEB.id].health == "healthy"


@pytest.mark.parametrize("error", [EngineUnavailable("gone"), EngineRefused(500, "no")])
async def test_an_event_whose_container_could_not_be_read_asks_for_a_whole_list(error: Exception) -> None:
    watched = await watch(WEB)
    watched.host.fails = error
    await watched.note("start", WEB)
    assert [wake.relist for wake in watched.posted] == [True]


@pytest.mark.parametrize("action", ["create", "start", "kill", "die", "destroy"])
async def test_events_of_strangers_cost_nothing(action: str) -> None:
    watched = await watch(WEB, STRANGER)
    await watched.note(action, STRANGER, signal=15)
    assert (watched.host.calls, watched.posted) == ([], [])


async def test_an_event_without_labels_is_known_by_its_container() -> None:
    watched = await watch(WEB, STRANGER)
    await watched.note("connect", STRANGER, bare=True)
    assert watched.host.calls == []
    await watched.note("connect", WEB, bare=True)
    assert watched.host.calls == [WEB.id]


async def test_the_networks_that_a_container_is_given_before_it_starts_are_read_at_its_start() -> None:
    watched = await watch(replace(WEB, state="created"))
    watched.host.calls.clear()
    await watched.note("connect", WEB, bare=True)
    assert watched.host.calls == []


# ---------------------------------------------------------------- networks of others


async def test_a_container_that_lends_its_network_counts_although_it_has_no_label() -> None:
    lender = container("vpn")
    borrower = container("web", {"host": "a.example"}, mode="container:id-vpn", networks={})
    watched = await watch(borrower, lender)
    await watched.note("die", lender)
    assert [wake.urgent for wake in watched.posted] == [True]
    watched.host.containers[lender.id] = moved = replace(lender, endpoints=())
    await watched.note("start", borrower)
    assert watched.host.calls == [borrower.id, lender.id]
    assert (await watched.refresh()).containers[lender.id] == moved


# ---------------------------------------------------------------- signals


async def test_a_container_that_is_sent_its_stop_signal_is_stopping_at_once() -> None:
    watched = await watch(WEB)
    await watched.note("start", WEB)
    watched.posted.clear()
    watched.host.calls.clear()
    await watched.note("kill", WEB, signal=15)
    assert [wake.urgent for wake in watched.posted] == [True]
    assert watched.host.calls == []
    assert (await watched.refresh()).stopping == {WEB.id}


@pytest.mark.parametrize(
    ("own", "sent", "stopping"),
    [(15, 15, True), (15, 9, True), (3, 3, True), (3, 15, False), (15, 1, False), (15, 10, False), (15, 0, False)],
    ids=["TERM", "KILL", "its own QUIT", "TERM when it is QUIT", "HUP", "USR1", "an unknown one"],
)
async def test_only_its_own_stop_signal_and_kill_end_a_container(own: int, sent: int, stopping: bool) -> None:
    watched = await watch(WEB)
    watched.host.containers[WEB.id] = replace(WEB, stop_signal=own)
    await watched.note("kill", WEB, signal=sent)
    assert watched.host.calls == [WEB.id], "which signal ends it is asked, and only once"
    await watched.note("kill", WEB, signal=sent)
    assert watched.host.calls == [WEB.id]
    assert (WEB.id in (await watched.refresh()).stopping) is stopping
    assert bool(watched.posted) is stopping


async def test_a_container_that_does_not_run_is_not_stopping() -> None:
    watched = await watch(replace(WEB, state="exited"))
    await watched.note("kill", WEB, signal=9)
    assert (await watched.refresh()).stopping == frozenset()
    assert watched.posted == []


async def test_a_survivor_comes_back_after_its_stop_timeout() -> None:
    watched = await watch(WEB)
    watched.host.containers[WEB.id] = replace(WEB, stop_timeout=30.0)
    await watched.note("kill", WEB, signal=15)
    now = time.monotonic()
    assert (await watched.refresh(now=now + 30)).stopping == {WEB.id}
    assert (await watched.refresh(now=now + 31.1)).stopping == frozenset()


async def test_a_container_that_died_is_not_stopping_any_more() -> None:
    watched = await watch(WEB)
    await watched.note("kill", WEB, signal=15)
    await watched.note("die", WEB)
    assert (await watched.refresh()).stopping == frozenset()


async def test_a_container_that_died_and_was_started_again_between_two_snapshots_is_not_stopping() -> None:
    watched = await watch(WEB)
    await watched.note("kill", WEB, signal=15)
    await watched.note("die", WEB)
    await watched.note("start", WEB)
    snapshot = await watched.refresh()
    assert snapshot.containers[WEB.id].state == "running"
    assert snapshot.stopping == frozenset()


async def test_an_answer_about_a_signal_that_comes_after_the_next_start_says_nothing_about_that() -> None:
    watched = await watch(WEB)
    letting = watched.host.hold(WEB.id)
    await watched.note("kill", WEB, signal=15)
    del watched.host.held[WEB.id]
    await watched.note("die", WEB)
    await watched.note("start", WEB)
    letting.set()
    await asyncio.sleep(0.001)
    assert (await watched.refresh()).stopping == frozenset()


async def test_what_a_list_takes_is_not_what_reading_a_container_takes() -> None:
    """Else a container that the engine is busy with would put off the next list."""
    watched = Watched(replace(WEB, state="created"))
    reading = watched.host.hold(WEB.id)
    asyncio.get_running_loop().call_later(0.1, reading.set)
    await watched.refresh(relist=True)
    assert watched.host.calls == ["list", WEB.id]
    assert watched.inventory.took < 0.05


async def test_a_look_lists_the_containers_too() -> None:
    here = await watch(WEB)
    here.host.containers[STRANGER.id] = STRANGER
    assert STRANGER.id in (await here.inventory.refresh(Wake(look=True), time.monotonic())).containers
    assert here.host.calls == ["list"]


# ---------------------------------------------------------------- addresses that change hands


async def test_a_disconnect_is_believed_at_once_and_takes_the_address(  # an inspect would wait until the engine is done
) -> None:
    both = container("both", {"host": "a.example"}, networks={"front": "10.0.0.5", "back": "10.1.0.5"})
    here = await watch(both)
    here.host.hold(both.id)
    here.inventory.note(EngineEvent("disconnect", both.id, 0, None, "front"))
    (wake,) = here.posted
    assert wake.urgent
    assert [e.network for e in (await here.refresh()).containers[both.id].endpoints] == ["back"]
    assert here.host.calls == []


@pytest.mark.parametrize("how", ["die", "disconnect", "old workers"])
async def test_while_an_address_may_be_reused_every_container_that_starts_is_read(how: str) -> None:
    here = await watch(WEB)
    here.host.containers[STRANGER.id] = STRANGER
    await here.note("start", STRANGER)
    assert here.host.calls == []
    if how == "old workers":
        here.inventory.watch_addresses(always=True)
    else:
        here.inventory.note(EngineEvent(how, WEB.id, 0, WEB.labels, "front"))
    await here.note("start", STRANGER)
    assert here.host.calls == [STRANGER.id]
    assert STRANGER.id in (await here.refresh()).containers


async def test_a_list_in_the_middle_of_a_start_does_not_show_a_container_without_its_ports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is listed as created, which hides its ports, and the event of its start overtakes the inspect that would tell them."""
    here = await watch()

    async def list_containers() -> list[Container]:
        return [replace(WEB, state="created", exposed=(), endpoints=())]

    first, second = asyncio.Event(), asyncio.Event()
    gates = iter([first, second])

    async def inspect(_: str) -> Container:
        await next(gates).wait()
        return WEB

    monkeypatch.setattr(here.host, "list_containers", list_containers)
    monkeypatch.setattr(here.host, "inspect", inspect)
    looking = asyncio.create_task(here.inventory.refresh(Wake(look=True), time.monotonic()))
    await asyncio.sleep(0.01)
    await here.note("start", WEB)
    first.set()
    assert (await looking).containers.get(WEB.id, WEB).exposed == WEB.exposed
    second.set()
    await asyncio.sleep(0.01)
    assert (await here.refresh()).containers == {WEB.id: WEB}


# ---------------------------------------------------------------- what is only created


LIKE_WEB = container("other", {"host": "b.example"})


@pytest.mark.parametrize(
    ("new", "read"),
    [
        pytest.param(LIKE_WEB, False, id="another name"),
        pytest.param(container("other", {"host": "a.example"}), False, id="another one of it"),
        pytest.param(container("other", {"host": "another.example"}), True, id="a longer name"),
        pytest.param(container("other", {"host": "*.b.example"}), True, id="a wildcard"),
        pytest.param(container("other", {"host": "b.example", "service": "b"}), True, id="a service"),
        pytest.param(container("other", {"host": "b.example", "path": "/git"}), True, id="another path"),
        pytest.param(container("other", {"host": "b.example", "routes.x.host": "c.example"}), True, id="another route"),
        pytest.param(container("other", {"host": "b.example", "version": "2"}), True, id="a version"),
        pytest.param(replace(LIKE_WEB, image="another"), True, id="another image"),
    ],
)
async def test_what_is_like_a_running_one_is_read_when_it_starts_and_not_before(new: Container, *, read: bool) -> None:
    watched = await watch(WEB)
    watched.host.containers[new.id] = replace(new, state="created")
    event = EngineEvent("create", new.id, 0, {**new.labels, "image": new.image, "name": new.name})
    watched.inventory.note(event)
    await asyncio.sleep(0.01)
    assert watched.host.calls == ([new.id] if read else [])
    watched.host.containers[new.id] = new
    await watched.note("start", new)
    assert watched.host.calls.count(new.id) == 1 + read
    assert (await watched.refresh()).containers[new.id] == new


@pytest.mark.parametrize(
    ("network", "project", "read"),
    [("shared", "a", False), ("shared", "b", False), ("a_default", "a", False), ("a_default", "b", True)],
)
async def test_one_of_another_project_is_read_before_it_starts_where_each_has_networks_of_its_own(
    network: str, project: str, *, read: bool
) -> None:
    known = container("web", {"host": "a.example"}, networks={network: "10.0.0.5"})
    watched = await watch(replace(known, labels={**known.labels, PROJECT: "a"}))
    watched.inventory.note(EngineEvent("create", "new", 0, {**LIKE_WEB.labels, "image": known.image, PROJECT: project}))
    await asyncio.sleep(0.01)
    assert watched.host.calls == (["new"] if read else [])


async def test_one_that_is_like_a_dead_one_is_read_before_it_starts() -> None:
    watched = await watch(replace(WEB, state="exited"))
    watched.host.calls.clear()
    watched.inventory.note(EngineEvent("create", "new", 0, {**LIKE_WEB.labels, "image": WEB.image}))
    await asyncio.sleep(0.01)
    assert watched.host.calls == ["new"]


async def test_one_that_cannot_be_inspected_is_no_matter_of_the_others() -> None:
    broken = replace(STRANGER, state="exited", labels=WEB.labels)
    watched = Watched(WEB, broken)
    watched.host.refuses[broken.id] = EngineRefused(500, "RWLayer of container is unexpectedly nil")
    assert (await watched.refresh()).containers == {WEB.id: WEB, broken.id: broken}
    del watched.host.refuses[broken.id]
    watched.host.containers[broken.id] = replace(broken, exposed=(81,))
    assert (await watched.refresh(relist=True)).containers[broken.id].exposed == (81,)


async def test_an_end_that_the_engine_is_long_about_is_looked_at_once_at_a_time() -> None:
    watched = await watch(WEB)
    answer = watched.host.hold(WEB.id)
    await watched.note("die", WEB)
    for _ in range(5):
        await watched.refresh(relist=True)
        await asyncio.sleep(0)
    assert watched.host.calls.count(WEB.id) == 1
    answer.set()


BOTH = replace(WEB, endpoints=(*WEB.endpoints, replace(WEB.endpoints[0], network="second", ipv4="10.9.0.2")))


async def test_a_network_that_it_joined_is_known_though_it_left_another_before_the_answer() -> None:
    watched = await watch(WEB)
    watched.host.containers[WEB.id] = BOTH
    answer = watched.host.hold(WEB.id)
    await watched.note("connect", WEB, bare=True)
    watched.host.containers[WEB.id] = moved = replace(BOTH, endpoints=BOTH.endpoints[1:])
    watched.inventory.note(EngineEvent("disconnect", WEB.id, 0, None, WEB.endpoints[0].network))
    answer.set()
    await asyncio.sleep(0.01)
    assert (await watched.refresh()).containers == {WEB.id: moved}


@pytest.mark.parametrize("known", [True, False])
async def test_a_network_that_it_joins_in_the_middle_of_its_start_is_known(*, known: bool) -> None:
    watched = await watch(*([replace(WEB, state="created")] if known else []))
    watched.host.containers[WEB.id] = WEB
    answer = watched.host.hold(WEB.id)
    await watched.note("start", WEB)
    watched.host.containers[WEB.id] = BOTH
    await watched.note("connect", WEB, bare=True)
    answer.set()
    await asyncio.sleep(0.01)
    assert (await watched.refresh()).containers == {WEB.id: BOTH}


async def test_a_container_has_the_image_that_it_was_made_from_when_the_name_has_moved_on() -> None:
    moved = replace(WEB, image="sha256:0123")
    watched = Watched(moved)
    watched.host.inspected[WEB.id] = WEB
    for _ in range(2):
        assert (await watched.refresh(relist=True)).containers == {WEB.id: WEB}
    assert watched.host.calls == ["list", WEB.id, "list"]


async def test_a_network_that_it_is_given_while_its_creation_is_read_is_read_at_its_start() -> None:
    """The engine would answer only when it has started it: an inspect more for each of hundreds that start at once."""
    created = replace(WEB, state="created")
    watched = await watch(STRANGER)
    watched.host.containers[WEB.id] = created
    answer = watched.host.hold(WEB.id)
    await watched.note("create", WEB)
    await watched.note("connect", WEB, bare=True)
    answer.set()
    await asyncio.sleep(0.01)
    assert watched.host.calls == [WEB.id]


async def test_a_start_that_hangs_holds_up_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "READ_WITHIN", 0.05)
    hanging = replace(STRANGER, state="created", labels=WEB.labels)
    watched = Watched(WEB, hanging)
    watched.host.hold(hanging.id)
    for _ in range(3):
        assert (await watched.refresh(relist=True)).containers == {WEB.id: WEB, hanging.id: hanging}
    assert watched.host.calls.count(hanging.id) == 1
    monkeypatch.setattr(inventory, "READ_AGAIN", 0.0)
    watched.inventory._not_before.clear()
    watched.host.held.clear()
    watched.host.containers[hanging.id] = replace(hanging, exposed=(81,))
    assert (await watched.refresh(relist=True)).containers[hanging.id].exposed == (81,)


async def test_a_start_that_hung_and_is_gone_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "READ_WITHIN", 0.01)
    hanging = replace(STRANGER, state="created", labels=WEB.labels)
    watched = Watched(WEB, hanging)
    watched.host.hold(hanging.id)
    await watched.refresh(relist=True)
    assert watched.inventory._not_before.keys() == {hanging.id}
    del watched.host.containers[hanging.id]
    await watched.refresh(relist=True)
    assert not watched.inventory._not_before


@pytest.mark.parametrize("removed", [False, True])
async def test_a_list_that_was_taken_before_a_look_ended_does_not_bring_back_who_has_died(*, removed: bool) -> None:
    """Seen on a busy engine: the list says running, the look that it leads to says exited, and a list of meanwhile is late."""
    watched = await watch(WEB)
    await watched.note("die", WEB)
    after = {} if removed else {WEB.id: replace(WEB, state="exited")}
    watched.host.inspected[WEB.id] = after.get(WEB.id)
    looked = watched.host.hold(WEB.id)
    await watched.refresh(relist=True)
    await asyncio.sleep(0.01)
    listed = watched.host.hold("list")
    late = asyncio.create_task(watched.refresh(relist=True))
    await asyncio.sleep(0.01)
    looked.set()
    await asyncio.sleep(0.01)
    listed.set()
    assert (await late).containers == after
    watched.host.containers = after
    assert (await watched.refresh(relist=True)).containers == after
    assert watched.inventory._news.keys() == after.keys()
