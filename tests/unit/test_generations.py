"""Which old workers of nginx know an address that is somebody else's by now."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyctl.fileset import Freed, Generation
from proxyctl.model import Container, ContainerState, Location, RoutedTarget, RouteTable, Snapshot, Target, VirtualHost
from proxyctl.plan.generations import LAST_REQUEST, advance, carrying, endangered
from tests.unit import make

RUN = "nginx 1"
WEB = Target("web", "e-web", "10.0.0.2", 80)
API = Target("api", "e-api", "10.0.0.3", 80)


def table(*targets: tuple[Target, str], serving: bool = True) -> RouteTable:
    routed = tuple(RoutedTarget(t, t.container_id, service, 1, "healthy", "", serving) for t, service in targets)
    return RouteTable((VirtualHost("a.example", (Location("/", False, "http", "web", "default", routed, False),)),))


def holder(container_id: str, address: str, state: ContainerState = "running") -> Container:
    return replace(make.container(container_id, networks={"front": address}), id=container_id, state=state)


def snapshot(*containers: Container) -> Snapshot:
    return Snapshot({c.id: c for c in containers})


NOW = 1_000.0
CONTAINERS = {"web": make.container("web", compose="shop/web")}
OLD = Generation(RUN, frozenset({7}), frozenset({Freed(WEB, "web")}), NOW)


TOLD = st.lists(st.tuples(st.sampled_from([WEB, API, replace(WEB, port=81), replace(API)]), st.booleans()), max_size=5)


@given(told=TOLD)
def test_what_nginx_is_told(told: list[tuple[Target, bool]]) -> None:
    """Targets may be equal, and the same object or not."""
    vhosts = [vhost for target, serves in told for vhost in table((target, "web"), serving=serves).vhosts]
    carried = list(carrying(vhosts))
    assert set(carried) == {(target, "default") for target, serves in told if serves}
    assert len(carried) == len({id(target) for target, serves in told if serves})


def test_old_workers_know_what_was_served_before_and_is_not_now() -> None:
    past = advance((), RUN, frozenset({7, 8}), {WEB: "web", API: "api"}, {API: "api"}, CONTAINERS, NOW)
    assert past == (Generation(RUN, frozenset({7, 8}), frozenset({Freed(WEB, "web", "shop")}), NOW),)


def test_what_goes_later_is_known_to_those_that_are_older_too() -> None:
    past = advance((OLD,), RUN, frozenset({7, 9}), {API: "api"}, {}, {}, NOW + 1)
    assert past == (
        Generation(RUN, frozenset({7}), frozenset({Freed(WEB, "web"), Freed(API, "api")}), NOW),
        Generation(RUN, frozenset({9}), frozenset({Freed(API, "api")}), NOW + 1),
    )


def test_workers_that_are_gone_and_those_of_another_nginx_are_forgotten() -> None:
    assert advance((OLD,), RUN, frozenset(), {}, {}, {}, NOW) == ()
    assert advance((OLD,), "nginx 2", frozenset({7}), {}, {}, {}, NOW) == (
        Generation("nginx 2", frozenset({7}), frozenset(), NOW),
    )


def test_an_address_of_another_container_endangers_those_that_know_it() -> None:
    assert endangered((OLD,), snapshot(holder("other", "10.0.0.2")), table(), NOW).keys() == {7}
    assert "10.0.0.2 belongs to other" in endangered((OLD,), snapshot(holder("other", "10.0.0.2")), table(), NOW)[7]


def test_nobody_is_endangered_by_who_does_not_run_or_runs_elsewhere_or_is_the_same() -> None:
    assert endangered((OLD,), snapshot(holder("other", "10.0.0.2", state="created")), table(), NOW) == {}
    assert endangered((OLD,), snapshot(holder("other", "10.0.0.9")), table(), NOW) == {}
    assert endangered((OLD,), snapshot(holder("web", "10.0.0.2")), table(), NOW) == {}


def test_a_container_that_serves_the_same_service_may_have_the_address_one_that_only_says_so_may_not() -> None:
    here = snapshot(holder("web2", "10.0.0.2"))
    admitted = Target("web2", "e", "10.0.0.2", 80)
    assert endangered((OLD,), here, table((admitted, "web"), serving=False), NOW) == {}
    assert endangered((OLD,), here, table((admitted, "api")), NOW).keys() == {7}
    assert endangered((OLD,), here, table(), NOW).keys() == {7}


@pytest.mark.parametrize(
    ("project", "other", "is_danger"), [("shop", "shop", False), ("shop", "blog", True), ("shop", "", True), ("", "", True)]
)
def test_a_container_of_the_same_project_is_no_stranger(project: str, other: str, is_danger: bool) -> None:
    old = Generation(RUN, frozenset({7}), frozenset({Freed(WEB, "shop.web", project)}), NOW)
    taker = make.container("other", networks={"front": "10.0.0.2"}, compose=f"{other}/db" if other else "")
    assert bool(endangered((old,), snapshot(taker), table(), NOW)) is is_danger


def test_an_old_worker_is_no_danger_after_its_last_new_request() -> None:
    here = snapshot(holder("other", "10.0.0.2"))
    assert endangered((OLD,), here, table(), NOW + LAST_REQUEST - 0.1)
    assert endangered((OLD,), here, table(), NOW + LAST_REQUEST) == {}
    unknown = replace(OLD, since_unix=0.0)
    assert endangered((unknown,), here, table(), NOW + LAST_REQUEST), "of a release that did not note it"


def test_nginx_itself_is_no_stranger() -> None:
    here = snapshot(holder("nginx", "10.0.0.2"))
    assert endangered((OLD,), here, table(), NOW, "nginx") == {}


def test_through_the_address_of_the_host_the_port_tells_who_it_is() -> None:
    through_host = Target("web", "e", "172.17.0.1", 8080)
    old = Generation(RUN, frozenset({7}), frozenset({Freed(through_host, "web")}), NOW)
    assert endangered((old,), snapshot(), table((replace(through_host, container_id="b", port=8081), "b")), NOW) == {}
    assert endangered((old,), snapshot(), table((replace(through_host, container_id="b"), "b")), NOW).keys() == {7}


def test_what_a_worker_of_before_the_restart_was_for_is_not_known_and_then_everybody_else_is_another() -> None:
    past = advance((), RUN, frozenset({7}), {WEB: ""}, {}, {}, NOW)
    admitted = Target("web2", "e", "10.0.0.2", 80)
    assert endangered(past, snapshot(holder("web2", "10.0.0.2")), table((admitted, "web")), NOW).keys() == {7}


@given(st.lists(st.tuples(st.sets(st.integers(1, 6)), st.sets(st.sampled_from([WEB, API]))), max_size=8))
def test_every_living_old_worker_is_in_one_generation(steps: list[tuple[set[int], set[Target]]]) -> None:
    past: tuple[Generation, ...] = ()
    before: dict[Target, str] = {}
    for alive, served in steps:
        now = dict.fromkeys(served, "web")
        past = advance(past, RUN, frozenset(alive), before, now, {}, NOW)
        assert sorted(pid for g in past for pid in g.workers) == sorted(alive)
        before = now
