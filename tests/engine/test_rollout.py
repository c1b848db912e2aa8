"""Versions swap on a real engine under load: nothing is lost, the old one may end as soon as it is called drained, a bad one goes
back by itself, and a controller that is killed in the middle ends where it would have.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from proxyctl.state import StateStore
from tests.engine.test_commands import proxyctl
from tests.load import Load
from tests.rig import Box, Controller, Rig, ask, until

FAST = {"health.path": "/health", "health.interval": "200ms", "health.rise": "1", "health.fall": "1"}
BAKE = 2.0


class Shop:
    """One service whose versions replace each other."""

    def __init__(self, rig: Rig, controller: Controller, service: str) -> None:
        self.rig, self.controller, self.service = rig, controller, service
        self.host = f"{service}.example"
        self.network = rig.network(service)
        """Its own: an address of the test before would end old workers of nginx, with connections of this one."""
        self.first = self.run("v1")

    def run(self, version: str, *arguments: str, name: str = "", **said: str) -> Box:
        labels = {"host": self.host, "service": self.service, "version": version, "rollout.bake": f"{BAKE:g}s", **FAST}
        labels |= {key.replace("_", "."): value for key, value in said.items()}
        return self.rig.run_container(
            labels, name=f"{name or version}-{self.service}", args=("--name", version, *arguments), network=self.network
        )

    def load(self, *, rate: float = 150, clients: int = 20) -> Load:
        return Load(self.host, self.controller.port, new_per_second=rate, keepalive_clients=clients, timeout=5)

    @property
    def told(self) -> dict[str, Any]:
        """What the API says of it."""
        answer = self.controller.ask_api(f"/api/v1/rollouts?service={self.service}")
        return next(iter(json.loads(answer.body)["rollouts"] if answer.status == 200 else []), {})

    def until(self, state: str, active: str, within: float = 15.0) -> None:
        until(lambda: (self.told.get("state"), self.told.get("active")) == (state, active), within, f"{state} {active}", 0.1)

    def say(self, *words: str) -> str:
        done = proxyctl(self.controller, *words)
        assert done.returncode == 0, done
        return done.stdout

    def reason(self, version: str) -> str:
        return next(str(each["reason"]) for each in self.told["versions"] if each["version"] == version)


@pytest.fixture
def shop(rig: Rig, controller: Controller, request: pytest.FixtureRequest) -> Iterator[Shop]:
    made = Shop(rig, controller, f"shop{abs(hash(request.node.name)) % 10_000}")
    controller.wait_for(made.host, backend="v1")
    yield made
    for container in rig.client.containers(all=True, filters={"label": f"{rig.prefix}.service={made.service}"}):
        rig.client.remove_container(container["Id"], force=True)
    rig.remove_network(made.network)


def again(controller: Controller) -> None:
    """SIGKILL, and the next one answers."""
    controller.kill()
    controller.start()
    until(lambda: controller.ask_api("/healthz").status == 200, 30, "a controller that answers")


# ---------------------------------------------------------------- swaps


def test_a_swap_under_load_loses_nothing_though_the_old_one_dies_as_soon_as_it_is_called_drained(shop: Shop) -> None:
    old = shop.first
    with shop.load() as load:
        for number in (2, 3):
            new = shop.run(f"v{number}", "--boot-delay", "300ms")
            waited = proxyctl(shop.controller, "wait", shop.service, "--version", f"v{number}", "--drained", "--timeout", "30s")
            assert (waited.returncode, waited.stdout) == (0, f"v{number - 1}\n"), waited
            dead = time.monotonic()
            old.kill()
            time.sleep(0.5)
            assert load.report.answers[f"v{number - 1}"].last < dead
            old = new
    report = load.stop()
    assert report.lost_of() == 0, report
    assert set(report.answers) == {"v1", "v2", "v3"}, report


def test_a_client_that_is_still_sending_is_answered_by_the_old_version_which_is_not_called_drained_before(shop: Shop) -> None:
    """nginx asks the target when it has the whole body, here long after the swap and its bake."""
    with socket.create_connection(("127.0.0.1", shop.controller.port), timeout=60) as client, ThreadPoolExecutor() as pool:
        client.sendall(f"POST / HTTP/1.1\r\nHost: {shop.host}\r\nContent-Length: 2\r\nConnection: close\r\n\r\na".encode())
        shop.run("v2")
        arguments = ("wait", shop.service, "--version", "v2", "--drained", "--timeout", "60s")
        drained = pool.submit(proxyctl, shop.controller, *arguments)
        shop.until("draining", "v2")
        time.sleep(2.0)
        assert not drained.done()
        client.sendall(b"b")
        assert b"200 OK" in client.recv(1000)
        assert drained.result().returncode == 0
    shop.first.kill()
    assert {shop.controller.ask(shop.host).backend for _ in range(10)} == {"v2"}


def test_manual_waits_for_the_word_and_rollback_brings_the_old_one_back(shop: Shop) -> None:
    with shop.load() as load:
        shop.run("v2", rollout="manual")
        shop.until("ready", "v1")
        assert "v2" not in load.report.answers
        assert "v2 is promoted" in shop.say("rollout", "promote", shop.service, "--why", "tested")
        until(lambda: shop.told["active"] == "v2", 15, "the end of the bake", 0.1)
        again = proxyctl(shop.controller, "rollout", "promote", shop.service)
        assert (again.returncode, "no version is ready" in again.stderr) == (1, True), again
        assert "v2 is rolled back to v1" in shop.say("rollout", "rollback", shop.service, "--why", "prices are wrong")
        table = proxyctl(shop.controller, "status").stdout
        active = [line.split()[0] for line in table.splitlines() if f" {shop.service} " in line and " active " in line]
        assert active == ["v1"], table
        shop.until("idle", "v1", 30)
        assert "prices are wrong" in shop.reason("v2")
        toggled = proxyctl(shop.controller, "rollout", "rollback", shop.service)
        assert (toggled.returncode, "no older version" in toggled.stderr) == (1, True), toggled
        shop.say("rollout", "rollback", shop.service, "--to", "v2")
        shop.until("idle", "v2", 30)
    assert load.stop().lost_of() == 0, load.report
    assert "prices are wrong" in proxyctl(shop.controller, "history").stdout


def test_a_canary_gets_its_share_in_steps(shop: Shop) -> None:
    with shop.load(rate=200, clients=0) as load:
        shop.run("v2", rollout="canary", rollout_steps="20")
        until(lambda: "v2" in load.report.answers, 10, "the first step")
        before = {name: each.count for name, each in load.report.answers.items()}
        time.sleep(1.2)
        after = load.report.answers
        share = (after["v2"].count - before["v2"]) / sum(after[name].count - before[name] for name in before)
        assert 0.1 < share < 0.3, share
        assert proxyctl(shop.controller, "wait", shop.service, "--version", "v2", "--timeout", "30s").returncode == 0
    assert load.stop().lost_of() == 0, load.report


def test_a_drained_version_is_stopped_where_that_is_wanted(shop: Shop) -> None:
    shop.run("v2", rollout_retire="stop")
    until(lambda: shop.first.inspect()["State"]["Status"] == "exited", 20, "the end of the old version")
    assert shop.controller.ask(shop.host).backend == "v2"


def test_compose_recreates_the_container_and_traffic_goes_to_the_first_healthy_new_one(shop: Shop) -> None:
    shop.first.remove()
    shop.run("v2", rollout="manual")
    shop.controller.wait_for(shop.host, backend="v2")
    shop.until("idle", "v2")


def test_maintenance_and_freeze(shop: Shop) -> None:
    shop.say("maintenance", "on", shop.service, "--why", "a new disk")
    assert re.search(rf"{shop.service} is in maintenance since 20.*Z \(\w+: a new disk\)", shop.say("status"))
    assert "Maintenance" in shop.controller.wait_for(shop.host, 503).body
    again(shop.controller)
    assert "Maintenance" in shop.controller.wait_for(shop.host, 503).body
    shop.say("freeze", "--why", "a holiday")
    assert re.search(r"Frozen since 20.*Z \(\w+: a holiday\)", shop.say("status"))
    shop.say("maintenance", "off", shop.service)
    shop.controller.wait_for(shop.host, backend="v1")
    shop.run("v2")
    time.sleep(1)
    assert shop.controller.ask(shop.host).backend == "v1"
    shop.say("unfreeze")
    shop.controller.wait_for(shop.host, backend="v2")


# ---------------------------------------------------------------- bad versions


def test_one_that_never_gets_healthy_never_gets_traffic(shop: Shop) -> None:
    with shop.load() as load:
        box = shop.run("v2", "--boot-delay", "60s", rollout_deadline="2s")
        waited = proxyctl(shop.controller, "wait", shop.service, "--version", "v2", "--timeout", "30s")
        assert waited.returncode == 1, waited
        assert "not healthy within 2 s" in waited.stderr
    report = load.stop()
    assert (report.lost_of(), set(report.answers)) == (0, {"v1"}), report
    box.remove()


@pytest.mark.parametrize("how", ["dies", "hangs", "turns 503", "flaps"])
def test_one_that_turns_bad_in_its_bake_goes_back_by_itself(shop: Shop, how: str) -> None:
    with shop.load() as load:
        box = shop.run("v2", rollout_bake="30s")
        until(lambda: "v2" in load.report.answers, 10, "the swap")
        shop.until("verifying", "v1")
        turned = time.monotonic()
        if how == "dies":
            box.kill()
        else:
            box.tell("/set?health=hang" if how == "hangs" else "/set?health=503")
        shop.until("failed", "v1")
        if how == "flaps":
            box.tell("/set?health=200")
            time.sleep(1.5)
        assert shop.told["state"] == "failed", "latched"
        before = load.report.answers["v1"].count
        shop.controller.wait_for(shop.host, backend="v1")
        assert load.report.answers["v1"].count > before
        assert shop.reason("v2")
    report = load.stop()
    assert how == "dies" or not report.lost_of(), report
    assert all(turned <= loss.ended <= turned + 2 for loss in report.losses), report  # a try lasts 1.1 s at the most
    print(f"{how}: {report}; {shop.reason('v2')}")


def test_a_standby_takes_over_when_the_whole_active_version_dies(shop: Shop) -> None:
    box = shop.run("v2")
    shop.until("idle", "v2", 20)
    box.kill()
    shop.controller.wait_for(shop.host, backend="v1", within=3)


# ---------------------------------------------------------------- a controller that is killed


@pytest.mark.parametrize("state", ["warming", "ready", "cutting", "verifying", "draining"])
def test_a_controller_that_is_killed_ends_where_it_would_have(shop: Shop, state: str) -> None:
    with shop.load() as load, ThreadPoolExecutor(1) as pool:
        taking = "6000" if state == "draining" else "0"  # else the old workers may have ended before the first look at them
        slow = pool.submit(ask, shop.controller.port, shop.host, f"/slow?ms={taking}", timeout=15)
        until(lambda: slow.running() or slow.done(), 5, "a request")
        time.sleep(0.2)
        shop.run("v2", "--boot-delay", "1s" if state == "warming" else "0s", rollout="manual" if state == "ready" else "auto")

        def reached() -> bool:
            rollouts = StateStore(shop.controller.directory / "state").load().rollouts
            return shop.service in rollouts and rollouts[shop.service].phase == state

        until(reached, 15, state, every=0.002)
        again(shop.controller)
        if state == "ready":
            shop.until("ready", "v1")
            shop.say("rollout", "promote", shop.service)
        waited = proxyctl(shop.controller, "wait", shop.service, "--version", "v2", "--drained", "--timeout", "40s")
        assert waited.returncode == 0, waited
        shop.first.kill()
        time.sleep(0.5)
        assert slow.result().backend == "v1"
    assert load.stop().lost_of() == 0, load.report


def test_a_reboot_in_the_middle_of_a_bake_with_all_addresses_changed_ends_where_it_would_have(shop: Shop) -> None:
    """Everything is killed; what comes up first is a stranger that takes an address, then the versions in the other order."""
    new = shop.run("v2", rollout_bake="5s")
    shop.until("verifying", "v1")
    rig, nginx = shop.rig, Box(shop.rig.client, shop.controller.nginx, shop.controller.nginx)
    before = [box.address for box in (shop.first, new)]
    shop.controller.kill()
    for box in (nginx, shop.first, new):
        box.kill()
    stranger = rig.run_container({"host": "stranger.example"}, name="stranger", network=shop.network)
    for box in (new, shop.first, nginx):
        rig.client.start(box.id)
    after = [box.address for box in (shop.first, new)]
    assert not set(zip(before, after, strict=True)) & {(each, each) for each in before}
    shop.controller.start()
    waited = proxyctl(shop.controller, "wait", shop.service, "--version", "v2", "--timeout", "40s")
    assert waited.returncode == 0, waited
    assert {shop.controller.ask(shop.host).backend for _ in range(20)} == {"v2"}
    assert shop.controller.ask("stranger.example").backend == "stranger"
    stranger.remove()


def test_a_failed_version_stays_latched_over_a_crash(shop: Shop) -> None:
    shop.run("v2", "--boot-delay", "60s", rollout_deadline="2s")
    shop.until("failed", "v1")
    why = shop.reason("v2")
    again(shop.controller)
    shop.until("failed", "v1")
    assert shop.reason("v2") == why
    assert {shop.controller.ask(shop.host).backend for _ in range(20)} == {"v1"}


def test_connections_that_drain_for_too_long_are_cut_and_told(shop: Shop) -> None:
    with socket.create_connection(("127.0.0.1", shop.controller.port), timeout=60) as connection:
        connection.sendall(f"GET /slow?ms=60000 HTTP/1.1\r\nHost: {shop.host}\r\n\r\n".encode())
        time.sleep(0.5)
        began = time.monotonic()
        shop.run("v2", rollout_drain="1s")
        waited = proxyctl(shop.controller, "wait", shop.service, "--version", "v2", "--drained", "--timeout", "30s")
        assert waited.returncode == 0, waited
        assert connection.recv(1) == b"", "the old worker has ended"
        assert time.monotonic() - began < 30
    assert f"{shop.service}: connections to the old version were cut after 1 s" in proxyctl(shop.controller, "history").stdout
