"""The only speaker to the Docker engine: asks, and returns plain values of `model`.

The SDK blocks, so every call runs in a thread, and its answer is read there. Failures come in two kinds: `EngineUnavailable` (no
answer, or one that cannot be understood: try again later) and `EngineRefused` (an answer that says no, with its HTTP status).
"""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar, cast

import docker
import docker.errors
import msgspec
import requests
from docker.context import ContextAPI
from docker.utils import kwargs_from_env

from proxyctl.model import Container, EngineEvent, EngineRefused, EngineUnavailable, Exit
from proxyctl.observe import addresses
from proxyctl.observe.engine_json import (
    NOT_UNDERSTOOD,
    json_lines,
    json_object,
    read_events,
    read_exit,
    read_inspected,
    read_listed,
    read_titles,
    without_uptime,
)
from proxyctl.processes import Published, family

T = TypeVar("T")

CONTAINER_ACTIONS = ("create", "start", "kill", "die", "pause", "unpause", "rename", "destroy", "health_status", "oom")
PODMAN_ACTIONS = ("died", "remove")
"""What Podman's filter of events takes instead of `die` and `destroy` (4.3.1). Docker has no such events."""
NETWORK_ACTIONS = ("connect", "disconnect")
_TO_THE_SECOND = 19
"""Characters of an ISO 8601 time."""
_ANOTHER_VERSION = "client version"
"""In what an engine says that speaks the client's version of the API no more, or not yet."""
_IN_USE = "already in use"
"""An address that was asked for."""
_PODMAN_HAS_IT = "network already exists"
"""In what Podman says, with status 500, where Docker answers 409 (4.3.1)."""
CALL_TIMEOUT, SLOW_TIMEOUT = 15.0, 300.0
"""Seconds without an answer before a call to the engine is given up."""
COMPOSE = ("com.docker.compose.project", "com.docker.compose.service")
"""Labels of others that matter."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    endpoint: str
    version: str
    api_version: str


class DockerHost:
    """One engine. Connects at the first call, again after a failure, with the API version that both sides speak.

    `label_prefix`: other labels than those, compose's and nginx's are not kept; empty keeps all.
    """

    def __init__(self, endpoint: str = "", label_prefix: str = "") -> None:
        self._endpoint = endpoint
        self._prefix = label_prefix and label_prefix + "."
        self._client: docker.APIClient | None = None
        self._slow: docker.APIClient | None = None
        """For what may take long and says nothing meanwhile: a command in a container, a pull."""
        self._lock = threading.Lock()
        self._said: dict[int, Container] = {}
        """The containers of the latest list, by what the engine said of them."""
        self._pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="docker")
        self._slow_pools = {
            slow: ThreadPoolExecutor(max_workers=8, thread_name_prefix=f"docker-{slow}") for slow in ("inspect", "stop")
        }
        """For what the engine holds back until it is done with a container, or a container is done: no signal to nginx waits for
        that."""
        self.waiting = 0
        """Calls that the engine has not answered yet."""

    # ------------------------------------------------------------ plumbing

    def _connected(self) -> docker.APIClient:
        with self._lock:
            if self._client is None:
                self._client = docker.APIClient(version="auto", timeout=int(CALL_TIMEOUT), **self._where())
            return self._client

    def _patient(self) -> docker.APIClient:
        version = self._connected().api_version
        with self._lock:
            if self._slow is None:
                self._slow = docker.APIClient(version=version, timeout=int(SLOW_TIMEOUT), **self._where())
            return self._slow

    def _where(self) -> dict[str, Any]:
        """`docker.endpoint`, else DOCKER_HOST, else the Docker context, else the SDK's default socket."""
        settings = dict(kwargs_from_env())
        if self._endpoint:
            settings["base_url"] = self._endpoint
        elif "base_url" not in settings:
            context = ContextAPI.get_current_context()
            if context.Host:
                settings["base_url"] = context.Host
        return settings

    @property
    def endpoint(self) -> str:
        """Where calls go, for messages."""
        return str(self._where().get("base_url", "unix:///var/run/docker.sock"))

    async def _call(self, work: Callable[[docker.APIClient], T], slow: str = "") -> T:
        def run() -> T:
            try:
                return work(self._connected())
            except docker.errors.APIError as error:
                said = str(error.explanation or error)
                if error.status_code == 400 and _ANOTHER_VERSION in said:
                    self._forget_clients()
                    raise EngineUnavailable(f"the Docker engine at {self.endpoint} is another one now: {said}") from error
                raise EngineRefused(error.status_code or 500, said) from error
            except (requests.RequestException, docker.errors.DockerException, OSError) as error:
                raise EngineUnavailable(f"the Docker engine at {self.endpoint} does not answer: {_why(error)}") from error
            except NOT_UNDERSTOOD as error:
                what = f"{type(error).__name__}: {error}"[:200]
                raise EngineUnavailable(
                    f"the Docker engine at {self.endpoint} answers what cannot be understood: {what}"
                ) from error

        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._slow_pools.get(slow, self._pool), run)
        finally:
            self.waiting -= 1

    def _forget_clients(self) -> None:
        """Which version is spoken is agreed on anew. Calls under way keep theirs."""
        with self._lock:
            self._client = self._slow = None

    def close(self) -> None:
        for pool in (self._pool, *self._slow_pools.values()):
            pool.shutdown(wait=False, cancel_futures=True)
        for client in (self._client, self._slow):
            if client is not None:
                client.close()

    # ------------------------------------------------------------ reading

    async def info(self) -> EngineInfo:
        return await self._call(lambda c: EngineInfo(self.endpoint, str(c.version()["Version"]), str(c.api_version)))

    async def list_containers(self) -> list[Container]:
        """Every container, in one request. What only inspect knows has its default."""
        return await self._call(self._list)

    def _list(self, client: docker.APIClient) -> list[Container]:
        """The SDK makes dictionaries of all of it, 90 MiB for 10,000 containers; here, one at a time, and none of those that the
        engine describes as it did the last time."""
        where = f"{client.base_url}/v{client.api_version}/containers/json"
        with client.get(where, params={"all": 1}, timeout=client.timeout, stream=True) as answer:
            try:
                answer.raise_for_status()
            except requests.HTTPError as error:
                docker.errors.create_api_error_from_http_exception(error)
            said = bytearray()
            for chunk in answer.iter_content(1 << 16):
                said += chunk
        before, self._said = self._said, {}
        for raw in msgspec.json.decode(said, type=list[msgspec.Raw]):
            key = hash(without_uptime(bytes(raw)))
            self._said[key] = before.get(key) or self._cut(read_listed(msgspec.json.decode(raw)))
        return list(self._said.values())

    def _cut(self, container: Container) -> Container:
        labels = container.labels
        kept = {
            key: text for key, text in labels.items() if key.startswith(self._prefix) or key in COMPOSE or key.endswith(".nginx")
        }
        return replace(container, labels=kept) if len(kept) < len(labels) else container

    async def inspect(self, container: str) -> Container | None:
        """One container by id or name; None when it is not there."""
        return await self._inspect(container, lambda raw: self._cut(read_inspected(raw)), "inspect")

    async def inspect_raw(self, container: str) -> Mapping[str, Any] | None:
        """What the engine says of one container, as it says it."""
        return await self._inspect(container, json_object)

    async def last_exit(self, container: str) -> Exit | None:
        """How a container ended the last time; None when it never has, or is gone."""
        return await self._inspect(container, read_exit, "inspect")

    async def published_ports(self) -> list[Published]:
        """Ports of the host that lead to running containers."""
        listed = await self._call(lambda c: c.containers())
        return [
            Published(str((raw.get("Names") or [raw["Id"]])[0]).lstrip("/"), str(port.get("IP", "")), int(port["PublicPort"]))
            for raw in listed
            for port in raw.get("Ports") or []
            if port.get("PublicPort") and port.get("Type") == "tcp"
        ]

    async def _inspect(self, container: str, read: Callable[[Any], T], slow: str = "") -> T | None:
        try:
            return await self._call(lambda c: read(c.inspect_container(container)), slow)
        except EngineRefused as refused:
            if refused.status == 404:
                return None
            raise

    async def processes(self, container: str) -> list[tuple[int, str]]:
        """(pid on the host, title) of each process in a container."""
        try:
            return await self._call(lambda c: read_titles(_top(c, container)))
        except EngineRefused:
            # The engine runs its host's ps for this, and a small host may have none. Podman runs ps in the container, and gives
            # an empty answer without one (4.3.1). On the same host, /proc tells as much.
            found = await self.inspect_raw(container)
            here = family(int(found["State"]["Pid"])) if found else []
            if not here:
                raise
            return here

    async def logs(self, container: str, since_unix: float | None = None) -> str:
        """What a container wrote, all or since then, at most its last 200 lines. What is dated later than now was written before
        the clock was set back, and so not since then."""
        raw = await self._call(lambda c: c.logs(container, since=since_unix, tail=200, stdout=True, stderr=True, timestamps=True))
        dated = [line.partition(" ") for line in bytes(raw).decode("utf-8", "replace").splitlines()]
        now = datetime.fromtimestamp(time.time() + 1, UTC).isoformat()[:_TO_THE_SECOND]
        return "\n".join(text for written, _, text in dated if since_unix is None or written[:_TO_THE_SECOND] <= now)

    async def has_image(self, image: str) -> bool:
        """Whether the engine has the image."""
        try:
            await self._call(lambda c: cast("Any", c).inspect_image(image))
        except EngineRefused as refused:
            if refused.status == 404:
                return False
            raise
        return True

    async def events(self) -> AsyncGenerator[EngineEvent | None, None]:
        """Container and network events, for ever. Yields None once when the subscription stands; raises EngineUnavailable
        when the stream ends."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[EngineEvent | EngineUnavailable | None] = asyncio.Queue()
        filters = {"type": ["container", "network"], "event": [*CONTAINER_ACTIONS, *PODMAN_ACTIONS, *NETWORK_ACTIONS]}
        stream = await self._call(lambda c: c.events(filters=filters))

        def put(item: EngineEvent | EngineUnavailable) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(queue.put_nowait, item)

        def read() -> None:
            cause: Exception | None = None
            try:
                for event in read_events(json_lines(stream)):
                    put(event)
            except (requests.RequestException, docker.errors.DockerException, OSError, *NOT_UNDERSTOOD) as error:
                cause = error
            finally:
                put(EngineUnavailable(f"the event stream of {self.endpoint} ended{f': {cause}' if cause else ''}"))

        threading.Thread(target=read, name="docker-events", daemon=True).start()
        try:
            yield None
            while True:
                item = await queue.get()
                if isinstance(item, EngineUnavailable):
                    raise item
                yield item
        finally:
            stream.close()

    # ------------------------------------------------------------ changing

    async def execute(self, container: str, argv: list[str]) -> tuple[int, str]:
        """Runs a command inside a container: (exit status, what it wrote to stderr and then what it wrote to stdout).

        The engine reads the two from pipes of their own, so that a line of one could end up inside a line of the other.
        """

        def run(_: docker.APIClient) -> tuple[int, str]:
            client = self._patient()
            made = client.exec_create(container, argv)
            stdout, stderr = client.exec_start(made["Id"], demux=True)
            status = client.exec_inspect(made["Id"])["ExitCode"]
            output = (stderr or b"") + (stdout or b"")
            return (int(status if status is not None else -1), output.decode("utf-8", "replace"))

        return await self._call(run)

    async def kill(self, container: str, signal: str) -> None:
        await self._call(lambda c: c.kill(container, signal))

    async def stop(self, container: str) -> None:
        """Its stop signal, and SIGKILL after its own time for that."""
        await self._call(lambda client: client.stop(container), "stop")

    async def start(self, container: str) -> None:
        await self._call(lambda c: c.start(container))

    async def pull(self, image: str) -> None:
        await self._call(lambda _: self._patient().pull(image))

    async def create_container(self, name: str, settings: Mapping[str, Any]) -> str:
        """Creates a container from the engine's own JSON (API: ContainerCreate) and returns its id."""
        made = await self._call(lambda c: cast("Any", c).create_container_from_config(dict(settings), name))
        return str(made["Id"])

    async def create_network(self, name: str, labels: Mapping[str, str]) -> None:
        """Creates a bridge network, unless there is one of that name."""
        try:
            await self._call(lambda c: c.create_network(name, driver="bridge", check_duplicate=True, labels=dict(labels)))
        except EngineRefused as refused:
            if refused.status != 409 and _PODMAN_HAS_IT not in str(refused):
                raise

    async def connect_network(self, network: str, container: str, known: Collection[str] = ()) -> tuple[str, ...]:
        """Where the owner of the network chose its subnet, at one of the `known` addresses or at the last free one, which is
        returned; else at the one that the engine gives. Raises EngineRefused, also for a network in which nginx could not reach
        other containers."""

        def describe(client: docker.APIClient) -> tuple[dict[str, Any], list[dict[str, Any]]]:
            described = client.inspect_network(network)
            return described, client.containers(all=True, filters={"network": [described["Id"], described["Name"]]})

        try:
            described, members = await self._call(describe)
        except EngineRefused:
            described, members = {}, []  # a restricted API may still allow the connection
        if addresses.is_isolating(described):
            raise EngineRefused(409, f"its containers may not reach each other ({addresses.ICC} is false)")
        for four, six in addresses.spare(described, members, known):
            ask = partial(_connect, network=network, container=container, ipv4_address=four, ipv6_address=six)
            try:
                await self._call(ask)
            except EngineRefused as error:
                if _IN_USE not in str(error).lower():  # the subnet is the engine's choice, or the next call says it again
                    break
            else:
                return tuple(each for each in (four, six) if each)
        await self._call(partial(_connect, network=network, container=container))
        return ()

    async def disconnect_network(self, network: str, container: str) -> None:
        await self._call(lambda c: c.disconnect_container_from_network(container, network, force=True))


def _connect(client: docker.APIClient, *, network: str, container: str, **settings: Any) -> None:
    client.connect_container_to_network(container, network, **settings)


def _top(client: docker.APIClient, container: str) -> Any:
    try:
        return client.top(container, "-eo pid,args")
    except requests.exceptions.JSONDecodeError as error:
        raise docker.errors.APIError("docker top gives no answer") from error


_HINTS = {
    errno.ENOENT: "there is no such socket: start Docker, set docker.endpoint, or mount the socket into this container",
    errno.EACCES: "permission denied: run as root or as a member of the socket's group (in a container: --group-add GID)",
    errno.ECONNREFUSED: "connection refused: start Docker there, or set docker.endpoint",
}


def _why(error: BaseException) -> str:
    """What to do about the mistakes that everybody makes. requests and urllib3 wrap the OSError several times."""
    causes: list[object] = [error]
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in _HINTS:
            return _HINTS[cause.errno]
        if isinstance(cause, BaseException) and len(causes) < 50:
            causes += [*cause.args, cause.__cause__, cause.__context__, getattr(cause, "reason", None)]
    return str(error)
