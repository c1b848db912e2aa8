"""Where nginx reaches a container: one address, the network it is in, or the reason why there is none."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from proxyctl.model import Container, Endpoint, NginxView, RouteSpec, Target

ALIVE = frozenset({"running", "paused"})
ANY_ADDRESS = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared with, never bound
METADATA = frozenset({"100.100.100.200", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:42::42"})
"""Of Alibaba, Amazon (two), Google and Scaleway; that of most clouds, 169.254.169.254, is link-local."""
PENDING = Target("", "", "127.0.0.1", 1)
"""Stands for the address that a container gets when it starts."""


@dataclass(frozen=True, slots=True)
class Reached:
    """`network` is empty when no network has to be shared (host network, published port)."""

    target: Target
    network: str = ""


@dataclass(frozen=True, slots=True)
class Unreachable:
    message: str
    hint: str


def reach(
    container: Container,
    route: RouteSpec,
    nginx: NginxView,
    containers: Mapping[str, Container],
    *,
    unjoinable: Mapping[str, str] | None,
    own_ports: frozenset[int] = frozenset(),
    nginx_label: str = "",
) -> Reached | Unreachable:
    """The address of `route.port` of a living or coming container, as nginx sees it.

    A container that has no address yet is reached at `PENDING`: enough to test what will be rendered for it. `unjoinable`:
    networks that the engine does not let nginx into, and its reason; None when nginx joins none. `own_ports`: the host's ports
    that lead to proxyctl and its nginx, which are never targets, nor are link-local and metadata addresses.
    """
    owner = _network_owner(container, containers)
    if owner and (nginx_label in owner.labels or owner.id == nginx.container):
        return Unreachable("it shares the network of nginx itself", "start it in a network of its own")
    found = _reach(container, route, nginx, owner, unjoinable=unjoinable)
    if isinstance(found, Unreachable):
        return found
    if container.network_mode == "host" and route.port in own_ports:
        return Unreachable(f"port {route.port} of the host is proxyctl's own", "let the application listen on another port")
    if _is_forbidden(found.target.address):
        todo = "connect the container to another network"
        return Unreachable(f"{found.target.address} is a link-local or a metadata address", todo)
    return found


def _network_owner(container: Container, containers: Mapping[str, Container]) -> Container | None:
    """Itself, or the one in whose network it was started; None when that is not there."""
    mode = container.network_mode
    if not mode.startswith("container:"):
        return container
    ref = mode.removeprefix("container:")
    return containers.get(ref) or next((c for c in containers.values() if c.name == ref), None)


def _reach(
    container: Container,
    route: RouteSpec,
    nginx: NginxView,
    owner: Container | None,
    *,
    unjoinable: Mapping[str, str] | None,
) -> Reached | Unreachable:
    mode = container.network_mode
    if mode == "none":
        return Unreachable("the container has no network", "start it with --network NAME")
    if mode == "host":
        return _on_the_host(container, route, nginx)
    if owner is None or owner.network_mode == "host":
        return Unreachable("it shares the network of a container that is not there", "start that container first")
    candidates = _candidates(owner, route.network)
    if isinstance(candidates, Unreachable):
        return candidates
    return _pick(container, owner, route, candidates, nginx, unjoinable=unjoinable)


def _candidates(owner: Container, wanted: str) -> list[Endpoint] | Unreachable:
    endpoints = sorted(owner.endpoints, key=lambda e: e.network)
    if not wanted:
        return endpoints
    project = owner.labels.get("com.docker.compose.project", "")
    named = [e for e in endpoints if e.network in (wanted, f"{project}_{wanted}")]
    if not named:
        names = ", ".join(e.network for e in endpoints) or "none"
        return Unreachable(f"it is not in the network {wanted} (but in {names})", "name one of its networks")
    return named


def _pick(
    container: Container,
    owner: Container,
    route: RouteSpec,
    candidates: list[Endpoint],
    nginx: NginxView,
    *,
    unjoinable: Mapping[str, str] | None,
) -> Reached | Unreachable:
    shared = [e for e in candidates if nginx.host_network or e.network in nginx.networks]
    usable = shared or [e for e in candidates if unjoinable is not None and e.network not in unjoinable]
    if usable:
        chosen = next((e for e in usable if e.ipv4 or e.ipv6), usable[0])
        return Reached(_target(container, chosen, route.port), "" if nginx.host_network else chosen.network)
    for port in owner.published:
        gateway = _gateway(nginx)
        if port.container_port == route.port and port.host_ip in ANY_ADDRESS and gateway and candidates:
            return Reached(Target(container.id, candidates[0].endpoint_id, gateway, port.host_port))
    names = ", ".join(e.network for e in candidates)
    if not names:
        return Unreachable("the container is in no network", "connect it: docker network connect NAME CONTAINER")
    refused = candidates[0].network
    if unjoinable and refused in unjoinable:
        return Unreachable(f"nginx cannot join {refused}: {unjoinable[refused]}", "connect it to a network that nginx can join")
    return Unreachable(
        f"nginx is in none of its networks ({names})",
        f"set nginx.join = true, or: docker network connect {candidates[0].network} NGINX_CONTAINER",
    )


def _target(container: Container, endpoint: Endpoint, port: int) -> Target:
    address = endpoint.ipv4 or endpoint.ipv6
    if not address:
        return PENDING
    return Target(container.id, endpoint.endpoint_id, address, port)


def _on_the_host(container: Container, route: RouteSpec, nginx: NginxView) -> Reached | Unreachable:
    endpoint_id = container.endpoints[0].endpoint_id if container.endpoints else ""
    if container.state == "created":
        return Reached(PENDING)
    if nginx.host_network:
        return Reached(Target(container.id, endpoint_id, "127.0.0.1", route.port))
    gateway = _gateway(nginx)
    if not gateway:
        return Unreachable("it is in the host's network and nginx has no way to the host", "give nginx a bridge network")
    return Reached(Target(container.id, endpoint_id, gateway, route.port))


def _is_forbidden(address: str) -> bool:
    if address in METADATA:
        return True
    return address.startswith("169.254.") or (":" in address and ipaddress.ip_address(address).is_link_local)


def _gateway(nginx: NginxView) -> str:
    return min((address for address in nginx.networks.values() if address), default="")
