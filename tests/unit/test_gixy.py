"""gixy, a security linter of nginx configurations, finds nothing in what the templates can render."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import get_args

import pytest

from proxyctl.fileset import FileSet
from proxyctl.model import DrainPhase, RouteTable, Scheme
from proxyctl.plan.vhosts import Renderer
from tests.unit import make, nginx_tree
from tests.unit.make import location, routed, table

STRIPPED = "/stripped"
STRIPPING = {"ssrf", "missing_resolver"}
"""Found wherever a prefix is stripped: what follows it is a variable in `proxy_pass`. It starts with a slash, or is empty and
answers 404, and what is in front of it is the name of an upstream block."""
RETRYING = "try_files_is_evil_too"
"""Found in each location of a second try: a file must be looked for each time, and this happens after a failure only."""
FOUND = {*STRIPPING, RETRYING}

SCHEMES: tuple[Scheme, ...] = ("http", "https", "grpc", "grpcs")
VERSIONS = ((1, 22, 1), (1, 25, 1), (1, 27, 4), (1, 29, 3), (1, 31, 3))
"""Each has a branch in the templates."""
PROXIES = ((), ("10.0.0.0/8", "fd00::/8", "192.0.2.1"))

THEIRS = "    server_tokens off;\n    server {\n        listen 80 default_server;\n        return 404;\n    }\n"
"""What gixy wants of an nginx.conf, and that is somebody else's to say where proxyctl's file is included."""


def every_branch() -> RouteTable:
    one, two = routed(), routed("[fd00::5]:80", weight=7)
    return table(
        *((f"{scheme}.example", location(path, one)) for scheme in SCHEMES for path in ("/", "/git")),
        *((f"{scheme}.two.example", location("/a.b/~c@d:e=f+g", one, two, scheme=scheme)) for scheme in SCHEMES),
        *((f"*.{scheme}.example", location("/", one, scheme=scheme)) for scheme in SCHEMES),
        *((f"{scheme}.dead.example", location(path, scheme=scheme)) for scheme in SCHEMES for path in ("/", "/git")),
        *((f"{scheme}.strip.example", location(STRIPPED, one, scheme=scheme, strip=True)) for scheme in ("http", "https")),
        ("dead.strip.example", location("/git", strip=True)),
        ("root.strip.example", location("/", one, strip=True)),
        ("closed.example", replace(location("/", one), maintenance=True)),
    )


def findings(*files: Path) -> list[dict[str, str]]:
    """Of any severity. Without nginx's version: its own CVEs are no matter of templates."""
    command = [sys.executable, "-m", "gixy", "--format", "json", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert done.stderr == ""
    found: list[dict[str, str]] = json.loads(done.stdout or "[]")
    assert bool(found) == (done.returncode == 1)
    return found


def linted(fileset: FileSet, directory: Path) -> set[tuple[str, str, str]]:
    main = nginx_tree.write(fileset, directory)
    return told(findings(main, directory / "drafts" / main.name))


def told(found: list[dict[str, str]]) -> set[tuple[str, str, str]]:
    return {(item["plugin"], item["summary"], item["config"]) for item in found if item["plugin"] not in FOUND}


def test_gixy_finds_nothing(tmp_path: Path) -> None:
    files, shown = list[Path](), list[Path]()
    for number, (version, proxies, (ipv6, wait)) in enumerate(product(VERSIONS, PROXIES, ((False, False), (True, True)))):
        directory = tmp_path / str(number)
        how = make.settings(trusted_proxies=proxies, wait_after_boot=wait)
        main = nginx_tree.write(make.render(every_branch(), nginx_tree.view(directory, version, ipv6=ipv6), how), directory)
        for file in (main, directory / "drafts" / main.name):  # gixy takes the colons for those of an address
            file.write_text(file.read_text(encoding="utf-8").replace(" so_keepalive=2m:30s:4", ""), encoding="utf-8")
        shown.append(directory / "drafts" / main.name)
        files += [main] * wait
    for number, (version, drain) in enumerate(product(VERSIONS, get_args(DrainPhase))):
        directory = tmp_path / f"included-{number}"
        how = make.settings(included=True, wait_after_boot=False, drain=drain)
        around = nginx_tree.write(make.render(every_branch(), nginx_tree.view(directory, version), how), directory)
        around.write_text(around.read_text(encoding="utf-8").replace("http {", f"http {{\n{THEIRS}"), encoding="utf-8")
        shown.append(around)
    found = findings(*files, *shown)
    assert told(found) == set()
    assert {item["path"] for item in found} == set(map(str, shown)), "what is overlooked, so all sites of each were read"


def test_what_is_overlooked_is_found_where_a_prefix_is_stripped_and_nowhere_else(tmp_path: Path) -> None:
    fileset = make.render(every_branch(), nginx_tree.view(tmp_path), make.settings(wait_after_boot=False))
    nginx_tree.write(fileset, tmp_path)
    found = findings(tmp_path / "mains" / f"{fileset.digest}.conf")
    assert {item["plugin"] for item in found} == FOUND
    flagged = {
        item["plugin"]: sorted(" ".join(line.split()[1:-1]) for line in item["config"].splitlines() if "location " in line)
        for item in found
    }
    retried = flagged.pop(RETRYING)
    assert retried
    assert all(place.startswith("@") for place in retried)
    assert flagged == {
        "ssrf": [f"{STRIPPED}/"] * 2,
        "missing_resolver": [f"{STRIPPED}/"] * 2 + [f"= {STRIPPED}"] * 2,
    }


@pytest.mark.parametrize(
    ("template", "old", "new", "plugin"),
    [
        ("nginx.conf.j2", "server_tokens off;", "server_tokens on;", "version_disclosure"),
        ("variables.j2", "default $remote_addr;", "0 $remote_addr;", "hash_without_default"),
        ("headers.j2", "Host {{ host }}", "Host $http_host", "host_spoofing"),
        ("server.conf.j2", "Retry-After 2 always", 'Retry-After "2\n a" always', "add_header_multiline"),
    ],
)
def test_gixy_would_find_it(template: str, old: str, new: str, plugin: str, tmp_path: Path) -> None:
    """So it reads what is rendered, the files that are included, too."""
    shipped = make.templates()
    assert old in shipped[template]
    spoiled = Renderer(shipped | {template: shipped[template].replace(old, new)})
    how = make.settings(trusted_proxies=("10.0.0.0/8",), wait_after_boot=False)
    fileset = make.render(every_branch(), nginx_tree.view(tmp_path), how, renderer=spoiled)
    assert plugin in {item[0] for item in linted(fileset, tmp_path)}
