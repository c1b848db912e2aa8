"""Traffic against one host name: new connections at a fixed rate beside keep-alive clients, every request accounted for.

Open loop: a request is due when the clock says so, whether or not the ones before it were answered. It runs in a thread with
a loop of its own, so that a test can go on stopping containers meanwhile. Bounded: in time, in requests under way, in what it
keeps.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

Kind = Literal["new", "kept"]
Method = Literal["GET", "POST"]

MOST_SECONDS = 900.0
MOST_UNDER_WAY = 1000
MOST_LOSSES = 500
"""Lost requests that are described one by one; all are counted."""
BODY = b"x" * 64
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Loss:
    """A request without a good answer. Times are monotonic; `status` is 0 when there was no whole answer."""

    began: float
    ended: float
    kind: Kind
    method: Method
    status: int
    error: str


@dataclass(frozen=True, slots=True)
class Death:
    """A process that dies of its signal at once: when that was sent, and when the engine says it was dead. Unix times.

    nginx never repeats a POST that it has sent, so one that such a process held is lost whatever a proxy does.
    """

    signalled: float
    dead: float

    def may_have_held(self, loss: Loss) -> bool:
        to_unix = time.time() - time.monotonic()
        return loss.method == "POST" and loss.began + to_unix <= self.dead and self.signalled <= loss.ended + to_unix


@dataclass(frozen=True, slots=True)
class Answers:
    """What one backend has answered, and when it did so first and last (monotonic)."""

    count: int
    first: float
    last: float


@dataclass(frozen=True, slots=True)
class Stray:
    """A good answer by a backend that is not one of the host's. Times are monotonic."""

    began: float
    ended: float
    kind: Kind
    backend: str


@dataclass(frozen=True, slots=True)
class Report:
    """What became of every request. Latencies of good answers, in seconds; `cpu` is the core share that the load itself took."""

    seconds: float
    sent: Mapping[tuple[Kind, Method], int]
    lost: Mapping[tuple[Kind, Method], int]
    losses: tuple[Loss, ...]
    answers: Mapping[str, Answers]
    """By X-Backend; empty for an answer without it."""
    strays: tuple[Stray, ...]
    """All of them; none when the load does not know whose answers are right."""
    reconnects: int
    """Kept connections that were found closed before anything was written: not losses."""
    p50: float
    p99: float
    longest: float
    cpu: float

    def sent_of(self, *of: Kind | Method) -> int:
        """How many, of these kinds or methods or of all."""
        return _sum(self.sent, of)

    def lost_of(self, *of: Kind | Method) -> int:
        return _sum(self.lost, of)

    def held(self, deaths: Sequence[Death]) -> int:
        """How many POSTs were lost that one of these processes may have held when it died."""
        return sum(any(death.may_have_held(loss) for death in deaths) for loss in self.losses)

    def __str__(self) -> str:
        why = Counter(f"{loss.method} {loss.status or loss.error}" for loss in self.losses)
        detail = ", ".join(f"{count} x {what}" for what, count in why.most_common(4))
        return (
            f"{self.lost_of():,} of {self.sent_of():,} lost{f' ({detail})' if detail else ''} in {self.seconds:.1f} s, "
            f"{self.lost_of('POST')} of {self.sent_of('POST'):,} POSTs; "
            f"p50 {self.p50 * 1000:.1f}, p99 {self.p99 * 1000:.1f}, longest {self.longest * 1000:.0f} ms; "
            f"{len(self.answers)} backends, {self.reconnects} reconnects"
        )


def _sum(counts: Mapping[tuple[Kind, Method], int], of: tuple[str, ...]) -> int:
    return sum(count for key, count in counts.items() if set(of) <= set(key))


class _NotOne(Exception):  # noqa: N818
    """Not an answer: what came, or did not come."""


class Load:
    """`with Load("a.example", port) as load: ...` and then `load.report`; or start() and stop()."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        path: str = "/",
        new_per_second: float = 300,
        post_share: float = 0.2,
        keepalive_clients: int = 40,
        pause: tuple[float, float] = (0.03, 0.07),
        timeout: float = 10.0,
        own: str = "",
        look: bool = True,
    ) -> None:
        """`own`: how the names of the host's own backends begin. `look`: whether clients see that a kept connection was closed
        before they write on it; those that do not look lose the request."""
        self._port = port
        self._rate = new_per_second
        self._clients = keepalive_clients
        self._pause = pause
        self._timeout = timeout
        self._look = look
        self._every = round(1 / post_share) if post_share else 0
        head = f"{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: proxyctl-load\r\n"
        self._heads: Mapping[Method, bytes] = {
            "GET": f"GET {head}".encode(),
            "POST": f"POST {head}Content-Length: {len(BODY)}\r\n".encode(),
        }
        self._tally = _Tally(own)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"load {host}", daemon=True)
        self._failure: BaseException | None = None
        self._began = self._ended = self._cpu = 0.0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        self._began = time.monotonic()
        self._thread.start()

    def stop(self) -> Report:
        """Sends no more, waits for what is under way, and says what happened."""
        self._stopping.set()
        self._thread.join(self._timeout + 10)
        if self._failure:
            raise self._failure
        return self.report

    def move(self, port: int) -> None:
        """Opens connections there from now on; what is open stays where it is."""
        self._port = port

    @property
    def report(self) -> Report:
        """What happened so far."""
        return self._tally.report((self._ended or time.monotonic()) - self._began, self._cpu)

    # ------------------------------------------------------------ in the thread

    def _run(self) -> None:
        try:
            asyncio.run(self._drive())
        except BaseException as error:  # noqa: BLE001 - raised again by stop()
            self._failure = error

    async def _drive(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._clients):
                group.create_task(self._keep(random.Random(number)))
            if self._rate:
                await self._open(group)
        self._ended = time.monotonic()
        self._cpu = time.thread_time() / (self._ended - self._began)

    def _over(self) -> bool:
        return self._stopping.is_set() or time.monotonic() - self._began > MOST_SECONDS

    async def _open(self, group: asyncio.TaskGroup) -> None:
        due, under_way = time.monotonic(), set[asyncio.Task[None]]()
        while not self._over():
            while due <= time.monotonic():
                due += 1 / self._rate
                if len(under_way) < MOST_UNDER_WAY:
                    task = group.create_task(self._once())
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                else:
                    now = time.monotonic()
                    self._tally.lose(Loss(now, now, "new", self._method(), 0, "not sent: too many under way"))
            await asyncio.sleep(due - time.monotonic())

    async def _once(self) -> None:
        connection = await self._ask("new", None)
        if connection:
            connection.close()

    async def _keep(self, chance: random.Random) -> None:
        connection: socket.socket | None = None
        while not self._over():
            await asyncio.sleep(chance.uniform(*self._pause))
            if connection and self._look and _closed(connection):
                connection.close()
                connection = None
                self._tally.reconnects += 1
            connection = await self._ask("kept", connection)
        if connection:
            connection.close()

    def _method(self) -> Method:
        self._tally.number += 1
        return "POST" if self._every and self._tally.number % self._every == 0 else "GET"

    async def _ask(self, kind: Kind, connection: socket.socket | None) -> socket.socket | None:
        """One request. Returns the connection when it can be used again."""
        method = self._method()
        status, error, began = 0, "", time.monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                if connection is None:
                    connection = await _connect(self._port)
                tail = b"\r\n" if kind == "kept" else b"Connection: close\r\n\r\n"
                request = self._heads[method] + tail + (BODY if method == "POST" else b"")
                await asyncio.get_running_loop().sock_sendall(connection, request)
                status, backend, close = await _answer(connection)
            if status < 400:
                self._tally.answer(kind, method, backend, began)
                if not close:
                    return connection
        except TimeoutError:
            error = f"no answer within {self._timeout:g} s"
        except (OSError, _NotOne) as problem:
            error = str(problem) or type(problem).__name__
        if error or status >= 400:
            self._tally.lose(Loss(began, time.monotonic(), kind, method, status, error))
        if connection:
            connection.close()
        return None


class _Tally:
    """Written in the load's thread only; read from others for a report."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._strays: list[Stray] = []
        self.number = 0
        self.reconnects = 0
        self._ok: Counter[tuple[Kind, Method]] = Counter()
        self._lost: Counter[tuple[Kind, Method]] = Counter()
        self._losses: list[Loss] = []
        self._answers: dict[str, Answers] = {}
        self._latencies: list[float] = []

    def answer(self, kind: Kind, method: Method, backend: str, began: float) -> None:
        now = time.monotonic()
        self._ok[kind, method] += 1
        self._latencies.append(now - began)
        before = self._answers.get(backend)
        self._answers[backend] = Answers(before.count + 1, before.first, now) if before else Answers(1, now, now)
        if not backend.startswith(self._own):
            self._strays.append(Stray(began, now, kind, backend))

    def lose(self, loss: Loss) -> None:
        self._lost[loss.kind, loss.method] += 1
        if len(self._losses) < MOST_LOSSES:
            self._losses.append(loss)

    def report(self, seconds: float, cpu: float) -> Report:
        latencies = sorted(self._latencies)

        def at(share: float) -> float:
            return latencies[min(len(latencies) - 1, int(len(latencies) * share))] if latencies else 0.0

        lost = dict(self._lost)
        return Report(
            seconds=seconds,
            sent=dict(self._ok + self._lost),
            lost=lost,
            losses=tuple(self._losses),
            answers=dict(self._answers),
            strays=tuple(self._strays),
            reconnects=self.reconnects,
            p50=at(0.5),
            p99=at(0.99),
            longest=at(1.0),
            cpu=cpu,
        )


async def _connect(port: int) -> socket.socket:
    connection = socket.socket()
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (LOOPBACK, port))
    except BaseException:
        connection.close()
        raise
    return connection


def _closed(connection: socket.socket) -> bool:
    with suppress(BlockingIOError):
        connection.recv(1, socket.MSG_PEEK)
        return True
    return False


async def _answer(connection: socket.socket) -> tuple[int, str, bool]:
    """(status, X-Backend, whether the connection ends with it). An answer without a Content-Length ends the connection."""
    loop = asyncio.get_running_loop()
    received = b""
    while (end := received.find(b"\r\n\r\n")) < 0:
        part = await loop.sock_recv(connection, 65536)
        if not part:
            raise _NotOne("closed in the middle of an answer" if received else "closed without an answer")
        received += part
    first, *lines = received[:end].decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = headers.get("content-length")
    left = int(length) - (len(received) - end - 4) if length else 0
    while left > 0 or length is None:
        part = await loop.sock_recv(connection, 65536)
        if not part and length is None:
            break
        if not part:
            raise _NotOne("closed in the middle of an answer")
        left -= len(part)
    close = length is None or headers.get("connection", "").lower() == "close"
    return int(first.split(" ")[1]), headers.get("x-backend", ""), close
