"""The only speaker to the Docker engine: asks, and returns plain values of `model`.

The SDK blocks, so every call runs in a thread. Failures come in two kinds: `EngineUnavailable` (no answer, try again later)
and `EngineRefused` (an answer that says no, with its HTTP status).
"""

from __future__ import annotations

import asyncio
import calendar
import errno
import re
import signal as signals
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import docker
import docker.errors
import requests
from docker.context import ContextAPI
from docker.utils import kwargs_from_env

from proxyctl.model import (
    Container,
    ContainerState,
    DockerHealth,
    Endpoint,
    EngineEvent,
    EngineRefused,
    EngineUnavailable,
    PublishedPort,
)

T = TypeVar("T")

CONTAINER_ACTIONS = ("create", "start", "kill", "die", "pause", "unpause", "rename", "destroy", "health_status")
NETWORK_ACTIONS = ("connect", "disconnect")
CALL_TIMEOUT = 15.0
"""Seconds before a call to an engine that does not answer is given up."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    endpoint: str
    version: str
    api_version: str


class DockerHost:
    """One engine. Connects at the first call, again after a failure, with the API version that both sides speak."""

    def __init__(self, endpoint: str = "") -> None:
        self._endpoint = endpoint
        self._client: docker.APIClient | None = None
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="docker")

    # ------------------------------------------------------------ plumbing

    def _connected(self) -> docker.APIClient:
        with self._lock:
            if self._client is None:
                self._client = docker.APIClient(version="auto", timeout=int(CALL_TIMEOUT), **self._where())
            return self._client

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

    async def _call(self, work: Callable[[docker.APIClient], T]) -> T:
        def run() -> T:
            try:
                return work(self._connected())
            except docker.errors.APIError as error:
                raise EngineRefused(error.status_code or 500, str(error.explanation or error)) from error
            except (requests.RequestException, docker.errors.DockerException, OSError) as error:
                raise EngineUnavailable(f"the Docker engine at {self.endpoint} does not answer: {_why(error)}") from error

        return await asyncio.get_running_loop().run_in_executor(self._pool, run)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            self._client.close()

    # ------------------------------------------------------------ reading

    async def info(self) -> EngineInfo:
        version = await self._call(lambda c: c.version())
        client = self._connected()
        return EngineInfo(self.endpoint, str(version["Version"]), str(client.api_version))

    async def list_containers(self) -> list[Container]:
        """Every container, in one request. What only inspect knows has its default."""
        raw = await self._call(lambda c: c.containers(all=True))
        return [_listed(item) for item in raw]

    async def inspect(self, container: str) -> Container | None:
        """One container by id or name; None when it is not there."""
        raw = await self.inspect_raw(container)
        return None if raw is None else _inspected(raw)

    async def inspect_raw(self, container: str) -> Mapping[str, Any] | None:
        """What the engine says of one container, as it says it."""
        try:
            return cast("Mapping[str, Any]", await self._call(lambda c: c.inspect_container(container)))
        except EngineRefused as refused:
            if refused.status == 404:
                return None
            raise

    async def processes(self, container: str) -> list[tuple[int, str]]:
        """(pid on the host, title) of each process in a container."""
        try:
            raw = await self._call(lambda c: c.top(container, "-eo pid,args"))
        except EngineRefused:
            # The engine runs its host's ps for this, and a small host may have none. On the same host, /proc tells as much.
            found = await self.inspect_raw(container)
            here = _family(int(found["State"]["Pid"])) if found else []
            if not here:
                raise
            return here
        return [(int(row[0]), str(row[1])) for row in raw["Processes"] or []]

    async def logs(self, container: str, since_unix: float | None = None) -> str:
        """What a container wrote, all or since then, at most its last 200 lines."""
        raw = await self._call(lambda c: c.logs(container, since=since_unix, tail=200, stdout=True, stderr=True))
        return bytes(raw).decode("utf-8", "replace")

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
        filters = {"type": ["container", "network"], "event": [*CONTAINER_ACTIONS, *NETWORK_ACTIONS]}
        stream = await self._call(lambda c: c.events(filters=filters, decode=True))

        def put(item: EngineEvent | EngineUnavailable) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(queue.put_nowait, item)

        def read() -> None:
            cause: Exception | None = None
            try:
                for raw in stream:
                    event = _event(raw)
                    if event:
                        put(event)
            except (requests.RequestException, docker.errors.DockerException, OSError, ValueError, AttributeError) as error:
                cause = error
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
        """Runs a command inside a container: (exit status, what it wrote)."""

        def run(client: docker.APIClient) -> tuple[int, str]:
            made = client.exec_create(container, argv)
            output = client.exec_start(made["Id"])
            status = client.exec_inspect(made["Id"])["ExitCode"]
            return (int(status if status is not None else -1), bytes(output).decode("utf-8", "replace"))

        return await self._call(run)

    async def kill(self, container: str, signal: str) -> None:
        await self._call(lambda c: c.kill(container, signal))

    async def start(self, container: str) -> None:
        await self._call(lambda c: c.start(container))

    async def pull(self, image: str) -> None:
        await self._call(lambda c: c.pull(image))

    async def create_container(self, name: str, settings: Mapping[str, Any]) -> str:
        """Creates a container from the engine's own JSON (API: ContainerCreate) and returns its id."""
        made = await self._call(lambda c: cast("Any", c).create_container_from_config(dict(settings), name))
        return str(made["Id"])

    async def create_network(self, name: str, labels: Mapping[str, str]) -> None:
        """Creates a bridge network, unless there is one of that name."""
        try:
            await self._call(lambda c: c.create_network(name, driver="bridge", check_duplicate=True, labels=dict(labels)))
        except EngineRefused as refused:
            if refused.status != 409:
                raise

    async def connect_network(self, network: str, container: str) -> None:
        await self._call(lambda c: c.connect_container_to_network(container, network))

    async def disconnect_network(self, network: str, container: str) -> None:
        await self._call(lambda c: c.disconnect_container_from_network(container, network, force=True))


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


def _family(parent: int, proc: Path = Path("/proc")) -> list[tuple[int, str]]:
    """(pid, title) of a process and its children, where this process can see them."""
    found = []
    for entry in proc.glob("[0-9]*"):
        with suppress(OSError):
            after_name = (entry / "stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
            if int(entry.name) == parent or int(after_name[1]) == parent:
                title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
                found.append((int(entry.name), title))
    return found


# ---------------------------------------------------------------- the engine's JSON -> model


def _event(raw: Mapping[str, Any]) -> EngineEvent | None:
    actor = raw.get("Actor") or {}
    attributes = actor.get("Attributes") or {}
    kind, action = raw.get("Type"), str(raw.get("Action", ""))
    if kind == "network":
        container_id = attributes.get("container", "")
    elif kind == "container":
        container_id = actor.get("ID", "")
    else:
        return None
    number = _signal_number(attributes.get("signal", "")) if action == "kill" else 0
    labels = attributes if kind == "container" else None  # the engine mixes them with the container's name and image
    return EngineEvent(action.partition(":")[0], str(container_id), number, float(raw.get("timeNano", 0)) / 1e9, labels)


def _signal_number(text: str) -> int:
    """`15`, `TERM`, `SIGTERM` -> 15, `RTMIN+3` -> 37 (what systemd asks for); 0 when it is none of these."""
    match = re.fullmatch(r"(?:SIG)?([A-Z]*[0-9]*)(?:([+-])([0-9]{1,2}))?", str(text).upper(), re.ASCII)
    if not match:
        return 0
    name, sign, offset = match[1], match[2], int(match[3] or 0)
    number = int(name) if name.isdigit() else int(getattr(signals, f"SIG{name}", 0))
    return number + (-offset if sign == "-" else offset) if 0 < number <= signals.SIGRTMAX else 0


def _listed(raw: Mapping[str, Any]) -> Container:
    ports = raw.get("Ports") or []
    health = _health_in(str(raw.get("Status", "")))
    names = raw.get("Names") or [raw["Id"][:12]]
    own = next((n for n in names if n.count("/") == 1), names[0])
    return Container(
        id=str(raw["Id"]),
        name=str(own).lstrip("/"),
        image=str(raw.get("Image", "")),
        created_unix=float(raw.get("Created", 0)),
        state=cast("ContainerState", raw.get("State", "dead")),
        health=health,
        labels=raw.get("Labels") or {},
        endpoints=_endpoints((raw.get("NetworkSettings") or {}).get("Networks") or {}),
        network_mode=str((raw.get("HostConfig") or {}).get("NetworkMode", "")),
        exposed=tuple(sorted({int(p["PrivatePort"]) for p in ports if p.get("Type") == "tcp"})),
        published=tuple(
            PublishedPort(int(p["PrivatePort"]), str(p.get("IP", "")), int(p["PublicPort"]))
            for p in ports
            if p.get("Type") == "tcp" and "PublicPort" in p
        ),
        has_healthcheck=health != "none",
    )


def _health_in(status: str) -> DockerHealth:
    """The list call tells health only in words: `Up 3 seconds (health: starting)`."""
    match = re.search(r"\((healthy|unhealthy|health: starting)\)$", status)
    return "none" if not match else "starting" if match[1].startswith("health:") else cast("DockerHealth", match[1])


def _inspected(raw: Mapping[str, Any]) -> Container:
    config, state = raw.get("Config") or {}, raw.get("State") or {}
    test = (config.get("Healthcheck") or {}).get("Test") or []
    has_healthcheck = bool(test) and test[0] != "NONE"
    health = (state.get("Health") or {}).get("Status", "none") if has_healthcheck else "none"
    network = raw.get("NetworkSettings") or {}
    exposed = _tcp_ports(config.get("ExposedPorts") or {}) | _tcp_ports(network.get("Ports") or {})
    return Container(
        id=str(raw["Id"]),
        name=str(raw.get("Name", "")).lstrip("/"),
        image=str(config.get("Image", "")),
        created_unix=_unix(str(raw.get("Created", ""))),
        state=cast("ContainerState", state.get("Status", "dead")),
        health=cast("DockerHealth", health or "none"),
        labels=config.get("Labels") or {},
        endpoints=_endpoints(network.get("Networks") or {}),
        network_mode=str((raw.get("HostConfig") or {}).get("NetworkMode", "")),
        exposed=tuple(sorted(exposed)),
        published=tuple(_published(network.get("Ports") or {})),
        has_healthcheck=has_healthcheck,
        stop_signal=_signal_number(config.get("StopSignal") or "TERM") or 15,
        stop_timeout=_stop_timeout(config.get("StopTimeout")),
    )


def _stop_timeout(seconds: int | None) -> float:
    """Seconds until SIGKILL; a negative number means never, which is taken for an hour."""
    return 10.0 if seconds is None else float(seconds) if seconds >= 0 else 3600.0


def _unix(text: str) -> float:
    """`2026-11-24T06:04:07.811003720Z` -> whole seconds, as the list call has them."""
    try:
        return float(calendar.timegm(datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S").timetuple()))  # noqa: DTZ007
    except ValueError:
        return 0.0


def _tcp_ports(keys: Iterable[str]) -> set[int]:
    return {int(k.partition("/")[0]) for k in keys if k.endswith("/tcp") and k.partition("/")[0].isdigit()}


def _published(ports: Mapping[str, Any]) -> Iterable[PublishedPort]:
    for key, bindings in ports.items():
        if key.endswith("/tcp"):
            for binding in bindings or []:
                yield PublishedPort(int(key.partition("/")[0]), binding.get("HostIp", ""), int(binding.get("HostPort") or 0))


def _endpoints(networks: Mapping[str, Any]) -> tuple[Endpoint, ...]:
    return tuple(
        Endpoint(
            network=str(name),
            network_id=str(item.get("NetworkID", "")),
            endpoint_id=str(item.get("EndpointID", "")),
            ipv4=str(item.get("IPAddress", "")),
            ipv6=str(item.get("GlobalIPv6Address", "")),
            gateway=str(item.get("Gateway", "")),
        )
        for name, item in sorted(networks.items())
        if item
    )
