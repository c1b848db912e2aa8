"""Types that cross a border between packages (what a cycle is told and tells is in `report`): frozen, slotted, without behaviour
that needs the outside world.

Times are seconds (float, monotonic unless a field says `unix`); addresses are text without brackets; ports are 1-65535.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from proxyctl.versions import PLAIN_ROLLOUT, Settings, Version

Scheme = Literal["http", "https", "grpc", "grpcs"]
HealthType = Literal["http", "tcp", "docker", "none"]
ContainerState = Literal["created", "running", "paused", "restarting", "removing", "exited", "dead"]
DockerHealth = Literal["none", "starting", "healthy", "unhealthy"]
TargetState = Literal["warming", "healthy", "unhealthy", "stopping", "down"]
"""warming: never passed its checks; stopping: told to stop and still alive; down: not running, or without an address."""

ProbeState = Literal["warming", "healthy", "unhealthy"]

RejectionReason = Literal[
    "unknown-label",
    "bad-value",
    "no-host",
    "no-port",
    "unreachable",
    "host-taken",
    "conflict",
    "limit",
    "not-allowed",
    "quarantined",
]


# ---------------------------------------------------------------- what Docker says


class EngineUnavailable(Exception):  # noqa: N818
    """The engine could not be asked: nothing is known, and nothing may be concluded."""


class EngineRefused(Exception):  # noqa: N818
    """The engine answered with an error. `status` is its HTTP status: 404 not there, 409 conflict."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One container's place in one network. `endpoint_id` is new at every start of the container."""

    network: str
    network_id: str
    endpoint_id: str
    ipv4: str
    ipv6: str
    gateway: str


@dataclass(frozen=True, slots=True)
class PublishedPort:
    container_port: int
    host_ip: str
    host_port: int


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the list call shows it, with what only inspect knows and what never changes after `create`."""

    id: str
    name: str
    image: str
    created_unix: float
    state: ContainerState
    health: DockerHealth
    labels: Mapping[str, str]
    endpoints: tuple[Endpoint, ...]
    network_mode: str
    exposed: tuple[int, ...]
    published: tuple[PublishedPort, ...]
    has_healthcheck: bool = False
    stop_signal: int = 15
    stop_timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """One line of the engine's event stream. `signal` is 0 unless the action is `kill`; `labels` is None when the event does
    not tell them (network events)."""

    action: str
    container_id: str
    signal: int
    labels: Mapping[str, str] | None = None
    network: str = ""
    """Its name, for network events."""
    exit_code: int | None = None
    """Of a container that died."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended the last time."""

    code: int | None
    """Its exit status, None where the engine did not tell it."""
    out_of_memory: bool = False
    """The kernel killed it, or a process in it, since its memory limit was reached."""
    restarts: int = 0
    """How often the engine has restarted it by its restart policy."""
    requested: bool = False
    """It was sent a signal to end."""

    @property
    def verb(self) -> str:
        """`was stopped`, `exited with status 3`: what follows the name of the container."""
        return f"{self}" if str(self).startswith("exited") else f"was {self}"

    def __str__(self) -> str:
        status = "" if self.code is None else f"status {self.code}"
        if self.out_of_memory:
            how = f"killed, out of memory ({status})" if status else "killed, out of memory"
        elif self.requested:
            how = f"stopped ({status})" if status else "stopped"
        else:
            how = f"exited with {status}" if status else "exited"
        times = "once" if self.restarts == 1 else f"{self.restarts} times"
        return f"{how}, restarted {times}" if self.restarts else how


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All containers at one moment, by id. Never partial: what cannot be read raises instead."""

    containers: Mapping[str, Container]
    stopping: frozenset[str] = frozenset()
    """Ids of containers that were sent their stop signal and have not died yet."""
    flapping: Mapping[str, str] = field(default_factory=dict)
    """Ids of containers that end again and again, and why they get no traffic for the moment."""


# ---------------------------------------------------------------- what labels say


@dataclass(frozen=True, slots=True)
class HealthCheck:
    type: HealthType
    path: str
    port: int
    host: str
    interval: float
    timeout: float
    rise: int
    fall: int
    status: tuple[tuple[int, int], ...]
    """Passing status codes as closed ranges."""


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """One route of one container. `hosts` are lower-case names, or `*.` and a name."""

    name: str
    hosts: tuple[str, ...]
    path: str
    strip_path: bool
    port: int
    scheme: Scheme
    network: str
    weight: int
    health: HealthCheck


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """What one container asks for: its service and its routes."""

    container_id: str
    container: str
    service: str
    named: bool
    """By a label, not by default."""
    created_unix: float
    routes: tuple[RouteSpec, ...]
    version: Version | None = None
    """What the label says; None without it."""
    rollout: Settings = PLAIN_ROLLOUT


@dataclass(frozen=True, slots=True)
class Rejection:
    """A route that is not served, in the words of the one who labelled it."""

    container_id: str
    container: str
    route: str
    reason: RejectionReason
    label: str
    message: str
    hint: str


# ---------------------------------------------------------------- where traffic goes


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """An identity, never a bare address: the next container may get the same address at once."""

    container_id: str
    endpoint_id: str
    address: str
    port: int

    def __hash__(self) -> int:
        """Of what tells nearly all apart: with thousands of targets, hashing every field was a tenth of a cycle."""
        return hash(self.container_id)


ProbeKey = tuple[Target, str]
"""A target and the name of the route that is checked."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What to ask of one target to call it healthy."""

    target: Target
    route: str
    check: HealthCheck
    docker_health: DockerHealth
    scheme: Scheme
    key: ProbeKey = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", (self.target, self.route))


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The standing of one target after its latest checks."""

    state: ProbeState
    reason: str
    """Why the last check failed; empty after a success."""
    since_unix: float


@dataclass(frozen=True, slots=True)
class RoutedTarget:
    """A target of a route with its standing. `serving`: nginx is told about it."""

    target: Target
    container: str
    service: str
    weight: int
    state: TargetState
    reason: str
    serving: bool
    version: Version | None = None


@dataclass(frozen=True, slots=True)
class Location:
    """A path prefix of a host and the targets behind it."""

    path: str
    strip_path: bool
    scheme: Scheme
    service: str
    route: str
    targets: tuple[RoutedTarget, ...]
    """Every target that claims the path, serving or not, in a fixed order."""
    fail_open: bool
    """Nothing is healthy; what is alive serves all the same."""
    maintenance: bool = False
    """An operator wants it answered with 503 and a page that says so."""

    @property
    def serving(self) -> tuple[RoutedTarget, ...]:
        return tuple([t for t in self.targets if t.serving])


@dataclass(frozen=True, slots=True)
class VirtualHost:
    host: str
    locations: tuple[Location, ...]


@dataclass(frozen=True, slots=True)
class RouteTable:
    vhosts: tuple[VirtualHost, ...] = ()


@dataclass(frozen=True, slots=True)
class Owner:
    """The service, of a compose project, that a host or a (host, path) belongs to. `lost_unix`: when its last container went, 0
    while it has one."""

    service: str
    project: str = ""
    lost_unix: float = 0.0


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What an nginx that somebody else runs reads beside proxyctl's file. Nothing when nginx.conf is proxyctl's own."""

    hosts: Mapping[str, str] = field(default_factory=dict)
    """Server names on port 80 -> the file that has them."""
    digest: str = ""
    """Of all that is in them."""
    around: tuple[str, str] = ("", "")
    """nginx.conf before and after the place where proxyctl's file is included."""
    links: Mapping[str, str] = field(default_factory=dict)
    """What relative paths begin with -> where that is: they count from the folder of nginx.conf, and a draft's is elsewhere."""
    workers: int = 0
    """Worker processes that nginx.conf sets; 0: as many as there are processors."""
    ends_old_workers: bool = False
    """nginx.conf has a worker_shutdown_timeout."""
    refused: str = ""
    """Why nginx does not take its own configuration. Then the rest is as it was when it did."""
    ignored: tuple[tuple[str, str, str, str], ...] = ()
    """Names of hand-written vhosts that nginx ignores: (file, name, address, the file that has it)."""


@dataclass(frozen=True, slots=True)
class Drain:
    """The host is to be left: its balancer is told, and what is under way ends. Times as in `Owner.lost_unix`."""

    since_unix: float
    """When nginx was proved to say so; 0 before that."""
    notice: float
    """Seconds that the balancer needs to notice."""


DrainPhase = Literal["serving", "noticing", "ending", "drained"]
"""noticing: the health address says 503, and everything is served as before; ending: the workers from before end with their
requests; drained: none of them is left."""


@dataclass(frozen=True, slots=True)
class NginxView:
    """What planning must know of the nginx container. `version`: (1, 31, 3); `networks`: name to gateway address."""

    version: tuple[int, ...]
    networks: Mapping[str, str]
    host_network: bool
    ipv6: bool
    conf_dir: str
    """Where `nginx.dir` appears inside the container."""
    runtime_dir: str
    """Where the directory that a boot clears appears inside the container."""
    logs_dir: str
    neighbours: Neighbours = Neighbours()
    container: str = ""
    """Its id, where it is in a container: never a target, nor who shares its network."""
    open_files: int = 0
    """The hard limit of open files of its processes; 0 when it cannot be read."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One decision about everything: what is routed, what is refused, what must be probed and joined."""

    table: RouteTable
    ahead: RouteTable
    """The table as it will be when the containers that are being created run: tested ahead of need."""
    rejections: tuple[Rejection, ...]
    probes: Mapping[ProbeKey, Probe]
    networks: frozenset[str]
    """Names of the networks that nginx must be in to reach its targets."""
    owners: Mapping[str, Owner]
    """By host, and by host and path written as one: `a.example/git`."""
    holding: int
    """Hosts with a new place that waits for its first target: decide again soon."""
    until_unix: float
    """When time alone may change the decision; infinite when it does not."""
