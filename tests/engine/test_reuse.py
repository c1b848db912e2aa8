"""An address that goes to somebody else: no worker of nginx leads there for the one who had it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException

import pytest
from docker.types import IPAMConfig, IPAMPool

from tests.rig import LOOPBACK, Box, Controller, Rig, until

CLIENTS = 20
Labels = dict[str, str]


@pytest.fixture(scope="module")
def network(rig: Rig) -> str:
    name = f"{rig.run}-reuse"
    pools = [IPAMPool(subnet="10.213.78.0/24")]
    rig.client.create_network(name, driver="bridge", labels=rig.marks, ipam=IPAMConfig(pool_configs=pools))
    return name


def at(rig: Rig, network: str, address: str, name: str, labels: Labels | None = None) -> Box:
    """A container that is created to get this address when it starts."""
    place = {"EndpointsConfig": {network: {"IPAMConfig": {"IPv4Address": address}}}}
    return rig.create_container(labels, name=name, network=network, NetworkingConfig=place)


@contextmanager
def kept(controller: Controller, host: str) -> Iterator[list[HTTPConnection]]:
    """Connections that have been answered once and stay open."""
    connections = [HTTPConnection(LOOPBACK, controller.port, timeout=5) for _ in range(CLIENTS)]
    try:
        for connection in connections:
            assert asked(connection, host) != ""
        yield connections
    finally:
        for connection in connections:
            connection.close()


def asked(connection: HTTPConnection, host: str) -> str:
    """Who answers; empty when nobody does."""
    with suppress(OSError, HTTPException):
        connection.request("GET", "/", headers={"Host": host})
        response = connection.getresponse()
        response.read()
        return response.getheader("X-Backend", "")
    return ""


@pytest.mark.parametrize("labels", [{"host": "next.example"}, None], ids=["labelled", "not labelled"])
def test_kept_connections_do_not_lead_to_the_next_owner_of_an_address(
    rig: Rig, controller: Controller, network: str, labels: Labels | None
) -> None:
    name, address = f"was{bool(labels)}".lower(), f"10.213.78.{100 + bool(labels)}"
    host = f"{name}.example"
    former = at(rig, network, address, name, {"host": host})
    former.start()
    controller.wait_for(host, backend=name)
    next_one = at(rig, network, address, f"next-{name}", labels)
    with kept(controller, host) as connections:
        former.kill()
        next_one.start()
        until(lambda: any(address in line for line in ended(controller)), 3, "the old workers' end")
        assert not {asked(connection, host) for connection in connections} - {"", name}
    assert controller.ask(host).status == 503


def test_the_same_service_may_have_the_address_and_cuts_nobody(rig: Rig, controller: Controller, network: str) -> None:
    labels = {"host": "same.example", "service": "same"}
    former = at(rig, network, "10.213.78.110", "same1", labels)
    former.start()
    controller.wait_for("same.example", backend="same1")
    next_one = at(rig, network, "10.213.78.110", "same2", labels)
    with kept(controller, "same.example") as connections:
        former.kill()
        next_one.start()
        controller.wait_for("same.example", backend="same2")
        assert {asked(connection, "same.example") for connection in connections} == {"same2"}
    assert not any("10.213.78.110" in line for line in ended(controller))


def ended(controller: Controller) -> list[str]:
    """What the log says of workers that were ended."""
    return [str(record["why"]) for record in controller.records("old workers ended")]
