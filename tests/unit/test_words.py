"""An operator's words from the command line and over HTTP to the controller, and what is shown of versions."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pwd
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxyctl.cli import wait as waiting_command
from proxyctl.report import CycleReport
from proxyctl.serve.metrics import MOST_VERSIONS, OTHER
from proxyctl.versions import Failure, Known, Replica, ReplicaState, Rollout, Settings, Told, Verb, Word
from tests.unit import desk as desks
from tests.unit.desk import Desk
from tests.unit.make import container
from tests.unit.test_cli import Shell
from tests.unit.test_metrics import scrape

TOKEN = "a token that nobody guesses"
USER = pwd.getpwuid(os.getuid()).pw_name
MACHINE = Rollout(
    "failed",
    active="v1",
    versions={"v1": Known(1.0, frozenset({"one"})), "v2": Known(2.0, frozenset({"two"}))},
    failures={"v2": Failure("died", "two ended", 5.0, frozenset({"two"}))},
)


def replica(name: str, version: str) -> Replica:
    return Replica(name, name, version, 1.0, "healthy", "", Settings())


def told(machine: Rollout = MACHINE, *, live: bool = True, second: ReplicaState = "healthy") -> Told:
    replicas = (replica("one", "v1"), replace(replica("two", "v2"), state=second))
    return Told("shop", machine, replicas, {"v1": 100}, "v1 is live; v2 failed: two ended", live=live)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    file = tmp_path / "tokens"
    file.write_text(f"sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    file.chmod(0o600)
    async with desks.opened(tmp_path, token_file=str(file)) as desk:
        desk.held.rollouts = (told(),)
        yield desk


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    return Shell(capsys, tmp_path)


# ---------------------------------------------------------------- words


@pytest.mark.parametrize("verb", ["promote", "rollback", "pause", "resume", "retry"])
async def test_a_word_reaches_the_controller_with_who_and_why(desk: Desk, shell: Shell, verb: Verb) -> None:
    ran = await shell.at(desk, "rollout", verb, "shop", "--why", "tested")
    assert (ran.status, ran.out) == (0, f"{verb} is done\nand goes on\n")
    assert desk.held.said == [("shop", Word(verb, 0, USER, "tested"))]


async def test_weight_takes_a_percent_and_the_others_do_not(desk: Desk, shell: Shell) -> None:
    assert (await shell.at(desk, "rollout", "weight", "shop", "20")).status == 0
    assert desk.held.said == [("shop", Word("weight", 20, USER))]
    for wrong in (["weight", "shop"], ["promote", "shop", "20"], ["weight", "shop", "100"], ["dance", "shop"]):
        assert (await shell.at(desk, "rollout", *wrong)).status == 2


async def test_maintenance_and_freeze(desk: Desk, shell: Shell) -> None:
    await shell.at(desk, "maintenance", "on", "shop")
    await shell.at(desk, "maintenance", "off", "shop")
    assert [word.value for _, word in desk.held.said] == [1, 0]
    assert (await shell.at(desk, "freeze", "--why", "a sale")).out.startswith("no version is rolled out")
    assert desk.held.frozen
    shown = (await shell.at(desk, "status")).out
    assert "Frozen since 1970-01-01T00:16:40Z (root: a sale): no version is rolled out" in shown
    assert "Frozen since 1970-01-01 00:16:40 (root: a sale)" in (await desk.get("/"))[1]
    assert (await shell.at(desk, "unfreeze")).out == "versions are rolled out again\n"
    assert not desk.held.frozen


async def test_a_word_that_is_not_possible_now_is_a_negative_answer(desk: Desk, shell: Shell) -> None:
    desk.held.refusal = "no version is ready: v1 is live"
    ran = await shell.at(desk, "rollout", "promote", "shop")
    assert (ran.status, ran.out, ran.err) == (1, "", "proxyctl: no version is ready: v1 is live\n")


@pytest.mark.parametrize(
    "body", ["", "{}", '{"service": "shop", "verb": "dance"}', '{"service": "", "verb": "retry"}', '{"on": true}']
)
async def test_what_is_no_word_is_not_taken(desk: Desk, body: str) -> None:
    status, answer, _ = await desk.ask("/api/v1/rollout", method="POST", data=body)
    assert (status, desk.held.said) == (400, [])
    assert "the body is not taken" in answer["error"]


async def test_over_tcp_a_word_needs_a_token_and_the_socket_knows_who_speaks(desk: Desk) -> None:
    body = {"service": "shop", "verb": "retry"}
    assert (await desk.get("/api/v1/rollout", method="POST", json=body))[0] == 401
    assert desk.held.said == []
    status, _, _ = await desk.get("/api/v1/rollout", method="POST", json=body, headers={"Authorization": f"Bearer {TOKEN}"})
    assert status == 200
    assert (await desk.ask("/api/v1/rollout", method="POST", json=body))[0] == 200
    assert [word.who for _, word in desk.held.said] == ["a token from 127.0.0.1", USER]


# ---------------------------------------------------------------- waiting


async def test_wait_tells_what_was_live_before(desk: Desk, shell: Shell) -> None:
    desk.held.rollouts = (told(Rollout("idle", active="v2", previous="v1")),)
    ran = await shell.at(desk, "wait", "shop", "--version", "v2", "--drained")
    assert (ran.status, ran.out) == (0, "v1\n")


async def test_wait_is_over_when_a_later_version_failed_and_the_old_one_is_drained(desk: Desk, shell: Shell) -> None:
    failures = {"v3": Failure("died", "three ended", 5.0, frozenset())}
    desk.held.rollouts = (told(Rollout("failed", active="v2", previous="v1", failures=failures)),)
    ran = await shell.at(desk, "wait", "shop", "--version", "v2", "--drained")
    assert (ran.status, ran.out) == (0, "v1\n")


async def test_wait_outlives_a_restart_of_the_controller(tmp_path: Path, shell: Shell) -> None:
    before, after = Desk(tmp_path), Desk(tmp_path)
    before.held.rollouts = (told(Rollout("warming", active="v1", candidate="v2")),)
    after.held.rollouts = (told(Rollout("idle", active="v2", previous="v1")),)
    await before.front.start()
    waiting = asyncio.create_task(shell.at(after, "wait", "shop", "--version", "v2", "--timeout", "20s"))
    await asyncio.sleep(1)
    await before.front.close()
    await asyncio.sleep(0.5)
    assert not waiting.done()
    await after.front.start()
    assert (await waiting).status == 0
    await after.front.close()


def test_wait_ends_with_3_soon_when_no_controller_answers(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_command, "BEGINS_WITHIN", 0.2)
    ran = shell("--socket", shell.nobody, "wait", "shop", "--version", "v2", "--timeout", "1h")
    assert (ran.status, ran.out) == (3, "")


async def test_wait_ends_with_1_and_the_reason_when_the_version_failed(desk: Desk, shell: Shell) -> None:
    ran = await shell.at(desk, "wait", "shop", "--version", "v2")
    assert (ran.status, ran.out, ran.err) == (1, "", "proxyctl: shop: v2 failed: two ended\n")


LIVE = Rollout("idle", active="v2", previous="v1")


@pytest.mark.parametrize(
    ("shown", "drained", "why"),
    [
        (told(Rollout("verifying", active="v1", candidate="v2")), False, "v1 is live"),
        (told(Rollout("draining", active="v2", previous="v1", draining={"v1": 1.0})), True, "v1 is live"),
        (told(replace(LIVE, draining={"v1": 1.0})), True, "v1 is live"),
        (told(LIVE, second="dead"), False, "nothing of v2 is healthy"),
        (told(LIVE, live=False), False, "nginx is not proved to give traffic to v2"),
    ],
)
async def test_wait_ends_with_4_when_it_is_not_so_in_time(
    desk: Desk,
    shell: Shell,
    shown: Told,
    drained: bool,
    why: str,
) -> None:
    desk.held.rollouts = (shown,)
    more = ["--drained"] if drained else []
    ran = await shell.at(desk, "wait", "shop", "--version", "v2", "--timeout", "300ms", *more)
    assert (ran.status, ran.out) == (4, "")
    waiting, given_up = ran.err.splitlines()
    assert waiting.startswith(f"proxyctl: waiting for v2: {why}")
    assert given_up.startswith(f"proxyctl: shop: not within 0.3 s: {why}")


# ---------------------------------------------------------------- what is shown


async def test_status_shows_versions_with_their_standing_and_what_comes_next(desk: Desk, shell: Shell) -> None:
    lines = (await shell.at(desk, "status")).out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("VERSION"))
    assert [line.split()[:5] for line in lines[start + 1 : start + 3]] == [
        ["v2", "shop", "failed", "0", "%"],
        ["v1", "shop", "active", "100", "%"],
    ]
    assert "two ended" in lines[start + 1]


async def test_metrics_tell_the_state_of_versions_and_count_those_that_failed(desk: Desk) -> None:
    report = CycleReport(
        1, 1.0, (), "unchanged", "", (), "", (), {}, None, 0, rolled_back=(("shop", "died"),), drains_cut=("shop",)
    )
    for sink in desk.front.sinks:
        sink(report)
    value = await scrape(desk)
    assert value("rollout_state", service="shop", state="failed") == 1
    assert value("rollout_state", service="shop", state="idle") == 0
    assert value("rollbacks_total", service="shop", reason="died") == 1
    assert value("drains_cut_total", service="shop") == 1


async def test_three_versions_of_a_service_are_counted_by_name_those_with_traffic_first(desk: Desk) -> None:
    names = [f"v{number}" for number in range(1, 7)]
    desk.decide(
        [
            container(name, {"host": "a.example", "service": "shop", "version": name}, networks={"front": f"10.0.0.{number}"})
            for number, name in enumerate(names, 5)
        ]
    )
    desk.held.rollouts = (told(Rollout("verifying", active="v5", candidate="v6")),)
    value = await scrape(desk)
    counted = {name: value("targets", service="shop", version=name, state="healthy") for name in [*names, OTHER]}
    assert counted == {"v1": 1, "v2": None, "v3": None, "v4": None, "v5": 1, "v6": 1, OTHER: len(names) - MOST_VERSIONS}
