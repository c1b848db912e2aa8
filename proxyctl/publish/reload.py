"""Published -> Live: a signal, and the proof that it was heard.

Live means that nginx answers with the new digest and that every worker from before the signal is gone or shutting down. New and
old workers both accept for about 100 ms (nginx sleeps so long before it retires the old ones: ngx_process_cycle.c), so
one answer alone proves nothing. A signal that nginx does not hear while it parses is sent again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import aiohttp

from proxyctl.model import EngineRefused
from proxyctl.publish.nginx import Engine, NginxInstance
from proxyctl.publish.promote import Published
from proxyctl.publish.workers import closing
from proxyctl.publish.workers import workers as list_workers

ASK_EVERY = 0.004
ASK_SHARE = 0.05
"""Seconds between two questions, at least, and as a share of the time that the proof has taken so far."""
SETTLE = 2.0
"""Seconds in which more workers than configured mean that one from before, started after it was last looked, still serves."""
RETIRE_AFTER = 0.1
"""Seconds from the start of new workers until nginx tells the old ones to end."""
LOG_AFTER = 0.4
"""Seconds without an answer before the log is read for a refusal."""
SIGNAL_AGAIN = 1.5
GIVE_UP = 20.0
"""Seconds until a signal counts as lost, and until nginx counts as dead; each more for one that needs long to parse."""
ANSWER_WITHIN = 1.0
"""Seconds that nginx has to answer one connection when it is only asked whether it answers."""
SILENT = 2.0
"""Seconds without any answer until nobody knows any more where nginx is; more for one that needs long to parse."""
LONGER, PATIENCE = 2, 5
"""Times what a parse takes: until nginx is asked what keeps it, and until it is signalled again, since a signal in the middle of
a parse would only begin another one."""


NOWHERE = "nginx answers at none of its addresses"


class Remains(NamedTuple):
    """Of old workers: whether there are any and, when there are none, connections as `workers.closing` has them."""

    workers: bool
    closing: frozenset[str]


class NotProved(Exception):  # noqa: N818
    """nginx does not run what was published. `refused`: it said why, and `reason` is its `[emerg]` line."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.refused = refused


class Silent(NotProved):
    """nginx answers at none of its addresses. It may have other ones by now, and so nothing is known of what was published."""


@dataclass(frozen=True, slots=True)
class Live:
    """Proved: this digest, in this run of nginx. `workers`: pids (on the host) that serve it; `ending`: older ones that live."""

    digest: str
    nginx_id: str
    nginx_started_at: str
    workers: frozenset[int]
    ending: frozenset[int] = frozenset()

    def is_in(self, nginx: NginxInstance) -> bool:
        return (self.nginx_id, self.nginx_started_at) == (nginx.id, nginx.started_at)


class Reloader:
    def __init__(self, engine: Engine, token: str) -> None:
        self._engine = engine
        self._token = token
        self._address: tuple[str, int] | None = None
        self.signals = 0
        self._took = 0.0
        """Seconds from the last signal that was heard to the first answer: no sooner than half of it is there one again."""

    async def reload(
        self,
        published: Published,
        nginx: NginxInstance,
        before: Live | None,
        workers: int,
        parsing: float = 0.0,
        is_there: Callable[[], bool] = lambda: True,
    ) -> Live:
        """Raises NotProved. `before`: what was proved last, which saves asking for its workers; `workers`: how many will come;
        `parsing`: seconds that nginx may need to parse it; `is_there`: whether what is published still is."""
        if before and before.is_in(nginx):
            old = before.workers
        else:
            old, _ = await self._workers(nginx)
        doubtful = not before or before.digest == published.digest  # workers from before may answer with it, too
        asked_unix = time.time()
        await self._signal(nginx)
        began = time.monotonic()  # an engine that is slow sends it late, and one more would come while nginx parses
        patience = PATIENCE * parsing
        every = max(SIGNAL_AGAIN, patience)
        again = began + every
        await asyncio.sleep(self._took / 2)
        log_after = max(LOG_AFTER, LONGER * parsing)
        log_at, heard = began + log_after, began
        while time.monotonic() - began < GIVE_UP + patience:
            said = await self.digest(nginx)
            heard = time.monotonic() if said is not None else heard
            if said == published.digest:
                self._took = time.monotonic() - began
                same = before.workers if before and before.is_in(nginx) and before.digest == published.digest else frozenset()
                return await self._retired(published, nginx, old, same, began, workers, every if doubtful else math.inf)
            if time.monotonic() > log_at:
                await self._check_log(nginx, asked_unix)
                await self._check_runs(nginx)
                if not is_there():
                    raise NotProved("somebody else has changed what nginx reads")
                if time.monotonic() - heard > max(SILENT, patience):
                    raise Silent(NOWHERE)
                log_at = time.monotonic() + log_after
            if time.monotonic() > again:
                await self._signal(nginx)
                again = time.monotonic() + every
            await _pause(began)
        raise NotProved(f"nginx did not answer with the new configuration within {GIVE_UP + patience:.0f} s")

    async def adopt(self, digest: str, nginx: NginxInstance, workers: int, proved: Live | None = None) -> Live | None:
        """A Live without a signal, when nginx already runs `digest` and no worker runs anything else: more than `workers` of them
        are old and new ones in the middle of somebody's reload, unless all of them were `proved` to run it."""
        serving, ending = await self._workers(nginx)
        known = proved is not None and proved.is_in(nginx) and proved.digest == digest and serving <= proved.workers
        if not serving or (len(serving) > workers and not known) or await self.digest(nginx) != digest:
            return None
        return Live(digest, nginx.id, nginx.started_at, serving, ending)

    async def _retired(
        self,
        published: Published,
        nginx: NginxInstance,
        old: frozenset[int],
        same: frozenset[int],
        began: float,
        workers: int,
        every: float,
    ) -> Live:
        """`same`: workers from before that were proved to serve the same configuration. One of them that hangs does not end, and
        once new workers answer, it does no harm that another reload could undo. `every`: seconds after which the signal is sent
        again, where workers from before it may have answered. New ones are asked then, too: nginx may have been loading what
        somebody else had it load, and have overheard the signal."""
        await asyncio.sleep(RETIRE_AFTER)
        again, renewed = began + every, math.inf
        while True:
            serving, ending = await self._workers(nginx)
            settled = len(serving) <= workers or time.monotonic() - began > SETTLE
            renewed = min(renewed, time.monotonic()) if serving - old else math.inf
            hanging = same if time.monotonic() - renewed > SETTLE else frozenset()
            if serving and not serving & (old - hanging) and settled:
                if every == math.inf or await self.digest(nginx) == published.digest:
                    return Live(published.digest, nginx.id, nginx.started_at, serving, ending)
                old, again = serving, 0.0
            if time.monotonic() > again:
                await self._signal(nginx)
                again = time.monotonic() + every
            if not serving:
                await self._check_runs(nginx)
            if time.monotonic() - began > GIVE_UP:
                raise NotProved(f"{len(serving & old)} workers from before the reload still serve")
            await _pause(began)

    async def _signal(self, nginx: NginxInstance) -> None:
        self.signals += 1
        try:
            await self._engine.kill(nginx.id, "HUP")
        except EngineRefused as refused:
            raise NotProved(f"the signal could not be sent: {refused}") from refused

    async def _check_log(self, nginx: NginxInstance, since_unix: float) -> None:
        log = await self._engine.logs(nginx.id, since_unix)
        refusals = [line for line in log.splitlines() if "[emerg]" in line]
        if refusals:
            raise NotProved(refusals[-1].strip(), refused=True)

    async def remains(self, nginx: NginxInstance) -> Remains:
        """Workers that end are asked for first: what the last of them left is there when it has gone."""
        serving, ending = await self._workers(nginx)
        return Remains(bool(ending), frozenset() if ending else closing(serving))

    async def _check_runs(self, nginx: NginxInstance) -> None:
        raw = await self._engine.inspect_raw(nginx.id)
        state = raw["State"] if raw else {}
        if state.get("Paused"):
            raise NotProved(f"the container {nginx.name} is paused, and nginx answers nobody: docker unpause {nginx.name}")
        if not state.get("Running") or str(state.get("StartedAt")) != nginx.started_at:
            raise NotProved("nginx has ended meanwhile")

    async def living(self, nginx: NginxInstance) -> frozenset[int]:
        """Pids of all workers."""
        serving, ending = await self._workers(nginx)
        return serving | ending

    async def _workers(self, nginx: NginxInstance) -> tuple[frozenset[int], frozenset[int]]:
        """Pids of those that serve and of those that end."""
        there = await list_workers(self._engine, nginx)
        ending = frozenset(w.pid for w in there if w.shutting_down)
        return frozenset(w.pid for w in there) - ending, ending

    async def digest(self, nginx: NginxInstance) -> str | None:
        """What nginx says it runs; empty when it is not published yet, None when it does not answer. The address that answered
        last is asked first, and all the others together: nginx may be in many networks."""
        known = [self._address] if self._address in nginx.addresses else []
        for addresses in (known, [address for address in nginx.addresses if address not in known]):
            answers = await asyncio.gather(*(self._digest_at(address) for address in addresses))
            for address, said in zip(addresses, answers, strict=True):
                if said is not None:
                    self._address = address
                    return said
        return None

    async def _digest_at(self, address: tuple[str, int]) -> str | None:
        try:
            return await _ask(address, self._token)
        except (OSError, TimeoutError, aiohttp.ClientError):
            return None

    async def answers(self, address: tuple[str, int]) -> bool:
        """Whether nginx answers one new connection within a second, whatever it says."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                reader, writer = await asyncio.open_connection(*address)
                try:
                    writer.write(f"GET / HTTP/1.1\r\nHost: {self._token}\r\nConnection: close\r\n\r\n".encode())
                    return (await reader.readline()).startswith(b"HTTP/")
                finally:
                    writer.transport.abort()  # without waiting for a worker that hangs
        except (OSError, TimeoutError, ValueError):
            return False


async def _pause(began: float) -> None:
    await asyncio.sleep(max(ASK_EVERY, (time.monotonic() - began) * ASK_SHARE))


async def _ask(address: tuple[str, int], token: str) -> str:
    """One new connection, so that a new worker can take it."""
    connector = aiohttp.TCPConnector(force_close=True)
    timeout = aiohttp.ClientTimeout(total=0.5)
    url = f"http://{address[0]}:{address[1]}/"
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        session.get(url, headers={"Host": token}) as response,
    ):
        text = await response.text()
        return text.strip() if response.status == 200 else ""
