"""The client of the engine against one that is slow, that is replaced by another version, or that answers as Podman does (see
tests/engine for the real one)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socketserver
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from proxyctl.model import EngineUnavailable
from proxyctl.observe.docker_host import DockerHost

MANY = 20


class Slow(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Stops no container and describes none until `done`, and refuses a client older than `least` (as 29.0 refuses 1.43)."""

    daemon_threads = True
    request_queue_size = 2 * MANY
    speaks, least = "1.41", "1.12"

    def __init__(self, path: Path) -> None:
        self.done = threading.Event()
        super().__init__(str(path), _Answer)


class _Answer(BaseHTTPRequestHandler):
    server: Slow

    def do_GET(self) -> None:
        version = re.match(r"/v([0-9.]+)/", self.path)
        if self.path.endswith("/version"):
            self._say(200, {"ApiVersion": self.server.speaks, "MinAPIVersion": self.server.least, "Version": "x"})
        elif version and float(version[1]) < float(self.server.least):
            self._say(400, {"message": f"client version {version[1]} is too old. Minimum is {self.server.least}"})
        elif "/podman/top" in self.path:
            self._say(200, None)
        elif "/podman/json" in self.path:
            self._say(200, {"State": {"Pid": os.getpid()}})
        elif self.path.endswith("/networks/create"):
            self._say(500, {"message": "network name 0-nginx already used: network already exists"})
        elif re.search(r"/stop|/containers/c\d+/json", self.path):
            self.server.done.wait(10)
            self._say(404, {"message": "No such container"})
        else:
            self._say(200, [] if self.path.partition("?")[0].endswith("/containers/json") else {})

    do_POST = do_GET  # noqa: N815

    def _say(self, status: int, what: object) -> None:
        body = b"" if what is None else json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def address_string(self) -> str:
        return ""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Slow]:
    with Slow(tmp_path / "engine.sock") as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.done.set()
        server.shutdown()


@pytest.fixture
async def host(slow: Slow) -> AsyncIterator[DockerHost]:
    made = DockerHost(f"unix://{slow.server_address}")
    yield made
    made.close()


@pytest.mark.parametrize("what", ["stop", "inspect"])
async def test_nginx_is_signalled_while_the_engine_is_long_about_containers(slow: Slow, host: DockerHost, what: str) -> None:
    waiting = [asyncio.create_task(getattr(host, what)(f"c{number}")) for number in range(MANY)]
    await asyncio.sleep(0.1)
    async with asyncio.timeout(5):
        await host.kill("nginx", "HUP")
        assert await host.list_containers() == []
    assert not any(task.done() for task in waiting)
    slow.done.set()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_an_engine_that_is_upgraded_is_spoken_to_in_its_own_version(slow: Slow, host: DockerHost) -> None:
    assert await host.list_containers() == []
    slow.speaks, slow.least = "1.52", "1.44"
    with pytest.raises(EngineUnavailable, match="too old"):
        await host.list_containers()
    assert await host.list_containers() == []
    assert float((await host.info()).api_version) >= 1.44


async def test_processes_are_known_when_top_answers_nothing(host: DockerHost) -> None:
    assert os.getpid() in [pid for pid, _ in await host.processes("podman")]


async def test_network_that_exists_is_kept(host: DockerHost) -> None:
    await host.create_network("0-nginx", {})
