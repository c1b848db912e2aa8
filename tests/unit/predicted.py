"""What nginx must read, said from the typed model alone: the whole tree, comments too, without the templates or their renderer.

What comes from the model is one argument each, whatever is in it; `say` is for words that are the same for everybody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

from proxyctl.model import Location, NginxView, RouteTable, VirtualHost
from proxyctl.plan import client_headers
from proxyctl.plan.vhosts import NginxSettings, upstream_name
from tests.unit import make
from tests.unit.nginx_tree import Directive

READY = "ready.proxyctl.invalid"
UNKNOWN = "<!doctype html><title>Unknown host</title><h1>Unknown host</h1><p>No site of this name is served here.</p>\\n"
STARTING = (
    "<!doctype html><title>Starting</title><h1>Starting</h1><p>This host has just booted; its sites are not routed yet.</p>\\n"
)
DEAD = "<!doctype html><title>Unavailable</title><h1>Unavailable</h1><p>This site has no healthy server at the moment.</p>\\n"

BROKEN = "<!doctype html><title>Bad gateway</title><h1>Bad gateway</h1><p>The server of this site broke off its answer.</p>\\n"
SILENT = "<!doctype html><title>Gateway timeout</title><h1>Gateway timeout</h1><p>The server of this site does not answer.</p>\\n"


def say(text: str, *block: Directive) -> Directive:
    name, *args = text.split(" ")
    return Directive(name, tuple(args), block)


def comment(text: str) -> Directive:
    return Directive("#", (f" {text}",))


def in_order(tree: Directive) -> Directive:
    """Hosts and upstreams sorted: their order is nothing to nginx. What is written for everybody keeps its own."""
    *before, http = tree.block
    for_all = {Directive("server_name", ("",)), Directive("server_name", (make.TOKEN,))}
    fixed = max(n for n, inner in enumerate(http.block) if for_all.intersection(inner.block)) + 1
    objects = sorted(http.block[fixed:], key=repr)
    return Directive("", (), (*before, Directive(http.name, http.args, (*http.block[:fixed], *objects))))


def networks(cidrs: Iterable[str]) -> list[str]:
    """Without overlaps, and everybody in two halves: `geo` has a network of everybody already, the default."""
    halves = {"0.0.0.0/0": ["0.0.0.0/1", "128.0.0.0/1"], "::/0": ["::/1", "8000::/1"]}
    v4 = collapse_addresses(network for cidr in cidrs if isinstance(network := ip_network(cidr), IPv4Network))
    v6 = collapse_addresses(network for cidr in cidrs if isinstance(network := ip_network(cidr), IPv6Network))
    return [text for network in (*v4, *v6) for text in halves.get(str(network), [str(network)])]


def stripped(place: Location) -> bool:
    return place.strip_path and place.path != "/" and place.scheme in ("http", "https")


def many_names(host: str, place: Location) -> bool:
    return host.startswith("*.") and place.scheme in ("https", "grpcs")


def below(path: str) -> str:
    return f"$proxyctl_below_{hashlib.sha256(path.encode()).hexdigest()[:16]}"


def either(digits: str) -> str:
    """Hexadecimal digits in upper and in lower case, as a pattern."""
    return "".join(char if char.isdigit() else f"[{char}{char.lower()}]" for char in digits)


class Expected:
    """Of one nginx: its version decides what it is given."""

    def __init__(self, view: NginxView, settings: NginxSettings) -> None:
        self.view, self.settings = view, settings
        self.host = "$host$is_request_port$request_port" if view.version >= (1, 29, 3) else "$host$proxyctl_port"

    def configuration(self, table: RouteTable, digest: str) -> Directive:
        """What is published. The digest cannot be said from the model: it is of the text."""
        if self.settings.included:
            why = "Written by proxyctl for an nginx.conf of somebody else. Nothing in it holds for other servers than its own."
            ours = (comment(why), *self.maps(), *self.manifest(digest), *self.objects(table))
            return Directive("", (), (say("events"), Directive("http", (), ours)))
        return Directive(
            "",
            (),
            (
                comment(
                    "nginx.conf, written by proxyctl. Change the configuration or the templates instead: this file is replaced."
                ),
                Directive("worker_processes", (str(self.settings.workers),)),
                Directive("worker_shutdown_timeout", (f"{self.settings.shutdown_timeout}s",)),
                say("worker_rlimit_nofile 8192"),
                say("error_log stderr warn"),
                say("pid /run/nginx.pid"),
                say("events", say("worker_connections 4096")),
                Directive("http", (), (*self.frame(table), *self.manifest(digest), *self.objects(table))),
            ),
        )

    def frame(self, table: RouteTable) -> list[Directive]:
        hosts = [vhost.host for vhost in table.vhosts]
        longest = max(map(len, hosts), default=0)
        bucket = next(size for size in (64, 128, 256, 512) if size >= 16 + -8 * (-(longest + 2) // 8))
        most = next(1 << n for n in range(10, 30) if 1 << n >= 2 * len(hosts))
        folders = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        return [
            *map(say, ("access_log off", "server_tokens off", "default_type application/octet-stream")),
            say("underscores_in_headers on"),
            *map(say, ("variables_hash_max_size 4096", "variables_hash_bucket_size 128")),
            Directive("server_names_hash_bucket_size", (str(bucket),)),
            Directive("server_names_hash_max_size", (str(most),)),
            *(Directive(f"{name}_temp_path", (f"{self.view.logs_dir}/tmp/{name}",)) for name in folders),
            *self.site(grpc=True),
            say("tcp_nopush on"),
            *([say("http2 on")] if self.view.version >= (1, 25, 1) else ()),
            *self.maps(),
            comment("Answers for everybody until the first configuration of this boot is published, for nobody afterwards."),
            Directive(
                "server",
                (),
                (
                    *self.listen("reuseport", "backlog=4096", "so_keepalive=2m:30s:4"),
                    say("server_name starting.proxyctl.invalid"),
                    *self.sorry("503", STARTING),
                ),
            ),
        ]

    def site(self, *, grpc: bool) -> list[Directive]:
        """For all sites: once, or in each server of an included file."""
        cidrs = networks(self.settings.trusted_proxies)
        believed = [*(Directive("set_real_ip_from", (cidr,)) for cidr in cidrs), say("real_ip_header X-Forwarded-For")]
        return [
            *map(say, ("keepalive_timeout 75s", "keepalive_requests 10000")),
            *([say("keepalive_min_timeout 5s")] if self.view.version >= (1, 27, 4) else ()),
            *(() if self.settings.included else [say("client_header_timeout 10s")]),
            say("large_client_header_buffers 4 64k"),
            Directive("client_body_timeout", (f"{self.settings.read_timeout}s",)),
            Directive("send_timeout", (f"{self.settings.send_timeout}s",)),
            Directive("client_max_body_size", (self.settings.client_max_body_size,)),
            *(
                map(say, ("client_body_buffer_size 128k", "limit_conn proxyctl_bodies 256"))
                if self.settings.request_buffering
                else ()
            ),
            *([*believed, say("real_ip_recursive on")] if cidrs else ()),
            *map(say, ("proxy_headers_hash_max_size 2048", "proxy_headers_hash_bucket_size 128")),
            *self.headers("proxy"),
            say("proxy_http_version 1.1"),
            *self.timing("proxy"),
            say("proxy_ignore_headers X-Accel-Redirect X-Accel-Limit-Rate X-Accel-Charset"),
            *self.tls("proxy"),
            *([say("proxy_pass_trailers on")] if self.view.version >= (1, 27, 2) else ()),
            *([say("early_hints $proxyctl_early_hints")] if self.view.version >= (1, 29, 0) else ()),
            *(self.grpc() if grpc else ()),
        ]

    def grpc(self) -> list[Directive]:
        ignored = say("grpc_ignore_headers X-Accel-Redirect X-Accel-Charset")
        return [*self.headers("grpc"), *self.timing("grpc"), ignored, *self.tls("grpc")]

    def maps(self) -> list[Directive]:
        cidrs = networks(self.settings.trusted_proxies)
        nothing, found = Directive("default", ("",)), "$proxyctl_trusted"
        empty, believed_port = Directive("", ("",)), "$proxyctl_forwarded_port"
        maps = [
            comment("Any protocol may be upgraded to but h2c, which would be a tunnel past every rule here."),
            say(
                "map $http_upgrade $proxyctl_upgrade",
                *(say("default $http_upgrade"), empty),
                *(say("~*h2c.*websocket|websocket.*h2c websocket"), Directive("~*h2c", ("",))),
            ),
            say("map $proxyctl_upgrade $proxyctl_connection", say("default upgrade"), Directive("", ("",))),
        ]
        maps += self.retries()
        if self.view.version < (1, 29, 3):
            why = "$http_host is not the host that was asked for when the request line names another one; $host has no port."
            port = Directive("~:(?<proxyctl_digits>[0-9]+)$", ("$proxyctl_digits",))
            maps += [comment(why), say("map $http_host $proxyctl_request_port", nothing, port)]
            maps += [say("map $proxyctl_request_port $proxyctl_port", say("default :$proxyctl_request_port"), empty)]
        maps += [comment("A location that strips its prefix sets others.")]
        maps += [Directive("map", ("", name), (nothing,)) for name in ("$proxyctl_prefix", "$proxyctl_uri")]
        if self.view.version >= (1, 29, 0):
            why = "Many libraries take a 103 for the final answer, so only browsers and HTTP/2 clients get one."
            seen = Directive("~^navigate |HTTP/2", ("1",))
            key = "$http_sec_fetch_mode $server_protocol"
            maps += [comment(why), Directive("map", (key, "$proxyctl_early_hints"), (nothing, seen))]
        if self.settings.request_buffering:
            which = (
                "Requests whose body may go into a temporary file: of 100,000 bytes or more, or of a length that is not known."
            )
            by_method = "HTTP/2 does not say of a request that it has no body; by its method it is known."
            uncounted = ("~^:[0-9]{1,5}:", "~^::HTTP/1", "~^::.* (GET|HEAD|OPTIONS|DELETE)$")
            kinds = (say("default 1"), *(Directive(pattern, ("",)) for pattern in uncounted))
            source = "$http_transfer_encoding:$http_content_length:$server_protocol $request_method"
            maps += [comment(which), comment(by_method), Directive("map", (source, "$proxyctl_body"), kinds)]
            maps += [say("limit_conn_zone $proxyctl_body zone=proxyctl_bodies:32k")]
            maps += [
                comment("Counts nothing, since the key is empty."),
                Directive("map", ("", "$proxyctl_uncounted"), (nothing,)),
            ]
            maps += [say("limit_conn_zone $proxyctl_uncounted zone=proxyctl_streamed:32k")]
        if not cidrs:
            asked = "$request_port" if self.view.version >= (1, 29, 3) else "$proxyctl_request_port"
            return [
                *maps,
                say("map $scheme $proxyctl_scheme_port", say("default 80"), say("https 443")),
                say(f"map {asked} {believed_port}", say(f"default {asked}"), Directive("", ("$proxyctl_scheme_port",))),
            ]
        chain = Directive("~^1:", ("$http_x_forwarded_for, $realip_remote_addr",))
        names = [(number, name.lower().replace("-", "_")) for number, name in enumerate(client_headers.CLIENT_SAYS, 1)]
        return [
            *maps,
            comment("What a trusted proxy in front says of the client is believed; what anybody else says is replaced."),
            say(f"geo $realip_remote_addr {found}", say("default 0"), *(Directive(cidr, ("1",)) for cidr in cidrs)),
            say(
                f"map {found}:$http_x_forwarded_for $proxyctl_forwarded_for",
                *(say("default $remote_addr"), Directive("~^1:[ ,]*$", ("$realip_remote_addr",)), chain),
            ),
            say(
                f"map {found}:$http_x_forwarded_proto $proxyctl_forwarded_proto",
                say("default $scheme"),
                Directive("~*^1:[ ,]*(https|wss) *(,|$)", ("https",)),
                Directive("~*^1:[ ,]*(http|ws) *(,|$)", ("http",)),
            ),
            say(
                f"map {found}:$http_x_forwarded_host $proxyctl_forwarded_host",
                Directive("default", (self.host,)),
                Directive("~^1:[ ,]*(?<proxyctl_first_host>[^ ,]+)", ("$proxyctl_first_host",)),
            ),
            say(
                f"map {found}:$http_x_forwarded_port {believed_port}",
                say("default $proxyctl_seen_port"),
                Directive("~^1:[ ,]*(?<proxyctl_first_port>[0-9]+) *(,|$)", ("$proxyctl_first_port",)),
            ),
            Directive(
                "map",
                ("$proxyctl_forwarded_host $proxyctl_forwarded_proto", "$proxyctl_seen_port"),
                (
                    say("default 80"),
                    Directive("~:(?<proxyctl_host_port>[0-9]+) ", ("$proxyctl_host_port",)),
                    Directive("~ https$", ("443",)),
                ),
            ),
            *(say(f"map {found} $proxyctl_c{number}", nothing, say(f"1 $http_{name}")) for number, name in names),
        ]

    def retries(self) -> list[Directive]:
        """When a request is tried again, in the words of variables.j2."""
        why = """\
            The status with which a request ends that got no answer, or 0 when it is tried again. nginx itself tries another
            target after a connect timeout only: for other errors it would go on to as many targets as it has idle connections to,
            and a request that ends its process would end them all."""
        source = "$proxyctl_same$request_method $upstream_status; $upstream_bytes_sent"
        first: list[Directive] = []
        streamed: tuple[Directive, ...] = ()
        if not self.settings.request_buffering:
            source = f"$proxyctl_body{source}"
            bodies = "Requests with a body. It is streamed to one target, and another location could send a part of it only."
            without = (Directive(pattern, ("",)) for pattern in ("~^:0?:HTTP/1", "~^:0?:.* (GET|HEAD|OPTIONS|DELETE)$"))
            key = "$http_transfer_encoding:$http_content_length:$server_protocol $request_method"
            first = [comment(bodies), Directive("map", (key, "$proxyctl_body"), (say("default 1"), *without))]
            streamed = (Directive("~^1.*504;", ("504",)), Directive("~^1", ("502",)))
        again = "(GET|HEAD|OPTIONS|TRACE|PUT|DELETE)"
        first_sent = "([0-][ ,:]+)*[1-9][0-9]*([ ,:]+[0-])*"
        block = (
            say("volatile"),
            say("default 502"),
            *streamed,
            comment("Three retries timed out, or there were many of another kind."),
            Directive("~(:.*504.*){3};", ("504",)),
            Directive("~^[^ ]+ ([0-9-]+[ ,:]+){8}", ("502",)),
            comment("Nothing was sent."),
            Directive("~; [0-]([ ,:]+[0-])*$", ("0",)),
            comment("It was sent once, or twice to one target, and may be repeated, unless its target was waited for."),
            Directive("~504;", ("504",)),
            Directive("~504.*;", ("502",)),
            Directive(f"~^(same)?{again} .*; {first_sent}$", ("0",)),
            Directive(f"~^same{again} .*; {first_sent}[ ,:]+[1-9][0-9]*([ ,:]+[0-])*$", ("0",)),
        )
        last = Directive("~504; (.*[ ,])?(?<proxyctl_waited_for>[^ ,]+)$", (".$proxyctl_waited_for",))
        waited = (say("volatile"), Directive("default", ("",)), last)
        own = (Directive("default", ("",)), Directive("~^503 (.*[ ,:])?50[24]$", ("2",)))
        whether = "Whether all tries met one target: the next may be at another idle connection of a process that is ending."
        met = (say("volatile"), Directive("default", ("",)), Directive(r"~^([^ ,]+)([ ,:]+\1)*$", ("same",)))
        return [
            *first,
            comment(whether),
            Directive("map", ("$upstream_addr", "$proxyctl_same"), met),
            *(comment(line.strip()) for line in why.splitlines()),
            Directive("map", (source, "$proxyctl_stop"), block),
            comment("The address that could not be connected to in time, where that was the end of the last try."),
            Directive("map", ("$upstream_status; $upstream_addr", "$proxyctl_waited"), waited),
            comment("A 503 that is not the target's own says when to come back."),
            Directive("map", ("$status $upstream_status", "$proxyctl_retry_after"), own),
        ]

    def headers(self, module: str) -> list[Directive]:
        trusted = bool(self.settings.trusted_proxies)
        said = {name: f"$proxyctl_c{number}" if trusted else "" for number, name in enumerate(client_headers.CLIENT_SAYS, 1)}
        aliases = client_headers.ALIASES if module == "proxy" and not self.settings.included else ()
        told = {
            "Host": self.host,
            **({"Upgrade": "$proxyctl_upgrade", "Connection": "$proxyctl_connection"} if module == "proxy" else {}),
            "X-Real-IP": "$remote_addr",
            "X-Forwarded-For": "$proxyctl_forwarded_for" if trusted else "$remote_addr",
            "X-Forwarded-Proto": "$proxyctl_forwarded_proto" if trusted else "$scheme",
            "X-Forwarded-Host": "$proxyctl_forwarded_host" if trusted else self.host,
            "X-Forwarded-Port": "$proxyctl_forwarded_port",
            "X-Forwarded-Prefix": "$proxyctl_prefix",
            **dict.fromkeys(client_headers.REMOVED, ""),
            **said,
            **dict.fromkeys(aliases, ""),
        }
        return [Directive(f"{module}_set_header", item) for item in told.items()]

    def timing(self, module: str) -> list[Directive]:
        how = self.settings
        streamed = module == "grpc" or not how.request_buffering
        said = [
            f"connect_timeout {'1500ms' if streamed else '400ms'}",
            f"read_timeout {how.read_timeout}s",
            f"send_timeout {how.send_timeout}s",
            "socket_keepalive on",
            *(self.streaming() if module == "proxy" else ["buffer_size 32k"]),
            f"next_upstream {'error timeout' if streamed else 'timeout'}",
            "next_upstream_tries 2",
            "next_upstream_timeout 10s",
        ]
        return [say(f"{module}_{text}") for text in said]

    def streaming(self) -> list[str]:
        how = self.settings
        return [
            f"buffering {'on' if how.buffering else 'off'}",
            "buffer_size 32k",
            "buffers 8 32k",
            "max_temp_file_size 0",
            f"request_buffering {'on' if how.request_buffering else 'off'}",
        ]

    def tls(self, module: str) -> list[Directive]:
        return [say(f"{module}_ssl_server_name on"), say(f"{module}_ssl_name $host")]

    def listen(self, *more: str) -> list[Directive]:
        return [Directive("listen", (at, *more)) for at in ("80", *(["[::]:80"] if self.view.ipv6 else []))]

    def sorry(self, status: str, page: str) -> list[Directive]:
        again = [say("add_header Retry-After 2 always")] if status == "503" else []
        return [say("default_type text/html"), *again, Directive("return", (status, page))]

    def manifest(self, digest: str) -> list[Directive]:
        token = [
            *self.listen(),
            Directive("server_name", (self.settings.token,)),
            say("access_log off"),
            say("default_type text/plain"),
            Directive("return", ("200", f"{digest}\\n")),
        ]
        names: tuple[str, ...] = ("", READY)
        listen = self.listen("default_server")
        if self.settings.included:
            listen, names = self.listen(), (READY,)
        drain = self.settings.drain
        told = Directive("return", ("200", "ready\\n") if drain == "serving" else ("503", f"{drain}\\n"))
        unknown = [
            *listen,
            Directive("server_name", names),
            Directive("location", ("=", "/-/ready"), (say("default_type text/plain"), told)),
            Directive("location", ("/",), tuple(self.sorry("404", UNKNOWN))),
        ]
        servers = [Directive("server", (), tuple(token)), Directive("server", (), tuple(unknown))]
        return [comment("What is live, written by proxyctl."), *(servers[::-1] if self.settings.included else servers)]

    def objects(self, table: RouteTable) -> list[Directive]:
        """Every host, and the upstreams of its places."""
        found = []
        for vhost in table.vhosts:
            found += [self.below(place.path) for place in vhost.locations if place.serving and stripped(place)]
            found.append(self.server(vhost))
            found += [self.upstream(vhost.host, place) for place in vhost.locations if place.serving]
        return found

    def server(self, vhost: VirtualHost) -> Directive:
        inside = [*self.listen(), Directive("server_name", (vhost.host,)), say("recursive_error_pages on")]
        if self.settings.included:
            inside += self.site(grpc=any(place.scheme in ("grpc", "grpcs") for place in vhost.locations))
        for place in vhost.locations:
            if place.path != "/":
                inside.append(Directive("location", ("=", place.path), tuple(self.passing(vhost.host, place, exact=True))))
            block = tuple(self.passing(vhost.host, place))
            inside.append(Directive("location", ("/" if place.path == "/" else f"{place.path}/",), block))
            if place.serving and place.scheme not in ("grpc", "grpcs"):
                inside.append(self.retry(vhost.host, place))
        return Directive("server", (), tuple(inside))

    def below(self, path: str) -> Directive:
        """What follows the prefix in the path as the client wrote it."""
        found = "".join("/+" if char == "/" else f"(?:[{char}]|%{either(f'{ord(char):02X}')})" for char in path)
        pattern = Directive(f"~^{found}(?<proxyctl_below>/.*)", ("$proxyctl_below",))
        return say(f"map $request_uri {below(path)}", Directive("default", ("",)), pattern)

    def passing(self, host: str, place: Location, *, exact: bool = False) -> list[Directive]:
        if not place.serving:
            return self.sorry("503", DEAD)
        upstream = f"{place.scheme}://{upstream_name(host, place.path)}"
        reuse = [say(f"{place.scheme[:-1].replace('http', 'proxy')}_ssl_session_reuse off")] if many_names(host, place) else []
        if place.scheme in ("grpc", "grpcs"):
            streamed = [say("limit_conn proxyctl_streamed 1")] if self.settings.request_buffering else []
            return [*reuse, *streamed, Directive("grpc_pass", (upstream,))]
        again = Directive("error_page", ("502", "504", "=", f"@{upstream_name(host, place.path)}"))
        if not stripped(place):
            return [*reuse, Directive("proxy_pass", (upstream,)), again]
        uri = [say("set $proxyctl_uri /$is_args$args")]
        if not exact:
            uri = [
                say(f"set $proxyctl_uri {below(place.path)}"),
                Directive("if", ("$proxyctl_uri", "=", ""), (say("return 404"),)),
            ]
        prefix = Directive("set", ("$proxyctl_prefix", place.path))
        return [*reuse, prefix, *uri, Directive("proxy_pass", (f"{upstream}$proxyctl_uri",)), again]

    def retry(self, host: str, place: Location) -> Directive:
        """The next try, in a location of its own."""
        name = upstream_name(host, place.path)
        block = (
            say("default_type text/html"),
            say("add_header Retry-After $proxyctl_retry_after always"),
            Directive("if", ("$proxyctl_stop", "=", "504"), (Directive("return", ("504", SILENT)),)),
            Directive("if", ("$proxyctl_stop",), (Directive("return", ("502", BROKEN)),)),
            Directive("root", (f"{self.view.conf_dir}/alive",)),
            Directive("try_files", (f"/{name}$proxyctl_waited", "=503")),
            Directive("error_page", ("502", "504", "=", f"@{name}")),
            *([say("proxy_ssl_session_reuse off")] if many_names(host, place) else []),
            say("proxy_connect_timeout 1100ms"),
            Directive("proxy_pass", (f"{place.scheme}://{name}$proxyctl_uri",)),
        )
        return Directive("location", (f"@{name}",), block)

    def upstream(self, host: str, place: Location) -> Directive:
        servers = []
        for routed in place.serving:
            address = routed.target.address
            args = [f"[{address}]:{routed.target.port}" if ":" in address else f"{address}:{routed.target.port}"]
            args += [f"weight={routed.weight}"] if routed.weight != 1 else []
            args += ["max_fails=0"] if len(place.serving) > 1 else []
            servers.append(Directive("server", tuple(args)))
        kept = [say("keepalive 32"), say("keepalive_timeout 4s")]
        if many_names(host, place):
            kept = [say("keepalive 0")] if self.view.version >= (1, 29, 7) else []
        return Directive("upstream", (upstream_name(host, place.path),), (*servers, *kept))
