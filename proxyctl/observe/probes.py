"""Asks targets whether they are well: Probe -> ProbeResult, over and over.

A target that warms up is asked every few milliseconds at first, so that it is routed when it is ready and not at the next tick;
one that has settled is asked every `interval`, with jitter. Docker's own HEALTHCHECK, where there is one, can object to the
other kinds of check.
"""

from __future__ import annotations

import asyncio
import errno
import math
import random
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

import aiohttp
from yarl import URL

from proxyctl import identity, steady
from proxyctl.model import Probe, ProbeKey, ProbeResult, ProbeState

WARM_FIRST = 0.003
WARM_SHARE = 0.05
WARM_MOST = 0.5
"""Seconds between the checks of a target that warms up: the first gap, the longest, and between them a share of the time that it
has taken so far. So a slow start is noticed within a twentieth of itself; what has passed once is asked again at once."""
GRID = 0.25
"""Seconds between the moments at which settled targets are asked."""
AT_ONCE, MOST_AT_ONCE = 128, 512
"""Checks under way at the same time: those that were begun lately, and all. A check that hangs keeps nobody from theirs."""
LATELY = 1.0
"""Seconds."""
SHARE = 8
"""Checks of one container that hang, at the most, before its others wait for them."""
IN_A_TURN = 64
"""Checks begun in one turn of the loop."""
ASKED_WITHIN = 10.0
"""Seconds after which a target counts as asked: those before it in the queue do not answer."""
GENTLE, GENTLE_WITHIN = 1_000, 10.0
"""Checks in so many seconds, at the most, that close their connections as clients do. The kernel's connection tracking keeps such
a connection for two more minutes (nf_conntrack_tcp_timeout_time_wait): 2,000 checks a second would fill a table of 262,144, and
then the host drops everybody's new ones. What ends with a reset is gone after 10 s (nf_conntrack_tcp_timeout_close)."""
_RESET = struct.pack("ii", 1, 0)
"""struct linger: on, and no time."""
_REFUSED = "connection refused"


class Prober:
    """Asks every watched target when it is its turn. `changed` is called when a target's state changes, with the monotonic time
    at which what led to it began: for a target that has warmed up, its first passed check."""

    def __init__(self, changed: Callable[[Probe, ProbeResult, float], None]) -> None:
        self._changed = changed
        self._probes: Collection[Probe] = ()
        self._watched: dict[ProbeKey, _Watch] = {}
        self._due: deque[tuple[_Watch, int]] = deque()
        self._first: deque[tuple[_Watch, int]] = deque()
        """Those that are asked before all others."""
        self._checks: set[asyncio.Task[None]] = set()
        self._lately: set[asyncio.Task[None]] = set()
        self._hanging: Counter[str] = Counter()
        """By container."""
        self._grid: dict[int, list[tuple[_Watch, int]]] = {}
        """By GRID since the loop's beginning: one timer for all whose turn is then, each with its `turn`."""
        self._pumping = False
        self._gentle, self._gentle_since = 0, 0.0
        self._session: aiohttp.ClientSession | None = None
        self.standing: dict[ProbeKey, ProbeResult] = {}
        """Of those that have been asked, or are being asked for the first time."""
        self.unasked = 0
        """How many wait for that."""

    def watch(self, probes: Collection[Probe], trusted: Iterable[ProbeKey] = ()) -> None:
        """Watches exactly these. A target in `trusted` starts as healthy: it was, when it was last live."""
        gone, new = identity.between(self._probes, probes)
        self._probes, coming = probes, {probe.key for probe in new}
        for probe in gone:
            if probe.key not in coming:
                watch = self._watched.pop(probe.key)
                watch.stop()
                self.unasked -= not watch.asked
                self.standing.pop(probe.key, None)
        known = frozenset(trusted) if new else ()
        fresh = []
        for probe in new:
            if probe.key in self._watched:
                self._watched[probe.key].update(probe)
            else:
                self._watched[probe.key] = watch = _Watch(probe, self, healthy=probe.key in known)
                fresh.append(watch)
        if fresh:
            asyncio.get_running_loop().call_later(ASKED_WITHIN, self._ask_all, fresh)

    def _ask_all(self, watches: Iterable[_Watch]) -> None:
        for watch in watches:
            if self._watched.get(watch.probe.key) is watch:
                watch.ask()

    async def close(self) -> None:
        self.watch(())
        if self._session:
            await self._session.close()

    def tell(self, probe: Probe, result: ProbeResult, since: float) -> None:
        self._changed(probe, result, since)

    # ------------------------------------------------------------ whose turn it is

    def due_after(self, watch: _Watch, interval: float) -> None:
        """Jittered, and then together with others: a turn of the loop starts several checks (200 targets cost 0.7 % of a core
        this way and 1.7 % without, at 5 s), and thousands of targets have a few timers."""
        grid = min(GRID, interval / 20)
        end = time.monotonic() + interval * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load only
        when = math.ceil(end / grid) * grid
        slot = round(when * 1000)
        if slot not in self._grid:
            self._grid[slot] = []
            asyncio.get_running_loop().call_at(when, self._due_in, slot)
        self._grid[slot].append((watch, watch.turn))

    def _due_in(self, slot: int) -> None:
        self._due.extend(self._grid.pop(slot))
        self._pump()

    def due(self, watch: _Watch) -> None:
        """One that has passed, and not often enough yet, goes before all others: among thousands, each is done with soon. Then
        come those that were never asked: who waits for them is no matter of routine."""
        turn = (watch, watch.turn)
        if watch.passing:
            self._first.appendleft(turn)
        else:
            (self._due if watch.asked else self._first).append(turn)
        self._pump()

    def _pump(self) -> None:
        if (self._first or self._due) and not self._pumping and self._has_room():
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._check_some)

    def _has_room(self) -> bool:
        return len(self._lately) < AT_ONCE and len(self._checks) < MOST_AT_ONCE

    def _check_some(self) -> None:
        """A connection to a container on this host is mostly there at once, and costs no task then."""
        self._pumping = False
        begun: dict[asyncio.Task[None], str] = {}
        for _ in range(IN_A_TURN):
            queue = self._first or self._due
            if not queue or not self._has_room():
                break
            watch, turn = queue.popleft()
            if watch.turn != turn:
                continue
            watch.ask()
            if self._hanging[watch.probe.target.container_id] >= SHARE:
                self.due_after(watch, LATELY)
                continue
            problem = self._tcp_at_once(watch.probe) if watch.probe.check.type == "tcp" else None
            if problem is None:
                watch.task = task = asyncio.create_task(self._check(watch), name=f"probe {watch.probe.target.address}")
                self._checks.add(task)
                self._lately.add(task)
                begun[task] = watch.probe.target.container_id
                task.add_done_callback(partial(self._checked, watch.probe.target.container_id))
            else:
                watch.count(problem)
        if begun:
            asyncio.get_running_loop().call_later(LATELY, self._hang, begun)
        self._pump()

    def _hang(self, begun: dict[asyncio.Task[None], str]) -> None:
        """Those of one turn together: one by one, each would make room for another one of a container whose share is taken."""
        late = self._lately & begun.keys()
        self._lately -= late
        self._hanging.update([begun[task] for task in late])
        self._pump()

    def _checked(self, container_id: str, task: asyncio.Task[None]) -> None:
        self._checks.discard(task)
        if task in self._lately:
            self._lately.discard(task)
        else:
            self._hanging[container_id] -= 1
            self._hanging += Counter()  # without those that have none
        self._pump()

    async def _check(self, watch: _Watch) -> None:
        watch.count(await self.check(watch.probe))

    async def check(self, probe: Probe) -> str:
        """One check: empty when it passes, else the reason in a few words."""
        check = probe.check
        try:
            async with asyncio.timeout(check.timeout):
                if check.type == "http":
                    return await self._http(probe)
                return await self._tcp(probe.target.address, check.port)
        except TimeoutError:
            return f"no answer within {check.timeout:g} s"
        except (OSError, aiohttp.ClientError) as error:
            return _words(error)

    async def _http(self, probe: Probe) -> str:
        if self._session is None:
            connector = aiohttp.TCPConnector(force_close=True, limit=0, ssl=False, socket_factory=self._open)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        check, address = probe.check, probe.target.address
        scheme = "https" if probe.scheme in ("https", "grpcs") else "http"
        where = f"{scheme}://{f'[{address}]' if ':' in address else address}:{check.port}{check.path}"
        headers = {"Host": check.host, "User-Agent": "proxyctl-health"}
        name = check.host.removeprefix("*.") or None
        url = URL(where, encoded=True)
        async with self._session.get(url, headers=headers, allow_redirects=False, server_hostname=name) as response:
            if any(low <= response.status <= high for low, high in check.status):
                return ""
            return f"{check.path} answered {response.status}"

    def _tcp_at_once(self, probe: Probe) -> str | None:
        """The result of a check that needs no waiting; None when it does."""
        address, port = probe.target.address, probe.check.port
        try:
            with self._socket(address) as connection:
                refused = connection.connect_ex((address, port)) == errno.ECONNREFUSED
                result = errno.ECONNREFUSED if refused else connection.connect_ex((address, port))
        except OSError:
            return None
        return "" if result in (0, errno.EISCONN) else _REFUSED if result == errno.ECONNREFUSED else None

    async def _tcp(self, address: str, port: int) -> str:
        with self._socket(address) as connection:
            await asyncio.get_running_loop().sock_connect(connection, (address, port))
        return ""

    def _socket(self, address: str) -> socket.socket:
        return self._open((socket.AF_INET6 if ":" in address else socket.AF_INET,))

    def _open(self, where: tuple[Any, ...]) -> socket.socket:
        """`where`: as of getaddrinfo, with the address family first."""
        connection = socket.socket(where[0], socket.SOCK_STREAM)
        connection.settimeout(0)
        if (now := time.monotonic()) - self._gentle_since >= GENTLE_WITHIN:
            self._gentle, self._gentle_since = 0, now
        self._gentle += 1
        if self._gentle > GENTLE:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        return connection


class _Watch:
    """One target under watch."""

    __slots__ = ("_bad", "_began", "_born", "_good", "_prober", "_timer", "asked", "probe", "result", "task", "turn")

    def __init__(self, probe: Probe, prober: Prober, *, healthy: bool) -> None:
        self.probe = probe
        self._prober = prober
        self._good = self._bad = 0
        self._began = self._born = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        self.turn = 0
        """Counts what is scheduled: an older turn is not taken."""
        self.result = ProbeResult("healthy" if healthy else "warming", "", steady.now())
        self.asked = False
        prober.unasked += 1
        if healthy:
            self.ask()
        self._begin()
        self._object()

    def _begin(self) -> None:
        if self.probe.check.type in ("none", "docker"):
            self.ask()
        else:
            self._prober.due(self)

    def ask(self) -> None:
        """It is asked now. It warms up since then: where thousands are to be asked, it may be a while until its turn."""
        if not self.asked:
            self.asked = True
            self._prober.unasked -= 1
            self._began = self._born = time.monotonic()
            self.result = self._prober.standing[self.probe.key] = ProbeResult(self.result.state, self.result.reason, steady.now())

    @property
    def passing(self) -> bool:
        """Whether its latest checks have passed, and more are wanted."""
        return 0 < self._good < self.probe.check.rise

    def stop(self) -> None:
        """Whatever is scheduled or under way does not count any more."""
        for pending in (self._timer, self.task):
            if pending:
                pending.cancel()
        self._timer = self.task = None
        self.turn += 1

    def update(self, probe: Probe) -> None:
        kind, self.probe = self.probe.check.type, probe
        if probe.check.type != kind:  # the list call does not always tell that there is a HEALTHCHECK
            self.stop()
            self._good = self._bad = 0
            self._begin()
        self._object()

    def _object(self) -> None:
        """What is known by now: `none` passes, `docker` is what its HEALTHCHECK says, which is a veto for the rest."""
        health, kind = self.probe.docker_health, self.probe.check.type
        if kind == "none" or (kind == "docker" and health == "healthy"):
            self._settle("healthy", "")
        elif health == "unhealthy":
            self._settle("unhealthy", "Docker's HEALTHCHECK fails")
        elif self._good >= self.probe.check.rise:
            self._settle("healthy", "")

    def _settle(self, state: ProbeState, reason: str) -> None:
        if state == "unhealthy" and self.result.state == "warming":
            state = "warming"
        if (state, reason) == (self.result.state, self.result.reason):
            return
        before = self.result.state
        now = steady.now() if state != before else self.result.since_unix
        self.result = self._prober.standing[self.probe.key] = ProbeResult(state, reason, now)
        if state != before:
            self._prober.tell(self.probe, self.result, self._born if before == "warming" else time.monotonic())

    def count(self, problem: str) -> None:
        """Takes in what a check said, and sets the time of the next one."""
        self.task = self._timer = None
        self.turn += 1
        check = self.probe.check
        self._good = 0 if problem else self._good + 1
        if self._good == 1:
            self._born = time.monotonic()
        self._bad = self._bad + 1 if problem else 0
        if problem:
            if self._bad >= check.fall or self.result.state == "warming":
                self._settle("unhealthy", problem)
        else:
            self._object()
        if self.result.state == "warming":
            taken = 0.0 if self.passing else time.monotonic() - self._began
            pause = min(max(WARM_FIRST, taken * WARM_SHARE), WARM_MOST, check.interval)
            self._timer = asyncio.get_running_loop().call_later(pause, self._prober.due, self)
        else:
            self._prober.due_after(self, check.interval)


def _words(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError) or (
        isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionRefusedError)
    ):
        return _REFUSED
    return str(error) or type(error).__name__
