"""Where containers can be: nginx reaches them, joins them, leaves them, or says what to do."""

from __future__ import annotations

import time

import pytest
from docker.types import IPAMConfig, IPAMPool

from proxyctl.publish.nginx import YOUNG
from tests.rig import Box, Controller, Rig, free_port, until


def networks_of(rig: Rig, controller: Controller) -> set[str]:
    return set(rig.client.inspect_container(controller.nginx)["NetworkSettings"]["Networks"])


def test_nginx_joins_the_network_of_a_newcomer_and_leaves_it_with_the_last_target(rig: Rig, controller: Controller) -> None:
    network = rig.network("tenant")
    box = rig.run_container({"host": "joined.example"}, name="joined", network=network)
    controller.wait_for("joined.example", backend="joined")
    assert network in networks_of(rig, controller)
    time.sleep(YOUNG)  # so long after its start it stays where it is
    box.stop()
    box.remove()
    rig.client.remove_network(network)  # at once, as `docker compose down` does: it fails while nginx is in it


@pytest.mark.parametrize("name", ["000-first", "aaa", "zzz"])
def test_joining_and_leaving_do_not_cut_kept_connections(rig: Rig, controller: Controller, name: str) -> None:
    """The engine moves published ports when a join changes the network that sorts first."""
    from http.client import HTTPConnection

    rig.run_container({"host": f"kept-{name}.example"}, name=f"kept{name}")
    controller.wait_for(f"kept-{name}.example")
    time.sleep(0.5)
    kept = HTTPConnection("127.0.0.1", controller.port, timeout=5)

    def ask_kept() -> int:
        kept.request("GET", "/", headers={"Host": f"kept-{name}.example"})
        answer = kept.getresponse()
        answer.read()
        return answer.status

    assert ask_kept() == 200
    network = f"{name}-{rig.run}"
    rig.client.create_network(network, driver="bridge", labels=rig.marks)
    rig.client.connect_container_to_network(controller.nginx, network)
    assert ask_kept() == 200
    rig.client.disconnect_container_from_network(controller.nginx, network)
    assert ask_kept() == 200
    kept.close()


def test_a_container_in_several_networks_is_reached_where_nginx_is(rig: Rig, controller: Controller) -> None:
    other = rig.network("aaa-other")
    box = rig.create_container({"host": "several.example"}, name="several", network="bridge")
    rig.client.connect_container_to_network(box.id, other)
    box.start()
    controller.wait_for("several.example", backend="several")
    assert other not in networks_of(rig, controller)


def test_the_network_label_decides(rig: Rig, controller: Controller) -> None:
    wanted = rig.network("wanted")
    box = rig.create_container({"host": "wanted.example", "network": wanted}, name="wanted", network="bridge")
    rig.client.connect_container_to_network(box.id, wanted)
    box.start()
    controller.wait_for("wanted.example", backend="wanted")
    assert wanted in networks_of(rig, controller)


def test_the_network_of_the_host_is_reached(rig: Rig, controller: Controller) -> None:
    port = free_port()
    rig.run_container({"host": "hostnet.example", "port": str(port)}, name="hostnet", network="host", args=["--port", str(port)])
    controller.wait_for("hostnet.example", backend="hostnet")


def test_a_container_in_the_network_of_another_is_reached(rig: Rig, controller: Controller) -> None:
    owner = rig.run_container(name="owner", args=["--port", "81"])
    rig.run_container({"host": "shared.example", "port": "80"}, name="shared", network=f"container:{owner.id}")
    controller.wait_for("shared.example", backend="shared")


def test_ipv6_alone_is_enough(rig: Rig, controller: Controller) -> None:
    network = f"{rig.run}-six"
    rig.client.create_network(
        network,
        driver="bridge",
        labels=rig.marks,
        enable_ipv6=True,
        ipam=IPAMConfig(pool_configs=[IPAMPool("fd00:77::/64"), IPAMPool("10.213.77.0/24")]),
    )
    rig.run_container({"host": "six.example"}, name="six", network=network)
    controller.wait_for("six.example", backend="six")


@pytest.fixture(scope="module")
def chosen(rig: Rig) -> str:
    """A network whose subnet its owner chose, so that containers may have fixed addresses in it."""
    name = f"{rig.run}-chosen"
    pools = [IPAMPool("10.213.79.0/24")]
    rig.client.create_network(name, driver="bridge", labels=rig.marks, ipam=IPAMConfig(pool_configs=pools))
    return name


def test_nginx_takes_no_fixed_address(rig: Rig, controller: Controller, chosen: str) -> None:
    """Neither the one of a container that is started later, nor the lowest free one, and nginx keeps its own over a restart."""

    def fixed(address: str, name: str, labels: dict[str, str] | None = None) -> Box:
        place = {"EndpointsConfig": {chosen: {"IPAMConfig": {"IPv4Address": address}}}}
        return rig.create_container(labels, name=name, network=chosen, NetworkingConfig=place)

    boxes = [fixed("10.213.79.2", "db"), fixed("10.213.79.254", "last"), fixed("10.213.79.3", "site", {"host": "fixed.example"})]
    boxes[2].start()
    controller.wait_for("fixed.example", backend="site")
    own = rig.client.inspect_container(controller.nginx)["NetworkSettings"]["Networks"][chosen]["IPAddress"]
    assert own == "10.213.79.253"
    for box in boxes[:2]:
        box.start()
    rig.client.restart(controller.nginx, timeout=1)
    controller.wait_for("fixed.example", backend="site")
    assert rig.client.inspect_container(controller.nginx)["NetworkSettings"]["Networks"][chosen]["IPAddress"] == own
    for box in boxes:
        box.remove()
    until(lambda: chosen not in networks_of(rig, controller), YOUNG + 10, "nginx to leave")


def test_an_nginx_that_starts_first_leaves_others_their_addresses(rig: Rig, controller: Controller, chosen: str) -> None:
    def fixed(address: str, name: str, labels: dict[str, str] | None = None) -> Box:
        place = {"EndpointsConfig": {chosen: {"IPAMConfig": {"IPv4Address": address}}}}
        return rig.create_container(labels, name=name, network=chosen, NetworkingConfig=place)

    boxes = [fixed("10.213.79.2", "first-db"), fixed("10.213.79.3", "first-web", {"host": "beside.example"})]
    boxes[1].start()
    controller.wait_for("beside.example", backend="first-web")
    boxes[0].start()
    controller.kill()  # as at a boot: all of them have ended, and nginx is the first that starts, in the networks in which it was
    for box in boxes:
        box.kill()
    rig.client.restart(controller.nginx, timeout=1)
    for box in boxes:
        box.start()
    controller.start()
    controller.wait_for("beside.example", backend="first-web")
    for box in boxes:
        box.remove()


def test_nginx_joins_no_network_before_a_target_runs(rig: Rig, controller: Controller) -> None:
    network = rig.network("unstarted")
    box = rig.create_container({"host": "unstarted.example"}, name="unstarted", network=network)
    time.sleep(2)
    assert network not in networks_of(rig, controller)
    box.start()
    controller.wait_for("unstarted.example", backend="unstarted")
    assert network in networks_of(rig, controller)
    again = rig.create_container({"host": "unstarted.example"}, name="unstarted2", network=network)
    time.sleep(YOUNG)
    box.stop()
    time.sleep(1)
    assert network in networks_of(rig, controller), "the next one is there already"
    again.remove()
    box.remove()
    rig.remove_network(network)


def test_in_a_network_without_icc_the_published_port_is_used_or_the_reason_is_told(rig: Rig, controller: Controller) -> None:
    """The host reaches its containers, and nginx would not."""
    network = f"{rig.run}-icc"
    options = {"com.docker.network.bridge.enable_icc": "false"}
    rig.client.create_network(network, driver="bridge", labels=rig.marks, options=options)
    hidden = rig.run_container({"host": "hidden.example"}, name="hidden", network=network)
    ports = {"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": ""}]}}
    shown = rig.run_container({"host": "shown.example"}, name="shown", network=network, host_config=ports)
    controller.wait_for("shown.example", backend="shown")
    assert "may not reach each other" in controller.wait_rejected("hidden")["problem"]
    assert network not in networks_of(rig, controller)
    status = controller.ask_api("/api/v1/explain?url=hidden.example").body
    assert "may not reach each other" in status
    assert controller.ask("hidden.example").status in (404, 503)
    for box in (hidden, shown):
        box.remove()


def test_a_container_without_a_network_is_told_what_to_do(rig: Rig, controller: Controller) -> None:
    rig.run_container({"host": "alone.example"}, name="alone", network="none")
    assert "--network" in controller.wait_rejected("alone")["hint"]


def test_without_join_the_published_port_is_used_and_the_rest_is_told(rig: Rig) -> None:
    controller = rig.controller({"nginx": {"join": False}}, prefix=f"{rig.prefix}nojoin")
    network = rig.network("unjoined")
    prefix = controller.prefix
    rig.create_container(
        name="published",
        network=network,
        other_labels={f"{prefix}.host": "published.example"},
        host_config={"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": ""}]}},
    ).start()
    rig.create_container(name="unpublished", network=network, other_labels={f"{prefix}.host": "unpublished.example"}).start()
    controller.wait_for("published.example", backend="published")
    assert "nginx.join" in controller.wait_rejected("unpublished")["hint"]
    controller.stop()
