"""Labels -> specs and rejections: every key, what stands in for a key that is not there, and whom a mistake harms."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given

from proxyctl.model import Container, HealthCheck, Rejection, RouteSpec
from proxyctl.plan import labels
from tests.unit import hostile, make

BOTH = labels.ROUTE_KEYS.keys() | labels.TARGET_KEYS.keys()


def parse(said: Mapping[str, str], /, **container: object) -> labels.Parsed:
    return labels.parse(make.container("web-1", said, **container), make.defaults())  # type: ignore[arg-type]


def only_route(said: Mapping[str, str], /, **container: object) -> RouteSpec:
    found = parse(said, **container)
    assert found.rejections == ()
    assert found.spec is not None
    (route,) = found.spec.routes
    return route


def only_rejection(said: Mapping[str, str], /, **container: object) -> Rejection:
    (rejection,) = parse(said, **container).rejections
    return rejection


# ---------------------------------------------------------------- keys


def test_a_host_alone_is_enough() -> None:
    check = HealthCheck("tcp", "/", 80, "a.example", 5.0, 2.0, 2, 2, ((200, 399),))
    assert only_route({"host": "a.example"}) == RouteSpec("default", ("a.example",), "/", False, 80, "http", "", 1, check)


KEYS: dict[str, tuple[str, Callable[[RouteSpec], object], object, str]] = {
    "host": ("A.example,*.b.example", lambda r: r.hosts, ("a.example", "*.b.example"), "a b"),
    "path": ("/git/", lambda r: r.path, "/git", "git"),
    "strip-path": ("yes", lambda r: r.strip_path, True, "perhaps"),
    "port": ("8080", lambda r: r.port, 8080, "65536"),
    "scheme": ("GRPCS", lambda r: r.scheme, "grpcs", "ftp"),
    "network": ("back", lambda r: r.network, "back", "a b"),
    "weight": ("1000", lambda r: r.weight, 1000, "0"),
    "health.type": ("none", lambda r: r.health.type, "none", "ping"),
    "health.path": ("/up?x", lambda r: r.health.path, "/up?x", "up"),
    "health.port": ("81", lambda r: r.health.port, 81, "0"),
    "health.host": ("h.example", lambda r: r.health.host, "h.example", "h:80"),
    "health.interval": ("500ms", lambda r: r.health.interval, 0.5, "0s"),
    "health.timeout": ("1m", lambda r: r.health.timeout, 60.0, "0ms"),
    "health.rise": ("100", lambda r: r.health.rise, 100, "0"),
    "health.fall": ("1", lambda r: r.health.fall, 1, "101"),
    "health.status": ("204,301-302", lambda r: r.health.status, ((204, 204), (301, 302)), "ok"),
}


"""A good text, where it is heard, what it means, and a bad text."""


def test_every_key_of_a_route_is_tried_here() -> None:
    assert KEYS.keys() == BOTH
    assert hostile.GOOD.keys() == BOTH | labels.CONTAINER_KEYS.keys()


@pytest.mark.parametrize("key", KEYS)
def test_a_good_label_is_heard(key: str) -> None:
    text, read, value, _ = KEYS[key]
    assert read(only_route({"host": "a.example", key: text})) == value


@pytest.mark.parametrize("key", KEYS)
def test_a_bad_label_is_a_rejection_that_names_it_and_says_what_to_write(key: str) -> None:
    found = parse({"host": "a.example", key: KEYS[key][3]})
    assert found.spec is None
    (rejection,) = found.rejections
    assert (rejection.reason, rejection.label, rejection.route) == ("bad-value", f"proxyctl.{key}", "default")
    assert (rejection.container_id, rejection.container) == ("id-web-1", "web-1")
    assert rejection.message
    assert rejection.hint


def test_several_mistakes_are_all_told_at_once() -> None:
    found = parse({"host": "a b", "port": "x", "weigth": "1"})
    assert [r.label for r in found.rejections] == ["proxyctl.host", "proxyctl.port", "proxyctl.weigth"]


@pytest.mark.parametrize("text", ["false", "OFF", "0"])
def test_a_container_that_says_enable_false_asks_for_nothing(text: str) -> None:
    assert parse({"host": "a.example", "enable": text, "prot": "80"}) == labels.Parsed(None, ())


def test_enable_needs_a_boolean() -> None:
    assert only_rejection({"host": "a.example", "enable": "maybe"}).label == "proxyctl.enable"


@pytest.mark.parametrize(
    "found",
    [{}, {"com.example.host": "a.example"}, {"proxyctl": "x"}, {"proxyctlhost": "a.example"}],
    ids=["none", "foreign", "bare", "near"],
)
def test_a_container_without_our_labels_asks_for_nothing(found: Mapping[str, str]) -> None:
    assert labels.parse(make.container(labels=found), make.defaults()) == labels.Parsed(None, ())


def test_another_prefix_is_another_language() -> None:
    container = make.container(labels={"edge.host": "a.example", "edge.prot": "80", "proxyctl.host": "b.example"})
    found = labels.parse(container, make.defaults(prefix="edge"))
    (rejection,) = found.rejections
    assert (rejection.label, rejection.hint) == ("edge.prot", "did you mean edge.port?")


@pytest.mark.parametrize("mark", ["nginx", "nginx.settings"])
def test_our_own_nginx_is_never_a_target(mark: str) -> None:
    assert parse({mark: "true", "host": "a.example"}) == labels.Parsed(None, ())


# ---------------------------------------------------------------- what a mistake does


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("prot", "did you mean proxyctl.port?"),
        ("hosts", "did you mean proxyctl.host?"),
        ("strip_path", "did you mean proxyctl.strip-path?"),
        ("health.intervall", "did you mean proxyctl.health.interval?"),
        ("Host", "did you mean proxyctl.host?"),
        ("routs.x.host", "did you mean proxyctl.routes.NAME.host?"),
        ("qqqqqqqq", "see docs/labels.md"),
    ],
)
def test_a_typo_in_a_label_rejects_that_route_and_names_the_nearest_key(key: str, hint: str) -> None:
    found = parse({"host": "a.example", key: "1"})
    assert found.spec is None
    (rejection,) = found.rejections
    assert (rejection.reason, rejection.label, rejection.hint) == ("unknown-label", f"proxyctl.{key}", hint)


def test_a_typo_in_a_plain_label_may_have_been_meant_for_every_route_and_rejects_them_all() -> None:
    assert parse({"auht": "x", "host": "a.example", "routes.x.host": "b.example"}).spec is None


def test_a_typo_in_a_named_route_rejects_that_route_alone() -> None:
    found = parse({"host": "a.example", "routes.x.host": "b.example", "routes.x.prot": "1", "routes.y.host": "c.example"})
    assert found.spec is not None
    assert [route.name for route in found.spec.routes] == ["default", "y"]
    (rejection,) = found.rejections
    assert (rejection.route, rejection.label) == ("x", "proxyctl.routes.x.prot")
    assert rejection.hint == "did you mean proxyctl.routes.x.port?"


def test_a_typo_in_the_only_named_route_does_not_open_a_default_one() -> None:
    container = make.container("web-1", {"routes.admin.hots": "a.example", "port": "80"})
    found = labels.parse(container, make.defaults(default_host="{service}.example"))
    assert found.spec is None
    assert [r.route for r in found.rejections] == ["admin"]


@pytest.mark.parametrize("key", labels.LATER_KEYS)
def test_a_label_of_a_later_release_is_refused_so_that_nobody_believes_it_works(key: str) -> None:
    rejection = only_rejection({"host": "a.example", key: "1"})
    assert (rejection.reason, rejection.label) == ("unsupported", f"proxyctl.{key}")


@pytest.mark.parametrize("key", [*labels.CONTAINER_KEYS, *labels.LATER_KEYS])
def test_a_label_of_the_container_inside_a_route_is_refused(key: str) -> None:
    found = parse({"host": "a.example", "routes.x.host": "b.example", f"routes.x.{key}": "true"})
    (rejection,) = found.rejections
    assert (rejection.route, rejection.label) == ("x", f"proxyctl.routes.x.{key}")
    assert rejection.hint == f"write proxyctl.{key}"
    assert found.spec is not None
    assert [route.name for route in found.spec.routes] == ["default"]


@pytest.mark.parametrize("name", ["", "X", "a b", "a_b", "-a", "a" * 33, "a;b", "default"])
def test_a_route_needs_a_name_that_is_safe_and_not_the_plain_ones(name: str) -> None:
    found = parse({"host": "a.example", f"routes.{name}.host": "b.example"})
    assert found.spec is None
    assert found.rejections[0].reason == "unknown-label"
    assert "routes.NAME.host" in found.rejections[0].hint


# ---------------------------------------------------------------- named routes


def test_a_named_route_inherits_the_plain_target_labels_and_no_other() -> None:
    found = parse(
        {
            "host": "a.example",
            "path": "/git",
            "strip-path": "true",
            "port": "8080",
            "scheme": "https",
            "health.path": "/up",
            "weight": "7",
            "routes.x.host": "b.example",
            "routes.x.weight": "9",
        }
    )
    assert found.spec is not None
    plain, named = found.spec.routes
    assert (plain.name, plain.path, plain.strip_path, plain.weight) == ("default", "/git", True, 7)
    assert (named.name, named.hosts, named.path, named.strip_path) == ("x", ("b.example",), "/", False)
    assert (named.port, named.scheme, named.weight) == (8080, "https", 9)
    assert (named.health.path, named.health.host) == ("/up", "b.example")


def test_plain_target_labels_alone_make_no_route_beside_a_named_one() -> None:
    route = only_route({"port": "8080", "routes.x.host": "b.example"})
    assert (route.name, route.port) == ("x", 8080)


def test_a_named_route_without_a_host_is_told_which_label_to_set() -> None:
    rejection = only_rejection({"routes.x.port": "80"})
    assert (rejection.reason, rejection.label) == ("no-host", "proxyctl.routes.x.host")
    assert "proxyctl.routes.x.host=NAME" in rejection.hint


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
