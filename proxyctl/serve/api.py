"""HTTP over TCP and over the unix socket: JSON of `views`, the page, metrics and health. Nothing here changes anything.

A browser can be made to send requests to 127.0.0.1 under a foreign name (DNS rebinding), so over TCP the Host must be an address
and an Origin must be our own.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import msgspec
import structlog
from aiohttp import web
from aiohttp.http import HttpProcessingError
from jinja2 import TemplateError

from proxyctl.serve import explain, views
from proxyctl.serve.feed import Feed, Full
from proxyctl.serve.history import KEEP, History
from proxyctl.serve.page import Page
from proxyctl.serve.standing import Standing
from proxyctl.values import BadValue

ENDPOINTS: Final = {
    "/": "the page for people",
    "/healthz": "200 while the controller's loop is alive",
    "/readyz": "200 while nginx runs everything that is wanted",
    "/metrics": "for Prometheus",
    "/api/v1/status": "what `proxyctl status` shows",
    "/api/v1/services": "services, their routes and targets",
    "/api/v1/targets": "every target of every route",
    "/api/v1/rejections": "what is not served because of its labels",
    "/api/v1/cycles": "cycles that changed something or failed, the newest first; ?limit=",
    "/api/v1/events": "the same as they happen, as server-sent events",
    "/api/v1/explain": "which container answers ?url=a.example/git, and why others do not",
}
CYCLES = 50
KEEP_ALIVE = 15.0
"""Seconds between comments on a quiet event stream, so that proxies and dead clients are noticed."""
SHUTDOWN = 0.3
"""Seconds that requests under way have at the end."""
HEADERS = {
    "Server": "proxyctl",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
JSON_ONLY = "default-src 'none'; frame-ancestors 'none'"

log = structlog.get_logger()
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycles:
    schema: int = views.SCHEMA
    cycles: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where answers come from. `metrics` takes the Accept header and returns (body, content type)."""

    standing: Callable[[], Standing]
    history: History
    feed: Feed
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]]
    page: Page


class Api:
    """Answers on sockets that are listening already."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._runners: list[web.AppRunner] = []

    async def serve(self, listener: socket.socket, *, trusted: bool) -> None:
        """`trusted`: only who may open the socket file can connect, so Host and Origin do not matter."""
        runner = web.AppRunner(
            application(self._sources, trusted=trusted),
            access_log=None,
            logger=_mistakes(),
            handle_signals=False,
            handler_cancellation=True,  # else a follower who left is noticed at the next write only
            shutdown_timeout=SHUTDOWN,
        )
        await runner.setup()
        self._runners.append(runner)
        await web.SockSite(runner, listener).start()

    async def close(self) -> None:
        self._sources.feed.close()
        for runner in self._runners:
            await runner.cleanup()


def _mistakes() -> logging.Logger:
    """Logs what a handler did wrong, with its traceback; not what is no HTTP, since anybody can send that."""
    logger = logging.getLogger("proxyctl.api")
    if not logger.filters:
        logger.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))
    return logger


def application(sources: Sources, *, trusted: bool) -> web.Application:
    handlers = _Handlers(sources)
    guards = [_speak] if trusted else [_speak, _guard]
    app = web.Application(middlewares=guards, client_max_size=1)
    routes: dict[str, Handler] = {
        "/": handlers.page,
        "/healthz": handlers.healthz,
        "/readyz": handlers.readyz,
        "/metrics": handlers.metrics,
        "/api/v1/status": handlers.status,
        "/api/v1/services": handlers.services,
        "/api/v1/targets": handlers.targets,
        "/api/v1/rejections": handlers.rejections,
        "/api/v1/cycles": handlers.cycles,
        "/api/v1/events": handlers.events,
        "/api/v1/explain": handlers.explain,
    }
    for path, handler in routes.items():
        app.router.add_get(path, handler)
    return app


# ---------------------------------------------------------------- for every request


@web.middleware
async def _speak(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Headers of every answer, and errors as JSON."""
    try:
        response = await handler(request)
    except web.HTTPNotFound:
        response = _problem(404, f"there is no {request.path}", endpoints=ENDPOINTS)
    except web.HTTPMethodNotAllowed as error:
        response = _problem(405, f"{request.method} is not possible here: this release only answers GET")
        response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    except BadValue as bad:
        response = _problem(400, str(bad))
    if not response.prepared:
        response.headers.update(HEADERS)
        response.headers.setdefault("Content-Security-Policy", JSON_ONLY)
    return response


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """403 for a name that is not an address, and for pages of other origins."""
    host = request.headers.get("Host", "")
    if not is_address(host):
        what = f"the Host header is {host!a}: ask by address, like http://127.0.0.1:9180 (a site's name must not lead here)"
        return _problem(403, what)
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return _problem(403, f"the request comes from a page of {origin!a}: only pages of {host} may ask")
    return await handler(request)


def is_address(host: str) -> bool:
    """Whether a Host header names an IP address or localhost, with or without a port."""
    try:
        parts = urlsplit(f"//{host}")
        name, _ = parts.hostname or "", parts.port
        if parts.netloc != host or parts.username is not None:
            return False
        if name == "localhost":
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _json(answer: object, status: int = 200) -> web.Response:
    body = msgspec.json.encode(answer, enc_hook=str) + b"\n"
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8")


def _problem(status: int, error: str, **more: object) -> web.Response:
    return _json({"schema": views.SCHEMA, "error": error} | more, status)


def _text(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text + "\n", status=status)


# ---------------------------------------------------------------- the answers


class _Handlers:
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    async def healthz(self, _: web.Request) -> web.Response:
        standing = self._sources.standing()
        return _text("alive") if standing.alive else _text(standing.not_ready, 503)

    async def readyz(self, _: web.Request) -> web.Response:
        reason = self._sources.standing().not_ready
        return _text(reason, 503) if reason else _text("ready")

    async def metrics(self, request: web.Request) -> web.Response:
        body, content_type = await self._sources.metrics(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def page(self, _: web.Request) -> web.Response:
        nonce = secrets.token_urlsafe(16)
        csp = f"{JSON_ONLY}; style-src 'nonce-{nonce}'; img-src data:; base-uri 'none'; form-action 'none'"
        try:
            html = self._sources.page.render(self._sources.standing(), self._sources.history.newest(15), nonce, time.time())
        except (TemplateError, OSError) as error:
            return _text(f"dashboard.html.j2 cannot be rendered: {error}", 500)
        return web.Response(text=html, content_type="text/html", headers={"Content-Security-Policy": csp})

    async def status(self, _: web.Request) -> web.Response:
        return _json(views.status(self._sources.standing()))

    async def services(self, _: web.Request) -> web.Response:
        return _json(views.services(self._sources.standing()))

    async def targets(self, _: web.Request) -> web.Response:
        return _json(views.targets(self._sources.standing()))

    async def rejections(self, _: web.Request) -> web.Response:
        return _json(views.Rejections(rejections=self._sources.standing().rejections))

    async def cycles(self, request: web.Request) -> web.Response:
        text = request.query.get("limit", str(CYCLES))
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= KEEP):
            raise BadValue(f"limit is {text[:40]!a}", f"write a number from 1 to {KEEP}")
        return _json(Cycles(cycles=self._sources.history.newest(int(text))))

    async def explain(self, request: web.Request) -> web.Response:
        url = request.query.get("url", "")
        if not url:
            raise BadValue("url is missing", "write /api/v1/explain?url=a.example/git")
        found = explain.explain(self._sources.standing(), url)
        return _json(found, 404 if found.answer in ("unknown-host", "unknown-path") else 200)

    async def events(self, request: web.Request) -> web.StreamResponse:
        headers = HEADERS | {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        if request.method == "HEAD":
            return web.Response(headers=headers)
        transport = request.transport
        try:
            with self._sources.feed.follow(lambda: transport.abort() if transport else None) as queue:
                response = web.StreamResponse(headers=headers)
                with suppress(ConnectionError):
                    await response.prepare(request)
                    await response.write(b": following\n\n")
                    await _forward(queue, response)
                return response
        except Full:
            return _problem(503, "there are too many followers already, or the controller is ending")


async def _forward(queue: asyncio.Queue[bytes | None], response: web.StreamResponse) -> None:
    while True:
        try:
            async with asyncio.timeout(KEEP_ALIVE):
                item = await queue.get()
        except TimeoutError:
            item = b": still here\n\n"
        if item is None:
            return
        await response.write(item)
