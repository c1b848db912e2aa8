"""What Prometheus is told: under which names, from what, and within which bounds. And what is remembered of cycles."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from proxyctl.fileset import NginxWorker
from proxyctl.model import Exit, RejectionReason, TargetState
from proxyctl.report import CycleResult, Incident
from proxyctl.serve import history as remembered
from proxyctl.serve.history import History
from proxyctl.serve.metrics import METRICS, MOST_ACTIONS, MOST_SERVICES, OTHER, ExitReason
from proxyctl.serve.views import RouteState
from proxyctl.versions import Order, Rollout, Told
from tests.unit import desk as desks
from tests.unit.desk import Desk
from tests.unit.make import container

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desks.opened(tmp_path) as desk:
        desk.workers = [
            NginxWorker(1, shutting_down=False),
            NginxWorker(2, shutting_down=False),
            NginxWorker(3, shutting_down=True),
        ]
        yield desk


async def scrape(desk: Desk) -> Callable[..., float | None]:
    """(name, labels) -> value, None when it is not there."""
    _, text, headers = await desk.get("/metrics")
    assert headers["Content-Type"].startswith("text/plain")
    samples: Samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in parse(text) for sample in family.samples
    }
    return lambda name, **labels: samples.get((f"proxyctl_{name}", tuple(sorted(labels.items()))))


async def test_the_table_lists_exactly_what_is_exposed(desk: Desk) -> None:
    desk.decide([container("web-1", {"host": "a.example"})])
    desk.front.metrics.event("start")
    desk.held.frozen, desk.held.freezing = True, Order(1_000.0, "kim", "a sale")
    closed = Rollout(maintenance=True, maintained=Order(2_000.0))
    desk.held.rollouts = (Told("shop", closed, (), None, ""),)
    _, text, _ = await desk.get("/metrics")
    assert 'proxyctl_maintenance_since_timestamp_seconds{service="shop"} 2000.0' in text
    families = {family.name: family for family in parse(text) if not family.name.startswith("process_")}
    exposed = {f"{name}_total" if family.type == "counter" else name for name, family in families.items()}
    assert exposed == set(METRICS)
    assert {family.documentation for family in families.values()} == set(METRICS.values())
    assert "_created" not in text


async def test_who_prefers_openmetrics_gets_it(desk: Desk) -> None:
    _, text, headers = await desk.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    families = parse_openmetrics(text)  # type: ignore[no-untyped-call]  # the package gives this one no types
    assert "proxyctl_build_info" in {family.name for family in families}


async def test_cycles_and_their_stages_are_counted(desk: Desk) -> None:
    desk.report("unchanged")
    desk.report("live", stages={"read": 0.2, "prove": 0.1, "invented": 1.0}, event_to_live=0.09)
    value = await scrape(desk)
    assert value("cycles_total", result="unchanged") == 1
    assert value("cycle_duration_seconds_count", stage="read") == 2
    assert value("cycle_duration_seconds_sum", stage="read") == pytest.approx(0.202)
    assert value("cycle_duration_seconds_count", stage="invented") is None
    assert value("cycle_duration_seconds_count", stage=OTHER) == 1
    assert value("event_to_live_seconds_bucket", le="0.1") == 1
    assert value("event_to_live_seconds_bucket", le="0.075") == 0


async def test_results_exist_before_they_happen_so_that_their_rate_can_be_told(desk: Desk) -> None:
    value = await scrape(desk)
    assert {value("cycles_total", result=result) for result in get_args(CycleResult)} == {0}
    assert {value("reloads_total", result=result) for result in ("live", "restored")} == {0}
    assert {value("rejections", reason=reason) for reason in get_args(RejectionReason)} == {0}


async def test_a_reload_counts_when_it_is_proved_and_when_it_is_not(desk: Desk) -> None:
    for result in ("live", "live", "restored", "refused", "unchanged"):
        desk.report(result)
    value = await scrape(desk)
    assert (value("reloads_total", result="live"), value("reloads_total", result="restored")) == (2, 1)


async def test_last_live_is_when_it_was_proved_also_without_a_reload(desk: Desk) -> None:
    desk.report("unchanged", digest="a", at_unix=10.0)
    desk.report("unchanged", digest="a", at_unix=20.0)
    assert (await scrape(desk))("config_last_live_timestamp_seconds") == 10
    desk.report("live", digest="a", at_unix=30.0)
    desk.report("restored", digest="", at_unix=40.0)
    assert (await scrape(desk))("config_last_live_timestamp_seconds") == 30


async def test_in_sync_is_as_of_the_latest_cycle(desk: Desk) -> None:
    assert (await scrape(desk))("config_in_sync") == 0
    desk.decide([])
    assert (await scrape(desk))("config_in_sync") == 1
    desk.report("unreadable", error="no answer")
    assert (await scrape(desk))("config_in_sync") == 0


async def test_engine_and_version_are_told(desk: Desk) -> None:
    assert (await scrape(desk))("engine_connected") == 1
    desk.connected = False
    value = await scrape(desk)
    assert (value("engine_connected"), value("build_info", version="1.2.3")) == (0, 1)


async def test_targets_are_counted_once_for_a_service_in_their_worst_state(desk: Desk) -> None:
    said = {"service": "shop", "routes.a.host": "a.example", "routes.b.host": "b.example"}
    desk.decide([container("one", said), container("two", said, networks={"front": "10.0.0.6"})], {"two": "unhealthy"})
    value = await scrape(desk)
    found = {state: value("targets", service="shop", version="", state=state) for state in get_args(TargetState)}
    assert found == {"healthy": 1, "unhealthy": 1, "warming": 0, "stopping": 0, "down": 0}


async def test_services_past_the_first_five_hundred_are_one(desk: Desk) -> None:
    desk.decide([container(f"s{n:04}", {"host": f"h{n}.example"}) for n in range(MOST_SERVICES + 20)])
    value = await scrape(desk)
    assert value("targets", service="s0499", version="", state="healthy") == 1
    assert value("targets", service="s0500", version="", state="healthy") is None
    assert value("targets", service=OTHER, version="", state="healthy") == 20


async def test_a_service_has_the_worst_state_of_its_routes(desk: Desk) -> None:
    said = {"service": "shop", "routes.a.host": "a.example"}
    dead = container("two", {"service": "shop", "routes.b.host": "b.example"}, state="exited")
    desk.decide([container("one", said), dead, container("blog", {"host": "c.example"})], {"blog": "unhealthy"})
    value = await scrape(desk)
    shop = {state: value("service_state", service="shop", state=state) for state in get_args(RouteState)}
    assert shop == {state: int(state == "down") for state in get_args(RouteState)}
    assert value("service_state", service="blog", state="fail-open") == 1


async def test_past_the_first_five_hundred_the_services_in_a_state_are_counted(desk: Desk) -> None:
    desk.decide(
        [
            container(f"s{n:04}", {"host": f"h{n}.example"}, state="exited" if n >= MOST_SERVICES + 15 else "running")
            for n in range(MOST_SERVICES + 20)
        ]
    )
    value = await scrape(desk)
    assert value("service_state", service="s0499", state="ok") == 1
    assert value("service_state", service="s0500", state="ok") is None
    assert (value("service_state", service=OTHER, state="ok"), value("service_state", service=OTHER, state="down")) == (15, 5)


async def test_ends_of_targets_are_counted_by_reason_from_zero(desk: Desk) -> None:
    desk.decide([container("web-1", {"host": "a.example", "service": "web"})])
    value = await scrape(desk)
    assert [value("target_exits_total", service="web", reason=reason) for reason in get_args(ExitReason)] == [0, 0, 0]
    for end in (Exit(143, requested=True), Exit(3), Exit(137, out_of_memory=True, requested=True), Exit(3)):
        desk.front.metrics.incident(Incident("target-exited", 1.0, "web-1", "", "web", end))
    value = await scrape(desk)
    found = {reason: value("target_exits_total", service="web", reason=reason) for reason in get_args(ExitReason)}
    assert found == {"stopped": 1, "exited": 2, "out-of-memory": 1}


async def test_nginx_is_up_or_down_or_not_known(desk: Desk) -> None:
    value = await scrape(desk)
    assert (value("nginx_up"), value("nginx_starts_total"), value("nginx_start_time_seconds")) == (1, 1, 1000.5)
    desk.held.nginx_up = False
    assert (await scrape(desk))("nginx_up") == 0
    desk.held.nginx_up = None
    assert (await scrape(desk))("nginx_up") is None


async def test_rejections_are_counted_by_reason(desk: Desk) -> None:
    desk.decide([container("bad", {"hots": "a.example"}), container("worse", {"host": "a b"})])
    value = await scrape(desk)
    assert (value("rejections", reason="unknown-label"), value("rejections", reason="bad-value")) == (1, 1)


async def test_actions_are_bounded(desk: Desk) -> None:
    for number in range(MOST_ACTIONS + 5):
        desk.front.metrics.event(f"action{number}")
    desk.front.metrics.event("action0")
    value = await scrape(desk)
    assert (value("events_total", action="action0"), value("events_total", action=OTHER)) == (2, 5)


async def test_workers_are_read_at_the_scrape(desk: Desk) -> None:
    value = await scrape(desk)
    assert (value("nginx_workers", state="serving"), value("nginx_workers", state="shutting-down")) == (2, 1)


async def test_connections_are_shown_beside_their_limit_where_they_can_be_counted(desk: Desk) -> None:
    value = await scrape(desk)
    assert (value("nginx_connections"), value("nginx_connections_limit")) == (11, 8192)
    desk.connections = None
    value = await scrape(desk)
    assert (value("nginx_connections"), value("nginx_connections_limit")) == (None, None)


async def test_an_engine_that_hangs_holds_up_no_scrape_and_is_asked_once(desk: Desk) -> None:
    desk.workers_after = 30.0
    began = time.monotonic()
    values = await asyncio.gather(*(scrape(desk) for _ in range(5)))
    assert time.monotonic() - began < 3
    assert [value("nginx_workers", state="serving") for value in values] == [None] * 5
    assert sum("_ask_workers" in str(task) for task in asyncio.all_tasks()) == 1


async def test_the_process_is_told_too(desk: Desk) -> None:
    _, text, _ = await desk.get("/metrics")
    assert "process_resident_memory_bytes" in text


# ---------------------------------------------------------------- history


def kept(history: History) -> list[tuple[str, str]]:
    return [(cycle.result, cycle.error) for cycle in reversed(history.newest(1000))]


async def test_cycles_that_changed_nothing_are_not_remembered(desk: Desk) -> None:
    desk.report("unchanged")
    desk.report("tested")
    desk.report("live", changes=("+ a",))
    assert kept(desk.front.history) == [("live", "")]


async def test_a_failure_that_goes_on_is_remembered_once(desk: Desk) -> None:
    for error in ("no answer", "no answer", "another", "no answer"):
        desk.report("unreadable", error=error)
    desk.report("unchanged")
    desk.report("unreadable", error="no answer")
    assert [error for _, error in kept(desk.front.history)] == ["no answer", "another", "no answer", "no answer"]


async def test_rejections_are_told_when_they_come_and_when_they_are_settled(desk: Desk) -> None:
    plan = desk.decide([container("bad", {"hots": "a.example"})])
    desk.report("unchanged", rejections=plan.rejections)
    desk.report("unchanged", rejections=())
    came, went = reversed(desk.front.history.newest(2))
    assert [r.label for r in came.rejected] == [r.label for r in plan.rejections]
    assert went.settled == tuple(sorted({f"bad {r.label}" for r in plan.rejections}))


def test_the_newest_are_kept_over_a_restart(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    for number in range(remembered.KEEP + 10):
        desk.report("live", changes=(f"change {number}",))
    again = History(tmp_path / "history.jsonl")
    assert len(again.newest(10_000)) == remembered.KEEP
    assert again.newest(1)[0].changes == (f"change {remembered.KEEP + 9}",)


def test_the_file_is_rotated_and_both_parts_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "ROTATE_AT", 4000)
    desk = Desk(tmp_path)
    for number in range(60):
        desk.report("live", changes=(f"change {number}",))
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("history*")}
    assert sizes.keys() == {"history.jsonl", "history.jsonl.1"}
    assert all(size <= 4000 for size in sizes.values())
    found = [cycle.changes[0] for cycle in History(tmp_path / "history.jsonl").newest(1000)]
    assert found == [f"change {n}" for n in range(59, 59 - len(found), -1)]
    assert len(found) > 10


def test_lines_that_cannot_be_read_are_skipped(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.report("live", changes=("first",))
    file = tmp_path / "history.jsonl"
    good = file.read_bytes()
    file.write_bytes(good + good[:40] + b"\n" + b"\xff\xfe\n[]\n{}\n" + good)
    assert len(History(file).newest(10)) == 2


def test_a_full_disk_disturbs_nobody_and_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = History(tmp_path / "history.jsonl")
    desk = Desk(tmp_path)
    desk.front.sinks = (history,)
    history._file = Path("/dev/full")
    for number in range(3):
        desk.report("live", changes=(f"change {number}",))
    assert capsys.readouterr().out.count("No space left on device") == 1
    history._file = tmp_path / "history.jsonl"
    history._file.write_text('{"as far as the disk')
    desk.report("live", changes=("change 3",))
    assert [c.changes for c in history.newest(10)] == [("change 3",), ("change 2",), ("change 1",), ("change 0",)]
    assert [c.changes for c in History(tmp_path / "history.jsonl").newest(10)] == [("change 3",)]


def crash(at: float, subject: str = "web-1") -> Incident:
    return Incident("target-exited", at, subject, f"{subject} exited with status 3", "web", Exit(3, restarts=1), expected=False)


def test_a_crash_loop_is_one_entry_in_memory_and_few_lines_in_the_file(tmp_path: Path) -> None:
    history, file = History(tmp_path / "history.jsonl"), tmp_path / "history.jsonl"
    told: list[remembered.Cycle] = []
    history.listeners.append(told.append)
    for number in range(1000):
        history.record(crash(1000.0 + number * 60))
        history.record(crash(1000.0 + number * 60, "other"))
    assert [(c.times, c.first_unix, c.at_unix) for c in history.newest(10)] == [(1000, 1000.0, 1000.0 + 999 * 60)] * 2
    assert len(told) == len(file.read_text().splitlines()) == 20
    assert [(c.subject, c.times) for c in History(file).newest(10)] == [("other", 512), ("web-1", 512)]


def test_an_end_long_after_is_an_entry_of_its_own(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    for at in (1000.0, 1060.0, 1000.0 + 2 * 3600):
        history.record(crash(at))
    assert [(c.times, c.at_unix) for c in history.newest(10)] == [(1, 8200.0), (2, 1060.0)]


def test_changes_that_come_again_are_counted_but_not_what_an_operator_said(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    for number in range(6):
        desk.report("live", changes=("a.example/: web-1 out (gone)",), at_unix=1000.0 + number)
        desk.report("live", changes=("a.example/: web-1 in",), at_unix=1000.5 + number)
        desk.report("live", changes=("+ b.example/ -> b",), rollouts=("shop: rolled back (eve)",), at_unix=1000.7 + number)
    found = desk.front.history.newest(100)
    assert sorted(c.times for c in found) == [1] * 6 + [6, 6]


async def test_each_line_is_what_the_api_tells(tmp_path: Path) -> None:
    async with desks.opened(tmp_path) as desk:
        desk.report("live", changes=("+ a",), event_to_live=0.1)
        _, body, _ = await desk.get("/api/v1/cycles")
        assert [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()] == body["cycles"]
