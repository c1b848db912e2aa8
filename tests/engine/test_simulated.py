"""The simulated engine: to the controller and its nginx it is one, from the list to the events of a container's life."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from proxyctl.observe.docker_host import DockerHost
from tests.rig import Controller, Rig
from tests.simulated import Simulation


@pytest.fixture(scope="module")
def simulation(rig: Rig) -> Iterator[Simulation]:
    with Simulation(rig, 3) as made:
        yield made


@pytest.fixture(scope="module")
def controller(rig: Rig, simulation: Simulation) -> Controller:
    return rig.controller({**simulation.sections, "discovery": {"resync": "1h"}})


def test_every_container_is_served(controller: Controller, simulation: Simulation) -> None:
    assert len(simulation.hosts) == 3
    for host in simulation.hosts:
        assert controller.wait_for(host).backend == "answering"


def test_a_container_lives_and_dies_by_its_events(controller: Controller, simulation: Simulation) -> None:
    (host,), _ = simulation.run()
    controller.wait_for(host)
    simulation.stop(host)
    controller.wait_for(host, 503)
    simulation.start(host)
    controller.wait_for(host)
    simulation.remove(host)
    controller.wait_for(host, 503)


def test_calls_are_counted_by_what_they_are_about(controller: Controller, simulation: Simulation) -> None:
    controller.wait_for(simulation.hosts[0])
    simulation.calls()
    (host,), _ = simulation.run()
    controller.wait_for(host)
    calls = simulation.calls()
    assert calls["GET /containers/{id}/json"] >= 1
    assert not calls["POST /containers/{id}/exec of nginx"], "nginx has accepted one like it"
    assert calls["POST /containers/{id}/kill of nginx"] == 1
    assert not calls["GET /containers/json"]


def test_the_list_and_inspect_tell_the_same(simulation: Simulation) -> None:
    async def read() -> None:
        engine = DockerHost(str(simulation.sections["docker"]["endpoint"]))
        listed = {container.name: container for container in await engine.list_containers()}
        names = [host.partition(".")[0] for host in simulation.hosts]
        for name in names:
            assert await engine.inspect(listed[name].id) == listed[name]
        endpoints = [listed[name].endpoints[0] for name in names]
        assert len({e.endpoint_id for e in endpoints}) == len({e.ipv4 for e in endpoints}) == len(names)
        engine.close()

    asyncio.run(read())
