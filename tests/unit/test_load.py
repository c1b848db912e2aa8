"""The load generator counts what a server did to it: everything that decides whether a benchmark may say `0 lost`."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.load import Death, Load, Loss, Method
from tests.rig import free_port

OK = b"HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 2\r\n"


class Server(socketserver.ThreadingTCPServer):
    """Answers well, but for every tenth request each of: nothing, half an answer, 503."""

    daemon_threads = allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, *, bad: bool = False, drop_idle: bool = False) -> None:
        self.port = free_port()
        self.bad, self.drop_idle = bad, drop_idle
        self.seen = self.failed = 0
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", self.port), Handler)

    def answer(self) -> bytes:
        with self._lock:
            self.seen += 1
            digit = self.seen % 10 if self.bad else 9
            self.failed += digit < 3
        unavailable = b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n"
        return [b"", OK, unavailable][digit] if digit < 3 else OK + b"\r\nok"


class Handler(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        while head := self._head():
            if b"Content-Length: 64" in head:
                self.rfile.read(64)
            answer = self.server.answer()
            self.wfile.write(answer)
            if not answer.endswith(b"ok") or b"Connection: close" in head or self.server.drop_idle:
                return

    def _head(self) -> bytes:
        lines = []
        while line := self.rfile.readline():
            lines.append(line)
            if line == b"\r\n":
                return b"".join(lines)
        return b""


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_every_request_is_counted_and_every_bad_answer_is_a_loss() -> None:
    with serving(Server(bad=True)) as server:
        with Load("a.example", server.port, keepalive_clients=5) as load:
            time.sleep(0.6)
        report = load.report
    assert server.failed > 20
    assert report.sent_of() == server.seen
    assert report.lost_of() == server.failed
    assert report.answers["a"].count == server.seen - server.failed
    assert {loss.status for loss in report.losses} == {0, 503}
    assert {loss.error for loss in report.losses} == {"closed without an answer", "closed in the middle of an answer", ""}


def test_a_fifth_are_posts_and_all_kinds_are_told_apart() -> None:
    with serving(Server()) as server:
        with Load("a.example", server.port, keepalive_clients=5) as load:
            time.sleep(0.6)
        report = load.report
    assert report.sent_of("POST") == server.seen // 5
    assert report.sent_of("new") + report.sent_of("kept") == report.sent_of() == server.seen
    assert min(report.sent_of("new"), report.sent_of("kept"), report.sent_of("kept", "POST")) > 0
    assert report.lost_of() == 0


def test_a_kept_connection_that_is_closed_between_requests_is_not_a_loss() -> None:
    with serving(Server(drop_idle=True)) as server:
        with Load("a.example", server.port, new_per_second=0, keepalive_clients=5) as load:
            time.sleep(0.4)
        report = load.report
    assert report.reconnects > 5
    assert report.lost_of() == 0


def test_nobody_listening_is_a_loss_and_not_an_error() -> None:
    with Load("a.example", free_port(), new_per_second=100, keepalive_clients=1) as load:
        time.sleep(0.2)
    assert load.report.lost_of() == load.report.sent_of() > 5


@pytest.mark.parametrize(
    ("method", "began", "ended", "held"),
    [
        ("POST", 9.0, 12.0, True),  # Death(11, 13): it may have held it when it got its signal
        ("POST", 12.9, 13.1, True),
        ("POST", 9.0, 10.9, False),
        ("POST", 13.1, 14.0, False),
        ("GET", 12.0, 13.0, False),  # nginx asks another one
    ],
)
def test_a_post_that_a_dying_process_held_is_told_apart(method: Method, began: float, ended: float, *, held: bool) -> None:
    to_unix = time.time() - time.monotonic()
    assert Death(11 + to_unix, 13 + to_unix).may_have_held(Loss(began, ended, "new", method, 502, "")) is held
