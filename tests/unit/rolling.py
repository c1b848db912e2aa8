"""A world for the blue-green machine: containers that come, turn ill and go, an nginx that proves or refuses, workers that
stay."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import msgspec

from proxyctl.plan import rollout as machine
from proxyctl.plan import words
from proxyctl.plan.sight import shares, shown
from proxyctl.rollouts import SETTLING
from proxyctl.versions import Action, Note, Replica, ReplicaState, Rollout, Seen, Settings, Shares, Stop, Version, Word

ANSWERS = ("healthy", "unhealthy", "stopping")


@dataclass
class World:
    """`proves`: nginx takes what is wanted at once; else `prove` or `refuse` says what it does."""

    settings: Settings = field(default_factory=lambda: Settings(bake=30.0, deadline=60.0))
    proves: bool = True
    state: Rollout = field(default_factory=Rollout)
    replicas: dict[str, Replica] = field(default_factory=dict)
    live: Shares | None = None
    workers: list[frozenset[Version]] = field(default_factory=list)
    """What each old worker knows."""
    frozen: bool = False
    refused: str = ""
    now: float = 1_000.0
    began: float = -math.inf
    """When the present process did."""
    made: int = 0
    actions: list[Action] = field(default_factory=list)
    """Of the latest turn."""
    drained: list[Version] = field(default_factory=list)
    """Called so while a worker knew them."""

    @property
    def seen(self) -> Seen:
        known = frozenset(self.live or {}).union(*self.workers)
        settling = self.now - self.began < SETTLING
        return Seen(tuple(self.replicas.values()), self.live, known, self.frozen, self.refused, settling)

    @property
    def carrying(self) -> Shares | None:
        return shares(self.state, self.seen)

    @property
    def notes(self) -> str:
        return "; ".join(action.text for action in self.actions if isinstance(action, Note))

    @property
    def stopped(self) -> frozenset[str]:
        return frozenset().union(*(a.containers for a in self.actions if isinstance(a, Stop)))

    def start(self, version: Version, state: ReplicaState = "warming", settings: Settings | None = None) -> str:
        self.made += 1
        each = f"{version or 'plain'}-{self.made}"
        created = float(self.made)
        self.replicas[each] = Replica(each, each, version, created, state, "", settings or self.settings)
        self.turn()
        return each

    def turns(self, each: str, state: ReplicaState, reason: str = "") -> None:
        self.replicas[each] = replace(self.replicas[each], state=state, reason=reason)
        self.turn()

    def all_turn(self, version: Version, state: ReplicaState) -> None:
        for each, replica in self.replicas.items():
            if replica.version == version:
                self.replicas[each] = replace(replica, state=state)
        self.turn()

    def remove(self, each: str) -> None:
        del self.replicas[each]
        self.turn()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.turn()

    def say(self, word: Word) -> None:
        self.state, actions = words.obey(self.state, word, self.seen, self.now)
        self.actions = list(actions)
        self._publish()

    def turn(self) -> None:
        self.actions = []
        self._step()
        self._publish()

    def _step(self) -> None:
        seen = self.seen
        self.state, actions = machine.step(self.state, seen, self.now)
        self.actions += actions
        notes = {action.text for action in actions if isinstance(action, Note)}
        self.drained += [v for v in seen.known if any(note.startswith(f"{shown(v)} is drained") for note in notes)]

    def _publish(self) -> None:
        if self.proves:
            self.prove()

    def prove(self) -> None:
        """nginx does what is wanted; its workers of before live on while connections do."""
        wanted = self.carrying
        if wanted is not None and wanted != self.live:
            if self.live:
                self.workers = [*self.workers, frozenset(self.live)][-4:]
            self.live, self.refused = dict(wanted), ""
            self._step()

    def workers_exit(self) -> None:
        self.workers = []
        self.turn()

    def restart(self) -> None:
        """SIGKILL, and a new process: what it reads is what was written."""
        self.state, self.began = machine.restarted(read_back(self.state), self.now), self.now
        self.live = None
        self.turn()


def read_back(state: Rollout) -> Rollout:
    return msgspec.json.decode(msgspec.json.encode(state), type=Rollout)


def swapped(world: World, *versions: Version) -> World:
    """Each version in turn, all the way."""
    for version in versions:
        world.start(version, "healthy")
        world.wait(world.settings.bake)
        world.workers_exit()
        assert (world.state.phase, world.state.active) == ("idle", version)
    return world
