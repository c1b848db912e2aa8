"""The alerting rules: Prometheus accepts them, each fires when it must and is silent when it must, and they are documented."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from proxyctl.serve import views
from proxyctl.serve.metrics import METRICS, ExitReason
from tests.unit import desk as desks
from tests.unit.make import REPOSITORY, container

RULES = REPOSITORY / "examples" / "prometheus" / "alerts.yml"
TESTS = REPOSITORY / "tests" / "prometheus" / "alerts_test.yml"
OTHERS = {"up", "process_start_time_seconds"}
"""Metrics that the rules use and that are not proxyctl's own."""


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def promtool(*arguments: str | Path, stdin: str | None = None) -> str:
    done = subprocess.run(["promtool", *arguments], input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_prometheus_accepts_the_rules() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", RULES)


def test_each_alert_fires_and_is_silent() -> None:
    assert "SUCCESS" in promtool("test", "rules", TESTS)
    checks = [check for test in yaml.safe_load(TESTS.read_text(encoding="utf-8"))["tests"] for check in test["alert_rule_test"]]
    names = {rule["alert"] for rule in rules()}
    assert {check["alertname"] for check in checks if check["exp_alerts"]} == names
    assert {check["alertname"] for check in checks if not check["exp_alerts"]} == names


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_uses_metrics_and_states_that_exist(rule: dict[str, Any]) -> None:
    expression = rule["expr"]
    named = set(re.findall(r"\b(?:proxyctl|process)_[a-z_]+|\bup\b", expression))
    assert named
    assert named <= METRICS.keys() | OTHERS
    for metric, known in (("proxyctl_service_state", views.RouteState), ("proxyctl_target_exits_total", ExitReason)):
        for said in re.findall(rf'{metric}{{\w+!?=~?"([^"]+)"', expression):
            assert set(said.split("|")) <= set(get_args(known))
    assert set(rule["annotations"]) == {"summary", "description"}
    assert rule["labels"]["severity"] in ("critical", "warning")


async def test_prometheus_finds_no_fault_with_the_names_of_metrics(tmp_path: Path) -> None:
    async with desks.opened(tmp_path) as desk:
        desk.decide([container("web-1", {"host": "a.example"})])
        _, text, _ = await desk.get("/metrics")
    promtool("check", "metrics", stdin=text)
