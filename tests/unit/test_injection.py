"""Hostile labels, end to end: labels -> routes -> files -> what nginx would read is what the model predicts, and nothing else."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxyctl.model import Container, Location, RouteTable
from proxyctl.plan.vhosts import upstream_name
from tests.unit import hostile, make, nginx_tree
from tests.unit.make import container, decide, places
from tests.unit.nginx_tree import Directive

PLAIN = re.compile(r"[A-Za-z0-9._~+@:=*/\[\]-]+", re.ASCII)
GOOD = container("good", {"host": "good.example"}, created=1.0)


def predicted_pass(host: str, place: Location) -> tuple[str, str]:
    if not place.serving:
        return ("return", "503")
    upstream = f"{place.scheme}://{upstream_name(host, place.path)}"
    if place.scheme in ("grpc", "grpcs"):
        return ("grpc_pass", upstream)
    return ("proxy_pass", upstream + "/" * (place.strip_path and place.path != "/"))


def predicted(table: RouteTable) -> Counter[object]:
    """Every server block with its locations, every upstream with its servers."""
    found: Counter[object] = Counter()
    for vhost in table.vhosts:
        inside: list[object] = []
        for place in vhost.locations:
            what = predicted_pass(vhost.host, place)
            inside += [((place.path,), what)] if place.path == "/" else [(("=", place.path), what), ((f"{place.path}/",), what)]
            if place.serving:
                servers = tuple(f"{t.target.address}:{t.target.port}" for t in place.serving)
                found["upstream", upstream_name(vhost.host, place.path), servers] += 1
        found["server", vhost.host, tuple(inside)] += 1
    return found


def read(http: Directive) -> Counter[object]:
    found: Counter[object] = Counter()
    for block in http.all("upstream"):
        found["upstream", block.args[0], tuple(server.args[0] for server in block.all("server"))] += 1
    for block in http.all("server"):
        inside = tuple((place.args, only_pass(place)) for place in block.all("location"))
        (name,) = block.one("server_name").args
        found["server", name, inside] += 1
    return found


def only_pass(place: Directive) -> tuple[str, str]:
    ((name, arg),) = [(d.name, d.args[0]) for d in place.block if d.name in ("proxy_pass", "grpc_pass", "return")]
    return (name, arg)


def words(block: Directive) -> set[str]:
    """Every argument in the blocks of hosts that came from labels."""
    return {arg for inner in block.block for arg in (*inner.args, *words(inner))}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conf")


def rendered(containers: list[Container], directory: Path) -> tuple[RouteTable, Directive]:
    table = decide(containers).table
    fileset = make.render(table, nginx_tree.view(directory), make.settings(wait_after_boot=False))
    return table, nginx_tree.http(fileset, directory)


OWN: Counter[object] = Counter([("server", name, ()) for name in ("", "f" * 32, "starting.proxyctl.invalid")])
"""The servers of proxyctl's own answer by themselves, outside of any location."""


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(crowd=st.lists(hostile.plausible | hostile.labels, min_size=1, max_size=4))
@example(crowd=[{"host": "a.example; } server { listen 80; server_name evil.example; location / { return 200; } } #"}])
@example(crowd=[{"host": "evil.example", "path": "/a { return 200; } location /b"}])
@example(crowd=[{"host": "evil.example", "path": "/a\n}"}])
@example(crowd=[{"host": "evil.example", "service": "web\n# ", "scheme": "http;"}])
@example(crowd=[{"host": "sample.proxyctl.invalid,starting.proxyctl.invalid"}])
def test_whatever_the_labels_say_nginx_reads_the_table_and_nothing_else(crowd: list[dict[str, str]], directory: Path) -> None:
    bad = [container(f"bad-{n}", said, networks={"front": f"10.0.0.{n}"}) for n, said in enumerate(crowd, 20)]
    table, http = rendered([GOOD, *bad], directory)
    assert "good.example/" in places(table)
    assert read(http) == predicted(table) + OWN
    assert max(Counter(block.args for block in http.all("upstream")).values()) == 1
    for server in http.all("server"):
        (name,) = server.one("server_name").args
        if name in {vhost.host for vhost in table.vhosts} - {"starting.proxyctl.invalid"}:
            assert PLAIN.fullmatch(name)
            assert all(PLAIN.fullmatch(args) for place in server.all("location") for args in place.args)


@settings(max_examples=60)
@given(name=hostile.values, network=hostile.values, project=hostile.values)
def test_names_of_containers_networks_and_projects_never_reach_nginx(name: str, network: str, project: str) -> None:
    """They differ, and what nginx is given does not."""
    plain = container("plain", {"host": "a.example"}, networks={"front": "10.0.0.5"}, mode="bridge")
    odd = container(name, {"host": "a.example"}, networks={network: "10.0.0.5"}, mode="bridge", compose=f"{project}/{name}")
    one, two = (make.render(decide([c]).table) for c in (plain, odd))
    assert one == two


def test_a_label_that_only_looks_like_a_variable_is_refused_and_the_good_site_is_served(directory: Path) -> None:
    table, http = rendered([GOOD, container("bad", {"host": "${uri}.example"})], directory)
    assert [vhost.host for vhost in table.vhosts] == ["good.example"]
    assert not any("uri" in word for server in http.all("server")[OWN.total() :] for word in words(server))
