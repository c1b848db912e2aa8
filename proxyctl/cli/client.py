"""The controller's API over its unix socket, in types: `views` come back as they were sent.

async with Client(Path("/run/proxyctl/api.sock")) as client:
    status = await client.status()
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec

from proxyctl.serve.explain import Explanation
from proxyctl.serve.history import Cycle, Cycles
from proxyctl.serve.views import SCHEMA, Rollouts, Status, Targets
from proxyctl.serve.wishes import Change

T = TypeVar("T")
TIMEOUT = 10.0
CONFLICT = 409


class Unreachable(Exception):  # noqa: N818
    """No controller answers at the socket; the message says where, and what to do."""


class TimedOut(Exception):  # noqa: N818
    """The controller took the connection and does not answer."""


class Refused(Exception):  # noqa: N818
    """The controller's own words about a request that it does not take, or an answer of a release that this one cannot read."""


class Declined(Exception):  # noqa: N818
    """Why what was asked for is not possible now."""


class _Schema(msgspec.Struct):
    schema: int = 0
    error: str = ""


class Client:
    def __init__(self, session: aiohttp.ClientSession, path: Path) -> None:
        self._session = session
        self._path = path

    async def raw(self, path: str, query: Mapping[str, str] | None = None) -> bytes:
        """The JSON of an endpoint as it was sent. Raises Unreachable, TimedOut, Refused."""
        return await self._answer(self._session.get(path, params=query))

    async def change(self, path: str, wish: object = None) -> str:
        """What will happen. Raises as `raw`."""
        return _decode(await self._answer(self._session.post(path, data=msgspec.json.encode(wish or {}))), Change).outlook

    async def _answer(self, request: AbstractAsyncContextManager[aiohttp.ClientResponse]) -> bytes:
        try:
            async with request as response:
                body, status = await response.read(), response.status
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error
        head = _decode(body, _Schema)
        if head.schema != SCHEMA:
            raise Refused(
                f"the controller at {self._path} speaks schema {head.schema}, this command {SCHEMA}: use the same release"
            )
        if status == CONFLICT:
            raise Declined(head.error)
        if head.error and status >= 400:
            raise Refused(head.error)
        return body

    def _unreachable(self, error: Exception) -> Exception:
        if isinstance(error, TimeoutError):
            return TimedOut(f"the controller at {self._path} does not answer within {TIMEOUT:g} s")
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        if isinstance(cause, PermissionError):
            return Unreachable(f"{self._path}: permission denied: run this as root, or as a member of the socket's group")
        return Unreachable(f"no controller answers at {self._path}: start one with `proxyctl run`")

    async def status(self) -> Status:
        return _decode(await self.raw("/api/v1/status"), Status)

    async def targets(self) -> Targets:
        return _decode(await self.raw("/api/v1/targets"), Targets)

    async def explain(self, url: str) -> Explanation:
        return _decode(await self.raw("/api/v1/explain", {"url": url}), Explanation)

    async def rollouts(self, service: str) -> Rollouts:
        return _decode(await self.raw("/api/v1/rollouts", {"service": service}), Rollouts)

    async def cycles(self, limit: int) -> tuple[Cycle, ...]:
        return _decode(await self.raw("/api/v1/cycles", {"limit": str(limit)}), Cycles).cycles

    async def follow(self) -> AsyncIterator[bytes]:
        """The JSON of every event, until the controller ends. Raises Unreachable."""
        forever = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=60.0)
        try:
            async with self._session.get("/api/v1/events", timeout=forever) as response:
                if response.status != 200:
                    raise Refused(_decode(await response.read(), _Schema).error)
                async for line in response.content:
                    if line.startswith(b"data: "):
                        yield line[6:].strip()
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error


@asynccontextmanager
async def connect(path: Path) -> AsyncIterator[Client]:
    connector, timeout = aiohttp.UnixConnector(str(path)), aiohttp.ClientTimeout(total=TIMEOUT)
    async with aiohttp.ClientSession("http://proxyctl", connector=connector, timeout=timeout) as session:
        yield Client(session, path)


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refused(f"the answer cannot be read: {error}") from error
