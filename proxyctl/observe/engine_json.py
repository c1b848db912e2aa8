"""The engine's JSON -> plain values of `model`, strictly: JSON of another shape raises one of NOT_UNDERSTOOD and gives nothing.

Field names are those of the Docker Engine API.
"""

from __future__ import annotations

import calendar
import math
import re
import signal as signals
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, cast, get_args

import msgspec
import structlog

from proxyctl.model import Container, ContainerState, DockerHealth, EngineEvent, Exit

NOT_UNDERSTOOD = (
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    msgspec.MsgspecError,
)
"""What reading JSON of another shape raises."""
LONGEST_EVENT = 4 << 20
"""Bytes. An event has all labels of its container."""

STATUS = b'"Status":"'
ENDS = ("die", "died")
"""Actions of a container that has ended, in Docker's and in Podman's word."""

log = structlog.get_logger()


def without_uptime(raw: bytes) -> tuple[bytes, bytes]:
    """One entry of the list without how long its container has been in its state, in words: nothing that matters. Its health,
    which comes after that in parentheses, does."""
    before, _, after = raw.partition(STATUS)
    end = after.find(b'"')
    health = after.find(b"(", 0, end)
    return before, after[health if health >= 0 else end :]


def json_object(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise TypeError(f"an object was expected, not {type(raw).__name__}")
    return raw


def json_lines(chunks: Iterable[bytes | str]) -> Iterator[bytes]:
    """The engine writes each event as a line. The SDK's own decoder would wait for ever for the end of what is no JSON."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + (chunk if isinstance(chunk, bytes) else chunk.encode())).split(b"\n")
        yield from lines
        rest = rest if len(rest) <= LONGEST_EVENT else b""
    yield rest


def read_events(lines: Iterable[bytes]) -> Iterator[EngineEvent]:
    """Events that are ours. What cannot be understood is passed over: events are hints, and everything is listed again soon."""
    told = False
    for line in lines:
        try:
            event = read_event(msgspec.json.decode(line)) if line.strip() else None
        except NOT_UNDERSTOOD as error:
            if not told:
                log.warning("event not understood", problem=f"{type(error).__name__}: {error}"[:200])
            told = True
            continue
        if event:
            yield event


def read_event(raw: Any) -> EngineEvent | None:
    actor = json_object(raw).get("Actor") or {}
    attributes = actor.get("Attributes") or {}
    kind, action = raw.get("Type"), raw.get("Action") or ""
    if kind == "network":
        container_id = attributes.get("container") or ""
    elif kind == "container":
        container_id = actor.get("ID") or ""
    else:
        return None
    if not container_id:
        return None
    number = _signal_number(attributes.get("signal", "")) if action == "kill" else 0
    labels = attributes if kind == "container" else None  # the engine mixes them with the container's name and image
    network = attributes.get("name") or "" if kind == "network" else ""
    code = _exit_code(attributes) if kind == "container" and action in ENDS else None
    fields = (action.partition(":")[0], container_id, number, labels, network, code)
    return msgspec.convert(dict(zip(EngineEvent.__slots__, fields, strict=True)), EngineEvent)


def _exit_code(attributes: Mapping[str, Any]) -> int | None:
    text = str(attributes.get("exitCode") or attributes.get("containerExitCode") or "")
    return int(text) if re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) else None


def read_exit(raw: Any) -> Exit | None:
    """How the container ended the last time; None when it never has. While it runs again, the engine tells no exit status."""
    state, restarts = json_object(raw).get("State") or {}, raw.get("RestartCount") or 0
    ended = str(state.get("FinishedAt") or "")[:4] not in ("", "0001")
    code = None if state.get("Running") and state.get("Status") != "restarting" else state.get("ExitCode")
    found = {"code": code, "out_of_memory": bool(state.get("OOMKilled")), "restarts": restarts}
    return msgspec.convert(found, Exit) if ended else None


def read_titles(raw: Any) -> list[tuple[int, str]]:
    return [(int(row[0]), str(row[1])) for row in raw["Processes"] or []]


def _signal_number(text: str) -> int:
    """`15`, `TERM`, `SIGTERM` -> 15, `RTMIN+3` -> 37 (what systemd asks for); 0 when it is none of these."""
    match = re.fullmatch(r"(?:SIG)?([A-Z]*[0-9]*)(?:([+-])([0-9]{1,2}))?", str(text).upper(), re.ASCII)
    if not match:
        return 0
    name, sign, offset = match[1], match[2], int(match[3] or 0)
    number = int(name) if name.isdigit() else int(getattr(signals, f"SIG{name}", 0))
    found = number + (-offset if sign == "-" else offset)
    return found if 0 < number <= signals.SIGRTMAX and 0 < found <= signals.SIGRTMAX else 0


def read_listed(raw: Any) -> Container:
    ports = json_object(raw).get("Ports") or []
    health = _health_in(raw.get("Status") or "")
    names = raw.get("Names") or [raw["Id"][:12]]
    own = next((n for n in names if n.count("/") == 1), names[0])
    tcp = [port for port in ports if port.get("Type") == "tcp" and port["PrivatePort"] != 0]  # `EXPOSE 0` is allowed
    return _container(
        id=raw["Id"],
        name=own.lstrip("/"),
        image=sys.intern(raw.get("Image") or ""),
        created_unix=raw.get("Created") or 0,
        state=_word(raw.get("State"), ContainerState, "dead"),
        health=health,
        labels=raw.get("Labels") or {},
        endpoints=_endpoints((raw.get("NetworkSettings") or {}).get("Networks") or {}),
        network_mode=sys.intern((raw.get("HostConfig") or {}).get("NetworkMode") or ""),
        exposed=sorted({_port(port["PrivatePort"]) for port in tcp}),
        published=[
            {"container_port": port["PrivatePort"], "host_ip": port.get("IP") or "", "host_port": _port(port["PublicPort"])}
            for port in tcp
            if "PublicPort" in port
        ],
        has_healthcheck=health != "none",
    )


def _container(**fields: Any) -> Container:
    """Raises msgspec.ValidationError when a value has another type than the model says."""
    made = msgspec.convert(fields, Container)
    if not made.id or not math.isfinite(made.created_unix):
        raise ValueError("a container without an id, or made at no time")
    return made


def _word(text: Any, known: Any, otherwise: str) -> str:
    """One of the words that the model knows; engines of other releases may have more."""
    return text if text in get_args(known) else otherwise


def _port(number: Any) -> int:
    if not (isinstance(number, int) and 0 < number <= 65535):
        raise ValueError(f"{number!r:.40} is not a port")
    return number


def _health_in(status: str) -> DockerHealth:
    """The list call tells health only in words: `Up 3 seconds (health: starting)`."""
    match = re.search(r"\((healthy|unhealthy|health: starting)\)$", status)
    return "none" if not match else "starting" if match[1].startswith("health:") else cast("DockerHealth", match[1])


def read_inspected(raw: Any) -> Container:
    config, state = json_object(raw).get("Config") or {}, raw.get("State") or {}
    test = (config.get("Healthcheck") or {}).get("Test") or []
    has_healthcheck = bool(test) and test[0] != "NONE"
    health = (state.get("Health") or {}).get("Status", "none") if has_healthcheck else "none"
    network = raw.get("NetworkSettings") or {}
    exposed = _tcp_ports(config.get("ExposedPorts") or {}) | _tcp_ports(network.get("Ports") or {})
    return _container(
        id=raw["Id"],
        name=(raw.get("Name") or "").lstrip("/"),
        image=sys.intern(config.get("Image") or ""),
        created_unix=_unix(raw.get("Created") or ""),
        state=_word(state.get("Status"), ContainerState, "dead"),
        health=_word(health, DockerHealth, "none"),
        labels=config.get("Labels") or {},
        endpoints=_endpoints(network.get("Networks") or {}),
        network_mode=sys.intern((raw.get("HostConfig") or {}).get("NetworkMode") or ""),
        exposed=sorted(exposed),
        published=list(_published(network.get("Ports") or {})),
        has_healthcheck=has_healthcheck,
        stop_signal=_signal_number(config.get("StopSignal") or "TERM") or 15,
        stop_timeout=_stop_timeout(config.get("StopTimeout")),
    )


def _stop_timeout(seconds: int | None) -> float:
    """Seconds until SIGKILL; a negative number means never, which is taken for an hour."""
    return 10.0 if seconds is None else float(seconds) if seconds >= 0 else 3600.0


def _unix(text: str) -> float:
    """`2026-11-24T06:04:07.811003720Z` -> whole seconds, as the list call has them."""
    try:
        return float(calendar.timegm(datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S").timetuple()))  # noqa: DTZ007
    except ValueError:
        return 0.0


def _tcp_ports(keys: Iterable[str]) -> set[int]:
    numbers = (k.removesuffix("/tcp") for k in keys if k.endswith("/tcp"))
    return {_port(int(number)) for number in numbers if number.isdigit() and int(number)}


def _published(ports: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    for key, bindings in ports.items():
        if key.endswith("/tcp") and key != "0/tcp":
            for binding in bindings or []:
                inner, outer = int(key.partition("/")[0]), int(binding.get("HostPort") or 0)
                where = binding.get("HostIp") or ""
                yield {"container_port": _port(inner), "host_ip": where, "host_port": outer and _port(outer)}


def _endpoints(networks: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "network": sys.intern(name),
            "network_id": sys.intern(item.get("NetworkID") or ""),
            "endpoint_id": item.get("EndpointID") or "",
            "ipv4": _address(item.get("IPAddress") or ""),
            "ipv6": _address(item.get("GlobalIPv6Address") or ""),
            "gateway": sys.intern(_address(item.get("Gateway") or "")),
        }
        for name, item in sorted(networks.items())
        if item
    ]


def _address(text: str) -> str:
    """Empty for what is none: the container has no address then, and the others keep theirs."""
    if not text:
        return ""
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):
        return ""
    return text
