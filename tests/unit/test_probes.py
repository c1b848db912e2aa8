"""Whether targets are well: rise and fall, Docker's word, and who is watched."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace
from itertools import pairwise

import pytest

from proxyctl.model import DockerHealth, HealthType, ProbeState
from proxyctl.observe import probes
from proxyctl.observe.probes import Prober
from tests.unit import make
from tests.unit.asked import Server, Watching, http, tcp

# ---------------------------------------------------------------- rise and fall


async def test_a_target_is_healthy_after_so_many_good_checks_in_a_row(server: Server, watching: Watching) -> None:
    server.statuses = [200, 200, 500, 200, 200, 200]
    watching.prober.watch([http(server, rise=3)])
    await watching.state("healthy")
    assert len(server.heads) == 6
    assert watching.told == [("healthy", "")]


async def test_a_target_that_warms_up_is_asked_every_few_milliseconds(server: Server, watching: Watching) -> None:
    began = time.monotonic()
    watching.prober.watch([tcp(server, rise=5, interval=60.0)])
    await watching.state("healthy")
    assert time.monotonic() - began < 5


def rarer(at: list[float], began: float) -> bool:
    """Whether no check comes sooner than a twentieth of the time so far after the one before, however busy the machine is."""
    assert len(at) > 10
    slack = 0.02  # a watch is asked first a little after it began
    return all(later - sooner >= (sooner - began - slack) / 20 for sooner, later in pairwise(at))


async def test_the_checks_of_a_slow_start_grow_rarer(server: Server, watching: Watching) -> None:
    server.statuses = [503]
    began = time.monotonic()
    watching.prober.watch([http(server, interval=60.0)])
    await asyncio.sleep(0.5)
    early = len(server.heads)
    await asyncio.sleep(0.5)
    assert rarer(server.at, began)
    assert len(server.heads) - early >= 5, "within a twentieth of the time it has taken"


async def test_what_has_passed_once_is_asked_again_at_once_however_slow_its_start_was(
    server: Server, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "WARM_SHARE", 1.0)
    server.statuses = [503] * 8 + [200]
    watching.prober.watch([http(server, rise=5, interval=60.0)])
    await watching.state("healthy")
    assert server.at[8] - server.at[7] > 0.1
    assert server.at[12] - server.at[8] < 0.5


async def test_a_target_that_has_settled_is_asked_every_interval(server: Server, watching: Watching) -> None:
    watching.prober.watch([http(server, interval=0.1)])
    await watching.state("healthy")
    await asyncio.sleep(0.55)
    assert 4 <= len(server.heads) <= 7


async def test_one_bad_check_is_not_yet_unhealthy_when_two_are_asked_for(server: Server, watching: Watching) -> None:
    server.statuses = [200, 500, 200, 500, 500, 500]
    watching.prober.watch([http(server, fall=2)])
    await watching.state("unhealthy")
    assert len(server.heads) == 5
    assert watching.told == [("healthy", ""), ("unhealthy", "/ answered 500")]


async def test_an_unhealthy_target_comes_back_after_so_many_good_checks(server: Server, watching: Watching) -> None:
    server.statuses = [200, 200, 500, 200, 500, 200, 200]
    watching.prober.watch([http(server, rise=2)])
    await watching.until(lambda: [state for state, _ in watching.told] == ["healthy", "unhealthy", "healthy"])
    assert len(server.heads) == 7


async def test_a_target_that_never_passed_is_warming_and_says_why(server: Server, watching: Watching) -> None:
    server.statuses = [503]
    watching.prober.watch([http(server, fall=10**6)])
    await watching.until(lambda: watching.result.reason)
    assert (watching.result.state, watching.result.reason) == ("warming", "/ answered 503")
    assert watching.told == []


async def test_a_change_is_told_with_the_time_of_the_check_that_began_it(server: Server, watching: Watching) -> None:
    server.statuses = [503] * 6 + [200]
    watching.prober.watch([http(server, rise=3, interval=60.0)])
    await watching.state("healthy")
    assert server.at[5] < watching.since[0] < server.at[7]


async def test_a_change_has_its_own_time_and_a_new_reason_has_not(server: Server, watching: Watching) -> None:
    server.statuses = [500, 500, 404]
    watching.prober.watch([http(server)])
    await watching.until(lambda: "500" in watching.result.reason)
    first = watching.result.since_unix
    await watching.until(lambda: "404" in watching.result.reason)
    assert watching.result.since_unix == first
    server.statuses = [200]
    await watching.state("healthy")
    assert watching.result.since_unix > first


# ---------------------------------------------------------------- Docker's word


async def test_docker_alone_says_when_its_healthcheck_is_the_check(server: Server, watching: Watching) -> None:
    probe = make.probe(server.port, "docker", "starting")
    said: tuple[tuple[DockerHealth, ProbeState], ...] = (
        ("starting", "warming"),
        ("unhealthy", "warming"),
        ("healthy", "healthy"),
        ("unhealthy", "unhealthy"),
    )
    for health, state in said:
        watching.prober.watch([replace(probe, docker_health=health)])
        assert watching.result.state == state
    await asyncio.sleep(0.02)
    assert server.connections == 0
    assert watching.told == [("healthy", ""), ("unhealthy", "Docker's HEALTHCHECK fails")]


async def test_docker_can_object_to_a_target_that_answers(server: Server, watching: Watching) -> None:
    probe = http(server)
    watching.prober.watch([replace(probe, docker_health="starting")])
    await watching.state("healthy")
    watching.prober.watch([replace(probe, docker_health="unhealthy")])
    assert (watching.result.state, watching.result.reason) == ("unhealthy", "Docker's HEALTHCHECK fails")
    asked = len(server.heads)
    await watching.until(lambda: len(server.heads) > asked + 2)
    assert watching.result.state == "unhealthy"
    watching.prober.watch([replace(probe, docker_health="healthy")])
    assert watching.told[-1] == ("healthy", ""), "its own checks have passed all the while"


async def test_the_objection_is_the_reason_again_when_the_own_check_passes_again(server: Server, watching: Watching) -> None:
    server.statuses = [200, 503, 200]
    watching.prober.watch([replace(http(server), docker_health="unhealthy")])
    await watching.until(lambda: "503" in watching.result.reason)
    await watching.until(lambda: "HEALTHCHECK" in watching.result.reason)


async def test_who_passes_in_vain_is_asked_ever_more_rarely(server: Server, watching: Watching) -> None:
    """Or a few hundred of them would take every turn of the others."""
    began = time.monotonic()
    watching.prober.watch([replace(http(server, interval=60.0), docker_health="unhealthy")])
    await asyncio.sleep(1.0)
    assert rarer(server.at, began)


async def test_docker_cannot_make_a_target_healthy_that_does_not_answer(server: Server, watching: Watching) -> None:
    server.statuses = [503]
    watching.prober.watch([replace(http(server), docker_health="healthy")])
    await watching.until(lambda: len(server.heads) > 2)
    assert watching.result.state == "warming"


async def test_without_a_check_a_target_is_healthy_at_once_and_never_asked(server: Server, watching: Watching) -> None:
    watching.prober.watch([make.probe(server.port, "none", "unhealthy")])
    assert watching.result.state == "healthy"
    assert watching.told == [("healthy", "")], "or nobody would route it before the next event"
    await asyncio.sleep(0.02)
    assert server.connections == 0


async def test_a_check_that_becomes_another_kind_is_done_in_the_new_way(server: Server, watching: Watching) -> None:
    probe = http(server)
    asked_by_docker = replace(probe, check=replace(probe.check, type="docker"), docker_health="healthy")
    watching.prober.watch([asked_by_docker])
    assert watching.result.state == "healthy"
    await asyncio.sleep(0.01)
    server.statuses = [500]
    watching.prober.watch([probe])
    await watching.state("unhealthy")
    server.statuses = [200]
    await watching.state("healthy")
    for health in ("unhealthy", "starting"):  # what another kind of check has said does not count
        watching.prober.watch([replace(asked_by_docker, docker_health=health)])
        assert watching.told[-1][0] == "unhealthy"
    watching.prober.watch([asked_by_docker])
    assert watching.result.state == "healthy"
    asked = len(server.heads)
    await asyncio.sleep(0.1)
    assert len(server.heads) <= asked + 1


# ---------------------------------------------------------------- who is watched


async def test_what_was_live_before_is_trusted_until_it_fails(server: Server, watching: Watching) -> None:
    server.statuses = [500]
    probe = http(server, fall=2)
    watching.prober.watch([probe], trusted=[probe.key])
    assert watching.result.state == "healthy"
    await watching.state("unhealthy")
    assert len(server.heads) == 2


async def test_trust_is_for_that_very_run_of_the_container(server: Server, watching: Watching) -> None:
    probe = http(server)
    watching.prober.watch([probe], trusted=[(replace(probe.target, endpoint_id="before"), probe.route)])
    assert watching.result.state == "warming"


async def test_who_is_not_watched_any_more_is_not_asked_and_not_told(server: Server, watching: Watching) -> None:
    watching.prober.watch([http(server)])
    await watching.state("healthy")
    watching.prober.watch([])
    assert watching.prober.standing == {}
    asked = server.connections
    await asyncio.sleep(0.1)
    assert server.connections <= asked + 1
    assert watching.told == [("healthy", "")]


async def test_watching_again_does_not_begin_anew(server: Server, watching: Watching) -> None:
    watching.prober.watch([http(server, interval=60.0)])
    await watching.state("healthy")
    for _ in range(5):
        watching.prober.watch([http(server, interval=60.0)])
        await asyncio.sleep(0.001)
    assert (len(server.heads), watching.result.state) == (1, "healthy")


async def test_another_start_of_a_container_is_another_target(server: Server, watching: Watching) -> None:
    probe = http(server)
    watching.prober.watch([probe])
    await watching.state("healthy")
    watching.prober.watch([replace(probe, target=replace(probe.target, endpoint_id="next"))])
    assert watching.result.state == "warming"
    await watching.state("healthy")


async def test_one_route_that_fails_says_nothing_about_another_of_the_same_target(server: Server, watching: Watching) -> None:
    good, bad = http(server), replace(http(server, status=((404, 404),)), route="x")
    watching.prober.watch([good, bad])
    standing = watching.prober.standing
    await watching.until(lambda: good.key in standing and standing[good.key].state == "healthy")
    await watching.until(lambda: bad.key in standing and standing[bad.key].reason)
    assert watching.prober.standing[bad.key].state == "warming"


async def test_a_target_warms_up_since_it_was_asked_first(
    server: Server, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where thousands are to be asked, some wait for longer than a start may take."""
    monkeypatch.setattr(probes, "AT_ONCE", 1)
    server.statuses = [0]
    first, second = http(server, timeout=0.3), replace(http(server), route="x")
    watching.prober.watch([first, second])
    assert (watching.prober.unasked, watching.prober.standing) == (2, {})
    await watching.until(lambda: first.key in watching.prober.standing)
    assert (watching.prober.unasked, list(watching.prober.standing)) == (1, [first.key])
    await watching.until(lambda: second.key in watching.prober.standing)
    assert watching.prober.unasked == 0
    assert watching.prober.standing[second.key].since_unix - watching.prober.standing[first.key].since_unix > 0.2
    watching.prober.watch([first, replace(second, route="y")])
    assert watching.prober.unasked == 1
    watching.prober.watch([first])
    assert watching.prober.unasked == 0


async def test_a_target_behind_many_that_do_not_answer_counts_as_asked_in_the_end(
    server: Server, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that its place says 503 like theirs, and not 404 until its turn."""
    monkeypatch.setattr(probes, "AT_ONCE", 1)
    monkeypatch.setattr(probes, "ASKED_WITHIN", 0.1)
    server.statuses = [0]
    hanging, waiting = http(server, timeout=60), replace(http(server), route="x")
    watching.prober.watch([hanging, waiting])
    await watching.until(lambda: waiting.key in watching.prober.standing)
    assert (watching.prober.unasked, len(server.heads)) == (0, 1)


async def test_a_target_that_has_passed_is_asked_again_before_others_are_asked_first(
    server: Server, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "AT_ONCE", 1)
    monkeypatch.setattr(probes, "IN_A_TURN", 1)
    monkeypatch.setattr(probes, "WARM_FIRST", 0.0)
    server.statuses = [503]
    slow, fast = http(server), tcp(server, rise=2)
    watching.prober.watch([fast, *(replace(slow, route=f"slow-{n}") for n in range(200))])
    await watching.until(lambda: fast.key in (standing := watching.prober.standing) and standing[fast.key].state == "healthy")
    assert watching.prober.unasked > 150


async def test_a_target_that_was_never_asked_does_not_queue_behind_those_that_were(
    server: Server, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "AT_ONCE", 1)
    monkeypatch.setattr(probes, "WARM_FIRST", 0.0)
    monkeypatch.setattr(probes, "WARM_SHARE", 0.0)
    server.statuses = [503]
    many = [replace(http(server), route=f"many-{n}") for n in range(200)]
    watching.prober.watch(many)
    await watching.until(lambda: not watching.prober.unasked)
    new, before = replace(http(server), route="new"), server.connections
    watching.prober.watch([*many, new])
    await watching.until(lambda: new.key in watching.prober.standing)
    assert server.connections - before <= 5


async def test_so_many_checks_at_once_and_no_more(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "AT_ONCE", 3)
    server.statuses = [0]
    prober = Prober(lambda *_: None)
    probe = http(server, timeout=0.03)
    prober.watch([replace(probe, target=replace(probe.target, container_id=f"id-{n}")) for n in range(20)])
    await asyncio.sleep(0.15)
    assert server.most == 3
    assert server.connections > 6
    await prober.close()


@pytest.mark.parametrize("kind", ["http", "tcp"])
async def test_what_many_checks_leave_in_the_kernel_is_not_kept_for_minutes(
    kind: HealthType, server: Server, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is reset is forgotten at once by the socket, and after 10 s by connection tracking."""
    monkeypatch.setattr(probes, "GENTLE", 3)
    monkeypatch.setattr(probes, "GENTLE_WITHIN", 600.0)
    probe = make.probe(server.port, kind, timeout=60.0)
    for _ in range(5):
        assert await watching.prober.check(probe) == ""
    await watching.until(lambda: server.ended == 5)
    assert server.resets == 2
    monkeypatch.setattr(probes, "GENTLE_WITHIN", 0.0)  # the next ten seconds
    assert await watching.prober.check(probe) == ""
    await watching.until(lambda: server.ended == 6)
    assert server.resets == 2


async def test_settled_targets_are_asked_around_their_interval(server: Server, watching: Watching) -> None:
    """Jittered by a tenth, and then on a grid of a twentieth."""
    prober = watching.prober
    prober.watch([make.probe(server.port, rise=1, interval=0.4)])
    await watching.state("healthy")
    before, began = server.connections, time.monotonic()
    await asyncio.sleep(2.0)
    asked = server.connections - before
    assert 4 <= asked <= (time.monotonic() - began) / 0.36 + 1


async def test_a_check_that_changes_its_kind_is_not_made_twice_as_often(server: Server, watching: Watching) -> None:
    probe = make.probe(server.port, rise=1, interval=0.2)
    other = replace(probe, check=replace(probe.check, type="http", path="/"))
    for _ in range(10):
        watching.prober.watch([other])
        watching.prober.watch([probe])
    await asyncio.sleep(0.1)
    before = server.connections
    await asyncio.sleep(1.0)
    assert server.connections - before <= 7


async def test_checks_that_hang_keep_nobody_else_from_theirs(
    server: Server, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One owner's containers answer nothing at many places, and may take five minutes for that."""
    monkeypatch.setattr(probes, "LATELY", 0.05)
    standing, well = watching.prober.standing, tcp(server)
    with socket.create_server(("0.0.0.0", 0), backlog=512) as hanging:
        one = make.probe(hanging.getsockname()[1], "http", timeout=300.0)
        deaf = [
            replace(one, target=replace(one.target, container_id=f"deaf{number % 5}", address=f"127.1.0.{1 + number // 5}"))
            for number in range(300)
        ]
        watching.prober.watch(deaf)
        await asyncio.sleep(0.5)
        watching.prober.watch([*deaf, well])
        await watching.until(lambda: well.key in standing and standing[well.key].state == "healthy")
        assert len(watching.prober._checks) < 150, "each container has its share"
        watching.prober.watch([])
        await asyncio.sleep(0.01)
        assert not watching.prober._hanging
