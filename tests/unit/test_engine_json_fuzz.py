"""An engine, or a proxy before it, that answers anything: understood, refused as a whole, or passed over; never half believed.

The answers of a real engine are bent: a value replaced by another JSON value, a key left out, an item doubled.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import http.server
import itertools
import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from proxyctl.model import Container, ContainerState, DockerHealth, EngineEvent, EngineUnavailable
from proxyctl.observe import engine_json
from proxyctl.observe.docker_host import DockerHost
from proxyctl.observe.engine_json import (
    NOT_UNDERSTOOD,
    json_lines,
    read_event,
    read_events,
    read_inspected,
    read_listed,
)
from tests.unit.test_engine_json import ATTRIBUTES, INSPECTED, LISTED

EVENT: dict[str, Any] = {
    "Type": "container",
    "Action": "kill",
    "Actor": {"ID": "c1", "Attributes": ATTRIBUTES | {"signal": "15"}},
    "timeNano": 2_500_000_000,
}
NUMBERS = st.sampled_from([0, -1, 1, 65535, 65536, 2**63, 2**64, 10**400, -(10**400), 1e308, float("inf"), float("nan"), 0.5])
WORDS = st.sampled_from(
    ["", "running", "tcp", "80/tcp", "²/tcp", "-1/tcp", "999999/tcp", "/", "9" * 5000, "a\0b", "SIGTERM", "RTMIN+99"]
)
LEAVES = st.none() | st.booleans() | NUMBERS | WORDS | st.text(st.characters(codec="utf-8"), max_size=20)
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=3) | st.dictionaries(WORDS, v, max_size=3), max_leaves=6)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON value, its own first."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


@st.composite
def bent(draw: st.DrawFn, right: dict[str, Any]) -> Any:
    found: Any = copy.deepcopy(right)
    for _ in range(draw(st.integers(1, 3))):
        *above, last = draw(st.sampled_from([path for path in places(found) if path] or [("Id",)]))
        holder = found
        for key in above:
            holder = holder[key]
        if draw(st.booleans()):
            holder[last] = draw(VALUES)
        else:
            holder.pop(last, None) if isinstance(holder, dict) else holder.pop(last)
    return found


def check(container: Container) -> None:
    """Every field has the type and the range that the rest of proxyctl relies on."""
    assert msgspec.convert(dataclasses.asdict(container), Container) == container
    assert container.id
    assert container.state in get_args(ContainerState)
    assert container.health in get_args(DockerHealth)
    assert all(0 < port < 65536 for port in container.exposed)
    assert all(0 < p.container_port < 65536 and 0 <= p.host_port < 65536 for p in container.published)
    assert 0 <= container.stop_timeout < float("inf")
    assert 0 < container.stop_signal < 65
    assert abs(container.created_unix) < float("inf")


@pytest.mark.parametrize("parse", [read_listed, read_inspected], ids=["list", "inspect"])
@given(data=st.data())
def test_a_container_is_understood_whole_or_not_at_all(parse: Any, data: st.DataObject) -> None:
    raw = data.draw(bent(LISTED if parse is read_listed else INSPECTED) | VALUES)
    with contextlib.suppress(*NOT_UNDERSTOOD):
        check(parse(raw))


@given(bent(EVENT) | VALUES)
def test_an_event_is_understood_or_passed_over(raw: Any) -> None:
    with contextlib.suppress(*NOT_UNDERSTOOD):
        event = read_event(raw)
        if event:
            assert msgspec.convert(dataclasses.asdict(event), EngineEvent) == event
            assert event.container_id
            assert 0 <= event.signal < 65


LINES = (bent(EVENT) | VALUES).map(lambda value: json.dumps(value).encode()) | st.binary().map(lambda b: b.replace(b"\n", b""))


@given(st.lists(LINES, max_size=5), st.data())
@example(
    [b"null", b"[]", b"5", b'{"Type": "container", "Action": []}', b'{"Type": "container", "Actor": 5}', b"[" * 100_000], None
)
@example([b'{"Type": "container", "Actor": {"ID": "c1", "Attributes": {"name": 5}}, "timeNano": NaN}', b'{"Type": "cont'], None)
def test_events_that_are_not_understood_do_not_hide_the_next(lines: list[bytes], data: st.DataObject | None) -> None:
    sent = b"".join(line + b"\n" for line in [*lines, json.dumps(EVENT).encode()])
    cuts = sorted(data.draw(st.sets(st.integers(0, len(sent)), max_size=5))) if data else [7]
    chunks = [sent[a:b] for a, b in itertools.pairwise([0, *cuts, len(sent)])]
    with capture_logs() as logs:
        found = list(read_events(json_lines(chunks)))
    assert found[-1] == EngineEvent("kill", "c1", 15, EVENT["Actor"]["Attributes"])
    assert len([line for line in logs if line["event"] == "event not understood"]) <= 1, "a storm of them is one line"


def test_a_line_without_an_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_json, "LONGEST_EVENT", 1000)
    chunks = [*([b"x" * 600] * 100), b"\n", json.dumps(EVENT).encode(), b"\n"]
    with capture_logs():
        lines = list(json_lines(chunks))
        assert max(map(len, lines)) < 2000
        assert [event.container_id for event in read_events(lines)] == ["c1"]


@pytest.mark.parametrize(
    ("change", "field", "expected"),
    [
        ({"State": "initialized"}, "state", "dead"),
        ({"State": None}, "state", "dead"),
        ({"Labels": None}, "labels", {}),
        ({"NetworkSettings": {"Networks": {"front": {"IPAddress": None, "Gateway": None}}}}, "endpoints", ("", "")),
        ({"NetworkSettings": {"Networks": {"front": {"IPAddress": "10.0.0.1; }", "Gateway": "gate"}}}}, "endpoints", ("", "")),
        ({"NetworkSettings": {"Networks": {"front": {"IPAddress": "10.0.0.9"}}}}, "endpoints", ("10.0.0.9", "")),
    ],
)  # fmt: skip
def test_what_one_container_lacks_is_its_own_matter(change: dict[str, Any], field: str, expected: Any) -> None:
    found = getattr(read_listed(LISTED | change), field)
    assert expected == ((found[0].ipv4, found[0].gateway) if field == "endpoints" else found)


@pytest.mark.parametrize("port", ["-1", "65536", "http", 10**400])
def test_a_published_port_that_is_none_is_not_believed(port: Any) -> None:
    raw = copy.deepcopy(INSPECTED)
    raw["NetworkSettings"]["Ports"]["80/tcp"][1]["HostPort"] = port
    with pytest.raises(NOT_UNDERSTOOD):
        read_inspected(raw)


# ---------------------------------------------------------------- over a socket


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@contextlib.contextmanager
def engine(path: Path, body: bytes | bytearray) -> Iterator[DockerHost]:
    """An engine that says its version and answers everything else with `body`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            version = self.path.endswith("/version")
            sent = b'{"ApiVersion": "1.41", "Version": "20.10"}' if version else bytes(body)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            if "/events" in self.path:  # the SDK reads line by line only what comes in chunks
                self.send_header("Transfer-Encoding", "chunked")
                sent = f"{len(sent):x}\r\n".encode() + sent + b"\r\n0\r\n\r\n"
            else:
                self.send_header("Content-Length", str(len(sent)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(sent)

        def address_string(self) -> str:
            return "engine"

        def log_message(self, *_: object) -> None:
            pass

    with _Server(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        host = DockerHost(f"unix://{path}")
        try:
            yield host
        finally:
            host.close()
            server.shutdown()
            thread.join()


def beside(change: dict[str, Any]) -> bytes:
    return json.dumps([LISTED, LISTED | {"Id": "c2"} | change]).encode()


DEEP = b"[" * 100_000 + b"]" * 100_000
GOOD = json.dumps([LISTED]).encode()
ANSWERS = {
    "null": b"null",
    "an object": b"{}",
    "text": b'"containers"',
    "no JSON": b"<html>",
    "nothing": b"",
    "half": GOOD[: len(GOOD) // 2],
    "deep": DEEP,
    "one of two is null": b"[" + GOOD[1:-1] + b", null]",
    "one of two has no id": b"[" + GOOD[1:-1] + b', {"Names": ["/x"]}]',
    "one of two has a label that is a number": beside({"Labels": {"proxyctl.host": 5}}),
    "one of two was made at no time": beside({"Created": float("nan")}),
    "one of two has a port that is none": beside({"Ports": [{"PrivatePort": 65536, "Type": "tcp"}]}),
}  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_list_that_is_not_understood_is_no_list(tmp_path: Path, answer: str) -> None:
    with engine(tmp_path / "engine.sock", ANSWERS[answer]) as host, pytest.raises(EngineUnavailable):
        await host.list_containers()


async def test_the_same_engine_is_believed_when_it_answers_well(tmp_path: Path) -> None:
    with engine(tmp_path / "engine.sock", GOOD) as host:
        assert [container.id for container in await host.list_containers()] == ["c1"]


@pytest.mark.parametrize("body", [b"null", b"[]", b"5", DEEP], ids=["null", "list", "number", "deep"])
async def test_an_inspect_that_is_not_understood_is_said_so(tmp_path: Path, body: bytes) -> None:
    with engine(tmp_path / "engine.sock", body) as host:
        for ask in (host.inspect, host.inspect_raw, host.processes):
            with pytest.raises(EngineUnavailable):
                await ask("c1")


@pytest.mark.parametrize("body", [b"{}", b'{"Processes": [["x", "nginx"]]}', b'{"Processes": [[1]]}', b'{"Processes": [null]}'])
async def test_processes_that_are_not_understood_are_said_so(tmp_path: Path, body: bytes) -> None:
    with engine(tmp_path / "engine.sock", body) as host, pytest.raises(EngineUnavailable, match="cannot be understood"):
        await host.processes("c1")


GARBAGE = (
    b"null\n5\n[]\n",
    b'{"Type": "container", "Action": 5, "Actor": {"ID": "c1"}}\n',
    b'{"Type":"container","Actor":[5]}\n',
)


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_the_stream_goes_on_after_what_is_not_understood(tmp_path: Path, garbage: bytes) -> None:
    found, words = await _followed(tmp_path, garbage + json.dumps(EVENT).encode() + b"\n")
    assert found == [None, "c1"]
    assert words.endswith("ended")


@pytest.mark.parametrize(
    "end", [b"<html>", DEEP, b"\xff\xfe", b'{"Type": "container"'], ids=["no JSON", "deep", "no text", "half"]
)
async def test_a_stream_that_breaks_off_is_told(tmp_path: Path, end: bytes) -> None:
    found, words = await _followed(tmp_path, json.dumps(EVENT).encode() + b"\n" + end)
    assert found == [None, "c1"]
    assert words.endswith("ended")


async def _followed(directory: Path, body: bytes) -> tuple[list[str | None], str]:
    """The container of each event until the stream ends, and what is said then."""
    found: list[str | None] = []
    with engine(directory / "engine.sock", body) as host:
        async with asyncio.timeout(10):
            try:
                async for event in host.events():
                    found.append(event.container_id if event else None)  # noqa: PERF401 - it ends with an exception
            except EngineUnavailable as ended:
                return found, str(ended)
    pytest.fail("the end was not told")


async def test_a_list_reads_anew_what_the_engine_describes_otherwise_and_nothing_else(tmp_path: Path) -> None:
    def said(status: str, state: str = "running") -> bytes:
        ours = LISTED | {"Status": status, "State": state}
        return msgspec.json.encode([ours, LISTED | {"Id": "c2", "Status": "Up 2 days"}])

    body = bytearray(said("Up 3 seconds (health: starting)"))
    with engine(tmp_path / "engine.sock", body) as host:
        first = await host.list_containers()
        body[:] = said("Up 4 seconds (health: starting)")
        assert all(new is old for new, old in zip(await host.list_containers(), first, strict=True))
        for status, state, health in (
            ("Up 5 seconds (healthy)", "running", "healthy"),
            ("Exited (1) 1 second ago", "exited", "none"),
        ):
            body[:] = said(status, state)
            changed, same = await host.list_containers()
            assert (changed.state, changed.health) == (state, health)
            assert same is first[1]
