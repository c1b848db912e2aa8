"""Old workers of nginx, from the proof that they are old to their end: at once, when a container of another project gets an
address to which they may still send a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace

from proxyctl import identity
from proxyctl.fileset import Generation
from proxyctl.model import RouteTable, Snapshot, Target
from proxyctl.plan import generations
from proxyctl.publish import workers
from proxyctl.publish.reload import Live


class Retirement:
    """`past` and `served`: what is known from before this process began."""

    def __init__(self, past: Iterable[Generation], served: Iterable[Target]) -> None:
        self.generations = tuple(past)
        self._table = RouteTable()
        """The one that was proved last."""
        self._beside: Mapping[Target, str] = dict.fromkeys(served, "")
        """What workers may know beside it."""
        self._told: set[int] = set()

    def is_watchful(self, now_unix: float) -> bool:
        """Whether it matters which container gets an address now."""
        return bool(generations.dangerous(self.generations, now_unix))

    @property
    def known(self) -> frozenset[str]:
        """Ids of containers that are not served any more and that old workers know."""
        return frozenset(freed.target.container_id for generation in self.generations for freed in generation.freed)

    def survive(self, living: frozenset[int]) -> None:
        """Forgets workers that have ended by themselves. `living`: the pids of all that have not."""
        self.generations = tuple(replace(g, workers=g.workers & living) for g in self.generations if g.workers & living)

    def cut(self, containers: frozenset[str]) -> frozenset[int]:
        """Ends the old workers that know any of these containers, with all their connections. Returns those that were ended."""
        knowing = [g for g in self.generations if any(freed.target.container_id in containers for freed in g.freed)]
        ended = frozenset(pid for g in knowing for pid in g.workers if workers.end(pid))
        self.generations = tuple(replace(g, workers=g.workers - ended) for g in self.generations if g.workers - ended)
        return ended

    def attempted(self, table: RouteTable) -> None:
        """nginx is about to be given `table`: workers may know it even when it is never proved."""
        _, new = identity.between(self._table.vhosts, table.vhosts)
        self._beside = {**generations.serving(new), **self._beside}

    def proved(self, live: Live, table: RouteTable, snapshot: Snapshot, now_unix: float) -> None:
        """nginx serves `table`; the workers that end in it know what was served until now."""
        gone, _ = identity.between(self._table.vhosts, table.vhosts)
        before = {**self._beside, **generations.serving(gone)}
        run = f"{live.nginx_id} {live.nginx_started_at}"
        now = generations.serving_of(table.vhosts, before)
        self.generations = generations.advance(self.generations, run, live.ending, before, now, snapshot.containers, now_unix)
        self._table, self._beside = table, {}

    async def end(
        self,
        snapshot: Snapshot,
        table: RouteTable,
        now_unix: float,
        nginx_id: str,
        living: Callable[[], Awaitable[frozenset[int]]],
    ) -> tuple[str, ...]:
        """Ends the workers that would lead to somebody else; says so, or that it cannot, a line for each address. `living`: the
        pids of all workers, asked for when one could not be ended."""
        endangered = generations.endangered(self.generations, snapshot, table, now_unix, nginx_id)
        if not endangered:
            return ()
        ended = {pid for pid in endangered if workers.end(pid)}
        if endangered.keys() - ended:
            gone = endangered.keys() - ended - await living()
            self.generations = tuple(replace(g, workers=g.workers - gone) for g in self.generations if g.workers - gone)
            endangered = {pid: why for pid, why in endangered.items() if pid not in gone}
        stuck = endangered.keys() - ended - self._told
        self._told = (self._told | stuck) & endangered.keys()
        self.generations = tuple(replace(g, workers=g.workers - ended) for g in self.generations if g.workers - ended)
        hint = "but they cannot be ended from here: that needs the host's process numbers and CAP_KILL"
        lines = {endangered[pid] for pid in ended} | {f"{endangered[pid]}, {hint}" for pid in stuck}
        return tuple(sorted(lines))
