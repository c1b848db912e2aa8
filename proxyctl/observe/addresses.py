"""A network as the engine describes it -> addresses that nginx may ask for there: the one of before, and the last free ones.

The engine gives out the lowest free address. In a network whose subnet its owner chose, a container may have a fixed one, and
nginx must not be there when it starts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from itertools import chain, islice
from typing import Any

TRIES = 4
"""Addresses that nginx asks for before it takes what it is given."""
BRIDGE = "bridge"
"""The driver whose addresses are all this engine's. Elsewhere (macvlan, overlay) what looks free may be another machine's."""
ICC = "com.docker.network.bridge.enable_icc"
"""An option of a bridge network."""


def is_isolating(network: Mapping[str, Any]) -> bool:
    """Whether containers in it reach the host and not each other."""
    return str((network.get("Options") or {}).get(ICC, "")).lower() == "false"


def spare(
    network: Mapping[str, Any], containers: Iterable[Mapping[str, Any]], known: Collection[str] = ()
) -> list[tuple[str | None, str | None]]:
    """IPv4 and IPv6 addresses, the best pair first. `containers`: those in the engine's list, running or not, whose fixed
    addresses are theirs. `known`: what nginx had there before, and gets again if it is free."""
    if network.get("Driver", BRIDGE) != BRIDGE:
        return []
    taken = {
        _bare(entry.get(key)) for entry in (network.get("Containers") or {}).values() for key in ("IPv4Address", "IPv6Address")
    }
    name = str(network.get("Name", ""))
    for container in containers:
        fixed = (((container.get("NetworkSettings") or {}).get("Networks") or {}).get(name) or {}).get("IPAMConfig") or {}
        taken |= {_bare(fixed.get(key)) for key in ("IPv4Address", "IPv6Address")}
    found: dict[int, list[str]] = {4: [], 6: []}
    for pool in (network.get("IPAM") or {}).get("Config") or ():
        text = pool.get("IPRange") or pool.get("Subnet")
        if text:
            reserved = {_bare(pool.get("Gateway")), *map(_bare, (pool.get("AuxiliaryAddresses") or {}).values())}
            subnet = ip_network(text, strict=False)
            free = (address for address in _from_the_end(subnet) if address not in taken | reserved)
            again = [each for each in known if each not in taken | reserved and _is_within(each, subnet)]
            found[subnet.version] = found[subnet.version] or list(islice(chain(again, free), TRIES))
    length = max(len(found[4]), len(found[6]))
    pairs = zip(*([*found[v], *[None] * (length - len(found[v]))] for v in (4, 6)), strict=True)
    return [(four, six) for four, six in pairs]


def _is_within(address: str, subnet: IPv4Network | IPv6Network) -> bool:
    found = ip_address(address)
    return found in subnet and found not in (subnet[0], subnet[-1])


def _from_the_end(subnet: IPv4Network | IPv6Network) -> Iterator[str]:
    """Without the first and the last one."""
    for number in range(subnet.num_addresses - 2, 0, -1):
        yield str(subnet[number])


def _bare(text: object) -> str:
    """Without a mask, as ipaddress writes it; empty when there is none."""
    return str(ip_interface(str(text)).ip if "/" in str(text) else ip_address(str(text))) if text else ""
