"""The machines of all services that have versions: fed with what a cycle sees, asked who carries traffic, told what was proved.

A service without a version label has none and costs nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from proxyctl.model import Plan, RouteTable
from proxyctl.plan import rollout, words
from proxyctl.plan.generations import carrying
from proxyctl.plan.planner import Planner
from proxyctl.plan.routes import Inputs
from proxyctl.plan.sight import Sight, outlook, shares, until
from proxyctl.versions import Action, Illegal, Note, Order, Replica, RolledBack, Rollout, Seen, Shares, Stop, Told, Version, Word

FORGET = 3600.0
"""Seconds for which a service without a container is remembered."""
SETTLING = 30.0
"""Seconds in which the engine starts everything again after a boot. A standby that is up sooner answers, and goes back."""
LOOK, LOOK_SHARE = 0.1, 0.1
"""Seconds between two looks at old workers that know a version on its way out; the share of what that takes already."""
QUIET = frozenset({"idle", "failed"})
"""Phases in which nothing happens until something is seen or said."""


class Rollouts:
    """`states`: as the process before this one saved them."""

    def __init__(self, states: Mapping[str, Rollout], now: float, *, frozen: bool, order: Order | None = None) -> None:
        self.states: dict[str, Rollout] = {service: rollout.restarted(state, now) for service, state in states.items()}
        self.frozen = frozen
        self.order = order if frozen else None
        """Who has frozen everything."""
        self.shares: Mapping[str, Shares] = {}
        """For the planner: a new object when anything in it has changed."""
        self.maintenance = frozenset(service for service, state in self.states.items() if state.maintenance)
        self.seen: dict[str, Seen] = {}
        """As of the latest turn."""
        self._live: dict[str, Shares] = {}
        self._refused: dict[str, str] = {}
        self._all = True
        """Everything is to be looked at in the next turn."""
        self._settling, self._settled_unix = True, math.inf
        self.lines: list[str] = []
        """What has happened since they were last taken, for people."""
        self.rolled_back: list[tuple[str, RolledBack]] = []
        self.to_stop: set[str] = set()

    def turn(self, planner: Planner, inputs: Inputs, now: float, known: frozenset[str], table: RouteTable) -> None:
        """Steps every machine that something has happened to. `known`: ids of containers that old workers of nginx know;
        `table`: what the present ones do."""
        stirred = planner.stirred() | planner.stand_ins
        if not stirred and not self.states:
            return
        if self._settled_unix == math.inf:
            self._settled_unix = now + SETTLING
        settling = now < self._settled_unix
        self._all |= self._settling and not settling
        self._settling = settling
        due = sorted(self._due(planner, stirred, now))
        hosts = frozenset[str]().union(*map(planner.hosts, due))
        known |= {target.container_id for target, _ in carrying(vhost for vhost in table.vhosts if vhost.host in hosts)}
        for service in due:
            if planner.is_versioned(service):
                self._step(service, planner.replicas(inputs, service), now, known)
            else:
                self._let_go(service, planner, now)
        self._all = False
        self._share()

    def _due(self, planner: Planner, stirred: set[str], now: float) -> set[str]:
        due = {service for service in stirred if service in self.states or planner.is_versioned(service)}
        for service, state in self.states.items():
            busy = state.phase not in QUIET or state.draining or state.retiring or state.empty_unix is not None
            if self._all or busy or service in self._refused or self._until(service) <= now:
                due.add(service)
        return due

    def _step(self, service: str, replicas: tuple[Replica, ...], now: float, known: frozenset[str]) -> None:
        live = self._live.get(service)
        versions = {r.version for r in replicas if r.container_id in known} | (live or {}).keys()
        seen = Seen(replicas, live, frozenset(versions), self.frozen, self._refused.pop(service, ""), self._settling)
        self.states[service], actions = rollout.step(self.states.get(service, Rollout()), seen, now)
        self.seen[service] = replace(seen, refused="")
        self._act(service, actions)

    def _act(self, service: str, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Note(text):
                    self.lines.append(f"{service}: {text}")
                case RolledBack():
                    self.rolled_back.append((service, action))
                case Stop(containers):
                    self.to_stop |= containers

    def _let_go(self, service: str, planner: Planner, now: float) -> None:
        """No container of it has a version: what is there are replicas. Forgotten, unless an operator's word would be."""
        state = self.states[service]
        empty = None if planner.has(service) else state.empty_unix or now
        self.seen.pop(service, None)
        self._live.pop(service, None)
        if state.maintenance or state.paused or (empty is not None and now - empty < FORGET):
            self.states[service] = replace(state, empty_unix=empty, draining={})
        else:
            del self.states[service]

    def _share(self) -> None:
        found = {service: shares(self.states[service], seen) for service, seen in self.seen.items() if service in self.states}
        wanted = {service: each for service, each in found.items() if each is not None}
        if wanted != self.shares:
            self.shares = wanted
        self.maintenance = frozenset(service for service, state in self.states.items() if state.maintenance)

    def _until(self, service: str) -> float:
        seen = self.seen.get(service)
        return until(self.states[service], seen) if seen else math.inf

    # ------------------------------------------------------------ what nginx does

    @property
    def unproved(self) -> list[str]:
        """Services whose traffic is not known to go where it should."""
        return [service for service, wanted in self.shares.items() if self._live.get(service) != wanted]

    def proved(self, planner: Planner, plan: Plan, table: RouteTable, why_not: Callable[[str], str]) -> bool:
        """`table` is live, of what was planned. `why_not`: of a host that nginx refuses. Whether that is news."""
        services = self.unproved
        self._live = {service: live for service, live in self._live.items() if service in self.shares}
        if not services:
            return False
        planned, live = ({vhost.host: vhost for vhost in each.vhosts} for each in (plan.table, table))
        for service in services:
            missing = [host for host in sorted(planner.hosts(service)) if planned.get(host) != live.get(host)]
            if not missing:
                self._live[service] = self.shares[service]
            else:
                self._refused[service] = why_not(missing[0]) or f"{missing[0]} is not served as it should be"
        return True

    def refused(self, planner: Planner, reason: str, blamed: frozenset[str]) -> None:
        """What was wanted could not be proved, and the last good configuration is back. `blamed`: hosts that are at fault; then
        services without any of them are not, and are tried again."""
        services = [service for service in self.unproved if not blamed or planner.hosts(service) & blamed]
        self._refused |= dict.fromkeys(services, reason)

    def unknown(self) -> None:
        """What nginx does could not be found out."""
        self._live.clear()

    @property
    def retiring(self) -> frozenset[str]:
        """Containers that are to be stopped, as of now."""
        return frozenset().union(*(state.retiring for state in self.states.values()))

    @property
    def draining(self) -> dict[str, Mapping[Version, float]]:
        """By service, versions that old workers may know, and since when (unix)."""
        return {service: state.draining for service, state in self.states.items() if state.draining}

    def look_after(self, now: float) -> float:
        """Seconds until old workers are looked at again, while versions are on their way out."""
        latest = max(since for versions in self.draining.values() for since in versions.values())
        return LOOK + LOOK_SHARE * min(now - latest, 10.0)

    def cut_drains(self, cut: Callable[[frozenset[str]], frozenset[int]], now: float) -> tuple[str, ...]:
        """Services whose connections to a version on its way out were cut, for which their limit is over. `cut`: ends the old
        workers that know any of these containers, and returns them."""
        found = []
        for service, versions in self.draining.items():
            for containers, limit in self._overdue(service, versions, now):
                if cut(containers):
                    found.append(service)
                    self.lines.append(f"{service}: connections to the old version were cut after {limit:g} s")
        return tuple(found)

    def _overdue(self, service: str, versions: Mapping[Version, float], now: float) -> Iterator[tuple[frozenset[str], float]]:
        """Containers of versions that drain for longer than the service allows, and how long that is in seconds."""
        if service not in self.seen:
            return
        sight = Sight(self.seen[service])
        limit = sight.settings(self.states[service].active).drain
        for version, since in versions.items():
            if limit and now - since >= limit:
                yield frozenset(replica.container_id for replica in sight.of(version)), limit

    def next(self, now: float) -> float:
        """When time alone may take any of them further (unix); what is past has been looked at."""
        ends = [self._settled_unix] if self._settling and self.states else []
        return min((end for end in (*ends, *map(self._until, self.states)) if end > now), default=math.inf)

    # ------------------------------------------------------------ words

    def undoing(self) -> Callable[[], None]:
        """Returns what makes everything again as it is now: a word that could not be written down was not said."""
        states, lines, frozen, order = dict(self.states), list(self.lines), self.frozen, self.order
        rolled_back, to_stop = list(self.rolled_back), set(self.to_stop)

        def undo() -> None:
            self.states, self.lines, self.frozen, self.order = states, lines, frozen, order
            self.rolled_back, self.to_stop = rolled_back, to_stop
            self._share()

        return undo

    def say(self, planner: Planner, inputs: Inputs, service: str, word: Word, now: float) -> str:
        """What comes of it, in a sentence. Raises Illegal."""
        if not planner.has(service) and service not in self.states:
            raise Illegal(f"there is no service {service}")
        if not planner.is_versioned(service) and word.verb != "maintenance":
            raise Illegal(f"{service} has no versions: set {inputs.defaults.prefix}.version=NAME on its containers")
        seen = self.seen.get(service) or Seen(planner.replicas(inputs, service), None, frozen=self.frozen)
        before = self.states.get(service, Rollout())
        if planner.is_versioned(service):
            after, actions = words.obey(before, word, seen, now)
        else:
            after, actions = words.close(before, word, now)
        self.states[service] = after
        self._act(service, actions)
        self._share()
        return "; ".join(action.text for action in actions if isinstance(action, Note))

    def freeze(self, on: bool, order: Order) -> None:  # noqa: FBT001 - the word is the verb
        """Raises Illegal when it is so already."""
        if on == self.frozen:
            raise Illegal("everything is frozen already" if on else "nothing is frozen")
        self.frozen, self.order, self._all = on, order if on else None, True
        self.lines.append(f"{'frozen' if on else 'unfrozen'}{order.signature}")

    def told(self, now: float) -> tuple[Told, ...]:
        """Every service that has versions, or of which an operator has said something."""
        return tuple(
            Told(
                service,
                state,
                self.seen[service].replicas if service in self.seen else (),
                self.shares.get(service),
                self.outlook(service, now),
                live=service in self.shares and self._live.get(service) == self.shares[service],
            )
            for service, state in sorted(self.states.items())
        )

    def outlook(self, service: str, now: float) -> str:
        """A sentence; empty for a service without versions."""
        seen = self.seen.get(service)
        return outlook(self.states[service], seen, now, service) if seen else ""
