"""A real engine for tests and benchmarks: what one `Rig` makes (controllers with their nginx, containers, networks, files) is
its own, and `close()` removes all of it.

Each rig has a label prefix that no other has, so that any number of them share one engine. Traffic goes to 127.0.0.1 only.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import docker
from docker.errors import APIError
from docker.utils import kwargs_from_env

BACKEND = "proxyctl-testbed/backend"
BASE = "proxyctl-testbed/base"
"""Debian with Python, for servers that the test writes itself."""
NGINX = "proxyctl-testbed/nginx:1.31.3"
TESTBED = "testbed.proxyctl"
"""The label by which `scripts/testbed down` finds what a killed run has left."""
PRIVATE = Path("/run/proxyctl-testbed/docker.sock")
LOOPBACK = "127.0.0.1"
AT_ONCE = 8
READY_WITHIN = 30.0

Sections = Mapping[str, Mapping[str, object]]


def endpoint() -> str:
    """DOCKER_HOST, else the private engine of scripts/testbed when it is there, else empty: the SDK's default."""
    return os.environ.get("DOCKER_HOST", "") or (f"unix://{PRIVATE}" if PRIVATE.exists() else "")


def connect() -> docker.APIClient:
    """A client that several threads may use."""
    settings: dict[str, Any] = dict(kwargs_from_env())
    if endpoint():
        settings["base_url"] = endpoint()
    return docker.APIClient(version="auto", timeout=60, num_pools=32, **settings)


def free_port() -> int:
    """Below the range that outgoing connections take theirs from: heavy traffic must not get it first. Each test process has a
    range of its own: what is free now is taken a second later, and another one may have been told the same."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    first, count = (20_000 + 1_000 * (int(worker[2:]) % 12), 1_000) if worker else (20_000, 12_000)
    for _ in range(200):
        port = random.SystemRandom().randrange(first, first + count)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port
    raise RuntimeError("no free port on 127.0.0.1")


def until(true: Callable[[], Any], within: float, what: str, every: float = 0.02) -> None:
    """Returns when `true()` is. Raises AssertionError with `what` was waited for."""
    end = time.monotonic() + within
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"not within {within:g} s: {what}")
        time.sleep(every)


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` is 0 when there was none."""

    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def backend(self) -> str:
        """Who answered: the `--name` of a test backend."""
        return self.headers.get("x-backend", "")


def ask(port: int, host: str, path: str = "/", *, method: str = "GET", timeout: float = 5.0) -> Answer:
    """One request on a new connection."""
    connection = HTTPConnection(LOOPBACK, port, timeout=timeout)
    try:
        connection.request(method, path, headers={"Host": host})
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read().decode("utf-8", "replace"))
    except (OSError, HTTPException):
        return Answer(0, {}, "")
    finally:
        connection.close()


def ask_unix(path: Path, url: str) -> tuple[int, str]:
    """The API over its socket, where the rate is not limited."""
    connection = HTTPConnection("proxyctl", timeout=5)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(5)
    connection.sock.connect(str(path))
    try:
        connection.request("GET", url)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class Box:
    """A container."""

    client: docker.APIClient
    id: str
    name: str

    def start(self) -> None:
        self.client.start(self.id)

    def stop(self, timeout: int = 10) -> None:
        """As `docker stop` does: its stop signal, and SIGKILL after so many seconds."""
        self.client.stop(self.id, timeout=timeout)

    def kill(self, number: str = "KILL") -> None:
        self.client.kill(self.id, number)

    def remove(self) -> None:
        with suppress(APIError):
            self.client.remove_container(self.id, force=True, v=True)

    def inspect(self) -> dict[str, Any]:
        return dict(self.client.inspect_container(self.id))

    def when(self, what: str) -> float:
        """`when("StartedAt")`, `when("FinishedAt")`: Unix time, by the engine's clock."""
        return datetime.fromisoformat(str(self.inspect()["State"][what])).timestamp()

    @property
    def address(self) -> str:
        networks = self.inspect()["NetworkSettings"]["Networks"]
        return next((str(item["IPAddress"]) for item in networks.values() if item["IPAddress"]), "")

    def tell(self, path: str, port: int = 80) -> bool:
        """Asks the test backend itself, from inside: `tell("/set?health=503")`. Whether the answer was below 400."""
        made = self.client.exec_create(self.id, ["/backend", "--healthcheck", path, "--port", str(port)])
        self.client.exec_start(made["Id"])
        return bool(self.client.exec_inspect(made["Id"])["ExitCode"] == 0)


class Controller:
    """`proxyctl run` with a configuration, a state directory and an nginx of its own. Can be ended and started again."""

    def __init__(self, directory: Path, prefix: str, nginx: str, sections: Sections) -> None:
        self.directory = directory
        self.prefix = prefix
        self.port = free_port()
        self.api = f"{LOOPBACK}:{free_port()}"
        self.socket = directory / "api.sock"
        self.config = directory / "config.toml"
        self.log = directory / "log"
        self.nginx = nginx
        self.program: tuple[str | Path, ...] = (Path(sys.executable).with_name("proxyctl"),)
        self.environment: dict[str, str] = {}
        """Of the process, beside the tests' own."""
        self._process: subprocess.Popen[bytes] | None = None
        own: Sections = {
            "docker": {"endpoint": endpoint()},
            "state": {"dir": str(directory / "state"), "runtime": str(directory / "runtime")},
            "nginx": {
                "image": NGINX,
                "pull": "never",
                "container": self.nginx,
                "publish": [f"{LOOPBACK}:{self.port}:80"],
            },
            "api": {"listen": self.api, "socket": str(self.socket)},
            "discovery": {"label_prefix": prefix},
        }
        self.sections: tuple[Sections, ...] = (own, sections)
        self.configure(*self.sections)

    def configure(self, *layers: Sections) -> None:
        """Writes config.toml; of a key in several layers the last one counts."""
        merged: dict[str, dict[str, object]] = {}
        for layer in layers:
            for section, values in layer.items():
                merged.setdefault(section, {}).update(values)
        lines = []
        for section, values in merged.items():
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        self.config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True) -> None:
        """Returns when nginx answers for it: 404 for a host that nobody has. Raises AssertionError with the log's end."""
        assert not self.running
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.program, "run", "--config", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=os.environ | self.environment,
            )
        if wait:
            self.wait_ready()

    def wait_ready(self, within: float = READY_WITHIN) -> None:
        def ready() -> bool:
            assert self.running, f"the controller has ended:\n{self.tail()}"
            return ask(self.port, "nobody.invalid", timeout=1).status == 404

        try:
            until(ready, within, "an nginx that answers")
        except AssertionError as error:
            error.add_note(self.tail())
            raise

    def stop(self) -> int:
        """SIGTERM. Returns its exit status; nginx goes on."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """SIGKILL, as a crash."""
        return self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        self._process.send_signal(number)
        try:
            return self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the controller did not end on {number.name}:\n{self.tail()}") from None

    def ask(self, host: str, path: str = "/", *, method: str = "GET") -> Answer:
        """A request through nginx."""
        return ask(self.port, host, path, method=method)

    def ask_api(self, path: str) -> Answer:
        """A request to the controller."""
        return ask(int(self.api.rpartition(":")[2]), self.api, path)

    def wait_for(
        self, host: str, status: int = 200, path: str = "/", *, within: float = 10.0, backend: str = "", steady: float = 0.3
    ) -> Answer:
        """Until the host answers so (and this backend does, when one is named), and does for `steady` seconds: workers from
        before a reload accept for another 100 ms."""
        answer, since = Answer(0, {}, ""), 0.0

        def answered() -> bool:
            nonlocal answer, since
            answer = self.ask(host, path)
            if answer.status != status or backend not in ("", answer.backend):
                since = 0.0
                return False
            since = since or time.monotonic()
            return time.monotonic() - since >= steady

        try:
            until(answered, within, f"{status} from {host}{path} {backend}".strip())
        except AssertionError as error:
            error.add_note(f"it was {answer}")
            error.add_note(self.tail())
            raise
        return answer

    def wait_rejected(self, name: str, within: float = 5.0) -> dict[str, Any]:
        """What the log says of a container whose name ends so, as soon as it does."""
        told: list[dict[str, Any]] = []

        def said() -> bool:
            told[:] = [r for r in self.records("rejected") if str(r["container"]).endswith(name)]
            return bool(told)

        until(said, within, f"a rejection of {name}")
        return told[0]

    def records(self, event: str = "") -> list[dict[str, Any]]:
        """The log's lines, all or those of one event (`live`, `rejected`)."""
        found = []
        for line in self._lines():
            with suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict) and event in ("", record.get("event")):
                    found.append(record)
        return found

    def tail(self, lines: int = 20) -> str:
        """The log's end, for messages."""
        return "\n".join(self._lines()[-lines:])

    def _lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.exists() else []


class Rig:
    """`with Rig() as rig:` one run's own corner of the engine."""

    def __init__(self, prefix: str = "") -> None:
        """`prefix`: the label prefix, where people shall see the usual one; then it is not this run's alone."""
        self.run = f"rig{os.getpid():x}x{random.randrange(16**4):04x}"
        self.prefix = prefix or self.run
        self.client = connect()
        self.directory = Path(tempfile.mkdtemp(prefix=f"proxyctl-{self.run}-"))
        self._controllers: list[Controller] = []
        self._count = 0
        self._kept = False
        self._own = ""
        self._making_own = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind or not self._kept:
            self.close()

    def keep(self) -> None:
        """Leaves everything running at the end, unless that is an error."""
        self._kept = True

    @property
    def _own_network(self) -> str:
        with self._making_own:  # several threads start containers
            self._own = self._own or self.network("own")
            return self._own

    @property
    def marks(self) -> dict[str, str]:
        """The labels of everything that the rig makes."""
        return {TESTBED: "1", f"{TESTBED}.run": self.run}

    def controller(self, sections: Sections | None = None, *, start: bool = True, prefix: str = "") -> Controller:
        """A controller that sees this rig's containers. `sections` changes its configuration: {"health": {"interval": "1s"}}."""
        number = len(self._controllers)
        directory = self.directory / f"controller{number}"
        directory.mkdir()
        made = Controller(directory, prefix or self.prefix, f"{self.run}-nginx{number}", sections or {})
        self._controllers.append(made)
        if start:
            made.start()
        return made

    def create_container(
        self,
        labels: Mapping[str, str] | None = None,
        *,
        name: str = "",
        image: str = BACKEND,
        args: Sequence[str] = (),
        network: str = "",
        other_labels: Mapping[str, str] | None = None,
        host_config: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Box:
        """Created, not started. `labels` without the prefix: {"host": "a.example"}. A test backend is told its `name`, which it
        answers with. `network`: the rig's own unless said: where strangers come and go, they take freed addresses, and old
        workers of nginx that know those are ended. `host_config` and `settings` are the engine's own JSON (ContainerCreate)."""
        self._count += 1
        short = name or f"c{self._count}"
        own = {f"{self.prefix}.{key}": value for key, value in (labels or {}).items()}
        command = ["--name", short, *args] if image.partition(":")[0] == BACKEND else list(args)
        config = {
            "Image": image,
            "Cmd": command,
            "Labels": self.marks | own | dict(other_labels or {}),
            "HostConfig": {"NetworkMode": network or self._own_network, **(host_config or {})},
            **settings,
        }
        full = f"{self.run}-{short}"
        create = cast("Callable[[Mapping[str, Any], str], dict[str, Any]]", self.client.create_container_from_config)
        return Box(self.client, str(create(config, full)["Id"]), full)

    def run_container(self, labels: Mapping[str, str] | None = None, **settings: Any) -> Box:
        """As create_container, and started."""
        box = self.create_container(labels, **settings)
        box.start()
        return box

    def run_containers(self, many: Iterable[Mapping[str, Any]]) -> list[Box]:
        """Several at once, each by its keyword arguments (`labels` among them)."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda settings: self.run_container(**settings), many))

    def network(self, name: str) -> str:
        """Creates a bridge network; returns its full name."""
        full = f"{self.run}-{name}"
        self.client.create_network(full, driver="bridge", labels=self.marks)
        return full

    def remove_network(self, network: str, within: float = 15.0) -> None:
        """As soon as the controller has taken nginx out of it, and the engine has let go of it."""

        def removed() -> bool:
            with suppress(APIError):
                self.client.remove_network(network)
                return True
            return False

        until(removed, within, f"{network} to be empty: {self.client.inspect_network(network)['Containers']}")

    def close(self) -> None:
        """Ends the controllers, removes containers and networks that carry this run's labels, and the files."""
        for controller in self._controllers:
            if controller.running:
                controller.kill()
        mine = {"label": f"{TESTBED}.run={self.run}"}
        names = [c.nginx for c in self._controllers]
        names += [str(found["Id"]) for found in self.client.containers(all=True, filters=mine)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda name: Box(self.client, name, name).remove(), names))
        networks = [f"0-{c.nginx}" for c in self._controllers]
        networks += [str(found["Id"]) for found in self.client.networks(filters=mine)]
        for network in networks:
            with suppress(APIError):
                self.client.remove_network(network)
        self.client.close()
        shutil.rmtree(self.directory, ignore_errors=True)
