"""What the API answers, to whom, and on which sockets."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxyctl.model import Container, Owner
from proxyctl.serve import api as served
from proxyctl.serve import feed, listeners
from proxyctl.serve.api import CHANGES, ENDPOINTS
from proxyctl.serve.front import Front
from proxyctl.serve.listeners import CannotListen
from proxyctl.serve.page import ago
from proxyctl.versions import Failure, Known, Replica, Rollout, Settings, Told
from tests.unit import desk as desks
from tests.unit import make
from tests.unit.desk import Desk
from tests.unit.make import container

TEXT_ENDPOINTS = ("/", "/healthz", "/readyz", "/metrics")
JSON_ENDPOINTS = ("/api/v1/status", "/api/v1/services", "/api/v1/targets", "/api/v1/rejections", "/api/v1/cycles")


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desks.opened(tmp_path) as desk:
        yield desk


def web(name: str = "web-1", said: dict[str, str] | None = None, **more: Any) -> Any:
    return container(name, {"host": "a.example"} | (said or {}), **more)


# ---------------------------------------------------------------- every answer


@pytest.mark.parametrize("path", JSON_ENDPOINTS)
async def test_json_answers_carry_their_schema_on_both_sockets(desk: Desk, path: str) -> None:
    for ask in (desk.get, desk.ask):
        status, body, _ = await ask(path)
        assert (status, body["schema"]) == (200, 1)


@pytest.mark.parametrize("path", [*TEXT_ENDPOINTS, *JSON_ENDPOINTS, "/nothing", "/api/v1/explain"])
async def test_no_answer_can_be_sniffed_framed_or_scripted(desk: Desk, path: str) -> None:
    _, _, headers = await desk.get(path)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'; frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "script-src" not in headers["Content-Security-Policy"]


async def test_an_unknown_path_names_the_ones_that_are(desk: Desk) -> None:
    status, body, _ = await desk.get("/api/v2/nothing")
    assert (status, body["schema"], body["endpoints"]) == (404, 1, ENDPOINTS | CHANGES)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ENDPOINTS)
async def test_what_shows_something_takes_nothing_but_get(desk: Desk, method: str, path: str) -> None:
    status, body, headers = await desk.ask(path, method=method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert method in body["error"]


@pytest.mark.parametrize("path", CHANGES)
async def test_what_changes_something_takes_nothing_but_post(desk: Desk, path: str) -> None:
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        status, _, headers = await desk.ask(path, method=method)
        assert (status, headers["Allow"]) == (405, "POST")
    assert desk.held.told == []


async def test_a_change_is_told_with_who_asked_for_it_and_answered_with_what_will_happen(desk: Desk) -> None:
    user = pwd.getpwuid(os.geteuid()).pw_name
    for body, notice in ((b"", 15.0), (b"{}", 15.0), (b'{"notice": 2.5}', 2.5)):
        status, answer, _ = await desk.ask("/api/v1/host/drain", method="POST", data=body)
        assert (status, f"served for {notice:g} s more" in answer["outlook"]) == (200, True)
        assert desk.held.told.pop() == ("drain", notice, user)
    await desk.ask("/api/v1/host/undrain", method="POST")
    assert desk.held.told == [("drain", None, user)]


async def test_a_host_that_is_to_be_left_is_in_sync_and_not_ready(desk: Desk) -> None:
    desk.decide([web(networks={"front": "10.0.0.5"})])
    desk.held.drain = "noticing"
    assert await _texts(desk) == [(503, "the host is to be left: noticing\n"), (200, "alive\n")]
    status = (await desk.ask("/api/v1/status"))[1]
    assert (status["ready"], status["error"], status["host"]) == (False, "", "noticing")
    assert "The host is to be left: noticing" in (await desk.ask("/"))[1]
    desk.held.drain = "serving"
    assert (await desk.ask("/readyz"))[0] == 200


async def _texts(desk: Desk) -> list[tuple[int, str]]:
    return [(await desk.ask(path))[:2] for path in ("/readyz", "/healthz")]


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        ("drain", b'{"notice": -1}', ">= 0"),
        ("drain", b'{"notice": "15s"}', "Expected `float`"),
        ("drain", b'{"notise": 15}', "unknown field `notise`"),
        ("drain", b"[]", "Expected `object`"),
        ("drain", b"\xff", "send a JSON object with these fields: notice (may be left out)"),
        ("undrain", b'{"notice": 1}', "unknown field `notice`"),
    ],
)
async def test_a_body_that_is_not_understood_changes_nothing(desk: Desk, path: str, body: bytes, why: str) -> None:
    status, answer, _ = await desk.ask(f"/api/v1/host/{path}", method="POST", data=body)
    assert (status, why in answer["error"], desk.held.told) == (400, True, [])


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_head_ends_for_every_path_and_has_no_body(desk: Desk, path: str) -> None:
    status, text, headers = await desk.ask(path, method="HEAD", timeout=aiohttp.ClientTimeout(total=2))
    assert (status in (200, 400, 503), text, headers["Server"]) == (True, "", "proxyctl")


# ---------------------------------------------------------------- health


async def test_ready_means_that_everything_wanted_is_live(desk: Desk) -> None:
    assert await _ready(desk) == (503, "starting: no cycle has ended yet\n")
    desk.report("unchanged")
    assert await _ready(desk) == (503, "nothing is live yet\n")
    desk.decide([web()])
    assert await _ready(desk) == (200, "ready\n")
    desk.report("refused", error="nginx refuses the draft: no")
    assert await _ready(desk) == (503, "nginx refuses the draft: no\n")
    desk.report("unchanged")
    assert await _ready(desk) == (200, "ready\n")


async def _ready(desk: Desk) -> tuple[int, str]:
    status, text, _ = await desk.get("/readyz")
    return status, text


async def test_a_rejected_container_does_not_make_the_rest_unready(desk: Desk) -> None:
    assert desk.decide([web(), container("bad", {"hots": "b.example"}, created=200.0)]).rejections
    assert (await desk.get("/readyz"))[0] == 200


async def test_alive_means_that_the_loop_came_round_within_a_resync_and_a_minute(desk: Desk) -> None:
    desk.held.beat = time.monotonic() - 89
    assert (await desk.get("/healthz"))[:2] == (200, "alive\n")
    desk.held.beat = time.monotonic() - 91
    assert (await desk.get("/healthz"))[0] == 503
    assert (await desk.get("/readyz"))[0] == 503


# ---------------------------------------------------------------- what is the case


async def test_status_tells_everything_in_one_call(desk: Desk) -> None:
    desk.decide([web(), web("web-2"), container("bad", {"hots": "b.example"})], {"web-2": "unhealthy"})
    _, body, _ = await desk.get("/api/v1/status")
    assert (body["version"], body["ready"], body["in_sync"], body["error"]) == ("1.2.3", True, True, "")
    assert body["engine"] == {"endpoint": "unix:///run/docker.sock", "connected": True}
    assert body["nginx"]["version"] == "1.31.3"
    assert (body["nginx"]["container"], body["nginx"]["digest"]) == ("edge", desks.DIGEST)
    assert body["counts"] == {"services": 1, "routes": 1, "targets": 1, "healthy": 1, "rejections": 2}


async def test_a_target_serves_when_nginx_was_told_not_when_it_should_be(desk: Desk) -> None:
    desk.decide([web()])
    wanted = make.decide([web(), web("web-2", {"service": "web-1"}, networks={"front": "10.0.0.6"})])
    desk.held.plan = wanted
    _, body, _ = await desk.get("/api/v1/status")
    (route,) = body["routes"]
    assert {t["container"]: t["serving"] for t in route["targets"]} == {"web-1": True, "web-2": False}
    assert not route["live"]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({}, "ok"),
        ({"web-2": "unhealthy"}, "degraded"),
        ({"web-2": "warming"}, "degraded"),
        ({"web-1": "unhealthy", "web-2": "unhealthy"}, "fail-open"),
        ({"web-1": "warming", "web-2": "warming"}, "starting"),
    ],
)
async def test_the_state_of_a_route(desk: Desk, states: dict[str, str], expected: str) -> None:
    two = [web(said={"service": "s"}), web("web-2", {"service": "s"}, networks={"front": "10.0.0.6"})]
    desk.decide(two, states, published=["a.example/"])
    _, body, _ = await desk.get("/api/v1/services")
    assert [s["state"] for s in body["services"]] == [expected]


async def test_an_exited_container_that_nobody_removed_is_no_worry(desk: Desk) -> None:
    desk.decide([web(said={"service": "s"}), web("old", {"service": "s"}, state="exited")])
    _, body, _ = await desk.get("/api/v1/status")
    assert [(r["state"], r["healthy"], r["present"]) for r in body["routes"]] == [("ok", 1, 1)]


async def test_a_place_whose_containers_are_gone_names_who_had_it(desk: Desk) -> None:
    desk.decide([], owners={"a.example/": Owner("shop", lost_unix=make.NOW)}, published=["a.example/"])
    _, body, _ = await desk.get("/api/v1/services")
    assert [(s["service"], s["state"]) for s in body["services"]] == [("shop", "down")]


async def test_targets_and_rejections_are_listed(desk: Desk) -> None:
    desk.decide([web(said={"path": "/git"}), container("bad", {"host": "b.example", "prot": "1"})])
    _, found, _ = await desk.get("/api/v1/targets")
    assert [(t["host"], t["path"], t["target"]["container"]) for t in found["targets"]] == [("a.example", "/git", "web-1")]
    _, refused, _ = await desk.get("/api/v1/rejections")
    assert [(r["container"], r["label"], r["hint"]) for r in refused["rejections"]] == [
        ("bad", "proxyctl.prot", "did you mean proxyctl.port?")
    ]


# ---------------------------------------------------------------- explain


async def _explain(desk: Desk, url: str) -> tuple[int, Any]:
    status, body, _ = await desk.get("/api/v1/explain", params={"url": url})
    return status, body


@pytest.mark.parametrize("url", ["a.example/git", "http://a.example/git/x?y#z", "https://A.EXAMPLE:8443/git", "a.example./git"])
async def test_explain_takes_what_people_paste(desk: Desk, url: str) -> None:
    desk.decide([web(said={"path": "/git"})])
    status, body = await _explain(desk, url)
    assert (status, body["answer"], body["route"]["path"]) == (200, "served", "/git")
    assert body["summary"] == "a.example/git belongs to web-1 and goes to web-1"


async def test_explain_picks_the_longest_path_at_a_slash(desk: Desk) -> None:
    desk.decide([web(), web("git", {"path": "/git", "service": "git"}), web("deep", {"path": "/git/deep", "service": "deep"})])
    for url, service in (("a.example/git/deep/x", "deep"), ("a.example/git/deeper", "git"), ("a.example/gitx", "web-1")):
        assert (await _explain(desk, url))[1]["route"]["service"] == service


async def test_explain_prefers_the_exact_name_then_the_longest_wildcard(desk: Desk) -> None:
    names = {"all": "*.example", "sub": "*.b.example", "exact": "x.b.example"}
    desk.decide([container(name, {"host": host}) for name, host in names.items()])
    for host, service in (("x.b.example", "exact"), ("y.b.example", "sub"), ("c.example", "all"), ("p.q.example", "all")):
        assert (await _explain(desk, host))[1]["route"]["service"] == service


async def test_explain_says_why_nobody_serves(desk: Desk) -> None:
    desk.decide([web()], {"web-1": "warming"}, published=["a.example/"])
    status, body = await _explain(desk, "a.example")
    assert (status, body["answer"]) == (200, "unavailable")
    assert [(t["state"], t["reason"]) for t in body["route"]["targets"]] == [("warming", "refused")]


@pytest.mark.parametrize(
    ("asking", "why"),
    [
        (web(state="exited"), "web-1 is down (exited)"),
        (web(said={"network": "elsewhere"}), "web-1 is down (it is not in the network elsewhere (but in front))"),
    ],
    ids=["stopped", "unreachable"],
)
async def test_explain_says_what_is_wrong_with_the_targets(desk: Desk, asking: Container, why: str) -> None:
    desk.decide([asking], published=["a.example/"])
    _, body = await _explain(desk, "a.example")
    assert body["summary"] == f"no target of a.example (web-1) serves: nginx answers 503; {why}"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("traefik.http.routers.web.rule", "Host(`a.example`) && PathPrefix(`/git`)"),
        ("caddy", "a.example"),
        ("VIRTUAL_HOST", "b.example,a.example"),
    ],
)
async def test_explain_tells_of_labels_for_another_proxy(desk: Desk, key: str, text: str) -> None:
    desk.decide([container("web", labels={key: text}), container("other", labels={key: "xa.example"})])
    _, body = await _explain(desk, "a.example")
    assert body["summary"].endswith(f"; web has it in {key}, which proxyctl does not read: set proxyctl.host=a.example")


async def test_explain_names_near_hosts_and_the_paths_there_are(desk: Desk) -> None:
    desk.decide([web(said={"path": "/git"})])
    status, body = await _explain(desk, "a.exmaple")
    assert (status, body["answer"], body["nearest"]) == (404, "unknown-host", ["a.example"])
    status, body = await _explain(desk, "a.example/other")
    assert (status, body["answer"], body["paths"]) == (404, "unknown-path", ["/git"])


async def test_explain_tells_who_asked_for_the_host_and_was_rejected(desk: Desk) -> None:
    other = container("other", {"host": "other.example", "prot": "1"})
    wrong = container("wrong", {"routes.x.host": "b.example, A.EXAMPLE", "routes.x.prot": "1"})
    desk.decide([other, wrong])
    _, body = await _explain(desk, "a.example")
    assert [r["container"] for r in body["rejections"]] == ["wrong"]


async def test_explain_names_the_incumbent_to_who_was_refused(desk: Desk) -> None:
    desk.decide([web(compose="shop/web", created=1.0), web("late", compose="thief/late", created=2.0)])
    _, body = await _explain(desk, "a.example")
    assert body["route"]["service"] == "shop.web"
    ((name, reason, message),) = [(r["container"], r["reason"], r["message"]) for r in body["rejections"]]
    assert (name, reason) == ("late", "host-taken")
    assert "shop.web" in message


async def test_explain_says_when_nginx_runs_something_else(desk: Desk) -> None:
    desk.decide([web()])
    desk.report("restored", error="no answer")
    assert "does not run the latest configuration: no answer" in (await _explain(desk, "a.example"))[1]["summary"]


@pytest.mark.parametrize("url", ["", "/git", "http://", "1.2.3.4", "a b", "[::1", "\u20ac.example"])
async def test_explain_without_a_host_name_is_a_bad_request(desk: Desk, url: str) -> None:
    status, body = await _explain(desk, url)
    assert status == 400
    assert body["error"]


# ---------------------------------------------------------------- cycles and events


async def test_cycles_come_newest_first_and_no_more_than_asked_for(desk: Desk) -> None:
    for number in range(5):
        desk.report("live", changes=(f"change {number}",))
    desk.report("unchanged")
    _, body, _ = await desk.get("/api/v1/cycles", params={"limit": "2"})
    assert [c["changes"] for c in body["cycles"]] == [["change 4"], ["change 3"]]


@pytest.mark.parametrize("limit", ["0", "501", "-1", "x", "", "٣", "9" * 40])
async def test_a_limit_out_of_range_is_a_bad_request(desk: Desk, limit: str) -> None:
    assert (await desk.get("/api/v1/cycles", params={"limit": limit}))[0] == 400


async def test_events_tell_what_changed_as_it_happens(desk: Desk) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{desk.url}/api/v1/events") as response:
        assert response.content_type == "text/event-stream"
        assert await response.content.readline() == b": following\n"
        desk.report("unchanged")
        desk.report("live", changes=("+ a.example",))
        await response.content.readline()
        assert await response.content.readline() == b"event: cycle\n"
        cycle = json.loads((await response.content.readline()).removeprefix(b"data: "))
        assert (cycle["schema"], cycle["changes"]) == (1, ["+ a.example"])


async def test_a_quiet_stream_is_kept_alive(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "KEEP_ALIVE", 0.05)
    async with aiohttp.ClientSession() as session, session.get(f"{desk.url}/api/v1/events") as response:
        lines = [await response.content.readline() for _ in range(3)]
        assert lines[2] == b": still here\n"


async def test_a_follower_who_does_not_keep_up_is_dropped_and_others_are_not(desk: Desk) -> None:
    limit = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(timeout=limit) as session, session.get(f"{desk.url}/api/v1/events") as slow:
        await slow.content.readline()
        for number in range(feed.BEHIND + 1):
            desk.report("live", changes=(f"change {number}",))
        with pytest.raises(aiohttp.ClientError):
            await slow.content.read()
        async with session.get(f"{desk.url}/api/v1/events") as other:
            assert await other.content.readline() == b": following\n"


async def test_there_is_a_limit_to_followers(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MOST", 1)
    async with aiohttp.ClientSession() as session, session.get(f"{desk.url}/api/v1/events") as first:
        assert first.status == 200
        assert (await desk.get("/api/v1/events"))[0] == 503
    for _ in range(100):
        async with aiohttp.ClientSession() as session, session.get(f"{desk.url}/api/v1/events") as again:
            if again.status == 200:
                return
        await asyncio.sleep(0.02)
    pytest.fail("the place of a follower who left was not given to another")


async def test_shutting_down_does_not_wait_for_followers(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        async with desks.opened(tmp_path) as desk:
            responses = [await session.get(f"{desk.url}/api/v1/events") for _ in range(5)]
            began = time.monotonic()
        assert time.monotonic() - began < 2.0
        assert all([(await response.read()).endswith(b"following\n\n") for response in responses])


# ---------------------------------------------------------------- the page


async def test_the_page_shows_services_targets_rejections_and_changes(desk: Desk) -> None:
    desk.decide([web(), container("bad", {"hots": "b.example"}, created=200.0)])
    status, html, headers = await desk.get("/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    for text in (
        "In sync",
        "nginx 1.31.3 in edge",
        "a.example",
        "10.0.0.5:80",
        "proxyctl.hots",
        "did you mean proxyctl.host?",
        "+ all",
    ):
        assert text in html


async def test_foreign_text_is_text_on_the_page(desk: Desk) -> None:
    desk.decide([web()])
    desk.report("failed", error="<script>alert(1)</script>", changes=('"><img src=x>',))
    _, html, headers = await desk.get("/")
    assert "<script" not in html
    assert "<img" not in html
    nonce = headers["Content-Security-Policy"].partition("'nonce-")[2].partition("'")[0]
    assert f'<style nonce="{nonce}">' in html
    assert nonce not in (await desk.get("/"))[2]["Content-Security-Policy"]


@pytest.mark.parametrize("template", ["{{ nothing }}", "{% if %}", "{{ status.nothing }}"])
async def test_a_template_that_is_wrong_is_named_and_harms_nothing_else(desk: Desk, template: str) -> None:
    good, desk.template = desk.template, template
    status, text, _ = await desk.get("/")
    assert (status, text.startswith("dashboard.html.j2 cannot be rendered: ")) == (500, True)
    desk.template = good
    assert (await desk.get("/"))[0] == 200


@pytest.mark.parametrize(("seconds", "expected"), [(-1, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (10**6, "11 d")])
def test_ago(seconds: float, expected: str) -> None:
    assert ago(seconds) == expected


# ---------------------------------------------------------------- sockets


async def test_the_socket_is_for_owner_and_group_and_goes_at_the_end(tmp_path: Path) -> None:
    async with desks.opened(tmp_path) as desk:
        assert oct(desk.socket.stat().st_mode & 0o777) == "0o660"
    assert not desk.socket.exists()


async def test_a_socket_that_a_crash_left_behind_is_replaced(tmp_path: Path) -> None:
    path = Desk(tmp_path).socket
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with desks.opened(tmp_path) as desk:
        assert (await desk.ask("/healthz"))[0] == 200


async def test_a_socket_where_somebody_answers_is_not_taken(tmp_path: Path) -> None:
    async with desks.opened(tmp_path) as first:
        second = Desk(tmp_path)
        with pytest.raises(CannotListen, match=r"api\.socket .* is taken: another controller answers there"):
            await second.front.start()
        await second.front.close()
        assert (await first.ask("/healthz"))[0] == 200
        with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
            probe.connect(("127.0.0.1", second.port))


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    path.write_text("precious")
    with pytest.raises(CannotListen, match="is not a socket: move that file away"):
        listeners.UnixListener(path)
    assert path.read_text() == "precious"


async def test_a_socket_that_another_controller_put_there_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    old = listeners.UnixListener(path)
    path.rename(tmp_path / "moved")
    new = listeners.UnixListener(path)
    old.close()
    assert listeners.answers(path)
    new.close()
    assert not path.exists()


async def test_a_path_too_long_for_a_socket_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(CannotListen, match=r"cannot be made \(AF_UNIX path too long\)"):
        listeners.UnixListener(tmp_path / ("x" * 120))


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", desk.port))
        other.listen()
        with pytest.raises(CannotListen, match=rf"api\.listen 127\.0\.0\.1:{desk.port} is taken"):
            await desk.front.start()
    assert not desk.socket.exists()


def test_an_address_of_another_host_is_named() -> None:
    with pytest.raises(CannotListen, match="is not an address of this host"):
        listeners.tcp(("192.0.2.1", 9180))


async def test_without_api_listen_there_is_no_tcp(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.config = type(desk.config)(state=desk.config.state, api=type(desk.config.api)(listen="", socket=str(desk.socket)))
    front = Front(desk.config, desk._standing, desk._workers, lambda: desk.template, desk.changes)
    await front.start()
    assert (await desk.ask("/healthz"))[0] == 200
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", desk.port))
    await front.close()


async def test_rollouts_of_one_service_or_of_all(desk: Desk) -> None:
    desk.held.rollouts = tuple(Told(name, Rollout(), (), None, "") for name in ("blog", "shop"))
    for query, services in (("", ["blog", "shop"]), ("?service=shop", ["shop"]), ("?service=no", [])):
        found = (await desk.ask(f"/api/v1/rollouts{query}"))[1]
        assert [each["service"] for each in found["rollouts"]] == services


async def test_the_page_shows_versions_and_what_comes_next(desk: Desk) -> None:
    assert "Versions" not in (await desk.ask("/"))[1]
    settings = Settings()
    replicas = tuple(Replica(f"id-{v}", f"shop-{v}", v, born, "healthy", "", settings) for v, born in (("v1", 1.0), ("v2", 2.0)))
    known = {version: Known(born, frozenset({f"id-{version}"})) for version, born in (("v1", 1.0), ("v2", 2.0))}
    failure = Failure("died", "shop-<v2> ended", 3.0, frozenset({"id-v2"}))
    rollout = Rollout("failed", active="v1", versions=known, failures={"v2": failure})
    desk.held.rollouts = (Told("shop", rollout, replicas, {"v1": 100}, "v1 is live; v2 failed"),)
    page = (await desk.ask("/"))[1]
    assert "<h2>Versions</h2>" in page
    assert "v1 is live; v2 failed" in page
    assert "shop-&lt;v2&gt; ended" in page
    assert "shop-<v2>" not in page
