"""The units, as systemd-analyze reads them. tests/engine/test_systemd.py runs it."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from proxyctl import config
from proxyctl.serve import notify
from tests.unit.make import REPOSITORY

UNIT = REPOSITORY / "systemd" / "proxyctl.service"
EXPOSURE = 21
"""In tenths, by systemd 252; from 50 on it calls a unit `medium`. What is left: docs/operations.md."""


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    assert shutil.which("systemd-analyze"), "systemd-analyze is missing: apt-get install systemd"
    command = ["systemd-analyze", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with this clone's command in place of the one in /opt, which must be there to be verified."""
    text = UNIT.read_text(encoding="utf-8")
    assert "ExecStart=/opt/proxyctl/bin/proxyctl run" in text
    made = tmp_path / UNIT.name
    made.write_text(text.replace("/opt/proxyctl/bin/proxyctl", str(Path(sys.executable).with_name("proxyctl"))), encoding="utf-8")
    return made


def test_systemd_finds_nothing_wrong(unit: Path) -> None:
    done = analyze("verify", "--man=no", unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_what_is_wrong_would_be_found(unit: Path) -> None:
    unit.write_text(unit.read_text(encoding="utf-8").replace("ProtectHome=", "ProtectHouse="), encoding="utf-8")
    assert "ProtectHouse" in analyze("verify", "--man=no", unit).stderr


def test_its_exposure_is_low() -> None:
    done = analyze("security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE}", UNIT)
    assert done.returncode == 0, done.stdout + done.stderr
    said = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    assert f"rates its exposure {EXPOSURE / 10} of 10" in said


def test_the_unit_that_leaves_the_host_is_as_sound(unit: Path) -> None:
    drain = unit.with_name("proxyctl-drain.service")
    text = UNIT.with_name(drain.name).read_text(encoding="utf-8")
    drain.write_text(
        text.replace("/opt/proxyctl/bin/proxyctl", str(Path(sys.executable).with_name("proxyctl"))), encoding="utf-8"
    )
    verified = analyze("verify", "--man=no", unit, drain)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    exposed = analyze("security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE}", UNIT.with_name(drain.name))
    assert exposed.returncode == 0, exposed.stdout + exposed.stderr


class _Cased(configparser.RawConfigParser):
    """systemd's keys are in mixed case."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def test_its_directories_are_those_of_the_defaults() -> None:
    parser = _Cased(strict=False)
    parser.read_string(UNIT.read_text(encoding="utf-8"))
    service = parser["Service"]
    standard = config.Config()
    assert Path("/run", service["RuntimeDirectory"]) == standard.runtime_dir.parent == Path(standard.api.socket).parent
    assert Path("/var/lib", service["StateDirectory"]) == standard.state_dir
    assert int(service["TimeoutStartSec"].removesuffix("min")) * 60 > notify.READY_WITHIN
