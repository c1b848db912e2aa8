"""Too much of anything in labels: told with the number, and cheap for everybody else."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest

from proxyctl import values
from proxyctl.plan import labels
from tests.unit import make
from tests.unit.labelled import only_rejection, only_route, parse

HUGE = 10_000_000


def host_of(length: int) -> str:
    return "".join("." if n % 60 == 59 and n < length - 1 else "a" for n in range(length))


BORDERS: dict[str, tuple[str, str, str, int]] = {
    "hosts of a route": ("host", ",".join(f"h{n}.example" for n in range(labels.MAX_HOSTS)), ",x.example", labels.MAX_HOSTS),
    "a host": ("host", host_of(values.MAX_HOST), "a", values.MAX_HOST),
    "a wildcard": ("host", "*." + host_of(values.MAX_HOST), "a", values.MAX_HOST),
    "a part of a host": ("host", "a" * values.MAX_HOST_LABEL, "a", values.MAX_HOST_LABEL),
    "a path": ("path", "/" + "a" * (values.MAX_PATH - 1), "a", values.MAX_PATH),
    "a request": ("health.path", "/" + "a" * (values.MAX_REQUEST_TARGET - 1), "a", values.MAX_REQUEST_TARGET),
    "a host of checks": ("health.host", "a" * values.MAX_HOST_LABEL, "a", values.MAX_HOST_LABEL),
    "statuses": ("health.status", ",".join(["200"] * values.MAX_RANGES), ",200", values.MAX_RANGES),
    "a service": ("service", "a" * values.MAX_NAME, "a", values.MAX_NAME),
    "a network": ("network", "a" * values.MAX_NAME, "a", values.MAX_NAME),
    "any value": ("weight", " " * (labels.MAX_VALUE - 1) + "1", " ", labels.MAX_VALUE),
}
"""A label, the longest text of it that is served, what is too much behind that, and the limit."""


@pytest.mark.parametrize("what", BORDERS)
def test_as_much_as_the_limit_is_served_and_one_more_is_told_with_the_number(what: str) -> None:
    key, text, more, limit = BORDERS[what]
    only_route({"host": "a.example", key: text})
    rejection = only_rejection({"host": "a.example", key: text + more})
    assert (rejection.reason, rejection.label) == ("limit", f"proxyctl.{key}")
    assert str(limit + 1) in rejection.message
    assert rejection.hint == f"{limit} at the most"


def test_so_many_labels_of_one_container_are_read_and_one_more_rejects_it() -> None:
    routes = {f"routes.r{n}.host": f"r{n}.example" for n in range(labels.MAX_ROUTES)}
    keys = [key for key in (*labels.ROUTE_KEYS, *labels.TARGET_KEYS) if key not in ("host", "network", "health.type")]
    good = {"path": "/x", "strip-path": "no", "scheme": "http", "health.path": "/", "health.host": "a.b", "health.status": "200"}
    text = {key: good.get(key, "1s" if key in ("health.interval", "health.timeout") else "9") for key in keys}
    every = routes | {f"routes.r{n}.{key}": text[key] for n in range(labels.MAX_ROUTES) for key in keys}
    most = dict(list(every.items())[: labels.MAX_LABELS])
    found = parse(most)
    assert (len(most) > 400, found.rejections) == (True, ())
    padded = most | {f"x{n}": "" for n in range(labels.MAX_LABELS + 1 - len(most))}
    rejection = only_rejection(padded)
    assert (rejection.reason, rejection.label) == ("limit", "proxyctl.*")
    assert f"more than {labels.MAX_LABELS} labels" in rejection.message


def test_so_many_hosts_of_one_container_are_served_and_the_route_that_has_more_is_not() -> None:
    full, rest = divmod(labels.MAX_PLACES, labels.MAX_HOSTS)
    assert rest == 0
    said = {f"routes.r{n}.host": ",".join(f"h{n}-{m}.example" for m in range(labels.MAX_HOSTS)) for n in range(full)}
    assert parse(said).rejections == ()
    found = parse(said | {"routes.s.host": "one.example"})
    assert found.spec is not None
    assert [route.name for route in found.spec.routes] == sorted(f"r{n}" for n in range(full))
    (rejection,) = found.rejections
    assert (rejection.reason, rejection.label) == ("limit", "proxyctl.routes.s.host")
    assert f"more than {labels.MAX_PLACES} hosts" in rejection.message


def test_more_mistakes_than_anybody_reads_are_not_looked_for() -> None:
    found = parse({"routes.good.host": "a.example"} | {f"routes.r{n:02}.{'x' * n}": "" for n in range(1, 100)})
    assert found.spec is None
    assert len(found.rejections) == labels.MAX_MISTAKES + 1
    assert (found.rejections[-1].reason, found.rejections[-1].label) == ("limit", "proxyctl.*")
    assert f"more than {labels.MAX_MISTAKES} mistakes" in found.rejections[-1].message


def test_every_key_that_is_known_is_looked_at_whole() -> None:
    longest = max(map(len, (*labels.ROUTE_KEYS, *labels.TARGET_KEYS, *labels.CONTAINER_KEYS)))
    assert len("routes.") + 32 + len(".") + longest < labels.MAX_KEY


# ---------------------------------------------------------------- two routes of one container


@pytest.mark.parametrize("more", [{}, {"routes.x.port": "81"}], ids=["one port", "two ports"])
def test_two_routes_of_one_container_do_not_share_a_place(more: dict[str, str]) -> None:
    said = {"host": "a.example,b.example", "path": "/git", "routes.x.host": "c.example,B.example", "routes.x.path": "/git/"}
    found = parse(said | more)
    assert found.spec is not None
    assert [route.name for route in found.spec.routes] == ["default"]
    (rejection,) = found.rejections
    assert (rejection.reason, rejection.route, rejection.label) == ("conflict", "x", "proxyctl.routes.x.host")
    assert rejection.message == "the route default of this container serves b.example/git already"


def test_two_routes_of_one_container_may_share_a_host() -> None:
    said = {"host": "a.example", "routes.x.host": "a.example", "routes.x.path": "/git", "routes.y.host": "*.a.example"}
    assert parse(said).rejections == ()


def test_a_target_is_in_an_upstream_once_whatever_its_routes_are() -> None:
    said = {f"routes.{name}.host": "a.example" for name in "xyz"}
    (place,) = make.places(make.decide([make.container("web-1", said)]).table).values()
    assert len(place.serving) == 1


# ---------------------------------------------------------------- proxyctl's own names


@pytest.mark.parametrize("host", ["starting.proxyctl.invalid", "a.example,SAMPLE.proxyctl.invalid", "*.proxyctl.invalid"])
def test_names_that_nginx_has_from_proxyctl_are_nobodys(host: str) -> None:
    rejection = only_rejection({"host": host})
    assert (rejection.reason, rejection.label) == ("bad-value", "proxyctl.host")
    assert only_route({"host": "notproxyctl.invalid"}).hosts == ("notproxyctl.invalid",)


# ---------------------------------------------------------------- what it costs


class Counted(Mapping[str, str]):
    """Labels without end, as far as anybody looks."""

    def __init__(self, prefix: str) -> None:
        self.prefix, self.seen = prefix, 0

    def __getitem__(self, key: str) -> str:
        return "x"

    def __iter__(self) -> Iterator[str]:
        while True:
            self.seen += 1
            yield f"{self.prefix}{self.seen}"

    def __len__(self) -> int:
        return HUGE


def test_no_more_labels_are_looked_at_than_are_allowed() -> None:
    said = Counted("proxyctl.x")
    found = labels.parse(replace(make.container(), labels=said), make.defaults())
    assert [r.reason for r in found.rejections] == ["limit"]
    assert said.seen == labels.MAX_LABELS + 1


GLUTTONS = {
    "labels": {f"x{n}": "y" for n in range(100_000)},
    "mistakes": {f"{'x' * 60}{n}": "y" for n in range(labels.MAX_LABELS)},
    "a value": {"host": "a." * (HUGE // 2)},
    "a value that is not ASCII": {"host": "\u00fc" * HUGE},
    "a key": {"x" * HUGE: "y"},
    "a route": {f"routes.{'x' * HUGE}.host": "a.example"},
    "a path": {"host": "a.example", "path": "/" * HUGE},
    "hosts": {f"routes.r{n}.host": "a," * (labels.MAX_VALUE // 2) for n in range(labels.MAX_ROUTES)},
    "hosts and paths": {
        f"routes.r{n}.host": ",".join(f"{'a' * 60}.{'b' * 60}.h{m}.example" for m in range(labels.MAX_HOSTS))
        for n in range(labels.MAX_ROUTES)
    },
    "statuses": {"host": "a.example", "health.status": "200-299," * (HUGE // 8)},
}


@pytest.mark.parametrize("what", GLUTTONS)
def test_a_glutton_costs_the_others_little_time_and_little_memory(what: str) -> None:
    """All labels are read in every cycle, so this is what one of them adds to each."""
    container = make.container("glutton", GLUTTONS[what])
    labels.parse(container, make.defaults())
    best = min(_seconds(lambda: labels.parse(container, make.defaults())) for _ in range(5))
    tracemalloc.start()
    found = labels.parse(container, make.defaults())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.rejections
    assert sum(len(r.label) + len(r.message) + len(r.hint) for r in found.rejections) < 20_000
    assert best < 0.05
    assert peak < 2_000_000


def _seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began
