"""Whether nginx answers its clients, looked at twice a second: a worker can hang, and a firewall can close, without any event.

What a proof has shown once is true for that moment only. Each look opens new connections, since every worker has a socket of its
own (`reuseport`): one that hangs takes its share of the connections and answers none of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from proxyctl.publish.nginx import NginxInstance

EVERY = 0.5
"""Seconds between two looks while nginx answers: with FAILURES, an nginx that hangs is noticed within 3 s."""
AGAIN = 0.25
"""Seconds between two looks while it does not, or while there is a doubt."""
FAILURES, SUCCESSES = 2, 3
"""Looks in a row that failed until nginx counts as silent, and that succeeded until it counts as answering again."""
FEW = 1
"""Connections to an address in a look while nginx answers."""
PER_WORKER, MOST = 8, 32
"""Connections to an address while there is a doubt. With 8 for each worker, 1 of 65,536 looks misses that one of two workers
hangs."""

Address = tuple[str, int]


class Heartbeat:
    """`answers`: whether nginx answers one new connection to an address; `heard`: is told each time that what is wrong changes,
    in words, and empty when nothing is."""

    def __init__(
        self,
        nginx: Callable[[], NginxInstance | None],
        workers: Callable[[], int],
        answers: Callable[[Address], Awaitable[bool]],
        heard: Callable[[str], None],
    ) -> None:
        self._nginx = nginx
        self._workers = workers
        self._answers = answers
        self._heard = heard
        self._run = ("", "")
        self._reached: set[Address] = set()
        """Addresses that have answered in this run of nginx. A controller in a network namespace of its own reaches no published
        port, so one that has never answered says nothing."""
        self._failures = self._successes = 0
        self._problem = ""
        self._best: Address = ("", 0)
        """The address of nginx itself that answered last: it may be in many networks."""

    async def run(self) -> None:
        while True:
            await asyncio.sleep(AGAIN if self._problem or self._failures else EVERY)
            await self.look()

    async def look(self) -> None:
        """One look. `heard` is called when it changes what is known."""
        nginx = self._nginx()
        if nginx is None:
            return
        if (nginx.id, nginx.started_at) != self._run:
            self._run, self._reached = (nginx.id, nginx.started_at), set()
        problem = await self._problem_of(nginx)
        if problem:
            self._failures, self._successes = self._failures + 1, 0
            if self._failures >= FAILURES:
                self._tell(problem)
        else:
            self._failures, self._successes = 0, self._successes + 1
            if self._successes >= SUCCESSES:
                self._tell("")

    def _tell(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            self._heard(problem)

    async def _problem_of(self, nginx: NginxInstance) -> str:
        if not nginx.addresses:
            return "nginx has no address: it is in no network and publishes no port"
        doubtful = bool(self._problem or self._failures)
        each = min(PER_WORKER * max(1, self._workers()), MOST) if doubtful else FEW
        own = [address for address in nginx.addresses if address not in nginx.published] or list(nginx.published)
        first = self._best if self._best in own else own[0]
        others = dict.fromkeys(own, 1) if doubtful else {}
        shares = await self._shares(others | {first: each} | dict.fromkeys(nginx.published, each))
        self._reached |= {address for address, share in shares.items() if share}
        answering = [address for address in (first, *own, *nginx.published) if shares.get(address)]
        if not answering:
            return f"nginx does not answer at {_shown(own[:1])}"
        self._best = best = answering[0]
        if any(0 < share < 1 for share in shares.values()):
            return (
                "nginx does not answer every connection: a worker process hangs, or nginx is overloaded; "
                f"`docker restart {nginx.name}` ends a worker that hangs"
            )
        closed = [address for address in nginx.published if address in self._reached and not shares[address]]
        if closed:
            return (
                f"nginx does not answer at {_shown(closed)}, where the host publishes it, although it answers at "
                f"{_shown([best])}: check the host's firewall and Docker's port forwarding"
            )
        return ""

    async def _shares(self, connections: Mapping[Address, int]) -> dict[Address, float]:
        """Address -> the share of so many connections that were answered."""
        answered = await asyncio.gather(*(self._share(address, count) for address, count in connections.items()))
        return dict(zip(connections, answered, strict=True))

    async def _share(self, address: Address, count: int) -> float:
        answered = await asyncio.gather(*(self._answers(address) for _ in range(count)))
        return sum(answered) / count


def _shown(addresses: Iterable[Address]) -> str:
    return " or ".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in addresses)
