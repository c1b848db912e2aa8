"""The route table -> nginx's configuration: that nginx reads exactly what the table says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from proxyctl.model import DrainPhase, Location, RouteTable, Scheme
from proxyctl.plan import client_headers
from proxyctl.plan.vhosts import Renderer, upstream_name, without_targets
from tests.unit import make, nginx_tree
from tests.unit.make import location, routed, table
from tests.unit.nginx_tree import Directive


def sites(what: RouteTable, directory: Path, version: tuple[int, ...] = (1, 31, 3)) -> dict[str, Directive]:
    """Server blocks by name, the three that are always there left out."""
    view = nginx_tree.view(directory, version)
    http = nginx_tree.http(make.render(what, view, make.settings(wait_after_boot=False)), directory)
    named = {server.one("server_name").args[0]: server for server in http.all("server")}
    assert len(named) == len(http.all("server"))
    return {name: server for name, server in named.items() if name not in ("", "f" * 32, "starting.proxyctl.invalid")}


def upstreams(what: RouteTable, directory: Path) -> dict[str, Directive]:
    view = nginx_tree.view(directory)
    http = nginx_tree.http(make.render(what, view, make.settings(wait_after_boot=False)), directory)
    return {upstream.args[0]: upstream for upstream in http.all("upstream")}


def locations(server: Directive) -> dict[tuple[str, ...], Directive]:
    """Those that requests are matched with."""
    places = [place for place in server.all("location") if not place.args[0].startswith("@")]
    found = {place.args: place for place in places}
    assert len(found) == len(places)
    return found


def retry(server: Directive) -> Directive:
    """The location of a second try."""
    (found,) = (place for place in server.all("location") if place.args[0].startswith("@"))
    return found


def headers(block: Directive, module: str = "proxy") -> dict[str, str]:
    return {header.args[0]: header.args[1] for header in block.all(f"{module}_set_header")}


def test_a_host_is_one_server_block_with_one_name(tmp_path: Path) -> None:
    what = table(("a.example", location("/", routed())), ("*.b.example", location("/git", routed())))
    found = sites(what, tmp_path)
    assert found.keys() == {"a.example", "*.b.example"}
    assert [server.one("listen").args for server in found.values()] == [("80",), ("80",)]


def test_a_path_is_itself_and_everything_below_it_and_not_what_only_starts_like_it(tmp_path: Path) -> None:
    server = sites(table(("a.example", location("/git", routed()))), tmp_path)["a.example"]
    assert locations(server).keys() == {("=", "/git"), ("/git/",)}


def test_the_root_is_one_location(tmp_path: Path) -> None:
    assert locations(sites(make.site(), tmp_path)["a.example"]).keys() == {("/",)}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_requests_are_passed_to_the_places_upstream_as_they_came(scheme: Scheme, tmp_path: Path) -> None:
    server = sites(table(("a.example", location("/git", routed(), scheme=scheme))), tmp_path)["a.example"]
    upstream = upstream_name("a.example", "/git")
    passed = Directive("proxy_pass", (f"{scheme}://{upstream}",))
    retried = Directive("error_page", ("502", "504", "=", f"@{upstream}"))
    assert [place.block for place in locations(server).values()] == [(passed, retried)] * 2
    assert retry(server).one("proxy_pass").args == (f"{scheme}://{upstream}$proxyctl_uri",)


@pytest.mark.parametrize("scheme", ["grpc", "grpcs"])
def test_grpc_is_passed_as_grpc(scheme: Scheme, tmp_path: Path) -> None:
    server = sites(table(("a.example", location("/", routed(), scheme=scheme))), tmp_path)["a.example"]
    assert server.one("location").one("grpc_pass").args == (f"{scheme}://{upstream_name('a.example', '/')}",)
    assert not server.one("location").all("proxy_pass")


def test_a_stripped_path_is_cut_off_and_told_to_the_target(tmp_path: Path) -> None:
    server = sites(table(("a.example", location("/git", routed(), strip=True))), tmp_path)["a.example"]
    exact, below = locations(server).values()
    upstream = f"http://{upstream_name('a.example', '/git')}"
    passed = [place.one("proxy_pass").args for place in (exact, below, retry(server))]
    assert passed == [(f"{upstream}$proxyctl_uri",)] * 3
    assert [place.all("set")[0].args for place in (exact, below)] == [("$proxyctl_prefix", "/git")] * 2
    assert exact.all("set")[1].args == ("$proxyctl_uri", "/$is_args$args")
    assert below.all("set")[1].args[1].startswith("$proxyctl_below_")


def test_no_location_has_headers_of_its_own(tmp_path: Path) -> None:
    """nginx inherits proxy_set_header only where a level has none (ngx_http_proxy_module)."""
    what = table(("a.example", location("/git", routed(), strip=True)))
    assert not [place for place in sites(what, tmp_path)["a.example"].all("location") if place.all("proxy_set_header")]


def test_there_is_nothing_to_strip_from_the_root(tmp_path: Path) -> None:
    server = sites(table(("a.example", location("/", routed(), strip=True))), tmp_path)["a.example"]
    assert locations(server)["/",].one("proxy_pass").args == (f"http://{upstream_name('a.example', '/')}",)


@pytest.mark.parametrize("path", ["/", "/git"])
def test_a_place_without_a_target_says_503_by_itself(path: str, tmp_path: Path) -> None:
    what = table(("a.example", location(path, routed(serving=False))))
    for place in sites(what, tmp_path)["a.example"].all("location"):
        assert place.one("return").args[0] == "503"
        assert place.one("add_header").args == ("Retry-After", "2", "always")
        assert not place.all("proxy_pass")
    assert upstreams(what, tmp_path) == {}


def test_one_dead_path_leaves_the_others_of_its_host_alone(tmp_path: Path) -> None:
    what = table(("a.example", location("/", routed())), ("a.example", location("/git")))
    found = locations(sites(what, tmp_path)["a.example"])
    assert [inner.name for inner in found["/",].block] == ["proxy_pass", "error_page"]
    assert found["/git/",].one("return").args[0] == "503"


def test_an_upstream_has_the_targets_that_serve_and_no_other(tmp_path: Path) -> None:
    place = location("/", routed("10.0.0.5:80"), routed("10.0.0.6:81", weight=3), routed("10.0.0.7:82", serving=False))
    (found,) = upstreams(table(("a.example", place)), tmp_path).values()
    assert [server.args for server in found.all("server")] == [
        ("10.0.0.5:80", "max_fails=0"),
        ("10.0.0.6:81", "weight=3", "max_fails=0"),
    ]


def test_a_lone_target_is_never_taken_out_by_nginx(tmp_path: Path) -> None:
    (found,) = upstreams(make.site(), tmp_path).values()
    assert found.one("server").args == ("10.0.0.5:80",)


def test_an_ipv6_target_is_written_in_brackets(tmp_path: Path) -> None:
    (found,) = upstreams(table(("a.example", location("/", routed("[fd00::5]:80")))), tmp_path).values()
    assert found.one("server").args == ("[fd00::5]:80",)


def test_upstreams_keep_fewer_seconds_than_targets_do(tmp_path: Path) -> None:
    """Or POSTs are lost on connections that the target has closed (FACTS: 4 s is a safe default)."""
    (found,) = upstreams(make.site(), tmp_path).values()
    assert found.one("keepalive_timeout").args == ("4s",)


def test_the_name_of_an_upstream_is_that_of_its_place_whoever_serves_it() -> None:
    assert upstream_name("a.example", "/git") == upstream_name("a.example", "/git")
    assert len({upstream_name(host, path) for host in ("a.example", "b.example") for path in ("/", "/git")}) == 4


def test_ipv6_is_listened_on_when_nginx_has_it(tmp_path: Path) -> None:
    view = nginx_tree.view(tmp_path, ipv6=True)
    http = nginx_tree.http(make.render(make.site(), view, make.settings(wait_after_boot=False)), tmp_path)
    for server in http.all("server"):
        assert [listen.args[0] for listen in server.all("listen")] == ["80", "[::]:80"]


def test_the_unknown_host_is_404_and_the_token_tells_the_digest(tmp_path: Path) -> None:
    fileset = make.render(make.site(), nginx_tree.view(tmp_path), make.settings(wait_after_boot=False))
    named = {server.one("server_name").args[0]: server for server in nginx_tree.http(fileset, tmp_path).all("server")}
    assert named["f" * 32].one("return").args == ("200", f"{fileset.digest}\\n")
    assert "default_server" in named[""].one("listen").args
    ready, others = named[""].all("location")
    assert (others.args, others.one("return").args[0]) == (("/",), "404")
    assert (ready.args, ready.one("return").args) == (("=", "/-/ready"), ("200", "ready\\n"))


@pytest.mark.parametrize("drain", ["noticing", "ending"])
def test_a_balancer_is_told_to_leave_by_nginx_itself(drain: DrainPhase, tmp_path: Path) -> None:
    fileset = make.render(make.site(), nginx_tree.view(tmp_path), make.settings(wait_after_boot=False, drain=drain))
    servers = {server.one("server_name").args[-1]: server for server in nginx_tree.http(fileset, tmp_path).all("server")}
    ready, _ = servers["ready.proxyctl.invalid"].all("location")
    assert ready.one("return").args == ("503", f"{drain}\\n")


def test_the_token_is_not_the_server_that_strangers_get(tmp_path: Path) -> None:
    fileset = make.render(make.site(), nginx_tree.view(tmp_path), make.settings(wait_after_boot=False))
    servers = nginx_tree.http(fileset, tmp_path).all("server")
    assert [s.one("server_name").args for s in servers if any("default_server" in x.args for x in s.all("listen"))] == [
        ("", "ready.proxyctl.invalid")
    ]


@pytest.mark.parametrize(
    ("version", "names", "host"),
    [
        ((1, 22, 1), set(), "$host$proxyctl_port"),
        ((1, 25, 1), {"http2"}, "$host$proxyctl_port"),
        ((1, 27, 4), {"http2", "keepalive_min_timeout"}, "$host$proxyctl_port"),
        ((1, 31, 3), {"http2", "keepalive_min_timeout"}, "$host$is_request_port$request_port"),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_an_older_nginx_is_not_given_what_it_does_not_know(
    version: tuple[int, ...], names: set[str], host: str, tmp_path: Path
) -> None:
    http = nginx_tree.http(make.render(None, nginx_tree.view(tmp_path, version)), tmp_path)
    assert {inner.name for inner in http.block} & {"http2", "keepalive_min_timeout"} == names
    assert headers(http)["Host"] == host


def test_without_trusted_proxies_nothing_that_a_client_says_of_itself_passes(tmp_path: Path) -> None:
    http = nginx_tree.http(make.render(None, nginx_tree.view(tmp_path)), tmp_path)
    for module in ("proxy", "grpc"):
        told = headers(http, module)
        assert told["X-Real-IP"] == told["X-Forwarded-For"] == "$remote_addr"
        assert told["X-Forwarded-Proto"] == "$scheme"
        assert told["X-Forwarded-Host"] == told["Host"]
        assert {told[name] for name in (*client_headers.REMOVED, *client_headers.CLIENT_SAYS)} == {""}
    assert not http.all("set_real_ip_from")


@pytest.mark.parametrize("host", ["w.example", "*.w.example"])
@pytest.mark.parametrize("scheme", ["http", "https", "grpc", "grpcs"])
def test_only_an_upstream_of_one_name_keeps_tls_connections(host: str, scheme: Scheme, tmp_path: Path) -> None:
    what = table((host, location("/", routed(), scheme=scheme)))
    (found,) = upstreams(what, tmp_path).values()
    many = host.startswith("*.") and scheme in ("https", "grpcs")
    assert found.one("keepalive").args == ("0" if many else "32",)
    places = sites(what, tmp_path)[host].all("location")
    assert len(places) == (1 if scheme.startswith("grpc") else 2)
    module = "grpc" if scheme.startswith("grpc") else "proxy"
    for place in places:
        assert [inner.name for inner in place.block if inner.args == ("off",)] == [f"{module}_ssl_session_reuse"] * many


def test_an_upstream_follows_the_version_of_nginx(tmp_path: Path) -> None:
    """One renderer lives through an upgrade of nginx, and remembers what it has rendered."""
    what = table(("*.w.example", location("/", routed(), scheme="https")))
    found = [make.render(what, nginx_tree.view(tmp_path, version)) for version in ((1, 22, 1), (1, 31, 3), (1, 22, 1))]
    texts = ["".join(file.text for file in fileset.objects.values()) for fileset in found]
    assert ["keepalive 0;" in text for text in texts] == [False, True, False]


def test_trusted_networks_do_not_overlap(tmp_path: Path) -> None:
    """nginx warns of each that it has already, and `default` is 0.0.0.0/0 to it."""
    how = make.settings(trusted_proxies=("10.1.0.0/16", "0.0.0.0/0", "FD00::/8", "fd00::/9", "::1", "::1"))
    http = nginx_tree.http(make.render(None, nginx_tree.view(tmp_path), how), tmp_path)
    assert [item.name for item in http.one("geo").block] == ["default", "0.0.0.0/1", "128.0.0.0/1", "::1/128", "fd00::/8"]


def test_a_trusted_proxy_is_believed_and_nobody_else(tmp_path: Path) -> None:
    how = make.settings(trusted_proxies=("10.0.0.0/8", "fd00::/8"))
    http = nginx_tree.http(make.render(None, nginx_tree.view(tmp_path), how), tmp_path)
    assert [item.args for item in http.all("set_real_ip_from")] == [("10.0.0.0/8",), ("fd00::/8",)]
    assert (http.one("real_ip_header").args, http.one("real_ip_recursive").args) == (("X-Forwarded-For",), ("on",))
    geo = http.one("geo")
    assert geo.args == ("$realip_remote_addr", "$proxyctl_trusted")
    assert [(item.name, *item.args) for item in geo.block] == [("default", "0"), ("10.0.0.0/8", "1"), ("fd00::/8", "1")]
    maps = {item.args[1]: {(inner.name, *inner.args) for inner in item.block} for item in http.all("map")}
    assert ("default", "$remote_addr") in maps["$proxyctl_forwarded_for"]
    assert ("default", "$scheme") in maps["$proxyctl_forwarded_proto"]
    assert ("default", "$proxyctl_seen_port") in maps["$proxyctl_forwarded_port"]
    assert ("default", "$host$is_request_port$request_port") in maps["$proxyctl_forwarded_host"]


def test_targets_cannot_reach_internal_locations_through_their_answers(tmp_path: Path) -> None:
    http = nginx_tree.http(make.render(None, nginx_tree.view(tmp_path)), tmp_path)
    for module in ("proxy", "grpc"):
        assert "X-Accel-Redirect" in http.one(f"{module}_ignore_headers").args


def test_a_configuration_of_this_boot_is_published_by_its_mark_and_a_draft_by_itself(tmp_path: Path) -> None:
    fileset = make.render(make.site(), nginx_tree.view(tmp_path), make.settings(wait_after_boot=True))
    main = nginx_tree.write(fileset, tmp_path)
    before = nginx_tree.parse(main).one("http")
    assert [server.one("server_name").args for server in before.all("server")] == [("starting.proxyctl.invalid",)]
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "live").symlink_to(tmp_path)
    after = nginx_tree.parse(main).one("http")
    draft = nginx_tree.parse(tmp_path / "drafts" / main.name).one("http")
    names = [server.one("server_name").args for server in after.all("server")]
    assert ("a.example",) in names
    assert [s.one("server_name").args for s in draft.all("server")] == [*names, ("sample.proxyctl.invalid",)]


def test_hand_written_vhosts_are_included_as_they_are(tmp_path: Path) -> None:
    own = {"own.conf": "server { listen 80; server_name own.example; root /srv; }\n"}
    fileset = make.render(make.site(), nginx_tree.view(tmp_path), make.settings(wait_after_boot=False), own)
    names = {server.one("server_name").args[0] for server in nginx_tree.http(fileset, tmp_path).all("server")}
    assert {"a.example", "own.example"} <= names


def test_a_table_without_targets_is_what_nginx_answers_when_nothing_lives() -> None:
    before = table(("a.example", location("/", routed())))
    assert without_targets(before) == table(("a.example", location("/")))
    assert isinstance(without_targets(before).vhosts[0].locations[0], Location)


def test_an_own_template_has_what_jinja_gives_to_all() -> None:
    """`range`, `namespace`: the names that every template can use."""
    own = (
        "{% set seen = namespace(n=0) %}{% for n in range(3) %}{% set seen.n = seen.n + n %}{% endfor %}# {{ seen.n }} {{ name }}"
    )
    fileset = make.render(make.site(), renderer=Renderer(make.templates(server=own)))
    assert any("# 3 a.example" in file.text for file in fileset.objects.values())


def test_names_of_upstreams_have_many_lengths() -> None:
    """nginx compares those that are equally long with each other while it parses: no length has more than its share."""
    names = {upstream_name(f"app{n}.example", "/") for n in range(1600)}
    lengths = Counter(map(len, names))
    assert (len(names), len(lengths)) == (1600, 16)
    assert max(lengths.values()) < 200
