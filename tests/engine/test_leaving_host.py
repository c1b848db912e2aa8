"""A host that is left: what nginx has answered arrives, however slowly it is read."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import Box, Controller, Rig, until

HOST, SIZE = "big.example", 3_000_000
LEFT, STALLS = 60_000, 5.0
"""So many bytes before its end, which nginx has handed to the kernel by then, the client does not read for so many seconds."""


@pytest.fixture
def served(rig: Rig) -> Iterator[Controller]:
    """A controller of its own, whose nginx may be stopped."""
    controller = rig.controller(prefix=f"{rig.prefix}{time.monotonic_ns() % 100000}")
    rig.create_container(other_labels={f"{controller.prefix}.host": HOST}).start()
    controller.wait_for(HOST)
    yield controller
    if controller.running:
        controller.stop()


def leave(controller: Controller, nginx: Box, said: list[str]) -> None:
    """As a shutdown does it: nginx is stopped when the host is drained."""
    program: list[str | Path] = [Path(sys.executable).with_name("proxyctl"), "--config", controller.config]
    done = subprocess.run([*program, "host", "drain", "--notice", "0s"], capture_output=True, text=True, timeout=60, check=False)
    said.append(done.stdout + done.stderr)
    nginx.stop()


def test_a_client_that_is_slow_at_the_end_has_all_of_it_before_the_host_is_drained(rig: Rig, served: Controller) -> None:
    nginx, said, came = Box(rig.client, served.nginx, served.nginx), list[str](), bytearray()
    leaving = threading.Thread(target=leave, args=(served, nginx, said))
    with socket.socket() as client:
        client.settimeout(20)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
        client.connect((nginx.address, 80))
        client.sendall(f"GET /bytes?n={SIZE} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        came += client.recv(10_000)
        leaving.start()
        until(lambda: served.ask("ready.proxyctl.invalid", "/-/ready").body.startswith("ending"), 10, "a worker that ends")
        while len(came) < SIZE - LEFT:
            came += client.recv(10_000)
        time.sleep(STALLS)
        while more := client.recv(10_000):
            came += more
    leaving.join()
    assert len(came.partition(b"\r\n\r\n")[2]) == SIZE, said
    assert "drained after" in said[0]
