"""The speaker to Docker, against the real engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxyctl.observe.docker_host import DockerHost
from proxyctl.processes import family
from tests.rig import Rig, endpoint


@pytest.fixture
async def engine() -> AsyncIterator[DockerHost]:
    host = DockerHost(endpoint())
    yield host
    host.close()


async def test_proc_tells_the_same_processes_as_the_engine(rig: Rig, engine: DockerHost) -> None:
    """The fallback for hosts without ps."""
    box = rig.run_container(
        name="tree", image="proxyctl-testbed/nginx:1.31.3", args=["nginx", "-e", "stderr", "-g", "daemon off;"]
    )
    told = await engine.processes(box.id)
    assert len(told) > 1
    assert sorted(family(int(box.inspect()["State"]["Pid"]))) == sorted(told)


async def test_list_and_inspect_agree_on_a_running_container(rig: Rig, engine: DockerHost) -> None:
    box = rig.run_container({"host": "agree.example"}, name="agree", image="proxyctl-testbed/backend:health")
    listed = next(c for c in await engine.list_containers() if c.id == box.id)
    inspected = await engine.inspect(box.id)
    assert inspected
    for field in ("name", "created_unix", "state", "labels", "endpoints", "network_mode", "exposed", "has_healthcheck"):
        assert getattr(listed, field) == getattr(inspected, field), field


async def test_the_api_version_is_negotiated_and_told(engine: DockerHost) -> None:
    info = await engine.info()
    assert float(info.api_version) >= 1.41
