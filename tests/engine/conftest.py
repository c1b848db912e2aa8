"""One controller with its nginx for each test module, on the real engine; tests that need another one make it with the rig."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rig import Controller, Rig


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig() as made:
        yield made


@pytest.fixture(scope="module")
def controller(rig: Rig) -> Controller:
    return rig.controller({"health": {"interval": "500ms", "timeout": "300ms"}})
