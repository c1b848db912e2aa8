"""A file that was not taken over is told wherever an operator looks, until it is fixed; everything else is served."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig import Controller, Rig, until


@pytest.fixture(scope="module")
def served(rig: Rig) -> Controller:
    made = rig.controller()
    rig.run_container({"host": "site.example"}, name="site")
    made.wait_for("site.example")
    return made


def cli(controller: Controller, *words: str, status: int | None = None) -> str:
    """What a command prints, on both streams."""
    program = Path(sys.executable).with_name("proxyctl")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROXYCTL_")}
    ran = subprocess.run(
        [program, *words, "--config", controller.config], capture_output=True, text=True, env=environment, check=False, timeout=60
    )
    said = ran.stdout + ran.stderr
    assert "Traceback" not in said, said
    assert status is None or ran.returncode == status, said
    return said


def metric(controller: Controller, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", controller.ask_api("/metrics").body, re.MULTILINE)
    assert found, name
    return float(found[1])


def faults(controller: Controller) -> dict[str, tuple[str, str, str]]:
    """What is wrong -> (file, its text, a word that everybody must be told)."""
    config = controller.config.read_text(encoding="utf-8")
    sites = controller.directory / "state" / "nginx" / "sites"
    return {
        "configuration": (str(controller.config), config + "[healht]\n", "healht"),
        "syntax": (str(controller.config), config + "[health\n", "config.toml"),
        "template": (str(controller.directory / "templates" / "manifest.conf.j2"), "{{ no_such_name }}", "no_such_name"),
        "refused template": (str(controller.directory / "templates" / "sites.j2"), "no_such_directive on;", "no_such_directive"),
        "vhost": (str(sites / "own.conf"), "server { listen 80; server_name own.example; retrun 200; }\n", "retrun"),
        "unreadable vhost": (str(sites / "odd.conf"), "\udcff", "odd.conf"),
    }


@pytest.mark.parametrize("which", ["configuration", "syntax", "template", "refused template", "vhost", "unreadable vhost"])
def test_a_file_that_is_not_taken_over_is_told_everywhere_until_it_is_fixed(served: Controller, which: str) -> None:
    file, text, word = faults(served)[which]
    path = Path(file)
    until(lambda: metric(served, "proxyctl_config_last_reload_successful") == 1, 5, "a clean start")
    when = metric(served, "proxyctl_config_last_reload_success_timestamp_seconds")
    before = path.read_bytes() if path.exists() else None
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    try:
        until(lambda: metric(served, "proxyctl_config_last_reload_successful") == 0, 10, "the metric")
        ready = served.ask_api("/readyz")
        assert (ready.status, ready.body.splitlines()[0]) == (200, "ready"), "the host serves: it stays in the balancer"
        assert word in ready.body
        lines = cli(served, "status", "--socket", str(served.socket), status=0).splitlines()
        assert lines[0].startswith("In sync"), lines
        assert any(word in line for line in lines[1:3]), lines
        assert word in served.ask_api("/").body
        assert word in cli(served, "doctor", "--socket", str(served.socket), status=1)
        said = cli(served, "check", "--socket", str(served.socket))
        assert word in said
        assert "nothing would be rejected" not in said
        assert served.ask("site.example").status == 200
        assert word in cli(served, "history", status=0)
        assert metric(served, "proxyctl_config_in_sync") == 1
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)
    until(lambda: metric(served, "proxyctl_config_last_reload_successful") == 1, 10, "the file taken over again")
    assert metric(served, "proxyctl_config_last_reload_success_timestamp_seconds") > when
    assert served.ask_api("/readyz").body == "ready\n"
    assert word not in cli(served, "status", "--socket", str(served.socket))


def test_keys_that_need_a_restart_are_named(served: Controller) -> None:
    config = served.config.read_text(encoding="utf-8")
    served.config.write_text(
        config.replace('pull = "never"', 'pull = "missing"').replace("[api]", '[api]\nhosts = ["a.example"]')
    )
    try:
        until(lambda: "nginx.pull" in cli(served, "status"), 5, "the keys in status")
        said = cli(served, "status")
        assert re.search(r"api\.hosts.*nginx\.pull", said), said
        assert "nginx.image" not in said
        assert metric(served, "proxyctl_config_last_reload_successful") == 1
        assert re.search(r"api\.hosts.*nginx\.pull", cli(served, "doctor"))
    finally:
        served.config.write_text(config)
    until(lambda: "nginx.pull" not in cli(served, "status"), 5, "nothing to restart for")


def test_a_hand_written_vhost_that_nginx_ignores_is_told(served: Controller) -> None:
    """nginx takes the first of two servers with one name and address, with no more than a warning: the label's."""
    sites = served.directory / "state" / "nginx" / "sites"
    (sites / "own.conf").write_text("server { listen 80; server_name own.example site.example; return 200 own; }\n")
    (sites / "second.conf").write_text("server { listen 80; server_name own.example; return 200 second; }\n")
    try:
        served.wait_for("own.example")
        until(lambda: "sites/second.conf" in cli(served, "status"), 5, "who is ignored")
        assert served.ask("own.example").body == "own"
        assert served.ask("site.example").backend == "site"
        said = served.ask_api("/api/v1/rejections").body
        assert re.search(r"sites/own\.conf.*ignores.*site\.example", said)
        assert re.search(r"sites/second\.conf.*ignores.*own\.example.*sites/own\.conf", said)
        assert "sites/second.conf" in cli(served, "check", status=1)
    finally:
        (sites / "own.conf").unlink()
        (sites / "second.conf").unlink()
    until(lambda: "sites/" not in cli(served, "status"), 10, "nobody ignored")
