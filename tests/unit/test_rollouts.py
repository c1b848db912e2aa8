"""Versions in a whole controller: what is published, what is kept, what is said; against a simulated nginx and engine."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from proxyctl.model import Container, EngineUnavailable, RouteTable, VirtualHost
from proxyctl.plan import planner
from proxyctl.plan import rollout as machine
from proxyctl.report import Wake
from proxyctl.state import StateStore
from proxyctl.versions import Illegal, Verb, Word
from tests.unit import make
from tests.unit.controlled import RELIST, WEB, Rig, site
from tests.unit.make import Standing, container, decide, location, places, routed, serving

OLD_ADDRESS, NEW_ADDRESS = "10.0.0.11", "10.0.0.12"


def shop(version: str, address: str, created: float, **said: str) -> Container:
    text = {"service": "shop", "version": version, "rollout.bake": "0s"} | {k.replace("_", "."): v for k, v in said.items()}
    return site(f"shop-{version}", "shop.example", address, created=created, said=text)


V1 = shop("v1", OLD_ADDRESS, 1.0)
V2 = shop("v2", NEW_ADDRESS, 2.0)
MANUAL = shop("v2", NEW_ADDRESS, 2.0, rollout="manual", rollout_bake="1h")


async def up(rig: Rig, *containers: Container) -> None:
    await rig.cycle(RELIST, *containers)
    assert rig.controller.in_sync
    rig.engine.calls.clear()


def saved(rig: Rig) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(StateStore(rig.engine.directory / "state").load().rollouts)
    return found


async def settled(rig: Rig, *, workers_exit: bool = True) -> None:
    for _ in range(4):
        rig.nginx.ending = [] if workers_exit else rig.nginx.ending
        await rig.cycle()


async def test_a_new_version_takes_the_place_of_the_old_one_and_is_not_mixed_with_it(rig: Rig) -> None:
    await up(rig, V1, WEB)
    assert OLD_ADDRESS in rig.served()
    await rig.cycle(RELIST, V2)
    assert NEW_ADDRESS in rig.served()
    assert OLD_ADDRESS not in rig.served()
    await settled(rig)
    assert (saved(rig)["shop"]["phase"], saved(rig)["shop"]["active"]) == ("idle", "v2")
    assert [line for report in rig.reports for line in report.rollouts][-2:] == [
        "shop: v2 has passed its bake; v1 drains",
        "shop: v1 is drained",
    ]
    assert "web" not in saved(rig), "a service without versions has no machine"


async def test_swaps_of_different_services_share_a_reload(rig: Rig) -> None:
    blog = {
        v: replace(each, id=f"blog-{v}", labels={**each.labels, "proxyctl.service": "blog", "proxyctl.host": "blog.example"})
        for v, each in (("v1", shop("v1", "10.0.0.21", 1.0)), ("v2", shop("v2", "10.0.0.22", 2.0)))
    }
    await up(rig, V1, blog["v1"])
    await rig.cycle(RELIST, V2, blog["v2"])
    assert len(rig.engine.did("kill")) == 1
    assert {NEW_ADDRESS, "10.0.0.22"} <= set(re.findall(r"[0-9.]{9}", rig.served()))


async def test_a_version_that_answers_at_one_place_only_is_not_called_drained(rig: Rig) -> None:
    """v2 has the traffic; its only container of /api ends, and v1's answers there."""
    old, new = (
        replace(shop(v, f"10.0.1.{born}", born, path="/api"), id=f"api-{v}", name=f"api-{v}")
        for v, born in (("v1", 1.0), ("v2", 2.0))
    )
    await up(rig, V1, V2, old, new)
    await settled(rig)
    assert saved(rig)["shop"]["draining"] == {}
    await rig.cycle(RELIST, replace(new, state="exited", endpoints=()))
    assert "10.0.1.1" in rig.served()
    assert (saved(rig)["shop"]["active"], list(saved(rig)["shop"]["draining"])) == ("v2", ["v1"])
    await settled(rig)
    assert list(saved(rig)["shop"]["draining"]) == ["v1"]
    await rig.cycle(RELIST, new)
    await settled(rig)
    assert "10.0.1.1" not in rig.served()
    assert saved(rig)["shop"]["draining"] == {}


async def test_what_is_intended_is_on_the_disk_before_nginx_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await up(rig, V1)
    phases = []
    promote = rig.parts.reference.promote

    async def watched(*arguments: Any) -> Any:
        phases.append(saved(rig)["shop"]["phase"])
        return await promote(*arguments)

    monkeypatch.setattr(rig.parts.reference, "promote", watched)
    await rig.cycle(RELIST, V2)
    assert phases == ["cutting"]


async def test_a_word_is_kept_over_a_restart(rig: Rig) -> None:
    await up(rig, V1)
    await rig.cycle(RELIST, MANUAL)
    assert NEW_ADDRESS not in rig.served()
    outlook = await rig.controller.say("shop", Word("promote", who="kim", why="tested"))
    assert outlook == "v2 is promoted (kim: tested); traffic goes to v2 as soon as nginx is proved to do it"
    rig.build()
    await rig.cycle()
    assert NEW_ADDRESS in rig.served()
    assert OLD_ADDRESS not in rig.served()


async def test_what_is_not_possible_is_said_and_changes_nothing(rig: Rig) -> None:
    await up(rig, V1, WEB)
    before = rig.controller.state
    cases: tuple[tuple[str, Verb, str], ...] = (
        ("shop", "promote", "no version is ready"),
        ("web", "promote", "no versions"),
        ("x", "retry", "no service"),
    )
    for service, verb, why in cases:
        with pytest.raises(Illegal, match=why):
            await rig.controller.say(service, Word(verb))
    assert rig.controller.state == before


async def test_maintenance_is_answered_by_nginx_also_without_versions(rig: Rig) -> None:
    await up(rig, WEB)
    await rig.controller.say("web", Word("maintenance", 1))
    await rig.cycle()
    assert "Maintenance" in rig.served()
    rig.build()
    await rig.cycle()
    assert "Maintenance" in rig.served()
    await rig.controller.say("web", Word("maintenance", 0))
    await rig.cycle()
    assert "Maintenance" not in rig.served()


async def test_frozen_nothing_is_swapped(rig: Rig) -> None:
    await up(rig, V1)
    await rig.controller.freeze(on=True, who="")
    await rig.cycle(RELIST, V2)
    assert OLD_ADDRESS in rig.served()
    await rig.controller.freeze(on=False, who="")
    await rig.cycle()
    assert NEW_ADDRESS in rig.served()


async def test_what_nginx_refuses_of_a_new_version_is_not_cut_to(rig: Rig) -> None:
    await up(rig, V1)
    rig.engine.refuses = lambda text: "no such thing" if "/new" in text else ""
    await rig.cycle(RELIST, shop("v2", NEW_ADDRESS, 2.0, path="/new"))
    await settled(rig)
    assert OLD_ADDRESS in rig.served()
    assert NEW_ADDRESS not in rig.served()
    assert (saved(rig)["shop"]["active"], saved(rig)["shop"]["failures"]["v2"]["reason"]) == ("v1", "refused")
    assert "no such thing" in saved(rig)["shop"]["failures"]["v2"]["text"]


async def test_a_swap_that_cannot_be_proved_is_taken_back(rig: Rig) -> None:
    await up(rig, V1)
    good = rig.nginx.running
    rig.nginx.ignores = lambda digest: digest != good
    await rig.cycle(RELIST, V2)
    await settled(rig)
    assert OLD_ADDRESS in rig.served()
    assert saved(rig)["shop"]["failures"]["v2"]["reason"] == "refused"
    assert rig.controller.in_sync


async def test_a_drained_version_is_stopped_once_where_that_is_wanted(rig: Rig) -> None:
    await up(rig, V1)
    await rig.cycle(RELIST, shop("v2", NEW_ADDRESS, 2.0, rollout_retire="stop"))
    await settled(rig)
    assert set(rig.engine.did("stop")) == {(V1.id,)}


async def test_a_version_is_not_drained_while_an_old_worker_knows_it(rig: Rig) -> None:
    await up(rig, V1)
    await rig.cycle(RELIST, V2)
    await settled(rig, workers_exit=False)
    assert saved(rig)["shop"]["phase"] == "draining"
    await settled(rig)
    assert saved(rig)["shop"]["phase"] == "idle"


async def test_machines_are_not_asked_while_nothing_happens(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await up(rig, V1)
    await settled(rig)

    def never(*_: object) -> Any:
        raise AssertionError("stepped")

    monkeypatch.setattr(machine, "step", never)
    assert (await rig.cycle()).error == ""


# ---------------------------------------------------------------- which versions are served


def version(name: str, said: str, address: str, created: float, **more: str) -> Container:
    labels = {"host": "a.example", "service": "web", "version": said} | more
    return container(name, labels, networks={"front": address}, created=created)


ONE, TWO = version("one", "v1", "10.0.0.1", 1.0), version("two", "v2", "10.0.0.2", 2.0)


def decided(*containers: Container, **shares: dict[str, int]) -> RouteTable:
    return decide(containers, shares=shares).table


def test_only_versions_with_a_share_are_served() -> None:
    assert serving(decided(ONE, TWO)) == {"a.example/": ["one", "two"]}
    assert serving(decided(ONE, TWO, web={"v2": 100})) == {"a.example/": ["two"]}


def test_shares_of_versions_do_not_depend_on_how_many_containers_they_have() -> None:
    three = version("three", "v2", "10.0.0.3", 3.0, weight="3")
    (place,) = places(decided(ONE, TWO, three, web={"v1": 80, "v2": 20})).values()
    assert {t.container: t.weight for t in place.serving} == {"one": 16, "two": 1, "three": 3}


def test_a_path_that_only_one_version_has_comes_and_goes_with_it() -> None:
    more = version("more", "v2", "10.0.0.3", 3.0, path="/new")
    assert serving(decided(ONE, TWO, more, web={"v1": 100})) == {"a.example/": ["one"]}
    assert serving(decided(ONE, TWO, more, web={"v2": 100})) == {"a.example/": ["two"], "a.example/new": ["more"]}


def test_where_nothing_of_the_active_version_answers_another_one_stands_in() -> None:
    old, new = (version(f"api-{v}", v, f"10.0.1.{v[1]}", float(v[1]), path="/api") for v in ("v1", "v2"))
    for ended, there in ((replace(new, state="exited", endpoints=()), "api-v1"), (new, "api-v2")):
        assert serving(decided(ONE, TWO, old, ended, web={"v2": 100})) == {"a.example/": ["two"], "a.example/api": [there]}


def test_a_new_version_may_speak_otherwise() -> None:
    new = version("two", "v2", "10.0.0.2", 2.0, scheme="https")
    (place,) = places(decided(ONE, new, web={"v2": 100})).values()
    assert (place.scheme, [t.container for t in place.serving]) == ("https", ["two"])
    (place,) = places(decided(ONE, new)).values()
    assert (place.scheme, [t.container for t in place.serving]) == ("http", ["one"])


def test_who_may_not_serve_the_place_is_no_version_of_the_service() -> None:
    stranger = container(
        "stranger",
        {"host": "a.example", "service": "web", "version": "v9"},
        created=9.0,
        compose="other/web",
        networks={"front": "10.0.0.9"},
    )
    plain = container("plain", {"host": "a.example", "version": "v1"}, created=1.0, compose="web/x")
    plain = replace(plain, labels={**plain.labels, "com.docker.compose.service": "x"})
    snapshot = make.snapshot([plain, replace(stranger, labels={**stranger.labels, "proxyctl.service": "web.x"})])
    inputs = make.inputs(snapshot, Standing({}))
    one = planner.Planner()
    one.plan(inputs)
    assert [replica.version for replica in one.replicas(inputs, "web.x")] == ["v1"]


def test_maintenance_is_a_page_of_its_own() -> None:
    what = RouteTable((VirtualHost("a.example", (replace(location("/", routed(serving=False)), maintenance=True),)),))
    text = "".join(file.text for file in make.render(what).objects.values())
    assert "Maintenance" in text
    assert "proxy_pass" not in text


# ---------------------------------------------------------------- when others, or the proof itself, go wrong

LONG_BAKE = shop("v2", NEW_ADDRESS, 2.0, rollout_bake="1h")
STRANGER = site("bad", "bad.example", "10.0.0.77")


def refusing_the_stranger(rig: Rig, why: str) -> None:
    rig.nginx.refuses = lambda _: why if "bad.example" in rig.served() else ""


async def test_a_stranger_that_the_reload_refuses_fails_nobody_s_swap(rig: Rig) -> None:
    await up(rig, V1)
    refusing_the_stranger(rig, 'host not found in "bad.example"')
    await rig.cycle(RELIST, LONG_BAKE, STRANGER)
    await settled(rig)
    assert (saved(rig)["shop"]["phase"], saved(rig)["shop"]["candidate"]) == ("verifying", "v2")
    assert NEW_ADDRESS in rig.served()


async def test_a_stranger_whom_the_reload_does_not_name_fails_nobody_s_swap(rig: Rig) -> None:
    """Then nginx is shown the whole, and says the same of it."""
    await up(rig, V1)
    why = "could not build server_names_hash"
    refusing_the_stranger(rig, why)
    rig.engine.refuses = lambda text: why if "bad.example" in text and "shop.example" in text else ""
    await rig.cycle(RELIST, LONG_BAKE, STRANGER)
    await settled(rig)
    assert "restored" in [report.result for report in rig.reports]
    assert (saved(rig)["shop"]["phase"], saved(rig)["shop"]["candidate"]) == ("verifying", "v2")
    assert NEW_ADDRESS in rig.served()
    assert "bad.example" not in rig.served()


async def test_a_version_that_mistypes_a_site_of_the_one_before_does_not_take_its_place(rig: Rig) -> None:
    def both(version: str, address: str, created: float, **typo: str) -> Container:
        said = {"service": "shop", "version": version, "rollout.bake": "0s", "routes.api.host": "api.example", **typo}
        return site(f"shop-{version}", "shop.example", address, created=created, said=said)

    await up(rig, both("v1", OLD_ADDRESS, 1.0))
    await rig.cycle(RELIST, both("v2", NEW_ADDRESS, 2.0, **{"routes.api.prot": "81"}))
    await settled(rig)
    assert "server_name api.example" in rig.served()
    assert NEW_ADDRESS not in rig.served()
    (told,) = rig.controller.versions()
    assert "proxyctl.routes.api.prot" in next(replica.reason for replica in told.replicas if replica.version == "v2")


async def test_what_was_to_be_stopped_is_not_when_it_has_the_traffic_again(rig: Rig) -> None:
    await up(rig, shop("v1", OLD_ADDRESS, 1.0, rollout_retire="stop"))
    await rig.cycle(RELIST, shop("v2", NEW_ADDRESS, 2.0, rollout_retire="stop"))
    await rig.cycle()
    refusing_the_stranger(rig, "bind failed")
    rig.engine.put(STRANGER)
    rig.nginx.ending = []
    report = await rig.controller.cycle(RELIST)
    assert (report.result, "shop: v1 is drained and is stopped" in report.rollouts) == ("restored", True)
    rig.nginx.refuses = lambda _: ""
    await rig.controller.say("shop", Word("rollback"))
    await rig.controller.cycle(RELIST)
    await asyncio.sleep(0)
    assert OLD_ADDRESS in rig.served()
    assert rig.engine.did("stop") == []


def proved(rig: Rig) -> str:
    return rig.controller.live.digest if rig.controller.live else ""


async def test_a_proof_that_is_interrupted_leaves_nothing_proved(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await up(rig, V1)

    async def hung(_: str) -> list[tuple[int, str]]:
        raise EngineUnavailable("hung")

    with monkeypatch.context() as patch:
        patch.setattr(rig.engine, "processes", hung)
        assert (await rig.cycle(RELIST, LONG_BAKE)).result == "unreadable"
        assert proved(rig) == ""
    rig.engine.put(replace(LONG_BAKE, state="exited"))
    await rig.cycle(Wake(("die",), look=True))
    assert OLD_ADDRESS in rig.served()
    assert rig.nginx.running == proved(rig)


async def test_what_nginx_was_about_to_be_told_is_known_after_a_crash(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    await up(rig, V1)
    monkeypatch.setattr(rig.controller, "_remember", crash)
    with pytest.raises(Crash):
        await rig.cycle(RELIST, LONG_BAKE)
    rig.engine.put(replace(LONG_BAKE, state="exited"))
    rig.build()
    await rig.cycle()
    knowing = [g for g in rig.controller.state.generations if any(f.target.address == NEW_ADDRESS for f in g.freed)]
    assert knowing, "workers that were told of v2 may lead to whoever gets its address"
    assert "v2" in saved(rig)["shop"]["draining"]
