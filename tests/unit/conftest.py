"""Hypothesis: no deadline (the machine is shared), no database beside the sources. And a controller that is live.

`HYPOTHESIS_PROFILE=chaos` tries 10,000 examples where a test does not say how many.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import settings

from proxyctl.publish import nginx, reload
from tests.unit.asked import Server, Watching
from tests.unit.controlled import Rig

settings.register_profile("unit", deadline=None, database=None, print_blob=True)
settings.register_profile("chaos", settings.get_profile("unit"), max_examples=10_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unit"))


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    for name, seconds in {"RETIRE_AFTER": 0.01, "LOG_AFTER": 0.1, "SIGNAL_AGAIN": 0.5, "SILENT": 0.5, "GIVE_UP": 1.0}.items():
        monkeypatch.setattr(reload, name, seconds)
    monkeypatch.setattr(nginx, "YOUNG", 0.0)
    rig = Rig(tmp_path)
    rig.nginx.parses, rig.nginx.retires = 0.001, 0.002
    async with rig.nginx.listening():
        await rig.live()
        rig.reports.clear()
        yield rig
        for controller in rig.controllers:
            await controller.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    listening = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    server.port = int(listening.sockets[0].getsockname()[1])
    yield server
    listening.close()
    await listening.wait_closed()


@pytest.fixture
async def watching() -> AsyncIterator[Watching]:
    watching = Watching()
    yield watching
    await watching.prober.close()
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("probe")]
