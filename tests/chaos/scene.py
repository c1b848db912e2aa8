"""What a fault happens to, and what is true of it afterwards.

A `Stage` is a real engine's corner with a controller behind a relay, its nginx, and two tenants that are always served. A `Scene`
is one run on it: loads on the tenants, a random that comes from the seed, and all that the fault adds. `play` runs one fault and
judges it; the same seed makes the same choices.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import requests
from docker.errors import APIError, DockerException
from docker.types import IPAMConfig, IPAMPool

from tests.chaos import judge
from tests.chaos.judge import Departure, Told
from tests.chaos.own_engine import OwnEngine
from tests.load import Load, Report, Stray
from tests.relay import Relay
from tests.rig import AT_ONCE, LOOPBACK, NGINX, Answer, Box, Controller, Rig, ask, free_port, until

WITHIN = 5.0
"""Seconds from the end of a fault until everything is as it should be."""
PATIENCE = 45.0
"""Seconds after which it is not waited for any more."""
STEADY = 0.3
"""Seconds that it must stay so: workers from before a reload accept for another 100 ms."""
LOOK_EVERY = 0.5
LOG_LINES = 8
SECTIONS = {"health": {"interval": "500ms", "timeout": "300ms"}}
STANDING = {"north": 2, "south": 1}
"""Tenants that are always served, and by how many containers."""


T = TypeVar("T")
EngineKind = Literal["", "plain", "live-restore"]


class Seen(Exception):  # noqa: N818
    """What a fault itself finds wrong; its words are the finding."""


# ---------------------------------------------------------------- the table of faults


@dataclass(frozen=True, slots=True)
class Fault:
    """One row. `nginx_lives`: not one request that counts may be lost. (Where an address changes hands some are: that ends old
    workers with the connections that they have left.) `spoils`: it puts wrong files where nginx reads them, so what nginx would
    read is judged only when it is over. `short`: part of `make test`. `engine`: it needs one of its own that it may restart, of
    this kind."""

    name: str
    run: Callable[[Scene], None]
    nginx_lives: bool
    spoils: bool
    short: bool
    engine: EngineKind

    @property
    def words(self) -> str:
        return (self.run.__doc__ or "").strip().partition("\n")[0]


FAULTS: dict[str, Fault] = {}


def fault(
    *, nginx_lives: bool = True, spoils: bool = False, short: bool = False, engine: EngineKind = ""
) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    """Puts a function into the table under its own name."""

    def put(run: Callable[[Scene], None]) -> Callable[[Scene], None]:
        name = run.__name__.replace("_", "-")
        FAULTS[name] = Fault(name, run, nginx_lives, spoils, short, engine)
        return run

    return put


# ---------------------------------------------------------------- stage and scene


@dataclass(slots=True)
class App:
    """One container of a tenant. It is `alive` when it should be served."""

    tenant: str
    name: str
    box: Box
    alive: bool = False
    address: str = ""

    @property
    def host(self) -> str:
        return f"{self.tenant}.example"

    @property
    def pid(self) -> int:
        return int(self.box.inspect()["State"]["Pid"])


class Stage:
    """`with Stage() as stage:` serves its standing tenants. Any number of scenes may follow each other on it.

    With an `engine` that may be restarted its containers start again with it, at whatever address is free.
    """

    def __init__(self, sections: Mapping[str, Mapping[str, object]] | None = None, engine: OwnEngine | None = None) -> None:
        self.engine = engine
        self.rig = Rig()
        self.network, self.subnet = self._make_network()
        self.relay = Relay(self.rig.directory / "engine.sock")
        self._sections: dict[str, Mapping[str, object]] = {**SECTIONS, **(sections or {})}
        self._count = 0

    def _make_network(self) -> tuple[str, str]:
        """A network of its own: nobody else takes an address that a fault has freed. Returns its name and `10.214`."""
        for number in random.sample(range(64, 250), 50):
            name, subnet = f"{self.rig.run}-apps", f"10.{number}"
            pool = IPAMPool(subnet=f"{subnet}.0.0/16", iprange=f"{subnet}.0.0/24", gateway=f"{subnet}.0.1")
            with suppress(APIError):
                self.rig.client.create_network(name, driver="bridge", labels=self.rig.marks, ipam=IPAMConfig(pool_configs=[pool]))
                return name, subnet
        raise RuntimeError("no subnet is free")

    def __enter__(self) -> Self:
        self.relay.restore()
        try:
            self.controller: Controller = self.rig.controller({**self._sections, "docker": {"endpoint": self.relay.endpoint}})
            self.standing = [self.start(tenant) for tenant, count in STANDING.items() for _ in range(count)]
            for app in self.standing:
                self.controller.wait_for(app.host)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.rig.close()
        self.relay.close()

    def create(
        self,
        tenant: str,
        *,
        address: str = "",
        outside: bool = False,
        labels: Mapping[str, str] | None = None,
        project: str = "",
        **more: Any,
    ) -> App:
        """A container that is not started. It gets an address that nobody had, or the one that is named, or with "any" the first
        that is free. `outside`: it is in another network, and served when it joins the stage's. `labels` beside its host.
        `project`: of compose; when empty, one of its own."""
        self._count += 1
        name = f"{tenant}-{self._count}"
        if self.engine:
            address = address or "any"
            more["host_config"] = {"RestartPolicy": {"Name": "unless-stopped"}}
        address = address or f"{self.subnet}.{1 + self._count // 250}.{1 + self._count % 250}"
        own = {"host": f"{tenant}.example", "service": tenant, "network": self.network, **(labels or {})}
        if not outside and address != "any":
            more["NetworkingConfig"] = {"EndpointsConfig": {self.network: {"IPAMConfig": {"IPv4Address": address}}}}
        compose = {"com.docker.compose.project": project or tenant}
        network = "bridge" if outside else self.network
        return App(tenant, name, self.rig.create_container(own, name=name, network=network, other_labels=compose, **more))

    def start(self, tenant: str, **more: Any) -> App:
        app = self.create(tenant, **more)
        app.box.start()
        app.alive = True
        return app


class Scene:
    """What a fault may use. The fault says `over()` when it is; without that it is over when the function returns."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage = stage
        self.rig, self.controller, self.relay = stage.rig, stage.controller, stage.relay
        self.seed = seed
        self.chance = random.Random(seed)
        self.apps: list[App] = list(stage.standing)
        self.notes: list[str] = []
        """What a fault measured beside, for the run's line."""
        self.over_at = 0.0
        self.counted: set[str] = set()
        """Tenants whose lost requests are the run's."""
        self._loads: dict[str, Load] = {}
        self._departed: list[Departure] = []
        self._arrived: dict[str, float] = {}
        self._had: set[tuple[str, str]] = set()
        """Who had which address, at any time."""
        self._to_wall = time.time() - time.monotonic()
        self._reused: list[tuple[str, str]] = []

    @property
    def engine(self) -> OwnEngine:
        assert self.stage.engine
        return self.stage.engine

    # ------------------------------------------------------------ what a fault does

    def load(
        self,
        tenant: str,
        *,
        new_per_second: float = 40,
        keepalive_clients: int = 5,
        post_share: float = 0.2,
        pause: tuple[float, float] = (0.03, 0.07),
        counts: bool = False,
    ) -> Load:
        """Traffic to a tenant until the end of the scene. `counts`: what it loses is a loss of the run."""
        load = Load(
            f"{tenant}.example",
            self.controller.port,
            new_per_second=new_per_second,
            post_share=post_share,
            pause=pause,
            keepalive_clients=keepalive_clients,
            timeout=5.0,
            own=f"{tenant}-",
        )
        self._loads[tenant] = load
        if counts:
            self.counted.add(tenant)
        load.start()
        return load

    def report(self, tenant: str) -> Report:
        """What became of the requests so far."""
        return self._loads[tenant].report

    def add(self, tenant: str, **more: Any) -> App:
        """A container that runs and is to be served (see Stage.create)."""
        return self.start(self.create(tenant, **more))

    def create(self, tenant: str, **more: Any) -> App:
        app = self.stage.create(tenant, **more)
        self.apps.append(app)
        return app

    def start(self, app: App) -> App:
        app.box.start()
        self.arrived(app)
        return app

    def stop(self, app: App, timeout: int = 1) -> None:
        self.departed(app)
        app.box.stop(timeout)

    def kill(self, app: App) -> None:
        self.departed(app)
        app.box.kill()

    def remove(self, app: App) -> None:
        self.departed(app)
        app.box.remove()

    def departed(self, app: App) -> None:
        """It is about to end, or to leave its address."""
        app.alive = False
        self._departed.append(Departure(app.host, app.name, app.address, time.monotonic()))

    def arrived(self, app: App, at: float = 0.0) -> None:
        """It has an address, since then (monotonic) or since its start."""
        raw = app.box.inspect()
        app.address = str((raw["NetworkSettings"]["Networks"].get(self.stage.network) or {}).get("IPAddress", ""))
        app.alive = True
        self._arrived[app.name] = at or app.box.when("StartedAt") - self._to_wall
        if app.address:
            self._had.add((app.name, app.address))

    def reused(self, before: App, after: App) -> None:
        """`after` has the address that `before` had: how long nginx led there is measured."""
        self._reused.append((before.host, after.name))

    def turn(self, options: Sequence[T], number: int = 0) -> T:
        """One of them, with the next seed, or number, the next one: few seeds go through all."""
        return options[(self.seed + number) % len(options)]

    def over(self) -> None:
        self.over_at = time.monotonic()

    # ------------------------------------------------------------ what is true

    def ask(self, tenant: str, path: str = "/") -> Answer:
        return self.controller.ask(f"{tenant}.example", path)

    def ready(self) -> bool:
        """Whether the controller says that nginx runs what is wanted."""
        return ask(int(self.controller.api.rpartition(":")[2]), self.controller.api, "/readyz", timeout=1).status == 200

    def wrong(self, *, files: bool = False) -> str:
        """What is not as it should be now; empty when everything is. `files`: nginx is asked about those, too."""
        for host in sorted({app.host for app in self.apps}):
            alive = {app.name for app in self.apps if app.alive and app.host == host}
            problem = self._wrong_with(host, alive, self.controller.port)
            if problem:
                return problem
        if not self.ready():
            return "the controller is not ready"
        return self.accepts() if files else ""

    @staticmethod
    def _wrong_with(host: str, alive: set[str], port: int) -> str:
        seen: Counter[str] = Counter()
        for _ in range(4 * len(alive) + 1):
            answer = ask(port, host, timeout=2)
            seen[answer.backend if answer.status == 200 else str(answer.status)] += 1
            if set(seen) == (alive or {"503"}) or (not alive and set(seen) == {"404"}):
                return ""
        return f"{host} is answered by {dict(seen)}, not by {' '.join(sorted(alive)) or 'nobody'}"

    def converge(self, *, files: bool = False) -> tuple[float | None, str]:
        """(seconds from the end of the fault until everything is as it should be, and stays so; what was last found wrong)."""
        self.over_at = self.over_at or time.monotonic()
        since, problem = 0.0, ""
        while time.monotonic() - self.over_at < PATIENCE:
            began = time.monotonic()
            found = self.wrong(files=files)
            problem, since = found or problem, 0.0 if found else since or began
            if since and time.monotonic() - since > STEADY:
                return since - self.over_at, problem
            time.sleep(0.05)
        return None, problem

    def accepts(self) -> str:
        """What `nginx -t` says in nginx's container about what the reference names; empty when it is good, or nobody can say."""
        with suppress(DockerException, requests.RequestException):
            argv = ["nginx", "-e", "stderr", "-t", "-q", "-c", "/etc/proxyctl/conf/nginx.conf"]
            client = self.rig.client
            made = client.exec_create(self.controller.nginx, argv)
            said = client.exec_start(made["Id"]).decode()
            if client.exec_inspect(made["Id"])["ExitCode"] not in (0, None, 137):
                return str(said).strip() or "nginx -t says no"
        return ""

    @contextmanager
    def looking(self, found: list[str]) -> Iterator[None]:
        """Asks nginx now and then whether what it would read now is good."""
        done = threading.Event()

        def look() -> None:
            while not done.wait(LOOK_EVERY):
                said = self.accepts()
                if said:
                    found.append(said)

        thread = threading.Thread(target=look, name="nginx -t", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def serves_anew(self) -> str:
        """Starts another nginx from the same directories. What it does not serve of what should be; empty when all is well."""
        made = self.rig.client.inspect_container(self.controller.nginx)
        port = free_port()
        host_config = {
            key: made["HostConfig"][key] for key in ("Binds", "ReadonlyRootfs", "Tmpfs", "CapDrop", "CapAdd", "SecurityOpt")
        }
        host_config["PortBindings"] = {"80/tcp": [{"HostIp": LOOPBACK, "HostPort": str(port)}]}
        fresh = self.rig.create_container(
            name=f"fresh{port}",
            image=NGINX,
            args=made["Config"]["Cmd"],
            network=self.stage.network,
            host_config=host_config,
            Entrypoint=made["Config"]["Entrypoint"],
            ExposedPorts={"80/tcp": {}},
        )
        try:
            fresh.start()
            until(lambda: ask(port, "nobody.invalid", timeout=1).status, 5, "a fresh nginx")
            for host in sorted({app.host for app in self.apps}):
                problem = self._wrong_with(host, {app.name for app in self.apps if app.alive and app.host == host}, port)
                if problem:
                    return f"in a fresh nginx {problem}"
        except AssertionError as error:
            return f"{error}: {self.rig.client.logs(fresh.id, tail=3).decode().strip()}"
        finally:
            fresh.remove()
        return ""

    # ------------------------------------------------------------ the end

    def close(self) -> Mapping[str, Report]:
        """Ends the loads; returns what became of the requests, by tenant."""
        return {tenant: load.stop() for tenant, load in self._loads.items()}

    def clear(self) -> None:
        """Removes what the scene added."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda app: app.box.remove(), (app for app in self.apps if app not in self.stage.standing)))

    def told(self) -> list[Told]:
        """What the controller said so far of what nginx knows."""
        return [
            Told(
                datetime.fromisoformat(str(record["timestamp"])).timestamp() - self._to_wall,
                f"{record.get('changes')} {record.get('why')}",
            )
            for record in self.controller.records()
            if record.get("event") in ("live", "old workers ended")
        ]

    def sort(self, host: str, strays: tuple[Stray, ...]) -> tuple[int, list[str]]:
        """How many answers by somebody else were asked for before the Live that follows, and a trace of those after it."""
        told = self.told()
        late = [stray for stray in strays if stray.began > self._closed(host, stray.backend, stray.ended, told)]
        return len(strays) - len(late), judge.trace(host, late, self._departed, told)

    def _closed(self, host: str, backend: str, before: float, told: list[Told]) -> float:
        """Only who left an address that the backend had at some time can have led there."""
        had = {address for name, address in self._had if name == backend}
        left = [each for each in self._departed if each.host == host and each.at <= before and each.address in had | {""}]
        return judge.closed(left, backend, had, told)

    def windows(self) -> list[float]:
        """Seconds that each address that was reused led to its next owner; 0 when nginx had let it go before."""
        told, found = self.told(), []
        for host, backend in self._reused:
            since = self._arrived[backend]
            found.append(max(0.0, self._closed(host, backend, since + PATIENCE, told) - since))
        return found


# ---------------------------------------------------------------- one run


@dataclass(slots=True)
class Verdict:
    """`problems` is what is wrong; `converged` in seconds, None when it was not waited for any longer."""

    fault: Fault
    seed: int
    sent: int = 0
    lost: int = 0
    strays_early: int = 0
    strays: int = 0
    converged: float | None = None
    windows: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def window(self) -> str:
        return f"{statistics.median(self.windows) * 1000:.0f} ms" if self.windows else "-"

    def __str__(self) -> str:
        took = "never" if self.converged is None else f"{self.converged:.2f} s"
        parts = [
            f"lost {self.lost} of {self.sent}",
            f"misrouted {self.strays_early} in the window, {self.strays} after Live",
            f"converged in {took}",
            *([f"window {self.window} (median of {len(self.windows)})"] if self.windows else []),
            *self.notes,
        ]
        return f"{self.fault.name} seed {self.seed}: {', '.join(parts)}: {'; '.join(self.problems) or 'ok'}"


def play(chosen: Fault, stage: Stage, seed: int) -> Verdict:
    """One fault on a stage that is as it should be."""
    verdict, scene, bad = Verdict(chosen, seed), Scene(stage, seed), list[str]()
    try:
        for tenant in STANDING:
            scene.load(tenant, counts=True)
        time.sleep(0.3)
        with scene.looking(bad):
            try:
                chosen.run(scene)
            except (Seen, AssertionError) as error:
                verdict.problems.append(str(error))
            verdict.converged, problem = scene.converge(files=chosen.spoils)
            if chosen.spoils:
                bad.clear()
            if verdict.converged is None:
                verdict.problems.append(f"after {PATIENCE:g} s {problem}")
            elif verdict.converged > WITHIN:
                verdict.problems.append(f"{verdict.converged:.1f} s to converge; until then {problem}")
            time.sleep(STEADY)
        bad += filter(None, [scene.accepts(), "" if verdict.converged is None else scene.serves_anew()])
        _count(verdict, scene)
        verdict.problems += [f"not a good configuration: {said}" for said in dict.fromkeys(bad)]
        verdict.windows, verdict.notes = scene.windows(), scene.notes
        if max(verdict.windows, default=0.0) > WITHIN:
            verdict.problems.append(f"an address led to its next owner for {max(verdict.windows):.1f} s")
        if verdict.problems:
            verdict.problems.append(f"the log's end:\n{scene.controller.tail(LOG_LINES)}")
    finally:
        scene.close()
        scene.clear()
    return verdict


def _count(verdict: Verdict, scene: Scene) -> None:
    for tenant, report in scene.close().items():
        early, traced = scene.sort(f"{tenant}.example", report.strays)
        verdict.strays_early += early
        verdict.strays += len(report.strays) - early
        verdict.problems += traced
        if tenant in scene.counted:
            verdict.sent += report.sent_of()
            verdict.lost += report.lost_of()
            if report.lost_of() and verdict.fault.nginx_lives:
                verdict.problems.append(f"{tenant}: {report}")
    if verdict.strays:
        verdict.problems.append("answers by another app after Live")
