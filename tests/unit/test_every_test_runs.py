"""A run that leaves out a test fails, although all that ran passed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.make import REPOSITORY

CONFTEST = """
from tests.conftest import pytest_configure

def pytest_collection_modifyitems(items):
    items.extend(items[:{repeated}])  # a second test of the same node ID: pytest-xdist runs it once
"""


@pytest.mark.parametrize(("repeated", "status"), [(0, 0), (1, 1)])
def test_run_fails_when_a_test_is_left_out(tmp_path: Path, repeated: int, status: int) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.format(repeated=repeated), encoding="utf-8")
    (tmp_path / "test_it.py").write_text("def test_one(): pass\ndef test_two(): pass\n", encoding="utf-8")
    options = ["-n", "1", "--dist", "loadfile", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(tmp_path)]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == status, run.stdout
    assert ("1 of 3 collected tests did not run" in run.stdout) is bool(repeated)
