"""Who may ask what over TCP: names, pages, tokens, and how often. Over a real socket, as bytes where no client sends them."""

from __future__ import annotations

import hashlib
import hmac
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from proxyctl.config import ConfigError
from proxyctl.serve import guard
from proxyctl.serve.api import ENDPOINTS
from proxyctl.serve.guard import Rates, Tokens, is_address, make_token
from tests.unit import desk as desks
from tests.unit import make, wire
from tests.unit.desk import Desk

TOKEN = "a" * 64
OTHER = "b" * 64


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desks.opened(tmp_path) as desk:
        yield desk


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:9180", "localhost", "LOCALHOST:80", "[::1]:9180", "[::1]", "10.1.2.3:1", "[::ffff:1.2.3.4]"]
)
def test_addresses_may_be_asked_for(host: str) -> None:
    assert is_address(host)


NAMES = (
    *("", "evil.example", "evil.example:9180", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "localhost.evil.example"),
    *("[::1", "127.0.0.1:port", "127.0.0.1/x", "localhost#x", "a b", "::1", "127.0.0.1:99999", "127.0.0.1:9180:80"),
    *("localhost.", "127.0.0.1.", "evil.example.", "localhost.:9180", "evil@127.0.0.1", "evil.example:x@127.0.0.1:9180"),
    *("[::1%25evil.example]", "[fe80::1%eth0]", "[v1.evil]", "[::1].evil.example", "127.1", "2130706433", "0x7f.0.0.1"),
    *("127.0.0.1\tevil.example", "127.0.0.1, evil.example", "\uff11\uff12\uff17.0.0.1", "localhost\u3002", "http://127.0.0.1"),
    *("127.0.0.1?x", "127.0.0.1\\evil.example", "*", "null"),
)


@pytest.mark.parametrize("host", NAMES)
def test_names_may_not(host: str) -> None:
    assert not is_address(host)


@pytest.mark.parametrize("host", NAMES)
async def test_what_is_no_address_is_refused_on_the_wire(desk: Desk, host: str) -> None:
    answer = await wire.send(desk.port, wire.request(f"Host: {host}"))
    assert (answer.status, answer.headers.get("access-control-allow-origin")) == (403, None)


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_a_name_that_was_made_to_lead_here_is_refused(desk: Desk, path: str) -> None:
    status, body, _ = await desk.get(path, headers={"Host": "evil.example"})
    assert status == 403
    assert "'evil.example'" in body["error"]
    assert "api.hosts" in body["error"]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(wire.request(), id="no Host"),
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", id="no Host in HTTP/1.0"),
        pytest.param(wire.request("Host: 127.0.0.1", "Host: evil.example"), id="two"),
        pytest.param(wire.request("Host: evil.example", "Host: 127.0.0.1"), id="two, the other way round"),
        pytest.param(wire.request("Host: evil.example", "Host: evil.example"), id="the same twice"),
        pytest.param(wire.request("Host: 127.0.0.1", " evil.example"), id="folded"),
        pytest.param(wire.request("Host : evil.example", "Host: 127.0.0.1"), id="a space before the colon"),
        pytest.param(wire.request("Host: 127.0.0.1", target="http://evil.example/api/v1/status"), id="in the target"),
        pytest.param(wire.request("Host: evil.example", target="http://127.0.0.1/api/v1/status"), id="an address in the target"),
        pytest.param(wire.request("Host: 127.0.0.1", target="//evil.example/api/v1/status"), id="slashes in the target"),
        pytest.param(wire.request("Host: 127.0.0.1", target="evil.example:443", method="CONNECT"), id="CONNECT"),
        pytest.param(wire.request("X-Forwarded-Host: 127.0.0.1", "Host: evil.example"), id="forwarded"),
    ],
)
async def test_no_way_of_writing_a_request_hides_a_foreign_name(desk: Desk, sent: bytes) -> None:
    answer = await wire.send(desk.port, sent)
    assert answer.status in (400, 403, 404), answer
    assert b'"routes"' not in answer.body


async def test_the_address_in_the_target_may_be_our_own(desk: Desk) -> None:
    answer = await wire.send(desk.port, wire.request("Host: 127.0.0.1\t", target=f"{desk.url}/api/v1/status"))
    assert answer.status == 200


async def test_names_that_the_operator_lists_may_be_asked_for(tmp_path: Path) -> None:
    async with desks.opened(tmp_path, hosts=("proxyctl", "Edge.internal")) as desk:
        for host in ("proxyctl", "proxyctl:9180", "PROXYCTL", "edge.internal:80", "127.0.0.1"):
            assert (await wire.send(desk.port, wire.request(f"Host: {host}"))).status == 200, host
        for host in (
            "proxyctl.",
            "a.proxyctl",
            "proxyctl:x",
            "proxyctl:",
            "proxyctl:1:2",
            "proxyctl@evil.example",
            "internal",
            "",
        ):
            assert (await wire.send(desk.port, wire.request(f"Host: {host}"))).status == 403, host


async def test_who_may_open_the_socket_may_call_it_what_they_like(desk: Desk) -> None:
    foreign = {"Host": "evil.example", "Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert (await desk.ask("/metrics", headers=foreign))[0] == 200


# ---------------------------------------------------------------- pages


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1", "", "http://[", "ftp://HOST", "//HOST", "HOST",
     "http://evil@HOST", "http://HOST.evil.example", "http://HOST, http://HOST"],
)  # fmt: skip
async def test_pages_of_other_origins_are_refused(desk: Desk, origin: str) -> None:
    origin = origin.replace("HOST", f"127.0.0.1:{desk.port}")
    assert (await desk.get("/api/v1/status", headers={"Origin": origin}))[0] == 403


async def test_one_good_origin_does_not_excuse_another(desk: Desk) -> None:
    for pair in ((desk.url, "http://evil.example"), ("http://evil.example", desk.url)):
        sent = wire.request(f"Host: 127.0.0.1:{desk.port}", *(f"Origin: {origin}" for origin in pair))
        assert (await wire.send(desk.port, sent)).status == 403


async def test_our_own_page_may_ask(desk: Desk) -> None:
    for headers in ({"Origin": desk.url}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
        assert (await desk.get("/api/v1/status", headers=headers))[0] == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "something new"])
async def test_a_page_of_another_site_cannot_embed_or_fetch_but_link(desk: Desk, site: str) -> None:
    for mode, dest in (
        ("no-cors", "image"),
        ("no-cors", "script"),
        ("navigate", "iframe"),
        ("navigate", "object"),
        ("cors", "empty"),
    ):
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
        assert (await desk.get("/", headers=headers))[0] == 403, (mode, dest)
    assert (await desk.get("/", headers={"Sec-Fetch-Site": site}))[0] == 403
    link = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert (await desk.get("/", headers=link))[0] == 200
    assert (await desk.get("/", headers=link, method="POST"))[0] == 403


# ---------------------------------------------------------------- tokens


def hashes(path: Path, *tokens: str) -> str:
    lines = [f"sha256:{hashlib.sha256(token.encode()).hexdigest()}" for token in tokens]
    path.write_text("\n".join(["# the first is Anna's", "", *lines, ""]))
    path.chmod(0o640)
    return str(path)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "QUERY"])
async def test_without_a_token_file_nothing_changes_over_tcp(desk: Desk, method: str) -> None:
    for headers in ({}, {"Authorization": f"Bearer {TOKEN}"}):
        status, body, _ = await desk.get("/api/v1/status", method=method, headers=headers)
        assert (status, body["error"]) == (403, "changes are possible on the unix socket only, or set api.token_file")


async def test_a_change_needs_a_token_and_each_line_is_one(tmp_path: Path) -> None:
    async with desks.opened(tmp_path, token_file=hashes(tmp_path / "tokens", TOKEN, OTHER)) as desk:
        for wrong in ({}, *({"Authorization": text} for text in WRONG)):
            status, body, headers = await desk.get("/api/v1/status", method="POST", headers=wrong)
            assert (status, headers["WWW-Authenticate"]) == (401, 'Bearer realm="proxyctl"'), wrong
            assert "Authorization: Bearer TOKEN" in body["error"]
        for right in (f"Bearer {TOKEN}", f"bearer  {OTHER} "):
            assert (await desk.get("/api/v1/status", method="POST", headers={"Authorization": right}))[0] == 405
            assert (await desk.get("/nothing", method="DELETE", headers={"Authorization": right}))[0] == 404
            assert (await desk.get("/api/v1/host/undrain", method="POST", headers={"Authorization": right}))[0] == 200
        assert desk.held.told == [("drain", None, "a token from 127.0.0.1")] * 2


WRONG = (
    *("", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN} {OTHER}"),
    *(f"Bearer {hashlib.sha256(TOKEN.encode()).hexdigest()}", f"Bearer sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}"),
    *("Bearer \u00e9", "Bearer # the first is Anna's"),
)


async def test_a_token_is_compared_with_each_hash_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    hashes(tmp_path / "tokens", TOKEN, OTHER)
    tokens = Tokens(tmp_path / "tokens")
    monkeypatch.setattr(guard, "hmac", SimpleNamespace(compare_digest=compare))
    known = [hashlib.sha256(token.encode()).hexdigest() for token in (TOKEN, OTHER)]
    for token, right in ((TOKEN, True), (OTHER, True), ("wrong", False)):
        compared.clear()
        assert tokens.knows(token) == right
        assert compared == [(hashlib.sha256(token.encode()).hexdigest(), each) for each in known], "also after one is right"


async def test_reading_needs_no_token(tmp_path: Path) -> None:
    async with desks.opened(tmp_path, token_file=hashes(tmp_path / "tokens", TOKEN)) as desk:
        for path in ("/metrics", "/healthz", "/api/v1/status"):
            assert (await desk.get(path))[0] == 200
        assert (await desk.get("/metrics", method="HEAD"))[0] == 200


async def test_no_token_is_asked_for_on_the_socket(tmp_path: Path) -> None:
    async with desks.opened(tmp_path, token_file=hashes(tmp_path / "tokens", TOKEN)) as desk:
        assert (await desk.ask("/api/v1/status", method="POST"))[0] == 405


async def test_a_token_does_not_excuse_a_foreign_name_or_page(tmp_path: Path) -> None:
    async with desks.opened(tmp_path, token_file=hashes(tmp_path / "tokens", TOKEN)) as desk:
        for foreign in ({"Host": "evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
            headers = {"Authorization": f"Bearer {TOKEN}"} | foreign
            assert (await desk.get("/api/v1/status", method="POST", headers=headers))[0] == 403


async def test_a_line_counts_from_the_next_request_on(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    async with desks.opened(tmp_path, token_file=hashes(path, TOKEN)) as desk:
        hashes(path, OTHER)
        assert [await _change(desk, token) for token in (TOKEN, OTHER)] == [401, 405]
        path.write_text(OTHER)
        assert [await _change(desk, token) for token in (TOKEN, OTHER)] == [401, 401]
        path.unlink()
        assert await _change(desk, OTHER) == 401
        hashes(path, OTHER)
        assert await _change(desk, OTHER) == 405


async def _change(desk: Desk, token: str) -> int:
    return (await desk.get("/api/v1/status", method="POST", headers={"Authorization": f"Bearer {token}"}))[0]


async def test_refused_tokens_are_logged_once_a_minute_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with desks.opened(tmp_path, token_file=hashes(tmp_path / "tokens", TOKEN)) as desk:
        with capture_logs() as logs:
            for _ in range(10):
                await _change(desk, OTHER)
            monkeypatch.setattr(guard, "TELL", 0.0)
            await _change(desk, OTHER)
    assert [(line["event"], line["address"], line["times"]) for line in logs] == [
        ("token refused", "127.0.0.1", 1),
        ("token refused", "127.0.0.1", 10),
    ]
    assert OTHER not in str(logs)


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        (None, 0o640, "is not there: make a token"),
        (TOKEN, 0o640, "line 1 is not sha256: and 64 hex digits, and tokens do not belong there: make a token"),
        (f"# ok\nsha256:{TOKEN}\nsha256:{'A' * 64}", 0o640, "line 3 is not sha256:"),
        (f"sha256:{TOKEN} anna", 0o640, "line 1 is not sha256:"),
        ("# nobody\n\n", 0o640, "has no token"),
        ("\u00e9", 0o640, "is not a list of hashes"),
        (f"sha256:{TOKEN}", 0o644, "is open to everybody (mode 0644): chmod o= "),
        (f"sha256:{TOKEN}", 0o602, "is open to everybody"),
    ],
)
async def test_a_token_file_that_is_wrong_is_a_configuration_error(
    tmp_path: Path, content: str | None, mode: int, problem: str
) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    desk = Desk(tmp_path, token_file=str(path))
    with pytest.raises(ConfigError) as caught:
        await desk.front.start()
    assert str(caught.value).startswith(f"api.token_file {path}")
    assert problem in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert not desk.socket.exists()


def test_a_token_file_that_is_a_directory_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        Tokens(tmp_path)


def test_the_command_that_the_errors_name_makes_a_token_and_its_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    printed = subprocess.run(["bash", "-c", make_token(path)], check=True, capture_output=True, text=True).stdout
    assert Tokens(path).knows(printed.strip())
    assert not Tokens(path).knows(printed)
    assert printed.strip() not in path.read_text()
    assert make_token("/etc/proxyctl/tokens") in (make.REPOSITORY / "docs/http-api.md").read_text(encoding="utf-8")
    assert path.stat().st_mode & 0o777 == 0o640


# ---------------------------------------------------------------- how often


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_then_the_rate_and_a_pause_makes_up_for_it() -> None:
    clock = Clock()
    rates = Rates(clock)
    assert [rates.take("10.0.0.1") for _ in range(guard.BURST)] == [0.0] * guard.BURST
    assert rates.take("10.0.0.1") == pytest.approx(1 / guard.RATE)
    assert rates.take("10.0.0.1") == pytest.approx(1 / guard.RATE), "a refusal costs nothing"
    passed = 0
    for _ in range(1000):
        clock.now += 0.01
        passed += not rates.take("10.0.0.1")
    assert passed == pytest.approx(10 * guard.RATE, abs=1)
    clock.now += 3600
    assert sum(not rates.take("10.0.0.1") for _ in range(1000)) == pytest.approx(guard.BURST, abs=1)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_who_shares_a_rate(one: str, other: str, shared: bool) -> None:
    rates = Rates(Clock())
    for _ in range(guard.BURST):
        rates.take(one)
    assert bool(rates.take(other)) == shared


def test_addresses_are_forgotten_when_there_are_too_many() -> None:
    rates = Rates(Clock())
    for number in range(3 * guard.ADDRESSES):
        rates.take(f"10.0.{number // 250}.{number % 250}")
    assert len(rates._full_at) == guard.ADDRESSES


async def test_too_many_requests_are_refused_and_health_and_the_socket_are_not(desk: Desk) -> None:
    await wire.send(desk.port, wire.request("Host: 127.0.0.1"))
    statuses = [(await wire.send(desk.port, wire.request("Host: 127.0.0.1"))).status for _ in range(guard.BURST // 2)]
    assert set(statuses) == {200}, "a scrape and some dashboards"
    for _ in range(5 * guard.BURST):
        refused = await wire.send(desk.port, wire.request("Host: evil.example"))
        if refused.status == 429:
            break
    else:
        pytest.fail("never")
    assert refused.headers["retry-after"] == "1"
    assert refused.error == "more than 20 requests a second"
    for _ in range(guard.BURST):
        assert (await wire.send(desk.port, wire.request("Host: 127.0.0.1", target="/healthz"))).status == 200
    assert (await desk.ask("/metrics"))[0] == 200
