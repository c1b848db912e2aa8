"""Configuration -> Findings about the host, the engine, the nginx container and the controller. Looks, and changes nothing."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from proxyctl.app import App, read_connections
from proxyctl.cli.client import Refused, TimedOut, Unreachable, connect
from proxyctl.config import Config, ConfigError
from proxyctl.model import EngineRefused, EngineUnavailable
from proxyctl.processes import Published, holder
from proxyctl.publish import workers
from proxyctl.publish.nginx import NginxContainer, NginxInstance, NginxMissing
from proxyctl.serve import listeners
from proxyctl.serve.guard import Tokens
from proxyctl.serve.views import Configuration

LOW_SPACE, NO_SPACE = 200 << 20, 10 << 20
"""Free bytes: worth a warning; nothing can be published soon."""
MANY_CONNECTIONS = 0.8
"""Of the limit: workers do not get equal shares, so the first one is full before the limit of all is reached."""
SEAMLESS = (1, 27, 4)
"""The first nginx with `keepalive_min_timeout`."""
SAFE = (1, 30, 1)
"""The first one with the fixes of the script engine and rewrite (nginx.org/en/security_advisories.html)."""


RESTART = "`docker restart proxyctl`, or `systemctl restart proxyctl`; nginx goes on meanwhile"
AS_CONTROLLER = "run this as the user that the controller runs as, which is mostly root"
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
        said, restart = await controller(api_socket)
        engine = await _engine(app)
        findings = [engine]
        if engine.standing != "fail":
            findings += [finding async for finding in _nginx(app, restart)]
        findings += [*_directories(config), *_tokens(config)]
        findings += said
        findings += await _ports(app, api_socket)
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


async def _nginx(app: App, restart: Sequence[str]) -> AsyncIterator[Finding]:
    """`restart`: keys that the running controller does not know as they are written."""
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
                yield await _stopped(app, raw)
                return
        nginx = await (await app.nginx()).look()
    except (NginxMissing, EngineRefused, EngineUnavailable) as error:
        yield Finding("fail", "nginx", str(error))
        return
    yield _version(nginx)
    if nginx.outdated:
        found = f"{name} was made from other settings than today's: {', '.join(nginx.differing)}"
        fixed = [key for key in restart if key.startswith("nginx.")]
        first = f"restart the controller first, which still has the settings of before ({', '.join(fixed)}); " if fixed else ""
        yield Finding("warn", "nginx settings", found, f"{first}{nginx.renewal}")
    if app.config.nginx.layout == "include":
        for finding in _neighbours(nginx, join=app.config.nginx.join):
            yield finding
    yield await _processes(app, nginx)
    if not nginx.view.host_network and (near := await _connections(app, nginx)):
        yield near


async def _connections(app: App, nginx: NginxInstance) -> Finding | None:
    """How near nginx is to the limit of its connections; None when that cannot be read from here."""
    with suppress(EngineRefused, EngineUnavailable):
        counted = read_connections(app.config, await workers.workers(app.nginx_engine, nginx))
        if counted:
            count, limit = counted
            found = f"{count} of {limit} open ({100 * count // limit} %)"
            if count < MANY_CONNECTIONS * limit:
                return Finding("ok", "connections", found)
            todo = "set nginx.worker_connections higher: a worker at its limit accepts nobody and answers 500"
            ceiling = nginx.view.open_files
            if ceiling:
                todo += f"; it is bounded by the limit of open files of the container ({ceiling})"
            return Finding("warn", "connections", found, todo)
    return None


async def _stopped(app: App, raw: Mapping[str, Any]) -> Finding:
    """The container is there and does not run. A controller that runs starts it by itself, unless something is in the way."""
    name, state = app.config.nginx.container, raw["State"]
    spec = await app.nginx()
    taken = await spec.taken() if isinstance(spec, NginxContainer) else []
    found = f"{name} is {state['Status']}"
    if taken:
        return Finding("fail", "nginx", f"{found}: {'; '.join(taken)}")
    if state.get("Paused"):
        return Finding("fail", "nginx", f"{found}, and answers nobody", f"docker unpause {name}")
    why = f": {state['Error']}" if state.get("Error") else ""
    return Finding("warn", "nginx", f"{found}{why}", f"a running controller starts it; docker logs {name} tells why it ended")


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
    """The nearest one that is there. Raises PermissionError with the first that this user may not look into."""
    for part in (*reversed(path.parents), path):
        try:
            part.lstat()
        except PermissionError as error:
            raise PermissionError(error.errno, error.strerror, str(part.parent)) from error
        except OSError:
            return part.parent
    return path


def _directory(key: str, path: Path) -> Finding:
    try:
        there = _existing(path)
    except PermissionError as error:
        return _not_entered(key, path, error)
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding("fail", key, f"{path} cannot be written by the user {_me()}", f"{AS_CONTROLLER}, or set {key}")
    free = shutil.disk_usage(there).free
    found = f"{path}, {free / (1 << 30):.1f} GiB free"
    if free < NO_SPACE:
        return Finding("fail", key, found, "make room: nothing can be published on a full disk")
    if free < LOW_SPACE:
        return Finding("warn", key, found, "make room soon")
    return Finding("ok", key, found)


def _not_entered(key: str, path: Path, error: PermissionError) -> Finding:
    found = f"{path} cannot be looked at by the user {_me()}, who may not enter {error.filename}"
    return Finding("fail", key, found, AS_CONTROLLER)


def _me() -> str:
    uid = os.geteuid()
    try:
        return f"{pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return str(uid)


def _runtime(config: Config) -> Finding:
    path = config.runtime_dir
    try:
        there = _existing(path)
    except PermissionError as error:
        return _not_entered("state.runtime", path, error)
    kind = filesystem(there)
    found = f"{path} on {kind or 'an unknown filesystem'}"
    if config.cold_start == "wait" and kind not in ("tmpfs", "ramfs"):
        todo = "put state.runtime on a tmpfs (/run is one): a boot must clear it, or old addresses are served after it"
        return Finding("warn", "state.runtime", found, todo)
    if not os.access(there, os.W_OK | os.X_OK):
        todo = f"{AS_CONTROLLER}, or set state.runtime"
        return Finding("fail", "state.runtime", f"{path} cannot be written by the user {_me()}", todo)
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


async def _ports(app: App, api_socket: Path) -> list[Finding]:
    """Who holds the ports that nginx and the API are to have."""
    config = app.config
    published: list[Published] | None
    try:
        published = await app.engine.published_ports()
    except (EngineRefused, EngineUnavailable):
        published = None
    name = config.nginx.container
    wanted = config.ports if config.nginx.layout == "full" else ()
    findings = [_port(name, address, port, published) for address, port, _ in wanted]
    if config.api_address and not listeners.answers(api_socket):  # else it is the controller's
        findings.append(_api_port(config.api_address, published))
    return findings


def _port(name: str, address: str, port: int, published: Sequence[Published] | None) -> Finding:
    """`published`: None when the engine could not be asked, so that nobody knows whether it is nginx that listens."""
    what = f"port {address or '*'}:{port}"
    who = holder(address, port, published or ())
    if who == f"the container {name}":
        return Finding("ok", what, f"published by {name}")
    if who and published is None:
        return Finding("ok", what, "something listens (nginx, when it runs)")
    if who:
        todo = "stop it, or set another nginx.publish: nginx cannot have the port until then"
        return Finding("fail", what, f"taken by {who}", todo)
    return Finding("warn", what, "nobody listens", "nginx opens it when its container is started with this setting")


def _api_port(address: tuple[str, int], published: Sequence[Published] | None) -> Finding:
    try:
        listeners.tcp(address).close()
    except listeners.CannotListen as error:
        if error.taken:
            words = listeners.taken_by(address, holder(*address, published or ()))
            return Finding("fail", "api.listen", f"{listeners.shown(address)} {words}")
        return Finding("fail", "api.listen", str(error))
    return Finding("ok", "api.listen", f"{listeners.shown(address)} is free")


async def controller(path: Path) -> tuple[list[Finding], tuple[str, ...]]:
    """What the running controller says of itself and of the files that it reads, and the keys that it does not know as they are
    written. One finding when none answers."""
    try:
        async with connect(path) as client:
            status = await client.status()
    except Unreachable as error:
        return [Finding("warn", "controller", str(error))], ()
    except (TimedOut, Refused) as error:
        return [Finding("fail", "controller", str(error))], ()
    found = Finding("ok", "controller", f"{status.version} at {path}, in sync")
    if status.error:
        found = Finding("fail", "controller", f"{status.version}, not in sync: {status.error}", "see `proxyctl status`")
    return [found, *_files(status.configuration)], status.configuration.restart


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
