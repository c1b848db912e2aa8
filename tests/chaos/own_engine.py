"""A Docker engine that may be ended: its own processes, data and network namespace, so that nobody else's engine notices.

A thread moves into a new network namespace; what it starts, threads and processes, is in it, too. So are the traffic, the
controller and the engine's rules for iptables.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import docker
import requests
from docker.errors import DockerException

from tests.rig import BACKEND, NGINX, connect, until

CLONE_NEWNET = 0x40000000
IMAGES = (f"{BACKEND}:latest", NGINX)
ANSWERS_WITHIN = 60.0

T = TypeVar("T")


class OwnEngine:
    """`dockerd` as it was started, until `stop`; `start` again has the same containers."""

    def __init__(self, directory: Path, *, live_restore: bool) -> None:
        self._directory = directory
        self._live_restore = live_restore
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"unix://{self._directory}/docker.sock"

    def start(self) -> None:
        """Returns as soon as it answers."""
        where = self._directory
        argv = ["dockerd", "--host", self.endpoint, "--data-root", f"{where}/data", "--exec-root", f"{where}/exec"]
        # its proxy for 127.0.0.1 would die with it; rules of iptables stay
        argv += [
            "--userland-proxy=false",
            "--pidfile",
            f"{where}/docker.pid",
            *(["--live-restore"] if self._live_restore else []),
        ]
        (where / "docker.pid").unlink(missing_ok=True)
        if self._containerd_is_dead():  # it died with the engine, which would wait for it while nobody has reaped it
            self._containerd_pid.unlink()
        with (where / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(self._answers, ANSWERS_WITHIN, "an engine of its own", every=0.05)

    @property
    def _containerd_pid(self) -> Path:
        return self._directory / "exec/containerd/containerd.pid"

    def _containerd_is_dead(self) -> bool:
        try:
            stat = Path(f"/proc/{self._containerd_pid.read_text(encoding='ascii')}/stat").read_text(encoding="ascii")
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] in "ZX"

    def _answers(self) -> bool:
        assert self._process
        assert self._process.poll() is None, (self._directory / "log").read_text(encoding="utf-8")[-2000:]
        with suppress(DockerException, requests.RequestException):
            docker.APIClient(self.endpoint, version="auto", timeout=2).close()
            return True
        return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def end(self) -> None:
        """With everything that it has started: with live-restore its containers and its containerd go on after it."""
        if self._process is None:
            self.start()
        client = docker.APIClient(self.endpoint, version="auto", timeout=60)
        for found in client.containers(all=True):
            client.remove_container(found["Id"], force=True)
        client.close()
        self.stop()
        with suppress(OSError, ValueError):
            os.kill(int(self._containerd_pid.read_text(encoding="ascii")), signal.SIGTERM)

    def load(self) -> None:
        """The images of the tests, from the engine that the tests use otherwise."""
        here, there = connect(), docker.APIClient(self.endpoint, version="auto", timeout=60)
        for image in IMAGES:
            list(cast("Any", there).load_image(b"".join(here.get_image(image))))
        here.close()
        there.close()


@contextmanager
def own_engine(*, live_restore: bool) -> Iterator[OwnEngine]:
    """DOCKER_HOST names it meanwhile."""
    directory = Path(tempfile.mkdtemp(prefix="proxyctl-engine-"))
    engine = OwnEngine(directory, live_restore=live_restore)
    before = os.environ.get("DOCKER_HOST")
    try:
        engine.start()
        engine.load()
        os.environ["DOCKER_HOST"] = engine.endpoint
        yield engine
    finally:
        os.environ.pop("DOCKER_HOST", None)
        if before is not None:
            os.environ["DOCKER_HOST"] = before
        engine.end()
        subprocess.run(["umount", directory / "data"], check=False, capture_output=True)  # dockerd leaves it mounted on itself
        shutil.rmtree(directory, ignore_errors=True)


def in_own_network(work: Callable[[], T]) -> T:
    """Does it in a thread that has a network namespace of its own, with nothing in it but 127.0.0.1."""
    done: list[T] = []
    failed: list[BaseException] = []

    def move_and_work() -> None:
        try:
            _leave_network()
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            done.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            failed.append(error)

    thread = threading.Thread(target=move_and_work, name="own network")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def _leave_network() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "a network namespace of its own needs root")
