"""The name that a target is told in the TLS handshake, by requests and by health checks."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.rig import Box, Controller, Rig

CONFIGURATION = """
events {}
http {
    ssl_certificate cert;
    ssl_certificate_key key;
    server { listen 443 ssl; server_name _; ssl_reject_handshake on; }
    server { listen 443 ssl; server_name named.example *.named.example; return 200 "$ssl_server_name $host"; }
}
"""


@pytest.fixture(scope="module", params=["1.31.3", "1.22"])
def controller(request: pytest.FixtureRequest, rig: Rig) -> Iterator[Controller]:
    made = rig.controller({"nginx": {"image": f"proxyctl-testbed/nginx:{request.param}"}, "health": {"interval": "1s"}})
    yield made
    made.stop()


def target(rig: Rig, labels: dict[str, str]) -> Box:
    secret = rig.directory / "named"
    if not secret.exists():
        secret.mkdir()
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=tls", "-keyout", "key", "-out", "cert"]
        subprocess.run(make, cwd=secret, check=True, capture_output=True)
        (secret / "nginx.conf").write_text(CONFIGURATION)
    return rig.run_container(
        {"scheme": "https", "port": "443", **labels},
        image="proxyctl-testbed/nginx:1.31.3",
        args=["nginx", "-e", "stderr", "-c", "/tls/nginx.conf", "-g", "daemon off;"],
        host_config={"Binds": [f"{secret}:/tls:ro"]},
    )


@pytest.mark.parametrize(
    "labels",
    [
        {"host": "named.example", "health.path": "/"},
        {"host": "other.example,a.named.example", "health.path": "/", "health.host": "named.example"},
        {"host": "*.named.example", "service": "wild", "health.type": "http"},
    ],
    ids=["the host", "health.host", "a wildcard"],
)
def test_a_health_check_sends_the_name(rig: Rig, controller: Controller, labels: dict[str, str]) -> None:
    box = target(rig, labels)
    host = labels["host"].split(",")[-1].replace("*", "x")
    assert controller.wait_for(host).body == f"{host} {host}"
    box.remove()
    controller.wait_for(host, 503)


def test_no_request_goes_over_a_connection_of_another_name(rig: Rig, controller: Controller) -> None:
    box = target(rig, {"host": "*.named.example", "service": "wild"})
    controller.wait_for("x.named.example")
    hosts = [f"{letter}.named.example" for letter in "pqrpq" * 8]
    assert [controller.ask(host).body for host in hosts] == [f"{host} {host}" for host in hosts]
    box.remove()
