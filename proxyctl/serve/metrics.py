"""CycleReports, Incidents and the current Standing -> Prometheus metrics. `METRICS` is the reference: docs/metrics.md is tested
against it.

What happened is counted as it is reported; what is the case is read at the scrape. No label has unbounded values: services past
the first 500 are one, `other`.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from proxyctl.fileset import NginxWorker
from proxyctl.model import RejectionReason, TargetState
from proxyctl.report import CycleReport, CycleResult, Incident
from proxyctl.serve import views
from proxyctl.serve.standing import Standing
from proxyctl.versions import FailureReason, Phase

METRICS = {
    "proxyctl_build_info": "The version that runs, as a label; always 1.",
    "proxyctl_engine_connected": "1 while the Docker engine's event stream stands.",
    "proxyctl_events_total": "Events of the Docker engine, by action.",
    "proxyctl_cycle_duration_seconds": "Time spent in each stage of a cycle.",
    "proxyctl_cycles_total": "Cycles, by what came of them.",
    "proxyctl_reloads_total": "Reloads of nginx: proved live, or not provable and the last good configuration proved to be back.",
    "proxyctl_event_to_live_seconds": "From the oldest event of a cycle until nginx was proved to run what it asks for.",
    "proxyctl_config_in_sync": "1 while nginx answers and runs what is wanted.",
    "proxyctl_config_last_live_timestamp_seconds": "When a configuration was last proved live.",
    "proxyctl_config_last_reload_successful": "1 while configuration, templates and hand-written vhosts are in effect.",
    "proxyctl_config_last_reload_success_timestamp_seconds": "When all of them were last taken over.",
    "proxyctl_service_state": "1 for the worst state of the routes of a service.",
    "proxyctl_targets": "Targets, by service, version and state.",
    "proxyctl_target_exits_total": "Ends of containers of a service, by reason.",
    "proxyctl_rollout_state": "1 for the state that the versions of a service are in.",
    "proxyctl_rollouts_frozen": "1 while no version may be rolled out, by an operator's word.",
    "proxyctl_rollouts_frozen_since_timestamp_seconds": "When that was said.",
    "proxyctl_maintenance": "1 for a service that is in maintenance.",
    "proxyctl_maintenance_since_timestamp_seconds": "When a service was put into maintenance.",
    "proxyctl_rollbacks_total": "Versions that failed, by service and reason.",
    "proxyctl_drains_cut_total": "Old versions whose connections went on for too long and were cut, by service.",
    "proxyctl_rejections": "Routes that are not served because of their labels, by reason.",
    "proxyctl_nginx_up": "1 while nginx runs and answers.",
    "proxyctl_nginx_starts_total": "Starts of nginx that the controller has seen.",
    "proxyctl_nginx_start_time_seconds": "When nginx was started, as Unix time.",
    "proxyctl_nginx_connections": "Open connections of nginx, to clients and to targets.",
    "proxyctl_nginx_connections_limit": "How many connections the serving workers of nginx may have open.",
    "proxyctl_nginx_workers": "Worker processes of nginx; those shutting down serve connections of an earlier configuration.",
}

MOST_SERVICES = 500
MOST_VERSIONS = 3
"""Of one service."""
MOST_ACTIONS = 32
STAGES = frozenset({"read", "plan", "join", "render", "test", "promote", "prove"})
STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
LIVE_BUCKETS = (0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)
OTHER = "other"
STARTS = "proxyctl_nginx_starts_total"
ExitReason = Literal["stopped", "exited", "out-of-memory"]
"""stopped: it was sent a signal to end; exited: it ended by itself."""


class Metrics:
    """A sink of reports with a registry of its own."""

    def __init__(self, standing: Callable[[], Standing]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the package gives this one no types
        self._registry = CollectorRegistry()
        self._actions: set[str] = set()
        self._digest = ""
        self._events = self._counter("proxyctl_events_total", ["action"])
        self._cycles = self._counter("proxyctl_cycles_total", ["result"])
        self._reloads = self._counter("proxyctl_reloads_total", ["result"])
        self._stages = self._histogram("proxyctl_cycle_duration_seconds", STAGE_BUCKETS, ["stage"])
        self._to_live = self._histogram("proxyctl_event_to_live_seconds", LIVE_BUCKETS, [])
        self._rollbacks = self._counter("proxyctl_rollbacks_total", ["service", "reason"])
        self._cut = self._counter("proxyctl_drains_cut_total", ["service"])
        self._exits = self._counter("proxyctl_target_exits_total", ["service", "reason"])
        self._named: set[str] = set()
        name = "proxyctl_config_last_live_timestamp_seconds"
        self._last_live = Gauge(name, METRICS[name], registry=self._registry)
        for result in get_args(CycleResult):
            self._cycles.labels(result)
        for result in ("live", "restored"):
            self._reloads.labels(result)
        self._standing = standing
        self._moment = _Moment(standing)
        self._registry.register(self._moment)
        ProcessCollector(registry=self._registry)

    def _counter(self, name: str, labels: list[str]) -> Counter:
        return Counter(name, METRICS[name], labels, registry=self._registry)

    def _histogram(self, name: str, buckets: tuple[float, ...], labels: list[str]) -> Histogram:
        return Histogram(name, METRICS[name], labels, buckets=buckets, registry=self._registry)

    def __call__(self, report: CycleReport) -> None:
        self._cycles.labels(report.result).inc()
        for stage, seconds in report.stages.items():
            self._stages.labels(stage if stage in STAGES else OTHER).observe(seconds)
        if report.result in ("live", "restored"):
            self._reloads.labels(report.result).inc()
        for service, reason in report.rolled_back:
            self._rollbacks.labels(self._service(service), reason).inc()
        for service in report.drains_cut:
            self._cut.labels(self._service(service)).inc()
        if report.event_to_live is not None:
            self._to_live.observe(report.event_to_live)
        if report.result == "live" or report.digest not in ("", self._digest):
            self._last_live.set(report.at_unix)
        self._digest = report.digest

    def incident(self, incident: Incident) -> None:
        end = incident.exit
        if incident.kind == "target-exited" and end:
            reason: ExitReason = "out-of-memory" if end.out_of_memory else "stopped" if end.requested else "exited"
            self._exits.labels(self._service(incident.service), reason).inc()

    def _begin_at_zero(self) -> None:
        """To Prometheus, a series that begins with 1 has not increased: counters are there before they count."""
        standing = self._standing()
        for name in sorted(views.service_names(standing)):
            for reason in get_args(ExitReason):
                self._exits.labels(self._service(name), reason)
        for told in standing.rollouts:
            if told.rollout.active is not None:
                for reason in get_args(FailureReason):
                    self._rollbacks.labels(self._service(told.service), reason)

    def _service(self, name: str) -> str:
        """The first 500 that are counted by name."""
        if name not in self._named and len(self._named) >= MOST_SERVICES:
            return OTHER
        self._named.add(name)
        return name

    def event(self, action: str) -> None:
        """One event of the engine."""
        if action not in self._actions and len(self._actions) >= MOST_ACTIONS:
            action = OTHER
        self._actions.add(action)
        self._events.labels(action).inc()

    def text(
        self, accept: str, workers: Iterable[NginxWorker] | None, connections: tuple[int, int] | None = None
    ) -> tuple[bytes, str]:
        """(body, content type) for a scrape. `workers`: None when nginx's processes could not be read. `connections`: open ones
        and their limit, None when they could not be counted."""
        self._moment.workers = None if workers is None else list(workers)
        self._moment.connections = connections
        self._begin_at_zero()
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # what prometheus_client makes of a version that is none
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type


class _Moment(Collector):
    """What is the case, at the moment of the scrape."""

    def __init__(self, standing: Callable[[], Standing]) -> None:
        self._standing = standing
        self.workers: list[NginxWorker] | None = None
        self.connections: tuple[int, int] | None = None

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not read the standing."""
        return []

    def collect(self) -> Iterator[Metric]:
        standing = self._standing()
        yield _gauge("proxyctl_build_info", {(standing.place.version,): 1}, "version")
        yield _gauge("proxyctl_engine_connected", {(): int(standing.connected)})
        yield _gauge("proxyctl_config_in_sync", {(): int(standing.in_sync)})
        yield _gauge("proxyctl_config_last_reload_successful", {(): int(standing.taken_over)})
        yield _gauge("proxyctl_config_last_reload_success_timestamp_seconds", {(): standing.configuration.taken_unix})
        yield _gauge("proxyctl_service_state", _service_states(standing), "service", "state")
        yield _gauge("proxyctl_targets", _targets(standing), "service", "version", "state")
        yield _gauge("proxyctl_rollout_state", _phases(standing), "service", "state")
        yield _gauge("proxyctl_rollouts_frozen", {(): int(standing.frozen)})
        if standing.freezing:
            yield _gauge("proxyctl_rollouts_frozen_since_timestamp_seconds", {(): standing.freezing.since_unix})
        closed = [told for told in standing.rollouts if told.rollout.maintenance][:MOST_SERVICES]
        yield _gauge("proxyctl_maintenance", {(told.service,): 1 for told in closed}, "service")
        since: dict[tuple[str, ...], float] = {
            (told.service,): told.rollout.maintained.since_unix for told in closed if told.rollout.maintained
        }
        yield _gauge("proxyctl_maintenance_since_timestamp_seconds", since, "service")
        if standing.nginx_up is not None:
            yield _gauge("proxyctl_nginx_up", {(): int(standing.nginx_up)})
        yield CounterMetricFamily(STARTS, METRICS[STARTS], value=standing.runs.starts)
        if standing.runs.started_unix is not None:
            yield _gauge("proxyctl_nginx_start_time_seconds", {(): standing.runs.started_unix})
        reasons = Tally(r.reason for r in standing.rejections)
        yield _gauge("proxyctl_rejections", {(reason,): reasons[reason] for reason in get_args(RejectionReason)}, "reason")
        if self.workers is not None:
            ending = sum(worker.shutting_down for worker in self.workers)
            values: dict[tuple[str, ...], int] = {("serving",): len(self.workers) - ending, ("shutting-down",): ending}
            yield _gauge("proxyctl_nginx_workers", values, "state")
        if self.connections is not None:
            yield _gauge("proxyctl_nginx_connections", {(): self.connections[0]})
            yield _gauge("proxyctl_nginx_connections_limit", {(): self.connections[1]})


def _gauge(name: str, values: Mapping[tuple[str, ...], float], *labels: str) -> Metric:
    family = GaugeMetricFamily(name, METRICS[name], labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _service_states(standing: Standing) -> dict[tuple[str, ...], int]:
    states = views.service_states(standing)
    names = sorted(states)
    named = frozenset(names[:MOST_SERVICES])
    shown = [*names[:MOST_SERVICES], OTHER] if len(names) > MOST_SERVICES else names
    values: dict[tuple[str, ...], int] = {(name, state): 0 for name in shown for state in get_args(views.RouteState)}
    for name, state in states.items():
        values[name if name in named else OTHER, state] += 1
    return values


def _targets(standing: Standing) -> dict[tuple[str, ...], int]:
    states = views.standing_of_targets(standing)
    names = sorted(views.service_names(standing))
    named = frozenset(names[:MOST_SERVICES])
    versions = _versions(standing, states)
    values: dict[tuple[str, ...], int] = {}
    for name in [*sorted(named), OTHER] if len(names) > MOST_SERVICES else sorted(named):
        for version in versions.get(name, [""]):
            values |= {(name, version, state): 0 for state in get_args(TargetState)}
    for (service, version, _, _), state in states.items():
        if service not in named:
            key = (OTHER, "", state)
        else:
            key = (service, version if version in versions.get(service, [""]) else OTHER, state)
        values[key] = values.get(key, 0) + 1
    return values


def _versions(standing: Standing, states: Mapping[tuple[str, str, str, int], TargetState]) -> dict[str, list[str]]:
    """Service -> living versions of it, those with traffic first, and not too many."""
    living: dict[str, set[str]] = {}
    for (service, version, _, _), state in states.items():
        if state != "down":
            living.setdefault(service, set()).add(version)
    first = {told.service: (told.rollout.active, told.rollout.candidate, told.rollout.previous) for told in standing.rollouts}
    found = {}
    for service, own in living.items():
        carrying = own.intersection(first.get(service, ()))
        found[service] = [*sorted(carrying), *sorted(own - carrying)][:MOST_VERSIONS]
    return found


def _phases(standing: Standing) -> dict[tuple[str, ...], int]:
    told = [each for each in standing.rollouts if each.rollout.active is not None][:MOST_SERVICES]
    return {(each.service, phase): int(each.rollout.phase == phase) for each in told for phase in get_args(Phase)}
