"""Labels -> specs and rejections: every key, good and bad, named routes, and whom a mistake harms."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from proxyctl.model import HealthCheck, RouteSpec
from proxyctl.plan import labels
from proxyctl.versions import Settings
from tests.unit import hostile, make
from tests.unit.labelled import only_rejection, only_route, parse

BOTH = labels.ROUTE_KEYS.keys() | labels.TARGET_KEYS.keys()


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
    ],
)
def test_a_typo_in_a_label_rejects_that_route_and_names_the_nearest_key(key: str, hint: str) -> None:
    found = parse({"host": "a.example", key: "1"})
    assert found.spec is None
    (rejection,) = found.rejections
    assert (rejection.reason, rejection.label, rejection.hint) == ("unknown-label", f"proxyctl.{key}", hint)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("qqqqqqqq", "write proxyctl. and one of host, path,"),
        ("tls.certresolver", "port 80 only"),
        ("redirect", "write a vhost by hand"),
        ("http.routers.web.rule", "write proxyctl.host=NAME"),
        ("VIRTUAL_HOST", "write proxyctl.host=NAME"),
        ("virtual_port", "write proxyctl.port=PORT"),
        ("entrypoints", "leave it out"),
        ("traefik.enable", "write proxyctl.host=NAME"),
    ],
)
def test_a_label_of_another_proxy_is_told_what_to_write_here(key: str, hint: str) -> None:
    (rejection,) = parse({"host": "a.example", key: "1"}).rejections
    assert hint in rejection.hint


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


def test_how_a_version_wants_to_be_rolled_out() -> None:
    said = {"rollout": "Canary", "rollout.bake": "1m", "rollout.steps": "10, 50", "rollout.retire": "stop", "rollout.drain": "5m"}
    spec = parse({"host": "a.example", "version": "v2", **said}).spec
    assert spec
    assert (spec.version, spec.rollout) == ("v2", Settings("canary", 60.0, 60.0, "stop", (10, 50), 300.0))
    plain = parse({"host": "a.example"}).spec
    assert plain
    assert (plain.version, plain.rollout) == (None, Settings())


@pytest.mark.parametrize("steps", ["", "0", "100", "50,25", "5,5", "5;25"])
def test_steps_of_a_canary_are_percents_that_rise(steps: str) -> None:
    assert only_rejection({"host": "a.example", "rollout.steps": steps}).reason == "bad-value"


@pytest.mark.parametrize("key", labels.CONTAINER_KEYS)
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
