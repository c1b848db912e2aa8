"""The types keep the order: nothing is published that nginx has not accepted, and nothing is live that was not published."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit import make

START = """
from proxyctl.publish.draft import Draft, Drafts
from proxyctl.publish.nginx import NginxInstance
from proxyctl.publish.promote import Published, Reference
from proxyctl.publish.reload import Live, Reloader
from proxyctl.publish.test import Tested, Tester
from proxyctl.fileset import FileSet

async def steps(
    fileset: FileSet, drafts: Drafts, tester: Tester, reference: Reference, reloader: Reloader, nginx: NginxInstance
) -> None:
    draft = await drafts.write(fileset)
    tested = await tester.test(draft, nginx)
    published = await reference.promote(tested)
    live = await reloader.reload(published, nginx, None, 2)
"""

RIGHT = "reveal_type((draft, tested, published, live))"
WRONG = {
    "a file set is not a draft": "await tester.test(fileset, nginx)",
    "a draft is not tested": "await reference.promote(draft)",
    "a file set is not tested": "await reference.promote(fileset)",
    "what is tested is not published": "await reloader.reload(tested, nginx, None, 2)",
    "a draft is not published": "await reloader.reload(draft, nginx, None, 2)",
    "only the tester makes something tested": "Tested(draft)",
    "only the tester has its seal": "Tested(draft, object())",
    "what is published is not live": "await reloader.reload(published, nginx, published, 2)",
    "what is tested does not change": "tested.draft = draft",
    "what is live does not change": "live.digest = ''",
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Errors of one run of mypy over all steps, by line."""
    directory = tmp_path_factory.mktemp("steps")
    file = directory / "steps.py"
    file.write_text(START + "".join(f"    {line}\n" for line in (RIGHT, *WRONG.values())))
    cache = make.REPOSITORY / ".mypy_cache"
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(cache), str(file)]
    settings = {"MYPYPATH": str(make.REPOSITORY), "PATH": os.environ.get("PATH", "")}
    done = subprocess.run(command, cwd=directory, env=settings, capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    found: dict[int, str] = {}
    for line in done.stdout.splitlines():
        name, number, text = line.split(":", 2)
        if Path(name).name == "steps.py":
            found.setdefault(int(number), text)
    return found


FIRST = START.count("\n") + 1


def test_the_right_order_type_checks(said: dict[int, str]) -> None:
    revealed = said[FIRST]
    assert all(
        f"proxyctl.publish.{name}" in revealed for name in ("draft.Draft", "test.Tested", "promote.Published", "reload.Live")
    )
    assert set(said) == {FIRST + number for number in range(len(WRONG) + 1)}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_step_out_of_order_does_not(wrong: str, said: dict[int, str]) -> None:
    assert "error:" in said[FIRST + 1 + list(WRONG).index(wrong)]
