"""What the types of a configuration do not say: ranges, grammars, and which keys go together.

Raises values.BadValue, which names the key and what to write instead.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from proxyctl import values

if TYPE_CHECKING:
    from proxyctl.config import Api, Claim, Config, Discovery, Nginx


_URL = r"https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~+@:=*/-]*)?"

FEWEST_CONNECTIONS = 512
"""nginx's own default. With a handful, a worker cannot even answer the controller's checks."""


def port_mapping(text: str) -> tuple[str, int, int]:
    """`80:80`, `127.0.0.1:8080:80` or `[::1]:8080:80`."""
    rest, _, inner = text.rpartition(":")
    address, _, outer = rest.rpartition(":")
    try:
        bare = address.strip("[]")
        if bare:
            ipaddress.ip_address(bare)
        return bare, values.integer(outer, 1, 65535), values.integer(inner, 1, 65535)
    except ValueError as error:
        raise values.BadValue(
            f"nginx.publish: {text!r} is not a port mapping", "write HOST:CONTAINER or IP:HOST:CONTAINER"
        ) from error


def check(config: Config) -> None:
    """What types alone do not say."""
    nginx, health = config.nginx, config.health
    for text in nginx.publish:
        port_mapping(text)
    for text in nginx.trusted_proxies:
        try:
            ipaddress.ip_network(text)
            if not re.fullmatch(r"[0-9A-Fa-f.:]+(/[0-9]+)?", text, re.ASCII):
                raise ValueError(f"{text!r} has a mask or a zone")  # noqa: TRY301 - nginx takes neither
        except ValueError as error:
            raise values.BadValue(f"nginx.trusted_proxies: {error}", "write networks like 10.0.0.0/8") from error
    if nginx.unknown_host not in ("404", "421", "503", "closed") and not re.fullmatch(_URL, nginx.unknown_host, re.ASCII):
        raise values.BadValue(
            f"nginx.unknown_host: {values.shown(nginx.unknown_host)} is not an answer",
            'write "404", "421", "503", "closed" or a URL like "https://www.example/"',
        )
    _check_limits(nginx)
    for what, text in (("nginx.container", nginx.container), ("discovery.label_prefix", config.discovery.label_prefix)):
        _of(what, values.name, text)
    for what, number, low, high in (
        ("nginx.worker_processes", nginx.worker_processes, 0, 512),
        ("nginx.worker_shutdown_timeout", nginx.worker_shutdown_timeout, 1, 7 * 86400),
        ("nginx.read_timeout", nginx.read_timeout, 1, 7 * 86400),
        ("nginx.send_timeout", nginx.send_timeout, 1, 7 * 86400),
        ("nginx.worker_connections", nginx.worker_connections, 0, 1 << 20),
        ("health.rise", health.rise, 1, 100),
        ("health.fall", health.fall, 1, 100),
        ("health.interval", health.interval, 0.1, 3600),
        ("health.timeout", health.timeout, 0.01, 300),
        ("discovery.resync", config.discovery.resync, 1, 3600),
        ("rollout.bake", config.rollout.bake, 0, 86400),
        ("rollout.deadline", config.rollout.deadline, 1, 86400),
        ("rollout.drain", config.rollout.drain, 0, 7 * 86400),
    ):
        if not low <= number <= high:
            raise values.BadValue(f"{what} = {number:g} is out of range", f"write a value from {low:g} to {high:g}")
    if nginx.layout == "include":
        _check_include(nginx)
    elif nginx.pid_file:
        raise values.BadValue("nginx.pid_file needs nginx.layout = include", "an nginx of proxyctl's own is in a container")
    _check_api(config.api)
    _check_discovery(config.discovery)
    for rule in config.claims:
        _check_claim(rule)


def _check_limits(nginx: Nginx) -> None:
    if 0 < nginx.worker_connections < FEWEST_CONNECTIONS:
        raise values.BadValue(
            f"nginx.worker_connections = {nginx.worker_connections} is too few", f"write 0, or {FEWEST_CONNECTIONS} or more"
        )
    if not re.fullmatch(r"[0-9]{1,9}[kmgKMG]?", nginx.client_max_body_size, re.ASCII):
        raise values.BadValue(
            f"nginx.client_max_body_size: {values.shown(nginx.client_max_body_size)} is not a size", 'write a size like "100m"'
        )
    if nginx.request_buffering and not int(nginx.client_max_body_size.rstrip("kmgKMG")):
        raise values.BadValue(
            "nginx.request_buffering needs nginx.client_max_body_size",
            'request bodies go to the disk, so write how large one may be, like "100m"',
        )


def _check_include(nginx: Nginx) -> None:
    if not nginx.dir:
        raise values.BadValue(
            "nginx.layout = include needs nginx.dir", "name the directory of the host that nginx has at /etc/nginx/sites-enabled"
        )
    if nginx.cold_start == "wait":
        raise values.BadValue("nginx.cold_start = wait needs nginx.layout = full", 'write "last-good", or nothing')


def _check_discovery(discovery: Discovery) -> None:
    if not all(discovery.label_prefix.split(".")):
        raise values.BadValue(
            f"discovery.label_prefix: {discovery.label_prefix!a} has a dot at its end, or two", "write it without: dots are added"
        )
    if discovery.network:
        _of("discovery.network", values.name, discovery.network)
    if not discovery.default_host:
        return
    if "{service}" not in discovery.default_host:
        raise values.BadValue("discovery.default_host has no {service} in it", "write a name like {service}.home.example")
    _of("discovery.default_host", values.host, discovery.default_host.replace("{service}", "service"))


def _check_claim(rule: Claim) -> None:
    for pattern in rule.hosts:
        if not re.fullmatch(r"[a-z0-9_.*?!\[\]-]+", pattern, re.ASCII):
            raise values.BadValue(
                f"claims.hosts: {values.shown(pattern)} is no pattern of hosts",
                "write it in lower case, like *.shop.example",
            )
    for path in rule.paths:
        right = _of("claims.paths", values.path, path)
        if path != right:
            raise values.BadValue(f"claims.paths: {values.shown(path)} is not as places are written", f"write {right}")


def _of(key: str, parse: Callable[[str], str], text: str) -> str:
    """The parsed text; what is wrong with it is said of the key."""
    try:
        return parse(text)
    except values.BadValue as bad:
        raise values.BadValue(f"{key}: {bad.problem}", bad.hint) from bad


def _check_api(api: Api) -> None:
    if api.listen:
        try:
            host, _, port = api.listen.rpartition(":")
            ipaddress.ip_address(host.strip("[]"))
            values.integer(port, 1, 65535)
        except ValueError as error:
            raise values.BadValue(
                f"api.listen: {api.listen!r} is not an address", "write IP:PORT, like 127.0.0.1:9180"
            ) from error
    for text in api.hosts:
        try:
            name = values.host(text)
        except values.BadValue as bad:
            raise values.BadValue(f"api.hosts: {bad.problem}", bad.hint) from bad
        if name.startswith("*"):
            raise values.BadValue(f"api.hosts: {values.shown(text)} is a pattern", "write every name that may be asked for")
