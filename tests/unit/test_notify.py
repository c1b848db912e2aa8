"""What systemd is told: the protocol on a real socket, and what counts as life, in a whole controller without an engine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxyctl.serve import notify
from proxyctl.serve.notify import Notifier
from tests.listening import Listening
from tests.unit.desk import Desk
from tests.unit.make import container

# ---------------------------------------------------------------- the protocol


@pytest.mark.parametrize("address", ["{}/notify", "@proxyctl-test-{}"], ids=["a path", "abstract"])
def test_a_message_is_one_datagram_of_lines(tmp_path: Path, address: str) -> None:
    address = address.format(tmp_path if address.startswith("{") else os.getpid())
    with Listening(address) as systemd:
        Notifier({"NOTIFY_SOCKET": address}).send("READY=1", "STATUS=all is well")
        assert systemd.take() == [{"READY": "1", "STATUS": "all is well"}]


def test_without_a_socket_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "socket")
    notifier = Notifier({})
    notifier.send("READY=1")
    assert not notifier


def test_a_socket_that_is_gone_is_logged_once_and_harms_nothing(tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    with capture_logs() as logs:
        notifier.send("READY=1")
        notifier.send("WATCHDOG=1")
    assert [entry["event"] for entry in logs] == ["systemd is not told"]


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "120000000"}, 120),
        ({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": str(os.getpid())}, 120),
        ({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": str(os.getppid())}, 0),
    ],
    ids=["none", "any process", "this one", "another one"],
)
def test_the_watchdog_is_this_process_s_own(environment: dict[str, str], seconds: float) -> None:
    assert Notifier(environment).watchdog == seconds


# ---------------------------------------------------------------- the line for `systemctl status`


async def test_the_line_says_what_proxyctl_status_says(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert notify.line(desk._standing(desk.front.history)) == "Not in sync: starting: no cycle has ended yet"
    desk.decide([container("web", {"host": "a.example"}, networks={"front": "10.0.0.5"})])
    assert notify.line(desk._standing(desk.front.history)).startswith("In sync: nginx 1.31.3, 1 service, ")
    desk.held.drain = "drained"
    assert notify.line(desk._standing(desk.front.history)).startswith("In sync"), "a boot waits for this, and then takes it back"
    desk.report("unreadable", "the Docker engine does not answer")
    assert notify.line(desk._standing(desk.front.history)) == "Not in sync: the Docker engine does not answer"


# ---------------------------------------------------------------- a whole controller without an engine

QUICK = """
import asyncio, signal
from proxyctl import cli
from proxyctl.observe.inventory import Inventory
from proxyctl.serve import notify, standing

async def never(*_):
    await asyncio.Event().wait()

standing.LATE, notify.READY_WITHIN = 0.5, 1.0
signal.signal(signal.SIGUSR1, lambda *_: setattr(Inventory, "refresh", never))
cli.main()
"""
"""`proxyctl run` with small numbers; at SIGUSR1 the next cycle never ends."""


@dataclass
class Running:
    systemd: Listening
    process: subprocess.Popen[bytes]
    engine: Path
    """Where the controller looks for its socket."""

    def beats(self, seconds: float) -> int:
        """Signs of life from now on."""
        return sum("WATCHDOG" in fields for fields in self.systemd.take(seconds))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """Signs of life each 200 ms are wanted, the loop comes round each second, and no engine is there."""
    (tmp_path / "config.toml").write_text(
        f"""
        docker.endpoint = "unix://{tmp_path}/docker.sock"
        state = {{ dir = "{tmp_path}/state", runtime = "{tmp_path}/run" }}
        api = {{ listen = "", socket = "{tmp_path}/api.sock" }}
        discovery.resync = "1s"
        """
    )
    command = [sys.executable, "-c", QUICK, "run", "--config", str(tmp_path / "config.toml")]
    environment = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
    with Listening(tmp_path / "notify") as systemd, (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stderr=log)
        try:
            yield Running(systemd, process, tmp_path / "docker.sock")
            assert process.poll() in (None, 0), (tmp_path / "log").read_text()
        finally:
            process.kill()
            process.wait()


def test_a_start_without_an_engine_ends_in_time_and_says_why_nothing_is_live(running: Running) -> None:
    began = time.monotonic()
    told = running.systemd.wait_for("READY")[-1]
    assert time.monotonic() - began > 1
    assert "docker.sock does not answer: there is no such socket" in told["STATUS"]


def test_an_engine_that_is_not_there_is_no_reason_to_be_killed(running: Running) -> None:
    running.systemd.wait_for("READY")
    assert running.beats(3.0) >= 20


def test_an_engine_that_does_not_answer_is_no_reason_to_be_killed(running: Running) -> None:
    """As while it pulls an image. The loop is silent for longer than it may be without a question to the engine."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as engine:
        engine.bind(str(running.engine))
        engine.listen(16)
        running.systemd.wait_for("READY")
        running.systemd.take(1.5)
        assert running.beats(2.0) >= 10


def test_a_loop_that_is_stuck_gives_no_sign_of_life(running: Running) -> None:
    running.systemd.wait_for("READY")
    assert running.beats(1.0) >= 5
    running.process.send_signal(signal.SIGUSR1)
    running.systemd.take(3.5)
    assert running.beats(1.5) == 0


def test_at_sigterm_it_says_that_it_stops(running: Running) -> None:
    running.systemd.wait_for("READY")
    running.process.send_signal(signal.SIGTERM)
    running.systemd.wait_for("STOPPING")
    assert running.process.wait(5) == 0
