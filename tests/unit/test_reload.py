"""Published -> Live: a signal, an answer with the new digest, and no worker from before that still serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxyctl.fileset import NginxWorker
from proxyctl.model import EngineRefused
from proxyctl.publish import reload
from proxyctl.publish.promote import Published
from proxyctl.publish.reload import Live, NotProved, Reloader, Silent
from proxyctl.publish.workers import workers
from tests.unit import bench

NEW, OLD = "a" * 32, "b" * 32
PUBLISHED = Published(NEW, OLD)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {
        "RETIRE_AFTER": 0.01,
        "LOG_AFTER": 0.1,
        "SIGNAL_AGAIN": 0.4,
        "GIVE_UP": 2.0,
        "SETTLE": 0.2,
        "SILENT": 0.5,
    }.items():
        monkeypatch.setattr(reload, name, seconds)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[bench.Engine]:
    bench.folders(tmp_path)
    engine = bench.Engine(tmp_path)
    (tmp_path / "conf" / "nginx.conf").symlink_to(f"mains/{NEW}.conf")
    engine.nginx.running = OLD
    async with engine.nginx.listening():
        yield engine


def before(engine: bench.Engine, *workers: int) -> Live:
    return Live(OLD, bench.NGINX, str(engine.started), frozenset(workers))


async def reloaded(engine: bench.Engine, live: Live | None = None, workers: int = 2) -> tuple[Live, Reloader]:
    reloader = Reloader(engine, bench.TOKEN)
    return await reloader.reload(PUBLISHED, bench.instance(engine), live, workers), reloader


async def test_live_is_the_new_digest_in_this_nginx_with_its_new_workers(engine: bench.Engine) -> None:
    live, reloader = await reloaded(engine)
    assert live == Live(NEW, bench.NGINX, "1", frozenset({21, 22}), ending=frozenset({11, 12}))
    assert reloader.signals == 1
    assert engine.did("kill") == [(bench.NGINX, "HUP")]


async def test_nothing_is_live_while_a_worker_from_before_still_serves(engine: bench.Engine) -> None:
    engine.nginx.retires = 0.15
    began = time.monotonic()
    live, _ = await reloaded(engine)
    assert time.monotonic() - began >= 0.15
    assert live.workers == {21, 22}
    assert engine.nginx.ending == [11, 12]


async def test_one_worker_from_before_is_enough_to_wait_for(engine: bench.Engine) -> None:
    engine.nginx.lingers = {12: 0.1}
    live, _ = await reloaded(engine, workers=3)
    assert live.workers == {21, 22}


async def test_workers_from_before_that_never_end_are_told(engine: bench.Engine) -> None:
    engine.nginx.retires = 60
    with pytest.raises(NotProved, match="2 workers from before the reload still serve"):
        await reloaded(engine)


def same(engine: bench.Engine) -> Live:
    """nginx answers with it already, and is to load it again: what it read from has been put back."""
    engine.nginx.running = NEW
    return replace(before(engine, 11, 12), digest=NEW)


@pytest.mark.parametrize("known", [True, False])
async def test_a_lost_signal_for_what_workers_from_before_answer_with_is_sent_again(engine: bench.Engine, known: bool) -> None:
    was = same(engine)
    engine.nginx.deaf = 1
    began = time.monotonic()
    live, reloader = await reloaded(engine, was if known else None)
    assert (set(live.workers), reloader.signals) == ({21, 22}, 2)
    assert time.monotonic() - began < reload.GIVE_UP / 2


@pytest.mark.parametrize("known", [True, False])
async def test_new_workers_that_somebody_else_had_loaded_are_not_taken_for_ours(engine: bench.Engine, known: bool) -> None:
    was = same(engine)
    engine.nginx.deaf = 1

    async def load_nothing() -> None:
        await asyncio.sleep(0.05)
        engine.nginx.serving, engine.nginx.running = [31, 32], ""

    loading = asyncio.create_task(load_nothing())
    live, reloader = await reloaded(engine, was if known else None)
    await loading
    assert (set(live.workers), engine.nginx.running, reloader.signals) == ({41, 42}, NEW, 2)


@pytest.mark.parametrize("how", ["ended", "started again", "gone"])
@pytest.mark.parametrize("when", ["before it answers", "before its old workers retire"])
async def test_an_nginx_that_ends_meanwhile_is_not_waited_for(
    engine: bench.Engine, how: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "GIVE_UP", 30.0)
    engine.nginx.parses, engine.nginx.retires = (60.0, 0.02) if when == "before it answers" else (0.005, 60.0)

    async def die() -> None:
        await asyncio.sleep(0.1)
        engine.nginx.serving = []
        if how == "ended":
            engine.status = "exited"
        elif how == "started again":
            engine.started += 1
        else:
            engine.status = ""

    dying = asyncio.create_task(die())
    began = time.monotonic()
    with pytest.raises(NotProved, match="nginx has ended meanwhile"):
        await reloaded(engine)
    assert time.monotonic() - began < 2
    await dying


async def test_what_somebody_else_has_replaced_is_not_waited_for(engine: bench.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "GIVE_UP", 30.0)
    engine.nginx.ignores = lambda _: True
    began = time.monotonic()
    with pytest.raises(NotProved, match="somebody else has changed what nginx reads"):
        await Reloader(engine, bench.TOKEN).reload(PUBLISHED, bench.instance(engine), None, 2, is_there=lambda: False)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(("parsing", "asked"), [(0.0, True), (0.3, False)])
async def test_what_keeps_an_nginx_that_needs_long_is_not_asked_before_it_is_late(
    engine: bench.Engine, parsing: float, *, asked: bool
) -> None:
    engine.nginx.parses = 0.35
    await Reloader(engine, bench.TOKEN).reload(PUBLISHED, bench.instance(engine), None, 2, parsing)
    assert bool(engine.did("logs")) is asked


async def test_workers_that_are_shutting_down_are_no_obstacle(engine: bench.Engine) -> None:
    engine.nginx.ending = [5, 6]
    live, _ = await reloaded(engine)
    assert live.workers == {21, 22}


async def test_a_worker_that_was_replaced_since_the_last_proof_is_waited_for_too(engine: bench.Engine) -> None:
    engine.nginx.lingers = {12: 0.1}
    live, _ = await reloaded(engine, before(engine, 11))
    assert live.workers == {21, 22}


async def test_more_workers_than_expected_are_not_waited_for_for_ever(engine: bench.Engine) -> None:
    live, _ = await reloaded(engine, before(engine, 11, 12), workers=1)
    assert live.workers == {21, 22}


async def test_what_was_proved_before_saves_asking_for_workers_ahead_of_the_signal(engine: bench.Engine) -> None:
    await reloaded(engine, before(engine, 11, 12))
    assert engine.calls[0] == ("kill", bench.NGINX, "HUP")


async def test_workers_of_another_run_of_nginx_say_nothing_about_this_one(engine: bench.Engine) -> None:
    engine.nginx.serving = [21, 22]
    live, _ = await reloaded(engine, Live(OLD, bench.NGINX, "another start", frozenset({11, 12})))
    assert engine.calls[0] == ("processes", bench.NGINX)
    assert live.workers == {31, 32}


async def test_a_signal_that_nginx_does_not_hear_is_sent_again(engine: bench.Engine) -> None:
    engine.nginx.deaf = 2
    live, reloader = await reloaded(engine)
    assert live.digest == NEW
    assert reloader.signals == 3


async def test_a_signal_that_a_slow_engine_sends_late_is_sent_once(engine: bench.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one would reach an nginx that has loaded all, and the next reload's would be lost while that parses."""
    engine.nginx.parses, kill = 0.05, engine.kill

    async def late(container: str, signal: str) -> None:
        await asyncio.sleep(2 * reload.SIGNAL_AGAIN)
        await kill(container, signal)

    monkeypatch.setattr(engine, "kill", late)
    live, reloader = await reloaded(engine)
    assert (live.digest, reloader.signals) == (NEW, 1)


async def test_an_nginx_that_answers_nowhere_is_not_waited_for(engine: bench.Engine) -> None:
    began = time.monotonic()
    with pytest.raises(Silent, match="answers at none of its addresses"):
        await Reloader(engine, bench.TOKEN).reload(PUBLISHED, bench.instance(engine, addresses=(("127.0.0.1", 1),)), None, 2)
    assert reload.SILENT < time.monotonic() - began < reload.GIVE_UP


async def test_an_nginx_that_needs_long_and_answers_as_before_is_waited_for(engine: bench.Engine) -> None:
    engine.nginx.parses = 2 * reload.SILENT
    live, _ = await reloaded(engine)
    assert live.digest == NEW


async def test_an_nginx_that_never_answers_with_the_new_digest_is_not_live(engine: bench.Engine) -> None:
    engine.nginx.deaf = 1000
    began = time.monotonic()
    with pytest.raises(NotProved, match=r"did not answer with the new configuration within 2 s") as caught:
        await reloaded(engine)
    assert not caught.value.refused
    assert time.monotonic() - began < 10


async def test_what_nginx_writes_when_it_refuses_is_the_reason_at_once(engine: bench.Engine) -> None:
    engine.nginx.refuses = lambda _: "bind() to 0.0.0.0:80 failed (98: Address already in use)"
    began = time.monotonic()
    with pytest.raises(NotProved) as caught:
        await reloaded(engine)
    assert caught.value.reason.endswith("[emerg] 10#10: bind() to 0.0.0.0:80 failed (98: Address already in use)")
    assert caught.value.refused
    assert time.monotonic() - began < 2.0


async def test_an_old_line_of_the_log_is_not_a_refusal_of_today(engine: bench.Engine) -> None:
    engine.nginx.log.append((time.time() - 60, "[emerg] of yesterday\n"))
    engine.nginx.parses = 0.3
    live, _ = await reloaded(engine)
    assert live.digest == NEW


async def test_other_lines_of_the_log_are_not_refusals(engine: bench.Engine) -> None:
    engine.nginx.parses = 0.3
    reloading = asyncio.create_task(reloaded(engine))
    await asyncio.sleep(0.02)
    engine.nginx.write("[warn] conflicting server name")
    live, _ = await reloading
    assert engine.did("logs")
    assert live.digest == NEW


async def test_a_signal_that_the_engine_does_not_deliver_is_not_proved(
    engine: bench.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def kill(container: str, signal: str) -> None:
        raise EngineRefused(409, f"{container} is not running ({signal})")

    monkeypatch.setattr(engine, "kill", kill)
    with pytest.raises(NotProved, match="the signal could not be sent: id-nginx is not running"):
        await reloaded(engine)


# ---------------------------------------------------------------- without a signal


async def test_an_nginx_that_runs_the_digest_already_is_adopted_without_a_signal(engine: bench.Engine) -> None:
    reloader = Reloader(engine, bench.TOKEN)
    assert await reloader.adopt(OLD, bench.instance(engine), 2) == before(engine, 11, 12)
    assert await reloader.adopt(NEW, bench.instance(engine), 2) is None
    assert (reloader.signals, engine.did("kill")) == (0, [])


async def test_more_workers_than_configured_are_a_reload_under_way_and_not_adopted(engine: bench.Engine) -> None:
    assert await Reloader(engine, bench.TOKEN).adopt(OLD, bench.instance(engine), 1) is None


async def test_the_old_workers_that_still_live_are_told(engine: bench.Engine) -> None:
    engine.nginx.ending = [5, 6]
    adopted = await Reloader(engine, bench.TOKEN).adopt(OLD, bench.instance(engine), 2)
    assert adopted
    assert adopted.ending == {5, 6}
    live, _ = await reloaded(engine)
    assert live.ending >= {5, 6}


async def test_cache_processes_and_the_master_are_no_workers(engine: bench.Engine) -> None:
    engine.nginx.ending = [5]
    found = await workers(engine, bench.instance(engine))
    assert found == [
        NginxWorker(11, shutting_down=False),
        NginxWorker(12, shutting_down=False),
        NginxWorker(5, shutting_down=True),
    ]


async def test_the_digest_is_asked_under_the_token_and_nobody_elses_name(engine: bench.Engine) -> None:
    assert await Reloader(engine, bench.TOKEN).digest(bench.instance(engine)) == OLD
    assert await Reloader(engine, "0" * 32).digest(bench.instance(engine)) == ""


async def test_the_digest_is_asked_at_every_address_until_one_answers(engine: bench.Engine) -> None:
    port = engine.nginx.port
    addresses = (("127.0.0.1", 1), ("127.0.0.1", port))
    reloader = Reloader(engine, bench.TOKEN)
    assert await reloader.digest(bench.instance(engine, addresses=addresses)) == OLD
    assert await reloader.digest(bench.instance(engine, addresses=(("127.0.0.1", 1),))) is None
    assert await reloader.digest(bench.instance(engine, addresses=())) is None


async def test_live_is_one_run_of_one_container(engine: bench.Engine) -> None:
    live = before(engine, 11)
    assert live.is_in(bench.instance(engine))
    assert not live.is_in(bench.instance(engine, started_at="2"))
    assert not live.is_in(bench.instance(engine, id="another"))
