"""Configuration -> Findings about the host, the engine, the nginx container and the controller. Looks, and changes nothing."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from proxyctl.app import App
from proxyctl.cli.client import Refused, TimedOut, Unreachable, connect
from proxyctl.config import Config, ConfigError
from proxyctl.model import EngineRefused, EngineUnavailable
from proxyctl.publish import workers
from proxyctl.publish.nginx import NginxInstance, NginxMissing
from proxyctl.serve import listeners
from proxyctl.serve.guard import Tokens
from proxyctl.serve.views import Configuration

LOW_SPACE, NO_SPACE = 200 << 20, 10 << 20
"""Free bytes: worth a warning; nothing can be published soon."""
SEAMLESS = (1, 27, 4)
"""The first nginx with `keepalive_min_timeout`."""
SAFE = (1, 30, 1)
"""The first one with the fixes of the script engine and rewrite (nginx.org/en/security_advisories.html)."""


RESTART = "`docker restart proxyctl`, or `systemctl restart proxyctl`; nginx goes on meanwhile"
BROKEN = "fix the file: a controller that runs goes on with the configuration of before, and would not start again"


@dataclass(frozen=True, slots=True)
class Finding:
    standing: Literal["ok", "warn", "fail"]
    what: str
    found: str
    todo: str = ""


async def examine(config: Config, config_file: Path, api_socket: Path) -> list[Finding]:
    app = App(config, config_file)
    try:
        findings_of_controller = await controller(api_socket)
        reached = bool(findings_of_controller[1:])
        engine = await _engine(app)
        findings = [engine]
        if engine.standing != "fail":
            findings += [finding async for finding in _nginx(app)]
        findings += [*_directories(config), *_tokens(config)]
        findings += findings_of_controller
        findings += _ports(config, controller_runs=reached)
    finally:
        app.engine.close()
    return findings


# ---------------------------------------------------------------- Docker


async def _engine(app: App) -> Finding:
    try:
        info = await app.engine.info()
    except EngineUnavailable as error:
        return Finding("fail", "engine", str(error), _reach(app.engine.endpoint))
    except EngineRefused as error:
        return Finding("fail", "engine", f"{app.engine.endpoint} refuses: {error}", "upgrade Docker, or its API proxy's rules")
    return Finding("ok", "engine", f"Docker {info.version}, API {info.api_version}, at {info.endpoint}")


def _reach(endpoint: str) -> str:
    path = Path(endpoint.removeprefix("unix://"))
    if not endpoint.startswith("unix://"):
        return "check docker.endpoint (or DOCKER_HOST) and its TLS settings"
    if not path.exists():
        return f"start Docker; in a container, mount the socket: -v {path}:{path}; elsewhere, set docker.endpoint"
    if not os.access(path, os.R_OK | os.W_OK):
        group = path.stat().st_gid
        return f"the socket belongs to group {group}: run as a member of it (in a container: --group-add {group})"
    return "look whether Docker runs: systemctl status docker"


async def _nginx(app: App) -> AsyncIterator[Finding]:
    name = app.config.nginx.container
    try:
        if app.config.nginx.layout == "full":
            raw = await app.engine.inspect_raw(name)
            if raw is None:
                made = app.config.nginx.create
                todo = "it is made at `proxyctl run`" if made else "start it, or set nginx.create = true"
                yield Finding("warn" if made else "fail", "nginx", f"there is no container {name}", todo)
                return
            if not raw["State"]["Running"]:
                todo = f"docker start {name}; docker logs {name} tells why"
                yield Finding("warn", "nginx", f"{name} is {raw['State']['Status']}", todo)
                return
        nginx = await (await app.nginx()).look()
    except (NginxMissing, EngineRefused, EngineUnavailable) as error:
        yield Finding("fail", "nginx", str(error))
        return
    yield _version(nginx)
    if nginx.outdated:
        todo = f"`docker rm -f {name}` in a quiet moment: it is made anew, and connections are cut"
        yield Finding("warn", "nginx settings", "the container was made from other settings than today's", todo)
    if app.config.nginx.layout == "include":
        for finding in _neighbours(nginx, join=app.config.nginx.join):
            yield finding
    yield await _processes(app, nginx)


def _neighbours(nginx: NginxInstance, *, join: bool) -> Iterator[Finding]:
    """What an nginx.conf of somebody else leaves to be desired."""
    around = nginx.view.neighbours
    if around.refused:
        yield Finding("fail", "nginx.conf", around.refused, "`nginx -t` tells the same")
    elif not around.ends_old_workers:
        todo = "set worker_shutdown_timeout there: an included file cannot, and old workers live as long as their connections"
        yield Finding("warn", "nginx.conf", "it ends no old workers", todo)
    else:
        yield Finding("ok", "nginx.conf", f"{len(around.hosts)} names of hand-written vhosts")
    first = min(nginx.view.networks, default="0")
    if join and not first.startswith("0"):
        todo = f"put it into a network that sorts before all others, like 0-{nginx.name}, or set nginx.join = false"
        found = f"the first is {first}: when nginx joins one that sorts before it, connections are cut"
        yield Finding("warn", "nginx's networks", found, todo)


def _version(nginx: NginxInstance) -> Finding:
    found = f"{'.'.join(map(str, nginx.view.version))} in {nginx.name} ({nginx.image})"
    if nginx.view.version < SEAMLESS:
        todo = (
            "use 1.27.4 or newer: this one has no keepalive_min_timeout, so idle keep-alive clients lose a request at each reload"
        )
        return Finding("warn", "nginx", found, todo)
    if nginx.view.version < SAFE:
        return Finding("warn", "nginx", found, "use 1.30.1 or newer: fixes of the script engine and of rewrite")
    return Finding("ok", "nginx", found)


async def _processes(app: App, nginx: NginxInstance) -> Finding:
    try:
        found = await workers.workers(app.nginx_engine, nginx)
    except (EngineRefused, EngineUnavailable) as error:
        todo = "install procps on the Docker host: the engine runs its `ps`, and without it no reload can be proved"
        return Finding("fail", "docker top", str(error), todo)
    ending = sum(worker.shutting_down for worker in found)
    words = f"{len(found) - ending} workers serve, {ending} shut down"
    if found and not workers.can_end(found[0].pid):
        todo = (
            "old workers that know an address which is somebody else's by now cannot be ended from here: run as root on the "
            "host, or in a container with `pid: host` and `cap_add: [KILL]`"
        )
        return Finding("warn", "docker top", words, todo)
    return Finding("ok", "docker top", words)


# ---------------------------------------------------------------- the host


def _directories(config: Config) -> Iterator[Finding]:
    yield _directory("state.dir", config.state_dir)
    yield _directory("nginx.dir", config.nginx_dir)
    if config.nginx.layout == "full":
        yield _directory("nginx.logs", config.logs_dir)
    yield _runtime(config)


def _tokens(config: Config) -> Iterator[Finding]:
    if config.api.token_file:
        try:
            Tokens(Path(config.api.token_file))
        except ConfigError as error:
            yield Finding("fail", "api.token_file", str(error))
        else:
            yield Finding("ok", "api.token_file", config.api.token_file)


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


def _directory(key: str, path: Path) -> Finding:
    there = _existing(path)
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding("fail", key, f"{path} cannot be written by user {os.geteuid()}", f"run as its owner, or set {key}")
    free = shutil.disk_usage(there).free
    found = f"{path}, {free / (1 << 30):.1f} GiB free"
    if free < NO_SPACE:
        return Finding("fail", key, found, "make room: nothing can be published on a full disk")
    if free < LOW_SPACE:
        return Finding("warn", key, found, "make room soon")
    return Finding("ok", key, found)


def _runtime(config: Config) -> Finding:
    path = config.runtime_dir
    kind = filesystem(_existing(path))
    found = f"{path} on {kind or 'an unknown filesystem'}"
    if config.cold_start == "wait" and kind not in ("tmpfs", "ramfs"):
        todo = "put state.runtime on a tmpfs (/run is one): a boot must clear it, or old addresses are served after it"
        return Finding("warn", "state.runtime", found, todo)
    if not os.access(_existing(path), os.W_OK | os.X_OK):
        return Finding(
            "fail", "state.runtime", f"{path} cannot be written by user {os.geteuid()}", "run as its owner, or set state.runtime"
        )
    return Finding("ok", "state.runtime", found)


def filesystem(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The type of the filesystem that holds `path`; empty when it cannot be told."""
    best, kind = "", ""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        _, point, name, *_ = line.split(" ")
        inside = path == Path(point) or Path(point) in path.parents
        if inside and len(point) >= len(best):
            best, kind = point, name
    return kind


def _ports(config: Config, *, controller_runs: bool) -> Iterator[Finding]:
    for address, port, _ in config.ports if config.nginx.layout == "full" else ():
        shown = f"{address or '*'}:{port}"
        if _answers(address or "127.0.0.1", port):
            yield Finding("ok", f"port {shown}", "something listens (nginx, when it runs)")
        else:
            yield Finding("warn", f"port {shown}", "nobody listens yet", "nginx opens it when it is started")
    if config.api_address and not controller_runs:
        try:
            listeners.tcp(config.api_address).close()
        except listeners.CannotListen as error:
            yield Finding("fail", "api.listen", str(error))
        else:
            yield Finding("ok", "api.listen", f"{config.api.listen} is free")


def _answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1" if address == "0.0.0.0" else address, port), timeout=1):  # noqa: S104
            return True
    except OSError:
        return False


async def controller(path: Path) -> list[Finding]:
    """What the running controller says of itself, and of the files that it reads; one finding when there is none."""
    try:
        async with connect(path) as client:
            status = await client.status()
    except Unreachable as error:
        return [Finding("warn", "controller", str(error))]
    except (TimedOut, Refused) as error:
        return [Finding("fail", "controller", str(error)), *_files(Configuration())]
    found = Finding("ok", "controller", f"{status.version} at {path}, in sync")
    if status.error:
        found = Finding("fail", "controller", f"{status.version}, not in sync: {status.error}", "see `proxyctl status`")
    return [found, *_files(status.configuration)]


def _files(configuration: Configuration) -> Iterator[Finding]:
    """What became of the configuration, the templates and the hand-written vhosts."""
    for problem in configuration.problems:
        todo = "fix the file or take the change back: what was in effect before is still served"
        yield Finding("fail", "configuration", f"not taken over: {problem}", todo)
    if configuration.restart:
        keys = ", ".join(configuration.restart)
        yield Finding("warn", "configuration", f"changed and not in effect yet: {keys}", "restart the controller: " + RESTART)
    elif not configuration.problems:
        yield Finding("ok", "configuration", "in effect as written")
