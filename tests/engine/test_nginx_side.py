"""What targets are told and what clients can do through the rendered nginx."""

from __future__ import annotations

import asyncio
import io
import subprocess
from collections.abc import Mapping
from http.client import HTTPConnection

import aiohttp
import pytest

from tests.rig import LOOPBACK, Controller, Rig

HOST = "echo.example"


@pytest.fixture(scope="module")
def echo(rig: Rig, controller: Controller) -> Controller:
    rig.run_container({"host": HOST}, name="echo")
    controller.wait_for(HOST)
    return controller


def received(controller: Controller, headers: Mapping[str, str]) -> dict[str, list[str]]:
    """The headers that the target got for a request with these."""
    connection = HTTPConnection(LOOPBACK, controller.port, timeout=5)
    connection.putrequest("GET", "/headers", skip_host=True)
    for name, value in {"Host": HOST, **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    found: dict[str, list[str]] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        found.setdefault(name.strip().lower(), []).append(value.strip())
    return found


def test_forwarded_headers_cannot_be_forged(echo: Controller) -> None:
    forged = {
        "X-Forwarded-For": "6.6.6.6",
        "X-Real-IP": "6.6.6.6",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Port": "666",
        "X-Forwarded-Prefix": "/evil",
        "X-Forwarded-Server": "evil",
        "Forwarded": "for=6.6.6.6",
        "Proxy": "http://evil.example",
    }
    got = received(echo, forged)
    assert all("6.6.6.6" not in value and "evil" not in value for values in got.values() for value in values)
    assert got["x-forwarded-proto"] == ["http"]
    assert got["x-forwarded-host"] == [HOST]
    assert len(got["x-forwarded-for"]) == 1
    assert "proxy" not in got
    assert "forwarded" not in got


def test_the_target_sees_the_host_and_port_that_the_client_asked_for(echo: Controller) -> None:
    assert received(echo, {"Host": f"{HOST}:{echo.port}"})["host"] == [f"{HOST}:{echo.port}"]


def test_an_upgrade_to_h2c_does_not_pass(echo: Controller) -> None:
    got = received(echo, {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAMAAABkAAQ"})
    assert "upgrade" not in got


def test_a_target_cannot_redirect_inside_nginx(echo: Controller) -> None:
    answer = echo.ask(HOST, "/accel")
    assert answer.status == 200
    assert "x-accel-redirect" not in answer.headers


def test_nothing_tells_names_or_versions(echo: Controller) -> None:
    answer = echo.ask("nobody.example")
    assert answer.headers["server"] == "nginx"
    assert "echo" not in answer.body


async def test_websockets_pass(echo: Controller) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://{LOOPBACK}:{echo.port}/ws", headers={"Host": HOST}) as socket,
    ):
        await socket.send_str("hello")
        assert await socket.receive_str(timeout=5) == "hello"


async def test_events_arrive_as_they_are_sent(echo: Controller) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{LOOPBACK}:{echo.port}/stream?ms=100&n=5", headers={"Host": HOST}) as response,
    ):
        now = asyncio.get_running_loop().time
        times = [now() async for line in response.content if line.startswith(b"data:")]
    assert len(times) == 5
    assert times[-1] - times[0] > 0.3, "they came in one piece"


async def test_large_bodies_pass_both_ways(echo: Controller) -> None:
    body = b"x" * 3_000_000
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{LOOPBACK}:{echo.port}/echo", data=io.BytesIO(body), headers={"Host": HOST}) as response,
    ):
        assert await response.read() == body


def test_all_schemes_are_spoken(rig: Rig, controller: Controller) -> None:
    """Another nginx is the target: HTTP/2 without TLS is what grpc:// needs, and it has TLS for https://."""
    secret = rig.directory / "tls"
    secret.mkdir()
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=tls", "-keyout", "key", "-out", "cert"]
    subprocess.run(make, cwd=secret, check=True, capture_output=True)
    (secret / "nginx.conf").write_text(
        "events {} http { server { listen 80; http2 on; return 200 grpc; }"
        " server { listen 443 ssl; ssl_certificate cert; ssl_certificate_key key; return 200 $ssl_server_name; } }"
    )
    rig.run_container(
        {
            "routes.grpc.host": "grpc.example",
            "routes.grpc.scheme": "grpc",
            "routes.grpc.port": "80",
            "routes.tls.host": "tls.example",
            "routes.tls.scheme": "https",
            "routes.tls.port": "443",
        },
        name="schemes",
        image="proxyctl-testbed/nginx:1.31.3",
        args=["nginx", "-e", "stderr", "-c", "/tls/nginx.conf", "-g", "daemon off;"],
        host_config={"Binds": [f"{secret}:/tls:ro"]},
    )
    controller.wait_for("grpc.example")
    controller.wait_for("tls.example")
    assert controller.ask("grpc.example").body == "grpc"
    assert controller.ask("tls.example").body == "tls.example", "the target is told the name in the TLS handshake"


def test_debians_old_nginx_serves_too(rig: Rig) -> None:
    """1.22 knows neither keepalive_min_timeout nor the http2 directive."""
    old = rig.controller({"nginx": {"image": "proxyctl-testbed/nginx:1.22"}}, prefix=f"{rig.prefix}old")
    for name in ("old1", "old2"):
        rig.create_container(name=name, other_labels={f"{old.prefix}.host": f"{name}.example"}).start()
        old.wait_for(f"{name}.example", backend=name)
    assert not old.records("refused")
    old.stop()
