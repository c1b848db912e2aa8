"""Events and listings -> Snapshot: all containers, whole or not at all, at a bounded number of engine calls for each event.

An event costs at most one inspect, sent when the event arrives; a Wake follows when it is answered. The engine answers only when
it is done with what it does to the container (a start takes it 200 ms), so nothing waits for it meanwhile. `die`, `kill` and
`disconnect` are believed as they are: after each of them the address may be somebody else's.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from proxyctl.model import Container, EngineEvent, EngineRefused, EngineUnavailable, Snapshot
from proxyctl.observe.flapping import STEADY, Flapping
from proxyctl.report import Wake
from proxyctl.values import kind_of_name

SIGKILL = 9
PROJECT = "com.docker.compose.project"
READ_WITHIN, READ_AGAIN = 2.0, 60.0
"""Seconds that a list waits for what only an inspect tells of containers that do not run, and until it is tried again."""
REUSE_WITHIN = 10.0
"""Seconds after a death in which the start of any container is looked at: it may have got the address."""


class Engine(Protocol):
    async def list_containers(self) -> list[Container]: ...
    async def inspect(self, container: str) -> Container | None: ...


class Inventory:
    """Remembers what the engine said. `post` takes the Wakes for what has changed."""

    def __init__(self, engine: Engine, label_prefix: str, post: Callable[[Wake], None]) -> None:
        self._engine = engine
        self._prefix = label_prefix + "."
        self._post = post
        self._known: dict[str, Container] = {}
        self._inspected: set[str] = set()
        self._stopping: dict[str, float] = {}
        self._told: Mapping[str, Container] = {}
        """What the latest snapshot holds; another object only when it is another content."""
        self._lenders: frozenset[str] = frozenset()
        self._ended: set[str] = set()
        """Whose end an event has told. For a while a list shows them running all the same, at an address that may be somebody
        else's (0.6 to 1.5 s, measured on 20.10); inspect answers when the engine is done with them."""
        self._listed = False
        self._clock = 0
        self._news: dict[str, int] = {}
        """Container id -> the clock at its latest event: what was asked before that is not believed any more."""
        self.took = 0.0
        """Seconds that the latest list took."""
        self._flapping = Flapping()
        self._held: Mapping[str, str] = {}
        self._readings: dict[asyncio.Task[None], tuple[str, bool]] = {}
        """Under way: the container's id, and whether it runs by now, for all that events have told."""
        self._not_before: dict[str, float] = {}
        """When (monotonic) a container that the engine was long about is asked about again."""
        self._addresses_matter = 0.0
        """Until when (monotonic) it matters who gets an address, labelled or not."""

    # ------------------------------------------------------------ events

    def note(self, event: EngineEvent) -> None:
        """Takes one event in, and posts a Wake now or when its container has been read."""
        if not self._concerns(event):
            return
        at, container_id = time.monotonic(), event.container_id
        reason = f"{event.action} {container_id[:12]}"
        container = self._known.get(container_id)
        if event.action == "die" and container:
            self._tick(container_id)
            self._known[container_id] = replace(container, state="exited")
            self._flapping.ended(container_id, at, requested=self._stopping.pop(container_id, None) is not None)
            self._ended.add(container_id)
            self._addresses_matter = max(self._addresses_matter, at + REUSE_WITHIN)
            self._post(Wake((reason,), urgent=True, at=at))
        elif event.action == "disconnect" and container and event.network:
            self._tick(container_id)
            left = tuple(endpoint for endpoint in container.endpoints if endpoint.network != event.network)
            self._known[container_id] = replace(container, endpoints=left)
            self._addresses_matter = max(self._addresses_matter, at + REUSE_WITHIN)
            self._post(Wake((reason,), urgent=True, at=at))
            if self._is_read(container_id):  # what that would have told of other networks is not believed any more
                self._begin(container_id, Wake((reason,), at=at))
        elif event.action == "create" and self._is_familiar(event.labels or {}):
            pass  # it is read when it starts
        elif event.action == "kill" and container_id in self._inspected:
            self._stop(container_id, event.signal, Wake((reason,), urgent=True, at=at))
        else:
            if event.action == "start" and self._flapping.started(container_id, at):
                asyncio.get_running_loop().call_later(STEADY, self._has_run, container_id)
            killed = event.action == "kill"
            runs = event.action not in ("create", "destroy")
            self._begin(container_id, Wake((reason,), urgent=killed, at=at), event.signal if killed else None, runs=runs)

    def _has_run(self, container_id: str) -> None:
        """It may get traffic now."""
        self._post(Wake((f"{container_id[:12]} has run for {STEADY:g} s",), at=time.monotonic()))

    def watch_addresses(self, *, always: bool) -> None:
        """`always`: a worker of nginx lives that knows an address which its container has left."""
        self._addresses_matter = math.inf if always else min(self._addresses_matter, time.monotonic() + REUSE_WITHIN)

    def known(self, container_id: str) -> Container | None:
        """The container as it was read last, and changed by events since."""
        return self._known.get(container_id)

    def is_ours(self, event: EngineEvent) -> bool:
        """Whether its container has a label of ours."""
        known = self._known.get(event.container_id)
        labels = event.labels or (known.labels if known else {})
        return any(key.startswith(self._prefix) for key in labels)

    def _concerns(self, event: EngineEvent) -> bool:
        """Whether it can change what is routed: its container has a label of ours or lends its network."""
        known = self._known.get(event.container_id)
        if event.action == "connect" and (event.container_id, True) in self._readings.values():
            return True  # it has been started, and what is asked about it may be older than this
        if known and event.action == "connect" and known.state not in ("running", "paused"):
            return False
        labels = event.labels if event.labels is not None else known.labels if known else {}
        if f"{self._prefix}nginx" in labels:
            return False
        if event.action in ("start", "connect") and time.monotonic() < self._addresses_matter:
            return True
        return any(key.startswith(self._prefix) for key in labels) or event.container_id in self._lenders

    def _is_familiar(self, labels: Mapping[str, str]) -> bool:
        """Whether nothing has to be made ready for it: one of its image runs and asks for the same under another name, in a
        network that will be its own, too. A version is no such name: a rollout waits for all that is coming."""
        wanted, image, project = self._wishes(labels), labels.get("image"), labels.get(PROJECT)
        return f"{self._prefix}version" not in labels and any(
            known.image == image
            and known.state == "running"
            and self._wishes(known.labels) == wanted
            and (known.labels.get(PROJECT) == project or not _is_among_itself(known))
            for known in self._known.values()
        )

    def _wishes(self, labels: Mapping[str, str]) -> dict[str, str]:
        """How a container is to be served: of its names, what nginx minds."""
        ours = {key: value for key, value in labels.items() if key.startswith(self._prefix)}
        ours |= {key: kind_of_name(name) for key, name in ours.items() if key.endswith(".host")}
        return ours | {key: "" for key in ours if key.endswith(".service")}

    def _tick(self, container_id: str) -> int:
        self._clock += 1
        self._news[container_id] = self._clock
        return self._clock

    def _stop(self, container_id: str, number: int, wake: Wake) -> None:
        container = self._known.get(container_id)
        if container and container.state == "running" and number in (container.stop_signal, SIGKILL):
            self._stopping[container_id] = wake.at
            self._post(wake)

    def _is_read(self, container_id: str) -> bool:
        return any(container_id == under_way for under_way, _ in self._readings.values())

    def _begin(self, container_id: str, wake: Wake, signal: int | None = None, *, runs: bool = True) -> None:
        task = asyncio.create_task(self._follow_up(container_id, wake, signal), name=f"read {container_id[:12]}")
        self._readings[task] = (container_id, runs)
        task.add_done_callback(self._readings.pop)

    async def _follow_up(self, container_id: str, wake: Wake, signal: int | None) -> None:
        try:
            believed = await self._read(container_id)
        except (EngineUnavailable, EngineRefused):
            self._post(wake.merge(Wake(relist=True)))
            return
        if signal is None:
            self._post(wake)
        elif believed:
            self._stop(container_id, signal, wake)

    async def _read(self, container_id: str, listed: Container | None = None) -> bool:
        """One inspect; False when an event has overtaken it, which brings its own. `listed`: what it is when the engine cannot
        describe it (its layer is gone, say), which is no matter of the others."""
        asked, told = self._tick(container_id), True
        try:
            container = await self._engine.inspect(container_id)
        except EngineRefused:
            if listed is None:
                raise
            container, told = listed, False
        if self._news.get(container_id) != asked:
            return False
        self._tick(container_id)  # a list that is under way may be older than this
        self._ended.discard(container_id)
        if container is None:
            self._known.pop(container_id, None)
            self._inspected.discard(container_id)
            return True
        self._known[container_id] = container
        if told:
            self._inspected.add(container_id)
        if container.network_mode.startswith("container:"):
            await self._read(container.network_mode.removeprefix("container:"))
        return True

    # ------------------------------------------------------------ snapshots

    async def refresh(self, wake: Wake, now: float) -> Snapshot:
        """What is known; read anew as a whole when the wake says so. Raises what the engine raises, and then knows no less."""
        if wake.relist or wake.look or not self._listed:
            await self._relist()
        self._forget_survivors(now)
        if self._told != self._known:
            self._told = dict(self._known)
            modes = {container.network_mode for container in self._known.values()}
            self._lenders = frozenset(mode.removeprefix("container:") for mode in modes if mode.startswith("container:"))
        held = self._flapping.held(time.monotonic())
        self._held = self._held if held == self._held else held
        return Snapshot(self._told, frozenset(self._stopping), self._held)

    async def _relist(self) -> None:
        before, unread, began = self._clock, [], time.monotonic()
        listed = {container.id: container for container in await self._engine.list_containers()}
        self.took = time.monotonic() - began
        self._not_before = {each: then for each, then in self._not_before.items() if each in listed and then > time.monotonic()}
        for container_id in listed.keys() | self._known.keys():
            if self._news.get(container_id, 0) > before:
                continue
            if container_id in listed:
                new = self._completed(listed[container_id])
                if new.state != "running":
                    self._ended.discard(container_id)
                elif container_id in self._ended:
                    if not self._is_read(container_id):  # the engine may be long about its end
                        self._begin(container_id, Wake((f"look at {container_id[:12]}",)))
                    continue
                if self._is_unread(new):
                    unread.append(new)
                elif self._known.get(container_id) != new:  # else the same object stays, which costs nobody anything
                    self._known[container_id] = new
            else:
                self._known.pop(container_id)
        self._flapping.keep(self._known)
        self._inspected &= self._known.keys()
        self._ended &= self._known.keys()
        self._news = {each: at for each, at in self._news.items() if each in self._known or at > before}
        self._listed = True
        await self._read_idle(unread)

    async def _read_idle(self, unread: list[Container]) -> None:
        """What the engine is long about (a start that hangs in a volume) is as the list has it, and not asked for a while."""
        readings = {asyncio.create_task(self._read(new.id, new)): new for new in unread}
        done, late = await asyncio.wait(readings, timeout=READ_WITHIN) if readings else (set(), set())
        for task in late:
            task.cancel()
            self._known.setdefault(readings[task].id, readings[task])
            self._not_before[readings[task].id] = time.monotonic() + READ_AGAIN
        for task in done:
            task.result()

    def _completed(self, listed: Container) -> Container:
        """With what only inspect knows, where it was asked before: none of it changes."""
        before = self._known.get(listed.id)
        if before is None or listed.id not in self._inspected:
            return listed
        return replace(
            listed,
            image=before.image,
            exposed=before.exposed,
            has_healthcheck=before.has_healthcheck,
            stop_signal=before.stop_signal,
            stop_timeout=before.stop_timeout,
        )

    def _is_unread(self, container: Container) -> bool:
        """The list shows the ports of running containers only, and not the image's name when another one has it by now."""
        told = container.state == "running" and not container.image.startswith("sha256:")
        ours = any(key.startswith(self._prefix) for key in container.labels)
        return ours and not told and container.id not in self._inspected and container.id not in self._not_before

    def _forget_survivors(self, now: float) -> None:
        """Takes back what did not die of its signal, or died and was started again."""
        for container_id, since in list(self._stopping.items()):
            container = self._known.get(container_id)
            if container is None or container.state != "running" or now - since > container.stop_timeout + 1:
                del self._stopping[container_id]


def _is_among_itself(container: Container) -> bool:
    """Whether it is in a network that compose has made for its project."""
    own = f"{container.labels.get(PROJECT)}_"
    return any(endpoint.network.startswith(own) for endpoint in container.endpoints)
