"""Versions swap on a real engine under load: nothing is lost, and the old version may end as soon as it is called drained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.load import Load
from tests.rig import Box, Controller, Rig, until

FAST = {"health.type": "http", "health.path": "/health", "health.interval": "200ms", "health.rise": "1", "health.fall": "1"}


class Shop:
    """One service whose versions replace each other."""

    def __init__(self, rig: Rig, controller: Controller) -> None:
        self.rig, self.controller = rig, controller
        self.host = "shop.example"

    def run(self, version: str, arguments: tuple[str, ...] = (), **labels: str) -> Box:
        said = {"host": self.host, "service": "shop", "version": version, "rollout.bake": "1s", **FAST}
        said |= {key.replace("_", "."): value for key, value in labels.items()}
        return self.rig.run_container(said, args=("--name", version, *arguments))

    def rollout(self) -> dict[str, Any]:
        state = self.controller.directory / "state" / "state.json"
        found: dict[str, Any] = json.loads(state.read_bytes())["body"]["rollouts"].get("shop", {})
        return found

    def wait(self, phase: str, active: str, within: float = 20.0) -> None:
        until(lambda: (self.rollout().get("phase"), self.rollout().get("active")) == (phase, active), within, f"{phase} {active}")


@pytest.fixture
def shop() -> Iterator[Shop]:
    with Rig() as rig:
        yield Shop(rig, rig.controller())


def test_swaps_under_load_lose_nothing_and_the_old_one_may_end_when_it_is_drained(shop: Shop) -> None:
    old = shop.run("v1")
    shop.controller.wait_for(shop.host, backend="v1")
    with Load(shop.host, shop.controller.port, new_per_second=200, keepalive_clients=20) as load:
        for number in (2, 3):
            new = shop.run(f"v{number}", ("--boot-delay", "300ms"))
            shop.wait("idle", f"v{number}")
            old.kill()
            old = new
    report = load.stop()
    assert report.lost_of() == 0, report
    assert set(report.answers) == {"v1", "v2", "v3"}, report
