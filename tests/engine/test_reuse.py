"""An address that goes to somebody else: no worker of nginx leads there for the one who had it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException

import pytest
from docker.types import IPAMConfig, IPAMPool

from tests.lasting import Site, session
from tests.rig import BASE, LOOPBACK, Box, Controller, Rig, until

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


CRASHES = "import http.server, os, threading; threading.Timer({life}, os._exit, [3]).start(); \
http.server.HTTPServer(('', 80), http.server.SimpleHTTPRequestHandler).serve_forever()"
LIVES = (0.7, 0.9, 1.1)
"""Seconds after which each of them ends, so that they change places."""


@pytest.mark.parametrize(
    "projects", [("shop", "shop", "shop"), ("shop", "blog", "wiki"), ("shop", "", "shop")], ids=["one", "several", "unlabelled"]
)
async def test_crash_loops_beside_long_connections_of_another_site(
    rig: Rig, controller: Controller, projects: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    """Three containers in one network end, and start at each other's address. Those of one project cut nothing; strangers end old
    workers once at the most, since a container that flaps has no traffic that could be misrouted."""
    name = request.node.callspec.id
    host, own = f"long-{name}.example", rig.network(f"long-{name}")
    await asyncio.to_thread(rig.run_container, {"host": host}, name=f"long-{name}", network=own)
    controller.wait_for(host)
    address = rig.client.inspect_container(controller.nginx)["NetworkSettings"]["Networks"][own]["IPAddress"]
    before = len(ended(controller))
    network, over = rig.network(f"crashes-{name}"), asyncio.Event()
    async with session() as clients:
        site = Site(clients, address, host)
        long = [asyncio.create_task(each) for each in (site.websocket(over), site.events(over), site.download(9, 100_000))]
        await asyncio.sleep(1)
        boxes = []
        for number, project in enumerate(projects):
            compose = {"com.docker.compose.project": project, "com.docker.compose.service": f"s{number}"} if project else {}
            ours = {f"{rig.prefix}.host": f"crash{number}-{name}.example", f"{rig.prefix}.port": "80"} if project else {}
            make = partial(rig.run_container, name=f"crash{number}-{name}", image=BASE, network=network)
            args = ["python3", "-c", CRASHES.format(life=LIVES[number])]
            policy = {"RestartPolicy": {"Name": "always"}}
            boxes.append(await asyncio.to_thread(make, args=args, other_labels=compose | ours, host_config=policy))
        await asyncio.sleep(8)
        over.set()
        held = await asyncio.gather(*long)
        for box in boxes:
            await asyncio.to_thread(box.remove)
    retired = ended(controller)[before:]
    assert len(retired) <= (0 if name == "one" else 1), retired
    cut = [each.what for each in held if each.error]
    assert bool(cut) <= bool(retired), cut
