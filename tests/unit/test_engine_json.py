"""The engine's JSON -> the model: the list call, inspect and events, as Docker writes them."""

from __future__ import annotations

import copy
import errno
from pathlib import Path
from typing import Any

import pytest

from proxyctl import processes
from proxyctl.model import Endpoint, EngineEvent, PublishedPort
from proxyctl.observe import docker_host
from proxyctl.observe.engine_json import _signal_number, read_event, read_inspected, read_listed

ENDPOINT = {
    "NetworkID": "net-1",
    "EndpointID": "end-1",
    "IPAddress": "172.18.0.2",
    "GlobalIPv6Address": "fd00::2",
    "Gateway": "172.18.0.1",
}
LISTED: dict[str, Any] = {
    "Id": "c1",
    "Names": ["/other/web", "/web"],
    "Image": "app:1",
    "Created": 1763964247,
    "State": "running",
    "Status": "Up 3 seconds (healthy)",
    "Labels": {"proxyctl.host": "a.example"},
    "Ports": [
        {"PrivatePort": 82, "Type": "tcp"},
        {"PrivatePort": 81, "Type": "tcp"},
        {"PrivatePort": 80, "PublicPort": 8080, "IP": "0.0.0.0", "Type": "tcp"},
        {"PrivatePort": 80, "PublicPort": 8080, "IP": "::", "Type": "tcp"},
        {"PrivatePort": 53, "PublicPort": 53, "IP": "0.0.0.0", "Type": "udp"},
    ],
    "HostConfig": {"NetworkMode": "front"},
    "NetworkSettings": {"Networks": {"front": ENDPOINT, "back": None, "aside": ENDPOINT}},
}
INSPECTED: dict[str, Any] = {
    "Id": "c1",
    "Name": "/web",
    "Created": "2025-11-24T06:04:07.811003720Z",
    "State": {"Status": "running", "Health": {"Status": "healthy"}},
    "Config": {
        "Image": "app:1",
        "Labels": {"proxyctl.host": "a.example"},
        "ExposedPorts": {"80/tcp": {}, "82/tcp": {}, "53/udp": {}},
        "Healthcheck": {"Test": ["CMD", "true"]},
        "StopSignal": "SIGQUIT",
        "StopTimeout": 30,
    },
    "HostConfig": {"NetworkMode": "front"},
    "NetworkSettings": {
        "Networks": {"front": ENDPOINT, "back": None, "aside": ENDPOINT},
        "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}], "81/tcp": None},
    },
}


def test_list_and_inspect_say_the_same_of_the_same_container() -> None:
    listed, inspected = read_listed(LISTED), read_inspected(INSPECTED)
    for name in ("id", "name", "image", "created_unix", "state", "health", "labels", "endpoints", "network_mode", "exposed"):
        assert getattr(listed, name) == getattr(inspected, name), name
    assert listed.published == inspected.published == (PublishedPort(80, "0.0.0.0", 8080), PublishedPort(80, "::", 8080))
    where = ("net-1", "end-1", "172.18.0.2", "fd00::2", "172.18.0.1")
    assert listed.endpoints == (Endpoint("aside", *where), Endpoint("front", *where))
    assert listed.exposed == (80, 81, 82)
    assert listed.has_healthcheck
    assert inspected.has_healthcheck
    assert (inspected.stop_signal, inspected.stop_timeout) == (3, 30.0)


@pytest.mark.parametrize(
    ("status", "health"),
    [
        ("Up 3 seconds", "none"),
        ("Up 3 seconds (health: starting)", "starting"),
        ("Up 2 minutes (unhealthy)", "unhealthy"),
        ("Up 2 minutes (Paused)", "none"),
        ("Exited (0) 3 seconds ago", "none"),
        ("", "none"),
    ],
)
def test_health_in_the_list_is_told_in_words(status: str, health: str) -> None:
    assert read_listed(LISTED | {"Status": status}).health == health


def test_a_healthcheck_that_is_switched_off_is_none() -> None:
    raw = copy.deepcopy(INSPECTED)
    raw["Config"]["Healthcheck"] = {"Test": ["NONE"]}
    assert (read_inspected(raw).has_healthcheck, read_inspected(raw).health) == (False, "none")


@pytest.mark.parametrize(("seconds", "expected"), [(None, 10.0), (0, 0.0), (30, 30.0), (-1, 3600.0)])
def test_how_long_a_container_is_given_to_stop(seconds: int | None, expected: float) -> None:
    raw = copy.deepcopy(INSPECTED)
    raw["Config"]["StopTimeout"] = seconds
    assert read_inspected(raw).stop_timeout == expected


@pytest.mark.parametrize("missing", [None, {}, []])
def test_what_the_engine_leaves_out_is_empty(missing: Any) -> None:
    bare = read_inspected(
        {"Id": "c1", "Config": missing or None, "State": {"Status": "created"}, "NetworkSettings": missing or None}
    )
    assert (bare.labels, bare.endpoints, bare.exposed, bare.published, bare.stop_signal) == ({}, (), (), (), 15)
    listed = read_listed({"Id": "c1", "Labels": missing or None, "Ports": missing, "NetworkSettings": missing or None})
    assert (listed.name, listed.labels, listed.exposed) == ("c1", {}, ())


@pytest.mark.parametrize(
    ("text", "number"),
    [("15", 15), ("TERM", 15), ("SIGTERM", 15), ("sigquit", 3), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("SIGUSR1", 10)],
)
def test_a_signal_is_known_by_its_number_and_its_names(text: str, number: int) -> None:
    assert _signal_number(text) == number


@pytest.mark.parametrize("text", ["", "NONSENSE", "SIG", "99999", "\u00b2", "TERM;", "_DFL", "0", "RTMIN+99", "SIGHUP-1"])
def test_what_is_no_signal_is_none(text: str) -> None:
    assert _signal_number(text) == 0


ATTRIBUTES = {"proxyctl.host": "a.example", "name": "web", "image": "app:1"}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(
            {"Type": "container", "Action": "start", "Actor": {"ID": "c1", "Attributes": ATTRIBUTES}},
            EngineEvent("start", "c1", 0, ATTRIBUTES),
            id="start",
        ),
        pytest.param(
            {"Type": "container", "Action": "kill", "Actor": {"ID": "c1", "Attributes": {"signal": "15"}}},
            EngineEvent("kill", "c1", 15, {"signal": "15"}),
            id="kill has a signal",
        ),
        pytest.param(
            {"Type": "container", "Action": "health_status: healthy", "Actor": {"ID": "c1", "Attributes": {}}},
            EngineEvent("health_status", "c1", 0, {}),
            id="health has its word behind a colon",
        ),
        pytest.param(
            {
                "Type": "network",
                "Action": "connect",
                "Actor": {"ID": "net-1", "Attributes": {"container": "c1", "name": "front"}},
            },
            EngineEvent("connect", "c1", 0, None, "front"),
            id="a network's event is about a container, and tells no labels",
        ),
        pytest.param({"Type": "image", "Action": "pull", "Actor": {"ID": "app:1"}}, None, id="an image's event is none of ours"),
        pytest.param({}, None, id="nothing"),
    ],
)
def test_an_event_is_about_one_container(raw: dict[str, Any], expected: EngineEvent | None) -> None:
    assert read_event(raw) == expected


@pytest.mark.parametrize(
    ("number", "hint"),
    [(errno.ENOENT, "start Docker"), (errno.EACCES, "socket's group"), (errno.ECONNREFUSED, "connection refused")],
)
def test_the_mistakes_that_everybody_makes_come_with_what_to_do(number: int, hint: str) -> None:
    wrapped = ConnectionError("Connection aborted.", OSError(number, "no"))
    outer = RuntimeError("Max retries exceeded")
    outer.__cause__ = wrapped
    assert hint in docker_host._why(outer)
    assert docker_host._why(RuntimeError("something else")) == "something else"


def test_a_process_and_its_children_are_found_where_they_can_be_seen(tmp_path: Path) -> None:
    for pid, parent, title in ((10, 1, "nginx: master process nginx"), (11, 10, "nginx: worker process"), (12, 1, "other")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a) b) S {parent} 0 0\n")
        (tmp_path / str(pid) / "cmdline").write_bytes(title.encode().replace(b" ", b"\0"))
    (tmp_path / "13").mkdir()
    found = sorted(processes.family(10, tmp_path))
    assert found == [(10, "nginx: master process nginx"), (11, "nginx: worker process")]
