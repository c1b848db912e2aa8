"""Hostile input, end to end: labels and names -> routes -> files -> what nginx reads is the tree that the model predicts.

`HYPOTHESIS_PROFILE=chaos` tries 10,000 crowds of containers instead of 500.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from crossplane.errors import NgxParserBaseException  # type: ignore[import-untyped]  # the package has no types
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from proxyctl.model import Container, RouteTable, VirtualHost
from proxyctl.plan import labels
from proxyctl.plan.vhosts import Renderer
from tests.unit import hostile, make, nginx_tree
from tests.unit.hostile import ATTACKS, Stranger
from tests.unit.make import container, decide, location, places, routed, table
from tests.unit.predicted import Expected, in_order
from tests.unit.test_nginx_accepts import refusal

PLAIN = re.compile(r"[A-Za-z0-9._~+@:=*/\[\]-]+", re.ASCII)
GOOD = container("good", {"host": "good.example"}, created=1.0, networks={"front": "10.0.0.4"})
SHIPPED = make.templates()
CASES = 500
"""At once: Hypothesis remembers all of them."""


@dataclass(frozen=True, slots=True)
class Around:
    """What the operator and the machine add."""

    default_host: str = ""
    version: tuple[int, ...] = (1, 31, 3)
    ipv6: bool = False
    trusted_proxies: tuple[str, ...] = ()
    included: bool = False


arounds = st.builds(
    Around,
    default_host=st.sampled_from(("", "{service}.home.example", "{service}")),
    version=st.sampled_from(((1, 22, 1), (1, 31, 3))),
    ipv6=st.booleans(),
    trusted_proxies=st.sampled_from(((), ("10.0.0.0/8", "fd00::/8"))),
    included=st.booleans(),
)
PLAINLY = Around()


def address(number: int) -> str:
    """Every third has IPv6 alone."""
    return f"10.1.{number // 200}.{number % 200 + 1}" if number % 3 else f"fd00::{number + 1:x}"


def containers(crowd: Sequence[Stranger]) -> list[Container]:
    """With addresses that Docker would give them."""
    found = []
    for number, who in enumerate(crowd):
        networks = dict.fromkeys((who.network, "front", "back"), address(number) if number % 3 else "")
        one = container(
            who.name,
            who.labels,
            created=float(10 + number),
            networks=networks,
            ipv6=dict.fromkeys(networks, address(number)),
            compose=f"{who.project}/{who.service}" if who.project else "",
            labels=dict(who.foreign),
        )
        found.append(replace(one, id=f"id-{number}", image=who.image))
    return found


def written(crowd: Sequence[Stranger], around: Around, directory: Path, renderer: Renderer | None = None) -> RouteTable:
    """Decides, renders, reads, and compares with what was predicted. Returns what was decided."""
    said = make.defaults(default_host=around.default_host)
    states = {str(number): who.state for number, who in enumerate(crowd)}
    decided = decide([GOOD, *containers(crowd)], states, said=said).table
    view = nginx_tree.view(directory, around.version, ipv6=around.ipv6)
    how = make.settings(trusted_proxies=around.trusted_proxies, wait_after_boot=False, included=around.included)
    fileset = make.render(decided, view, how, renderer=renderer)
    read = nginx_tree.parse(nginx_tree.write(fileset, directory), comments=True)
    assert in_order(read) == in_order(Expected(view, how).configuration(decided, fileset.digest))
    return decided


def assert_harmless(decided: RouteTable, crowd: Sequence[Stranger]) -> None:
    """The model itself: the bystander is served, nothing else than names and addresses is in it, each target its own and once."""
    assert make.serving(decided)["good.example/"] == ["good"]
    own = {"id-good": "10.0.0.4"} | {f"id-{number}": address(number) for number in range(len(crowd))}
    for vhost in decided.vhosts:
        assert PLAIN.fullmatch(vhost.host)
        for place in vhost.locations:
            assert PLAIN.fullmatch(place.path)
            targets = [(routed.target.address, routed.target.port) for routed in place.serving]
            assert len(set(targets)) == len(targets)
            assert all(routed.target.address == own[routed.target.container_id] for routed in place.serving)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conf")


@pytest.fixture(autouse=True)
def empty(directory: Path) -> Iterator[None]:
    yield
    clear(directory)


def clear(directory: Path) -> None:
    for file in directory.glob("*/*.conf"):
        file.unlink()


# ---------------------------------------------------------------- anything at all


@dataclass
class Tally:
    """What was tried, and what came of it."""

    cases: int = 0
    served: int = 0
    """Cases in which nginx was given a host of a stranger."""
    survived: int = 0
    """Cases in which a stranger had a label rejected, and a host served."""
    edges: int = 0
    """Cases in which a value was served that is not written as it is served, or has signs beyond letters."""
    vhosts: dict[VirtualHost, None] = field(default_factory=dict)

    def add(self, crowd: Sequence[Stranger], decided: RouteTable) -> None:
        theirs = [vhost for vhost in decided.vhosts if any(place.service != "good" for place in vhost.locations)]
        rejected = {f"id-{n}" for n, who in enumerate(crowd) if _is_rejected(who)}
        serving = {t.target.container_id for vhost in theirs for place in vhost.locations for t in place.targets}
        odd = [v for v in theirs if not re.fullmatch(r"[a-z.]+", v.host + "".join(p.path for p in v.locations).replace("/", ""))]
        self.cases += 1
        self.served += bool(theirs)
        self.survived += bool(rejected & serving)
        self.edges += bool(odd)
        event(f"hosts of strangers: {min(len(theirs), 4)}")
        event(f"one mistake beside a route that is served: {bool(rejected & serving)}")
        self.vhosts |= dict.fromkeys(theirs)


def _is_rejected(who: Stranger) -> bool:
    return bool(labels.parse(container(who.name, who.labels), make.defaults()).rejections)


def rounds(vhosts: Iterable[VirtualHost], most: int = 24, each: int = 250) -> list[RouteTable]:
    """As many as fit into few tables, none with a host twice."""
    tables: list[dict[str, VirtualHost]] = []
    for vhost in vhosts:
        free = next((one for one in tables if vhost.host not in one and len(one) < each), None)
        if free is None and len(tables) < most:
            tables.append(free := {})
        if free is not None:
            free[vhost.host] = vhost
    return [RouteTable(tuple(one[host] for host in sorted(one))) for one in tables]


def test_whatever_strangers_say_nginx_reads_the_model_and_nothing_else(directory: Path, tmp_path: Path) -> None:
    tally = Tally()

    @settings(max_examples=CASES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(crowd=st.lists(hostile.strangers, min_size=1, max_size=4), around=arounds)
    def holds(crowd: list[Stranger], around: Around) -> None:
        decided = written(crowd, around, directory)
        assert_harmless(decided, crowd)
        tally.add(crowd, decided)

    for _ in range(max(1, settings().max_examples // CASES)):
        holds()
        clear(directory)
    print(f"{tally.cases} cases: {tally.served} with hosts of strangers, {tally.edges} with unusual ones,")
    print(f"{tally.survived} with a mistake beside what is served; {len(tally.vhosts)} different hosts")
    assert tally.cases >= CASES
    assert tally.served > 0.7 * tally.cases
    assert tally.edges > 0.5 * tally.cases
    assert tally.survived > 0.15 * tally.cases
    tested = rounds(tally.vhosts)
    assert sum(len(one.vhosts) for one in tested) > 300
    for number, one in enumerate(tested):
        assert refusal(one, tmp_path / str(number)) == ""


# ---------------------------------------------------------------- every attack in every label


@pytest.mark.parametrize("key", hostile.KNOWN)
def test_every_attack_in_every_label_alone_and_beside_routes_that_are_served(key: str, directory: Path) -> None:
    crowd = []
    for number, text in enumerate(ATTACKS.values()):
        good = {"host": f"h{number}.example"}
        crowd.append(Stranger(good | {key: text}, {}))
        crowd.append(Stranger({key: text}, {}))
        if key not in labels.CONTAINER_KEYS:
            named = {"routes.x.host": f"x{number}.example", f"routes.x.{key}": text}
            crowd.append(Stranger({"host": f"beside{number}.example", "weight": "7"} | named, {}))
    decided = written(crowd, Around("{service}.home.example"), directory)
    assert_harmless(decided, crowd)
    found = places(decided)
    assert key in labels.CONTAINER_KEYS or all(f"beside{number}.example/" in found for number in range(len(ATTACKS)))


@pytest.mark.parametrize("key", ["{}", "{}.host", "routes.{}.host", "routes.x.{}", "routes.x.host.{}", "health.{}"])
def test_every_attack_as_a_label(key: str, directory: Path) -> None:
    crowd = []
    for number, text in enumerate(ATTACKS.values()):
        named = {"routes.good.host": f"h{number}.example", f"routes.bad.{key.format(text)}": "b.example"}
        crowd += [Stranger({"host": f"p{number}.example", key.format(text): "b.example"}, {}), Stranger(named, {})]
    decided = written(crowd, PLAINLY, directory)
    assert_harmless(decided, crowd)
    served = [f"h{number}.example/" in places(decided) for number in range(len(ATTACKS))]
    assert served == [key.format(text) != "" for text in ATTACKS.values()], "routes.bad. is no route's label"


NAMES: Mapping[str, Any] = {
    "container": lambda text: Stranger({"port": "80"}, {}, name=text),
    "image": lambda text: Stranger({"port": "80"}, {}, image=text),
    "network": lambda text: Stranger({"port": "80"}, {}, network=text),
    "network by its label": lambda text: Stranger({"network": text}, {}, network=text),
    "compose project": lambda text: Stranger({"port": "80"}, {}, project=text, service="web"),
    "compose service": lambda text: Stranger({"port": "80"}, {}, project="shop", service=text),
    "foreign label": lambda text: Stranger({"port": "80"}, {text: text}),
}


@pytest.mark.parametrize("what", NAMES)
def test_every_attack_as_a_name(what: str, directory: Path) -> None:
    """With a default host these are what hosts are made of."""
    named = [NAMES[what](text) for text in ATTACKS.values()]
    beside = [replace(who, labels={"host": f"h{number}.example"}) for number, who in enumerate(named)]
    decided = RouteTable()
    for crowd in (named, beside):
        decided = written(crowd, Around("{service}.home.example"), directory)
        assert_harmless(decided, crowd)
        assert len(decided.vhosts) > 1
    assert {vhost.host for vhost in decided.vhosts} == {"good.example", *(f"h{number}.example" for number in range(len(ATTACKS)))}


@settings(max_examples=60)
@given(name=hostile.names, network=hostile.names, project=hostile.names, image=hostile.names)
def test_names_of_containers_networks_projects_and_images_never_reach_nginx(
    name: str, network: str, project: str, image: str
) -> None:
    """They differ, and what nginx is given does not."""
    plain = container("plain", {"host": "a.example"}, networks={"front": "10.0.0.5"}, mode="bridge")
    odd = container(name, {"host": "a.example"}, networks={network: "10.0.0.5"}, mode="bridge", compose=f"{project}/{name}")
    one, two = (make.render(decide([c]).table) for c in (plain, replace(odd, image=image)))
    assert one == two


def test_containers_whose_names_collide_are_told_apart(directory: Path) -> None:
    """By case, by a dot that compose also writes, by nothing at all."""
    crowd = [
        Stranger({"port": "80"}, {}, name="Web"),
        Stranger({"port": "81"}, {}, name="web"),
        Stranger({"port": "82"}, {}, name="web"),
        Stranger({"port": "83"}, {}, project="a.b", service="c"),
        Stranger({"port": "84"}, {}, project="a", service="b.c"),
    ]
    decided = written(crowd, Around("{service}.home.example"), directory)
    assert_harmless(decided, crowd)
    found = {place: [t.target.port for t in one.serving] for place, one in places(decided).items()}
    assert found == {"good.example/": [80], "web.home.example/": [80], "a.b.c.home.example/": [83]}


# ---------------------------------------------------------------- would it be noticed


def sight() -> tuple[list[Stranger], Around]:
    """One of everything."""
    crowd = [
        Stranger({"host": "a.example", "routes.x.host": "a.example", "routes.x.path": "/git", "routes.x.strip-path": "on"}, {}),
        Stranger({"host": "*.b.example", "scheme": "grpc", "weight": "3"}, {}, project="b", service="b"),
        Stranger({"host": "*.b.example", "scheme": "grpc"}, {}, project="b", service="b"),
        Stranger({"host": "dead.example"}, {}, state="warming"),
    ]
    return crowd, Around(version=(1, 22, 1), ipv6=True, trusted_proxies=("10.0.0.0/8",))


CHANGES = {
    "a header is not ignored": ("sites", "X-Accel-Redirect X-Accel-Limit-Rate", "X-Accel-Limit-Rate"),
    "nothing is ignored": ("sites", "proxy_ignore_headers X-Accel-Redirect X-Accel-Limit-Rate X-Accel-Charset;", ""),
    "one location more": ("server.conf", "server_name {{ name }};", "server_name {{ name }};\n    location /x { return 200; }"),
    "one name more": ("server.conf", "server_name {{ name }};", "server_name {{ name }} x;"),
    "a name that is not exact": ("server.conf", "server_name {{ name }};", "server_name .{{ name }};"),
    "a host in a comment": ("server.conf", "server {\n", "server {  # {{ name }}\n"),
    "an exact location is a prefix": ("server.conf", "location = {{", "location {{"),
    "a prefix without its slash": ("server.conf", '~ "/" }}', '~ "" }}'),
    "a path is passed on that is not cut": (
        "server.conf",
        "set $proxyctl_uri {{ location.below }}",
        "set $proxyctl_uri $request_uri",
    ),
    "a dead place is alive": ("server.conf", "return 503", "return 200"),
    "the prefix is told unquoted twice": (
        "server.conf",
        "_prefix {{ location.path }}",
        "_prefix {{ location.path }}{{ location.path }}",
    ),
    "a header is not emptied": ("headers", "in removed_headers", "in removed_headers[1:]"),
    "clients say who they are": ("headers", '"$proxyctl_forwarded_for" if', '"$http_x_forwarded_for" if'),
    "an unweighted target": ("upstream.conf", " weight={{ server.weight }}", ""),
    "a backup": ("upstream.conf", "{{ server.port }}", "{{ server.port }} backup"),
    "one target more": ("upstream.conf", "    keepalive 32;", "    server 10.9.9.9:80;\n    keepalive 32;"),
    "another proxy is trusted": ("sites", "set_real_ip_from {{ cidr }};", "set_real_ip_from 0.0.0.0/0;"),
    "an upgrade of any kind": ("variables", '    ~*h2c "";\n', ""),
    "one server more": ("manifest.conf", "{%- for object", "server { listen 81; }\n{%- for object"),
    "an object is left out": ("manifest.conf", "for object in objects", "for object in objects[1:]"),
    "the unknown host is served": ("manifest.conf", "return {{ unknown_host }}", "return 200"),
}


def test_one_of_everything_is_as_predicted(directory: Path) -> None:
    crowd, around = sight()
    written(crowd, replace(around, included=True), directory)
    decided = written(crowd, around, directory)
    hosts = {"a.example/", "a.example/git", "*.b.example/", "dead.example/", "good.example/"}
    assert places(decided).keys() == hosts
    assert [len(place.serving) for place in places(decided).values()] == [2, 1, 1, 0, 1]


@pytest.mark.parametrize("included", [False, True], ids=["full", "include"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_template_that_says_anything_else_is_noticed(change: str, included: bool, directory: Path) -> None:
    name, old, new = CHANGES[change]
    text = SHIPPED[f"{name}.j2"]
    assert old in text
    crowd, around = sight()
    with pytest.raises(AssertionError):
        written(crowd, replace(around, included=included), directory, Renderer(SHIPPED | {f"{name}.j2": text.replace(old, new)}))


@pytest.mark.parametrize("path", ["/a; return 200", "/a { } location /b", "/a\n", "/a b", "/a }", "# a", "'/a", '"/a'])
def test_a_value_that_slips_through_the_grammar_is_noticed(path: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With both locks open, the parser's and the renderer's, the tree alone tells."""
    monkeypatch.setattr("proxyctl.plan.vhosts._safe", lambda text: text)
    slipped = table(("a.example", location(path, routed())))
    view, how = nginx_tree.view(directory), make.settings(wait_after_boot=False)
    fileset = make.render(slipped, view, how, renderer=Renderer(SHIPPED))
    main = nginx_tree.write(fileset, directory)
    try:
        read = nginx_tree.parse(main, comments=True)
    except NgxParserBaseException:
        return
    assert in_order(read) != in_order(Expected(view, how).configuration(slipped, fileset.digest))
