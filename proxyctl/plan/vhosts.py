"""Route table and templates -> the files that nginx reads, each named by the digest of its content.

A host is one server block, with an upstream block for each of its paths. Two hosts whose server blocks differ in their names
alone have the same form, if the names are of one kind and length as nginx's hash of names sees them: nginx has accepted a draft
when it has accepted every form in it. A location that loses its last target switches to its 503 form, which has the same typed
path; one sample of that form is in every draft.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

from jinja2 import DictLoader, Environment, StrictUndefined, TemplateError, UndefinedError

from proxyctl.fileset import OWN_FILE, ConfigFile, ConfigPart, FileSet
from proxyctl.model import DrainPhase, Location, NginxView, RoutedTarget, RouteTable, VirtualHost
from proxyctl.plan import client_headers
from proxyctl.values import kind_of_name, size_in_hash

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

LEAST_CONNECTIONS = 4096
"""Of a worker. It keeps one to each host that was asked for in the last seconds, which nginx does not give up for a new one: with
10,000 hosts asked for in turn, 4,096 were not enough, and some requests answered 500. 424 bytes each, used or not."""
MOST_CONNECTIONS = 32_768
"""Of a worker, when the memory decides. Their structures alone take 14 MB of each worker."""
BYTES_OF_CONNECTION = 32 << 10
"""What a connection in use takes, for `worker_connections` to be chosen by: nginx's own memory and the kernel's."""
BUFFERED_BODIES = 256
"""Request bodies in temporary files at once, with `nginx.request_buffering`."""
_MARK = "\0"
"""Around what stands for a name in a shape: no template has it, and no safe value."""
MOST_SHAPES = 4096
_SAFE = re.compile(r"[A-Za-z0-9._~+@:=*/\[\]-]*", re.ASCII)
_NOBODY = Location(path="/", strip_path=False, scheme="http", service="", route="", targets=(), fail_open=False)
_SAMPLE = VirtualHost("sample.proxyctl.invalid", (_NOBODY, replace(_NOBODY, path="/p", strip_path=True)))


class Unsafe(ValueError):  # noqa: N818 - reads as what it says
    """A value that cannot be written into nginx's configuration."""


@dataclass(slots=True)
class _Shown:
    """A location as templates see it. Not a dictionary: Jinja looks for attributes first, and a miss is dear."""

    path: str
    strip_path: bool
    scheme: str
    upstream: str
    alive: bool
    maintenance: bool
    many_names: bool
    """Each request may name another host in its TLS handshake."""
    below: str
    """The variable that holds what a request's path has after the prefix, as the client wrote it."""
    pattern: str
    """Finds that."""


@dataclass(slots=True)
class _Server:
    """A target as templates see it."""

    address: str
    port: str
    weight: int


_BLANK = [_Server("127.0.0.1", "1", 1)]
_Place = tuple[str, bool, str, bool, bool, bool]
"""What is said about a location beside its upstream: fields of `_Shown`, in order."""


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
    unknown_host: str = "404"
    """What a name that no site has gets: a status, `closed`, or the URL of a redirect."""
    read_timeout: int = 3600
    send_timeout: int = 3600
    buffering: bool = False
    request_buffering: bool = True
    client_max_body_size: str = "1g"
    connections: int = LEAST_CONNECTIONS
    """Of each worker, unless the number of hosts needs more or the limit of open files allows fewer."""


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
        self._shape = lru_cache(MOST_SHAPES)(self._shape_of)
        self._upstream_shape = lru_cache(MOST_SHAPES)(self._upstream_shape_of)
        self._common: Mapping[str, object] = {}
        self._hosts: dict[str, _Made] = {}
        self._hosts_before: dict[str, _Made] = {}
        """Of the table before: what is live and what is coming are rendered in turn."""
        self._files: dict[str, tuple[str, ConfigFile]] = {}
        self._rendered: deque[tuple[RouteTable, tuple[object, ...], FileSet]] = deque(maxlen=2)

    def render(self, table: RouteTable, nginx: NginxView, settings: NginxSettings, operator_files: Mapping[str, str]) -> FileSet:
        """Raises jinja2.TemplateError when a template is wrong, Unsafe when a value is."""
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
            "trusted_proxies": _networks(settings.trusted_proxies),
            "removed_headers": client_headers.REMOVED,
            "client_headers": client_headers.CLIENT_SAYS,
            "header_aliases": client_headers.ALIASES,
            "read_timeout": settings.read_timeout,
            "send_timeout": settings.send_timeout,
            "buffering": settings.buffering,
            "request_buffering": settings.request_buffering,
            "client_max_body_size": _safe(settings.client_max_body_size),
            "buffered_bodies": BUFFERED_BODIES,
            "alive_dir": _safe(f"{nginx.conf_dir}/alive"),
        }
        if common != self._common:
            self._common, self._hosts, self._hosts_before = common, {}, {}
            self._shape.cache_clear()
            self._upstream_shape.cache_clear()
        objects = self._objects(table)
        for name, text in sorted(operator_files.items()):
            part = ConfigPart(f"{OWN_FILE}{name}", text, (_digest(text),))
            objects.setdefault(f"{_digest(text)}.conf", ConfigFile((part,)))
        included = list(objects)
        dead, _ = self._server(_SAMPLE, _none)
        sample = f"{_digest(dead)}.conf"
        hosts = [vhost.host for vhost in table.vhosts]
        connections, open_files = worker_limits(settings.connections, len(hosts), nginx.open_files)
        main = common | {
            "workers": settings.workers,
            "shutdown_timeout": settings.shutdown_timeout,
            "names_bucket": _bucket(max(map(len, hosts), default=0)),
            "names_max": max(1024, _power_of_two(2 * len(hosts))),
            "connections": connections,
            "open_files": open_files,
            "logs_dir": _safe(nginx.logs_dir),
        }
        objects_dir = _safe(f"{nginx.conf_dir}/objects")
        manifest = common | {
            "token": _safe(settings.token),
            "objects_dir": objects_dir,
            "drain": settings.drain,
            "unknown_host": _safe(settings.unknown_host),
        }
        frame = self._main(main, "-") + self._manifest(manifest, ["-"], "-") + dead + self._upstream(_SAMPLE.host, _NOBODY)
        mark = f"{_safe(nginx.runtime_dir)}/liv[e]" if settings.wait_after_boot else nginx.conf_dir
        digest = _digest("\n".join((frame, mark, *included)))
        draft = _digest(digest + nginx.neighbours.digest) if nginx.neighbours.digest else digest
        before, after = nginx.neighbours.around
        around = (frame, nginx.neighbours.digest, *map(_digest, sorted(operator_files.values())))
        return FileSet(
            digest=digest,
            main=self._main(main, f"{mark}/manifests/{digest}.conf"),
            draft=draft,
            draft_main=before + self._main(main, f"{nginx.conf_dir}/drafts/{draft}.list.conf") + after,
            draft_links=nginx.neighbours.links,
            neighbours=settings.included,
            manifest=self._manifest(manifest, included, digest),
            frame=self._manifest(manifest, [], digest),
            frame_form=_digest("\n".join(around)),
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
        except UndefinedError as error:
            raise TemplateError(f"{template}: {error}") from error
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
        """One host. Its place in a file depends on its name alone, so that a change of one host rewrites one file. A host whose
        targets are dead counts as known when nginx has accepted it alive. With templates of one's own, which may look at a name
        and at how many targets there are, only the text does, less addresses and ports."""
        text, form = self._server(vhost, lambda location: bool(location.serving))
        upstreams = [self._upstream(vhost.host, location) for location in vhost.locations if location.serving]
        forms = [form]
        if not self._shipped:
            blank = [replace(where, targets=tuple(map(_anonymous, where.serving))) for where in vhost.locations if where.serving]
            forms = [_digest("".join((text, *(self._upstream(vhost.host, where) for where in blank))))]
        elif not all(location.serving for location in vhost.locations):
            forms.append(self._server(vhost, _all)[1])
        group = _digest(vhost.host)[:GROUP_DIGITS] if self._shipped else vhost.host
        return _Made(vhost, ConfigPart(vhost.host, text, tuple(forms), "".join(upstreams)), group)

    def _server(self, vhost: VirtualHost, alive: Callable[[Location], bool]) -> tuple[str, str]:
        """The text, and its form."""
        names = [_safe(vhost.host), *[upstream_name(vhost.host, location.path) for location in vhost.locations]]
        places = tuple(
            [
                (
                    where.path,
                    where.strip_path,
                    where.scheme,
                    alive(where) and not where.maintenance,
                    where.maintenance,
                    _many_names(vhost.host, where),
                )
                for where in vhost.locations
            ]
        )
        if not self._shipped:
            return self._server_text(names, places), ""
        shape, form = self._shape(places)
        return _filled(shape, names), form + kind_of_name(vhost.host)

    def _shape_of(self, places: tuple[_Place, ...]) -> tuple[str, str]:
        text = self._server_text(_marks(1 + len(places)), places)
        return text, _digest(text)

    def _server_text(self, names: list[str], places: Iterable[_Place]) -> str:
        """`names`: the host's, and the upstream's of each place."""
        name, *upstreams = names
        locations = [
            _Shown(_safe(path), strip_path, scheme, upstream, alive, maintenance, many_names, *_below(path))
            for upstream, (path, strip_path, scheme, alive, maintenance, many_names) in zip(upstreams, places, strict=True)
        ]
        return self._text("server.conf.j2", self._common, name=name, locations=locations)

    def _upstream(self, host: str, location: Location) -> str:
        name = upstream_name(host, location.path)
        servers = [_Server(_bracketed(t.target.address), str(t.target.port), t.weight) for t in location.serving] or _BLANK
        many_names = _many_names(host, location)
        if not self._shipped:
            return self._upstream_text(name, servers, many_names=many_names)
        words = [word for server in servers for word in (server.address, server.port)]
        return _filled(self._upstream_shape(tuple([server.weight for server in servers]), many_names=many_names), [name, *words])

    def _upstream_shape_of(self, weights: tuple[int, ...], /, *, many_names: bool) -> str:
        name, *words = _marks(1 + 2 * len(weights))
        return self._upstream_text(name, list(map(_Server, words[::2], words[1::2], weights)), many_names=many_names)

    def _upstream_text(self, name: str, servers: list[_Server], *, many_names: bool) -> str:
        return self._text("upstream.conf.j2", self._common, name=name, servers=servers, many_names=many_names)


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    vhost: VirtualHost
    part: ConfigPart
    group: str


def _anonymous(routed: RoutedTarget) -> RoutedTarget:
    return replace(routed, target=replace(routed.target, address="192.0.2.1", port=80))


def _many_names(host: str, location: Location) -> bool:
    return host.startswith("*.") and location.scheme in ("https", "grpcs")


def _all(_: Location) -> bool:
    return True


def _none(_: Location) -> bool:
    return False


def upstream_name(host: str, path: str) -> str:
    """The same for as long as the (host, path) is, whoever serves it. nginx compares it with each one before it that is as long:
    so there are sixteen lengths, and what they have in common comes last. 10,000 of one length made `nginx -t` take 2.9 s, these
    2.3 s (1.31.3)."""
    digest = _digest(host + path)
    return f"{digest}{'_' * (1 + int(digest[0], 16))}proxyctl"


def connections_for(memory: int, workers: int) -> int:
    """`worker_connections` for a host with so many bytes of memory: as many in all workers as fit into a quarter of it."""
    each = memory // 4 // BYTES_OF_CONNECTION // max(1, workers)
    return min(MOST_CONNECTIONS, max(LEAST_CONNECTIONS, _power_of_two(each + 1) // 2))


def worker_limits(connections: int, hosts: int, open_files: int) -> tuple[int, int]:
    """(worker_connections, worker_rlimit_nofile). `open_files`: the hard limit of nginx's processes, which they may not raise;
    0 when it is not known."""
    wanted = max(connections, _power_of_two(2 * hosts))
    if not open_files:
        return wanted, 2 * wanted
    return min(wanted, open_files * 3 // 4), min(2 * wanted, open_files)


def alive_files(vhosts: Iterable[VirtualHost]) -> frozenset[str]:
    """Names of the upstreams that have a target, and `UPSTREAM.ADDRESS:PORT` of each of these targets. A site in maintenance has
    them, too."""
    found: list[str] = []
    for vhost in vhosts:
        for where in vhost.locations:
            if where.serving:
                name = upstream_name(vhost.host, where.path)
                found += (name, *(f"{name}.{_bracketed(t.target.address)}:{t.target.port}" for t in where.serving))
    return frozenset(found)


def _marks(count: int) -> list[str]:
    return [f"{_MARK}{number}{_MARK}" for number in range(count)]


def _filled(shape: str, words: list[str]) -> str:
    """With each mark replaced by the word of its number."""
    pieces = shape.split(_MARK)
    pieces[1::2] = [words[int(number)] for number in pieces[1::2]]
    return "".join(pieces)


def without_targets(table: RouteTable) -> RouteTable:
    """The table as nginx answers it when nothing lives."""
    return RouteTable(
        tuple(replace(v, locations=tuple(replace(loc, targets=(), fail_open=False) for loc in v.locations)) for v in table.vhosts)
    )


@lru_cache(MOST_SHAPES)
def _below(path: str) -> tuple[str, str]:
    """A variable for each path, and a regular expression that takes each of its characters as it is or percent-encoded, and each
    slash once or more, as nginx does. A slash that is encoded is no slash here, and dots are not resolved."""
    pieces = ["/+" if char == "/" else f"(?:[{char}]|%{_hex(ord(char))})" for char in path]
    return f"$proxyctl_below_{_digest(path)[:16]}", f"~^{''.join(pieces)}(?<proxyctl_below>/.*)"


def _hex(code: int) -> str:
    """`2B` in either case, as a pattern."""
    return "".join(digit if digit.isdigit() else f"[{digit}{digit.lower()}]" for digit in f"{code:02X}")


def _networks(cidrs: Iterable[str]) -> list[str]:
    """The same addresses without overlaps, and `0.0.0.0/0` and `::/0` as two halves: `geo` warns of a network that it has twice,
    and its `default` is a network, too."""
    networks = [ip_network(_safe(cidr)) for cidr in cidrs]
    collapsed: tuple[IPv4Network | IPv6Network, ...] = (
        *collapse_addresses(network for network in networks if isinstance(network, IPv4Network)),
        *collapse_addresses(network for network in networks if isinstance(network, IPv6Network)),
    )
    return [str(part) for network in collapsed for part in (network.subnets() if network.prefixlen == 0 else (network,))]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _safe(text: str) -> str:
    """The last lock: no value that reaches a template can end a directive, open a block or start a comment."""
    if not _SAFE.fullmatch(text):
        raise Unsafe(f"{text!a} cannot be written into nginx's configuration")
    return text


def _bracketed(address: str) -> str:
    return _safe(f"[{address}]" if ":" in address else address)


def _bucket(longest: int) -> int:
    """server_names_hash_bucket_size for the longest name: a pointer, the name, and an end mark. 64 is nginx's default on common
    processors."""
    return max(64, _power_of_two(8 + size_in_hash(longest) + 8))


def _power_of_two(least: int) -> int:
    return 1 << max(0, least - 1).bit_length()
