"""What ends and starts leaves a trace in the log, the history, the status and the metrics: nginx, targets, the controller."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from tests.rig import BASE, Box, Controller, Rig, ask_unix, until

PYTHON = ["python3", "-c"]
SERVES = "import http.server as h; h.ThreadingHTTPServer(('', 80), h.SimpleHTTPRequestHandler).serve_forever()"
EATS = "import time; time.sleep(1); x = bytearray(300 << 20); time.sleep(60)"
CRASHES = "import sys, time; time.sleep(0.2); sys.exit(3)"


def ask(controller: Controller, url: str) -> str:
    """The API over its socket, where the rate is not limited."""
    return ask_unix(controller.socket, url)[1]


def start(controller: Controller) -> None:
    controller.start()
    until(lambda: controller.ask_api("/healthz").status == 200, 10, "the API")


def metric(controller: Controller, name: str) -> float | None:
    """`name`: with its labels, as in the scrape."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", ask(controller, "/metrics"), re.MULTILINE)
    return float(found[1]) if found else None


def entries(controller: Controller, kind: str, subject: str = "") -> list[dict[str, Any]]:
    """Incidents in the history, the newest first."""
    cycles = json.loads(ask(controller, "/api/v1/cycles?limit=500"))["cycles"]
    return [cycle for cycle in cycles if cycle["incident"] == kind and subject in ("", cycle["subject"])]


def target(controller: Controller, box: Box) -> dict[str, Any]:
    targets = json.loads(ask(controller, "/api/v1/targets"))["targets"]
    return next((dict(each["target"]) for each in targets if each["target"]["container_id"] == box.id), {})


def python(rig: Rig, source: str, labels: dict[str, str], **host_config: Any) -> Box:
    return rig.run_container({"port": "80", **labels}, image=BASE, args=[*PYTHON, source], host_config=host_config)


def test_a_start_of_the_controller_and_what_it_finds_are_recorded(controller: Controller) -> None:
    until(lambda: entries(controller, "nginx-started"), 10, "the start of nginx")
    assert len(entries(controller, "controller-started")) == 1
    assert metric(controller, "proxyctl_nginx_up") == 1
    assert metric(controller, "proxyctl_nginx_starts_total") == 1
    began = metric(controller, "proxyctl_nginx_start_time_seconds")
    nginx = ask(controller, "/api/v1/status")
    assert began == json.loads(nginx)["nginx"]["started_unix"]
    assert time.time() - 300 < float(began or 0) <= time.time()


def test_a_killed_nginx_leaves_a_trace(rig: Rig, controller: Controller) -> None:
    began, nginx = metric(controller, "proxyctl_nginx_start_time_seconds"), Box(rig.client, controller.nginx, controller.nginx)
    nginx.kill("KILL")
    until(lambda: metric(controller, "proxyctl_nginx_starts_total") == 2, 15, "a second start of nginx")
    until(lambda: metric(controller, "proxyctl_nginx_up") == 1, 10, "nginx up again")
    assert float(metric(controller, "proxyctl_nginx_start_time_seconds") or 0) > float(began or 0)
    (ended,) = entries(controller, "nginx-exited")
    assert (ended["subject"], ended["exit_code"], ended["times"]) == (controller.nginx, 137, 1)
    assert "started again" in entries(controller, "nginx-started")[0]["changes"][0]
    assert [record["level"] for record in controller.records("nginx exited")] == ["warning"]
    assert "warning" in {record["level"] for record in controller.records("nginx started")}


def test_an_nginx_that_does_not_run_is_not_up(rig: Rig, controller: Controller) -> None:
    rig.client.pause(controller.nginx)
    try:
        until(lambda: metric(controller, "proxyctl_nginx_up") == 0, 10, "nginx down")
    finally:
        rig.client.unpause(controller.nginx)
    until(lambda: metric(controller, "proxyctl_nginx_up") == 1, 10, "nginx up")


def test_a_target_that_is_out_of_memory_is_shown_with_the_reason(rig: Rig, controller: Controller) -> None:
    box = python(rig, EATS, {"host": "eats.example", "service": "eats"}, Memory=64 << 20, MemorySwap=64 << 20)
    until(lambda: target(controller, box).get("out_of_memory"), 20, "the reason of the end")
    found = target(controller, box)
    assert (found["exit_code"], found["state"]) == (137, "down")
    assert found["exited"] == "killed, out of memory (status 137)"
    (entry,) = entries(controller, "target-exited", box.name)
    assert (entry["exit_code"], entry["out_of_memory"]) == (137, True)
    assert metric(controller, 'proxyctl_target_exits_total{reason="out-of-memory",service="eats"}') == 1


def test_a_crash_loop_is_one_entry_that_counts(rig: Rig, controller: Controller) -> None:
    before = len(json.loads(ask(controller, "/api/v1/cycles?limit=500"))["cycles"])
    box = python(rig, CRASHES, {"host": "loop.example", "service": "loop"}, RestartPolicy={"Name": "always"})
    until(lambda: target(controller, box).get("restarts", 0) >= 5, 30, "five restarts")
    until(lambda: target(controller, box)["state"] == "down", 10, "the end of a run")
    assert target(controller, box)["exited"].startswith("exited with status 3, restarted ")
    (entry,) = entries(controller, "target-exited", box.name)
    assert entry["times"] >= 5
    assert entry["exit_code"] == 3
    assert 0 < entry["first_unix"] < entry["at_unix"]
    after = len(json.loads(ask(controller, "/api/v1/cycles?limit=500"))["cycles"])
    assert after - before < 6
    assert len(controller.records("target exited")) < 6
    assert float(metric(controller, 'proxyctl_target_exits_total{reason="exited",service="loop"}') or 0) >= 5
    box.remove()


def test_a_crash_loop_costs_few_reloads_and_is_called_flapping(rig: Rig, controller: Controller) -> None:
    """It is healthy for a second of each run, beside a container of its service that stays."""
    labels = {"host": "flaps.example", "service": "flaps", "health.type": "none"}
    python(rig, SERVES, labels)
    controller.wait_for("flaps.example")
    before = len(controller.records("live"))
    box = python(rig, "import time; time.sleep(1); exit(3)", labels, RestartPolicy={"Name": "always"})
    until(lambda: target(controller, box).get("restarts", 0) >= 3, 30, "three restarts")
    until(lambda: "flapping" in target(controller, box)["reason"], 10, "the reason")
    reloads = len(controller.records("live")) - before
    time.sleep(4)
    assert len(controller.records("live")) - before == reloads <= 5
    assert controller.ask("flaps.example").status == 200
    box.remove()


def test_a_stop_on_request_is_no_warning(rig: Rig, controller: Controller) -> None:
    box = rig.run_container({"host": "calm.example", "service": "calm"})
    controller.wait_for("calm.example")
    box.stop(timeout=2)
    until(lambda: target(controller, box).get("exit_code") is not None, 10, "the exit status")
    assert target(controller, box)["exited"].startswith("stopped (status ")
    assert metric(controller, 'proxyctl_target_exits_total{reason="stopped",service="calm"}') == 1
    assert not entries(controller, "target-exited", box.name)


def test_the_controller_records_its_end_its_crash_and_what_it_missed(rig: Rig, controller: Controller) -> None:
    box = python(rig, SERVES, {"host": "site.example", "service": "site"})
    controller.wait_for("site.example")
    controller.stop()
    rig.client.kill(box.id, "KILL")
    rig.client.restart(controller.nginx, timeout=1)
    start(controller)
    until(lambda: entries(controller, "nginx-adopted"), 10, "the adoption of nginx")
    assert "SIGTERM" in entries(controller, "controller-stopped")[0]["changes"][0]
    assert "started again while proxyctl was not running" in entries(controller, "nginx-adopted")[0]["changes"][0]
    assert metric(controller, "proxyctl_nginx_starts_total") == 1
    until(lambda: target(controller, box).get("exit_code") == 137, 10, "an exit status from before the start")
    controller.kill()
    start(controller)
    assert "killed or crashed" in entries(controller, "controller-started")[0]["changes"][0]
