"""Route table and templates -> the files that nginx reads, each named by the digest of its content.

A host is one server block; a (host, path) is one upstream block in a file of its own. So what changes from second to second,
target addresses, is never in a file that came from a label, and `FileSet.shapes` can leave it out: nginx has accepted a draft
when it has accepted every shape in it. A location that loses its last target switches to its 503 form, which has the same
typed host and path; one sample of that form is in every draft.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from jinja2 import DictLoader, Environment, StrictUndefined, TemplateError

from proxyctl.fileset import OWN_FILE, ConfigFile, ConfigPart, FileSet
from proxyctl.model import DrainPhase, Location, NginxView, RouteTable, VirtualHost

TEMPLATES = (
    "nginx.conf.j2",
    "included.conf.j2",
    "manifest.conf.j2",
    "server.conf.j2",
    "upstream.conf.j2",
    "variables.j2",
    "sites.j2",
    "headers.j2",
)
"""What an operator can override one by one."""
GROUP_DIGITS = 2
"""Of a digest in hex: hosts go into 256 files."""

_SAFE = re.compile(r"[A-Za-z0-9._~+@:=*/\[\]-]*", re.ASCII)
_NOBODY = Location(path="/", strip_path=False, scheme="http", service="", route="", targets=(), fail_open=False)
_SAMPLE = VirtualHost("sample.proxyctl.invalid", (_NOBODY, replace(_NOBODY, path="/p", strip_path=True)))


@dataclass(slots=True)
class _Shown:
    """A location as templates see it. Not a dictionary: Jinja looks for attributes first, and a miss is dear."""

    path: str
    strip_path: bool
    scheme: str
    upstream: str
    alive: bool
    maintenance: bool


@dataclass(slots=True)
class _Server:
    """A target as templates see it."""

    address: str
    port: int
    weight: int


_BLANK = (_Server("127.0.0.1", 1, 1),)


@dataclass(frozen=True, slots=True)
class NginxSettings:
    """What the main file says; times in seconds."""

    workers: int
    shutdown_timeout: int
    trusted_proxies: tuple[str, ...]
    token: str
    """The server name, 128 random bits, under which nginx tells its digest."""
    wait_after_boot: bool
    included: bool = False
    """nginx.conf is somebody else's."""
    drain: DrainPhase = "serving"
    """What nginx tells the balancer."""


class Renderer:
    """Renders with one set of templates. Remembers what it has rendered, so that a cycle renders what changed.

    `shipped`: the templates are those of the package. An operator's own may refer from one host to another, and may be wrong in
    ways that only a later line shows; then each host has a file of its own, and nginx is asked about the whole.
    """

    def __init__(self, templates: Mapping[str, str], *, shipped: bool = False) -> None:
        self._environment = Environment(
            loader=DictLoader(dict(templates)),
            undefined=StrictUndefined,
            autoescape=False,  # noqa: S701 - nginx syntax, not HTML; every value is checked against _SAFE
            keep_trailing_newline=True,
            auto_reload=False,
        )
        self._shipped = shipped
        self._common: Mapping[str, object] = {}
        self._hosts: dict[str, _Made] = {}
        self._hosts_before: dict[str, _Made] = {}
        """Of the table before: what is live and what is coming are rendered in turn."""
        self._files: dict[str, tuple[str, ConfigFile]] = {}
        self._rendered: deque[tuple[RouteTable, tuple[object, ...], FileSet]] = deque(maxlen=2)

    def render(self, table: RouteTable, nginx: NginxView, settings: NginxSettings, operator_files: Mapping[str, str]) -> FileSet:
        """Raises jinja2.TemplateError when a template is wrong, ValueError when a value is not safe to write."""
        around = (nginx, settings, dict(operator_files))
        for known, with_what, fileset in self._rendered:
            if known is table and with_what == around:
                return fileset
        fileset = self._render(table, nginx, settings, operator_files)
        self._rendered.append((table, around, fileset))
        return fileset

    def _render(self, table: RouteTable, nginx: NginxView, settings: NginxSettings, operator_files: Mapping[str, str]) -> FileSet:
        common = {
            "included": settings.included,
            "version": nginx.version,
            "ipv6": nginx.ipv6,
            "host": "$host$is_request_port$request_port" if nginx.version >= (1, 29, 3) else "$host$proxyctl_port",
            "trusted_proxies": [_safe(cidr) for cidr in settings.trusted_proxies],
        }
        if common != self._common:
            self._common, self._hosts, self._hosts_before = common, {}, {}
        objects = self._objects(table)
        for name, text in sorted(operator_files.items()):
            part = ConfigPart(f"{OWN_FILE}{name}", text, (_digest(text),))
            objects.setdefault(f"{_digest(text)}.conf", ConfigFile((part,)))
        included = list(objects)
        dead = self._server(_SAMPLE, _none)
        sample = f"{_digest(dead)}.conf"
        hosts = [vhost.host for vhost in table.vhosts]
        main = common | {
            "workers": settings.workers,
            "shutdown_timeout": settings.shutdown_timeout,
            "names_bucket": _bucket(max(map(len, hosts), default=0)),
            "names_max": max(1024, _power_of_two(2 * len(hosts))),
            "logs_dir": _safe(nginx.logs_dir),
        }
        objects_dir = _safe(f"{nginx.conf_dir}/objects")
        manifest = common | {"token": _safe(settings.token), "objects_dir": objects_dir, "drain": settings.drain}
        frame = self._main(main, "-") + self._manifest(manifest, ["-"], "-") + dead + self._upstream(_SAMPLE.host, _NOBODY)
        mark = f"{_safe(nginx.runtime_dir)}/liv[e]" if settings.wait_after_boot else nginx.conf_dir
        digest = _digest("\n".join((frame, mark, *included)))
        draft = _digest(digest + nginx.neighbours.digest) if nginx.neighbours.digest else digest
        before, after = nginx.neighbours.around
        return FileSet(
            digest=digest,
            main=self._main(main, f"{mark}/manifests/{digest}.conf"),
            draft=draft,
            draft_main=before + self._main(main, f"{nginx.conf_dir}/drafts/{draft}.list.conf") + after,
            draft_links=nginx.neighbours.links,
            neighbours=settings.included,
            manifest=self._manifest(manifest, included, digest),
            frame=self._manifest(manifest, [], digest),
            frame_form=_digest(frame + nginx.neighbours.digest),
            objects=objects | {sample: ConfigFile((ConfigPart("", dead, ()),))},
            sample=sample,
            objects_dir=objects_dir,
            separable=self._shipped,
        )

    def _main(self, context: Mapping[str, object], include: str) -> str:
        return self._text("included.conf.j2" if context["included"] else "nginx.conf.j2", context, include=include)

    def _manifest(self, context: Mapping[str, object], objects: list[str], digest: str) -> str:
        return self._text("manifest.conf.j2", context, objects=objects, digest=digest)

    def _text(self, template: str, context: Mapping[str, object], **more: object) -> str:
        """As `Template.render` does it, which makes a new dictionary of all globals each time: a third of what a host costs."""
        try:
            found = self._environment.get_template(template)
            everything = {**self._environment.globals, **context, **more}
            return "".join(found.root_render_func(found.new_context(everything, shared=True)))
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise TemplateError(f"{template}: {error}") from error

    # ------------------------------------------------------------ objects

    def _objects(self, table: RouteTable) -> dict[str, ConfigFile]:
        """Files by name. A file whose parts are the same as last time is the same object."""
        made: dict[str, _Made] = {}
        groups: dict[str, list[ConfigPart]] = {}
        for vhost in table.vhosts:
            known = self._hosts.get(vhost.host)
            if known is None or (known.vhost is not vhost and known.vhost != vhost):
                known = self._hosts_before.get(vhost.host)
                if known is None or (known.vhost is not vhost and known.vhost != vhost):
                    known = self._make(vhost)
            made[vhost.host] = known
            groups.setdefault(known.group, []).append(known.part)
        self._hosts, self._hosts_before = made, self._hosts
        files: dict[str, tuple[str, ConfigFile]] = {}
        for group, parts in sorted(groups.items()):
            before = self._files.get(group)
            if before is None or before[1].parts != tuple(parts):
                file = ConfigFile(tuple(parts))
                before = (f"{_digest(file.text)}.conf", file)
            files[group] = before
        self._files = files
        return dict(files.values())

    def _make(self, vhost: VirtualHost) -> _Made:
        """One host. Its place in a file depends on its name alone, so that a change of one host rewrites one file."""
        alive = self._server(vhost, _all)
        form = _digest(alive)
        text, forms = alive, [form]
        if not all(location.serving for location in vhost.locations):
            text = self._server(vhost, lambda location: bool(location.serving))
            forms.insert(0, _digest(text))
        upstreams = [self._upstream(vhost.host, location) for location in vhost.locations if location.serving]
        group = _digest(vhost.host)[:GROUP_DIGITS] if self._shipped else vhost.host
        return _Made(vhost, ConfigPart(vhost.host, "".join(upstreams) + text, tuple(forms)), group)

    def _server(self, vhost: VirtualHost, alive: Callable[[Location], bool]) -> str:
        locations = [
            _Shown(
                path=_safe(location.path),
                strip_path=location.strip_path,
                scheme=location.scheme,
                upstream=upstream_name(vhost.host, location.path),
                alive=alive(location) and not location.maintenance,
                maintenance=location.maintenance,
            )
            for location in vhost.locations
        ]
        return self._text("server.conf.j2", self._common, name=_safe(vhost.host), locations=locations)

    def _upstream(self, host: str, location: Location) -> str:
        servers = [_Server(_bracketed(t.target.address), t.target.port, t.weight) for t in location.serving]
        return self._text("upstream.conf.j2", {"name": upstream_name(host, location.path)}, servers=servers or _BLANK)


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    vhost: VirtualHost
    part: ConfigPart
    group: str


def _all(_: Location) -> bool:
    return True


def _none(_: Location) -> bool:
    return False


def upstream_name(host: str, path: str) -> str:
    """The same for as long as the (host, path) is, whoever serves it. nginx compares it with each one before it, so what they
    have in common comes last."""
    return f"{_digest(host + path)}_proxyctl"


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
