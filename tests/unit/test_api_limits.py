"""What one client can take of the controller: bytes, time and connections, over TCP. Others are answered meanwhile."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxyctl.serve import api, guard, listeners
from tests.unit import desk as desks
from tests.unit import make, wire
from tests.unit.desk import Desk
from tests.unit.make import container

HOST = "Host: 127.0.0.1"


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desks.opened(tmp_path) as desk:
        yield desk


async def _pour(desk: Desk, head: bytes, piece: bytes) -> tuple[wire.Answer, int]:
    """Sends a head, then the same piece until the server has enough: the answer, and the bytes that went before it came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", desk.port)
    writer.write(head)
    answered, before = asyncio.create_task(wire.read(reader)), 0
    try:
        async with asyncio.timeout(api.LINGER + 5):
            while True:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
                before += 0 if answered.done() else len(piece)
    except ConnectionError:
        writer.close()
    return await answered, before


def test_the_limits_are_those_of_the_documentation() -> None:
    table = (make.REPOSITORY / "docs/http-api.md").read_text(encoding="utf-8").partition("## Limits")[2]
    assert f"{guard.RATE:g} a second, {guard.BURST} at once; `{', '.join(guard.UNLIMITED)}` is not counted" in table
    for said in (f"{api.CONNECTIONS}, followers", f"{api.BODY >> 10} KiB", f"{api.HEADER_LINES} lines of 8,190 bytes"):
        assert f"| {said}" in table
    assert api.IDLE == listeners.UNREAD / 1000
    assert table.count(f"| {api.IDLE:g} s |") == 2


# ---------------------------------------------------------------- bytes


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_a_body_that_is_announced_too_long_is_refused_unread(desk: Desk, method: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", desk.port)
    writer.write(wire.request(HOST, f"Content-Length: {api.BODY + 1}", method=method))
    began = time.monotonic()
    said = await wire.ends(reader, within=api.LINGER + 2)
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"Connection: close" in said
    assert time.monotonic() - began < api.LINGER + 1
    writer.close()


@pytest.mark.parametrize("target", ["/api/v1/status", "/api/v1/events", "/nothing"])
async def test_a_body_that_grows_too_long_is_cut(desk: Desk, target: str) -> None:
    piece = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    head = wire.request(HOST, "Transfer-Encoding: chunked", target=target)
    answer, sent = await _pour(desk, head, piece)
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert sent < 32 << 20, "what fits into the buffers of both sides"
    assert (await desk.get("/healthz"))[0] == 200


async def test_a_packed_body_is_not_unpacked(desk: Desk) -> None:
    head = wire.request(HOST, "Content-Encoding: deflate", "Content-Length: 4", body=b"\x00\x00\x00\x00")
    assert (await wire.send(desk.port, head)).status == 200


async def test_a_small_body_is_overlooked_and_the_connection_goes_on(desk: Desk) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", desk.port)
    for _ in range(2):
        writer.write(wire.request(HOST, f"Content-Length: {api.BODY}", body=b"x" * api.BODY))
        assert (await wire.read(reader)).status == 200
    writer.close()


async def test_a_request_that_is_refused_ends_its_connection_when_it_has_a_body(desk: Desk) -> None:
    for lines in (["Host: evil.example"], [HOST, "Origin: null"]):
        answer, _ = await _pour(desk, wire.request(*lines, "Transfer-Encoding: chunked"), b"1\r\nx\r\n" * 1000)
        assert (answer.status, answer.headers["connection"]) == (403, "close")


async def test_the_socket_has_the_same_limits_for_bodies(desk: Desk) -> None:
    assert (await desk.ask("/api/v1/status", data=b"x" * (api.BODY + 1)))[0] == 413
    assert (await desk.ask("/api/v1/status", data=b"x" * api.BODY))[0] == 200


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(wire.request(HOST, target="/" + "x" * 10_000), id="a long target"),
        pytest.param(wire.request(HOST, f"X: {'x' * 10_000}"), id="a long line"),
        pytest.param(wire.request(HOST, f"{'X' * 10_000}: x"), id="a long name"),
        pytest.param(wire.request(HOST, *(f"X-{number}: x" for number in range(api.HEADER_LINES))), id="many lines"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"x" * 1_000_000, id="no end of a line"),
        pytest.param(b"x" * 50_000, id="no end of the first line"),
    ],
)
async def test_a_head_too_long_is_refused(desk: Desk, head: bytes) -> None:
    assert (await wire.send(desk.port, head)).status == 400


async def test_what_is_no_http_is_refused_and_not_logged(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    for sent in (b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n"):
        assert (await wire.send(desk.port, sent)).status == 400
    assert caplog.records == []


# ---------------------------------------------------------------- time


@pytest.mark.parametrize(
    "head", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"], ids=["nothing", "a word", "two lines"]
)
async def test_who_sends_no_request_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    monkeypatch.setattr(api, "IDLE", 0.5)
    async with desks.opened(tmp_path) as desk:
        reader, writer = await asyncio.open_connection("127.0.0.1", desk.port)
        writer.write(head)
        began = time.monotonic()
        assert await wire.ends(reader, within=5) == b""
        assert 0.4 < time.monotonic() - began < 3
        writer.close()


@pytest.mark.parametrize("first", [b"", wire.request(HOST)], ids=["the first request", "the second"])
async def test_who_sends_a_head_byte_by_byte_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bytes) -> None:
    monkeypatch.setattr(api, "IDLE", 0.5)
    async with desks.opened(tmp_path) as desk:
        reader, writer = await asyncio.open_connection("127.0.0.1", desk.port)
        if first:
            writer.write(first)
            assert (await wire.read(reader)).status == 200
        ended = asyncio.create_task(wire.ends(reader, within=5))
        began = time.monotonic()
        for byte in wire.request(HOST, f"X: {'x' * 1000}"):
            writer.write(bytes([byte]))
            if (await asyncio.wait({ended}, timeout=0.05))[0]:
                break
        assert await ended == b""
        assert time.monotonic() - began < 3
        writer.close()


@pytest.mark.parametrize("lines", [["Content-Length: 1000"], ["Transfer-Encoding: chunked"]], ids=["length", "chunked"])
async def test_a_body_that_does_not_come_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    monkeypatch.setattr(api, "IDLE", 0.3)
    async with desks.opened(tmp_path) as desk:
        reader, writer = await asyncio.open_connection("127.0.0.1", desk.port)
        writer.write(wire.request(HOST, *lines))
        said = await wire.ends(reader, within=0.3 + api.LINGER + 2)
        assert said.startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_an_answer_that_nobody_reads_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "UNREAD", 500)
    async with desks.opened(tmp_path) as desk:
        desk.decide([container(f"c-{number}", {"host": f"h{number}.example"}) for number in range(3000)])
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", desk.port))
            deaf.sendall(wire.request(HOST) * 3)
            assert await _connections(desk, 1)
            async with asyncio.timeout(20):
                while await _connections(desk, 1):  # noqa: ASYNC110 - the kernel ends it
                    await asyncio.sleep(0.1)


async def _connections(desk: Desk, least: int) -> bool:
    await asyncio.sleep(0.05)
    _, tcp = desk.front._api._runners
    return len(tcp.server.connections if tcp.server else ()) >= least


# ---------------------------------------------------------------- connections


async def test_there_is_a_limit_to_connections_and_the_socket_is_not_under_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "CONNECTIONS", 5)
    async with desks.opened(tmp_path) as desk:
        held = [await asyncio.open_connection("127.0.0.1", desk.port) for _ in range(5)]
        for reader, writer in held:
            writer.write(wire.request(HOST))
            assert (await wire.read(reader)).status == 200
        busy = await wire.send(desk.port, b"")
        assert (busy.status, busy.headers["retry-after"], busy.error) == (503, "1", "there are 5 connections already")
        assert (await desk.ask("/healthz"))[0] == 200
        held[0][1].close()
        async with asyncio.timeout(5):
            while (await wire.send(desk.port, wire.request(HOST, "Connection: close"))).status != 200:  # noqa: ASYNC110 - another end
                await asyncio.sleep(0.05)
        for _, writer in held:
            writer.close()
