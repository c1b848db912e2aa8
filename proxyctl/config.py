"""TOML and the environment -> Config. No file is needed: every key has a default.

`Config` is the reference: config.example.toml and docs/configuration.md are tested against it. A key that is not in it is an
error which names the nearest one that is.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec

from proxyctl import config_rules as rules
from proxyctl import values

DEFAULT_FILE = Path("/etc/proxyctl/config.toml")
ENV_PREFIX = "PROXYCTL_"
NGINX_IMAGE = "nginx:1.31.3@sha256:5a88c9c45479443d7be2eadc894b4ed0a9801bae03d97a5760ae13b5c2005942"


@dataclass(frozen=True, slots=True)
class Layout:
    """What proxyctl has in `nginx.dir`: `home`, the folder of its files, and `reference`, the one file that nginx reads."""

    home: str
    reference: str
    cold_start: str


LAYOUTS = {"full": Layout("", "nginx.conf", "wait"), "include": Layout(".proxyctl", "zz-proxyctl.conf", "last-good")}
"""In `include`, the file comes last in the directory: of two servers with one name, nginx takes the first, and of all servers the
first answers unknown names."""


class ConfigError(Exception):
    """What is wrong, where, and what to write instead."""


class Seconds(float):
    """Written as a duration (`30s`), used as seconds."""


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Docker(_Section, frozen=True, kw_only=True):
    endpoint: str = ""


class State(_Section, frozen=True, kw_only=True):
    dir: str = "/var/lib/proxyctl"
    runtime: str = "/run/proxyctl/nginx"


class Nginx(_Section, frozen=True, kw_only=True):
    dir: str = ""
    logs: str = ""
    layout: Literal["full", "include"] = "full"
    cold_start: Literal["", "wait", "last-good"] = ""
    create: bool = True
    container: str = "proxyctl-nginx"
    pid_file: str = ""
    image: str = NGINX_IMAGE
    pull: Literal["missing", "never"] = "missing"
    publish: tuple[str, ...] = ("80:80", "443:443")
    join: bool = True
    worker_processes: int = 0
    worker_shutdown_timeout: Seconds = Seconds(3600)
    trusted_proxies: tuple[str, ...] = ()
    unknown_host: str = "404"
    read_timeout: Seconds = Seconds(3600)
    send_timeout: Seconds = Seconds(3600)
    buffering: bool = False
    request_buffering: bool = True
    client_max_body_size: str = "1g"
    worker_connections: int = 0


class Api(_Section, frozen=True, kw_only=True):
    listen: str = "127.0.0.1:9180"
    socket: str = "/run/proxyctl/api.sock"
    hosts: tuple[str, ...] = ()
    token_file: str = ""


class Discovery(_Section, frozen=True, kw_only=True):
    label_prefix: str = "proxyctl"
    network: str = ""
    resync: Seconds = Seconds(30)
    default_host: str = ""


class Health(_Section, frozen=True, kw_only=True):
    interval: Seconds = Seconds(5)
    timeout: Seconds = Seconds(2)
    rise: int = 1
    fall: int = 2


class Rollout(_Section, frozen=True, kw_only=True):
    strategy: Literal["auto", "manual", "canary"] = "auto"
    bake: Seconds = Seconds(30)
    deadline: Seconds = Seconds(60)
    retire: Literal["keep", "stop"] = "keep"
    drain: Seconds = Seconds(0)


class Claim(_Section, frozen=True, kw_only=True):
    hosts: tuple[str, ...]
    paths: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()
    images: tuple[str, ...] = ()


class Config(_Section, frozen=True, kw_only=True):
    docker: Docker = Docker()
    state: State = State()
    nginx: Nginx = Nginx()
    api: Api = Api()
    discovery: Discovery = Discovery()
    health: Health = Health()
    rollout: Rollout = Rollout()
    claims: tuple[Claim, ...] = ()

    @property
    def state_dir(self) -> Path:
        return Path(self.state.dir).absolute()

    @property
    def runtime_dir(self) -> Path:
        return Path(self.state.runtime).absolute()

    @property
    def nginx_dir(self) -> Path:
        return Path(self.nginx.dir).absolute() if self.nginx.dir else self.state_dir / "nginx"

    @property
    def layout(self) -> Layout:
        return LAYOUTS[self.nginx.layout]

    @property
    def home(self) -> Path:
        """Below `nginx_dir`, or the same: objects, manifests, drafts."""
        return self.nginx_dir / self.layout.home

    @property
    def reference(self) -> Path:
        """The one file that nginx reads."""
        return self.nginx_dir / self.layout.reference

    @property
    def cold_start(self) -> str:
        return self.nginx.cold_start or self.layout.cold_start

    @property
    def logs_dir(self) -> Path:
        return Path(self.nginx.logs).absolute() if self.nginx.logs else self.state_dir / "logs"

    @property
    def ports(self) -> tuple[tuple[str, int, int], ...]:
        """(host address, host port, container port) of each `nginx.publish`."""
        return tuple(rules.port_mapping(text) for text in self.nginx.publish)

    @property
    def workers(self) -> int:
        return self.nginx.worker_processes or os.cpu_count() or 1

    @property
    def api_address(self) -> tuple[str, int] | None:
        """Where TCP is served; None when `api.listen` is empty."""
        if not self.api.listen:
            return None
        host, _, port = self.api.listen.rpartition(":")
        return host.strip("[]"), values.integer(port, 1, 65535)


def load(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Config:
    """Reads `file` (or the default one, when it is there) and `PROXYCTL_SECTION__KEY`. Raises ConfigError."""
    path = file or DEFAULT_FILE
    data: dict[str, Any] = {}
    if file or _is_there(path):
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not TOML: {error}") from error
    _check_keys(data, Config, "", str(path))
    variables = _add_environment(data, os.environ if environment is None else environment)
    try:
        config = msgspec.convert(data, Config, strict=False, dec_hook=_decode)
        rules.check(config)
    except (msgspec.ValidationError, values.BadValue) as error:
        message = _plain(str(error))
        source = next((f"environment variable {name}" for key, name in variables.items() if message.startswith(key)), path)
        raise ConfigError(f"{source}: {message}") from error
    return config


def _is_there(path: Path) -> bool:
    """Raises ConfigError when this user may not look."""
    try:
        path.stat()
    except PermissionError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except OSError:
        return False
    return True


def socket_of(file: Path | None = None) -> str:
    """`api.socket` as far as it can be read from a file that `load` refuses: a running controller goes on with the configuration
    of before, and can tell what is wrong."""
    if variable := os.environ.get(f"{ENV_PREFIX}API__SOCKET"):
        return variable
    try:
        text = (file or DEFAULT_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Api().socket
    found = re.search(r"""^\[api\]$[^\[]*?^\s*socket\s*=\s*["']([^"'\n]+)["']""", text, re.MULTILINE)
    return found[1] if found else Api().socket


def _decode(kind: type, value: object) -> object:
    if kind is Seconds and isinstance(value, str):
        return Seconds(values.duration(value))
    raise TypeError('write a duration in quotes, like "30s"')


def _plain(message: str) -> str:
    """msgspec writes paths as `$.nginx.image`, and does not say what to write instead."""
    problem, _, where = message.partition(" - at `$.")
    if not where:
        return problem
    section, _, key = where.rstrip("`").partition("[")[0].partition(".")
    return f"{section}.{key}: {problem}{_instead(_fields(_fields(Config)[section])[key])}"


def _instead(kind: object) -> str:
    if kind is Seconds:
        return ""  # what _decode raises says it
    if get_origin(kind) is Literal:
        return ": write " + " or ".join(f'"{choice}"' for choice in get_args(kind) if choice)
    if get_origin(kind) is tuple:
        return ': write a list, like ["a", "b"]'
    if kind is bool:
        return ": write true or false"
    return ": write a whole number" if kind is int else ": write text in quotes"


def _fields(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: field.type for field in msgspec.structs.fields(struct)}


def _check_keys(data: Mapping[str, Any], struct: type[msgspec.Struct], where: str, source: str) -> None:
    known = _fields(struct)
    for key, value in data.items():
        full = f"{where}{key}"
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {where}{near[0]}?" if near else f"known here: {', '.join(known)}"
            raise ConfigError(f"{source}: unknown key {full}: {hint}")
        kind = known[key]
        if full == "claims":
            _check_claims(value, source)
        elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            if not isinstance(value, dict):
                raise ConfigError(f"{source}: {full} is a table: write [{full}] and its keys below")
            _check_keys(value, kind, f"{full}.", source)


def _check_claims(value: object, source: str) -> None:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ConfigError(f"{source}: claims is a list of tables: write [[claims]] and its keys below")
    for number, item in enumerate(value, 1):
        _check_keys(item, Claim, f"claims({number}).", source)
        if not item.get("hosts"):
            raise ConfigError(f'{source}: claims({number}) has no hosts: write hosts = ["*.shop.example"]')


def _add_environment(data: dict[str, Any], environment: Mapping[str, str]) -> dict[str, str]:
    """Puts them in, and returns which variable each key came from."""
    sections, variables = _fields(Config), {}
    for name, text in sorted(environment.items()):
        section, separator, key = name.removeprefix(ENV_PREFIX).lower().partition("__")
        if not name.startswith(ENV_PREFIX) or not separator:
            continue
        if section == "claims":
            raise ConfigError(f"environment variable {name}: claims can only be written in the file")
        _check_keys({section: {key: text}}, Config, "", f"environment variable {name}")
        kind = _fields(sections[section])[key]
        data.setdefault(section, {})[key] = _typed(text, kind, name)
        variables[f"{section}.{key}"] = name
    return variables


def _typed(text: str, kind: object, name: str) -> object:
    """What TOML has a way to write, and a variable has not."""
    if kind is bool:
        try:
            return values.boolean(text)
        except values.BadValue as bad:
            raise ConfigError(f"environment variable {name}: {bad}") from bad
    return _list(text, name) if get_origin(kind) is tuple else text


def _list(text: str, name: str) -> list[str]:
    if not text.strip().startswith("["):
        return list(values.comma_list(text))
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError as error:
        raise ConfigError(f'environment variable {name}: write a,b or ["a", "b"]: {error}') from error
