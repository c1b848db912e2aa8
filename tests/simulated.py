"""An engine with thousands of containers: a unix socket that speaks the part of the Docker API that the controller uses.

Simulated: the containers. What the engine says of one (list, inspect, events) is what the real engine said of one real container
in each of its states, with other names, ids, addresses and times; an inspect is answered at once, also while a container starts.
Real: nginx, its network and all that is asked about it, which is passed on to the real engine as bytes; and the answers. One test
backend in the host's network answers at every address of 198.18.0.0/15 (RFC 2544: for benchmarks), so health checks and requests
go over TCP to as many addresses as there are containers. In one thing that is easier than life: to the kernel these are addresses
of its own, so the neighbour table, which by default ends at 1,024 (net.ipv4.neigh.default.gc_thresh3), is not needed.

The engine is a process of its own, so that what it costs is nobody else's.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import multiprocessing
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote, urlsplit

from tests.rig import BACKEND, Rig, endpoint, free_port, until

NETWORK = ipaddress.ip_network("198.18.0.0/15")
PATTERN = "pattern"
COMPOSE = {
    "com.docker.compose.config-hash": "5f4ab1c0a5a0d6e8f4cbb1f0b4b0e2dd1e6a1c2f8d0b7a3c9e4f5061728394a5",
    "com.docker.compose.container-number": "1",
    "com.docker.compose.depends_on": "",
    "com.docker.compose.image": "sha256:37032e5fc41284c4fbffd050cada919b7eb9285e4f6f0d0ed423bb738462de2d",
    "com.docker.compose.oneoff": "False",
    "com.docker.compose.project": PATTERN,
    "com.docker.compose.project.config_files": f"/srv/{PATTERN}/compose.yaml",
    "com.docker.compose.project.working_dir": f"/srv/{PATTERN}",
    "com.docker.compose.service": "web",
    "com.docker.compose.version": "2.29.7",
}
PAUSES = {"connect": 0.1, "start": 0.14}
"""Seconds before an event of a container that is run, as measured on an idle engine; all others come at once."""


@dataclass(frozen=True, slots=True)
class Patterns:
    """What the real engine says, with placeholders: by state the list's entry and inspect, by action the event."""

    listed: Mapping[str, str]
    inspected: Mapping[str, str]
    events: Mapping[str, str]


class Simulation:
    """`with Simulation(rig, 1000) as simulation:` so many running containers, for a controller with `simulation.sections`."""

    def __init__(self, rig: Rig, count: int) -> None:
        self._count = count
        self._path = rig.directory / "engine.sock"
        port, network = free_port(), rig.network("apps")
        device = f"br-{rig.client.inspect_network(network)['Id'][:12]}"
        answering = rig.run_container(
            name="answering",
            image=f"{BACKEND}:noport",
            args=["--port", str(port), "--answer-for", f"{NETWORK}@{device}"],
            network="host",
            host_config={"CapAdd": ["NET_ADMIN"]},
        )
        until(lambda: b"listens" in rig.client.logs(answering.id), 10, "the backend of all simulated containers")
        self._patterns = _record(rig, network, port)
        self._pipe, theirs = multiprocessing.Pipe()
        arguments = (str(self._path), theirs, self._patterns, count, f"{rig.prefix}.nginx")
        self._process = multiprocessing.get_context("spawn").Process(target=_serve, args=arguments, daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self._receive()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        self._process.join()

    @property
    def endpoint(self) -> str:
        return f"unix://{self._path}"

    @property
    def sections(self) -> Mapping[str, Mapping[str, object]]:
        return {"docker": {"endpoint": self.endpoint}}

    @property
    def hosts(self) -> list[str]:
        """Of the containers that there were at the start."""
        return [f"{_name(number)}.example" for number in range(self._count)]

    def run(self, count: int = 1) -> tuple[list[str], float]:
        """Creates and starts containers: their hosts, and the Unix time of the last start event."""
        names, at = self._tell("run", count)
        return [f"{name}.example" for name in names], at

    def stop(self, host: str) -> float:
        """As `docker stop` of one that ends at once: the Unix time of `die`."""
        return float(self._tell("stop", host.partition(".")[0]))

    def start(self, host: str) -> float:
        """One that was stopped. The Unix time of `start`."""
        return float(self._tell("start", host.partition(".")[0]))

    def remove(self, host: str) -> float:
        """As `docker rm -f`: the Unix time of `die`."""
        return float(self._tell("remove", host.partition(".")[0]))

    def calls(self) -> Counter[str]:
        """Calls since this was asked last: `GET /containers/{id}/json` -> how many."""
        counted: Counter[str] = self._tell("calls")
        return counted

    def _tell(self, what: str, *arguments: object) -> Any:
        self._pipe.send((what, arguments))
        return self._receive()

    def _receive(self) -> Any:
        while not self._pipe.poll(0.5):
            assert self._process.is_alive(), "the simulated engine has ended"
        return self._pipe.recv()


def _name(number: int) -> str:
    return f"app{number:05}"


# ---------------------------------------------------------------- what the real engine says


def _record(rig: Rig, network: str, port: int) -> Patterns:
    """One real container through its states: what is said of it in each, and the events in between."""
    since = time.time()
    box = rig.create_container(
        {"host": f"{PATTERN}.example"},
        name=PATTERN,
        image=f"{BACKEND}:noport",
        network=network,
        other_labels=COMPOSE,
        ExposedPorts={f"{port}/tcp": {}},
    )
    listed, inspected = {}, {}
    placeholders: dict[str, str] = {}
    for state, change in (("created", None), ("running", box.start), ("exited", box.stop)):
        if change:
            change()
        entry = next(item for item in rig.client.containers(all=True) if item["Id"] == box.id)
        raw = box.inspect()
        place = raw["NetworkSettings"]["Networks"][network]
        placeholders = {
            box.id: "@ID@",
            box.id[:12]: "@SHORT@",
            box.name: "@NAME@",
            PATTERN: "@NAME@",
            raw["Created"]: "@CREATED@",
            str(entry["Created"]): "@CREATED_UNIX@",
            raw["State"]["StartedAt"]: "@STARTED@",
            place["EndpointID"]: "@ENDPOINT@",
            place["IPAddress"]: "@ADDRESS@",
            place["MacAddress"]: "@MAC@",
        }
        listed[state], inspected[state] = (_blank(json.dumps(item), placeholders) for item in (entry, raw))
    box.remove()
    seen = rig.client.events(since=int(since), until=int(time.time()) + 1, decode=True)
    events = {item["Action"]: _blank(json.dumps(item), placeholders) for item in seen if box.id in json.dumps(item)}
    return Patterns(listed, inspected, events)


def _blank(text: str, placeholders: Mapping[str, str]) -> str:
    for value, placeholder in placeholders.items():
        if value and not value.startswith("0001-"):
            text = text.replace(value, placeholder)
    return text


# ---------------------------------------------------------------- the engine's process


@dataclass(slots=True)
class _Container:
    number: int
    patterns: Patterns
    state: str
    created: float
    starts: int = 0
    started: float = 0.0
    _said: dict[bool, bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return _name(self.number)

    @property
    def id(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    def become(self, state: str) -> None:
        self.state = state
        self._said.clear()
        if state == "running":
            self.starts += 1
            self.started = time.time()

    def said(self, *, listed: bool) -> bytes:
        """The JSON of the list's entry, or of inspect."""
        if listed not in self._said:
            texts = self.patterns.listed if listed else self.patterns.inspected
            self._said[listed] = self.fill(texts[self.state]).encode()
        return self._said[listed]

    def fill(self, text: str) -> str:
        address = NETWORK[self.number + 1]
        values = {
            "@ID@": self.id,
            "@SHORT@": self.id[:12],
            "@NAME@": self.name,
            "@CREATED@": _iso(self.created),
            "@CREATED_UNIX@": str(int(self.created)),
            "@STARTED@": _iso(self.started),
            "@ENDPOINT@": hashlib.sha256(f"{self.name} {self.starts}".encode()).hexdigest(),
            "@ADDRESS@": str(address),
            "@MAC@": ":".join(f"{byte:02x}" for byte in b"\x02\x42" + address.packed),
        }
        return re.sub("@[A-Z_]+@", lambda match: values[match[0]], text)


def _iso(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{at % 1:.9f}"[2:] + "Z"


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    """Without the version."""
    query: Mapping[str, Sequence[str]]
    head: bytes


def _serve(path: str, pipe: Connection, patterns: Patterns, count: int, nginx_label: str) -> None:
    """The process. Ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(asyncio.CancelledError):
        asyncio.run(_Engine(patterns, count, nginx_label).serve(path, pipe))


class _Engine:
    def __init__(self, patterns: Patterns, count: int, nginx_label: str) -> None:
        self._patterns = patterns
        self._nginx_label = nginx_label
        self._real = (endpoint() or "unix:///var/run/docker.sock").removeprefix("unix://")
        self._containers: dict[str, _Container] = {}
        self._number = 0
        self._streams: set[Callable[[Mapping[str, Any]], None]] = set()
        self._calls: Counter[str] = Counter()
        self._conversations: set[asyncio.Task[Any] | None] = set()
        """Else nothing holds one whose client has gone while the real engine has not answered yet."""
        for _ in range(count):
            container = self._create()
            container.become("running")
            container.said(listed=True)

    def _create(self) -> _Container:
        container = _Container(self._number, self._patterns, "created", time.time())
        self._number += 1
        self._containers[container.id] = container
        return container

    async def serve(self, path: str, pipe: Connection) -> None:
        server = await asyncio.start_unix_server(self._converse, path, backlog=128)
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        def told() -> None:
            try:
                what, arguments = pipe.recv()
            except EOFError:
                ended.set()
                return
            task = asyncio.create_task(self._obey(pipe, what, arguments))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        loop.add_reader(pipe.fileno(), told)
        pipe.send("ready")
        async with server:
            await ended.wait()

    # ------------------------------------------------------------ what happens to containers

    async def _obey(self, pipe: Connection, what: str, arguments: Sequence[Any]) -> None:
        answer: object
        if what == "calls":
            answer, self._calls = self._calls, Counter()
        elif what == "run":
            new = [self._create() for _ in range(arguments[0])]
            for container in new:
                self._happens(container, "create")
            answer = ([container.name for container in new], max(await asyncio.gather(*map(self._start, new))))
        else:
            container = next(c for c in self._containers.values() if c.name == arguments[0])
            answer = await self._start(container) if what == "start" else self._end(container, remove=what == "remove")
        pipe.send(answer)

    async def _start(self, container: _Container) -> float:
        await asyncio.sleep(PAUSES["connect"])
        self._happens(container, "connect")
        await asyncio.sleep(PAUSES["start"])
        container.become("running")
        return self._happens(container, "start")

    def _end(self, container: _Container, *, remove: bool) -> float:
        self._happens(container, "kill")
        at = self._happens(container, "die")
        container.become("exited")
        self._happens(container, "disconnect")
        self._happens(container, "stop")
        if remove:
            del self._containers[container.id]
            self._happens(container, "destroy")
        return at

    def _happens(self, container: _Container, action: str) -> float:
        at = time.time()
        event = json.loads(container.fill(self._patterns.events[action]))
        event |= {"time": int(at), "timeNano": int(at * 1e9)}
        for tell in self._streams:
            tell(event)
        return at

    # ------------------------------------------------------------ the API

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._conversations.add(task := asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = _parse(await reader.readuntil(b"\r\n\r\n"))
                simulated = self._containers.get(request.path.split("/")[2]) if request.path.startswith("/containers/") else None
                whose = "" if simulated or request.path == "/containers/json" else " of nginx"
                self._calls[_template(request) + whose * request.path.startswith("/containers/")] += 1
                if request.path == "/containers/json":
                    _answer(writer, b"[" + b",".join(await self._listed()) + b"]")
                elif simulated:
                    _answer(writer, simulated.said(listed=False))
                elif request.path == "/events":
                    await self._stream(request, reader, writer)
                    break
                else:
                    await self._pass_on(request, reader, writer)
                    break
        writer.close()
        self._conversations.discard(task)

    async def _listed(self) -> list[bytes]:
        """The simulated ones, and the real nginx."""
        reader, writer = await self._ask_real(
            "/containers/json?all=1&filters=" + quote(json.dumps({"label": [self._nginx_label]}))
        )
        real = (await reader.read()).strip()[1:-1]
        writer.close()
        return [container.said(listed=True) for container in self._containers.values()] + ([real] if real else [])

    async def _stream(self, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Events, until the client goes: those of simulated containers, and of the real nginx."""
        filters = request.query.get("filters", ["{}"])[0]
        wanted = {key: set(values) for key, values in json.loads(filters).items()}
        real, real_writer = await self._ask_real("/events?filters=" + quote(filters))

        def tell(event: Mapping[str, Any]) -> None:
            if all(event[key] in wanted.get(name, {event[key]}) for key, name in (("Type", "type"), ("Action", "event"))):
                line = json.dumps(event).encode() + b"\n"
                writer.write(b"%x\r\n%s\r\n" % (len(line), line))

        async def follow() -> None:
            nginx: set[str] = set()
            while line := await real.readline():
                event = json.loads(line)
                attributes = event["Actor"]["Attributes"]
                if self._nginx_label in attributes:
                    nginx.add(event["Actor"]["ID"])
                if self._nginx_label in attributes or attributes.get("container") in nginx:
                    tell(event)

        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        self._streams.add(tell)
        following = asyncio.create_task(follow())
        try:
            await reader.read()
        finally:
            self._streams.discard(tell)
            following.cancel()
            real_writer.close()

    async def _ask_real(self, target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A GET of our own; the reader stands at the body, which ends with the connection (HTTP/1.0)."""
        reader, writer = await asyncio.open_unix_connection(self._real, limit=1 << 24)
        writer.write(f"GET {target} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        return reader, writer

    async def _pass_on(self, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The rest of the connection belongs to the real engine: a call, or the stream that an exec becomes."""
        real, real_writer = await asyncio.open_unix_connection(self._real)
        last = re.sub(rb"(?im)^connection:.*\r\n", b"", request.head).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        real_writer.write(request.head if re.search(rb"(?im)^upgrade:", request.head) else last)
        forth = asyncio.create_task(_pump(reader, real_writer))
        await _pump(real, writer)
        forth.cancel()
        real_writer.close()


def _parse(head: bytes) -> _Request:
    method, target, _ = head.partition(b"\r\n")[0].decode().split(" ")
    url = urlsplit(target)
    return _Request(method, re.sub(r"^/v[0-9.]+(?=/)", "", url.path), parse_qs(url.query), head)


def _template(request: _Request) -> str:
    return f"{request.method} " + re.sub(r"^/(containers|exec|networks|images)/.+(?=/)", r"/\1/{id}", request.path)


def _answer(writer: asyncio.StreamWriter, body: bytes) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
