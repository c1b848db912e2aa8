"""Anybody may send anything: requests as the OpenAPI description allows and forbids them, and bytes. Against a real server.

No answer is a mistake of ours (5xx), nothing is logged as one, and the server goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import socket
import threading
from collections.abc import Iterator

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance, unsupported_method

from proxyctl.serve import guard, openapi
from proxyctl.serve.api import CHANGES, ENDPOINTS
from tests.unit.desk import Desk
from tests.unit.make import container

FEW = 25 + settings().max_examples // 40
"""Cases for each endpoint."""
UNSAID = [
    unsupported_method,  # before it is said that there is no such method, a token is asked for
    positive_data_acceptance,  # not all text is a URL
]
TOKEN = "t" * 43
"""Whoever has it is believed, and no less to be feared: what he asks for is read to its end."""
schema = schemathesis.openapi.from_dict(openapi.description(ENDPOINTS, CHANGES)).exclude(path="/api/v1/events")  # has no end
OPERATIONS = {found.ok().label: found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Serves in a thread of its own, as many requests as come."""
    directory = tmp_path_factory.mktemp("desk")
    tokens = directory / "tokens"
    tokens.write_text(f"sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}\n", encoding="ascii")
    tokens.chmod(0o640)
    listening, stop, desk = threading.Event(), threading.Event(), Desk(directory, token_file=str(tokens))

    async def serve() -> None:
        desk.held.beat = math.inf  # the loop of a controller that is not there
        await desk.front.start()
        desk.report("failed", error="no")
        desk.decide([container("web-1", {"host": "a.example"}), container("bad", {"hots": "b.example"})])
        listening.set()
        await asyncio.to_thread(stop.wait)
        await desk.front.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "BURST", 1 << 40)
        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        assert listening.wait(10)
        yield desk
        stop.set()
        thread.join()


@pytest.fixture
def unharmed(desk: Desk, caplog: pytest.LogCaptureFixture) -> Iterator[Desk]:
    yield desk
    assert [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.WARNING] == []
    assert requests.get(f"{desk.url}/api/v1/status", timeout=5).status_code == 200


@pytest.mark.parametrize("operation", OPERATIONS)
@settings(max_examples=FEW, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_answers_are_what_the_description_says(unharmed: Desk, operation: str, data: st.DataObject) -> None:
    case = data.draw(OPERATIONS[operation].as_strategy())
    for headers in ({}, {"Authorization": f"Bearer {TOKEN}"}):
        response = case.call(base_url=unharmed.url, timeout=5, headers=headers)
        assert response.status_code != 403
        assert not headers or response.status_code != 401, "it was read"
        assert response.headers["x-content-type-options"]
        case.validate_response(response, excluded_checks=UNSAID)


# ---------------------------------------------------------------- bytes

TEXT = st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=30)
METHODS = st.sampled_from(["GET", "HEAD", "POST", "OPTIONS", "CONNECT", "PRI", "get", "G\tET", ""]) | TEXT
TARGETS = st.sampled_from(
    [
        *ENDPOINTS,
        *CHANGES,
        "*",
        "http://127.0.0.1/",
        "http://[",
        "//x",
        "/%",
        "/%00",
        "/\u00ff",
        "a:1",
        "/api/v1/explain?url=%ff&url=[",
    ]
)
NAMES = st.sampled_from(
    ["Host", "Origin", "Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Expect", "Cookie", "Accept", "Range", "X",
     "Authorization", "Content-Encoding", "Content-Type", "Sec-Fetch-Site", "Sec-WebSocket-Key", "If-None-Match"]
)  # fmt: skip
TEXTS = st.sampled_from(
    ["127.0.0.1", "evil.example", "null", "http://127.0.0.1", "http://[", "0", "1", "-1", "5", "+5", "0x5", "9" * 20, "chunked",
     "chunked, chunked", "gzip, chunked", "identity", "close", "keep-alive, upgrade", "websocket", "h2c", "100-continue",
     "200-ok", f"Bearer {TOKEN}", "Bearer x", "bearer \u00ff", "application/openmetrics-text; version=1.0.0;q=9e999", "bytes=0-0",
     "multipart/form-data; boundary=x", "\x00", "\u00ff", "a" * 9000]
)  # fmt: skip
LINES = st.tuples(NAMES, st.sampled_from([": ", ":", " : ", ":\t", ""]), TEXTS | TEXT).map("".join)
BODIES = st.sampled_from(
    [
        "",
        "x",
        "5\r\nhello\r\n0\r\n\r\n",
        "5;x=y\r\nhello\r\n0\r\nHost: x\r\n\r\n",
        "fffffffffffffffff\r\n",
        "-1\r\n",
        "0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        '{"service": "web", "verb": "promote"}',
        '{"notice": 1e999}',
        "[" * 9000,
    ]
)
ENDS = st.sampled_from(["\r\n", "\r\n", "\r\n", "\n", "\r"])


@st.composite
def nearly(draw: st.DrawFn) -> bytes:
    """Something like a request, or several."""
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        end = draw(ENDS)
        version = draw(st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9.9", "HTTP/", "ICY/1.0", ""]))
        head = [f"{draw(METHODS)} {draw(TARGETS | TEXT)} {version}", *draw(st.lists(LINES, max_size=5))]
        if draw(st.booleans()):
            head.insert(1, "Host: 127.0.0.1")
        parts.append(end.join([*head, "", ""]) + draw(BODIES))
    return "".join(parts).encode("latin-1")


LAST = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(nearly() | st.binary(max_size=200))
@example(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://[\r\n\r\n")
@example(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
@example(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: nothing\r\n\r\n")
@example(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/openmetrics-text; version=x\r\n\r\n")
@example(b"GET /api/v1/explain?url=%00 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
def test_no_bytes_are_a_mistake_of_ours(unharmed: Desk, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", unharmed.port), timeout=5) as client:
        said, excused = b"", False
        try:
            client.sendall(sent + LAST)
            client.settimeout(0.3)  # an event stream, and a body that does not come, have no end
            while piece := client.recv(1 << 16):
                said += piece
        except (ConnectionError, TimeoutError):
            excused = True
    assert said or excused
    assert not [line for line in said.split(b"\r\n") if line.startswith((b"HTTP/1.1 5", b"HTTP/1.0 5"))], said
    assert b"Traceback" not in said
