"""The commands and the API beside a running controller: what they say is what nginx does."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.rig import LOOPBACK, Box, Controller, Rig, until


def proxyctl(controller: Controller, *arguments: str) -> subprocess.CompletedProcess[str]:
    program: list[str | Path] = [Path(sys.executable).with_name("proxyctl"), "--config", controller.config, *arguments]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)


def answer(controller: Controller, *arguments: str) -> Any:
    return json.loads(proxyctl(controller, *arguments, "--json").stdout)


def test_status_explain_and_history_tell_what_nginx_does(rig: Rig, controller: Controller) -> None:
    rig.run_container({"host": "told.example", "service": "told"}, name="told")
    controller.wait_for("told.example", backend="told")
    (route,) = [route for route in answer(controller, "status")["routes"] if route["host"] == "told.example"]
    assert (route["state"], route["live"], route["targets"][0]["serving"]) == ("ok", True, True)
    assert proxyctl(controller, "explain", "told.example/x").returncode == 0
    assert proxyctl(controller, "explain", "nobody.example").returncode == 1
    changes = [change for cycle in answer(controller, "history")["cycles"] for change in cycle["changes"]]
    assert any(change.startswith("+ told.example/ -> ") for change in changes)


def test_render_is_what_is_published_and_diff_shows_what_is_not(rig: Rig, controller: Controller) -> None:
    box = rig.run_container({"host": "drawn.example"}, name="drawn")
    controller.wait_for("drawn.example")
    until(lambda: proxyctl(controller, "diff").returncode == 0, 10, "published and wanted to be the same")
    drawn = proxyctl(controller, "render")
    digest = answer(controller, "status")["nginx"]["digest"]
    assert drawn.stdout.startswith(f"# mains/{digest}.conf\n")
    assert "server_name drawn.example;" in drawn.stdout
    controller.stop()
    box.remove()
    rig.run_container({"host": "other.example"}, name="other")
    different = proxyctl(controller, "diff")
    assert different.returncode == 1
    assert "+++ wanted/server other.example" in different.stdout
    assert "every running container counts as healthy" in different.stderr
    controller.start()


def test_render_knows_what_operators_want_and_which_version_has_the_traffic(rig: Rig) -> None:
    """All of it is in one controller's state and configuration: what is in sync differs in nothing."""
    controller = rig.controller({"rollout": {"strategy": "manual"}}, start=False)
    claim = f'[[claims]]\nhosts = ["claimed.example"]\nprojects = ["{rig.run}-owner"]\n'
    controller.config.write_text(controller.config.read_text() + claim)
    controller.start()
    for version in ("1", "2"):
        rig.run_container({"host": "versions.example", "service": "versions", "version": version}, name=f"version{version}")
        controller.wait_for("versions.example", backend="version1")
    project = {"com.docker.compose.project": f"{rig.run}-stranger"}
    rig.run_container({"host": "claimed.example"}, name="claimant", other_labels=project)
    rig.run_container({"host": "closed.example", "service": "closed"}, name="closed")
    controller.wait_for("closed.example")
    assert proxyctl(controller, "maintenance", "on", "closed").returncode == 0
    assert proxyctl(controller, "host", "drain", "--notice", "0s").returncode == 0
    controller.wait_for("closed.example", 503)
    until(lambda: answer(controller, "status")["in_sync"], 10, "what is wanted to be live")
    compared = proxyctl(controller, "diff")
    assert (compared.returncode, compared.stdout) == (0, "")
    drawn = proxyctl(controller, "render").stdout
    assert "claimed.example" not in drawn
    assert "Maintenance" in drawn
    checked = proxyctl(controller, "check")
    assert "claimed.example is kept for others by [[claims]]" in checked.stdout


def test_what_nginx_refuses_is_said_where_it_is_drawn(controller: Controller) -> None:
    site = controller.config.parent / "state/nginx/sites/refused.conf"
    site.write_text("server { listen 80; server_name refused.example; nonsense; }\n")
    until(lambda: "refused.conf" in proxyctl(controller, "status").stdout, 10, "the refusal")
    compared = proxyctl(controller, "diff")
    assert compared.returncode == 1
    assert 'sites/refused.conf: nginx refuses it: unknown directive "nonsense"' in compared.stderr
    site.unlink()


def test_check_and_doctor(rig: Rig, controller: Controller) -> None:
    assert proxyctl(controller, "check").returncode == 0
    box = rig.run_container({"host": "wrong.example", "prot": "80"}, name="wrong")
    checked = proxyctl(controller, "check")
    assert checked.returncode == 1
    assert f"did you mean {controller.prefix}.port?" in checked.stdout
    box.remove()
    found = answer(controller, "doctor")
    standing = {check["what"]: check["standing"] for check in found["checks"]}
    assert (found["ok"], standing["engine"], standing["nginx"], standing["docker top"]) == (True, "ok", "ok", "ok")


def test_health_is_answered_and_metrics_count_the_workers(controller: Controller) -> None:
    assert proxyctl(controller, "healthcheck").returncode == 0
    with urllib.request.urlopen(f"http://{controller.api}/metrics", timeout=5) as response:
        samples = dict(line.rsplit(" ", 1) for line in response.read().decode().splitlines() if not line.startswith("#"))
    assert float(samples['proxyctl_nginx_workers{state="serving"}']) >= 1
    assert float(samples["proxyctl_config_in_sync"]) == 1


def test_doctor_warns_before_the_connections_run_out(rig: Rig) -> None:
    made = rig.controller({"nginx": {"worker_processes": 1, "worker_connections": 512}})

    def finding() -> dict[str, Any]:
        return next(check for check in answer(made, "doctor")["checks"] if check["what"] == "connections")

    assert finding()["standing"] == "ok"
    clients = [socket.create_connection((LOOPBACK, made.port), timeout=10) for _ in range(450)]
    try:
        until(lambda: finding()["standing"] == "warn", 10, "a warning")
        assert " of 512 open (8" in finding()["found"]
        assert "set nginx.worker_connections higher" in finding()["todo"]
    finally:
        for client in clients:
            client.close()


def test_a_container_that_never_runs_changes_nothing(rig: Rig, controller: Controller) -> None:
    """It cannot be reached, waits, and is removed: the host is unknown all the while, and nothing is decided over and over."""

    def cycles() -> float:
        for line in controller.ask_api("/metrics").body.splitlines():
            if line.startswith("proxyctl_cycles_total{"):
                counted[line.rpartition(" ")[0]] = float(line.rpartition(" ")[2])
        return sum(counted.values())

    counted: dict[str, float] = {}
    boxes = [
        rig.create_container({"host": "never.example", "network": "elsewhere"}, name="never"),
        rig.create_container({"host": "coming.example"}, name="coming"),
    ]
    controller.wait_rejected("never")
    time.sleep(2)
    before = cycles()
    time.sleep(4)
    assert cycles() - before <= 1
    assert {controller.ask(host).status for host in ("never.example", "coming.example")} == {404}
    for box in boxes:
        box.remove()
    time.sleep(2)
    assert {controller.ask(host).status for host in ("never.example", "coming.example")} == {404}


def test_a_host_is_released_to_a_renamed_project(rig: Rig, controller: Controller) -> None:
    def start(project: str) -> Box:
        compose = {"com.docker.compose.project": project, "com.docker.compose.service": "web"}
        labels = {f"{rig.prefix}.host": "renamed.example", **compose}
        return rig.run_container(name=f"{project}-web", other_labels=labels)

    before = start("before")
    controller.wait_for("renamed.example", backend="before-web")
    refused = proxyctl(controller, "release", "renamed.example")
    assert refused.returncode == 1
    assert "remove that container first" in refused.stderr
    before.remove()
    start("after")
    controller.wait_rejected("after-web")
    assert controller.ask("renamed.example").status == 503
    released = proxyctl(controller, "release", "Renamed.example", "--why", "renamed")
    assert (released.returncode, released.stderr) == (0, "")
    assert released.stdout == "renamed.example no longer belongs to before.web\nthe first service that asks for it gets it\n"
    controller.wait_for("renamed.example", backend="after-web")
    assert proxyctl(controller, "release", "nobody.example").returncode == 1
    assert proxyctl(controller, "release", "no host").returncode != 0
