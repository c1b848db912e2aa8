"""The controller over time: networks, a configuration that changes, restarts, and what must stay bounded."""

from __future__ import annotations

import asyncio
import errno
import math
import time
from collections.abc import Collection
from dataclasses import replace

import pytest
import structlog

from proxyctl import controller, leaving, publication
from proxyctl.model import Container, EngineEvent, EngineUnavailable, Neighbours, Plan
from proxyctl.plan import routes
from proxyctl.plan.ownership import ClaimRule
from proxyctl.publish import nginx
from proxyctl.publish.nginx import NginxInstance
from proxyctl.report import Wake
from proxyctl.state import State, StateStore
from proxyctl.versions import Illegal, Word
from tests.unit import bench, make
from tests.unit.controlled import API, RELIST, WEB, Rig, policy, site, waiting

# ---------------------------------------------------------------- networks


async def test_nginx_joins_the_network_of_a_newcomer_and_leaves_it_with_the_last_one(rig: Rig) -> None:
    await rig.live(WEB)
    assert "front" in rig.engine.networks
    assert rig.store.load().joined == {"front"}
    await rig.remove(WEB)
    assert "front" not in rig.engine.networks
    assert rig.engine.did("disconnect") == [("front", bench.NGINX)]
    assert rig.controller.state.joined == frozenset()
    assert rig.store.load().addresses == {"front": ("10.0.0.254",)}, "where it will be the next time"


async def test_a_network_that_could_not_be_left_is_left_in_the_next_cycle(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.live(WEB)
    disconnect = rig.engine.disconnect_network

    async def lost(network: str, container: str) -> None:
        raise EngineUnavailable(f"{container} is still in {network}")

    monkeypatch.setattr(rig.engine, "disconnect_network", lost)
    assert (await rig.remove(WEB)).result == "unreadable"
    monkeypatch.setattr(rig.engine, "disconnect_network", disconnect)
    await rig.cycle()
    assert "front" not in rig.engine.networks


async def test_a_network_that_cannot_be_left_yet_is_left_a_little_later(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.live(WEB)
    monkeypatch.setattr(nginx, "YOUNG", math.inf)
    report = await rig.remove(WEB)
    assert report.error == ""
    assert rig.controller.state.joined == {"front"}
    assert waiting("nginx has just been started")
    monkeypatch.setattr(nginx, "YOUNG", 0.0)
    await rig.cycle(Wake(("nginx has just been started",)))
    assert "front" not in rig.engine.networks
    assert rig.controller.state.joined == frozenset()


async def test_a_network_that_nginx_was_in_before_is_not_left(rig: Rig) -> None:
    rig.engine.networks["front"] = "10.0.0.1"
    await rig.live(WEB)
    await rig.remove(WEB)
    assert rig.engine.did("disconnect") == []


async def test_a_network_that_refuses_nginx_harms_only_its_own_containers(rig: Rig) -> None:
    rig.engine.closed_networks = {"closed"}
    report = await rig.cycle(RELIST, WEB, site("far", network="closed"))
    assert (report.result, report.error) == ("live", "")
    assert [(r.container, r.reason) for r in rig.reports[0].rejections] == [("far", "unreachable")], "in the first cycle already"
    assert [(r.container, r.reason) for r in report.rejections] == [("far", "unreachable")]
    assert "server 10.0.0.5:80" in rig.served()
    for _ in range(3):
        again = await rig.cycle()
        assert (again.result, [(r.container, r.reason) for r in again.rejections]) == ("unchanged", [("far", "unreachable")])
    rig.engine.closed_networks = set()
    assert (await rig.cycle()).result + (await rig.cycle()).result in ("liveunchanged", "unchangedlive")


async def test_who_owns_what_is_the_same_after_a_restart(rig: Rig) -> None:
    """Where those who asked later are the older containers, so that only the state knows who was first."""

    def of(project: str, name: str, created: float, host: str = "shop.example", **said: str) -> Container:
        return site(name, host, created=created, compose=f"{project}/{name}", said=said)

    rule = ClaimRule(hosts=("ruled.example",), projects=("shop",))
    rig.controller.offer(replace(policy(), claims=(rule,)))
    first = (
        of("shop", "web", 50.0),
        of("shop", "api", 51.0, path="/api"),
        of("shop", "pool", 52.0, "pool.example", service="pool"),
    )
    await rig.live(*first, of("shop", "ruled", 53.0, "ruled.example"))
    await rig.cycle(
        RELIST,
        of("thief", "whole", 1.0),
        of("thief", "below", 2.0, path="/login"),
        of("thief", "same", 3.0, path="/api"),
        of("thief", "joins", 4.0, "pool.example", service="pool"),
        of("thief", "breaks", 5.0, "ruled.example"),
        of("thief", "free", 6.0, "free.example"),
    )

    def answer() -> tuple[object, ...]:
        plan = rig.controller.plan
        assert plan
        return make.serving(plan.table), sorted(make.refusals(plan)), plan.owners

    before = answer()
    assert before[0] == {
        "free.example/": ["free"],
        "pool.example/": ["joins", "pool"],
        "ruled.example/": ["ruled"],
        "shop.example/": ["web"],
        "shop.example/api": ["api"],
    }
    assert before[1] == [
        ("below", "host-taken"),
        ("breaks", "not-allowed"),
        ("same", "host-taken"),
        ("whole", "host-taken"),
    ]
    for _ in range(3):
        rig.build()
        rig.controller.offer(replace(policy(), claims=(rule,)))
        await rig.cycle()
        assert answer() == before


# ---------------------------------------------------------------- files that somebody else changes


@pytest.mark.parametrize("turned", [False, True])
async def test_the_mark_of_this_boot_is_put_back_when_nginx_finds_its_sites_by_it(rig: Rig, turned: bool) -> None:
    waits = policy()
    rig.controller.offer(replace(waits, nginx=replace(waits.nginx, wait_after_boot=True)))
    await rig.wakes.next()
    await rig.live(WEB)
    mark = rig.engine.directory / "boot" / "live"
    mark.unlink()
    if turned:
        mark.symlink_to("/nowhere")
    await rig.controller.look_at_files()
    wake = await asyncio.wait_for(rig.wakes.next(), 1)
    assert wake.reasons == ("somebody else changed the files of nginx",)
    assert (await rig.cycle(wake)).result == "live"
    assert mark.readlink() == rig.conf
    assert (await rig.cycle()).result == "unchanged"


async def test_a_runtime_directory_that_was_replaced_is_told_and_nginx_not_signalled_until_it_was_restarted(rig: Rig) -> None:
    """It has the old one mounted, and would find no sites."""
    waits = policy()
    rig.controller.offer(replace(waits, nginx=replace(waits.nginx, wait_after_boot=True)))
    await rig.live(WEB)
    boot = rig.engine.directory / "boot"
    boot.rename(rig.engine.directory / "before")
    for wake in (RELIST, RELIST, Wake(("test",))):
        report = await rig.cycle(wake, API)
        assert (report.result, "docker restart nginx" in report.error) == ("failed", True)
        boot.mkdir(exist_ok=True)
    assert rig.engine.did("kill") == []
    rig.engine.started += 1
    assert (await rig.cycle()).result == "live"
    assert (boot / "live").readlink() == rig.conf


async def test_the_mark_is_nobodys_matter_when_nginx_does_without(rig: Rig) -> None:
    """A controller in a container may have a runtime directory of its own, which ends with it: no reload for that."""
    await rig.live(WEB)
    (rig.engine.directory / "boot" / "live").unlink()
    assert (await rig.cycle()).result == "unchanged"
    rig.build()
    assert (await rig.cycle()).result == "unchanged"


# ---------------------------------------------------------------- configuration that changes


async def test_an_offered_configuration_is_taken_over_when_nginx_accepts_it(rig: Rig) -> None:
    await rig.live(WEB)
    templates = make.templates()
    offered = policy(templates | {"sites.j2": templates["sites.j2"].replace("75s", "76s")})
    rig.controller.offer(offered)
    assert (await rig.cycle(await rig.wakes.next())).result == "live"
    assert rig.controller.policy is offered
    assert "keepalive_timeout 76s" in rig.served()


async def test_an_offered_configuration_waits_while_files_of_somebody_else_are_broken(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = await rig.live(WEB)
    look = rig.parts.nginx.look

    async def broken() -> NginxInstance:
        found = await look()
        return replace(found, view=replace(found.view, neighbours=Neighbours(refused="their file is broken")))

    monkeypatch.setattr(rig.parts.nginx, "look", broken)
    rig.engine.refuses = lambda _: "their file is broken"
    templates = make.templates()
    rig.controller.offer(policy(templates | {"sites.j2": templates["sites.j2"].replace("75s", "76s")}))
    report = await rig.cycle()
    assert (report.result, "their file is broken" in report.error, report.rejections) == ("refused", True, ())
    assert rig.reference.current() == rig.nginx.running == good.digest
    monkeypatch.undo()
    rig.engine.refuses = lambda _: ""
    assert (await rig.cycle()).result == "live"
    assert "keepalive_timeout 76s" in rig.served()


@pytest.mark.parametrize("template", ["{{ nonsense }}", "{% if %}", "{{ 1 / 0 }}"])
async def test_an_offered_template_that_is_wrong_is_dropped(template: str, rig: Rig) -> None:
    await rig.live(WEB)
    before = rig.controller.policy
    rig.controller.offer(policy(make.templates(server=template)))
    report = await rig.controller.cycle(await rig.wakes.next())
    assert (report.result, report.error, bool(report.declined)) == ("unchanged", "", True), "nginx runs what is in effect"
    assert rig.controller.policy is before
    assert not (await rig.cycle()).declined
    assert rig.engine.did("kill") == []


async def test_an_offered_template_that_nginx_refuses_is_dropped(rig: Rig) -> None:
    await rig.live(WEB)
    before = rig.controller.policy
    rig.engine.refuses = lambda text: "unknown directive" if "nonsense" in text else ""
    rig.controller.offer(policy(make.templates(server="nonsense;")))
    report = await rig.controller.cycle(await rig.wakes.next())
    assert (report.result, report.error) == ("unchanged", "")
    assert "unknown directive" in report.declined
    assert rig.controller.policy is before
    assert (await rig.cycle(RELIST, API)).result == "live"


@pytest.mark.parametrize("template", ["{{ nonsense }}", "nonsense;", "# {{ name }}\n"], ids=["wrong", "refused", "good"])
async def test_an_offer_that_the_engine_could_not_hear_is_judged_in_the_next_cycle(template: str, rig: Rig) -> None:
    await rig.live(WEB)
    before = rig.controller.policy
    rig.engine.refuses = lambda text: "unknown directive" if "nonsense" in text else ""
    offered = policy(make.templates(server=template))
    rig.controller.offer(offered)
    rig.engine.unreadable = True
    report = await rig.cycle(Wake(("again",)))
    assert report.declined or report.result in ("unreadable", "failed")
    assert rig.controller.policy is before
    rig.engine.unreadable = False
    await rig.cycle()
    await rig.cycle()
    assert rig.controller.policy is (offered if template.startswith("#") else before)
    assert rig.controller.in_sync


# ---------------------------------------------------------------- a controller that ends and comes back


async def test_a_restart_of_the_controller_sends_no_signal_and_trusts_what_was_live(rig: Rig) -> None:
    checked = site("web", said={"health.type": "tcp", "health.interval": "1h"})
    rig.store.save(State(bench.TOKEN, live_targets=frozenset(make.decide([checked]).probes)))
    rig.build()
    good = await rig.live(checked)
    rig.build()
    report = await rig.cycle()
    assert (report.result, report.digest) == ("unchanged", good.digest)
    assert rig.engine.did("kill") == rig.engine.did("test") == []
    await rig.remove(checked)
    assert rig.store.load().live_targets == frozenset()


async def test_a_controller_that_died_between_the_rename_and_the_signal_goes_on_there(rig: Rig) -> None:
    await rig.live(WEB)
    rig.nginx.ignores = lambda _: True
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await rig.cycle(RELIST, API)
    assert rig.reference.current() != rig.nginx.running
    known = StateStore(rig.engine.directory / "state").load().live_targets
    assert {target.container_id for target, _ in known} == {WEB.id, API.id}, "nginx may know both"
    rig.nginx.ignores = lambda _: False
    rig.build()
    rig.reports.clear()
    await rig.cycle()
    assert rig.reports[0].result == "live"
    assert rig.nginx.running == rig.reference.current()
    assert "api.example" in rig.served()


async def test_after_a_restart_what_was_read_from_the_disk_is_not_kept_beside_what_it_says(rig: Rig) -> None:
    """With 10,000 containers that was 6 MiB."""
    await rig.live(WEB)
    rig.build()
    await rig.cycle()
    assert rig.controller.plan
    assert rig.controller.state.owners is rig.controller.plan.owners


async def test_what_waits_for_its_first_target_is_written_down_when_it_goes_live(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 10,000 containers each writing is 4 MB."""
    await rig.live(WEB)
    before = rig.store.load()
    slow = site("slow", said={"health.type": "tcp", "port": "1"}, address="127.0.0.1")
    assert (await rig.cycle(RELIST, slow)).result == "unchanged"
    assert rig.store.load() == before
    with monkeypatch.context() as patch:
        patch.setattr(routes, "WARM_UP", 0.0)
        assert (await rig.cycle()).result == "live"
    assert "slow.example" in rig.store.load().owners


async def test_what_waits_for_its_first_target_for_long_is_written_down_all_the_same(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new container that starts over and over is never live, and its claim holds over a restart."""
    await rig.live(WEB)
    slow = site("slow", said={"health.type": "tcp", "port": "1"}, address="127.0.0.1")
    await rig.cycle(RELIST, slow)
    assert "slow.example" not in rig.store.load().owners
    monkeypatch.setattr(controller, "WRITTEN_WITHIN", 0.0)
    assert (await rig.cycle()).result == "unchanged"
    assert "slow.example" in rig.store.load().owners


async def test_the_owner_of_a_host_is_the_same_after_a_restart(rig: Rig) -> None:
    await rig.live(site("young", host="a.example", created=200.0))
    rig.build()
    report = await rig.cycle(RELIST, site("old", host="a.example", created=100.0))
    assert [(r.container, r.reason) for r in report.rejections] == [("old", "host-taken")]


# ---------------------------------------------------------------- bounds


async def test_failures_in_a_row_have_one_next_try_between_them(rig: Rig) -> None:
    rig.engine.unreadable = True
    for _ in range(20):
        await rig.cycle()
    assert len(waiting("try again")) == 1


async def test_a_failure_is_tried_again_soon_at_first_and_then_less_often(rig: Rig) -> None:
    loop = asyncio.get_running_loop()
    rig.engine.unreadable = True
    pauses = []
    for _ in range(8):
        await rig.cycle()
        (timer,) = waiting("try again")
        pauses.append(round(timer.when() - loop.time(), 1))
        timer.cancel()
    assert pauses == [1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0]


async def test_what_was_put_back_is_tried_again_at_once_and_then_as_after_every_failure(rig: Rig) -> None:
    """The culprit is known by then, and the rest need not wait for what was refused."""
    loop = asyncio.get_running_loop()
    good = (await rig.live(WEB)).digest
    rig.nginx.refuses = lambda digest: "" if digest == good else "bind() failed"
    pauses = []
    for name in ("bad", "worse"):
        rig.engine.put(site(name))
        assert (await rig.controller.cycle(RELIST)).result == "restored"
        (timer,) = waiting("try again")
        pauses.append(round(timer.when() - loop.time(), 1))
        timer.cancel()
    assert pauses == [0.0, 2.0]


async def test_an_engine_that_is_away_for_days_does_not_end_the_controller(rig: Rig) -> None:
    rig.engine.unreadable = True
    rig.controller._timers._failures = 5000
    assert (await rig.cycle()).result == "unreadable"


async def test_a_place_that_warms_up_has_one_timer_however_many_events_come(rig: Rig) -> None:
    slow = site("slow", said={"health.type": "tcp", "port": "1"}, address="127.0.0.1")
    for _ in range(10):
        await rig.cycle(RELIST, slow)
    assert len(waiting("warming up")) == 1


async def test_reloads_are_paced_while_it_storms_and_something_urgent_is_not(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publication, "BURST", 2)
    monkeypatch.setattr(publication, "RATE", 1 / 3)
    rig.build()
    rig.runs = True
    running = asyncio.create_task(rig.controller.run())
    began = time.monotonic()

    async def served_after(name: str) -> float:
        rig.engine.put(site(name))
        rig.wakes.post(Wake((f"start {name}",), relist=True))
        await rig.until(lambda: f"server_name {name}.example;" in rig.served())
        return time.monotonic() - began

    assert await served_after("one") < 2.5
    assert await served_after("two") < 2.5
    rig.inventory.note(EngineEvent("die", "id-one", 0, site("one").labels))
    await rig.until(lambda: "Retry-After 2 " in rig.served().partition("server_name one.example;")[2])
    assert time.monotonic() - began < 2.9
    assert await served_after("three") >= 3.0
    running.cancel()
    await asyncio.wait([running])


async def test_what_is_urgent_is_in_the_very_next_cycle_when_it_ends_a_pause(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publication, "BURST", 1)
    monkeypatch.setattr(publication, "RATE", 0.1)
    rig.build()
    await rig.live(WEB)
    running = asyncio.create_task(rig.controller.run())
    rig.reports.clear()
    rig.wakes.post(Wake(("start api",)))
    await asyncio.sleep(0.02)
    rig.inventory.note(EngineEvent("die", WEB.id, 0, WEB.labels))
    await rig.until(lambda: rig.reports)
    assert rig.reports[0].reasons == ("start api", "die id-web")
    assert rig.reports[0].result == "live"
    running.cancel()
    await asyncio.wait([running])


async def test_files_that_no_generation_needs_are_collected(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publication, "KEEP_GENERATIONS", 2)
    rig.build()
    for number in range(6):
        await rig.live(site("web", address=f"10.0.0.{number + 1}"))
    await rig.cycle()
    mains = sorted(path.stem for path in (rig.conf / "mains").iterdir())
    assert len(mains) == 2
    assert rig.reference.current() in mains
    assert "server 10.0.0.6:80" in rig.served()


# ---------------------------------------------------------------- our own faults


async def test_a_fault_of_our_own_is_logged_with_its_traceback_and_the_next_cycle_goes_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.live(WEB)
    with monkeypatch.context() as broken, structlog.testing.capture_logs() as logs:
        broken.setattr(rig.controller._planner, "plan", lambda _: dict[str, Plan]()["missing"])
        reports = [await rig.cycle(RELIST, API) for _ in range(2)]
    assert {(report.result, report.error) for report in reports} == {
        ("failed", "internal error, see the log: KeyError: 'missing'")
    }
    (logged,) = [entry for entry in logs if entry["event"] == "internal error"]
    assert isinstance(logged["exc_info"], KeyError)
    assert (await rig.cycle()).result == "live"


# ---------------------------------------------------------------- a host that is given away


async def test_a_released_host_goes_to_who_asks_for_it_at_once(rig: Rig) -> None:
    before = site("old", "a.example", compose="before/web")
    after = site("new", "a.example", "10.0.0.6", compose="after/web")
    await rig.live(before)
    with pytest.raises(Illegal, match="is served by old"):
        await rig.controller.release("a.example", "anna")
    await rig.remove(before)
    await rig.cycle(RELIST, after)
    assert [rejection.reason for rejection in rig.reports[-1].rejections] == ["host-taken"]
    assert await rig.controller.release("a.example", "anna") == "before.web"
    rig.build()
    await rig.cycle(RELIST, after)
    assert "10.0.0.6" in rig.served(), "also when the controller ends before it has decided"
    with pytest.raises(Illegal, match=r"no service has the host b\.example; hosts that are taken: a\.example"):
        await rig.controller.release("b.example", "anna")


# ---------------------------------------------------------------- a host that is to be left


async def test_a_host_is_left_in_steps_that_survive_a_restart(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.live(WEB)
    assert 'return 200 "ready' in rig.served()
    await rig.controller.change_drain(0.3, "anna")
    reports = [await rig.cycle(Wake(("drained by anna",)))]
    assert (rig.phase(), 'return 503 "noticing' in rig.served()) == ("noticing", True)
    assert waiting("the balancer has noticed")
    rig.build()
    reports.append(await rig.cycle())
    assert rig.phase() == "noticing"
    await asyncio.sleep(0.31)
    reports.append(await rig.cycle(Wake(("the balancer has noticed",))))
    assert (rig.phase(), 'return 503 "ending' in rig.served()) == ("ending", True), "old workers have requests"
    assert waiting("requests end")
    rig.nginx.ending.clear()
    monkeypatch.setattr(leaving, "AT_LEAST", 0.1)
    reports.append(await rig.cycle(Wake(("requests end",))))
    assert rig.phase() == "ending", "the last bytes are on their way"
    await asyncio.sleep(0.11)
    reports.append(await rig.cycle(Wake(("requests end",))))
    assert rig.phase() == "drained"
    await rig.controller.change_drain(None, "anna")
    reports.append(await rig.cycle(Wake(("undrained by anna",))))
    assert rig.phase() == "serving"
    assert 'return 200 "ready' in rig.served()
    assert [report.error for report in reports] == [""] * 6
    assert "server_name web.example" in rig.served(), "what is served is the same all the while"


async def test_a_drain_that_cannot_be_written_down_is_none(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: State) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    await rig.live(WEB)
    monkeypatch.setattr(rig.store, "save", full)
    with pytest.raises(OSError, match="No space"):
        await rig.controller.change_drain(1.0, "anna")
    assert rig.controller.state.drain is None


async def test_a_word_that_cannot_be_written_down_was_not_said(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: State) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    await rig.live(WEB)
    with monkeypatch.context() as patched:
        patched.setattr(rig.store, "save", full)
        with pytest.raises(OSError, match="No space"):
            await rig.controller.say("web", Word("maintenance", 1))
        with pytest.raises(OSError, match="No space"):
            await rig.controller.freeze(on=True, who="anna")
    assert (await rig.cycle(RELIST)).result == "unchanged"
    assert "Maintenance" not in rig.served()
    assert not rig.controller.frozen


async def test_a_network_that_a_call_without_an_answer_has_joined_is_left_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = rig.engine.connect_network

    async def unanswered(network: str, container: str, known: Collection[str] = ()) -> tuple[str, ...]:
        await connect(network, container, known)
        raise EngineUnavailable("timed out")

    await rig.live(WEB)
    other = site("other", network="othernet", address="10.9.0.5")
    with monkeypatch.context() as patched:
        patched.setattr(rig.engine, "connect_network", unanswered)
        assert (await rig.cycle(RELIST, other)).result == "unreadable"
    assert (await rig.cycle(RELIST)).result == "live"
    assert "othernet" in rig.engine.networks
    await rig.remove(other)
    assert "othernet" not in rig.engine.networks


async def test_an_operator_is_heard_just_after_nginx_has_left_a_network(rig: Rig) -> None:
    other = site("other", network="othernet", address="10.9.0.5")
    await rig.live(WEB, other)
    await rig.remove(other)
    assert rig.controller.state.joined == {"front"}
    assert await rig.controller.say("web", Word("maintenance", 1))
