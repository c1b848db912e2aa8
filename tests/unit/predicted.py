"""What nginx must read, said from the typed model alone: the whole tree, comments too, without the templates or their renderer.

What comes from the model is one argument each, whatever is in it; `say` is for words that are the same for everybody.
"""

from __future__ import annotations

from proxyctl.model import Location, NginxView, RouteTable, VirtualHost
from proxyctl.plan.vhosts import NginxSettings, upstream_name
from tests.unit import make
from tests.unit.nginx_tree import Directive

READY = "ready.proxyctl.invalid"
UNKNOWN = "<!doctype html><title>Unknown host</title><h1>Unknown host</h1><p>No site of this name is served here.</p>\\n"
STARTING = (
    "<!doctype html><title>Starting</title><h1>Starting</h1><p>This host has just booted; its sites are not routed yet.</p>\\n"
)
DEAD = "<!doctype html><title>Unavailable</title><h1>Unavailable</h1><p>This site has no healthy server at the moment.</p>\\n"


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
                    *self.listen("reuseport", "backlog=4096"),
                    say("server_name starting.proxyctl.invalid"),
                    *self.sorry("503", STARTING),
                ),
            ),
        ]

    def site(self, *, grpc: bool) -> list[Directive]:
        """For all sites: once, or in each server of an included file."""
        cidrs = self.settings.trusted_proxies
        believed = [*(Directive("set_real_ip_from", (cidr,)) for cidr in cidrs), say("real_ip_header X-Forwarded-For")]
        return [
            *map(say, ("keepalive_timeout 75s", "keepalive_requests 10000")),
            *([say("keepalive_min_timeout 5s")] if self.view.version >= (1, 27, 4) else ()),
            say("client_max_body_size 0"),
            *([*believed, say("real_ip_recursive on")] if cidrs else ()),
            *self.headers("proxy"),
            say("proxy_http_version 1.1"),
            *self.timing("proxy"),
            say("proxy_next_upstream_timeout 10s"),
            say("proxy_ignore_headers X-Accel-Redirect X-Accel-Limit-Rate X-Accel-Charset"),
            *self.tls("proxy"),
            *(self.grpc() if grpc else ()),
        ]

    def grpc(self) -> list[Directive]:
        ignored = say("grpc_ignore_headers X-Accel-Redirect X-Accel-Charset")
        return [*self.headers("grpc"), *self.timing("grpc"), ignored, *self.tls("grpc")]

    def maps(self) -> list[Directive]:
        cidrs = self.settings.trusted_proxies
        nothing, found = Directive("default", ("",)), "$proxyctl_trusted"
        maps = [
            comment("Only websockets may upgrade: an h2c upgrade would be a tunnel past every rule here."),
            say("map $http_upgrade $proxyctl_upgrade", nothing, say("websocket websocket")),
            say("map $proxyctl_upgrade $proxyctl_connection", say("default upgrade"), Directive("", ("",))),
        ]
        if self.view.version < (1, 29, 3):
            why = "$http_host is not the host that was asked for when the request line names another one; $host has no port."
            port = Directive("~(?<proxyctl_digits>:[0-9]+)$", ("$proxyctl_digits",))
            maps += [comment(why), say("map $http_host $proxyctl_port", nothing, port)]
        if not cidrs:
            return maps
        chain = Directive("1", ("$http_x_forwarded_for, $realip_remote_addr",))
        return [
            *maps,
            comment("What a trusted proxy in front says of the client is believed; what anybody else says is replaced."),
            say(f"geo $realip_remote_addr {found}", say("default 0"), *(Directive(cidr, ("1",)) for cidr in cidrs)),
            say(f"map {found} $proxyctl_forwarded_for", say("default $remote_addr"), chain),
            say(
                f"map {found}$http_x_forwarded_proto $proxyctl_forwarded_proto",
                *(say("default $scheme"), say("1http http"), say("1https https")),
            ),
            say(f"map {found} $proxyctl_forwarded_port", nothing, say("1 $http_x_forwarded_port")),
            say(
                f"map {found}$http_x_forwarded_host $proxyctl_forwarded_host",
                *(Directive("default", (self.host,)), say("~^1. $http_x_forwarded_host")),
            ),
        ]

    def headers(self, module: str, prefix: str = "") -> list[Directive]:
        trusted = bool(self.settings.trusted_proxies)
        told = {
            "Host": self.host,
            **({"Upgrade": "$proxyctl_upgrade", "Connection": "$proxyctl_connection"} if module == "proxy" else {}),
            "Proxy": "",
            "Forwarded": "",
            "X-Real-IP": "$remote_addr",
            "X-Forwarded-For": "$proxyctl_forwarded_for" if trusted else "$remote_addr",
            "X-Forwarded-Proto": "$proxyctl_forwarded_proto" if trusted else "$scheme",
            "X-Forwarded-Host": "$proxyctl_forwarded_host" if trusted else self.host,
            "X-Forwarded-Port": "$proxyctl_forwarded_port" if trusted else "",
            "X-Forwarded-Server": "",
            "X-Forwarded-Prefix": prefix,
        }
        return [Directive(f"{module}_set_header", item) for item in told.items()]

    def timing(self, module: str) -> list[Directive]:
        said = ("connect_timeout 400ms", "read_timeout 300s", "send_timeout 300s", "next_upstream error timeout")
        return [say(f"{module}_{text}") for text in (*said, "next_upstream_tries 5")]

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
            found.append(self.server(vhost))
            found += [self.upstream(vhost.host, place) for place in vhost.locations if place.serving]
        return found

    def server(self, vhost: VirtualHost) -> Directive:
        inside = [*self.listen(), Directive("server_name", (vhost.host,))]
        if self.settings.included:
            inside += self.site(grpc=any(place.scheme in ("grpc", "grpcs") for place in vhost.locations))
        for place in vhost.locations:
            block = tuple(self.passing(vhost.host, place))
            if place.path != "/":
                inside.append(Directive("location", ("=", place.path), block))
            inside.append(Directive("location", ("/" if place.path == "/" else f"{place.path}/",), block))
        return Directive("server", (), tuple(inside))

    def passing(self, host: str, place: Location) -> list[Directive]:
        if not place.serving:
            return self.sorry("503", DEAD)
        upstream = f"{place.scheme}://{upstream_name(host, place.path)}"
        if place.scheme in ("grpc", "grpcs"):
            return [Directive("grpc_pass", (upstream,))]
        if place.strip_path and place.path != "/":
            return [*self.headers("proxy", place.path), Directive("proxy_pass", (f"{upstream}/",))]
        return [Directive("proxy_pass", (upstream,))]

    def upstream(self, host: str, place: Location) -> Directive:
        servers = []
        for routed in place.serving:
            address = routed.target.address
            args = [f"[{address}]:{routed.target.port}" if ":" in address else f"{address}:{routed.target.port}"]
            args += [f"weight={routed.weight}"] if routed.weight != 1 else []
            args += ["max_fails=1", "fail_timeout=2s"] if len(place.serving) > 1 else []
            servers.append(Directive("server", tuple(args)))
        name = (upstream_name(host, place.path),)
        return Directive("upstream", name, (*servers, say("keepalive 32"), say("keepalive_timeout 4s")))
