"""Digests and forms: what makes another configuration, what nginx must test again, and what is never rendered at all."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError

from proxyctl.fileset import FileSet
from proxyctl.model import RouteTable, Scheme
from proxyctl.plan.vhosts import Renderer
from tests.unit import make
from tests.unit.make import location, routed, site, table

SHIPPED = make.templates()


def changed(name: str, old: str, new: str) -> Renderer:
    """A renderer with one word of one template changed."""
    key = f"{name}.j2"
    assert old in SHIPPED[key]
    return Renderer(SHIPPED | {key: SHIPPED[key].replace(old, new)})


def of(**how: Any) -> FileSet:
    return make.render(how.pop("what", site()), **how)


def own(fileset: FileSet) -> set[str]:
    """What nginx has accepted when it has accepted this."""
    return {fileset.frame_form, *(part.forms[0] for file in fileset.objects.values() for part in file.parts if part.forms)}


def known(fileset: FileSet, accepted: set[str]) -> bool:
    parts = [part for file in fileset.objects.values() for part in file.parts]
    return fileset.frame_form in accepted and all(not p.forms or accepted.intersection(p.forms) for p in parts)


BASE = of()
GIT = table(("a.example", location("/git", routed())))

LESS = {
    "the address": of(what=table(("a.example", location("/", routed("10.9.9.9:80"))))),
    "an IPv6 address": of(what=table(("a.example", location("/", routed("[fd00::1]:80"))))),
    "the port": of(what=table(("a.example", location("/", routed("10.0.0.5:8080"))))),
    "the weight": of(what=table(("a.example", location("/", routed(weight=5))))),
    "one more target": of(what=table(("a.example", location("/", routed(), routed("10.0.0.6:80"))))),
    "the name": of(what=site("b.example")),
    "one more name": of(what=table(("a.example", location("/", routed())), ("b.example", location("/", routed())))),
}
DEAD = of(what=table(("a.example", location("/", routed(serving=False)))))
MORE = {
    "a wildcard": of(what=site("*.a.example")),
    "the length of the name": of(what=site("a" * 8 + ".example")),
    "the name, with templates of one's own": of(
        what=site("b.example"), renderer=changed("server.conf", "listen 80;", "listen  80;")
    ),
    "the path": of(what=GIT),
    "one more path": of(
        what=RouteTable((replace(site().vhosts[0], locations=(location("/", routed()), location("/git", routed()))),))
    ),
    "the scheme": of(what=table(("a.example", location("/", routed(), scheme="https")))),
    "the stripped path": of(what=table(("a.example", location("/git", routed(), strip=True)))),
    "nginx's version": of(nginx=make.view((1, 22, 1))),
    "IPv6": of(nginx=make.view(ipv6=True)),
    "the folder of logs": of(nginx=make.view(logs_dir="/logs")),
    "the workers": of(how=make.settings(workers=3)),
    "a trusted proxy": of(how=make.settings(trusted_proxies=("10.0.0.0/8",))),
    "the token": of(how=make.settings("e" * 32)),
    "a long name": of(what=site("a" * 60 + ".example")),
    "a hand-written file": of(operator_files={"own.conf": "server { listen 81; }\n"}),
    "the main template": of(renderer=changed("sites", "75s", "76s")),
    "the manifest's template": of(renderer=changed("manifest.conf", "Unknown host", "No such host")),
    "how objects are included": of(renderer=changed("manifest.conf", "include {{ objects_dir }}", "include {{ objects_dir }}/.")),
    "how the manifest is included": of(renderer=changed("nginx.conf", "include {{ include }}", "include  {{ include }}")),
    "the server's template": of(renderer=changed("server.conf", "listen 80;", "listen 81;")),
    "the upstream's template": of(renderer=changed("upstream.conf", "keepalive 32", "keepalive 33")),
    "the headers' template": of(renderer=changed("headers", "X-Real-IP", "X-Real-Ip")),
    "the template of a dead place": of(renderer=changed("server.conf", "<h1>Unavailable", "<h1>Gone")),
}
PLACES = {
    "the folder of files": of(nginx=make.view(conf_dir="/conf")),
    "the folder that a boot clears": of(nginx=make.view(runtime_dir="/boot")),
    "what a boot does": of(how=make.settings(wait_after_boot=False)),
}
"""Differences of where files are. nginx accepts the same text at another place."""


@pytest.mark.parametrize("what", LESS)
def test_nginx_need_not_test_again_when_only_targets_differ_in(what: str) -> None:
    assert known(LESS[what], own(BASE))
    assert LESS[what].digest != BASE.digest


def test_nginx_need_not_test_again_when_a_place_dies() -> None:
    assert known(DEAD, own(BASE))
    assert not known(BASE, own(DEAD)), "nginx has not seen how it is when it lives"
    assert DEAD.digest != BASE.digest


@pytest.mark.parametrize("what", MORE)
def test_nginx_tests_again_when_it_differs_in(what: str) -> None:
    assert not known(MORE[what], own(BASE))
    assert MORE[what].digest != BASE.digest


@pytest.mark.parametrize("scheme", ["http", "https", "grpc", "grpcs"])
def test_the_dead_form_of_a_place_is_in_every_draft_so_that_death_needs_no_test(scheme: Scheme) -> None:
    one, two = routed(), routed(serving=False)
    alive = table(("a.example", location("/git", one, scheme=scheme)), ("a.example", location("/", one)))
    dead = table(("a.example", location("/git", two, scheme=scheme)), ("a.example", location("/", one)))
    assert known(of(what=dead), own(of(what=alive)))


def test_any_two_configurations_that_differ_in_anything_have_different_digests() -> None:
    every = {"nothing": BASE, "life": DEAD, **LESS, **MORE, **PLACES}
    same = [(a, b) for (a, x), (b, y) in combinations(every.items(), 2) if x.digest == y.digest]
    assert same == []


def test_files_of_one_name_never_differ() -> None:
    """What is on disk under a name is not written again."""
    seen: dict[str, str] = {}
    for fileset in (BASE, DEAD, *LESS.values(), *MORE.values(), *PLACES.values()):
        files = {f"mains/{fileset.digest}": fileset.main, f"drafts/{fileset.digest}": fileset.draft_main}
        files |= {f"manifests/{fileset.digest}": fileset.manifest}
        files |= {name: file.text for name, file in fileset.objects.items()}
        for name, text in files.items():
            assert seen.setdefault(name, text) == text


def test_the_name_of_an_object_is_the_digest_of_its_content() -> None:
    for name, file in BASE.objects.items():
        assert name == f"{hashlib.sha256(file.text.encode()).hexdigest()[:32]}.conf"


def test_the_same_table_has_the_same_digest_in_another_process() -> None:
    assert of() == of()
    assert BASE.digest in BASE.manifest


tables = st.lists(
    st.tuples(
        st.sampled_from(["a.example", "b.example", "*.c.example"]),
        st.builds(
            lambda path, address, serving, scheme, strip, more: location(
                path, routed(address, serving=serving), *more, scheme=scheme, strip=strip
            ),
            st.sampled_from(["/", "/git"]),
            st.sampled_from(["10.0.0.5:80", "[fd00::6]:81"]),
            st.booleans(),
            st.sampled_from(["http", "grpc"]),
            st.booleans(),
            st.sampled_from([(), (routed("10.0.0.7:82", weight=3),)]),
        ),
    ),
    max_size=4,
    unique_by=lambda item: (item[0], item[1].path),
).map(lambda found: table(*found))


@settings(max_examples=25)
@given(found=st.lists(tables, max_size=4), versions=st.lists(st.sampled_from([(1, 22, 1), (1, 31, 3)]), min_size=4, max_size=4))
def test_a_renderer_that_remembers_renders_as_one_that_does_not(found: list[RouteTable], versions: list[tuple[int, ...]]) -> None:
    one = Renderer(SHIPPED, shipped=True)
    for what, version in zip(found, versions, strict=False):
        view = make.view(version)
        assert make.render(what, view, renderer=one) == make.render(what, view, renderer=Renderer(SHIPPED, shipped=True))


@settings(max_examples=50)
@given(what=tables)
def test_what_is_filled_into_a_shape_is_what_the_templates_write(what: RouteTable) -> None:
    def written(renderer: Renderer) -> dict[str, str]:
        files = make.render(what, renderer=renderer).objects.values()
        return {part.source: part.text for file in files for part in file.parts}

    assert written(Renderer(SHIPPED, shipped=True)) == written(Renderer(SHIPPED))


# ---------------------------------------------------------------- what is not rendered


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"what": site("a.example;")}, id="host"),
        pytest.param({"what": site("a.example #")}, id="host with a comment"),
        pytest.param({"what": site("$host")}, id="host with a variable"),
        pytest.param({"what": table(("a.example", location("/a {", routed())))}, id="path"),
        pytest.param({"what": table(("a.example", location('/"', routed())))}, id="path with a quote"),
        pytest.param({"what": table(("a.example", location("/\n", routed())))}, id="path with a line break"),
        pytest.param({"what": table(("a.example", location("/\u0663", routed())))}, id="path with a foreign digit"),
        pytest.param({"what": table(("a.example", location("/", routed("unix:/a b:80"))))}, id="address"),
        pytest.param({"what": table(("a.example", location("/", routed("$upstream:80"))))}, id="address with a variable"),
        pytest.param({"how": make.settings("f; #")}, id="token"),
        pytest.param({"how": make.settings(trusted_proxies=("10.0.0.0/8;",))}, id="trusted proxy"),
        pytest.param({"nginx": make.view(logs_dir="/a b")}, id="folder of logs"),
        pytest.param({"nginx": make.view(conf_dir="/a;b")}, id="folder of files"),
        pytest.param({"nginx": make.view(runtime_dir="/a\\b")}, id="folder that a boot clears"),
    ],
)
def test_a_value_that_could_end_a_directive_is_never_written(how: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot be written into nginx's configuration"):
        of(**how)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize(
    "text",
    [
        "{{ nonsense }}",
        "{{ version.nonsense.more }}",
        "{% if %}",
        "{{ 1 / 0 }}",
        "{{ 1 + 'a' }}",
        "{{ range(1)[5].x }}",
        "{{ [][0]() }}",
    ],
    ids=["undefined", "undefined attribute", "syntax", "arithmetic", "types", "index", "call"],
)
def test_a_template_that_is_wrong_is_a_template_error_whatever_is_wrong_with_it(name: str, text: str) -> None:
    spoiled = Renderer(SHIPPED | {name: SHIPPED[name] + text if name != "headers.j2" else text + SHIPPED[name]})
    with pytest.raises(TemplateError):
        of(renderer=spoiled, what=GIT, how=make.settings(included=name == "included.conf.j2"))


def test_a_template_that_includes_itself_is_a_template_error() -> None:
    with pytest.raises(TemplateError):
        of(renderer=Renderer(SHIPPED | {"server.conf.j2": "{% include 'server.conf.j2' %}"}))
