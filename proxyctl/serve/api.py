"""HTTP over TCP and over the unix socket: JSON of `views`, the page, metrics and health; changes by POST.

Over TCP a `guard` is asked first, and there is a limit to everything that a client can take: connections, requests, bytes, time.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

import msgspec
import structlog
from aiohttp import web
from aiohttp.http import HttpProcessingError
from jinja2 import TemplateError

from proxyctl.serve import explain, openapi, views, wishes
from proxyctl.serve.changes import Changes, caller
from proxyctl.serve.feed import Feed, Full
from proxyctl.serve.guard import Asked, Guard
from proxyctl.serve.history import KEEP, Cycles, History
from proxyctl.serve.page import Page
from proxyctl.serve.standing import Standing
from proxyctl.values import BadValue
from proxyctl.versions import Illegal

ENDPOINTS: Final = {
    "/": "the page for people",
    "/healthz": "200 while the controller's loop is alive",
    "/readyz": "200 while nginx answers and runs everything that is wanted, and the host is not to be left",
    "/metrics": "for Prometheus",
    "/api/v1/status": "what `proxyctl status` shows",
    "/api/v1/services": "services, their routes and targets",
    "/api/v1/targets": "every target of every route",
    "/api/v1/rejections": "what is not served because of its labels",
    "/api/v1/cycles": "cycles that changed something or failed, the newest first; ?limit=",
    "/api/v1/events": "the same as they happen, as server-sent events",
    "/api/v1/rollouts": "versions of services, and what comes next; ?service= of one",
    "/api/v1/explain": "which container answers ?url=a.example/git, and why others do not",
    "/api/v1/openapi": "all of this as an OpenAPI description",
}
CHANGES: Final = {
    "/api/v1/rollout": "a word about the versions of a service: promote, rollback, pause, resume, retry, weight, maintenance",
    "/api/v1/freeze": "no version is rolled out",
    "/api/v1/unfreeze": "takes that back",
    "/api/v1/release": "releases a host whose containers were removed, before its grace ends",
    "/api/v1/host/drain": "tells the balancer in front to leave this host, and then lets requests end",
    "/api/v1/host/undrain": "takes that back",
}
"""By POST."""
CYCLES = 50
KEEP_ALIVE = 15.0
"""Seconds between comments on a quiet event stream, so that proxies and dead clients are noticed."""
SHUTDOWN = 0.3
"""Seconds that requests under way have at the end."""
CONNECTIONS = 200
"""Over TCP at the same time, followers of the events among them."""
IDLE = 30.0
"""Seconds in which a client must have sent a request, and then its body, before its connection is closed."""
BODY = 64 << 10
"""Bytes."""
HEADER_LINES = 64
"""Lines of a request's head, each of 8,190 bytes at most."""
LINGER = 1.0
"""Seconds for which a body that nobody wants is thrown away, so that its sender can read why."""
HEADERS = {
    "Server": "proxyctl",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
JSON_ONLY = "default-src 'none'; frame-ancestors 'none'"

log = structlog.get_logger()
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Middleware = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where answers come from. `metrics` takes the Accept header and returns (body, content type)."""

    standing: Callable[[], Standing]
    history: History
    feed: Feed
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]]
    page: Page
    changes: Changes


class Api:
    """Answers on sockets that are listening already."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._runners: list[web.AppRunner] = []
        self._servers: list[asyncio.Server] = []

    async def serve(self, listener: socket.socket, guard: Guard | None) -> None:
        """Without a guard, whoever can connect may ask: only who may open the socket file can."""
        runner = web.AppRunner(
            application(self._sources, guard),
            access_log=None,
            logger=_mistakes(),
            handle_signals=False,
            handler_cancellation=True,  # else a follower who left is noticed at the next write only
            shutdown_timeout=SHUTDOWN,
            keepalive_timeout=IDLE,
            lingering_time=LINGER,
            max_headers=HEADER_LINES,
            auto_decompress=False,
        )
        await runner.setup()
        self._runners.append(runner)
        answering = cast("web.Server", runner.server)

        def connected() -> asyncio.Protocol:
            return answering() if guard is None or len(answering.connections) < CONNECTIONS else _Busy()

        self._servers.append(await asyncio.get_running_loop().create_server(connected, sock=listener))

    async def close(self) -> None:
        self._sources.feed.close()
        for server in self._servers:
            server.close()
        for runner in self._runners:
            await runner.cleanup()


class _Busy(asyncio.Protocol):
    """The answer to one connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        body = msgspec.json.encode({"schema": views.SCHEMA, "error": f"there are {CONNECTIONS} connections already"}) + b"\n"
        head = (
            f"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        cast("asyncio.WriteTransport", transport).write(f"{head}\r\nConnection: close\r\n\r\n".encode() + body)
        transport.close()


def _mistakes() -> logging.Logger:
    """Logs what a handler did wrong, with its traceback; not what is no HTTP, since anybody can send that."""
    logger = logging.getLogger("proxyctl.api")
    if not logger.filters:
        logger.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))
    return logger


def application(sources: Sources, guard: Guard | None) -> web.Application:
    handlers = _Handlers(sources)
    first = [_speak, _guarded(guard)] if guard else [_speak]
    app = web.Application(middlewares=[*first, _with_body], client_max_size=BODY)
    app.on_response_prepare.append(_headed)
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
        "/api/v1/rollouts": handlers.rollouts,
        "/api/v1/explain": handlers.explain,
        "/api/v1/openapi": handlers.openapi,
    }
    for path, handler in routes.items():
        app.router.add_get(path, handler)
    changes = {
        "/api/v1/rollout": sources.changes.rollout,
        "/api/v1/freeze": sources.changes.freeze,
        "/api/v1/unfreeze": sources.changes.unfreeze,
        "/api/v1/release": sources.changes.release,
        "/api/v1/host/drain": sources.changes.drain,
        "/api/v1/host/undrain": sources.changes.undrain,
    }
    for path, change in changes.items():
        app.router.add_post(path, partial(handlers.change, change))
    return app


# ---------------------------------------------------------------- for every request


async def _headed(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
    response.headers.setdefault("Content-Security-Policy", JSON_ONLY)


@web.middleware
async def _speak(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as JSON. A connection ends with a request whose body was not read."""
    try:
        response = await handler(request)
    except web.HTTPNotFound:
        response = _problem(404, f"there is no {request.path}", endpoints=ENDPOINTS | CHANGES)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        response = _problem(405, f"{request.method} is not possible here, only {allowed}")
        response.headers["Allow"] = allowed
    except web.HTTPRequestEntityTooLarge:
        response = _problem(413, f"the body is longer than {BODY} bytes")
    except Illegal as illegal:
        response = _problem(409, str(illegal))
    except BadValue as bad:
        response = _problem(400, str(bad))
    if request.can_read_body and not response.prepared:
        response.force_close()
    return response


def _guarded(guard: Guard) -> Middleware:
    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = guard.refuse(_asked(request))
        if refusal is None:
            return await handler(request)
        response = _problem(refusal.status, refusal.error)
        response.headers.update(refusal.headers)
        return response

    return guarded


def _asked(request: web.Request) -> Asked:
    headers = request.headers
    named = headers.getall("Host", [])
    return Asked(
        method=request.method,
        path=request.path,
        peer=request.remote or "::",
        hosts=[*named, request.host] if named else [""],  # aiohttp asks DNS for a host that nobody named
        origins=headers.getall("Origin", []),
        site=headers.get("Sec-Fetch-Site", ""),
        navigates=(headers.get("Sec-Fetch-Mode"), headers.get("Sec-Fetch-Dest")) == ("navigate", "document"),
        authorization=headers.get("Authorization", ""),
    )


@web.middleware
async def _with_body(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Reads the body within its limits, so that no handler waits for one."""
    if request.can_read_body:
        if (request.content_length or 0) > BODY:
            raise web.HTTPRequestEntityTooLarge(BODY, request.content_length or 0)
        try:
            async with asyncio.timeout(IDLE):
                await request.read()
        except TimeoutError:
            return _problem(408, f"the body did not arrive within {IDLE:g} s")
        except (
            web.RequestPayloadError
        ) as error:  # from the parser in Python; the one in C lets a broken body run into the timeout
            return _problem(400, f"the body cannot be read: {error}")
    return await handler(request)


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
        return _text("alive") if standing.alive else _text(standing.trouble, 503)

    async def readyz(self, _: web.Request) -> web.Response:
        standing = self._sources.standing()
        lines = [standing.not_ready or "ready", *(f"configuration not taken over: {why}" for why in standing.not_taken)]
        return _text("\n".join(lines), 503 if standing.not_ready else 200)

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

    async def rollouts(self, request: web.Request) -> web.Response:
        return _json(views.rollouts(self._sources.standing(), request.query.get("service", "")))

    async def openapi(self, _: web.Request) -> web.Response:
        return _json(openapi.description(ENDPOINTS, CHANGES))

    async def change(self, change: Callable[[bytes, str], Awaitable[str]], request: web.Request) -> web.Response:
        transport = request.transport
        who = caller(transport.get_extra_info("socket") if transport else None, request.remote)
        try:
            return _json(wishes.Change(outlook=await change(await request.read(), who)))
        except OSError as error:
            return _problem(503, f"nothing has changed, since it cannot be written down: {error}")

    async def events(self, request: web.Request) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
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
