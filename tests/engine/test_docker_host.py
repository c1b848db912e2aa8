"""The speaker to Docker, against the real engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from proxyctl.observe.docker_host import DockerHost
from proxyctl.observe.inventory import Inventory
from proxyctl.processes import family
from proxyctl.report import Wake
from tests.rig import BASE, Rig, endpoint


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


async def test_the_engines_list_does_not_bring_back_who_has_died(rig: Rig, engine: DockerHost) -> None:
    """It shows a container running, with its address, after its `die`."""
    inventory = Inventory(engine, rig.prefix, lambda _: None)
    box = rig.run_container({"host": "mortal.example"}, name="mortal")
    async with aclosing(engine.events()) as events:
        assert await anext(events) is None
        states = [(await inventory.refresh(Wake(relist=True), time.monotonic())).containers[box.id].state]
        killing = asyncio.create_task(asyncio.to_thread(box.kill))
        async for event in events:
            if event and event.container_id == box.id and event.action == "die":
                inventory.note(event)
                break
        inspecting = asyncio.create_task(engine.inspect(box.id))
        while not (killing.done() and inspecting.done()):
            states.append((await inventory.refresh(Wake(relist=True), time.monotonic())).containers[box.id].state)
        await killing
    assert states == ["running"] + ["exited"] * (len(states) - 1)


async def test_the_api_version_is_negotiated_and_told(engine: DockerHost) -> None:
    info = await engine.info()
    assert float(info.api_version) >= 1.41


async def test_what_was_written_before_the_clock_was_set_back_is_not_news(
    rig: Rig, engine: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nginx's [emerg] of before would be taken for a refusal of the next reload."""
    began = time.time()
    box = rig.run_container(
        name="writes", image="proxyctl-testbed/nginx:1.31.3", args=["nginx", "-e", "stderr", "-c", "/not/there.conf"]
    )
    assert rig.client.wait(box.id, timeout=5)["StatusCode"] == 1
    said = await engine.logs(box.id, began)
    assert "[emerg]" in said
    monkeypatch.setattr(time, "time", lambda: began - 3600)
    assert await engine.logs(box.id, began - 3600) == ""
    assert await engine.logs(box.id) == said


async def test_a_container_that_exposes_port_0_is_listed_as_any_other(rig: Rig, engine: DockerHost) -> None:
    box = rig.run_container({"host": "zero.example"}, name="zero", ExposedPorts={"0/tcp": {}, "80/tcp": {}})
    listed = next(c for c in await engine.list_containers() if c.id == box.id)
    inspected = await engine.inspect(box.id)
    assert inspected
    assert listed.exposed == inspected.exposed == (80,)


async def test_stderr_does_not_end_up_inside_a_line_of_stdout(rig: Rig, engine: DockerHost) -> None:
    """What `nginx -T` prints is split at its comment lines, and a warning inside one of them would hide a file."""
    box = rig.run_container(name="two-pipes", image=BASE, args=["sleep", "60"])
    argv = ["sh", "-c", "printf '# configuration'; sleep .2; echo '[warn]' >&2; sleep .2; echo ' file'; exit 3"]
    assert await engine.execute(box.id, argv) == (3, "[warn]\n# configuration file\n")
