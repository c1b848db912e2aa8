"""The composition root: Config -> a running controller. Builds everything, runs it in one TaskGroup, ends it on a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import structlog

from proxyctl import __version__, memory
from proxyctl import config as configuration
from proxyctl.config import Config, ConfigError
from proxyctl.controller import Controller
from proxyctl.cycle import Parts, Policy
from proxyctl.fileset import NginxWorker
from proxyctl.model import EngineEvent, EngineRefused, EngineUnavailable, Probe, ProbeResult, RouteTable
from proxyctl.observe import events
from proxyctl.observe.docker_host import DockerHost
from proxyctl.observe.inventory import Inventory
from proxyctl.observe.mounts import host_path
from proxyctl.observe.probes import Prober
from proxyctl.plan import labels, vhosts
from proxyctl.plan.ownership import ClaimRule
from proxyctl.processes import holder
from proxyctl.publish.draft import FOLDERS, Drafts
from proxyctl.publish.heartbeat import Heartbeat
from proxyctl.publish.host import HostNginx
from proxyctl.publish.included import IncludingNginx, IncludingSpec
from proxyctl.publish.nginx import Engine, Nginx, NginxContainer, NginxSpec, bootstrap_view
from proxyctl.publish.promote import Reference
from proxyctl.publish.reload import Reloader
from proxyctl.publish.test import Tester
from proxyctl.publish.workers import connections_limit, open_connections
from proxyctl.publish.workers import workers as list_workers
from proxyctl.report import CycleReport, Wake
from proxyctl.serve import listeners, page, standing
from proxyctl.serve.changes import Changes
from proxyctl.serve.front import Front
from proxyctl.serve.history import History
from proxyctl.serve.log import CycleLog
from proxyctl.serve.notify import Notifier, Systemd
from proxyctl.state import StateStore
from proxyctl.traces import Traces
from proxyctl.versions import Settings

log = structlog.get_logger()
HUP = 1
CONNECTS_WITHIN = 1.0
"""Seconds that the engine's event stream has at the start."""


def shipped_templates() -> Path:
    """In an installed package they lie inside it, in a checkout beside it."""
    inside = Path(str(files("proxyctl"))) / "templates"
    return inside if inside.is_dir() else inside.parent.parent / "templates"


def read_renderer(config_file: Path) -> vhosts.Renderer:
    """The shipped templates, each replaced by the file of its name in `templates/` beside the configuration."""
    own = [name for name in vhosts.TEMPLATES if (config_file.parent / "templates" / name).is_file()]
    folders = {name: config_file.parent / "templates" if name in own else shipped_templates() for name in vhosts.TEMPLATES}
    texts = {name: _read(folder / name) for name, folder in folders.items()}
    return vhosts.Renderer(texts, shipped=not own)


def read_page(config_file: Path) -> str:
    """The dashboard's template, the operator's own where there is one."""
    own = config_file.parent / "templates" / page.TEMPLATE
    return (own if own.is_file() else shipped_templates() / page.TEMPLATE).read_text(encoding="utf-8")


def read_operator_files(config: Config) -> dict[str, str]:
    """Hand-written vhosts in `sites`, where nginx.conf is proxyctl's. nginx is given copies, so an edit is live only after its
    test. Raises ConfigError."""
    return {path.name: _read(path) for path in sorted((config.home / "sites").glob("*.conf"))}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def build_policy(config: Config, config_file: Path, token: str) -> Policy:
    return Policy(
        defaults=label_defaults(config),
        join=config.nginx.join,
        nginx=vhosts.NginxSettings(
            workers=config.workers,
            shutdown_timeout=int(config.nginx.worker_shutdown_timeout),
            trusted_proxies=config.nginx.trusted_proxies,
            unknown_host=config.nginx.unknown_host,
            token=token,
            wait_after_boot=config.cold_start == "wait",
            included=config.nginx.layout == "include",
            read_timeout=int(config.nginx.read_timeout),
            send_timeout=int(config.nginx.send_timeout),
            buffering=config.nginx.buffering,
            request_buffering=config.nginx.request_buffering,
            client_max_body_size=config.nginx.client_max_body_size,
            connections=config.nginx.worker_connections or vhosts.connections_for(memory.total(), config.workers),
        ),
        renderer=read_renderer(config_file),
        operator_files=read_operator_files(config),
        claims=claim_rules(config),
        own_ports=own_ports(config),
    )


def read_connections(config: Config, workers: Sequence[NginxWorker]) -> tuple[int, int] | None:
    """(open connections, their limit) of an nginx that has a network namespace of its own. None when its workers cannot be seen
    from here, or when nginx.conf belongs to somebody else."""
    if config.nginx.layout != "full":
        return None
    count = open_connections(worker.pid for worker in workers)
    try:
        limit = connections_limit(
            config.reference.read_text(encoding="utf-8"), sum(not worker.shutting_down for worker in workers)
        )
    except (OSError, UnicodeDecodeError):
        return None
    return None if count is None or not limit else (count, limit)


def claim_rules(config: Config) -> tuple[ClaimRule, ...]:
    return tuple(ClaimRule(rule.hosts, rule.paths, rule.projects, rule.images) for rule in config.claims)


def own_ports(config: Config) -> frozenset[int]:
    """The host's ports that lead to nginx and to the API."""
    api = config.api_address
    return frozenset(outer for _, outer, _ in config.ports) | ({api[1]} if api else set())


FIXED_AT_START = {
    "docker": None,
    "state": None,
    "api": None,
    "discovery": ("label_prefix", "resync"),
    "nginx": ("layout", "pid_file", "dir", "logs", "container", "image", "publish", "pull", "create"),
}
"""What a running controller does not change: keys by section, or None for all of them."""


def fixed_at_start(config: Config) -> dict[str, object]:
    """The values of these keys, by their names as they are written."""
    found: dict[str, object] = {}
    for name, keys in FIXED_AT_START.items():
        section = getattr(config, name)
        found |= {f"{name}.{key}": getattr(section, key) for key in keys or section.__struct_fields__}
    return found


def needs_restart(running: Config, written: Config) -> tuple[str, ...]:
    """Keys whose change takes effect when the controller is started again."""
    before = fixed_at_start(running)
    return tuple(sorted(key for key, value in fixed_at_start(written).items() if value != before[key]))


def label_defaults(config: Config) -> labels.Defaults:
    return labels.Defaults(
        prefix=config.discovery.label_prefix,
        default_host=config.discovery.default_host,
        network=config.discovery.network,
        interval=config.health.interval,
        timeout=config.health.timeout,
        rise=config.health.rise,
        fall=config.health.fall,
        rollout=Settings(
            config.rollout.strategy,
            float(config.rollout.bake),
            float(config.rollout.deadline),
            config.rollout.retire,
            drain=float(config.rollout.drain),
        ),
    )


class App:
    """One controller and what it is made of."""

    def __init__(self, config: Config, config_file: Path) -> None:
        self.config = config
        self.config_file = config_file
        self.store = StateStore(config.state_dir)
        self.engine = DockerHost(config.docker.endpoint, config.discovery.label_prefix)
        on_host = config.nginx.pid_file
        self.nginx_engine: Engine = HostNginx(Path(on_host).absolute(), config.nginx_dir) if on_host else self.engine
        """Where nginx is asked, tested and sent its signal."""
        self.wakes = events.Wakes()
        self.events = events.EngineEvents(self.engine, self.wakes, self._noted)
        self.inventory = Inventory(self.engine, config.discovery.label_prefix, self.wakes.post)
        self.started = time.time()
        cycle_log = CycleLog()
        self._sinks: list[Callable[[CycleReport], None]] = [cycle_log]
        self.traces = Traces(self.engine, self.inventory, cycle_log, self.started, config.discovery.label_prefix)
        self.front: Front | None = None
        self.controller: Controller | None = None
        self.systemd: Systemd | None = None
        self._offered: Policy | None = None
        """The latest that was read, until it is taken over or declined."""
        self.configuration = standing.Configuration(taken_unix=self.started)
        self._taken_over = True

    def _noted(self, event: EngineEvent) -> None:
        """Events of nginx are ours to look at, but for `kill` with SIGHUP: those are mostly our own reloads."""
        if self.front:
            self.front.metrics.event(event.action)
        nginx = self.controller.nginx if self.controller else None
        told, label = event.labels or {}, f"{self.config.discovery.label_prefix}.nginx"
        named = told.get("name") == self.config.nginx.container or told.get(label) == "true"
        is_nginx = named or (nginx is not None and nginx.id == event.container_id)
        self.traces.note(event, is_nginx=is_nginx)
        if event.action == "oom":
            return
        if not is_nginx:
            self.inventory.note(event)
        elif not (event.action == "kill" and event.signal == HUP):
            self.wakes.post(Wake((f"{event.action} nginx",), nginx=True, urgent=event.action == "die", at=time.monotonic()))

    def _told(self, report: CycleReport) -> None:
        for sink in self._sinks:
            sink(report)
        if self.controller:
            self.traces.look(self.controller)
        before = self._offered
        if self._offered and self.controller:
            if self.controller.policy is self._offered:
                self._settle("")
            elif self.controller.declined and self.controller.declined[0] is self._offered:
                log.error("configuration not taken over", error=report.declined)
                self._settle(report.declined)
            elif report.error and self.systemd:  # it is offered again in the next cycle
                self.systemd.reloaded(report.error)
        clean = not self.configuration.problem and not standing.refused_files(report.rejections)
        if clean and (not self._taken_over or (before and not self._offered)):
            self.configuration = replace(self.configuration, taken_unix=time.time())
        self._taken_over = clean

    def _settle(self, problem: str) -> None:
        """The latest configuration is in effect, or `problem` says why not."""
        self._offered = None
        self.configuration = replace(self.configuration, problem=problem)
        if self.systemd:
            self.systemd.reloaded(problem)

    def _changed(self, probe: Probe, result: ProbeResult, since: float) -> None:
        reason = f"{probe.target.address}:{probe.target.port} is {result.state}"
        self.wakes.post(Wake((reason,), at=since))

    async def build(self) -> Controller:
        """Takes the state directory and prepares everything that needs no engine to answer."""
        config = self.config
        self.store.acquire()
        state = self.store.load()
        for note in self.store.notes:
            log.warning("state", note=note)
        self.store.save(state)
        own = config.nginx.layout == "full"
        for directory in (config.home, config.runtime_dir, *((config.home / "sites", config.logs_dir / "tmp") if own else ())):
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        policy = build_policy(config, self.config_file, state.token)
        drafts = Drafts(config.home)
        drafts.prepare()
        view = bootstrap_view()
        reference = Reference(config.reference, config.home, config.runtime_dir, view.conf_dir, optional=not own)
        if own and not reference.current():
            reference.bootstrap(await drafts.write(policy.renderer.render(RouteTable(), view, policy.nginx, {})))
        parts = Parts(
            inventory=self.inventory,
            prober=Prober(self._changed),
            nginx=await self.nginx(),
            drafts=drafts,
            tester=Tester(self.nginx_engine),
            reference=reference,
            reloader=Reloader(self.nginx_engine, state.token),
            store=self.store,
            wakes=self.wakes,
            stop=self.engine.stop,
        )
        self.traces.resume(state.nginx_run)
        self.controller = Controller(parts, policy, state, self._told)
        return self.controller

    async def nginx(self) -> Nginx:
        """Directories are as the host knows them: a controller in a container reads them from its own mounts."""
        config = self.config
        if config.nginx.layout == "include":
            spec = IncludingSpec(
                name=config.nginx.container,
                label=f"{config.discovery.label_prefix}.nginx",
                directory=config.nginx_dir,
                source=config.nginx_dir if config.nginx.pid_file else await host_path(self.engine, config.nginx_dir),
                home=config.layout.home,
                reference=config.layout.reference,
            )
            return IncludingNginx(self.nginx_engine, spec)
        return NginxContainer(self.engine, await self._nginx_spec())

    async def _nginx_spec(self) -> NginxSpec:
        config = self.config
        return NginxSpec(
            name=config.nginx.container,
            image=config.nginx.image,
            pull=config.nginx.pull == "missing",
            create=config.nginx.create,
            ports=config.ports,
            conf_dir=await host_path(self.engine, config.nginx_dir),
            boot_dir=await host_path(self.engine, config.runtime_dir),
            logs_dir=await host_path(self.engine, config.logs_dir),
            label_prefix=config.discovery.label_prefix,
        )

    def _standing(self, controller: Controller) -> Callable[[History], standing.Standing]:
        place = standing.Place(
            version=__version__,
            endpoint=self.engine.endpoint,
            label_prefix=self.config.discovery.label_prefix,
            resync=self.config.discovery.resync,
            started_unix=self.started,
        )

        def read(history: History) -> standing.Standing:
            waiting = self.engine.waiting > 0
            return standing.read(
                controller,
                place,
                history,
                connected=self.events.connected,
                waiting=waiting,
                configuration=self.configuration,
                runs=self.traces.runs,
                exits=self.traces.exits,
            )

        return read

    def _build_front(self, controller: Controller) -> Front:
        async def workers() -> Sequence[NginxWorker]:
            nginx = controller.nginx
            return await list_workers(self.nginx_engine, nginx) if nginx else []

        def connections(found: Sequence[NginxWorker]) -> tuple[int, int] | None:
            nginx = controller.nginx
            return read_connections(self.config, found) if nginx and not nginx.view.host_network else None

        return Front(
            self.config,
            self._standing(controller),
            workers,
            lambda: read_page(self.config_file),
            Changes(controller),
            connections,
        )

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. nginx goes on with what is live."""
        stop, hangup = asyncio.Event(), asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hangup.set)
        signals: list[str] = []

        def end(name: str) -> None:
            signals.append(name)
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, end, number.name)
        memory.settle()
        controller = await self.build()
        front = self.front = self._build_front(controller)
        read = self._standing(controller)
        systemd = self.systemd = Systemd(Notifier(os.environ), lambda: read(front.history))
        self._sinks += [*front.sinks, systemd]
        listening = False
        try:
            await self._listen(front)
            listening = True
            self.traces.begin(front.history, front.metrics)
            asyncio.get_running_loop().call_later(CONNECTS_WITHIN, self._start_anyway)
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(controller.run(), name="controller"),
                    group.create_task(self.events.run(), name="events"),
                    group.create_task(events.tick(self.wakes, self.config.discovery.resync), name="resync"),
                    group.create_task(events.look(self.wakes, lambda: self.inventory.took), name="look"),
                    group.create_task(self._follow_files(controller, systemd), name="files"),
                    group.create_task(self._follow_published(controller), name="published files"),
                    group.create_task(self._heartbeat(controller).run(), name="heartbeat"),
                    *([group.create_task(self._follow_neighbours(), name="neighbours")] if self.config.layout.home else []),
                    group.create_task(self._follow_hangups(controller, systemd, hangup), name="hangups"),
                    group.create_task(systemd.run(), name="systemd"),
                ]
                await stop.wait()
                systemd.stopping()
                for task in tasks:
                    task.cancel()
        finally:
            if listening:
                self.traces.end(signals[0] if signals else "")
            await self.close()

    async def _listen(self, front: Front) -> None:
        """Raises CannotListen. A port that Docker forwards to a container is named with the container."""
        try:
            await front.start()
        except listeners.CannotListen as error:
            if error.taken is None:
                raise
            with suppress(EngineRefused, EngineUnavailable):
                who = holder(*error.taken, await self.engine.published_ports())
                raise listeners.CannotListen(
                    f"api.listen {listeners.shown(error.taken)} {listeners.taken_by(error.taken, who)}", error.taken
                ) from error
            raise

    def _heartbeat(self, controller: Controller) -> Heartbeat:
        return Heartbeat(lambda: controller.nginx, lambda: controller.workers, controller.answers, controller.heard)

    def _start_anyway(self) -> None:
        """The first cycle comes with the event stream; without one, it tells why."""
        if not self.events.connected:
            self.wakes.post(Wake(("start",), relist=True))

    async def close(self) -> None:
        self.traces.close()
        if self.front:
            await self.front.close()
        if self.controller:
            await self.controller.close()
        self.engine.close()
        self.store.release()

    async def _follow_files(self, controller: Controller, systemd: Systemd) -> None:
        """Configuration, templates and hand-written vhosts: read anew when they change."""
        templates, sites = self.config_file.parent / "templates", self.config.home / "sites"

        def wanted(path: Path) -> bool:
            return (
                path == self.config_file
                or (path.parent == templates and path.name in vhosts.TEMPLATES)
                or (path.parent == sites and path.suffix == ".conf")
            )

        async for paths in events.changes((self.config_file.parent, templates, sites), wanted):
            self._read_anew(controller, systemd, ", ".join(sorted(path.name for path in paths)))

    async def _follow_published(self, controller: Controller) -> None:
        """What nginx reads belongs to the controller: what others do to it is undone. Its own changes are seen here too."""
        config = self.config
        folders = (config.reference.parent, config.runtime_dir, config.home, *(config.home / folder for folder in FOLDERS))
        async for _ in events.changes(folders, lambda path: path.parent in folders):
            await controller.look_at_files()

    async def _follow_neighbours(self) -> None:
        """Files of others that nginx reads beside ours."""
        directory, own = self.config.nginx_dir, self.config.reference

        def wanted(path: Path) -> bool:
            return path.parent == directory and path != own and not path.name.startswith(".")

        async for paths in events.changes((directory,), wanted):
            names = ", ".join(sorted(path.name for path in paths))
            self.wakes.post(Wake((f"{names} changed",), nginx=True, at=time.monotonic()))

    async def _follow_hangups(self, controller: Controller, systemd: Systemd, hangup: asyncio.Event) -> None:
        while True:
            await hangup.wait()
            hangup.clear()
            self._read_anew(controller, systemd, "all, at SIGHUP")

    def _read_anew(self, controller: Controller, systemd: Systemd, names: str) -> None:
        """A bad file changes nothing."""
        systemd.reloading()
        try:
            config = configuration.load(self.config_file if self.config_file.exists() else None)
            policy = build_policy(config, self.config_file, controller.state.token)
            prefix = self.config.discovery.label_prefix
            self._offered = replace(policy, defaults=replace(policy.defaults, prefix=prefix))
            controller.offer(self._offered)
        except (ConfigError, OSError, UnicodeDecodeError) as error:
            log.error("configuration not taken over", files=names, error=str(error))  # noqa: TRY400 - its words are enough
            self._settle(str(error))
            controller.unreadable(str(error))
            return
        log.info("configuration read", files=names)
        restart = needs_restart(self.config, config)
        if restart and restart != self.configuration.restart:
            log.warning("some changes need a restart", keys=", ".join(restart))
        self.configuration = replace(self.configuration, restart=restart)
