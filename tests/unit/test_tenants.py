"""What containers of different compose projects may take from each other, and what is never a target."""

from __future__ import annotations

from proxyctl.model import Container, Owner
from proxyctl.plan.ownership import ClaimRule
from tests.unit.make import NOW, container, decide, refusals, serving


def of(project: str, name: str, *, created: float = NOW, image: str = "image", **asked: str) -> Container:
    """A container of a compose project; of none when it is empty."""
    labels = {"host": "shop.example"} | asked
    compose = f"{project}/{name}" if project else ""
    made = container(name, labels, created=created, compose=compose, networks={"front": f"10.0.2.{len(name)}"})
    return Container(**{field: getattr(made, field) for field in made.__slots__} | {"image": image})


SHOP = of("shop", "web", created=1.0)


def test_a_longer_prefix_under_a_host_is_for_the_same_project() -> None:
    plan = decide([SHOP, of("shop", "api", created=2.0, path="/api")])
    assert serving(plan.table) == {"shop.example/": ["web"], "shop.example/api": ["api"]}
    plan = decide([SHOP, of("thief", "evil", created=2.0, path="/login")])
    assert serving(plan.table) == {"shop.example/": ["web"]}
    assert refusals(plan) == [("evil", "host-taken")]
    assert "shop.web" in plan.rejections[0].message


def test_who_has_a_host_keeps_it_whole_against_an_older_container_of_another_project() -> None:
    plan = decide(
        [SHOP, of("old", "older", created=0.5, path="/x")],
        owners={place: Owner("shop.web", "shop") for place in ("shop.example", "shop.example/")},
    )
    assert serving(plan.table) == {"shop.example/": ["web"]}


def test_containers_without_a_project_count_as_one() -> None:
    plan = decide([of("", "one", created=1.0), of("", "two", created=2.0, path="/two")])
    assert serving(plan.table) == {"shop.example/": ["one"], "shop.example/two": ["two"]}


def test_a_service_is_joined_from_another_project_only_when_its_own_containers_name_it() -> None:
    plan = decide([SHOP, of("blue", "spy", created=2.0, service="shop.web")])
    assert serving(plan.table) == {"shop.example/": ["web"]}
    assert refusals(plan) == [("spy", "not-allowed")]
    assert "proxyctl.service" in plan.rejections[0].hint
    first, second = of("shop-1", "v1", created=1.0, service="shop"), of("shop-2", "v22", created=2.0, service="shop")
    assert serving(decide([first, second]).table) == {"shop.example/": ["v1", "v22"]}


def test_a_rule_of_the_operator_admits_some_and_keeps_out_the_rest() -> None:
    rules = (ClaimRule(hosts=("*.example",), projects=("shop", "docs-*")),)
    guest = of("docs-2", "manual", created=2.0, path="/docs")
    plan = decide([SHOP, guest, of("thief", "evil", created=0.1, path="/x")], claims=rules)
    assert serving(plan.table) == {"shop.example/": ["web"], "shop.example/docs": ["manual"]}
    assert refusals(plan) == [("evil", "not-allowed")]
    assert "[[claims]]" in plan.rejections[0].message


def test_a_rule_can_be_about_paths_and_images() -> None:
    rules = (ClaimRule(hosts=("shop.example",), paths=("/admin",), images=("registry.example/admin:*",)),)
    right = of("shop", "good", created=2.0, path="/admin/users", image="registry.example/admin:3")
    wrong = of("shop", "wrong", created=1.5, path="/admin", image="other")
    plan = decide([SHOP, right, wrong], claims=rules)
    assert serving(plan.table) == {"shop.example/": ["web"], "shop.example/admin/users": ["good"]}
    assert refusals(plan) == [("wrong", "not-allowed")]


def test_ports_of_the_host_that_are_proxyctls_own_are_never_targets() -> None:
    loop = container("loop", {"host": "loop.example", "port": "9180"}, mode="host", networks={"host": ""})
    plan = decide([loop], own_ports=[80, 9180])
    assert serving(plan.table) == {"loop.example/": []}
    assert refusals(plan) == [("loop", "unreachable")]
    assert refusals(decide([loop], own_ports=[80])) == []


def test_link_local_and_metadata_addresses_are_never_targets() -> None:
    for address in ("169.254.169.254", "169.254.1.1", "100.100.100.200", "fe80::1", "fd00:ec2::254"):
        ipv4, ipv6 = ("", address) if ":" in address else (address, "")
        plan = decide([container("meta", {"host": "meta.example"}, networks={"front": ipv4}, ipv6={"front": ipv6})])
        assert serving(plan.table) == {"meta.example/": []}
        assert refusals(plan) == [("meta", "unreachable")]
