"""Labels that are not there, limits, and labels that are anything at all."""

from __future__ import annotations

import re

import pytest
from hypothesis import given

from proxyctl.model import Container, RouteSpec
from proxyctl.plan import labels
from tests.unit import hostile, make
from tests.unit.labelled import only_rejection, only_route, parse

# ---------------------------------------------------------------- defaults


@pytest.mark.parametrize(
    ("exposed", "port"),
    [((3000,), 3000), ((443, 80), 80), ((80,), 80)],
    ids=["the only one", "80 of several", "80 alone"],
)
def test_without_a_port_it_is_the_only_exposed_one_else_80(exposed: tuple[int, ...], port: int) -> None:
    assert only_route({"host": "a.example"}, exposed=exposed).port == port


@pytest.mark.parametrize(("exposed", "words"), [((3000, 9000), "3000, 9000"), ((), "no port")], ids=["several", "none"])
def test_without_a_port_that_is_clear_the_owner_sees_the_choice(exposed: tuple[int, ...], words: str) -> None:
    rejection = only_rejection({"host": "a.example"}, exposed=exposed)
    assert (rejection.reason, rejection.label) == ("no-port", "proxyctl.port")
    assert words in rejection.message


def service(container: Container) -> str:
    found = labels.parse(container, make.defaults()).spec
    assert found is not None
    return found.service


HOST = {"host": "a.example"}


def test_the_service_is_the_label_else_that_of_compose_else_the_container() -> None:
    assert service(make.container("web-1", HOST | {"service": "own"}, compose="shop/web")) == "own"
    assert service(make.container("web-1", HOST, compose="shop/web")) == "shop.web"
    assert service(make.container("web-1", HOST)) == "web-1"


@pytest.mark.parametrize("project", ["$(x)", "a b", "a" * 200], ids=["signs", "a space", "too long"])
def test_a_compose_project_that_is_no_name_falls_back_to_the_id(project: str) -> None:
    assert service(make.container("web-1", HOST, compose=f"{project}/web")) == "id-web-1"


@pytest.mark.parametrize(
    ("said", "has_healthcheck", "kind"),
    [
        pytest.param({}, False, "tcp", id="nothing: TCP"),
        pytest.param({}, True, "docker", id="a HEALTHCHECK in the image: Docker's word"),
        pytest.param({"health.path": "/up"}, True, "http", id="a path: HTTP"),
        pytest.param({"health.path": "/up", "health.type": "tcp"}, True, "tcp", id="the label wins"),
        pytest.param({"health.type": "none"}, True, "none", id="none"),
    ],
)
def test_how_health_is_found_when_it_is_not_said(said: dict[str, str], has_healthcheck: bool, kind: str) -> None:
    assert only_route(HOST | said, has_healthcheck=has_healthcheck).health.type == kind


def test_dockers_word_cannot_be_asked_of_an_image_that_has_no_healthcheck() -> None:
    rejection = only_rejection(HOST | {"health.type": "docker"})
    assert (rejection.reason, rejection.label) == ("bad-value", "proxyctl.health.type")


def test_the_health_check_goes_to_the_first_host_and_the_routes_port() -> None:
    health = only_route({"host": "*.b.example,a.example", "port": "81", "health.path": "/up"}).health
    assert (health.host, health.port) == ("b.example", 81)


def test_a_default_host_names_whoever_sets_none() -> None:
    said = make.defaults(default_host="{service}.home.example")
    found = labels.parse(make.container("Web_1", {"port": "80"}), said).spec
    assert found is not None
    assert found.routes[0].hosts == ("web_1.home.example",)


def test_a_service_that_makes_no_host_name_is_told_so() -> None:
    said = make.defaults(default_host="{service}.home.example")
    (rejection,) = labels.parse(make.container("web-", {"port": "80"}), said).rejections
    assert (rejection.reason, rejection.label) == ("no-host", "proxyctl.host")


def test_configured_defaults_stand_in_for_labels() -> None:
    said = labels.Defaults("proxyctl", "", "back", interval=1.0, timeout=0.5, rise=4, fall=5)
    found = labels.parse(make.container("web-1", HOST), said).spec
    assert found is not None
    (route,) = found.routes
    health = route.health
    assert (route.network, health.interval, health.timeout, health.rise, health.fall) == ("back", 1.0, 0.5, 4, 5)


# ---------------------------------------------------------------- limits


def test_so_many_routes_of_one_container_are_served_and_no_more() -> None:
    found = parse({f"routes.r{n:02}.host": f"h{n}.example" for n in range(labels.MAX_ROUTES + 1)})
    assert found.spec is not None
    assert len(found.spec.routes) == labels.MAX_ROUTES
    assert [r.reason for r in found.rejections] == ["limit"]


def test_so_many_hosts_of_one_route_are_served_or_none() -> None:
    names = [f"h{n}.example" for n in range(labels.MAX_HOSTS + 1)]
    assert len(only_route({"host": ",".join(names[:-1])}).hosts) == labels.MAX_HOSTS
    rejection = only_rejection({"host": ",".join(names)})
    assert (rejection.reason, rejection.label) == ("limit", "proxyctl.host")


# ---------------------------------------------------------------- anything at all

NAME = re.compile(r"(\*\.)?[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", re.ASCII)


def assert_in_the_grammar(route: RouteSpec) -> None:
    assert re.fullmatch(r"[a-z0-9-]{1,32}", route.name)
    assert 0 < len(route.hosts) <= labels.MAX_HOSTS
    assert all(NAME.fullmatch(host) and len(host) <= 255 for host in (*route.hosts, route.health.host))
    assert re.fullmatch(r"(/[A-Za-z0-9._~+@:=-]+)+|/", route.path)
    assert route.strip_path in (True, False)
    assert 0 < route.port < 65536
    assert 0 < route.health.port < 65536
    assert route.scheme in labels.SCHEMES
    assert re.fullmatch(r"[A-Za-z0-9_.-]{0,128}", route.network)
    assert 0 < route.weight <= 1000
    assert route.health.type in labels.HEALTH_TYPES
    assert re.fullmatch(r"/[\x21-\x7e]*", route.health.path)
    assert 0.1 <= route.health.interval <= 3600
    assert 0.01 <= route.health.timeout <= 300


@given(said=hostile.labels | hostile.plausible)
def test_any_labels_become_values_of_the_grammar_or_printable_rejections_and_never_an_exception(said: dict[str, str]) -> None:
    found = parse(said)
    if found.spec is not None:
        assert found.spec.routes
        assert re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", found.spec.service)
        for route in found.spec.routes:
            assert_in_the_grammar(route)
    for rejection in found.rejections:
        text = f"{rejection.label}{rejection.message}{rejection.hint}{rejection.route}"
        assert text.isascii()
        assert text.isprintable()
        assert len(text) < 2000


@given(name=hostile.values)
def test_names_of_containers_and_compose_projects_are_as_hostile_as_labels(name: str) -> None:
    found = labels.parse(make.container(name, HOST, compose=f"{name}/web"), make.defaults())
    assert found.spec is not None
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", found.spec.service) or found.spec.service == f"id-{name}"[:12]


@given(said=hostile.labels)
def test_the_order_in_which_the_engine_lists_labels_changes_nothing(said: dict[str, str]) -> None:
    assert parse(dict(reversed(said.items()))) == parse(said)


@given(said=hostile.labels)
def test_a_label_that_is_not_understood_never_leaves_a_route_that_it_may_have_protected(said: dict[str, str]) -> None:
    found = parse(said)
    rejected = {rejection.route for rejection in found.rejections if rejection.reason in ("unknown-label", "bad-value")}
    served = {route.name for route in found.spec.routes} if found.spec else set()
    assert not served & rejected
    assert not (served and "default" in rejected)


@pytest.mark.parametrize("scheme", ["grpc", "grpcs"])
def test_a_prefix_cannot_be_stripped_from_grpc(scheme: str) -> None:
    parsed = labels.parse(
        make.container("web", {"host": "a.example", "path": "/x", "strip-path": "yes", "scheme": scheme}), make.defaults()
    )
    assert parsed.spec is None
    assert [(r.reason, r.label) for r in parsed.rejections] == [("bad-value", "proxyctl.strip-path")]
