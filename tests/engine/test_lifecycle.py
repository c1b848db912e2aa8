"""Controller and nginx come and go: nginx serves without the controller, and the controller makes nginx whole."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.load import Load
from tests.rig import BACKEND, Box, Controller, Rig, until


@pytest.fixture
def served(rig: Rig) -> Iterator[Controller]:
    """A controller of its own, with one site."""
    controller = rig.controller(prefix=f"{rig.prefix}{time.monotonic_ns() % 100000}")
    rig.create_container(other_labels={f"{controller.prefix}.host": "site.example"}).start()
    controller.wait_for("site.example")
    yield controller
    if controller.running:
        controller.stop()


def reloads(controller: Controller) -> int:
    return len(controller.records("live"))


def test_sigterm_ends_within_a_second_and_leaves_nginx_serving(served: Controller) -> None:
    began = time.monotonic()
    assert served.stop() == 0
    assert time.monotonic() - began < 1.0
    assert served.ask("site.example").status == 200


def test_a_killed_controller_leaves_nginx_serving_and_takes_over_without_a_reload(served: Controller) -> None:
    served.kill()
    assert served.ask("site.example").status == 200
    before = reloads(served)
    served.start()
    time.sleep(2.0)
    assert served.ask("site.example").status == 200
    assert reloads(served) == before


def test_what_changed_while_the_controller_was_away_is_live_when_it_is_back(rig: Rig, served: Controller) -> None:
    served.kill()
    rig.create_container(other_labels={f"{served.prefix}.host": "missed.example"}, name=f"missed{time.monotonic_ns()}").start()
    served.start()
    served.wait_for("missed.example")
    assert served.ask("site.example").status == 200


def test_a_second_controller_on_the_same_state_refuses_and_says_who_holds_it(served: Controller) -> None:
    ended = subprocess.run(
        [shutil.which("proxyctl") or ".venv/bin/proxyctl", "run", "--config", str(served.config)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ended.returncode == 2
    assert f"pid {served.pid}" in ended.stderr


@pytest.mark.parametrize("how", ["kill", "remove", "restart", "stop"])
def test_nginx_is_made_whole(served: Controller, rig: Rig, how: str) -> None:
    match how:
        case "kill":
            rig.client.kill(served.nginx, "KILL")
        case "remove":
            rig.client.remove_container(served.nginx, force=True)
        case "restart":
            rig.client.restart(served.nginx, timeout=5)
        case _:
            rig.client.stop(served.nginx, timeout=5)
    served.wait_for("site.example", within=10)


def test_a_crashed_nginx_comes_back_without_a_controller(served: Controller, rig: Rig) -> None:
    """After a reload, which is a signal through the engine: it takes such a container for one that was stopped by hand."""
    served.kill()
    rig.client.kill(served.nginx, "HUP")
    before = rig.client.inspect_container(served.nginx)["State"]
    os.kill(before["Pid"], signal.SIGKILL)
    until(lambda: rig.client.inspect_container(served.nginx)["State"]["Pid"] not in (0, before["Pid"]), 10, "another nginx")
    served.wait_for("site.example")


def test_a_lost_signal_and_a_foreign_reload_change_nothing_for_long(served: Controller, rig: Rig) -> None:
    """nginx is told to read again while its reference points elsewhere, as a hand in the directory could do."""
    reference = served.directory / "state" / "nginx" / "nginx.conf"
    mains = sorted((served.directory / "state" / "nginx" / "mains").iterdir(), key=lambda path: path.stat().st_mtime)
    reference.unlink()
    reference.symlink_to(mains[0].relative_to(reference.parent))
    rig.client.kill(served.nginx, "HUP")
    until(lambda: served.ask("site.example").status != 200, 5, "the old configuration to be read")
    rig.create_container(other_labels={f"{served.prefix}.host": "next.example"}, name=f"next{time.monotonic_ns()}").start()
    served.wait_for("next.example")
    served.wait_for("site.example")


def test_after_a_boot_nginx_says_503_until_the_first_publish(served: Controller, rig: Rig) -> None:
    """A boot empties the runtime directory and starts nginx before anything else."""
    served.stop()
    (served.directory / "runtime" / "live").unlink()
    rig.client.restart(served.nginx, timeout=5)
    until(lambda: served.ask("site.example").status == 503, 5, "nginx to answer")
    assert "booted" in served.ask("site.example").body
    with Load("site.example", served.port, new_per_second=100, keepalive_clients=0) as load:
        served.start(wait=False)
        served.wait_for("site.example")
    assert {loss.status for loss in load.report.losses} <= {503}, "a known site is never unknown"
    assert served.ask("nobody.example").status == 404


def test_cold_start_last_good_serves_what_was_live(rig: Rig) -> None:
    controller = rig.controller({"nginx": {"cold_start": "last-good"}}, prefix=f"{rig.prefix}cold")
    rig.create_container(other_labels={f"{controller.prefix}.host": "cold.example"}, name="cold").start()
    controller.wait_for("cold.example")
    controller.stop()
    (controller.directory / "runtime" / "live").unlink(missing_ok=True)
    rig.client.restart(controller.nginx, timeout=5)
    controller.wait_for("cold.example")


def test_a_missing_image_and_a_taken_port_are_said_in_words(rig: Rig) -> None:
    missing = rig.controller({"nginx": {"image": "nowhere/nginx:0"}}, start=False, prefix=f"{rig.prefix}noimage")
    missing.start(wait=False)
    until(lambda: missing.records("failed"), 10, "an error in the log")
    assert "nowhere/nginx:0" in missing.records("failed")[0]["error"]
    missing.stop()
    box = rig.run_container(
        image=BACKEND, name="porttaker", host_config={"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}}
    )
    taken = box.inspect()["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
    blocked = rig.controller({"nginx": {"publish": [f"127.0.0.1:{taken}:80"]}}, start=False, prefix=f"{rig.prefix}port")
    blocked.start(wait=False)
    until(lambda: blocked.records("failed"), 10, "an error in the log")
    assert taken in blocked.records("failed")[0]["error"]
    box.remove()
    until(lambda: blocked.records("live") or blocked.records("recovered"), 15, "the controller to go on by itself")
    blocked.stop()


def test_a_client_that_is_slow_at_the_end_has_all_of_it_before_the_host_is_drained(served: Controller, rig: Rig) -> None:
    """nginx is stopped when the host is drained, as a shutdown does it. What it had handed to the kernel is read 5 s later."""
    nginx, size, left, said, came = Box(rig.client, served.nginx, served.nginx), 3_000_000, 60_000, list[str](), bytearray()
    program: list[str | Path] = [Path(sys.executable).with_name("proxyctl"), "--config", served.config]

    def leave() -> None:
        drain = [*program, "host", "drain", "--notice", "0s"]
        said.append(subprocess.run(drain, capture_output=True, text=True, timeout=60, check=False).stdout)
        nginx.stop()

    leaving = threading.Thread(target=leave)
    with socket.socket() as client:
        client.settimeout(20)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
        client.connect((nginx.address, 80))
        client.sendall(f"GET /bytes?n={size} HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n\r\n".encode())
        came += client.recv(10_000)
        leaving.start()
        until(lambda: served.ask("ready.proxyctl.invalid", "/-/ready").body.startswith("ending"), 10, "a worker that ends")
        while len(came) < size - left:
            came += client.recv(10_000)
        time.sleep(5.0)
        while more := client.recv(10_000):
            came += more
    leaving.join()
    assert len(came.partition(b"\r\n\r\n")[2]) == size, said
    assert "drained after" in said[0]
