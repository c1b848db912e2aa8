"""The benchmarks run, print their tables, and lose nothing. What they measure is no test: the machine may be busy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS
from benchmarks.figures import FOLDER

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def printed() -> str:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--short"], cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def figures(name: str) -> dict[str, int]:
    """The latest line of one benchmark."""
    latest: dict[str, int] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8").splitlines()[-1])
    return latest


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_prints_its_table(printed: str, name: str) -> None:
    assert f"\n{name}: " in f"\n{printed}"
    assert figures(name)["short"]


def test_no_request_is_lost_while_containers_come_and_go(printed: str) -> None:
    found = figures("loss")
    assert found["sent"] > 1000, printed
    assert (found["lost_get"], found["lost_post"], found["stray"]) == (0, 0, 0), printed


def test_nothing_is_reloaded_while_nothing_happens(printed: str) -> None:
    assert figures("idle")["reloads"] == 0, printed


def test_every_one_of_many_hosts_answers_and_a_restart_reloads_nothing(printed: str) -> None:
    found = figures("scale")
    assert (found["100_silent"], found["100_restart_reloads"]) == (0, 0), printed


def test_no_connection_is_lost_or_cut_by_reloads_and_old_workers_end(printed: str) -> None:
    found = figures("reloads")
    assert found["across"] >= 5, printed
    assert (found["lost"], found["cut"], found["retired"], found["pinned_cut"]) == (0, 0, 0, 0), printed
    assert found["pinned_old_workers"] >= found["pinned_open"] >= 5, printed
    assert found["pinned_after_mib"] < found["pinned_full_mib"], printed


def test_versions_swap_without_a_loss_and_none_answers_after_it_was_drained(printed: str) -> None:
    found = figures("rollouts")
    assert found["proxyctl_sent"] > 1000, printed
    assert (found["proxyctl_lost"], found["proxyctl_cut"], found["proxyctl_late"]) == (0, 0, 0), printed


def test_every_container_of_a_storm_answers_and_nothing_is_lost_beside_it(printed: str) -> None:
    found = figures("storm")
    assert found["sent"] > 1000, printed
    assert (found["lost"], found["silent"]) == (0, 0), printed
    assert found["start_reloads"] < found["containers"], printed


def test_no_request_is_lost_by_another_controller_or_by_one_beside_it(printed: str) -> None:
    found = figures("upgrades")
    assert (found["controller_lost"], found["beside_lost"]) == (0, 0), printed
    assert 0 < found["nginx_lost"] < found["nginx_sent"], printed
