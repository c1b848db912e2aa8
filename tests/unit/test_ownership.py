"""Who owns a host and path, whoever asks for it, in whatever order; and that one container harms only itself."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyctl.model import Container, ContainerState, Neighbours, Owner, Plan, ProbeResult, ProbeState, PublishedPort, Snapshot
from proxyctl.plan import ownership, planner, routes
from tests.unit import hostile, make
from tests.unit.make import NOW, container, decide, places, refusals, serving


def asks(name: str, *, created: float, state: ContainerState = "running", **more: str) -> Container:
    return container(name, {"host": "a.example"} | more, created=created, state=state, networks={"front": f"10.0.1.{len(name)}"})


SITE = ["a.example/"]
"""What nginx serves already."""
FIRST, SECOND = asks("first", created=100.0), asks("second", created=200.0)


def owned_by(service: str, lost_unix: float = 0.0) -> dict[str, Owner]:
    """The host and its only place."""
    return {"a.example": Owner(service, "", lost_unix), **place_of(service, lost_unix)}


def place_of(service: str, lost_unix: float = 0.0) -> dict[str, Owner]:
    return {"a.example/": Owner(service, "", lost_unix)}


def test_among_newcomers_the_container_that_was_created_first_wins() -> None:
    plan = decide([SECOND, FIRST])
    assert serving(plan.table) == {"a.example/": ["first"]}
    assert plan.owners == owned_by("first")


def test_newcomers_of_one_moment_are_told_apart_by_id() -> None:
    assert serving(decide([asks("b", created=1.0), asks("a", created=1.0)]).table) == {"a.example/": ["a"]}


def test_the_incumbent_keeps_its_place_against_an_older_container() -> None:
    assert serving(decide([FIRST, SECOND], owners=owned_by("second")).table) == {"a.example/": ["second"]}


def test_an_incumbent_that_is_ill_keeps_its_place() -> None:
    plan = decide([FIRST, SECOND], {"second": "unhealthy"}, owners=owned_by("second"))
    assert serving(plan.table) == {"a.example/": ["second"]}


def test_the_challenger_is_told_whose_place_it_is_once_for_each_route() -> None:
    two = asks("first", created=100.0, host="a.example,d.example")
    plan = decide([two, asks("second", created=200.0, host="a.example,d.example,z.example")], owners=owned_by("first"))
    (rejection,) = plan.rejections
    assert (rejection.container, rejection.reason, rejection.label) == ("second", "host-taken", "proxyctl.host")
    assert rejection.message == "a.example belongs to the service first"
    assert serving(plan.table) == {"a.example/": ["first"], "d.example/": ["first"], "z.example/": ["second"]}


def test_a_challenger_that_does_not_run_is_not_told_anything() -> None:
    assert decide([FIRST, asks("second", created=200.0, state="exited")], owners=owned_by("first")).rejections == ()


def test_a_rejection_of_a_named_route_names_its_label() -> None:
    challenger = container("second", {"routes.x.host": "a.example"}, created=200.0)
    (rejection,) = decide([FIRST, challenger]).rejections
    assert (rejection.route, rejection.label) == ("x", "proxyctl.routes.x.host")


def test_another_path_of_a_host_is_another_place() -> None:
    plan = decide([FIRST, asks("second", created=200.0, path="/git")], owners=owned_by("first"))
    assert serving(plan.table) == {"a.example/": ["first"], "a.example/git": ["second"]}
    assert plan.rejections == ()


# ---------------------------------------------------------------- absence


@pytest.mark.parametrize("state", ["created", "restarting", "paused"])
def test_an_incumbent_that_is_only_restarting_keeps_its_place(state: ContainerState) -> None:
    plan = decide([asks("first", created=100.0, state=state), SECOND], owners=owned_by("first"))
    assert plan.owners == owned_by("first")
    assert refusals(plan) == [("second", "host-taken")]


def test_an_exited_incumbent_keeps_its_place_for_a_grace() -> None:
    exited = asks("first", created=100.0, state="exited")
    plan = decide([exited, SECOND], owners=owned_by("first"))
    assert plan.owners.items() >= place_of("first", NOW).items()
    assert serving(plan.table) == {"a.example/": []}
    later = decide([exited, SECOND], owners=plan.owners, now=NOW + ownership.EXITED_GRACE - 0.1)
    assert later.owners.items() >= place_of("first", NOW).items()


def test_an_exited_incumbent_loses_its_place_to_a_challenger_after_the_grace() -> None:
    exited = asks("first", created=100.0, state="exited")
    plan = decide([exited, SECOND], owners=owned_by("first", NOW - ownership.EXITED_GRACE))
    assert serving(plan.table) == {"a.example/": ["second"]}
    assert plan.owners.items() >= place_of("second").items()


def test_an_exited_incumbent_that_nobody_challenges_keeps_its_place() -> None:
    plan = decide([asks("first", created=100.0, state="exited")], owners=owned_by("first", NOW - 1e6))
    assert serving(plan.table) == {"a.example/": []}
    assert plan.owners == owned_by("first", NOW - 1e6)


def test_an_incumbent_that_came_back_has_its_whole_grace_again() -> None:
    assert decide([FIRST], owners=owned_by("first", NOW - 5)).owners == owned_by("first")


def test_the_place_of_a_removed_container_says_503_for_a_while_and_then_is_unknown() -> None:
    plan = decide([], owners=owned_by("first"), published=SITE)
    assert serving(plan.table) == {"a.example/": []}
    assert plan.owners == owned_by("first", NOW)
    last = decide([], owners=plan.owners, published=SITE, now=NOW + ownership.GONE_GRACE - 0.1)
    assert serving(last.table) == {"a.example/": []}
    after = decide([], owners=plan.owners, published=SITE, now=NOW + ownership.GONE_GRACE)
    assert places(after.table) == {}
    assert after.owners == {}


def test_the_place_of_a_removed_container_is_free_for_the_next_at_once() -> None:
    plan = decide([SECOND], owners=owned_by("first"))
    assert serving(plan.table) == {"a.example/": ["second"]}


def test_another_project_does_not_get_the_host_of_a_removed_container_while_it_is_remembered() -> None:
    stranger = container("stranger", {"host": "a.example"}, created=2.0, networks={"front": "10.0.0.2"}, compose="other/web")
    plan = decide([stranger], owners=owned_by("first"), published=SITE)
    assert serving(plan.table) == {"a.example/": []}
    ((told, reason),) = [(r.container, r.reason) for r in plan.rejections]
    assert (told, reason) == ("stranger", "host-taken")
    last = decide([stranger], owners=plan.owners, published=SITE, now=NOW + ownership.GONE_GRACE - 0.1)
    assert serving(last.table) == {"a.example/": []}
    after = decide([stranger], owners=last.owners, published=SITE, now=NOW + ownership.GONE_GRACE)
    assert serving(after.table) == {"a.example/": ["stranger"]}


def test_a_path_that_is_remembered_keeps_its_path() -> None:
    plan = decide([], owners={"a.example/git/x": Owner("first")}, published=["a.example/git/x"])
    assert list(places(plan.table)) == ["a.example/git/x"]


# ---------------------------------------------------------------- any order, any neighbour

states: st.SearchStrategy[ContainerState] = st.sampled_from(
    ["running", "running", "exited", "created", "paused", "restarting", "dead"]
)
standing = st.sampled_from(["healthy", "unhealthy", "warming", None])
few = st.fixed_dictionaries(
    {"host": st.sampled_from(["a.example", "b.example", "a.example,b.example"])},
    optional={
        "path": st.sampled_from(["/", "/git"]),
        "service": st.sampled_from(["web", "api"]),
        "scheme": st.sampled_from(["http", "https"]),
        "port": st.sampled_from(["80", "no"]),
    },
)


@st.composite
def crowds(draw: st.DrawFn) -> list[Container]:
    return [
        container(
            f"c{n}", draw(few), created=draw(st.sampled_from([1.0, 2.0])), state=draw(states), networks={"front": f"10.0.0.{n}"}
        )
        for n in range(draw(st.integers(1, 6)))
    ]


owners = st.dictionaries(
    st.sampled_from(["a.example/", "b.example/", "a.example/git", "gone.example/"]),
    st.builds(Owner, st.sampled_from(["web", "api", "c0", "gone"]), st.sampled_from([0.0, NOW - 5, NOW - 1e6])),
)


@given(
    crowd=crowds(),
    known=owners,
    health=st.dictionaries(st.sampled_from(["c0", "c1", "c2", "c3"]), standing),
    order=st.randoms(),
)
def test_the_same_containers_in_any_order_give_the_same_plan(
    crowd: list[Container], known: dict[str, Owner], health: dict[str, str | None], order: Random
) -> None:
    shuffled = list(crowd)
    order.shuffle(shuffled)
    assert decide(shuffled, health, owners=known) == decide(crowd, health, owners=known)


@given(crowd=crowds(), known=owners, health=st.dictionaries(st.sampled_from(["c0", "c1", "c2", "c3"]), standing))
def test_deciding_again_on_what_was_decided_changes_nothing(
    crowd: list[Container], known: dict[str, Owner], health: dict[str, str | None]
) -> None:
    first = decide(crowd, health, owners=known)
    assert decide(crowd, health, owners=first.owners).table == first.table


@given(crowd=crowds(), known=owners, health=st.dictionaries(st.sampled_from(["c0", "c1", "c2", "c3"]), standing))
def test_a_place_that_was_served_has_a_target_while_a_living_one_of_its_service_has_ever_been_healthy(
    crowd: list[Container], known: dict[str, Owner], health: dict[str, str | None]
) -> None:
    table = decide(crowd, health, owners=known, published=["a.example/", "b.example/", "a.example/git"]).table
    for place in places(table).values():
        assert place.serving or all(t.state in ("warming", "down") for t in place.targets)
        assert not any(t.serving for t in place.targets if t.state in ("warming", "down"))
        assert {t.service for t in place.targets} <= {place.service}


GOOD = (
    container("web-1", {"host": "a.example", "service": "shop"}, created=50.0, networks={"front": "10.0.0.1"}),
    container("web-2", {"host": "a.example", "service": "shop"}, created=51.0, networks={"front": "10.0.0.2"}),
    container("git-1", {"host": "c.example", "path": "/a/b", "service": "git"}, created=52.0, networks={"back": "10.1.0.1"}),
)


@st.composite
def strangers(draw: st.DrawFn) -> Container:
    """A container of a service of its own. One of the same service is a replica, and shares the traffic."""
    said = draw(hostile.labels | hostile.plausible)
    return container(
        draw(st.sampled_from(["bad", "c", "zz", "web", "\n", "${x}"])),
        said if said.get("service", "").strip() not in ("shop", "git") else said | {"service": "bad"},
        created=draw(st.sampled_from([0.0, 60.0, 1e12])),
        state=draw(states),
        networks=draw(
            st.sampled_from([{}, {"front": "10.0.0.1"}, {"front": ""}, {"evil": "169.254.169.254"}, {"back": "10.1.0.9"}])
        ),
        mode=draw(st.sampled_from(["front", "host", "none", "container:id-web-1", "container:nobody", "container:"])),
        exposed=draw(st.sampled_from([(), (80,), (1, 2, 3)])),
        compose=draw(st.sampled_from(["", "shop/web", "$(x)/;"])),
    )


def part(plan: Plan, names: set[str]) -> object:
    """What a plan says of these containers."""
    return (
        {key: place for key, place in places(plan.table).items() if {t.container for t in place.targets} & names},
        [rejection for rejection in plan.rejections if rejection.container in names],
        {key: probe for key, probe in plan.probes.items() if key[0].container_id.removeprefix("id-") in names},
        {key: owner for key, owner in plan.owners.items() if owner.service in ("shop", "git")},
    )


@given(
    stranger=strangers(),
    health=st.dictionaries(st.sampled_from(["web-1", "web-2", "git-1", "bad"]), standing),
    stopping=st.lists(st.sampled_from(["web-1", "bad"])),
    published=st.sampled_from([(), ("a.example/", "c.example/a/b")]),
)
def test_one_more_container_harms_only_itself(
    stranger: Container, health: dict[str, str | None], stopping: list[str], published: tuple[str, ...]
) -> None:
    known = {place: Owner("shop") for place in ("a.example", "a.example/")} | {
        place: Owner("git") for place in ("c.example", "c.example/a/b")
    }
    without = decide(GOOD, health, owners=known, stopping=stopping, published=published)
    with_it = decide([stranger, *GOOD], health, owners=known, stopping=stopping, published=published)
    names = {c.name for c in GOOD}
    assert part(with_it, names) == part(without, names)
    assert with_it.networks >= without.networks


def test_a_container_that_asks_for_everything_gets_what_is_free_and_the_rest_is_told() -> None:
    greedy = make.container("greedy", {"host": "a.example,*.a.example,z.example"}, created=1.0, networks={"front": "10.0.0.9"})
    plan = decide([greedy, FIRST], owners=owned_by("first"))
    assert serving(plan.table) == {"*.a.example/": ["greedy"], "a.example/": ["first"], "z.example/": ["greedy"]}
    assert refusals(plan) == [("greedy", "host-taken")]


# ---------------------------------------------------------------- a planner that remembers

shares = st.dictionaries(st.sampled_from(["", "v1", "v2"]), st.sampled_from([5, 50, 95]), min_size=1, max_size=2)
versions = st.sampled_from([{}, {}, {"version": "v1"}, {"version": "v2", "service": "web"}])
events = st.one_of(
    st.tuples(
        st.just("put"),
        st.integers(0, 5),
        st.builds(dict.__or__, few, versions),
        states,
        st.sampled_from(["", "shop/web", "other/web"]),
    ),
    st.tuples(st.just("remove"), st.integers(0, 5)),
    st.tuples(st.just("health"), st.integers(0, 5), standing),
    st.tuples(st.just("stopping"), st.sets(st.integers(0, 5), max_size=2)),
    st.tuples(st.just("later"), st.sampled_from([0.5, 4.0, 11.0, 400.0])),
    st.tuples(st.just("published")),
    st.tuples(st.just("other owners"), owners),
    st.tuples(st.just("shares"), st.dictionaries(st.sampled_from(["web", "shop.web"]), shares, max_size=2)),
    st.tuples(st.just("maintenance"), st.frozensets(st.sampled_from(["web", "shop.web", "c1"]), max_size=2)),
)


def versions_of(one: planner.Planner, inputs: routes.Inputs) -> dict[str, tuple[bool, list[str]]]:
    services = ("web", "shop.web", "api", *(container.name for container in inputs.snapshot.containers.values()))
    return {name: (one.is_versioned(name), sorted(map(str, one.replicas(inputs, name)))) for name in services}


@given(happened=st.lists(events, max_size=12))
def test_a_planner_that_remembers_decides_as_one_that_does_not(happened: list[tuple[Any, ...]]) -> None:
    """Whatever happens between two decisions. What both are given is the same; so must be what they say."""
    remembering = planner.Planner()
    here: dict[str, Container] = {}
    results: dict[str, ProbeResult] = {}
    owned: Mapping[str, Owner] = {}
    stopping: frozenset[str] = frozenset()
    published: frozenset[str] = frozenset()
    carrying: Mapping[str, Mapping[str, int]] = {}
    closed: frozenset[str] = frozenset()
    now = NOW
    plan: Plan | None = None
    for event in happened:
        match event:
            case ("put", number, said, state, compose):
                made = container(
                    f"c{number}",
                    said,
                    created=1.0 + number % 2,
                    state=state,
                    networks={"front": f"10.0.0.{number}"},
                    compose=compose,
                )
                here = here | {made.id: made}
            case ("remove", number):
                here = {key: one for key, one in here.items() if key != f"id-c{number}"}
            case ("health", number, state):
                results = {key: value for key, value in results.items() if key != f"id-c{number}"}
                if state:
                    results[f"id-c{number}"] = ProbeResult(state, "", now - 1)
            case ("stopping", numbers):
                stopping = frozenset(f"id-c{number}" for number in numbers)
            case ("later", seconds):
                now += seconds
            case ("published",) if plan:
                published = frozenset(places(plan.table))
            case ("other owners", others):
                owned = others
            case ("shares", others):
                carrying = others
            case ("maintenance", services):
                closed = services
        keys = list(plan.probes) if plan else []
        judged = {key: results[key[0].container_id] for key in keys if key[0].container_id in results}
        inputs = replace(
            make.inputs(Snapshot(here, stopping), judged),
            owners=owned,
            published=published,
            now_unix=now,
            shares=carrying,
            maintenance=closed,
        )
        plan = remembering.plan(inputs)
        anew = planner.Planner()
        assert plan == anew.plan(inputs)
        assert versions_of(remembering, inputs) == versions_of(anew, inputs)
        owned = plan.owners


def test_what_has_another_standing_than_before_is_decided_anew() -> None:
    """Of two replicas and a stranger, each in each state, one after the other."""
    boxes = [*GOOD[:2], container("other", {"host": "o.example"}, networks={"front": "10.0.0.9"})]
    inputs = make.inputs(make.snapshot(boxes), {})
    keys = list(planner.plan(inputs).probes)
    known: tuple[ProbeState | None, ...] = (None, "healthy", "unhealthy")
    states = [
        {key: ProbeResult(state, "", NOW - 60) for key, state in zip(keys, each, strict=True) if state}
        for each in itertools.product(known, repeat=len(keys))
    ]
    for before, after in itertools.product(states, states):
        remembering = planner.Planner()
        owners = remembering.plan(replace(inputs, standing=before)).owners
        now = replace(inputs, standing=after, owners=owners)
        assert remembering.plan(now) == planner.plan(now), (before, after)


WHEREVER: dict[str, dict[str, Any]] = {
    "in one network": {"networks": {"front": "10.0.0.2"}},
    "in two": {"networks": {"back": "10.1.0.2", "front": "10.0.0.2"}},
    "in two, told in another order": {"networks": {"front": "10.0.0.2", "back": "10.1.0.2"}},
    "in two, of which the labels name one": {"networks": {"back": "10.1.0.2", "front": "10.0.0.2"}, "said": {"network": "front"}},
    "by a published port": {"networks": {"own": "10.2.0.2"}, "published": (PublishedPort(80, "", 8080),)},
    "in the host's network": {"networks": {"host": ""}, "mode": "host"},
    "in another one's network": {"networks": {}, "mode": "container:id-first"},
    "nowhere": {"networks": {}},
}
NETWORKS = [{}, {"front": "10.0.0.1"}, {"back": "10.1.0.1"}, {"back": "10.1.0.1", "front": "10.0.0.1"}]


@pytest.mark.parametrize("join", [True, False])
@pytest.mark.parametrize("where", WHEREVER)
def test_when_nginx_is_put_into_networks_and_out_of_them_the_rest_is_as_it_would_be(where: str, join: bool) -> None:
    more = dict(WHEREVER[where])
    box = container("web", {"host": "b.example"} | more.pop("said", {}), **more)
    for before, after in itertools.product(NETWORKS, NETWORKS):
        inputs = replace(make.inputs(make.snapshot([FIRST, box]), {}), nginx=make.view(networks=before), join=join)
        remembering = planner.Planner()
        remembering.needs(inputs)
        remembering.plan(inputs)
        inputs = replace(inputs, nginx=make.view(networks=after))
        assert remembering.plan(inputs) == planner.plan(inputs), (before, after)


def test_nginx_and_who_lives_in_its_network_are_never_targets_whichever_container_it_is() -> None:
    """Also where nginx is known by its name alone, and another container becomes it."""
    one, two = (container(name, {"host": f"{name}.example"}, networks={"front": "10.0.0.2"}) for name in ("one", "two"))
    within = container("within", {"host": "within.example"}, networks={}, mode="container:one")
    inputs = make.inputs(make.snapshot([FIRST, one, two, within]), {})
    remembering = planner.Planner()
    for nginx, refused in (("one", {"one", "within"}), ("two", {"two"}), ("", set()), ("one", {"one", "within"})):
        now = replace(inputs, nginx=make.view(container=nginx and f"id-{nginx}"))
        plan = remembering.plan(now)
        assert plan == planner.plan(now)
        assert {name for name, reason in refusals(plan) if reason == "unreachable"} == refused
        assert {key[0].container_id for key in plan.probes} == {
            f"id-{name}" for name in {"first", "one", "two", "within"} - refused
        }


def test_who_lives_in_the_network_of_a_container_with_the_label_of_nginx_is_no_target() -> None:
    edge = container("edge", networks={"front": "10.0.0.2"}, labels={"proxyctl.nginx": "true"})
    within = container("within", {"host": "within.example"}, networks={}, mode="container:edge")
    assert refusals(decide([FIRST, edge, within])) == [("within", "unreachable")]


def test_what_was_to_come_is_the_same_object_when_it_has_come() -> None:
    """So it is not rendered and kept twice."""
    box = container("web", {"host": "a.example"}, networks={"front": "10.0.0.2"})
    inputs = make.inputs(make.snapshot([box]), {})
    remembering = planner.Planner()
    coming = remembering.plan(inputs)
    assert coming.table.vhosts == ()
    come = remembering.plan(replace(inputs, standing=dict.fromkeys(coming.probes, ProbeResult("healthy", "", 0.0))))
    assert come.table is coming.ahead
    assert come.ahead is come.table


def test_a_host_that_a_hand_written_vhost_has_is_nobodys_and_everybody_is_told_the_file() -> None:
    by_hand = make.view(neighbours=Neighbours(hosts={"a.example": "/etc/nginx/conf.d/own.conf"}))
    both = container("both", {"host": "a.example,b.example"}, networks={"front": "10.0.1.9"})
    plan = decide([FIRST, both], owners=owned_by("first"), nginx=by_hand)
    assert serving(plan.table) == {"b.example/": ["both"]}
    assert refusals(plan) == [("both", "host-taken"), ("first", "host-taken")]
    assert all("own.conf" in rejection.message and "own.conf" in rejection.hint for rejection in plan.rejections)
    assert "a.example" not in plan.owners
