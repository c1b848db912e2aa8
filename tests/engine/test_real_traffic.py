"""What applications and clients do that others do not: large headers, slow and silent connections, streams, many of them."""

from __future__ import annotations

import re
import resource
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.rig import BASE, LOOPBACK, Controller, Rig, free_port, until

SERVER = r"""
import socket, socketserver, threading, time
from http.server import BaseHTTPRequestHandler

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        kind, _, number = self.path[1:].partition("-")
        self.send_response_only(200)
        if kind == "header":
            self.send_header("X-Large", "v" * int(number))
        if kind == "cookies":
            for n in range(int(number)):
                self.send_header("Set-Cookie", f"c{n}=" + "v" * 100)
        body = b"ok"
        if kind == "refuse":
            server.socket.shutdown(socket.SHUT_RDWR)
            threading.Thread(target=lambda: (server.shutdown(), server.server_close())).start()
        if kind == "told":
            body = str(len(self.path) + len(self.headers.get("Cookie", ""))).encode()
        if kind == "bytes":
            self.send_header("Content-Length", number)
            self.end_headers()
            for _ in range(int(number) // 65536):
                self.wfile.write(b"x" * 65536)
            return
        if kind == "events":
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for n in range(3):
                self.wfile.write(b"data: %d\n\n" % n)
                time.sleep(0.7)
            return
        if kind == "late":
            time.sleep(float(number))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        first = self.rfile.read(5)
        arrived = time.time()
        more = self.rfile.read(int(self.headers["Content-Length"]) - 5)
        self.send_response_only(200)
        self.send_header("Content-Length", "17")
        self.end_headers()
        self.wfile.write(b"%.6f" % arrived)

    def log_message(self, *_):
        pass

class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 512

server = Server(("", 80), Handler)
server.serve_forever()
threading.Event().wait()
"""

HTTP2 = r"""
import socket, socketserver, struct

def frame(kind, flags, stream, data=b""):
    return struct.pack("!I", len(data))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + data

def field(name, value):
    def text(t):
        n, out = len(t), b""
        if n < 127:
            return bytes([n]) + t
        n -= 127
        out = b"\x7f"
        while n >= 128:
            out += bytes([n % 128 | 128])
            n //= 128
        return out + bytes([n]) + t
    return b"\0" + text(name) + text(value)

def headers(flags, stream, *fields):
    data = b"".join(field(*f) for f in fields)
    parts = [data[i : i + 16000] for i in range(0, len(data), 16000)]
    out = b""
    for n, part in enumerate(parts):
        out += frame(1 if n == 0 else 9, (flags & 1 if n == 0 else 0) | (4 if n == len(parts) - 1 else 0), stream, part)
    return out

class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.rfile.read(24)
        self.wfile.write(frame(4, 0, 0))
        got = {}
        while head := self.rfile.read(9):
            size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            stream = int.from_bytes(head[5:], "big")
            data = self.rfile.read(size)
            if kind == 4 and not flags & 1:
                self.wfile.write(frame(4, 1, 0))
            if kind in (1, 9):
                got[stream] = got.get(stream, b"") + data
            if kind == 0:
                self.wfile.write(frame(8, 0, 0, struct.pack("!I", size or 1)))
            if kind in (0, 1) and flags & 1:
                kind = (b"content-type", b"application/grpc")
                first = headers(4, stream, (b":status", b"200"), kind, (b"x-large", b"h" * 8192))
                size = 8192 if b"~" * 9000 in got[stream] else 1
                last = headers(5, stream, (b"grpc-status", b"3"), (b"grpc-message", b"~" * 3000), (b"x-trailer", b"~" * size))
                self.wfile.write(first + frame(0, 0, stream, b"\0" * 5) + last)

class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 512

Server(("", 80), Handler).serve_forever()
"""


STREAMS = r"""
import asyncio, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)

async def serve(reader, writer):
    if b"GET /ready " in await reader.readuntil(b"\r\n\r\n"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        return writer.close()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: 1\n\n")
    await reader.read()
    writer.close()

async def main():
    server = await asyncio.start_server(serve, "", 80, backlog=4096)
    await server.serve_forever()

asyncio.run(main())
"""


def connect(controller: Controller) -> socket.socket:
    return socket.create_connection((LOOPBACK, controller.port), timeout=10)


def exchange(controller: Controller, request: str) -> bytes:
    """The whole answer, on a connection of its own."""
    with connect(controller) as client:
        client.sendall(request.encode())
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


def get(controller: Controller, host: str, path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers, "", ""]
    return exchange(controller, "\r\n".join(lines))


@pytest.fixture(scope="module")
def app(rig: Rig, controller: Controller) -> str:
    """A server of HTTP/1.0 that closes after each answer."""
    rig.run_container(
        {"host": "app.example", "port": "80"}, name="app", image=BASE, args=["python3", "-c", SERVER], ExposedPorts={"80/tcp": {}}
    )
    controller.wait_for("app.example")
    return "app.example"


@pytest.mark.parametrize("path", ["/header-16384", "/header-30000", "/cookies-60"])
def test_large_headers_of_answers_pass(controller: Controller, app: str, path: str) -> None:
    answer = get(controller, app, path)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"v") >= 6000


@pytest.mark.parametrize("length", [1_000, 16_384, 60_000])
def test_large_headers_of_requests_pass(controller: Controller, app: str, length: int) -> None:
    path, cookie = f"/told-{'u' * length}", "c" * 2 * length if length < 30_000 else ""
    answer = get(controller, app, path, *([f"Cookie: {cookie}"] if cookie else []))
    assert answer.endswith(str(len(path) + len(cookie)).encode())


def test_events_of_a_server_that_closes_arrive_as_they_are_sent(controller: Controller, app: str) -> None:
    with connect(controller) as client:
        client.sendall(f"GET /events HTTP/1.1\r\nHost: {app}\r\n\r\n".encode())
        began, arrived = time.monotonic(), []
        while data := client.recv(4096):
            if b"data: " in data:
                arrived.append(time.monotonic() - began)
            if len(arrived) == 3:
                break
    assert arrived[0] < 0.6
    assert arrived[2] - arrived[0] > 1.0


@pytest.fixture(scope="module")
def streaming(rig: Rig, app: str) -> Controller:
    made = rig.controller({"nginx": {"request_buffering": False, "client_max_body_size": "0"}})
    made.wait_for(app)
    return made


@pytest.fixture(scope="module")
def short(rig: Rig, app: str) -> Controller:
    limits = {"read_timeout": "1s", "send_timeout": "1s", "client_max_body_size": "1m"}
    made = rig.controller({"nginx": limits})
    made.wait_for(app)
    return made


def test_an_upload_reaches_its_target_as_it_is_sent(streaming: Controller, app: str) -> None:
    with connect(streaming) as client:
        client.sendall(f"POST / HTTP/1.1\r\nHost: {app}\r\nContent-Length: 10\r\nConnection: close\r\n\r\nfirst".encode())
        time.sleep(1)
        last_sent = time.time()
        client.sendall(b"later")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert float(answer.rpartition(b"\r\n\r\n")[2]) < last_sent - 0.5


def test_an_upload_is_whole_at_its_second_target(rig: Rig, controller: Controller, streaming: Controller) -> None:
    """Half of the requests go to a target that refuses connections, and whose checks have not noticed yet."""
    labels = {"host": "two.example", "service": "two", "port": "80"}
    settings: dict[str, Any] = {"image": BASE, "args": ["python3", "-c", SERVER], "ExposedPorts": {"80/tcp": {}}}
    boxes = rig.run_containers([{"labels": labels, "name": name, **settings} for name in ("two-a", "two-b")])
    for proxy in (controller, streaming):
        until(partial(_knows, proxy, [f"server {box.address}:80" for box in boxes]), 15, "two targets")
        proxy.wait_for("two.example")
    assert b" 200 " in get(streaming, "two.example", "/refuse")
    for proxy in (controller, streaming) * 4:
        with connect(proxy) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: two.example\r\nContent-Length: 200000\r\nConnection: close\r\n\r\nfirst")
            time.sleep(0.1)
            client.sendall(b"x" * 199_995)
            assert b" 200 " in client.recv(100)


def _knows(controller: Controller, lines: list[str]) -> bool:
    files = (controller.directory / "state/nginx/objects").rglob("*.conf")
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    return all(line in text for line in lines)


def temporary_files(controller: Controller, rig: Rig) -> list[str]:
    """Files that nginx's processes have open below its writable directory, deleted ones too."""
    found = []
    for process in rig.client.top(controller.nginx)["Processes"]:
        for link in Path(f"/proc/{process[1]}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                name = str(link.readlink())
                if "/tmp/" in name or "client_body" in name:
                    found.append(name)
    return found


def test_a_slow_download_is_not_read_ahead_to_the_disk(rig: Rig, controller: Controller, app: str) -> None:
    size = 64 << 20
    with connect(controller) as client:
        client.sendall(f"GET /bytes-{size} HTTP/1.1\r\nHost: {app}\r\nConnection: close\r\n\r\n".encode())
        time.sleep(1.5)
        assert temporary_files(controller, rig) == []
        assert sum(len(part) for part in iter(lambda: client.recv(1 << 20), b"")) > size


def test_a_streamed_upload_leaves_nothing_on_the_disk(rig: Rig, streaming: Controller, app: str) -> None:
    with connect(streaming) as client:
        client.sendall(f"POST / HTTP/1.1\r\nHost: {app}\r\nContent-Length: 2000005\r\nConnection: close\r\n\r\n".encode())
        client.sendall(b"x" * 2_000_000)
        time.sleep(0.3)
        assert temporary_files(streaming, rig) == []
        client.sendall(b"later")
        assert b"200" in client.recv(100)


def test_bodies_on_the_disk_are_bounded(rig: Rig, app: str) -> None:
    """256 at once, each of `client_max_body_size` at the most; others are answered meanwhile."""
    small = rig.controller({"nginx": {"client_max_body_size": "200k"}})
    small.wait_for(app)
    assert b" 413 " in exchange(small, f"POST / HTTP/1.1\r\nHost: {app}\r\nConnection: close\r\nContent-Length: 204801\r\n\r\n")
    clients = [connect(small) for _ in range(300)]
    try:
        for client in clients:
            client.sendall(f"POST / HTTP/1.1\r\nHost: {app}\r\nContent-Length: 204800\r\n\r\n".encode() + b"x" * 150_000)
        until(lambda: len(temporary_files(small, rig)) >= 256, 15, "256 files")
        time.sleep(0.3)
        assert len(temporary_files(small, rig)) == 256
        assert get(small, app, "/told-1").startswith(b"HTTP/1.1 200")
        assert exchange(
            small, f"POST / HTTP/1.1\r\nHost: {app}\r\nConnection: close\r\nContent-Length: 9\r\n\r\nfirstmore"
        ).startswith(b"HTTP/1.1 200")
    finally:
        for client in clients:
            client.close()
    until(lambda: not temporary_files(small, rig), 10, "no file")


# ---------------------------------------------------------------- time limits


def test_the_time_limits_hold_for_every_silence(controller: Controller, short: Controller, app: str) -> None:
    """The defaults are long; short ones are seen to cut, so that each silence is known to be under the key."""
    main = (controller.directory / "state/nginx/nginx.conf").read_text(encoding="utf-8")
    for name in ("proxy_read", "proxy_send", "grpc_read", "grpc_send", "send"):
        assert re.search(rf"^ *{name}_timeout 3600s;", main, re.MULTILINE), name
    assert "client_body_timeout 3600s;" in main
    assert b" 504 " in get(short, app, "/late-3")
    with connect(short) as client:
        client.sendall(f"POST / HTTP/1.1\r\nHost: {app}\r\nContent-Length: 10\r\n\r\nfirst".encode())
        client.settimeout(4)
        answer = client.recv(100)
        assert answer == b"" or b" 408 " in answer
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(10)
        client.connect((LOOPBACK, short.port))
        size = 256 << 20
        client.sendall(f"GET /bytes-{size} HTTP/1.1\r\nHost: {app}\r\nConnection: close\r\n\r\n".encode())
        time.sleep(3)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        got = 0
        try:
            while part := client.recv(1 << 20):
                got += len(part)
        except ConnectionError:
            pass
        assert got < size
    assert b" 200 " in get(controller, app, "/late-3")


# ---------------------------------------------------------------- gRPC


def frame(kind: int, flags: int, stream: int, data: bytes = b"") -> bytes:
    return len(data).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + data


def field(name: bytes, value: bytes) -> bytes:
    """A literal header field, never indexed and not compressed (RFC 7541, 6.2.2)."""

    def text(raw: bytes) -> bytes:
        if len(raw) < 127:
            return bytes([len(raw)]) + raw
        rest, out = len(raw) - 127, b"\x7f"
        while rest >= 128:
            out += bytes([rest % 128 | 128])
            rest //= 128
        return out + bytes([rest]) + raw

    return b"\0" + text(name) + text(value)


class Call:
    """One gRPC call over HTTP/2 by prior knowledge. Of header blocks, only `~` is looked for, which nginx does not compress."""

    def __init__(self, controller: Controller, host: str, *more: tuple[bytes, bytes]) -> None:
        self.socket = connect(controller)
        pairs = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/s/m"), (b":authority", host.encode())]
        pairs += [(b"content-type", b"application/grpc"), (b"te", b"trailers"), *more]
        block = b"".join(field(*pair) for pair in pairs)
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0) + frame(1, 4, 1, block))

    def send(self, data: bytes, *, last: bool = False) -> None:
        self.socket.sendall(frame(0, int(last), 1, data))

    def frames(self) -> Iterator[tuple[int, int, bytes]]:
        """(kind, flags, data) of each until the end of the stream, GOAWAY or the connection's end."""
        stream = self.socket.makefile("rb")
        while head := stream.read(9):
            data = stream.read(int.from_bytes(head[:3], "big"))
            if head[3] == 4 and not head[4] & 1:
                self.socket.sendall(frame(4, 1, 0))
            yield head[3], head[4], data
            if (head[3] in (0, 1) and head[4] & 1 and head[3] == 0) or head[3] in (3, 7):
                return
            if head[3] in (1, 9) and head[4] & 4 and self._ended(head[3], head[4]):
                return

    _ending = False

    def _ended(self, kind: int, flags: int) -> bool:
        if kind == 1:
            self._ending = bool(flags & 1)
        return self._ending


@pytest.fixture(scope="module")
def calls(rig: Rig, controller: Controller) -> str:
    labels = {"host": "grpc.example", "port": "80", "scheme": "grpc"}
    rig.run_container(labels, name="calls", image=BASE, args=["python3", "-c", HTTP2], ExposedPorts={"80/tcp": {}})
    # Old workers, which do not know the host, take connections for a moment after the first answer of a new one.
    until(lambda: all(_answers(controller) for _ in range(20)), 10, "answers of the gRPC server")
    return "grpc.example"


def _answers(controller: Controller) -> bool:
    call = Call(controller, "grpc.example")
    call.send(b"", last=True)
    blocks = [data for kind, _, data in call.frames() if kind in (1, 9)]
    call.socket.close()
    time.sleep(0.02)
    return b"".join(blocks).count(b"~") > 100


def test_grpc_metadata_and_trailers_pass(controller: Controller, calls: str) -> None:
    call = Call(controller, calls, (b"x-large", b"~" * 9_000))
    call.send(b"\0" * 5, last=True)
    blocks = b"".join(data for kind, _, data in call.frames() if kind in (1, 9))
    call.socket.close()
    assert b"~" * 3_000 in blocks
    assert b"~" * 8_192 in blocks


def test_requests_without_a_body_are_not_counted_as_bodies(controller: Controller, app: str) -> None:
    """HTTP/2 clients send no length with a GET: 300 of them at once are more than bodies may be in files."""
    clients = [connect(controller) for _ in range(3)]
    block = b"".join(
        field(*pair)
        for pair in ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/late-3"), (b":authority", app.encode()))
    )
    try:
        for client in clients:
            requests = b"".join(frame(1, 5, number, block) for number in range(1, 200, 2))
            client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0) + requests)
        statuses = [status for client in clients for status in _statuses(client, 100)]
    finally:
        for client in clients:
            client.close()
    assert statuses == [0x88] * 300  # the table's entry for `:status: 200` (RFC 7541, appendix A)


def _statuses(client: socket.socket, count: int) -> list[int]:
    """The first byte of so many header blocks."""
    stream, found = client.makefile("rb"), list[int]()
    while len(found) < count and (head := stream.read(9)):
        data = stream.read(int.from_bytes(head[:3], "big"))
        if head[3] == 1:
            found += [byte for byte in data if byte & 0xE0 != 0x20][:1]  # after changes of the table's size
    return found


# ---------------------------------------------------------------- many connections


def test_4500_event_streams_are_served_and_counted(rig: Rig) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # The engine forwards each published port by a process of its own, which has six files open for each connection.
    controller, ports = rig.controller(start=False), [free_port(), free_port()]
    published = [f"{LOOPBACK}:{port}:80" for port in (controller.port, *ports)]
    controller.configure(*controller.sections, {"nginx": {"worker_processes": 2, "publish": published}})
    controller.start()
    rig.run_container(
        {"host": "streams.example", "port": "80"},
        name="streams",
        image=BASE,
        args=["python3", "-c", STREAMS],
        ExposedPorts={"80/tcp": {}},
    )
    controller.wait_for("streams.example", path="/ready")
    selector, waiting, clients = selectors.DefaultSelector(), 0, list[socket.socket]()
    try:
        served, end = 0, time.monotonic() + 60
        while served < 4_500 and time.monotonic() < end:
            while len(clients) < 4_500 and waiting < 200:
                client = socket.create_connection((LOOPBACK, ports[len(clients) % 2]), timeout=10)
                client.sendall(b"GET / HTTP/1.1\r\nHost: streams.example\r\n\r\n")
                selector.register(client, selectors.EVENT_READ)
                clients.append(client)
                waiting += 1
            for key, _ in selector.select(0.5):
                sock: Any = key.fileobj
                try:
                    data = sock.recv(4096)
                except ConnectionError as error:
                    data = repr(error).encode()
                assert data.startswith(b"HTTP/1.1 200"), f"{data[:80]!r} after {served} streams"
                if b"data: 1" in data:
                    selector.unregister(sock)
                    waiting -= 1
                    served += 1
        assert served == 4_500
        metrics = controller.ask_api("/metrics").body
        found = {
            name: float(value) for name, value in re.findall(r"^(proxyctl_nginx_connections\w*) (\S+)$", metrics, re.MULTILINE)
        }
        assert 9_000 <= found["proxyctl_nginx_connections"] <= 9_200
        assert found["proxyctl_nginx_connections_limit"] > 9_500
    finally:
        for client in clients:
            client.close()
