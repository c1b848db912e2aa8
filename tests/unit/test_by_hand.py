"""Names of hand-written vhosts that nginx ignores."""

from __future__ import annotations

import pytest

from proxyctl.model import Neighbours, RouteTable
from proxyctl.publish import by_hand
from tests.unit import make

ONE = "server {{ listen {}; server_name {}; return 200; }}\n"


def ignored(files: dict[str, str], table: RouteTable | None = None) -> list[tuple[str, str]]:
    found = by_hand.rejections(files, table or RouteTable(), Neighbours())
    assert all(r.reason == "conflict" and not r.container_id and r.hint for r in found)
    return [(r.container, r.message.partition(": ")[2]) for r in found]


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        (("80", "a.example"), ("80", "a.example"), "a.example on *:80"),
        (("80", "a.example"), ("0.0.0.0:80 backlog=7", "A.example b.example"), "a.example on *:80"),
        (("443 ssl", "a.example"), ("*:443 ssl", "a.example"), "a.example on *:443"),
        (("127.0.0.1", "a.example"), ("127.0.0.1:80", "a.example"), "a.example on 127.0.0.1:80"),
        (("[::]:80", "a.example"), ("[::]:80", "a.example"), "a.example on [::]:80"),
        (("80", ".a.example"), ("80", "*.a.example"), "*.a.example on *:80"),
        (("8080", '""'), ("8080", '""'), "nothing, for unnamed requests, on *:8080"),
    ],
)
def test_the_second_server_with_a_name_is_ignored(first: tuple[str, str], second: tuple[str, str], name: str) -> None:
    found = ignored({"1.conf": ONE.format(*first), "2.conf": ONE.format(*second)})
    assert found == [("sites/2.conf", f"{name} (sites/1.conf has it)")]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("80", "a.example"), ("80", "b.example")),
        (("80", "a.example"), ("8080", "a.example")),
        (("80", "a.example"), ("127.0.0.1:80", "a.example")),
        (("80", "~^a"), ("80", "~^a")),
        (("80", "*.a.example"), ("80", "x.a.example")),
    ],
)
def test_servers_that_nginx_tells_apart_are_not_spoken_of(first: tuple[str, str], second: tuple[str, str]) -> None:
    assert ignored({"1.conf": ONE.format(*first), "2.conf": ONE.format(*second)}) == []


def test_a_label_comes_before_a_file() -> None:
    table = make.decide([make.container("web", {"host": "a.example"})]).table
    assert ignored({"own.conf": ONE.format("80", "a.example c.example")}, table) == [
        ("sites/own.conf", "a.example on *:80 (the label of web has it)")
    ]
    assert ignored({"own.conf": ONE.format("443 ssl", "a.example")}, table) == []


def test_a_server_without_a_name_is_never_used() -> None:
    assert ignored({"own.conf": "server { listen 80; return 200; }"}) == [
        ("sites/own.conf", "nothing, for unnamed requests, on *:80 (the answer for unknown hosts has it)")
    ]
