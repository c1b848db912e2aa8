"""Who is served where, and by which targets: what health, stopping, warming up and absence do to a place."""

from __future__ import annotations

import pytest

from proxyctl.model import Container, ContainerState, Owner, PublishedPort, Target
from proxyctl.plan import routes
from tests.unit.make import NOW, container, decide, places, refusals, serving, view

A = {"host": "a.example", "service": "web"}


def web(
    name: str = "web-1", address: str = "10.0.0.5", *, created: float = 100.0, state: ContainerState = "running", **more: str
) -> Container:
    return container(name, A | more, created=created, state=state, networks={"front": address})


OLD, NEW = web("web-1", created=100.0), web("web-2", "10.0.0.6", created=200.0)


# ---------------------------------------------------------------- which targets carry traffic


def test_containers_of_one_service_share_a_place_in_the_order_of_their_creation() -> None:
    (place,) = places(decide([NEW, OLD]).table).values()
    assert [(t.container, t.target) for t in place.serving] == [
        ("web-1", Target("id-web-1", "web-1@front", "10.0.0.5", 80)),
        ("web-2", Target("id-web-2", "web-2@front", "10.0.0.6", 80)),
    ]
    assert (place.service, place.route, place.path, place.fail_open) == ("web", "default", "/", False)


def test_weight_and_reason_are_those_of_each_target() -> None:
    (place,) = places(decide([OLD, web("web-2", weight="5")], {"web-2": "unhealthy"}).table).values()
    assert [(t.weight, t.state, t.reason) for t in place.targets] == [(1, "healthy", ""), (5, "unhealthy", "refused")]


@pytest.mark.parametrize(
    ("states", "stopping", "chosen", "fail_open"),
    [
        pytest.param({}, (), ["web-1", "web-2"], False, id="all healthy: all of them"),
        pytest.param({"web-1": "unhealthy"}, (), ["web-2"], False, id="an unhealthy one is left out"),
        pytest.param({"web-1": "unhealthy", "web-2": "unhealthy"}, (), ["web-1", "web-2"], True, id="none healthy: all alive"),
        pytest.param({"web-2": "warming"}, (), ["web-1"], False, id="one that warms up is left out"),
        pytest.param({"web-1": "unhealthy", "web-2": "warming"}, (), ["web-1"], True, id="warming is worse than unhealthy"),
        pytest.param({"web-2": None}, (), ["web-1"], False, id="one that was never checked is left out"),
        pytest.param({}, ("web-1",), ["web-2"], False, id="one that is told to stop leaves while another lives"),
        pytest.param({}, ("web-1", "web-2"), ["web-1", "web-2"], True, id="all are told to stop: they stay to the end"),
        pytest.param({"web-2": "warming"}, ("web-1",), ["web-1"], True, id="the last that served stays while the next warms up"),
        pytest.param({"web-2": "unhealthy"}, ("web-1",), ["web-2"], True, id="unhealthy is better than stopping"),
    ],
)  # fmt: skip
def test_traffic_goes_to(states: dict[str, str | None], stopping: tuple[str, ...], chosen: list[str], fail_open: bool) -> None:
    (place,) = places(decide([OLD, NEW], states, stopping=stopping, published=["a.example/"]).table).values()
    assert [t.container for t in place.serving] == chosen
    assert place.fail_open is fail_open
    assert [t.container for t in place.targets] == ["web-1", "web-2"]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("paused", "unhealthy"),
        ("exited", "down"),
        ("dead", "down"),
        ("restarting", "down"),
        ("removing", "down"),
        ("created", "down"),
    ],
)
def test_a_container_that_does_not_run_carries_nothing_while_another_does(state: ContainerState, expected: str) -> None:
    (place,) = places(decide([OLD, web("web-2", state=state, created=200.0)]).table).values()
    assert [t.container for t in place.serving] == ["web-1"]
    assert [t.state for t in place.targets] == ["healthy", expected]


def test_a_paused_container_is_better_than_none() -> None:
    (place,) = places(decide([web(state="paused")]).table).values()
    assert (len(place.serving), place.fail_open) == (1, True)


def test_when_all_is_dead_the_place_stays_and_has_nobody() -> None:
    assert serving(decide([web(state="exited")]).table) == {"a.example/": []}


def test_every_host_of_a_route_is_a_place_and_so_is_every_path() -> None:
    git = container("git", {"host": "a.example,b.example", "path": "/git"}, networks={"front": "10.0.0.7"})
    assert serving(decide([OLD, git]).table) == {"a.example/": ["web-1"], "a.example/git": ["git"], "b.example/git": ["git"]}


# ---------------------------------------------------------------- new places


@pytest.mark.parametrize("state", ["warming", None])
def test_a_new_place_is_held_back_while_its_first_target_warms_up(state: str | None) -> None:
    plan = decide([OLD], {"web-1": state}, since=NOW - routes.WARM_UP + 0.1)
    assert places(plan.table) == {}
    assert plan.holding
    assert serving(plan.ahead) == {"a.example/": ["web-1"]}


def test_a_new_place_that_takes_too_long_says_503_instead_of_404() -> None:
    plan = decide([OLD], {"web-1": "warming"}, since=NOW - routes.WARM_UP)
    assert serving(plan.table) == {"a.example/": []}
    assert not plan.holding


def test_a_place_that_was_served_is_never_held_back() -> None:
    plan = decide([OLD], {"web-1": "warming"}, since=NOW, published=["a.example/"])
    assert serving(plan.table) == {"a.example/": []}


def test_one_place_that_warms_up_holds_no_other_back() -> None:
    other = container("api", {"host": "b.example"}, networks={"front": "10.0.0.8"})
    plan = decide([OLD, other], {"web-1": "warming"}, since=NOW)
    assert serving(plan.table) == {"b.example/": ["api"]}
    assert serving(plan.ahead) == {"a.example/": ["web-1"], "b.example/": ["api"]}


def test_a_container_that_is_being_created_is_tested_ahead_and_not_routed() -> None:
    plan = decide([web(state="created")])
    assert places(plan.table) == {}
    assert serving(plan.ahead) == {"a.example/": ["web-1"]}
    assert plan.networks == {"front"}
    assert plan.probes == {}


@pytest.mark.parametrize(
    "more",
    [{}, {"network": "elsewhere"}, {"host": "x.example", "routes.b.host": "b.example", "routes.b.network": "elsewhere"}],
    ids=["in a network", "out of reach", "one route out of reach"],
)
def test_a_created_container_asks_for_no_other_decision(more: dict[str, str]) -> None:
    plan = decide([container("web-1", A | more, state="created")])
    assert (plan.holding, places(plan.table)) == (0, {})


def test_a_created_container_behind_a_published_port_asks_for_no_other_decision() -> None:
    port = PublishedPort(80, "0.0.0.0", 8080)
    created = container("web-1", A, state="created", networks={"private": ""}, mode="private", published=(port,))
    assert decide([created], nginx=view(networks={"edge": "172.18.0.1"}), join=False).holding == 0


@pytest.mark.parametrize("published", [(), ("a.example/",)], ids=["it never ran", "it was a site"])
def test_a_host_whose_container_was_removed_answers_503_only_when_it_was_a_site(published: tuple[str, ...]) -> None:
    owners = decide([web(state="created")]).owners
    plan = decide([], owners=owners, published=published)
    assert serving(plan.table) == {place: [] for place in published}
    assert plan.owners.keys() == owners.keys(), "it stays the project's for the grace"


def test_nothing_is_ahead_when_nothing_is_coming() -> None:
    plan = decide([OLD, NEW])
    assert plan.ahead is plan.table


# ---------------------------------------------------------------- what must be asked and joined


def test_every_route_of_every_living_target_is_probed_as_its_labels_say() -> None:
    two = container(
        "web-1", A | {"routes.x.host": "x.example", "routes.x.health.path": "/up", "scheme": "https"}, health="healthy"
    )
    plan = decide([two, web("web-2", state="exited")])
    assert [(p.route, p.check.type, p.check.path, p.scheme, p.docker_health) for p in plan.probes.values()] == [
        ("default", "tcp", "/", "https", "healthy"),
        ("x", "http", "/up", "https", "healthy"),
    ]
    assert {target for target, _ in plan.probes} == {Target("id-web-1", "web-1@front", "10.0.0.5", 80)}


def test_a_target_behind_a_published_port_is_checked_through_that_port() -> None:
    published = (PublishedPort(80, "0.0.0.0", 32768),)
    far = container("web-1", A, networks={"far": "10.7.0.5"}, published=published)
    (probe,) = decide([far], join=False).probes.values()
    assert (probe.target.port, probe.check.port) == (32768, 32768)


def test_nginx_must_be_in_the_networks_of_living_and_coming_targets_and_in_no_other() -> None:
    far = container("far", {"host": "f.example"}, networks={"far": "10.7.0.5"})
    gone = container("gone", {"host": "g.example"}, networks={"gone": ""}, state="exited")
    unlabelled = container("none", networks={"none": "10.8.0.5"})
    assert decide([OLD, far, gone, unlabelled]).networks == {"front", "far"}


def test_a_network_that_refuses_nginx_harms_only_its_own_containers() -> None:
    far = container("far", {"host": "f.example"}, networks={"far": "10.7.0.5"})
    both = container("both", {"host": "both.example"}, networks={"far": "10.1.0.9", "near": "10.2.0.9"})
    elsewhere = decide([both], unjoinable={"far": "it is full"})
    assert serving(elsewhere.table) == {"both.example/": ["both"]}
    assert elsewhere.networks == {"near"}
    plan = decide([OLD, far], unjoinable={"far": "it is full"})
    assert serving(plan.table) == {"a.example/": ["web-1"], "f.example/": []}
    (rejection,) = plan.rejections
    assert (rejection.container, rejection.reason, rejection.label) == ("far", "unreachable", "proxyctl.network")
    assert "it is full" in rejection.message
    assert plan.networks == {"front", "far"}, "it may not be full the next time"


def test_a_container_that_nginx_cannot_reach_is_told_why() -> None:
    plan = decide([OLD, container("lonely", {"host": "l.example"}, mode="none", networks={})])
    assert refusals(plan) == [("lonely", "unreachable")]
    assert serving(plan.table) == {"a.example/": ["web-1"], "l.example/": []}


def test_a_container_that_ends_and_has_left_its_network_already_is_told_nothing() -> None:
    ends = container("lonely", {"host": "l.example"}, networks={})
    assert refusals(decide([OLD, ends])) == [("lonely", "unreachable")]
    assert refusals(decide([OLD, ends], stopping=["lonely"])) == []


# ---------------------------------------------------------------- one way to speak to a place


@pytest.mark.parametrize("said", [{"scheme": "https"}, {"strip-path": "true"}], ids=["scheme", "strip-path"])
def test_the_oldest_container_says_how_a_place_is_spoken_to(said: dict[str, str]) -> None:
    plan = decide([container("web-2", A | said, created=200.0), OLD])
    assert serving(plan.table) == {"a.example/": ["web-1"]}
    (rejection,) = plan.rejections
    assert (rejection.container, rejection.reason) == ("web-2", "conflict")
    assert "web-1 serves a.example " in rejection.message


def test_what_the_oldest_container_says_is_what_is_rendered() -> None:
    oldest = container("web-1", A | {"scheme": "https", "strip-path": "true"})
    (place,) = places(decide([NEW, oldest]).table).values()
    assert (place.scheme, place.strip_path, [t.container for t in place.serving]) == ("https", True, ["web-1"])


def test_a_dead_container_does_not_say_how_a_place_is_spoken_to() -> None:
    plan = decide([web(state="exited"), web("web-2", created=200.0, scheme="https")])
    (place,) = places(plan.table).values()
    assert (place.scheme, [t.container for t in place.serving]) == ("https", ["web-2"])
    assert plan.rejections == ()


def test_mistakes_of_containers_that_are_gone_are_not_told_any_more() -> None:
    assert decide([web(state="exited", prot="80")]).rejections == ()
    assert refusals(decide([web(prot="80")])) == [("web-1", "unknown-label")]


def test_owners_are_remembered_by_place() -> None:
    assert decide([OLD]).owners == {place: Owner("web") for place in ("a.example", "a.example/")}
