"""Whole cycles over a miniature host: real planning, files and proofs, an engine and an nginx that can fail in every way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxyctl import controller as controlling
from proxyctl.controller import Controller, Parts, Policy
from proxyctl.model import Container, CycleReport, EngineEvent, EngineUnavailable, RouteTable, Wake
from proxyctl.observe.events import Wakes
from proxyctl.observe.inventory import Inventory
from proxyctl.observe.probes import Prober
from proxyctl.plan.vhosts import Renderer
from proxyctl.publish import reload
from proxyctl.publish import test as testing
from proxyctl.publish.draft import Drafts
from proxyctl.publish.nginx import NginxContainer
from proxyctl.publish.promote import Reference
from proxyctl.publish.reload import Reloader
from proxyctl.state import State, StateStore
from tests.unit import bench, crash, make

RELIST = Wake(("test",), relist=True)


def site(name: str, host: str = "", address: str = "10.0.0.5", **more: Any) -> Container:
    """Healthy without being asked, so that no test waits for a check."""
    said = {"host": host or f"{name}.example", "health.type": "none"}
    return make.container(name, said | more.pop("said", {}), networks={more.pop("network", "front"): address}, **more)


WEB, API = site("web"), site("api")
BEFORE = site("web", state="created")


def policy(templates: Mapping[str, str] | None = None, files: Mapping[str, str] | None = None) -> Policy:
    settings = make.settings(bench.TOKEN, wait_after_boot=False)
    return Policy(
        make.defaults(), join=True, nginx=settings, renderer=Renderer(templates or make.templates()), operator_files=files or {}
    )


class Rig:
    """A controller on a host. `again()` is the controller after a restart."""

    def __init__(self, directory: Path) -> None:
        bench.folders(directory)
        self.conf = directory / "conf"
        self.engine = bench.Engine(directory)
        self.nginx = self.engine.nginx
        self.store = StateStore(directory / "state")
        (directory / "state").mkdir()
        self.reports: list[CycleReport] = []
        self.controllers: list[Controller] = []
        self.build()

    def _changed(self, *_: object) -> None:
        self.news = True

    def build(self) -> None:
        self.wakes = Wakes()
        self.inventory = Inventory(self.engine, "proxyctl", self.wakes.post)
        self.reference = Reference(self.conf, self.engine.directory / "boot", str(self.conf))
        drafts = Drafts(self.conf)
        drafts.prepare()
        parts = Parts(
            inventory=self.inventory,
            prober=Prober(self._changed),
            container=NginxContainer(self.engine, bench.spec(self.engine.directory)),
            drafts=drafts,
            tester=testing.Tester(self.engine),
            reference=self.reference,
            reloader=Reloader(self.engine, bench.TOKEN),
            store=self.store,
            wakes=self.wakes,
        )
        self.parts = parts
        state = self.store.load()
        self.controller = Controller(parts, policy(), replace(state, token=bench.TOKEN), self.reports.append)
        self.controllers.append(self.controller)

    async def cycle(self, wake: Wake = RELIST, *containers: Container) -> CycleReport:
        """With these containers beside those that are there. What that lets the prober find out is in it too."""
        self.engine.put(*containers)
        self.news = False
        report = await self.controller.cycle(wake)
        return await self.controller.cycle(replace(wake, relist=False)) if self.news else report

    async def live(self, *containers: Container) -> CycleReport:
        report = await self.cycle(RELIST, *containers)
        assert (report.result, report.error) == ("live", "")
        self.engine.calls.clear()
        return report

    async def remove(self, container: Container) -> CycleReport:
        del self.engine.containers[container.id]
        return await self.cycle()

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not true():  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.005)

    def served(self) -> str:
        """All that nginx reads now."""
        return bench.whole(self.conf / (self.conf / "nginx.conf").readlink())


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    for name, seconds in {"RETIRE_AFTER": 0.01, "LOG_AFTER": 0.04, "SIGNAL_AGAIN": 0.1, "GIVE_UP": 0.25}.items():
        monkeypatch.setattr(reload, name, seconds)
    rig = Rig(tmp_path)
    async with rig.nginx.listening():
        await rig.live()
        rig.reports.clear()
        yield rig
        for controller in rig.controllers:
            await controller.close()


# ---------------------------------------------------------------- what goes well


async def test_a_labelled_container_is_served_and_proved_live(rig: Rig) -> None:
    report = await rig.cycle(Wake(("start",), relist=True, at=time.monotonic()), WEB)
    assert (report.result, report.error, report.reloads, report.number) == ("live", "", 2, 3)
    assert report.digest == rig.nginx.running == rig.reference.current()
    assert report.changes == ("+ web.example/ -> web",)
    assert report.event_to_live is not None
    assert 0 < report.event_to_live < 2
    assert {"read", "plan", "render", "test", "promote", "prove"} <= report.stages.keys()
    assert "server_name web.example;" in rig.served()
    assert rig.controller.in_sync
    assert rig.reports[-1] is report


async def test_a_cycle_that_changes_nothing_touches_nothing(rig: Rig) -> None:
    await rig.live(WEB)
    with crash.at(0, OSError) as steps:
        report = await rig.cycle(Wake(("probe",)))
    assert (report.result, report.error, report.reloads, steps) == ("unchanged", "", 2, [])
    assert rig.engine.calls == []


async def test_a_resync_asks_nginx_and_sends_no_signal(rig: Rig) -> None:
    await rig.live(WEB)
    assert (await rig.cycle()).result == "unchanged"
    assert rig.engine.did("kill") == rig.engine.did("test") == []
    assert rig.engine.did("processes")


async def test_another_address_is_live_without_another_test(rig: Rig) -> None:
    await rig.live(WEB)
    assert (await rig.cycle(RELIST, site("web", address="10.0.0.9"))).result == "live"
    assert rig.engine.did("test") == []
    assert "server 10.0.0.9:80" in rig.served()


async def test_what_is_created_is_tested_ahead_and_live_at_its_start_without_a_test(rig: Rig) -> None:
    await rig.live(API)
    assert (await rig.cycle(RELIST, BEFORE)).result == "tested"
    assert len(rig.engine.did("test")) == 1
    assert "web.example" not in rig.served()
    rig.engine.calls.clear()
    assert (await rig.cycle(RELIST, WEB)).result == "live"
    assert rig.engine.did("test") == []


async def test_a_container_that_is_gone_says_503_without_a_test(rig: Rig) -> None:
    await rig.live(WEB, API)
    report = await rig.remove(WEB)
    assert report.changes == ("web.example/: 503 from now on, web out (gone)",)
    assert rig.engine.did("test") == []
    assert "return 503" in rig.served().partition("server_name web.example;")[2]


async def test_mistakes_are_in_every_report(rig: Rig) -> None:
    await rig.cycle(RELIST, WEB, site("bad", said={"prot": "80"}))
    report = await rig.cycle(Wake(("again",)))
    assert [(r.container, r.reason) for r in report.rejections] == [("bad", "unknown-label")]


# ---------------------------------------------------------------- what nginx refuses


async def test_what_nginx_refuses_is_put_aside_and_the_rest_goes_live(rig: Rig) -> None:
    rig.engine.refuses = lambda text: "no such thing" if "server_name bad.example" in text else ""
    report = await rig.cycle(RELIST, WEB, site("bad"))
    assert (report.result, report.error) == ("live", "")
    assert "web.example" in rig.served()
    assert "bad.example" not in rig.served()
    ((container, reason, message),) = [(r.container, r.reason, r.message) for r in report.rejections]
    assert (container, reason) == ("bad", "quarantined")
    assert "no such thing" in message


async def test_a_refused_frame_leaves_everything_as_it_is(rig: Rig) -> None:
    good = await rig.live(WEB)
    rig.engine.refuses = lambda _: "nothing is right"
    rig.engine.image_id = "another nginx"
    report = await rig.cycle(RELIST, site("web", address="10.0.0.9"))
    assert report.result == "refused"
    assert "nothing is right" in report.error
    assert rig.reference.current() == rig.nginx.running == good.digest
    assert rig.engine.did("kill") == []
    assert not rig.controller.in_sync


async def test_what_nginx_does_not_load_is_taken_back_and_proved(rig: Rig) -> None:
    good = await rig.live(WEB)
    rig.nginx.ignores = lambda digest: digest != good.digest
    report = await rig.cycle(RELIST, API)
    assert report.result == "restored"
    assert report.error.endswith("; the last good configuration is back")
    assert rig.reference.current() == rig.nginx.running == report.digest == good.digest
    assert rig.controller.published != RouteTable()
    rig.nginx.ignores = lambda _: False
    assert (await rig.cycle()).result == "live"
    assert "api.example" in rig.served()


async def test_what_nginx_refuses_only_when_it_loads_it_is_put_aside(rig: Rig) -> None:
    good = await rig.live(WEB)
    rig.nginx.refuses = lambda digest: "" if digest == good.digest else "bind() failed"
    assert (await rig.cycle(RELIST, site("bad"))).result == "restored"
    report = await rig.cycle()
    assert (report.result, report.error) == ("unchanged", "")
    assert [(r.container, r.reason) for r in report.rejections] == [("bad", "quarantined")]
    rig.nginx.refuses = lambda _: ""
    assert (await rig.cycle(RELIST, API)).result == "live"
    assert "api.example" in rig.served()
    assert "bad.example" not in rig.served()


async def test_when_not_even_the_last_good_one_can_be_proved_nothing_counts_as_live(rig: Rig) -> None:
    await rig.live(WEB)
    rig.nginx.deaf = 10**6
    report = await rig.cycle(RELIST, API)
    assert report.result == "restored"
    assert "the last good configuration could not be proved" in report.error
    assert report.digest == ""
    rig.nginx.deaf = 0
    assert (await rig.cycle()).result == "live"


# ---------------------------------------------------------------- what the engine does not say


async def test_an_engine_that_cannot_be_read_changes_nothing(rig: Rig) -> None:
    good = await rig.live(WEB)
    rig.engine.unreadable = True
    report = await rig.cycle()
    assert (report.result, report.error) == ("unreadable", "the engine does not answer")
    assert (report.digest, rig.reference.current(), rig.nginx.running) == (good.digest,) * 3
    rig.engine.unreadable = False
    assert (await rig.cycle()).error == ""


async def test_a_signal_that_did_not_go_out_is_sent_in_the_next_cycle(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.live(WEB)
    kill = rig.engine.kill

    async def lost(container: str, signal: str) -> None:
        raise EngineUnavailable(f"{signal} to {container} was lost")

    monkeypatch.setattr(rig.engine, "kill", lost)
    assert (await rig.cycle(RELIST, API)).result == "unreadable"
    monkeypatch.setattr(rig.engine, "kill", kill)
    assert rig.reference.current() != rig.nginx.running
    report = await rig.cycle(Wake(("again",)))
    assert report.result == "live"
    assert rig.nginx.running == report.digest == rig.reference.current()


async def test_an_nginx_that_was_restarted_by_others_is_adopted_without_a_signal(rig: Rig) -> None:
    good = await rig.live(WEB)
    rig.engine.started += 1
    rig.nginx.serving = [31, 32]
    assert (await rig.cycle(Wake(("nginx",), nginx=True))).result == "unchanged"
    assert rig.engine.did("kill") == []
    assert rig.controller.live is not None
    assert rig.controller.live.digest == good.digest
    assert rig.controller.live.workers == {31, 32}


async def test_an_nginx_that_runs_something_else_is_given_what_is_wanted(rig: Rig) -> None:
    good = await rig.live(WEB)
    rig.nginx.running = "0" * 32
    assert (await rig.cycle()).result == "live"
    assert rig.nginx.running == good.digest


@pytest.mark.parametrize("step", range(0, 40, 4))
async def test_a_full_disk_leaves_what_is_live(step: int, rig: Rig) -> None:
    good = await rig.live(WEB)
    rig.engine.put(API)
    with crash.at(step, OSError) as steps:
        report = await rig.controller.cycle(RELIST)
    if "crash" not in steps:
        pytest.skip("there are not so many steps")
    assert (report.result, report.error) in (("failed", "[Errno 5] the disk is full"), ("live", ""))
    assert rig.nginx.running in (good.digest, rig.reference.current())
    assert (await rig.cycle()).error == ""
    assert "api.example" in rig.served()


async def test_what_is_wrong_with_a_template_at_run_time_is_a_report_and_not_the_end(rig: Rig) -> None:
    await rig.live(WEB)
    rig.controller.policy = policy(make.templates(upstream="{{ 1 / 0 }}"))
    report = await rig.cycle(RELIST, API)
    assert report.result == "failed"
    assert "division by zero" in report.error


# ---------------------------------------------------------------- networks


async def test_nginx_joins_the_network_of_a_newcomer_and_leaves_it_with_the_last_one(rig: Rig) -> None:
    await rig.live(WEB)
    assert "front" in rig.engine.networks
    assert rig.store.load().joined == {"front"}
    await rig.remove(WEB)
    assert "front" not in rig.engine.networks
    assert rig.engine.did("disconnect") == [("front", bench.NGINX)]
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
    assert [(r.container, r.reason) for r in report.rejections] == [("far", "unreachable")]
    assert "server 10.0.0.5:80" in rig.served()
    for _ in range(3):
        again = await rig.cycle()
        assert (again.result, [(r.container, r.reason) for r in again.rejections]) == ("unchanged", [("far", "unreachable")])
    rig.engine.closed_networks = set()
    assert (await rig.cycle()).result + (await rig.cycle()).result in ("liveunchanged", "unchangedlive")


# ---------------------------------------------------------------- configuration that changes


async def test_an_offered_configuration_is_taken_over_when_nginx_accepts_it(rig: Rig) -> None:
    await rig.live(WEB)
    templates = make.templates()
    offered = policy(templates | {"nginx.conf.j2": templates["nginx.conf.j2"].replace("75s", "76s")})
    rig.controller.offer(offered)
    assert (await rig.cycle(await rig.wakes.next())).result == "live"
    assert rig.controller.policy is offered
    assert "keepalive_timeout 76s" in rig.served()


@pytest.mark.parametrize("template", ["{{ nonsense }}", "{% if %}", "{{ 1 / 0 }}"])
async def test_an_offered_template_that_is_wrong_is_dropped(template: str, rig: Rig) -> None:
    await rig.live(WEB)
    before = rig.controller.policy
    rig.controller.offer(policy(make.templates(server=template)))
    assert (await rig.cycle(await rig.wakes.next())).result == "failed"
    assert rig.controller.policy is before
    again = await rig.cycle(await rig.wakes.next())
    assert (again.result, again.error, again.reasons) == ("unchanged", "", ("back to the configuration before",))
    assert rig.engine.did("kill") == []


async def test_an_offered_template_that_nginx_refuses_is_dropped(rig: Rig) -> None:
    await rig.live(WEB)
    before = rig.controller.policy
    rig.engine.refuses = lambda text: "unknown directive" if "nonsense" in text else ""
    rig.controller.offer(policy(make.templates(server="nonsense;")))
    report = await rig.cycle(await rig.wakes.next())
    assert report.result == "refused"
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
    assert (await rig.cycle(Wake(("again",)))).result in ("unreadable", "failed")
    assert rig.controller.policy is before
    rig.engine.unreadable = False
    await rig.cycle()
    await rig.cycle()
    assert rig.controller.policy is (offered if template.startswith("#") else before)
    assert rig.controller.in_sync


# ---------------------------------------------------------------- a controller that ends and comes back


async def test_a_restart_of_the_controller_sends_no_signal_and_trusts_what_was_live(rig: Rig) -> None:
    checked = site("web", said={"health.type": "tcp", "health.interval": "1h"})
    rig.store.save(State(bench.TOKEN, live_targets=tuple(p.key for p in make.decide([checked]).probes)))
    rig.build()
    good = await rig.live(checked)
    rig.build()
    report = await rig.cycle()
    assert (report.result, report.digest) == ("unchanged", good.digest)
    assert rig.engine.did("kill") == rig.engine.did("test") == []


async def test_a_controller_that_died_between_the_rename_and_the_signal_goes_on_there(rig: Rig) -> None:
    await rig.live(WEB)
    rig.nginx.ignores = lambda _: True
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await rig.cycle(RELIST, API)
    assert rig.reference.current() != rig.nginx.running
    rig.nginx.ignores = lambda _: False
    rig.build()
    assert (await rig.cycle()).result == "live"
    assert rig.nginx.running == rig.reference.current()
    assert "api.example" in rig.served()


async def test_the_owner_of_a_host_is_the_same_after_a_restart(rig: Rig) -> None:
    await rig.live(site("young", host="a.example", created=200.0))
    rig.build()
    report = await rig.cycle(RELIST, site("old", host="a.example", created=100.0))
    assert [(r.container, r.reason) for r in report.rejections] == [("old", "host-taken")]


# ---------------------------------------------------------------- bounds


def waiting(name: str) -> list[asyncio.TimerHandle]:
    """Timers that will post a wake for this reason."""
    loop: Any = asyncio.get_running_loop()
    handles = [handle for handle in loop._scheduled if not handle.cancelled()]
    return [h for h in handles if h._args and isinstance(h._args[0], Wake) and name in h._args[0].reasons]


async def test_failures_in_a_row_have_one_next_try_between_them(rig: Rig) -> None:
    rig.engine.unreadable = True
    for _ in range(20):
        await rig.cycle()
    assert len(waiting("try again")) == 1
    rig.engine.unreadable = False
    await rig.live(WEB)
    assert waiting("try again") == []


async def test_a_failure_is_tried_again_soon_at_first_and_then_less_often(rig: Rig) -> None:
    loop = asyncio.get_running_loop()
    rig.engine.unreadable = True
    pauses = []
    for _ in range(8):
        await rig.cycle()
        (timer,) = waiting("try again")
        pauses.append(round(timer.when() - loop.time(), 1))
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


async def test_an_engine_that_is_away_for_days_does_not_end_the_controller(rig: Rig) -> None:
    rig.engine.unreadable = True
    rig.controller._failures = 5000
    assert (await rig.cycle()).result == "unreadable"


async def test_a_place_that_warms_up_has_one_timer_however_many_events_come(rig: Rig) -> None:
    slow = site("slow", said={"health.type": "tcp", "port": "1"}, address="127.0.0.1")
    for _ in range(10):
        await rig.cycle(RELIST, slow)
    assert len(waiting("warming up")) == 1


async def test_reloads_are_paced_while_it_storms_and_something_urgent_is_not(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controlling, "BURST", 2)
    monkeypatch.setattr(controlling, "WINDOW", 0.6)
    rig.build()
    running = asyncio.create_task(rig.controller.run())
    began = time.monotonic()

    async def live_after(address: str, *, urgent: bool) -> float:
        rig.engine.put(site("web", address=address))
        rig.wakes.post(Wake(("start",), relist=True, urgent=urgent))
        await rig.until(lambda: f"server {address}:80" in rig.served())
        return time.monotonic() - began

    assert await live_after("10.0.0.1", urgent=False) < 0.4
    assert await live_after("10.0.0.2", urgent=False) < 0.4
    assert await live_after("10.0.0.3", urgent=True) < 0.5
    assert await live_after("10.0.0.4", urgent=False) > 0.6
    running.cancel()


async def test_what_is_urgent_is_in_the_very_next_cycle_when_it_ends_a_pause(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controlling, "BURST", 1)
    rig.build()
    await rig.live(WEB)
    running = asyncio.create_task(rig.controller.run())
    rig.reports.clear()
    rig.wakes.post(Wake(("start api",)))
    await asyncio.sleep(0.02)
    rig.inventory.note(EngineEvent("die", WEB.id, 0, 0.0, WEB.labels))
    await rig.until(lambda: rig.reports)
    assert rig.reports[0].reasons == ("start api", "die id-web")
    assert rig.reports[0].result == "live"
    running.cancel()


async def test_files_that_no_generation_needs_are_collected(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controlling, "KEEP_GENERATIONS", 2)
    rig.build()
    for number in range(6):
        await rig.live(site("web", address=f"10.0.0.{number + 1}"))
    mains = sorted(path.stem for path in (rig.conf / "mains").iterdir())
    assert len(mains) == 2
    assert rig.reference.current() in mains
    assert "server 10.0.0.6:80" in rig.served()
