"""Containers with labels beyond all measure, on a real engine, which takes them: told, and slow for nobody else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.rig import Controller, Rig

GLUTTONS = {
    "a value of 10 MB": {"host": "a." * 5_000_000},
    "100,000 labels": {f"x{number}": "y" for number in range(100_000)},
}


def megabytes(controller: Controller) -> int:
    """What the controller holds of memory."""
    status = Path(f"/proc/{controller.pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


@pytest.mark.parametrize("what", GLUTTONS)
def test_labels_without_measure_are_told_and_slow_nobody_down(what: str, rig: Rig, controller: Controller) -> None:
    bystander = rig.run_container({"host": "bystander.example"}, name="bystander")
    controller.wait_for("bystander.example")
    before = megabytes(controller)
    glutton = rig.run_container(GLUTTONS[what], name="glutton")
    said = controller.wait_rejected("glutton", within=20.0)
    assert "at the most" in str(said)
    took = []
    for number in range(3):
        began = time.monotonic()
        later = rig.run_container({"host": f"later{number}.example"}, name=f"later{number}")
        controller.wait_for(f"later{number}.example", backend=f"later{number}", within=20.0)
        took.append(time.monotonic() - began)
        later.remove()
    after = megabytes(controller)
    print(f"{what}: three more sites after {', '.join(f'{seconds:.2f}' for seconds in took)} s, {before} -> {after} MiB")
    assert controller.ask("bystander.example").status == 200
    for box in (glutton, bystander):
        box.remove()
    assert min(took) < 5.0
    assert after - before < 150
