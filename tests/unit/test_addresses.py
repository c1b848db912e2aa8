"""Which addresses nginx asks for in a network: the last free ones."""

from __future__ import annotations

from typing import Any

import pytest

from proxyctl.observe.addresses import TRIES, spare

FOUR = {"Subnet": "10.0.0.0/28", "Gateway": "10.0.0.1"}
SIX = {"Subnet": "fd00:1::/64"}


def network(*pools: dict[str, Any], **containers: str) -> dict[str, Any]:
    return {
        "Name": "front",
        "IPAM": {"Config": list(pools)},
        "Containers": {k: {"IPv4Address": v} for k, v in containers.items()},
    }


@pytest.mark.parametrize(
    ("described", "first"),
    [
        (network(FOUR), ("10.0.0.14", None)),
        (network(FOUR, web="10.0.0.14/28"), ("10.0.0.13", None)),
        (network(FOUR | {"AuxiliaryAddresses": {"router": "10.0.0.14"}}), ("10.0.0.13", None)),
        (network(FOUR | {"IPRange": "10.0.0.0/29"}), ("10.0.0.6", None)),
        (network({"Subnet": "10.0.0.0/28", "Gateway": "10.0.0.14"}), ("10.0.0.13", None)),
        (network(FOUR, SIX), ("10.0.0.14", "fd00:1::ffff:ffff:ffff:fffe")),
        (network(SIX), (None, "fd00:1::ffff:ffff:ffff:fffe")),
    ],
)
def test_the_last_free_address_comes_first(described: dict[str, Any], first: tuple[str | None, str | None]) -> None:
    assert spare(described, [])[0] == first


def test_a_fixed_address_belongs_to_its_container_before_it_runs() -> None:
    fixed = {"NetworkSettings": {"Networks": {"front": {"IPAMConfig": {"IPv4Address": "10.0.0.14"}}}}}
    other = {
        "NetworkSettings": {"Networks": {"back": {"IPAMConfig": {"IPv4Address": "10.0.0.13"}}, "front": {"IPAMConfig": None}}}
    }
    assert spare(network(FOUR), [fixed, other, {}])[0] == ("10.0.0.13", None)


@pytest.mark.parametrize(
    "described", [{}, {"IPAM": None}, network(), network({"Subnet": ""}), network({"Subnet": "10.0.0.0/31"})]
)
def test_a_network_without_a_pool_has_none(described: dict[str, Any]) -> None:
    assert spare(described, []) == []


@pytest.mark.parametrize(
    ("known", "first"),
    [
        (["10.0.0.9"], "10.0.0.9"),
        (["10.0.0.9", "fd00:1::9"], "10.0.0.9"),
        (["10.0.0.5"], "10.0.0.14"),
        (["10.0.0.1"], "10.0.0.14"),
        (["10.0.0.15"], "10.0.0.14"),
        (["10.9.0.9"], "10.0.0.14"),
    ],
    ids=["free", "both families", "taken", "gateway", "broadcast", "another subnet"],
)
def test_the_address_of_before_comes_first_if_it_is_free(known: list[str], first: str) -> None:
    assert spare(network(FOUR, web="10.0.0.5/28"), [], known)[0] == (first, None)


def test_in_a_network_that_other_machines_are_in_none_is_asked_for() -> None:
    assert spare(network(FOUR) | {"Driver": "macvlan"}, []) == []


def test_there_are_few() -> None:
    assert len(spare(network(FOUR, SIX), [])) == TRIES
