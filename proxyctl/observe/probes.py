"""Asks targets whether they are well: Probe -> ProbeResult, over and over.

A target that warms up is asked every few milliseconds at first, so that it is routed when it is ready and not at the next tick;
one that has settled is asked every `interval`, with jitter. Docker's own HEALTHCHECK, where there is one, can object to the
other kinds of check.
"""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import time
from collections.abc import Callable, Iterable, Mapping

import aiohttp
from yarl import URL

from proxyctl.model import Probe, ProbeKey, ProbeResult, ProbeState

WARM_FIRST = 0.003
WARM_SHARE = 0.05
WARM_MOST = 0.5
"""Seconds between the checks of a target that warms up: the first gap, the longest, and between them a share of the time that it
has taken so far. So a slow start is noticed within a twentieth of itself; what has passed once is asked again at once."""
GRID = 0.25
AT_ONCE = 128
"""Checks under way at the same time."""


class Prober:
    """Keeps one task for each watched target. `changed` is called when a target's state changes, with
    the monotonic time at which what led to it began: for a target that has warmed up, its first passed check."""

    def __init__(self, changed: Callable[[Probe, ProbeResult, float], None]) -> None:
        self._changed = changed
        self._watched: dict[ProbeKey, _Watch] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    @property
    def standing(self) -> Mapping[ProbeKey, ProbeResult]:
        return {key: watch.result for key, watch in self._watched.items()}

    def watch(self, probes: Iterable[Probe], trusted: Iterable[ProbeKey] = ()) -> None:
        """Watches exactly these. A target in `trusted` starts as healthy: it was, when it was last live."""
        wanted = {probe.key: probe for probe in probes}
        for key in self._watched.keys() - wanted.keys():
            self._watched.pop(key).stop()
        known = frozenset(trusted)
        for key, probe in wanted.items():
            if key in self._watched:
                self._watched[key].update(probe)
            else:
                self._watched[key] = _Watch(probe, self, healthy=key in known)

    async def close(self) -> None:
        self.watch(())
        if self._session:
            await self._session.close()

    def tell(self, probe: Probe, result: ProbeResult, since: float) -> None:
        self._changed(probe, result, since)

    async def check(self, probe: Probe) -> str:
        """One check: empty when it passes, else the reason in a few words."""
        check = probe.check
        async with self._slots:
            try:
                async with asyncio.timeout(check.timeout):
                    if check.type == "http":
                        return await self._http(probe)
                    return await _tcp(probe.target.address, check.port)
            except TimeoutError:
                return f"no answer within {check.timeout:g} s"
            except (OSError, aiohttp.ClientError) as error:
                return _words(error)

    async def _http(self, probe: Probe) -> str:
        if self._session is None:
            connector = aiohttp.TCPConnector(force_close=True, limit=0, ssl=False)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        check, address = probe.check, probe.target.address
        scheme = "https" if probe.scheme in ("https", "grpcs") else "http"
        where = f"{scheme}://{f'[{address}]' if ':' in address else address}:{check.port}{check.path}"
        headers = {"Host": check.host, "User-Agent": "proxyctl-health"}
        async with self._session.get(URL(where, encoded=True), headers=headers, allow_redirects=False) as response:
            if any(low <= response.status <= high for low, high in check.status):
                return ""
            return f"{check.path} answered {response.status}"


class _Watch:
    """One target under watch."""

    def __init__(self, probe: Probe, prober: Prober, *, healthy: bool) -> None:
        self._probe = probe
        self._prober = prober
        self._good = 0
        self._bad = 0
        self._born = time.monotonic()
        self.result = ProbeResult("healthy" if healthy else "warming", "", time.time())
        self._task = asyncio.create_task(self._run(), name=f"probe {probe.target.address}:{probe.target.port}")
        self._object()

    def stop(self) -> None:
        self._task.cancel()

    def update(self, probe: Probe) -> None:
        kind, self._probe = self._probe.check.type, probe
        if probe.check.type != kind:  # the list call does not always tell that there is a HEALTHCHECK
            self._task.cancel()
            self._task = asyncio.create_task(self._run(), name=self._task.get_name())
        self._object()

    def _object(self) -> None:
        """What is known without a check: `none` passes, `docker` is what its HEALTHCHECK says, which is a veto for the rest."""
        health, kind = self._probe.docker_health, self._probe.check.type
        if kind == "none" or (kind == "docker" and health == "healthy"):
            self._settle("healthy", "")
        elif health == "unhealthy":
            self._settle("unhealthy", "Docker's HEALTHCHECK fails")

    def _settle(self, state: ProbeState, reason: str) -> None:
        if state == "unhealthy" and self.result.state == "warming":
            state = "warming"
        if (state, reason) == (self.result.state, self.result.reason):
            return
        before = self.result.state
        now = time.time() if state != before else self.result.since_unix
        self.result = ProbeResult(state, reason, now)
        if state != before:
            self._prober.tell(self._probe, self.result, self._born if before == "warming" else time.monotonic())

    async def _run(self) -> None:
        if self._probe.check.type in ("none", "docker"):
            return
        began = asyncio.get_running_loop().time()
        while True:
            problem = await self._prober.check(self._probe)
            self._count(problem)
            check = self._probe.check
            if self.result.state == "warming":
                taken = 0.0 if self._good else asyncio.get_running_loop().time() - began
                await asyncio.sleep(min(max(WARM_FIRST, taken * WARM_SHARE), WARM_MOST, check.interval))
            else:
                await asyncio.sleep(_until_next(check.interval, asyncio.get_running_loop().time()))

    def _count(self, problem: str) -> None:
        check = self._probe.check
        self._good = 0 if problem else self._good + 1
        if self._good == 1:
            self._born = time.monotonic()
        self._bad = self._bad + 1 if problem else 0
        if problem:
            if self._bad >= check.fall or self.result.state == "warming":
                self._settle("unhealthy", problem)
        elif self._probe.docker_health != "unhealthy" and (self._good >= check.rise or self.result.state == "healthy"):
            self._settle("healthy", "")


def _until_next(interval: float, now: float) -> float:
    """Seconds until a settled target is asked again: jittered, and then on a common grid, so that one turn of the loop starts
    several checks (200 targets cost 0.7 % of a core this way and 1.7 % without, at 5 s)."""
    grid = min(GRID, interval / 20)
    end = now + interval * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load only
    return end - now + grid - end % grid


async def _tcp(address: str, port: int) -> str:
    """A connection to a container on this host is mostly there by the second look, without a turn of the loop."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        if probe.connect_ex((address, port)) and probe.connect_ex((address, port)) not in (0, errno.EISCONN):
            await asyncio.get_running_loop().sock_connect(probe, (address, port))
    return ""


def _words(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError) or (
        isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionRefusedError)
    ):
        return "connection refused"
    return str(error) or type(error).__name__
