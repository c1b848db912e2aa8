"""What the controller says of nginx is what clients get from it, at every moment: `/readyz`, `in_sync` and the metric."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

import pytest
from docker.errors import APIError

from tests.rig import Box, Controller, Rig, ask, ask_unix, until

EVERY = 0.1
"""Seconds between two samples."""
NOTICED = 4.5
"""Seconds after which a change of what clients get must show, on a busy machine."""
CLIENT_WAITS = 1.5


class Said(NamedTuple):
    """Whether the controller says that nginx answers. An answer may take long, and is of any moment until it came."""

    asked: float
    answered: float
    url: str
    yes: bool


@dataclass
class Samples:
    """`clients`: (when it was sent, whether it was answered)."""

    controller: Controller
    clients: list[tuple[float, bool]] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, args=(look,)) for look in (self._ask, self._look)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
        self.clients.sort()

    def _repeat(self, look: Callable[[], None]) -> None:
        running = []
        while not self._end.wait(EVERY):
            running.append(threading.Thread(target=look))
            running[-1].start()
        for thread in running:
            thread.join()

    def _ask(self) -> None:
        began = time.monotonic()
        answer = ask(self.controller.port, "site.example", timeout=CLIENT_WAITS)
        self.clients.append((began, answer.status == 200))

    def _look(self) -> None:
        self._question("/readyz", lambda status, _: status == 200)
        self._question("/api/v1/status", lambda _, body: bool(json.loads(body)["in_sync"]))
        self._question("/metrics", lambda _, body: "\nproxyctl_config_in_sync 1.0\n" in body)

    def _question(self, url: str, is_yes: Callable[[int, str], bool]) -> None:
        asked = time.monotonic()
        answer = is_yes(*ask_unix(self.controller.socket, url))
        self.said.append(Said(asked, time.monotonic(), url, answer))

    def contradictions(self) -> list[str]:
        """Answers of the controller that are not what clients have got for a while."""
        found = []
        for said in sorted(self.said):
            recent = [ok for sent, ok in self.clients if said.asked - NOTICED <= sent <= said.answered + 3 * EVERY]
            if len(recent) < NOTICED / EVERY / 2:
                continue
            if all(recent) and not said.yes:
                found.append(f"clients are answered, and the controller does not say so: {said}")
            if not any(recent) and said.yes:
                found.append(f"no client is answered, and the controller says so: {said}")
        return found

    def changes(self) -> list[bool]:
        """Each time that what `/readyz` says changed."""
        words = [said.yes for said in sorted(self.said) if said.url == "/readyz"]
        return [after for before, after in itertools.pairwise(words) if before != after]


class Fault:
    """One controller with an nginx of its own, what is done to that nginx, and how it is undone."""

    def __init__(self, rig: Rig, name: str, controller: Controller | None = None) -> None:
        self.name = name
        self.controller = controller or rig.controller()
        self.nginx = Box(rig.client, self.controller.nginx, self.controller.nginx)
        self.samples = Samples(self.controller)
        self._stopped: list[int] = []

    def begin(self) -> None:
        if self.name == "paused":
            self.nginx.client.pause(self.nginx.id)
        elif self.name == "killed":
            self.nginx.kill()
        else:
            self._stopped = self._pids()
            assert self._stopped
            for pid in self._stopped:
                os.kill(pid, signal.SIGSTOP)

    def end(self) -> None:
        if self.name == "paused":
            with suppress(APIError):  # it goes on already
                self.nginx.client.unpause(self.nginx.id)
        for pid in self._stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _pids(self) -> list[int]:
        if self.name == "published port":
            found = [int(path.name) for path in Path("/proc").glob("[0-9]*") if self._is_forwarder(path)]
        else:
            processes = self.nginx.client.top(self.nginx.id)["Processes"]
            workers = [int(row[1]) for row in processes if "worker process" in row[-1]]
            master = [int(row[1]) for row in processes if "master process" in row[-1]]
            found = {"all": master + workers, "master": master, "workers": workers, "one worker": workers[:1]}[self.name]
        return found

    def _is_forwarder(self, process: Path) -> bool:
        """Docker's own, of the published port."""
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            return words[0].endswith(b"docker-proxy") and str(self.controller.port).encode() in words
        return False


NAMES = ("paused", "all", "master", "workers", "one worker", "published port", "killed")


@pytest.fixture(scope="module")
def faults(rig: Rig) -> dict[str, Fault]:
    """All at the same time, each with an nginx of its own: 4 s before, 12 s of the fault, 6 s after."""
    made = {name: Fault(rig, name) for name in NAMES}
    rig.run_container({"host": "site.example"}, name="site")
    for fault in made.values():
        fault.controller.wait_for("site.example")
    with ExitStack() as stack:
        for fault in made.values():
            stack.enter_context(fault.samples)
        time.sleep(4)
        for fault in made.values():
            stack.callback(fault.end)
            fault.begin()
        time.sleep(12)
        for fault in made.values():
            fault.end()
        time.sleep(6)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_what_is_said_of_nginx_is_what_clients_get(faults: dict[str, Fault], name: str) -> None:
    samples = faults[name].samples
    assert samples.contradictions() == []
    assert samples.changes() in ([], [False, True]), "it flaps"


@pytest.mark.parametrize("name", ["paused", "all", "published port"])
def test_an_nginx_that_answers_nobody_is_not_in_sync_until_it_does(faults: dict[str, Fault], name: str) -> None:
    assert faults[name].samples.changes() == [False, True]
    assert sum(ok for _, ok in faults[name].samples.clients) < 120, "the fault was none"


@pytest.mark.parametrize("name", NAMES)
def test_a_silent_nginx_is_logged_once_and_nothing_is_called_restored(faults: dict[str, Fault], name: str) -> None:
    controller = faults[name].controller
    errors = [record["error"] for record in controller.records("failed")]
    assert len(errors) == len(set(errors)) <= 2
    assert not controller.records("restored")
    assert 'proxyctl_reloads_total{result="restored"} 0.0' in ask_unix(controller.socket, "/metrics")[1]


def test_a_change_during_silence_is_not_published_and_is_live_afterwards(rig: Rig, faults: dict[str, Fault]) -> None:
    """A change that nginx cannot confirm is not reloaded again and again, nor reported as rolled back."""
    controller = faults["master"].controller
    fault, reloads = Fault(rig, "all", controller), len(controller.records("live"))
    fault.begin()
    try:
        rig.run_container({"host": "later.example"}, name="later")
        time.sleep(9)
        assert controller.ask_api("/readyz").status == 503
        assert not controller.records("restored")
        assert len(controller.records("live")) == reloads
    finally:
        fault.end()
    controller.wait_for("later.example")
    until(lambda: controller.ask_api("/readyz").status == 200, 5, "readiness")
