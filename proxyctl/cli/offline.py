"""What a controller would decide now, without one: the engine is read, the plan is made, nothing is written or changed.

Target health is the running controller's, when one answers; else every running container counts as healthy. Versions and
maintenance are where its state left them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from jinja2 import TemplateError

from proxyctl import steady
from proxyctl.app import App, build_policy
from proxyctl.cli.client import Refused, TimedOut, Unreachable, connect
from proxyctl.cli.options import UNREACHABLE, USAGE, Options, Stop
from proxyctl.config import ConfigError
from proxyctl.cycle import Policy
from proxyctl.fileset import FileSet
from proxyctl.model import (
    EngineUnavailable,
    Location,
    NginxView,
    Plan,
    Probe,
    ProbeKey,
    ProbeResult,
    Rejection,
    RoutedTarget,
    RouteTable,
    Snapshot,
    Target,
    VirtualHost,
)
from proxyctl.plan import drain, planner, routes
from proxyctl.publish.nginx import NginxInstance, NginxMissing, bootstrap_view
from proxyctl.rollouts import Rollouts
from proxyctl.serve.views import Targets
from proxyctl.state import State

Note = Callable[[str], None]
NO_TOKEN = "0" * 32


@dataclass(frozen=True, slots=True)
class Drawn:
    plan: Plan
    fileset: FileSet


def draw(options: Options, note: Note) -> Drawn:
    """Raises Stop: 2 for configuration and templates, 3 when the engine does not answer. `note` is told what is assumed."""
    config = options.config()
    app = App(config, options.config_file)
    try:
        return asyncio.run(_draw(app, options, note))
    except EngineUnavailable as error:
        raise Stop(str(error), UNREACHABLE) from error
    finally:
        app.engine.close()


async def _draw(app: App, options: Options, note: Note) -> Drawn:
    state = read_state(app, note)
    now = steady.now()
    policy = read_policy(app, state.token)
    policy = replace(policy, nginx=replace(policy.nginx, drain=drain.phase(state.drain, now)))
    nginx = await find_nginx(app, note)
    view = nginx.view if nginx else assumed_view(app.config.nginx.image)
    told = await _ask(options, note)
    snapshot = await _read(app, told)
    inputs = routes.Inputs(
        snapshot=snapshot,
        standing={},
        owners=state.owners,
        nginx=view,
        defaults=policy.defaults,
        join=policy.join or nginx is None,
        unjoinable={},
        published=frozenset(item.host + item.path for item in told.targets) if told else frozenset(),
        now_unix=now,
        claims=policy.claims,
        own_ports=policy.own_ports,
        shares={},
        maintenance=frozenset(),
    )
    remembering, rollouts = planner.Planner(), Rollouts(state.rollouts, now, frozen=state.frozen)
    inputs = replace(inputs, standing=_standing(remembering.plan(inputs).probes, told))
    remembering.plan(inputs)
    rollouts.turn(remembering, inputs, now, frozenset(), RouteTable())
    plan = remembering.plan(replace(inputs, shares=rollouts.shares, maintenance=rollouts.maintenance))
    return Drawn(plan, render(policy, plan.table, view))


def read_state(app: App, note: Note) -> State:
    """The owners of hosts and the token; without a state directory, nobody owns anything."""
    try:
        there = (app.config.state_dir / "state.json").exists()
        state = app.store.load()
    except OSError as error:
        note(f"{app.config.state_dir} cannot be read ({error.strerror}): who owns which host is not known")
        return State(token=NO_TOKEN)
    for problem in app.store.notes:
        note(problem)
    return state if there else replace(state, token=NO_TOKEN)


def read_policy(app: App, token: str) -> Policy:
    """Settings and templates, tried on a made-up host. Raises Stop."""
    try:
        policy = build_policy(app.config, app.config_file, token)
    except ConfigError as error:
        raise Stop(str(error), USAGE) from error
    except (OSError, UnicodeDecodeError) as error:
        raise Stop(f"templates and sites cannot be read: {error}", USAGE) from error
    render(policy, _EVERYTHING, bootstrap_view())
    return policy


def render(policy: Policy, table: RouteTable, view: NginxView) -> FileSet:
    """Raises Stop."""
    try:
        return policy.renderer.render(table, view, policy.nginx, policy.operator_files)
    except TemplateError as error:
        where = f"{getattr(error, 'name', None) or 'templates'}:{getattr(error, 'lineno', None) or '?'}"
        raise Stop(f"{where}: {error}", USAGE) from error
    except ValueError as error:
        raise Stop(f"templates: {error}", USAGE) from error


_ONE = RoutedTarget(Target("0", "0", "192.0.2.1", 80), "sample", "sample", 1, "healthy", "", serving=True)
_PLACE = Location(path="/", strip_path=True, scheme="http", service="sample", route="default", targets=(_ONE,), fail_open=False)
_EVERYTHING = RouteTable(
    (
        VirtualHost(
            "sample.proxyctl.invalid",
            (
                replace(_PLACE, path="/", strip_path=False),
                replace(_PLACE, path="/a", scheme="https"),
                replace(_PLACE, path="/b", scheme="grpc", strip_path=False),
                replace(_PLACE, path="/c", targets=()),
            ),
        ),
    )
)
"""Takes every branch of the templates."""


async def find_nginx(app: App, note: Note) -> NginxInstance | None:
    """The running nginx. None, with a note, when there is none: looking must not create one."""
    try:
        nginx = await (await app.nginx()).look()
    except NginxMissing as error:
        note(f"{error}; rendered for the nginx of {app.config.nginx.image}, in no network")
        return None
    if nginx.view.neighbours.refused:
        note(nginx.view.neighbours.refused)
    return nginx


def assumed_view(image: str) -> NginxView:
    """By the version in the image's tag, else a recent one."""
    match = re.search(r":([0-9]+)\.([0-9]+)\.([0-9]+)", image)
    return replace(bootstrap_view(), version=tuple(map(int, match.groups())) if match else (1, 31, 3))


async def _read(app: App, told: Targets | None) -> Snapshot:
    """Every container; ours as inspect shows them, with what the list call leaves out."""
    prefix = f"{app.config.discovery.label_prefix}."
    listed = {c.id: c for c in await app.engine.list_containers()}
    ours = [c.id for c in listed.values() if any(key.startswith(prefix) for key in c.labels)]
    for container in await asyncio.gather(*map(app.engine.inspect, ours)):
        if container:
            listed[container.id] = container
    stopping = {t.target.container_id for t in told.targets if t.target.state == "stopping"} if told else set()
    return Snapshot(listed, frozenset(stopping))


async def not_taken(options: Options) -> tuple[Rejection, ...]:
    """What the running controller could not take over since nginx refuses it, which only nginx can tell. Empty without one."""
    try:
        async with connect(options.socket_path()) as client:
            status = await client.status()
    except (Unreachable, TimedOut, Refused):
        return ()
    files = tuple(r for r in status.rejections if r.reason == "quarantined")
    told = {f"{r.container}: {r.message}" for r in files}
    hint = "fix the file or take the change back: what was in effect before is still served"
    others = [problem for problem in status.configuration.problems if problem not in told]
    return (*(Rejection("", "configuration", "default", "quarantined", "", problem, hint) for problem in others), *files)


async def _ask(options: Options, note: Note) -> Targets | None:
    """How the targets are. What the controller has put aside is a note: nobody but nginx can tell."""
    try:
        async with connect(options.socket_path()) as client:
            for rejection in (await client.status()).rejections:
                if rejection.reason == "quarantined":
                    note(f"{rejection.container}: {rejection.message}")
            return await client.targets()
    except (Unreachable, TimedOut, Refused) as error:
        note(f"{error}; every running container counts as healthy")
        return None


def _standing(probes: Mapping[ProbeKey, Probe], told: Targets | None) -> Mapping[ProbeKey, ProbeResult]:
    if told is None:
        return dict.fromkeys(probes, ProbeResult("healthy", "", 0.0))
    known: dict[Target, ProbeResult] = {}
    for item in told.targets:
        target = item.target
        if target.state in ("warming", "healthy", "unhealthy"):
            key = Target(target.container_id, target.endpoint_id, target.address, target.port)
            known[key] = ProbeResult(target.state, target.reason, 0.0)
    return {key: known[key[0]] for key in probes if key[0] in known}
