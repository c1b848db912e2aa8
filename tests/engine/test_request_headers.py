"""What a target gets of a request: its headers, its path, its upgrade; and what a client cannot say."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing

import aiohttp
import pytest

from proxyctl.plan import client_headers
from tests.rig import LOOPBACK, Controller, Rig, free_port
from tests.unit.make import REPOSITORY

HOST, STRIPPED = "say.example", "strip.example"
TARGET = r"""
import socket, threading
def serve(c):
    d = b""
    while True:
        while b"\r\n\r\n" not in d:
            more = c.recv(65536)
            if not more:
                return
            d += more
        head, _, d = d.partition(b"\r\n\r\n")
        if b" /hints" in head.split(b"\r\n")[0]:
            c.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
            c.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n")
        elif b"\r\nupgrade:" in head.lower():
            c.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + head + b"\r\n\r\n")
            while (more := c.recv(65536)):
                c.sendall(more)
            return
        else:
            c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(head) + head)
with socket.create_server(("", 80)) as s:
    while True:
        threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""


@pytest.fixture(scope="module", params=["1.31.3", "1.22"])
def said(request: pytest.FixtureRequest, rig: Rig) -> Iterator[Controller]:
    """Nobody is trusted."""
    controller = rig.controller({"nginx": {"image": f"proxyctl-testbed/nginx:{request.param}"}})
    yield serving(rig, controller)
    controller.stop()


@pytest.fixture(scope="module", params=["1.31.3", "1.22"])
def trusting(request: pytest.FixtureRequest, rig: Rig) -> Iterator[Controller]:
    """Everybody is trusted."""
    proxies = ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/8", "::/0"]
    controller = rig.controller({"nginx": {"image": f"proxyctl-testbed/nginx:{request.param}", "trusted_proxies": proxies}})
    yield serving(rig, controller)
    controller.stop()


def serving(rig: Rig, controller: Controller) -> Controller:
    labels = {
        "port": "80",
        "routes.a.host": HOST,
        "routes.b.host": STRIPPED,
        "routes.b.path": "/git",
        "routes.b.strip-path": "true",
    }
    if not rig.client.containers(filters={"name": f"{rig.run}-saying"}):
        rig.run_container(labels, name="saying", image="proxyctl-testbed/base", args=["python3", "-c", TARGET])
    controller.wait_for(HOST)
    controller.wait_for(STRIPPED, path="/git/")
    return controller


def raw(controller: Controller, request: bytes, more: bytes = b"") -> bytes:
    """All that nginx sends for a request, and for what follows a 101."""
    with closing(socket.create_connection((LOOPBACK, controller.port), timeout=3)) as connection:
        connection.sendall(request)
        found = b""
        while chunk := connection.recv(65536):
            found += chunk
            if more and b"\r\n\r\n" in found.partition(b"\r\n\r\n")[2]:
                connection.sendall(more)
                return found + connection.recv(len(more))
        return found


def got(controller: Controller, *lines: str, host: str = HOST, path: bytes = b"/") -> tuple[str, dict[str, str]]:
    """The request line and the headers that the target got, by lower-case name; several of one name by comma."""
    wanted = [b"GET %s HTTP/1.1" % path, f"Host: {host}".encode(), *map(str.encode, lines), b"Connection: close", b"", b""]
    body = raw(controller, b"\r\n".join(wanted)).partition(b"\r\n\r\n")[2].decode("latin-1")
    line, *fields = body.split("\r\n")
    found: dict[str, str] = {}
    for name, _, value in (field.partition(": ") for field in fields):
        found[name.lower()] = ", ".join((*filter(None, [found.get(name.lower())]), value))
    return line, found


def test_a_stranger_says_nothing_of_itself(said: Controller) -> None:
    names = (*client_headers.REPLACED, *client_headers.REMOVED, *client_headers.CLIENT_SAYS)
    _, found = got(said, *[f"{name}: 6.6.6.6" for name in names])
    assert {name for name, value in found.items() if "6.6.6.6" in value} == set()


def test_no_alias_of_a_header_passes(said: Controller) -> None:
    """A framework of the CGI kind reads `X_Forwarded_For` as `X-Forwarded-For`."""
    _, found = got(said, *[f"{name}: 6.6.6.6" for name in client_headers.ALIASES])
    assert {name for name, value in found.items() if "6.6.6.6" in value} == set()
    _, found = got(said, *[f"{name.replace('-', '.')}: 6.6.6.6" for name in client_headers.REPLACED])
    assert {name for name, value in found.items() if "6.6.6.6" in value} == set()


def test_header_names_with_underscores_pass(said: Controller) -> None:
    _, found = got(said, "api_key: 1", "X_Custom-Name_: 2", "x__y: 3")
    assert (found["api_key"], found["x_custom-name_"], found["x__y"]) == ("1", "2", "3")


@pytest.mark.parametrize(("host", "port"), [(HOST, "80"), (f"{HOST}:8080", "8080")])
def test_the_port_is_always_told(said: Controller, host: str, port: str) -> None:
    assert got(said, "X-Forwarded-Port: 666", host=host)[1]["x-forwarded-port"] == port


def test_a_trusted_proxy_says_what_it_likes(trusting: Controller) -> None:
    names = client_headers.CLIENT_SAYS
    _, found = got(trusting, *[f"{name}: 6.6.6.6" for name in names])
    assert {name for name in names if found.get(name.lower()) != "6.6.6.6"} == set()


def test_trusted_networks_that_overlap_are_no_warning(trusting: Controller, rig: Rig) -> None:
    log = rig.client.logs(trusting.nginx).decode()
    assert "duplicate" not in log
    assert "could not build" not in log


@pytest.mark.parametrize(
    ("sent", "proto"),
    [("https", "https"), ("wss", "https"), ("ws", "http"), ("http", "http"), ("HTTPS", "https"), ("https, http", "https"),
     ("wss,http", "https"), ("http,https", "http"), ("ftp", "http"), ("", "http")],
)  # fmt: skip
def test_the_scheme_of_a_trusted_proxy_is_one_word(trusting: Controller, sent: str, proto: str) -> None:
    assert got(trusting, f"X-Forwarded-Proto: {sent}")[1]["x-forwarded-proto"] == proto


@pytest.mark.parametrize(
    ("sent", "passed"),
    [("", ""), ("203.0.113.9", "203.0.113.9, "), ("2001:db8::1, 203.0.113.9", "2001:db8::1, 203.0.113.9, "), (" , ", "")],
)
def test_forwarded_for_has_no_empty_element(trusting: Controller, sent: str, passed: str) -> None:
    lines = [f"X-Forwarded-For: {sent}"] if sent else []
    found = got(trusting, *lines)[1]["x-forwarded-for"]
    assert found.startswith(passed)
    assert all(part.strip() for part in found.split(","))
    assert found.count(",") == passed.count(",")


@pytest.mark.parametrize(
    ("lines", "port"),
    [
        (("X-Forwarded-Port: 8443",), "8443"),
        (("X-Forwarded-Port: 443, 80",), "443"),
        (("X-Forwarded-Port: x", "X-Forwarded-Proto: https"), "443"),
        (("X-Forwarded-Proto: wss, http",), "443"),
        (("X-Forwarded-Host: a.example:444, b.example", "X-Forwarded-Proto: https"), "444"),
        (("X-Forwarded-Host: [::1]",), "80"),
        ((), "80"),
    ],
)
def test_the_port_of_a_trusted_proxy(trusting: Controller, lines: tuple[str, ...], port: str) -> None:
    assert got(trusting, *lines)[1]["x-forwarded-port"] == port


def test_the_first_forwarded_host_counts(trusting: Controller) -> None:
    assert got(trusting, "X-Forwarded-Host: a.example, b.example")[1]["x-forwarded-host"] == "a.example"
    assert got(trusting, "X-Forwarded-Host: a.example:8443")[1]["x-forwarded-host"] == "a.example:8443"
    assert got(trusting)[1]["x-forwarded-host"] == HOST


@pytest.mark.parametrize("protocol", ["websocket", "tailscale-control-protocol", "DERP", "SPDY/3.1", "websocket, foo"])
def test_any_protocol_may_be_upgraded_to(said: Controller, protocol: str) -> None:
    request = f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
    found = raw(said, request.encode(), b"ping")
    assert found.startswith(b"HTTP/1.1 101 ")
    assert f"\r\nUpgrade: {protocol}\r\n".encode() in found
    assert found.endswith(b"ping")


@pytest.mark.parametrize("protocol", ["h2c", "H2C", "h2c, foo", "foo,h2c", "h2c-14"])
def test_no_upgrade_to_h2c_passes(said: Controller, protocol: str) -> None:
    _, found = got(said, f"Upgrade: {protocol}", "HTTP2-Settings: AAMAAABkAAQ")
    assert "upgrade" not in found
    assert "upgrade" not in found.get("connection", "")


@pytest.mark.parametrize("lines", [("h2c, websocket",), ("websocket , H2c",), ("websocket", "h2c")])
def test_a_websocket_beside_h2c_is_a_websocket(said: Controller, lines: tuple[str, ...]) -> None:
    fields = "".join(f"Upgrade: {line}\r\n" for line in lines)
    found = raw(said, f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\n{fields}\r\n".encode(), b"ping")
    assert b"\r\nUpgrade: websocket\r\n" in found
    assert b"h2c" not in found.lower()


PATHS = {
    b"/git": b"/",
    b"/git?a=%2F": b"/?a=%2F",
    b"/git/": b"/",
    b"/git/?a//b=%20": b"/?a//b=%20",
    b"/git/a//b%2Fc%5B%5D%2B+~;x:y@z=": b"/a//b%2Fc%5B%5D%2B+~;x:y@z=",
    b"/git/./a/../b": b"/./a/../b",
    b"/git//": b"//",
    b"/git//evil.example/x": b"//evil.example/x",
    b"/git/git/x": b"/git/x",
    b"/git/%E2%82%AC%20\xff": b"/%E2%82%AC%20\xff",
    b"//git/x": b"/x",
    b"/%67i%74/x%2Fy": b"/x%2Fy",
    b"http://strip.example/git/a%2Fb": b"/a%2Fb",
    b"http://strip.example/git": b"/",
}


@pytest.mark.parametrize("path", PATHS)
def test_only_the_prefix_is_stripped(said: Controller, path: bytes) -> None:
    line, found = got(said, host=STRIPPED, path=path)
    assert line == f"GET {PATHS[path].decode('latin-1')} HTTP/1.1"
    assert found["x-forwarded-prefix"] == "/git"
    assert found["x-real-ip"]


@pytest.mark.parametrize(
    "path", [b"/git%2Fa", b"/git%2fa/b", b"/git%2F", b"/x/../git/y", b"/x%2F../git/y", b"/GIT/x", b"/%47it/x"]
)
def test_what_only_decodes_to_the_prefix_is_not_below_it(said: Controller, path: bytes) -> None:
    assert b" 404 " in raw(said, b"GET %s HTTP/1.1\r\nHost: strip.example\r\nConnection: close\r\n\r\n" % path)[:15]


def test_no_prefix_is_told_where_none_is_stripped(said: Controller) -> None:
    assert "x-forwarded-prefix" not in got(said)[1]


def test_trailers_and_early_hints_pass_where_nginx_can(rig: Rig) -> None:
    controller = serving(rig, rig.controller())
    plain = f"GET /hints HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n"
    found = raw(controller, f"{plain}Sec-Fetch-Mode: navigate\r\nTE: trailers\r\n\r\n".encode())
    assert found.startswith(b"HTTP/1.1 103 ")
    assert b"Link: </a.css>; rel=preload" in found
    assert found.endswith(b"0\r\nX-Sum: 7\r\n\r\n")
    assert raw(controller, f"{plain}\r\n".encode()).startswith(b"HTTP/1.1 200 "), "many libraries take a 103 for the answer"
    controller.stop()


def test_unknown_hosts_get_what_is_configured(rig: Rig) -> None:
    controller = rig.controller()
    text = controller.config.read_text(encoding="utf-8")
    for answer, status in (("503", 503), ("421", 421), ("closed", 0), ("https://www.example/", 302), ("404", 404)):
        controller.config.write_text(text.replace("[nginx]", f'[nginx]\nunknown_host = "{answer}"'), encoding="utf-8")
        controller.wait_for("nobody.example", status, path="/a")
        assert controller.ask("nobody.example", "/-/ready").status == 200
    assert controller.ask("nobody.example").body.startswith("<!doctype html><title>Unknown host")
    controller.stop()


def with_tls_vhost(rig: Rig, port: int, *, inherited: bool) -> Controller:
    controller = rig.controller({"nginx": {"trusted_proxies": ["127.0.0.1/32"]}}, start=False)
    text = controller.config.read_text(encoding="utf-8")
    controller.config.write_text(text.replace(':80"]', f':80", "{LOOPBACK}:{port}:443"]'), encoding="utf-8")
    sites = controller.directory / "state" / "nginx" / "sites"
    (sites / "tls").mkdir(parents=True)
    make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=x",
        "-keyout",
        "key.pem",
        "-out",
        "cert.pem",
    ]
    subprocess.run(make, cwd=sites / "tls", check=True, capture_output=True)
    page = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    vhost = next(block for block in page.split("```") if "listen 443 ssl" in block).removeprefix("nginx")
    own = "proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto https;"
    own += "proxy_set_header Upgrade $proxyctl_upgrade; proxy_set_header Connection $proxyctl_connection;"
    vhost = vhost.replace("blog.example www.blog.example", HOST)
    (sites / "tls.conf").write_text(vhost if inherited else vhost.replace("127.0.0.1:80;", f"127.0.0.1:80; {own}"))
    controller.start()
    return serving(rig, controller)


@pytest.mark.parametrize("inherited", [True, False], ids=["the documented one", "with headers of its own"])
async def test_a_tls_vhost_of_ones_own_says_what_its_client_asked_for(rig: Rig, *, inherited: bool) -> None:
    """A hand-written vhost hands everything to port 80, which trusts it."""
    port = free_port()
    controller = with_tls_vhost(rig, port, inherited=inherited)
    forged = dict.fromkeys(("X-Forwarded-For", "CF-Connecting-IP", "X-Forwarded-Ssl"), "6.6.6.6")
    forged |= {"X-Forwarded-Host": "evil.example", "X-Forwarded-Port": "666"}
    url = f"https://{LOOPBACK}:{port}"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session:
        async with session.get(url, headers={"Host": HOST, **(forged if inherited else {})}) as response:
            got = (await response.text()).lower()
        assert "x-forwarded-proto: https\r\n" in got
        assert "x-forwarded-port: 443\r\n" in got
        assert f"x-forwarded-host: {HOST}\r\n" in got
        assert "evil" not in got
        assert "6.6.6.6" not in got
        async with session.get(url, headers={"Host": HOST, "Upgrade": "DERP", "Connection": "Upgrade"}) as response:
            assert response.status == 101
    controller.stop()
