"""Who holds a TCP port."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from proxyctl.processes import Published, holder
from tests.rig import LOOPBACK, free_port


@pytest.mark.parametrize("bound", [LOOPBACK, "0.0.0.0"])
@pytest.mark.parametrize("wanted", ["", LOOPBACK, "0.0.0.0"])
def test_a_process_is_named_with_its_number(bound: str, wanted: str) -> None:
    port = free_port()
    with socket.create_server((bound, port)):
        name = Path("/proc/self/comm").read_text(encoding="utf-8").strip()
        assert holder(wanted, port) == f"{name} (process {os.getpid()})"
        assert holder("127.0.0.2", port) == ("" if bound == LOOPBACK else f"{name} (process {os.getpid()})")
    assert holder(wanted, port) == ""


def test_a_connection_holds_no_port() -> None:
    with socket.create_server((LOOPBACK, free_port())) as server, socket.create_connection(server.getsockname()) as client:
        assert holder("", client.getsockname()[1]) == ""


def test_a_container_is_named_before_the_process_that_forwards_to_it() -> None:
    port = free_port()
    published = [Published("other", "127.0.0.2", port), Published("web", "0.0.0.0", port)]
    assert holder(LOOPBACK, port, published) == "the container web"
    assert holder("127.0.0.2", port, published) == "the container other"
    assert holder(LOOPBACK, port + 1, published) == ""


def test_a_process_that_may_not_be_seen_is_told_by_its_user(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    row = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000\n"
    (tmp_path / "net" / "tcp").write_text(f"  sl  local_address\n{row}")
    assert holder("", 8080, proc=tmp_path) == "a process of the user root (as root, `ss -ltnp sport = :8080` names it)"
