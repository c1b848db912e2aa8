"""Route table and templates -> the files that nginx reads, each named by the digest of its content.

A host is one server block; a (host, path) is one upstream block in a file of its own. So what changes from second to second,
target addresses, is never in a file that came from a label, and `FileSet.shapes` can leave it out: nginx has accepted a draft
when it has accepted every shape in it. A location that loses its last target switches to its 503 form, which has the same
typed host and path; one sample of that form is in every draft.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from jinja2 import DictLoader, Environment, StrictUndefined, TemplateError

from proxyctl.model import FileSet, Location, NginxView, RouteTable, VirtualHost
from proxyctl.plan.quarantine import OWN_FILE

TEMPLATES = ("nginx.conf.j2", "manifest.conf.j2", "server.conf.j2", "upstream.conf.j2", "headers.j2")
"""What an operator can override one by one."""

_SAFE = re.compile(r"[A-Za-z0-9._~+@:=*/\[\]-]*", re.ASCII)
_NOBODY = Location(path="/", strip_path=False, scheme="http", service="", route="", targets=(), fail_open=False)
_SAMPLE = VirtualHost("sample.proxyctl.invalid", (_NOBODY, replace(_NOBODY, path="/p", strip_path=True)))


@dataclass(frozen=True, slots=True)
class NginxSettings:
    """What the main file says; times in seconds."""

    workers: int
    shutdown_timeout: int
    trusted_proxies: tuple[str, ...]
    token: str
    """The server name, 128 random bits, under which nginx tells its digest."""
    wait_after_boot: bool


class Renderer:
    """Renders with one set of templates. Remembers the files of the latest table, so that a cycle renders what changed."""

    def __init__(self, templates: Mapping[str, str]) -> None:
        self._environment = Environment(
            loader=DictLoader(dict(templates)),
            undefined=StrictUndefined,
            autoescape=False,  # noqa: S701 - nginx syntax, not HTML; every value is checked against _SAFE
            keep_trailing_newline=True,
        )
        self._common: Mapping[str, object] = {}
        self._cache: dict[VirtualHost, tuple[_Rendered, ...]] = {}

    def render(self, table: RouteTable, nginx: NginxView, settings: NginxSettings, operator_files: Mapping[str, str]) -> FileSet:
        """Raises jinja2.TemplateError when a template is wrong, ValueError when a value is not safe to write."""
        common = {
            "version": nginx.version,
            "ipv6": nginx.ipv6,
            "host": "$host$is_request_port$request_port" if nginx.version >= (1, 29, 3) else "$host$proxyctl_port",
            "trusted_proxies": [_safe(cidr) for cidr in settings.trusted_proxies],
        }
        known = self._cache if self._common == common else {}
        rendered = {vhost: known.get(vhost) or self._vhost(vhost, common) for vhost in table.vhosts}
        self._cache, self._common = rendered, common
        sources = {file.name: vhost.host for vhost, group in rendered.items() for file in group}
        files = [file for group in rendered.values() for file in group]
        for name, text in sorted(operator_files.items()):
            files.append(_Rendered(text, text))
            sources[files[-1].name] = f"{OWN_FILE}{name}"
        dead = self._server(_SAMPLE, common, dead_too=True)
        sample = _Rendered(dead, dead)
        hosts = [vhost.host for vhost in table.vhosts]
        main = common | {
            "workers": settings.workers,
            "shutdown_timeout": settings.shutdown_timeout,
            "names_bucket": _bucket(max(map(len, hosts), default=0)),
            "names_max": max(1024, _power_of_two(2 * len(hosts))),
            "logs_dir": _safe(nginx.logs_dir),
        }
        manifest = common | {
            "token": _safe(settings.token),
            "objects_dir": _safe(f"{nginx.conf_dir}/objects"),
            "objects": [file.name for file in files],
        }
        frame = self._main(main, ["-"]) + self._manifest(manifest | {"objects": ["-"]}, "-")
        mark = f"{_safe(nginx.runtime_dir)}/liv[e]" if settings.wait_after_boot else nginx.conf_dir
        names = [file.name for file in (*files, sample)]
        digest = _digest("\n".join((frame, mark, *names)))
        direct = f"{nginx.conf_dir}/manifests/{digest}.conf"
        published = f"{mark}/manifests/{digest}.conf"
        objects = {file.name: file.text for file in (*files, sample)}
        return FileSet(
            digest=digest,
            main=self._main(main, [published]),
            draft_main=self._main(main, [direct, f"{nginx.conf_dir}/objects/{sample.name}"]),
            manifest=self._manifest(manifest, digest),
            objects=objects,
            sources=sources,
            shapes=frozenset({_digest(frame), *(_digest(file.shape) for file in (*files, sample))}),
        )

    def _main(self, context: Mapping[str, object], includes: list[str]) -> str:
        return self._text("nginx.conf.j2", context, includes=includes)

    def _manifest(self, context: Mapping[str, object], digest: str) -> str:
        return self._text("manifest.conf.j2", context, digest=digest)

    def _text(self, template: str, context: Mapping[str, object], **more: object) -> str:
        try:
            return self._environment.get_template(template).render(context, **more)
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise TemplateError(f"{template}: {error}") from error

    def _vhost(self, vhost: VirtualHost, common: Mapping[str, object]) -> tuple[_Rendered, ...]:
        text = self._server(vhost, common, dead_too=True)
        alive = all(location.serving for location in vhost.locations)
        shape = text if alive else self._server(vhost, common, dead_too=False)
        upstreams = [self._upstream(vhost.host, location) for location in vhost.locations if location.serving]
        return (_Rendered(text, shape), *upstreams)

    def _server(self, vhost: VirtualHost, common: Mapping[str, object], *, dead_too: bool) -> str:
        locations = [
            {
                "path": _safe(location.path),
                "strip_path": location.strip_path,
                "scheme": location.scheme,
                "upstream": upstream_name(vhost.host, location.path),
                "alive": bool(location.serving) or not dead_too,
            }
            for location in vhost.locations
        ]
        return self._text("server.conf.j2", common, name=_safe(vhost.host), locations=locations)

    def _upstream(self, host: str, location: Location) -> _Rendered:
        servers = [{"address": _bracketed(t.target.address), "port": t.target.port, "weight": t.weight} for t in location.serving]
        name = {"name": upstream_name(host, location.path)}
        blank = [{"address": "127.0.0.1", "port": 1, "weight": 1}]
        return _Rendered(*(self._text("upstream.conf.j2", name, servers=group) for group in (servers, blank)))


@dataclass(frozen=True, slots=True)
class _Rendered:
    text: str
    shape: str

    @property
    def name(self) -> str:
        return f"{_digest(self.text)}.conf"


def upstream_name(host: str, path: str) -> str:
    """The same for as long as the (host, path) is, whoever serves it."""
    return f"proxyctl_{_digest(host + path)}"


def without_targets(table: RouteTable) -> RouteTable:
    """The table as nginx answers it when nothing lives."""
    return RouteTable(
        tuple(replace(v, locations=tuple(replace(loc, targets=(), fail_open=False) for loc in v.locations)) for v in table.vhosts)
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _safe(text: str) -> str:
    """The last lock: no value that reaches a template can end a directive, open a block or start a comment."""
    if not _SAFE.fullmatch(text):
        raise ValueError(f"{text!a} cannot be written into nginx's configuration")
    return text


def _bracketed(address: str) -> str:
    return _safe(f"[{address}]" if ":" in address else address)


def _bucket(longest: int) -> int:
    """server_names_hash_bucket_size for the longest name: a pointer, a length and the name, aligned, and an end mark.

    Source: ngx_hash.c, NGX_HASH_ELT_SIZE. 64 is nginx's default on common processors.
    """
    aligned = (longest + 2 + 7) // 8 * 8
    return max(64, _power_of_two(8 + aligned + 8))


def _power_of_two(least: int) -> int:
    return 1 << max(0, least - 1).bit_length()
