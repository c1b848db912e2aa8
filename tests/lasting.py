"""Clients that keep one connection busy for long: a websocket, an event stream, a download, an upload; whether each ended whole.

They are coroutines, beside which tests do what needs no loop in threads (`asyncio.to_thread`).
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp

PATIENCE = 10.0
"""Seconds without a word after which a connection counts as cut."""
UPLOAD_EVERY = 0.1
PIECE = 1 << 16
ENDLESS = 1_000_000_000


class Cut(Exception):  # noqa: N818
    """What came instead of what was expected."""


@dataclass(slots=True)
class Held:
    """What became of one connection. Times are monotonic; `steps` are messages, events or pieces, and `gap` is the longest time
    between two of them, in seconds; `error` is empty when it ended whole."""

    what: str
    unit: str
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    steps: int = 0
    gap: float = 0.0
    error: str = ""
    _last: float = 0.0

    def step(self) -> None:
        now = time.monotonic()
        self.gap = max(self.gap, now - (self._last or self.began))
        self._last = now
        self.steps += 1


class Site:
    """Where the clients go: one host of a proxy."""

    def __init__(self, session: aiohttp.ClientSession, address: str, host: str) -> None:
        """`session`: of `session()`. `address`: of the nginx container; the engine's port forwarder would take 30 MB of a
        download ahead, and nginx would have nothing left to lose."""
        self._session = session
        self._base = f"http://{address}"
        self._headers = {"Host": host}

    async def connect(self) -> aiohttp.ClientWebSocketResponse:
        """A websocket to the test backend, which echoes."""
        return await self._session.ws_connect(f"{self._base}/ws", headers=self._headers)

    async def websocket(self, over: asyncio.Event, every: float = 1.0) -> Held:
        """Sends a message every so many seconds, each of which must come back, until it is over."""

        async def work(held: Held) -> None:
            async with await self.connect() as connection:
                while not over.is_set():
                    await echo(connection, f"message {held.steps}")
                    held.step()
                    await asyncio.sleep(every)

        return await _held(Held("websocket", "messages"), work)

    async def events(self, over: asyncio.Event, every: float = 0.1) -> Held:
        """Server-sent events, each of which must come, and in order, until it is over."""

        async def work(held: Held) -> None:
            async with self._get(f"/stream?ms={every * 1000:.0f}&n={ENDLESS}") as response:
                async for line in response.content:
                    if line.startswith(b"data:"):
                        held.step()
                        if line.split() != [b"data:", b"%d" % held.steps]:
                            raise Cut(f"{line!r} instead of event {held.steps}")
                        if over.is_set():
                            return
            raise Cut(f"closed after event {held.steps}")

        return await _held(Held("event stream", "events"), work)

    async def download(self, seconds: float, per_second: int = 1_000_000) -> Held:
        """Reads so many bytes a second and no more; all must come."""
        wanted = round(seconds * per_second)

        async def work(held: Held) -> None:
            read = 0
            async with self._get(f"/bytes?n={wanted}") as response:
                async for piece in response.content.iter_chunked(PIECE):
                    held.step()
                    read += len(piece)
                    await asyncio.sleep(held.began + read / per_second - time.monotonic())
            if read != wanted:
                raise Cut(f"{read:,} of {wanted:,} bytes")

        return await _held(Held("download", "pieces"), work)

    async def upload(self, over: asyncio.Event) -> Held:
        """A POST whose body is sent piece by piece until it is over, and must come back."""
        sent = bytearray()

        async def work(held: Held) -> None:
            async def pieces() -> AsyncIterator[bytes]:
                while not over.is_set():
                    piece = b"piece %d\n" % held.steps
                    sent.extend(piece)
                    yield piece
                    held.step()
                    await asyncio.sleep(UPLOAD_EVERY)

            async with self._session.post(f"{self._base}/echo", data=pieces(), headers=self._headers) as response:
                received = await response.read()
            if response.status != 200 or received != sent:
                raise Cut(f"status {response.status}, {len(received):,} of {len(sent):,} bytes")

        return await _held(Held("POST", "pieces"), work)

    def _get(self, target: str) -> aiohttp.client._RequestContextManager:
        return self._session.get(self._base + target, headers=self._headers, raise_for_status=True)


def session() -> aiohttp.ClientSession:
    """For any number of connections, each as long as it says something."""
    connector = aiohttp.TCPConnector(limit=0, socket_factory=_small)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE))


def _small(info: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that takes little ahead of who reads it."""
    made = socket.socket(*info[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
    return made


async def echo(connection: aiohttp.ClientWebSocketResponse, text: str) -> None:
    """Raises Cut when the message does not come back."""
    await connection.send_str(text)
    said = await connection.receive(timeout=PATIENCE)
    if said.type is not aiohttp.WSMsgType.TEXT or said.data != text:
        raise Cut(f"{said.type.name} instead of an echo")


async def _held(held: Held, work: Callable[[Held], Awaitable[None]]) -> Held:
    try:
        await work(held)
    except (aiohttp.ClientError, OSError, TimeoutError, Cut) as problem:
        held.error = str(problem) or type(problem).__name__
    held.ended = time.monotonic()
    return held
