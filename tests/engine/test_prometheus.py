"""A real Prometheus with the shipped rules scrapes a real controller: a site that answers 503 raises an alert."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
import yaml

from tests.rig import LOOPBACK, Controller, Rig, free_port, until

RULES = Path(__file__).parents[2] / "examples" / "prometheus" / "alerts.yml"
Alerts = Callable[[], set[tuple[str, str]]]


@pytest.fixture(scope="module")
def alerts(controller: Controller, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alerts]:
    """(alert, service) of those that fire now. Their `for` is 2 s; nothing else of the rules is changed."""
    directory, port = tmp_path_factory.mktemp("prometheus"), free_port()
    rules = re.sub(r"^( +for:) \S+$", r"\1 2s", RULES.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (directory / "alerts.yml").write_text(rules, encoding="utf-8")
    scrape = {"job_name": "proxyctl", "static_configs": [{"targets": [controller.api]}]}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["alerts.yml"],
        "scrape_configs": [scrape],
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [
        "prometheus",
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        f"--web.listen-address={LOOPBACK}:{port}",
    ]

    def firing() -> set[tuple[str, str]]:
        connection = HTTPConnection(LOOPBACK, port, timeout=5)
        try:
            connection.request("GET", "/api/v1/alerts")
            found = json.loads(connection.getresponse().read())["data"]["alerts"]
        finally:
            connection.close()
        return {(a["labels"]["alertname"], a["labels"].get("service", "")) for a in found if a["state"] == "firing"}

    def answers() -> bool:
        try:
            return firing() is not None
        except (OSError, ValueError):  # it answers 503 in words while it starts
            return False

    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
    try:
        until(answers, 20, "Prometheus")
        yield firing
    finally:
        process.terminate()
        process.wait(20)


def test_a_service_that_answers_503_raises_an_alert(rig: Rig, controller: Controller, alerts: Alerts) -> None:
    boxes = [rig.run_container({"host": "shop.example", "service": "shop"}) for _ in range(2)]
    other = rig.run_container({"host": "blog.example", "service": "blog"})
    controller.wait_for("shop.example")
    controller.wait_for("blog.example")
    until(lambda: not alerts(), 20, "silence while everything answers")

    for box in boxes:
        box.stop(timeout=1)
    controller.wait_for("shop.example", 503)
    until(lambda: ("ServiceDown", "shop") in alerts(), 15, "an alert for a service whose containers have stopped")
    assert alerts() == {("ServiceDown", "shop")}

    for box in boxes:
        box.start()
    controller.wait_for("shop.example")
    until(lambda: not alerts(), 15, "silence again")

    other.remove()
    controller.wait_for("blog.example", 503)
    until(lambda: ("ServiceDown", "blog") in alerts(), 15, "an alert for a service whose container was removed")


def test_a_crash_loop_raises_an_alert(rig: Rig, alerts: Alerts) -> None:
    rig.run_container(
        {"host": "loop.example", "service": "loop", "port": "80"},
        image="proxyctl-testbed/base",
        args=["sh", "-c", "exit 3"],
        host_config={"RestartPolicy": {"Name": "always"}},
    )
    until(lambda: ("ServiceCrashLooping", "loop") in alerts(), 30, "an alert for a service that crashes again and again")


def test_the_scrape_has_no_fault_and_a_controller_that_is_gone_raises_an_alert(controller: Controller, alerts: Alerts) -> None:
    text = controller.ask_api("/metrics").body
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    controller.stop()
    until(lambda: ("ProxyctlDown", "") in alerts(), 15, "an alert for a controller that is gone")
