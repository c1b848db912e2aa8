"""Where nginx reaches a container: which network, which address, and what its owner is told when there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from proxyctl.model import Container, NginxView, PublishedPort, Target
from proxyctl.plan.targets import PENDING, Reached, Unreachable, reach
from tests.unit import make

TWO = {"back": "10.1.0.5", "front": "10.0.0.5"}
IN_BACK = {"back": "10.1.0.1"}
ON_THE_HOST = make.view(networks={}, host_network=True)


def of(
    container: Container,
    nginx: NginxView | None = None,
    *,
    network: str = "",
    join: bool = True,
    others: tuple[Container, ...] = (),
) -> Reached | Unreachable:
    known = {c.id: c for c in (container, *others)}
    return reach(container, make.route(network=network), nginx or make.view(), known, unjoinable={} if join else None)


def at(address: str, network: str = "", endpoint: str = "", port: int = 80) -> Reached:
    return Reached(Target("id-web-1", endpoint or f"web-1@{network}", address, port), network)


def sharing(*networks: str) -> NginxView:
    return make.view(networks=dict.fromkeys(networks, "10.9.0.1"))


@pytest.mark.parametrize(
    ("nginx", "wanted", "join", "expected"),
    [
        pytest.param(sharing("front"), "", True, at("10.0.0.5", "front"), id="the one that nginx is in"),
        pytest.param(sharing("back", "front"), "", True, at("10.1.0.5", "back"), id="the first by name of two that nginx is in"),
        pytest.param(sharing("other"), "", True, at("10.1.0.5", "back"), id="the first by name when nginx must join"),
        pytest.param(sharing("back"), "front", True, at("10.0.0.5", "front"), id="the one that the label names"),
        pytest.param(sharing("front"), "", False, at("10.0.0.5", "front"), id="a shared one needs no join"),
        pytest.param(ON_THE_HOST, "", True, at("10.1.0.5", endpoint="web-1@back"), id="nginx on the host reaches every bridge"),
        pytest.param(ON_THE_HOST, "front", False, at("10.0.0.5", endpoint="web-1@front"), id="but the label still chooses"),
    ],
)
def test_of_several_networks_it_is(nginx: NginxView, wanted: str, join: bool, expected: Reached) -> None:
    assert of(make.container(networks=TWO), nginx, network=wanted, join=join) == expected


def test_the_answer_does_not_depend_on_the_order_in_which_the_engine_lists_networks() -> None:
    backwards = dict(reversed(TWO.items()))
    assert of(make.container(networks=TWO), sharing("other")) == of(make.container(networks=backwards), sharing("other"))


def test_without_join_and_without_a_shared_network_the_owner_is_told_both_ways_out() -> None:
    found = of(make.container(networks=TWO), sharing("other"), join=False)
    assert isinstance(found, Unreachable)
    assert "back, front" in found.message
    assert "nginx.join = true" in found.hint
    assert "docker network connect back" in found.hint


def test_a_network_that_the_container_is_not_in_is_named_beside_those_that_it_is_in() -> None:
    found = of(make.container(networks=TWO), network="middle")
    assert isinstance(found, Unreachable)
    assert "the network middle (but in back, front)" in found.message


def test_a_network_of_compose_is_known_by_its_short_name() -> None:
    container = make.container(networks={"shop_back": "10.2.0.5", "front": "10.0.0.5"}, compose="shop/web")
    assert of(container, network="back") == at("10.2.0.5", "shop_back")


def test_the_short_name_is_that_of_the_containers_own_project() -> None:
    container = make.container(networks={"shop_back": "10.2.0.5"}, compose="other/web")
    assert isinstance(of(container, network="back"), Unreachable)


def test_ipv4_is_preferred_and_ipv6_alone_will_do() -> None:
    both = make.container(ipv6={"front": "fd00::5"})
    assert of(both) == at("10.0.0.5", "front")
    only = make.container(networks={"front": ""}, ipv6={"front": "fd00::5"})
    assert of(only) == at("fd00::5", "front")


def test_a_network_with_an_address_is_preferred_to_one_without() -> None:
    assert of(make.container(networks={"back": "", "front": "10.0.0.5"}), sharing("other")) == at("10.0.0.5", "front")


def test_a_container_that_has_not_started_is_pending_in_its_network() -> None:
    assert of(make.container(state="created", networks={"front": ""})) == Reached(PENDING, "front")


def test_another_start_is_another_target_at_the_same_address() -> None:
    before = make.container()
    after = replace(before, endpoints=tuple(replace(e, endpoint_id="new") for e in before.endpoints))
    assert of(before) == at("10.0.0.5", "front")
    assert of(after) == at("10.0.0.5", "front", endpoint="new")


# ---------------------------------------------------------------- the host's network

HOST = make.container(mode="host", networks={"host": ""})


def test_a_container_in_the_hosts_network_is_reached_at_a_gateway() -> None:
    nginx = make.view(networks={"back": "10.1.0.1", "front": "10.0.0.1"})
    assert of(HOST, nginx) == at("10.0.0.1", endpoint="web-1@host")


def test_nginx_and_the_container_in_the_hosts_network_meet_on_the_loopback() -> None:
    assert of(HOST, ON_THE_HOST) == at("127.0.0.1", endpoint="web-1@host")


@pytest.mark.parametrize("networks", [{}, {"internal": ""}], ids=["no network", "a network without a gateway"])
def test_without_a_gateway_there_is_no_way_to_the_host(networks: Mapping[str, str]) -> None:
    found = of(HOST, make.view(networks=networks))
    assert isinstance(found, Unreachable)
    assert "no way to the host" in found.message


def test_a_container_that_is_to_start_on_the_host_is_pending() -> None:
    assert of(make.container(state="created", mode="host", networks={})) == Reached(PENDING)


# ---------------------------------------------------------------- published ports


def published(host_ip: str = "0.0.0.0", port: int = 80) -> Container:
    return make.container(networks={"back": "10.1.0.5"}, published=(PublishedPort(port, host_ip, 32768),))


@pytest.mark.parametrize("host_ip", ["0.0.0.0", "::", ""])
def test_a_published_port_is_the_way_when_no_network_is_shared_and_none_may_be_joined(host_ip: str) -> None:
    assert of(published(host_ip), join=False) == at("10.0.0.1", endpoint="web-1@back", port=32768)


@pytest.mark.parametrize(
    "container",
    [published("127.0.0.1"), published("203.0.113.1"), published(port=81)],
    ids=["loopback", "one address", "other port"],
)
def test_a_port_that_is_not_published_to_everybody_is_no_way(container: Container) -> None:
    assert isinstance(of(container, join=False), Unreachable)


def test_a_network_is_preferred_to_a_published_port() -> None:
    assert of(published(), make.view(networks=IN_BACK)) == at("10.1.0.5", "back")


# ---------------------------------------------------------------- a network of another container, or none


def test_a_container_in_anothers_network_is_reached_there_under_its_own_identity() -> None:
    vpn = make.container("vpn", networks={"front": "10.0.0.9"})
    for ref in ("id-vpn", "vpn"):
        found = of(make.container(mode=f"container:{ref}", networks={}), others=(vpn,))
        assert found == at("10.0.0.9", "front", endpoint="vpn@front")


@pytest.mark.parametrize(
    "other",
    [make.container("other"), make.container("vpn", mode="host", networks={"host": ""})],
    ids=["it is not there", "it is itself on the host"],
)
def test_a_network_that_nobody_lends_is_told(other: Container) -> None:
    found = of(make.container(mode="container:id-vpn", networks={}), others=(other,))
    assert isinstance(found, Unreachable)
    assert "not there" in found.message


@pytest.mark.parametrize(("mode", "hint"), [("none", "--network"), ("front", "docker network connect")])
def test_a_container_without_a_network_is_told_how_to_get_one(mode: str, hint: str) -> None:
    found = of(make.container(mode=mode, networks={}))
    assert isinstance(found, Unreachable)
    assert "no network" in found.message
    assert hint in found.hint
