"""The nginx container: found, created when missing, started, and described for planning."""

from __future__ import annotations

import hashlib
import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from proxyctl.model import Container, EngineRefused, EngineUnavailable, Neighbours, NginxView
from proxyctl.processes import Published, hard_limit_of_open_files, holder

CONF_DIR, BOOT_DIR, LOGS_DIR = "/etc/proxyctl/conf", "/etc/proxyctl/boot", "/var/log/nginx"
"""Where the three directories appear in a container that proxyctl creates."""
KEPT_NETWORKS = frozenset({"bridge"})
"""Networks that nobody can remove: once in, nginx stays."""
YOUNG = 3.0
"""Seconds after its start in which nginx leaves no network. An engine that comes back starts nginx, and a call that waited for it
reaches it in the middle of that: nginx is then in its own network and cannot be reached there until it joins another one (20.10,
3 of 58 restarts of the engine). And who has ended with the engine is mostly back within that time."""
CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID")


class Engine(Protocol):
    """What publishing needs of Docker, where nginx is there."""

    async def list_containers(self) -> list[Container]: ...
    async def inspect_raw(self, container: str) -> Mapping[str, Any] | None: ...
    async def kill(self, container: str, signal: str) -> None: ...
    async def execute(self, container: str, argv: list[str]) -> tuple[int, str]: ...
    async def processes(self, container: str) -> list[tuple[int, str]]: ...
    async def logs(self, container: str, since_unix: float | None = None) -> str: ...
    async def connect_network(self, network: str, container: str, known: Collection[str] = ()) -> tuple[str, ...]: ...
    async def disconnect_network(self, network: str, container: str) -> None: ...


class MakingEngine(Engine, Protocol):
    """What it takes to make it."""

    async def has_image(self, image: str) -> bool: ...
    async def pull(self, image: str) -> None: ...
    async def create_container(self, name: str, settings: Mapping[str, Any]) -> str: ...
    async def create_network(self, name: str, labels: Mapping[str, str]) -> None: ...
    async def start(self, container: str) -> None: ...
    async def published_ports(self) -> list[Published]: ...


class NginxMissing(Exception):  # noqa: N818
    """There is no nginx to publish to, and the message says what to do about it."""


@dataclass(frozen=True, slots=True)
class NginxSpec:
    """How the container is made. Directories are host paths."""

    name: str
    image: str
    pull: bool
    create: bool
    ports: tuple[tuple[str, int, int], ...]
    """(host address, host port, container port)."""
    conf_dir: Path
    boot_dir: Path
    logs_dir: Path
    label_prefix: str


@dataclass(frozen=True, slots=True)
class NginxInstance:
    """One run of the container: another `started_at` is another nginx process."""

    id: str
    started_at: str
    image_id: str
    view: NginxView
    addresses: tuple[tuple[str, int], ...]
    """Where its port 80 answers, best first."""
    outdated: bool
    """It was made from other settings than today's."""
    image: str
    name: str
    published: tuple[tuple[str, int], ...] = ()
    """Those of `addresses` at which the host publishes it."""
    differing: tuple[str, ...] = ()
    """Keys whose values the container was not made from; empty when it is not `outdated`."""
    renewal: str = ""
    """What to do about that."""

    @property
    def run(self) -> str:
        """Another text is another nginx process."""
        return f"{self.id} {self.started_at}"


@dataclass(frozen=True, slots=True)
class JoinResult:
    """`networks`: nginx is in them since this call; `refused`: the engine's reason by network; `asked`: the addresses that nginx
    asked for and got, by network."""

    networks: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Nginx(ABC):
    """The nginx that is published to."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._versions: dict[str, tuple[int, ...]] = {}
        self._run, self._since = ("", ""), 0.0
        """Which run of nginx was last seen, and since when (monotonic)."""

    @abstractmethod
    async def look(self) -> NginxInstance:
        """The running nginx; nothing is made or started. Raises NginxMissing."""

    async def ensure(self) -> NginxInstance:
        """The running nginx, which is made and started first where that is proxyctl's to do. Raises NginxMissing."""
        return await self.look()

    async def _last_words(self, container: str) -> str:
        return _last_line(await self._engine.logs(container))

    async def _describe(self, raw: Mapping[str, Any], inside: tuple[str, str, str], neighbours: Neighbours) -> NginxInstance:
        if _run(raw) != self._run:
            self._run, self._since = _run(raw), time.monotonic()
        networks = raw["NetworkSettings"]["Networks"] or {}
        host_network = raw["HostConfig"].get("NetworkMode") == "host"
        view = NginxView(
            version=await self._version(raw),
            networks={} if host_network else {name: str(item.get("Gateway", "")) for name, item in sorted(networks.items())},
            host_network=host_network,
            ipv6=any(item.get("GlobalIPv6Address") for item in networks.values()),
            conf_dir=inside[0],
            runtime_dir=inside[1],
            logs_dir=inside[2],
            neighbours=neighbours,
            container=str(raw["Id"]),
            open_files=0 if host_network else hard_limit_of_open_files(int(raw["State"].get("Pid") or 0)),
        )
        return NginxInstance(
            id=str(raw["Id"]),
            started_at=str(raw["State"].get("StartedAt", "")),
            image_id=str(raw.get("Image", "")),
            view=view,
            addresses=_addresses(raw, host_network=host_network),
            published=() if host_network else _published(raw),
            outdated=False,
            image=str(raw["Config"].get("Image", "")),
            name=str(raw["Name"]).lstrip("/"),
        )

    async def _version(self, raw: Mapping[str, Any]) -> tuple[int, ...]:
        image_id = str(raw.get("Image", ""))
        if image_id not in self._versions:
            _, said = await self._engine.execute(str(raw["Id"]), ["nginx", "-v"])
            match = re.search(r"nginx/([0-9]+)\.([0-9]+)\.([0-9]+)", said)
            if not match:
                raise NginxMissing(f"{raw['Config'].get('Image')} does not tell the version of an nginx: {_last_line(said)}")
            self._versions[image_id] = tuple(int(part) for part in match.groups())
        return self._versions[image_id]

    async def join(self, instance: NginxInstance, networks: frozenset[str], known: Mapping[str, tuple[str, ...]]) -> JoinResult:
        """Connects nginx to the networks that it is not in. One that refuses does not keep the others out. `known`: the addresses
        that nginx had there before."""
        missing = frozenset() if instance.view.host_network else networks - instance.view.networks.keys()
        refused: dict[str, str] = {}
        asked: dict[str, tuple[str, ...]] = {}
        for network in sorted(missing):
            try:
                asked[network] = await self._engine.connect_network(network, instance.id, known.get(network, ()))
            except EngineRefused as error:
                refused[network] = str(error)
        return JoinResult(missing - refused.keys(), refused, {network: each for network, each in asked.items() if each})

    async def leave(self, instance: NginxInstance, networks: frozenset[str]) -> bool:
        """Whether nginx has left them; not yet, when it has just been started. Best effort: a network that is gone, or that nginx
        is out of, is what was wanted."""
        for network in sorted(networks - KEPT_NETWORKS):
            if not await self._is_settled(instance):
                return False
            with suppress(EngineRefused):
                await self._engine.disconnect_network(network, instance.id)
        return True

    async def _is_settled(self, instance: NginxInstance) -> bool:
        try:
            raw = await self._engine.inspect_raw(instance.id)
        except (EngineRefused, NginxMissing):
            return False
        if not raw or not raw["State"].get("Running"):  # it is known as the run that it was until it is started again
            return False
        return _run(raw) == self._run and time.monotonic() - self._since >= YOUNG


class NginxContainer(Nginx):
    """One of proxyctl's own: nginx.conf is rendered, too."""

    def __init__(self, engine: MakingEngine, spec: NginxSpec) -> None:
        super().__init__(engine)
        self._maker = engine
        self._spec = spec

    async def ensure(self) -> NginxInstance:
        raw = await self._engine.inspect_raw(self._spec.name)
        if raw is None:
            if not self._spec.create:
                raise NginxMissing(f"there is no container {self._spec.name}: start it, or set nginx.create = true")
            await self._create()
        elif raw["State"]["Status"] in ("created", "exited", "dead"):
            await self._start()
        return await self.look()

    async def _start(self) -> None:
        """Raises NginxMissing when a port is in the way, with who holds it."""
        try:
            await self._maker.start(self._spec.name)
        except EngineRefused as error:
            why = await self._in_the_way(f"{error}")
            if why:
                raise NginxMissing(why) from error
            raise

    async def _in_the_way(self, refusal: str) -> str:
        """Which port keeps the container from starting, in words; empty when it is something else."""
        if any(words in refusal for words in NO_ADDRESS):
            return "nginx cannot start: nginx.publish has an address that is not one of this host"
        if not any(words in refusal for words in TAKEN):
            return ""
        taken = await self.taken()
        if taken:
            return f"nginx cannot start: {'; '.join(taken)}"
        return f"nginx cannot start, since a port of nginx.publish is taken: {refusal.rpartition('): ')[2] or refusal}"

    async def taken(self) -> list[str]:
        """The ports of nginx.publish that somebody else holds, in words, each with what to do."""
        try:
            published = await self._maker.published_ports()
        except (EngineRefused, EngineUnavailable):
            published = []
        mine = {(each.address, each.port) for each in published if each.container == self._spec.name}
        published = [each for each in published if each.container != self._spec.name]
        found = []
        for address, port, _ in self._spec.ports:
            if any(port == own and address in ("", at) for at, own in mine):
                continue
            who = holder(address, port, published)
            if who:
                shown = f"port {port}" + (f" of {address}" if address else "")
                found.append(f"{shown} is taken by {who}: stop it, or set another nginx.publish")
        return found

    async def look(self) -> NginxInstance:
        running = await self._engine.inspect_raw(self._spec.name)
        if running is None or running["State"]["Status"] != "running":
            if running is None:
                raise NginxMissing(f"the container {self._spec.name} does not run: it is gone")
            raise NginxMissing(not_running(running, await self._last_words(self._spec.name)))
        instance = await self._describe(running, self._inside(running), Neighbours())
        differing = self._differing(running) if self._is_outdated(running) else ()
        if not differing:
            return instance
        return replace(instance, outdated=True, differing=differing, renewal=await self._renewal())

    async def _create(self) -> None:
        if not await self._maker.has_image(self._spec.image):
            if not self._spec.pull:
                raise NginxMissing(f"the image {self._spec.image} is not here and nginx.pull is never: pull it, or allow it")
            await self._maker.pull(self._spec.image)
        settings = self._settings()
        await self._maker.create_network(settings["HostConfig"]["NetworkMode"], {f"{self._spec.label_prefix}.nginx": "true"})
        await self._maker.create_container(self._spec.name, settings)
        await self._start()

    def _settings(self) -> dict[str, Any]:
        """The engine's JSON for the container: no more rights than nginx needs, nothing writable but logs and temporary files."""
        spec = self._spec
        ports: dict[str, list[dict[str, str]]] = {}
        for address, host_port, port in spec.ports:
            ports.setdefault(f"{port}/tcp", []).append({"HostIp": address, "HostPort": str(host_port)})
        settings: dict[str, Any] = {
            "Image": spec.image,
            "Entrypoint": ["nginx"],
            "Cmd": ["-e", "stderr", "-c", f"{CONF_DIR}/nginx.conf", "-g", "daemon off;"],
            "StopSignal": "SIGQUIT",
            "ExposedPorts": {port: {} for port in ports},
            "HostConfig": {
                "Binds": [
                    f"{spec.conf_dir}:{CONF_DIR}:ro",
                    f"{spec.boot_dir}:{BOOT_DIR}:ro",
                    f"{spec.logs_dir}:{LOGS_DIR}:rw",
                ],
                "PortBindings": ports,
                # The engine publishes ports through the network whose name sorts first, and moves them, cutting every connection,
                # when a join changes which one that is (measured on 20.10). So nginx's own network sorts before all others.
                "NetworkMode": f"0-{spec.name}",
                # Not unless-stopped: the engine takes a container that was ever sent a signal through it, as every reload does,
                # for stopped by hand, and starts it neither after a crash nor at boot (measured on 20.10).
                "RestartPolicy": {"Name": "always"},
                "ReadonlyRootfs": True,
                "Tmpfs": {"/run": "", "/tmp": ""},  # noqa: S108 - inside the container
                "CapDrop": ["ALL"],
                "CapAdd": list(CAPABILITIES),
                "SecurityOpt": ["no-new-privileges"],
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
            },
        }
        fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        settings["Labels"] = {f"{spec.label_prefix}.nginx": "true", f"{spec.label_prefix}.nginx.settings": fingerprint}
        return settings

    def _is_outdated(self, raw: Mapping[str, Any]) -> bool:
        label = f"{self._spec.label_prefix}.nginx.settings"
        made_from = (raw["Config"].get("Labels") or {}).get(label, "")
        return bool(made_from) and made_from != self._settings()["Labels"][label]

    def _differing(self, raw: Mapping[str, Any]) -> tuple[str, ...]:
        """The keys that explain why the container is outdated. Another release of proxyctl makes it differently, too."""
        today = self._settings()
        host, wanted = raw["HostConfig"], today["HostConfig"]
        pairs = (
            ("nginx.image", raw["Config"].get("Image"), today["Image"]),
            ("nginx.publish", _bindings(host.get("PortBindings")), _bindings(wanted["PortBindings"])),
            ("nginx.dir, nginx.logs or state.runtime", sorted(host.get("Binds") or []), sorted(wanted["Binds"])),
        )
        return tuple(key for key, is_, should in pairs if is_ != should) or ("what this release of proxyctl makes it from",)

    async def _renewal(self) -> str:
        """What has to be done so that removing the container brings one with today's settings, and not none."""
        name, first = self._spec.name, []
        taken = await self.taken()
        if taken:
            first.append("; ".join(taken))
        try:
            there = self._spec.pull or await self._maker.has_image(self._spec.image)
        except (EngineRefused, EngineUnavailable):
            there = True
        if not there:
            first.append(f"`docker pull {self._spec.image}`, since nginx.pull is never")
        if not self._spec.create:
            return "; ".join([*first, f"make {name} anew yourself, since nginx.create is false (cuts connections)"])
        then = f"`docker rm -f {name}` in a quiet moment: it is made anew, and connections are cut"
        return f"first {'; '.join(first)}. Then {then}" if first else then

    def _inside(self, raw: Mapping[str, Any]) -> tuple[str, str, str]:
        """Where the three directories appear in the container."""
        spec = self._spec
        mounts = {str(m.get("Source", "")): str(m.get("Destination", "")) for m in raw.get("Mounts") or []}
        inside = []
        for key, path in (("nginx.dir", spec.conf_dir), ("state.runtime", spec.boot_dir), ("nginx.logs", spec.logs_dir)):
            if str(path) not in mounts:
                what = f"the container {spec.name} does not mount {path} ({key})"
                anew = "it is made anew" if spec.create else "start one that does, since nginx.create is false"
                todo = f"if another proxyctl uses it, set another nginx.container; else remove it, and {anew}"
                raise NginxMissing(f"{what}: {todo}")
            inside.append(mounts[str(path)])
        return inside[0], inside[1], inside[2]


TAKEN = ("address already in use", "port is already allocated")
NO_ADDRESS = ("cannot assign requested address",)
"""What the engine says when it cannot publish a port, among other words."""


def _bindings(raw: Mapping[str, Any] | None) -> set[tuple[str, str, str]]:
    return {
        (port, str(binding.get("HostIp") or ""), str(binding.get("HostPort")))
        for port, bindings in (raw or {}).items()
        for binding in bindings or []
    }


def bootstrap_view() -> NginxView:
    """What the very first configuration is rendered for, before there is an nginx to ask: the oldest one, knowing nothing."""
    return NginxView(
        version=(0,),
        networks={},
        host_network=False,
        ipv6=False,
        conf_dir=CONF_DIR,
        runtime_dir=BOOT_DIR,
        logs_dir=LOGS_DIR,
        open_files=hard_limit_of_open_files(0),
    )


def _run(raw: Mapping[str, Any]) -> tuple[str, str]:
    return str(raw["Id"]), str(raw["State"].get("StartedAt", ""))


def _addresses(raw: Mapping[str, Any], *, host_network: bool) -> tuple[tuple[str, int], ...]:
    if host_network:
        return (("127.0.0.1", 80),)
    own = [str(n["IPAddress"]) for _, n in sorted((raw["NetworkSettings"]["Networks"] or {}).items()) if n.get("IPAddress")]
    return (*((address, 80) for address in own), *_published(raw))


def _published(raw: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    found: dict[tuple[str, int], None] = {}  # IPv4 and IPv6 of one port are one address here
    for binding in (raw["NetworkSettings"].get("Ports") or {}).get("80/tcp") or []:
        address = str(binding.get("HostIp", ""))
        found[("127.0.0.1" if address in ("", "0.0.0.0", "::") else address, int(binding["HostPort"]))] = None  # noqa: S104
    return tuple(found)


def not_running(raw: Mapping[str, Any], last_line: str) -> str:
    """Why this nginx answers nobody, and what to do where that is one command."""
    name, status = str(raw["Name"]).lstrip("/"), raw["State"]["Status"]
    if status == "paused":
        return f"the container {name} is paused, and nginx answers nobody: docker unpause {name}"
    return f"the container {name} does not run: {last_line}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    emergencies = [line for line in lines if "[emerg]" in line]
    return (emergencies or lines or ["it says nothing"])[-1]
