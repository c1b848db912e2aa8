"""A Docker host in miniature: an engine that holds containers and one nginx, which is a small HTTP server that reads the
published reference at a signal, starts new workers and retires the old ones. It can be deaf, refuse, or keep its old workers.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from proxyctl.model import Container, EngineRefused, EngineUnavailable
from proxyctl.processes import Published
from proxyctl.publish.nginx import NginxInstance, NginxSpec
from tests.unit import make

TOKEN = "f" * 32
NGINX = "id-nginx"


class Engine:
    """Both protocols: what the inventory asks and what publishing asks. `calls` holds each call, in order."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.containers: dict[str, Container] = {}
        self.calls: list[tuple[str, ...]] = []
        self.unreadable = False
        self.refuses: Callable[[str], str] = lambda _: ""
        """What nginx says against a draft with this text; empty when it takes it."""
        self.networks = {"own": "127.0.0.1"}
        self.closed_networks: set[str] = set()
        self.image_id = "image-1"
        self.images = {"nginx:test"}
        self.version = "1.31.3"
        self.status = "running"
        """Of nginx; empty: there is no such container."""
        self.starts = True
        self.started = 1
        self.labels: dict[str, str] = {}
        self.mounted: tuple[str, ...] = ("conf", "boot", "logs")
        self.settings: Mapping[str, Any] = {}
        """What nginx was last made from."""
        self.nginx = Nginx(self)

    def _called(self, *call: str) -> None:
        self.calls.append(call)
        if self.unreadable:
            raise EngineUnavailable("the engine does not answer")

    def did(self, name: str) -> list[tuple[str, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]

    # ------------------------------------------------------------ reading

    def put(self, *containers: Container) -> None:
        self.containers |= {c.id: c for c in containers}

    async def list_containers(self) -> list[Container]:
        self._called("list")
        return list(self.containers.values())

    async def inspect(self, container: str) -> Container | None:
        self._called("inspect", container)
        return self.containers.get(container)

    async def inspect_raw(self, container: str) -> Mapping[str, Any] | None:
        self._called("inspect_raw", container)
        if not self.status:
            return None
        mounts = [{"Source": str(self.directory / name), "Destination": str(self.directory / name)} for name in self.mounted]
        networks = {name: {"Gateway": gateway, "IPAddress": ""} for name, gateway in self.networks.items()}
        return {
            "Id": NGINX,
            "Name": "/nginx",
            "Image": self.image_id,
            "State": {"Status": self.status, "Running": self.status == "running", "StartedAt": str(self.started)},
            "Config": {"Image": "nginx:test", "Labels": self.labels},
            "HostConfig": {"NetworkMode": "own"},
            "Mounts": mounts,
            "NetworkSettings": {"Networks": networks, "Ports": {"80/tcp": [{"HostIp": "", "HostPort": str(self.nginx.port)}]}},
        }

    async def has_image(self, image: str) -> bool:
        self._called("has_image", image)
        return image in self.images

    async def processes(self, container: str) -> list[tuple[int, str]]:
        self._called("processes", container)
        return self.nginx.processes()

    async def logs(self, container: str, since_unix: float | None = None) -> str:
        self._called("logs", container)
        return "".join(line for at, line in self.nginx.log if at >= (since_unix or 0.0))

    # ------------------------------------------------------------ changing

    async def pull(self, image: str) -> None:
        self._called("pull", image)
        self.images.add(image)

    async def create_container(self, name: str, settings: Mapping[str, Any]) -> str:
        self._called("create_container", name)
        self.settings, self.labels, self.status = settings, dict(settings["Labels"]), "created"
        return NGINX

    async def stop(self, container: str) -> None:
        self._called("stop", container)
        self.containers[container] = replace(self.containers[container], state="exited")

    async def published_ports(self) -> list[Published]:
        return []

    async def start(self, container: str) -> None:
        self._called("start", container)
        self.status = "running" if self.starts else "exited"

    async def kill(self, container: str, signal: str) -> None:
        self._called("kill", container, signal)
        self.nginx.hear()

    async def execute(self, container: str, argv: list[str]) -> tuple[int, str]:
        if argv == ["nginx", "-v"]:
            return 0, f"nginx version: nginx/{self.version}\n"
        self._called("test", container, argv[-1])
        said = self.refuses(whole(Path(argv[-1])))
        return (1, f"nginx: [emerg] {said}\n") if said else (0, "")

    async def create_network(self, name: str, labels: Mapping[str, str]) -> None:
        self._called("create_network", name, *labels)

    async def connect_network(self, network: str, container: str, known: Collection[str] = ()) -> tuple[str, ...]:
        self._called("connect", network, container, *known)
        if network in self.closed_networks:
            raise EngineRefused(403, f"{network} is closed")
        self.networks[network] = "10.0.0.1"
        return ("10.0.0.254",)

    async def disconnect_network(self, network: str, container: str) -> None:
        self._called("disconnect", network, container)
        if self.networks.pop(network, None) is None:
            raise EngineRefused(404, f"not in {network}")


def whole(main: Path) -> str:
    """A main file, of a draft too, with everything that it includes."""
    conf = main.parent.parent
    text = main.read_text()
    included = [conf / folder / name for folder, name in re.findall(r"include \S*/(drafts|manifests|objects)/(\S+);", text)]
    return text + "".join(map(whole, included))


class Nginx:
    """Answers with the digest that it runs under the token's name, 404 under any other."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.running = ""
        self.deaf = 0
        """Signals that it does not hear."""
        self.refuses: Callable[[str], str] = lambda _: ""
        """What it writes into its log instead of loading this digest; empty when it loads it."""
        self.ignores: Callable[[str], bool] = lambda _: False
        """Whether it keeps the old configuration without a word."""
        self.speaks: Callable[[str], bool] = lambda _: True
        """Whether it answers anybody with this digest."""
        self.parses = 0.005
        """Seconds from the signal to the first new worker."""
        self.retires = 0.02
        """Seconds from there to the retirement of the old ones; they still answer meanwhile."""
        self.lingers: dict[int, float] = {}
        """Old workers that serve so many seconds longer than the others."""
        self.log: list[tuple[float, str]] = []
        self.serving = [11, 12]
        self.ending: list[int] = []
        self._old = ""
        self._asked = 0

    def processes(self) -> list[tuple[int, str]]:
        titles = [(10, "nginx: master process nginx -g daemon off;"), (9, "nginx: cache manager process")]
        titles += [(pid, "nginx: worker process") for pid in self.serving]
        return titles + [(pid, "nginx: worker process is shutting down") for pid in self.ending]

    def hear(self) -> None:
        if self.deaf:
            self.deaf -= 1
            return
        task = asyncio.create_task(self._reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self) -> None:
        digest = (self._engine.directory / "conf" / "nginx.conf").readlink().stem
        await asyncio.sleep(self.parses)
        if said := self.refuses(digest):
            self.write(f"2026/11/24 06:00:00 [emerg] 10#10: {said}")
        if said or self.ignores(digest):
            return
        old, self._old, self.running = list(self.serving), self.running, digest
        self.serving = old + [pid + 10 for pid in old]
        await asyncio.sleep(self.retires)
        self.serving = [pid for pid in self.serving if pid not in old or pid in self.lingers]
        self.ending += [pid for pid in old if pid not in self.lingers]
        self._old = ""
        for pid, seconds in self.lingers.items():
            await asyncio.sleep(seconds)
            self.serving.remove(pid)

    def write(self, line: str) -> None:
        self.log.append((time.time(), line + "\n"))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(OSError, EOFError):
            await self._tell(reader, writer)
        writer.close()
        self._writers.discard(writer)

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self._asked += 1
        digest = self._old if self._old and self._asked % 2 else self.running
        if not self.speaks(digest):
            return
        found = digest and f"host: {TOKEN}" in head.lower()
        body = f"{digest}\n" if found else "Unknown host\n"
        status = "200 OK" if found else "404 Not Found"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        await writer.drain()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = int(server.sockets[0].getsockname()[1])
        try:
            yield
        finally:
            server.close()
            await server.wait_closed()
            for task in self._tasks:
                task.cancel()
            for writer in self._writers:
                writer.transport.abort()
            await asyncio.sleep(0.01)


def spec(directory: Path, *, create: bool = True, pull: bool = True) -> NginxSpec:
    ports = (("", 80, 80), ("127.0.0.1", 8443, 443))
    return NginxSpec(
        "nginx", "nginx:test", pull, create, ports, directory / "conf", directory / "boot", directory / "logs", "proxyctl"
    )


def instance(engine: Engine, **more: Any) -> NginxInstance:
    """As NginxContainer describes it."""
    view = make.view(conf_dir=str(engine.directory / "conf"), runtime_dir=str(engine.directory / "boot"))
    plain = NginxInstance(
        id=NGINX,
        started_at=str(engine.started),
        image_id=engine.image_id,
        view=view,
        addresses=(("127.0.0.1", engine.nginx.port),),
        outdated=False,
        image="nginx:test",
        name="nginx",
    )
    return replace(plain, **more)


def folders(directory: Path, names: Iterable[str] = ("conf", "boot", "logs")) -> None:
    for name in names:
        (directory / name).mkdir(exist_ok=True)
