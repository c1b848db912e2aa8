"""The instruments of the fault runs: they see what threads do, and what is ordered happens at that step and at no other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.launch import ROOT, Instruments
from tests.rig import Controller

WORK = """
import asyncio, sys, time
from pathlib import Path
from tests.chaos.inside import Orders, move_clock

directory = Path(sys.argv[1])
move_clock(directory)
Orders(directory).install()
from proxyctl.files import sync_directory, write_whole

async def work():
    for name in ("one", "two"):
        try:
            await asyncio.to_thread(write_whole, directory / name, "text")
            await asyncio.to_thread(sync_directory, directory)
        except OSError as error:
            print(name, error.errno)
    Path(sys.argv[2]).write_text("elsewhere")

asyncio.run(work())
print(time.time())
"""
ONE = ["open .one.new", "write .one.new", "fsync .one.new", "replace one", "fsync ."]


@pytest.fixture
def instruments(tmp_path: Path) -> Instruments:
    (tmp_path / "inside").mkdir()
    return Instruments(Controller(tmp_path / "inside", "prefix", "nginx", {}))


def work(tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WORK, tmp_path / "inside", tmp_path / "outside"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_step_is_written_down_also_those_in_threads_and_those_elsewhere_are_not(
    instruments: Instruments, tmp_path: Path
) -> None:
    instruments.record()
    assert work(tmp_path).returncode == 0
    found = [str(step).replace(str(tmp_path / "inside"), ".") for step in instruments.steps()]
    assert found == ONE + [step.replace("one", "two") for step in ONE]
    assert [step.number for step in instruments.steps()] == list(range(1, 11))


@pytest.mark.parametrize("number", [1, 4, 5, 9, 10])
def test_the_process_dies_in_place_of_the_step(number: int, instruments: Instruments, tmp_path: Path) -> None:
    instruments.kill_at(number)
    assert work(tmp_path).returncode == -9
    assert len(instruments.steps()) == number
    assert (tmp_path / "inside" / "one").exists() == (number > 4)
    assert (tmp_path / "inside" / "two").exists() == (number > 9)


def test_it_dies_in_the_middle_of_a_write(instruments: Instruments, tmp_path: Path) -> None:
    instruments.kill_at(2)
    work(tmp_path)
    assert (tmp_path / "inside" / ".one.new").read_text() == "te"


def test_without_a_step_of_that_number_nothing_happens(instruments: Instruments, tmp_path: Path) -> None:
    instruments.kill_at(11)
    assert work(tmp_path).returncode == 0


@pytest.mark.parametrize(("kind", "number"), [("write", 2), ("fsync", 2), ("replace", 1), ("open", 2)])
def test_the_nth_step_of_a_kind_fails_once(kind: str, number: int, instruments: Instruments, tmp_path: Path) -> None:
    instruments.fail_at(number, "EIO", [kind], times=1)
    said = work(tmp_path).stdout.splitlines()
    failed = "two" if kind in ("write", "open") else "one"
    assert said[0] == f"{failed} 5"
    assert len(said) == 2


def test_every_step_fails_until_the_order_is_withdrawn(instruments: Instruments, tmp_path: Path) -> None:
    instruments.fail_at(1, "ENOSPC", ["write"])
    assert work(tmp_path).stdout.splitlines()[:2] == ["one 28", "two 28"]
    instruments.clear()
    assert len(work(tmp_path).stdout.splitlines()) == 1


@pytest.mark.parametrize("seconds", [-3600.0, 0.0, 3600.0])
def test_the_clock_is_moved(seconds: float, instruments: Instruments, tmp_path: Path) -> None:
    instruments.move_clock(seconds)
    assert abs(float(work(tmp_path).stdout) - time.time() - seconds) < 60
