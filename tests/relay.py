"""A unix socket between a controller and its engine: an engine's faults without touching it, and a record of what is asked.

It reads the head of each call and lets the rest pass. It can be cut, stand still, refuse chosen calls, answer late, and change
the stream of events. One call a connection; a hijacked one (exec) passes as it is.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.rig import endpoint

CHUNK = 65536
Version = tuple[int, int]
"""Of the API: 1.44 is (1, 44)."""
Change = Callable[[list[bytes]], Iterable[bytes]]
"""Events that came together, each as a line of JSON -> what is passed on instead."""


@dataclass(frozen=True, slots=True)
class Call:
    """`GET /containers/web/json`: without the version and the query."""

    method: str
    path: str

    @property
    def template(self) -> str:
        """`GET /containers/{id}/json`, as the engine's API calls it."""
        path = re.sub(r"^/images/(?!create$|json$).+/json$", "/images/{name}/json", self.path)
        path = re.sub(r"^/(containers|networks|exec)/(?!json$|create$)[^/]+", r"/\1/{id}", path)
        return f"{self.method} {path}"

    @property
    def about(self) -> str:
        """The id or the name; empty where the call is about all or about something new."""
        match = re.fullmatch(r"/(?:containers|networks|exec|images)/(?!json$|create$)(.+?)(?:/[a-z]+)?", self.path)
        return match[1] if match else ""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(slots=True)
class _Rule:
    """Calls whose text matches are answered late, with `status` where there is one, so many times (None: until lifted)."""

    pattern: str
    status: int
    delay: float
    left: int | None

    def takes(self, call: Call) -> bool:
        if self.left == 0 or not re.search(self.pattern, str(call)):
            return False
        self.left = None if self.left is None else self.left - 1
        return True


class Relay:
    """`with Relay(path) as relay:` passes everything on to the engine at tests.rig.endpoint() (a unix socket)."""

    def __init__(self, path: Path) -> None:
        self._upstream = (endpoint() or "unix:///var/run/docker.sock").removeprefix("unix://")
        self._path = path
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"relay {path}", daemon=True)
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self._streams: set[asyncio.StreamWriter] = set()
        self._rules: list[_Rule] = []
        self._change: Change | None = None
        self._gather = 0.0
        self.allows: Callable[[Call], bool] = lambda _: True
        """What is let through; anything else is answered with 403."""
        self.asked: Counter[Call] = Counter()
        """Every call so far, refused ones too."""
        self._versions: tuple[Version, Version, str] | None = None

    @property
    def endpoint(self) -> str:
        return f"unix://{self._path}"

    def __enter__(self) -> Self:
        self.restore()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._thread.is_alive():
            self.cut()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    # ------------------------------------------------------------ what a fault does

    def restore(self) -> None:
        """The engine answers; what it had said while it stood still arrives now. Rules stay."""
        self._do(self._restore())

    def cut(self) -> None:
        """The engine is gone: open calls and streams end, new ones are refused."""
        self._do(self._cut())

    def hang(self) -> None:
        """The engine takes calls and answers none, and its streams say no more."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def refuse(self, status: int, pattern: str = "", times: int | None = None) -> None:
        """Answers with this status where `GET /containers/web/json` matches the regular expression."""
        self._rules.append(_Rule(pattern, status, 0.0, times))

    def delay(self, seconds: float, pattern: str = "") -> None:
        """Passes such calls on so much later."""
        self._rules.append(_Rule(pattern, 0, seconds, None))

    def change_events(self, change: Change, gather: float = 0.0) -> None:
        """Puts this between the engine's events and the controller; what comes within `gather` seconds comes together."""
        self._change, self._gather = change, gather

    def say(self, events: Iterable[bytes]) -> None:
        """The engine's streams of events say these, too, all at once."""
        lines = b"".join(line.rstrip(b"\n") + b"\n" for line in events)
        self._do(self._say(lines))

    def speak(self, oldest: Version, newest: Version, engine: str) -> None:
        """Speaks these versions of the API and refuses others, as a newer engine does. `engine`: the version in which the calls
        are passed on."""
        self._versions = (oldest, newest, engine)

    def lift(self) -> None:
        """No rules and no changed events any more."""
        self._rules, self._change, self._gather = [], None, 0.0

    # ------------------------------------------------------------ in the thread

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        if not self._thread.is_alive():
            self._thread.start()
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _restore(self) -> None:
        self._flowing.set()
        if self._server is None:
            self._path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._serve, self._path)

    async def _cut(self) -> None:
        if self._server:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _say(self, lines: bytes) -> None:
        for writer in self._streams:
            await _chunk(writer, lines)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._answer(reader, writer)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
        call = Call(method, re.sub(r"^/v[0-9.]+(?=/)", "", target.partition("?")[0]))
        self.asked[call] += 1
        if self._versions:
            oldest, newest, engine = self._versions
            if call == Call("GET", "/version"):
                said = {"Version": "29.0.0", "ApiVersion": _text(newest), "MinAPIVersion": _text(oldest)}
                await _reply(writer, 200, said)
                return
            asked = re.match(r"/v([0-9]+)\.([0-9]+)/", target)
            if asked and not oldest <= (int(asked[1]), int(asked[2])) <= newest:
                least = f"Minimum supported API version is {_text(oldest)}, please upgrade your client to a newer version"
                await _reply(writer, 400, {"message": f"client version {asked[1]}.{asked[2]} is too old. {least}"})
                return
            head = re.sub(rb"^([A-Z]+) /v[0-9.]+/", rf"\1 /v{engine}/".encode(), head)
        status = 0 if self.allows(call) else 403
        for rule in [rule for rule in self._rules if rule.takes(call)]:
            await asyncio.sleep(rule.delay)
            status = status or rule.status
        if status:
            await self._flowing.wait()
            await _refuse(writer, status)
            return
        try:
            engine_reader, engine_writer = await asyncio.open_unix_connection(self._upstream)
        except OSError:
            return
        try:
            engine_writer.write(head if b"\r\nUpgrade:" in head else _last(head))
            if call.path == "/events":
                await self._pass_events(reader, engine_reader, writer)
            else:
                await self._pass_on(reader, writer, engine_reader, engine_writer)
        finally:
            engine_writer.close()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        engine_reader: asyncio.StreamReader,
        engine_writer: asyncio.StreamWriter,
    ) -> None:
        there = asyncio.create_task(self._pump(reader, engine_writer))
        try:
            await self._pump(engine_reader, writer, held=True)
        finally:
            there.cancel()
            await asyncio.gather(there, return_exceptions=True)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, held: bool = False) -> None:
        while data := await source.read(CHUNK):
            if held:
                await self._flowing.wait()
            sink.write(data)
            await sink.drain()

    async def _pass_events(self, reader: asyncio.StreamReader, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        head = await source.readuntil(b"\r\n\r\n")
        await self._flowing.wait()
        sink.write(head)
        await sink.drain()
        if b"chunked" not in head:  # an error, with its reason
            await self._pump(source, sink, held=True)
            return
        said: asyncio.Queue[bytes] = asyncio.Queue()
        ends = [
            asyncio.create_task(work)
            for work in (reader.read(), _read_events(source, said), self._send_events(said, sink))  # whichever ends first
        ]
        self._streams.add(sink)
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._streams.discard(sink)
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    async def _send_events(self, said: asyncio.Queue[bytes], sink: asyncio.StreamWriter) -> None:
        while True:
            events = [await said.get()]
            await asyncio.sleep(self._gather)
            while not said.empty():
                events.append(said.get_nowait())
            await self._flowing.wait()
            await _chunk(sink, b"".join(line + b"\n" for line in (self._change(events) if self._change else events)))


async def _read_events(source: asyncio.StreamReader, said: asyncio.Queue[bytes]) -> None:
    """The engine sends each event as a line of JSON in a chunk of its own."""
    while (size := int(await source.readline(), 16)) > 0:
        for line in (await source.readexactly(size + 2)).splitlines():
            if line:
                said.put_nowait(line)


async def _chunk(writer: asyncio.StreamWriter, lines: bytes) -> None:
    if lines:
        writer.write(f"{len(lines):x}\r\n".encode() + lines + b"\r\n")
        await writer.drain()


def _last(head: bytes) -> bytes:
    """The head of a call that is the only one on its connection: the engine ends it with its answer."""
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([lines[0], b"Connection: close", *lines[1:]])


async def _refuse(writer: asyncio.StreamWriter, status: int) -> None:
    await _reply(writer, status, {"message": "the relay says no"})


async def _reply(writer: asyncio.StreamWriter, status: int, said: Mapping[str, str]) -> None:
    body = json.dumps(said).encode()
    line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    writer.write(f"{line}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
