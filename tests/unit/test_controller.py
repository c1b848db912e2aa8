"""Whole cycles: what goes well, and every way in which an nginx, an engine or a disk can fail."""

from __future__ import annotations

import asyncio
import time

import pytest

from proxyctl.model import Container, EngineUnavailable, RouteTable
from proxyctl.publish.nginx import NginxInstance
from proxyctl.report import Wake
from tests.unit import crash, make
from tests.unit.controlled import API, BEFORE, RELIST, WEB, Rig, policy, site, waiting

# ---------------------------------------------------------------- what goes well


async def test_a_labelled_container_is_served_and_proved_live(rig: Rig) -> None:
    report = await rig.cycle(Wake(("start",), relist=True, at=time.monotonic()), WEB)
    assert (report.result, report.error, report.reloads, report.number) == ("live", "", 2, 2)
    assert report.digest == rig.nginx.running == rig.reference.current()
    assert report.changes == ("+ web.example/ -> web",)
    assert report.event_to_live is not None
    assert 0 < report.event_to_live < 2
    assert {"read", "plan", "render", "test", "promote", "prove"} <= report.stages.keys()
    assert "server_name web.example;" in rig.served()
    assert rig.controller.in_sync
    assert report in rig.reports


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
    path = {"path": "/shop"}
    before = site("web", state="created", said=path)
    assert (await rig.cycle(RELIST, before)).result == "tested"
    assert (await rig.cycle(RELIST, before)).result == "unchanged"
    assert len(rig.engine.did("test")) == 1
    assert "web.example" not in rig.served()
    rig.engine.calls.clear()
    assert (await rig.cycle(RELIST, site("web", said=path))).result == "live"
    assert rig.engine.did("test") == []


async def test_another_name_needs_no_test(rig: Rig) -> None:
    await rig.live(API)
    assert (await rig.cycle(RELIST, BEFORE)).result == "unchanged"
    assert (await rig.cycle(RELIST, WEB)).result == "live"
    assert rig.engine.did("test") == []
    assert "server_name web.example" in rig.served()


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
    await rig.live(WEB)
    rig.engine.refuses = lambda text: "no such thing" if "location /bad/" in text else ""
    assert (await rig.cycle(RELIST, site("bad", said={"path": "/bad"}))).error == ""
    report = await rig.cycle(RELIST, API)
    assert (report.result, report.error) == ("live", "")
    assert "web.example" in rig.served()
    assert "api.example" in rig.served()
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


async def test_when_nginx_refuses_all_without_the_newcomer_too_he_is_not_to_blame(rig: Rig) -> None:
    await rig.live(WEB)
    rig.engine.refuses = lambda _: "nothing is right"
    rig.engine.image_id = "another nginx"
    report = await rig.cycle(RELIST, API)
    assert (report.result, report.rejections) == ("refused", ())
    rig.engine.refuses = lambda _: ""
    assert (await rig.cycle()).result == "live"
    assert "api.example" in rig.served()


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


@pytest.mark.parametrize("bad", [{3}, {0, 7}, {4, 5, 6}])
async def test_when_nginx_names_nobody_the_good_ones_are_served_all_the_same(rig: Rig, bad: set[int]) -> None:
    """It refuses in words that fit nobody: halves are tried until single ones are left."""
    newcomers = [site(f"new{n}", address=f"10.0.1.{n + 1}", said={"path": f"/new{n}"}) for n in range(8)]
    await rig.live(WEB)
    wrong = [f"location /new{number}/" for number in bad]
    rig.engine.refuses = lambda text: "could not build it" if any(name in text for name in wrong) else ""
    report = await rig.cycle(RELIST, *newcomers)
    assert report.result == "live"
    assert {r.container for r in report.rejections} == {f"new{number}" for number in bad}
    assert rig.served().count("server_name new") == 8 - len(bad)
    assert "server_name web.example" in rig.served()


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


async def test_an_nginx_that_answers_nowhere_is_looked_for_at_once_and_nothing_is_put_back(rig: Rig) -> None:
    """It may be in other networks by then, or have to be joined to one; what was published was tested."""
    good = await rig.live(WEB)
    port, rig.nginx.port = rig.nginx.port, 1
    rig.engine.put(API)
    report = await rig.controller.cycle(RELIST)
    assert (report.result, report.error) == ("failed", "nginx answers at none of its addresses")
    assert rig.reference.current() not in ("", good.digest)
    (timer,) = waiting("try again")
    assert timer.when() - asyncio.get_running_loop().time() < 0.1
    rig.nginx.port = port
    rig.engine.calls.clear()
    assert (await rig.cycle()).error == ""
    assert rig.nginx.running == rig.reference.current()
    assert "api.example" in rig.served()


async def test_what_makes_an_nginx_silent_is_put_back_when_looking_for_it_has_not_helped(rig: Rig) -> None:
    """`listen 80 proxy_protocol` in a hand-written vhost is accepted, and answers nobody from then on."""
    good = await rig.live(WEB)
    rig.nginx.speaks = lambda digest: digest == good.digest
    rig.engine.put(API)
    assert (await rig.controller.cycle(RELIST)).error == "nginx answers at none of its addresses"
    report = await rig.controller.cycle(RELIST)
    assert (report.result, report.error) == (
        "restored",
        "nginx answers at none of its addresses; the last good configuration is back",
    )
    assert rig.reference.current() == rig.nginx.running == good.digest


async def test_when_not_even_the_last_good_one_can_be_proved_nothing_counts_as_live(rig: Rig) -> None:
    await rig.live(WEB)
    rig.nginx.deaf = 10**6
    report = await rig.cycle(RELIST, API)
    assert report.result == "failed"
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


async def test_nginx_is_made_while_the_containers_are_read(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    made, read = asyncio.Event(), asyncio.Event()
    ensure, listed = rig.parts.nginx.ensure, rig.engine.list_containers

    async def making() -> NginxInstance:
        made.set()
        await read.wait()
        return await ensure()

    async def reading() -> list[Container]:
        read.set()
        await made.wait()
        return await listed()

    monkeypatch.setattr(rig.parts.nginx, "ensure", making)
    monkeypatch.setattr(rig.engine, "list_containers", reading)
    async with asyncio.timeout(5):
        await rig.live(WEB)


async def test_without_an_nginx_the_containers_are_known_all_the_same(rig: Rig) -> None:
    await rig.live(WEB)
    rig.engine.starts, rig.engine.status = False, "exited"
    report = await rig.cycle(RELIST, API)
    assert (report.result, report.error) == ("failed", "the container nginx does not run: it says nothing")
    assert rig.controller.snapshot.containers.keys() == {WEB.id, API.id}


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


@pytest.mark.parametrize("wake", [RELIST, Wake(("nginx",), nginx=True)], ids=["resync", "event"])
async def test_an_nginx_that_came_back_with_something_else_is_given_what_is_wanted(wake: Wake, rig: Rig) -> None:
    good = await rig.live(WEB)
    rig.engine.started += 1
    rig.nginx.running = "0" * 32
    assert (await rig.cycle(wake)).result == "live"
    assert rig.nginx.running == good.digest


async def test_a_reference_that_somebody_has_moved_is_put_right(rig: Rig) -> None:
    good = await rig.live(WEB)
    (rig.conf / "nginx.conf").unlink()
    assert (await rig.cycle()).result == "live"
    assert rig.reference.current() == rig.nginx.running == good.digest


async def test_a_full_disk_leaves_what_is_live(rig: Rig) -> None:
    await rig.live(WEB)
    for step in range(0, 100, 7):
        before = rig.nginx.running
        rig.engine.put(site(f"s{step}"))
        with crash.at(step, OSError) as steps:
            report = await rig.cycle()
        assert (report.result, report.error) in (("failed", "[Errno 5] the disk is full"), ("live", ""))
        assert rig.nginx.running in (before, rig.reference.current())
        assert (await rig.cycle()).error == ""
        assert f"server_name s{step}.example" in rig.served()
        if "crash" not in steps:
            return
    raise AssertionError("there is no end of steps")


async def test_what_is_wrong_with_a_template_at_run_time_is_a_report_and_not_the_end(rig: Rig) -> None:
    await rig.live(WEB)
    rig.controller._publication.policy = policy(make.templates(upstream="{{ 1 / 0 }}"))
    report = await rig.cycle(RELIST, API)
    assert report.result == "failed"
    assert "division by zero" in report.error
