"""A draft that nginx refuses: whose fault it is, what is served instead, and when it is tried again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from proxyctl.fileset import ConfigFile, ConfigPart, FileSet, Refusal
from proxyctl.model import Location, RouteTable, VirtualHost
from proxyctl.plan import quarantine
from proxyctl.plan.quarantine import Served, Suspects
from tests.unit.make import container, decide, serving

GOOD = container("web", {"host": "good.example"}, created=1.0, networks={"front": "10.0.0.1"})
BAD = container("bad", {"host": "bad.example", "path": "/x"}, created=2.0, networks={"front": "10.0.0.2"})
TABLE = decide([GOOD, BAD]).table


def name_of(source: str) -> str:
    return "".join(f"{ord(letter):02x}" for letter in source)[:32].ljust(32, "0") + ".conf"


def fileset(*sources: str, texts: Mapping[str, str] | None = None, neighbours: bool = False) -> FileSet:
    """One object a source."""
    parts = {source: ConfigPart(source, (texts or {}).get(source, source), ()) for source in sources}
    objects = {name_of(source): ConfigFile((part,)) for source, part in parts.items()}
    return FileSet(
        digest="d",
        main="",
        draft="d",
        draft_main="",
        draft_links={},
        neighbours=neighbours,
        manifest="",
        frame="",
        frame_form="",
        objects=objects,
        sample="",
        objects_dir="/etc/proxyctl/conf/objects",
        separable=True,
    )


DRAFT = fileset("good.example", "bad.example", "file own.conf", texts={"bad.example": "location /odd-one {}"})


def test_the_object_that_nginx_names_is_the_culprit() -> None:
    reason = f'unknown directive "retrun" in /etc/proxyctl/conf/objects/{name_of("file own.conf")}:3'
    assert quarantine.culprits(reason, DRAFT, None) == Suspects(frozenset({"file own.conf"}))


def test_of_an_object_with_several_hosts_it_is_the_one_that_has_the_line() -> None:
    parts = (ConfigPart("a", "1\n2\n", (), "3\n"), ConfigPart("b", "4\n", ()), ConfigPart("c", "5\n6\n", (), "7\n8\n"))
    crowd = replace(DRAFT, objects={name_of("crowd"): ConfigFile(parts)})
    for line, source in enumerate("accaabcc", 1):
        reason = f"unknown directive in /etc/proxyctl/conf/objects/{name_of('crowd')}:{line}"
        assert quarantine.culprits(reason, crowd, None) == Suspects(frozenset({source}))
    assert quarantine.culprits(f"/objects/{name_of('crowd')} is odd", crowd, None) == Suspects(frozenset("abc"))


def test_else_what_is_new_and_holds_the_name_that_nginx_quotes() -> None:
    reason = 'zone "/odd-one" is too small'
    assert quarantine.culprits(reason, DRAFT, None) == Suspects(frozenset({"bad.example"}))


def test_else_everything_that_is_new() -> None:
    suspects = quarantine.culprits("could not build the hash", DRAFT, fileset("good.example"))
    assert suspects == Suspects(frozenset({"bad.example", "file own.conf"}), certain=False)


def test_nothing_new_means_that_the_frame_is_wrong_and_nobody_is_blamed() -> None:
    assert quarantine.culprits("whatever", DRAFT, DRAFT).sources == frozenset()


def refusal(source: str, table: RouteTable = TABLE) -> Refusal:
    return Refusal(source, quarantine.essence(source, table, {"own.conf": "text"}), "no")


def test_a_file_of_somebody_elses_beside_them_is_nobodys_fault() -> None:
    beside = replace(DRAFT, neighbours=True)
    assert quarantine.culprits('unexpected "}" in /etc/nginx/conf.d/own.conf:3', beside, None).sources == frozenset()
    ours = f'unexpected "}}" in /etc/proxyctl/conf/objects/{name_of("bad.example")}:1'
    assert quarantine.culprits(ours, beside, None) == Suspects(frozenset({"bad.example"}))
    assert len(quarantine.culprits("could not build server_names_hash", beside, None).sources) == 3


@pytest.mark.parametrize("source", ["bad.example", "file own.conf"])
def test_what_is_refused_is_held_until_it_changes(source: str) -> None:
    held = [refusal(source)]
    assert quarantine.still_held(held, TABLE, {"own.conf": "text"}).keys() == {source}
    mended = decide([GOOD, container("bad", {"host": "bad.example", "path": "/y"}, networks={"front": "10.0.0.2"})]).table
    assert quarantine.still_held(held, mended, {"own.conf": "mended"}) == {}
    assert quarantine.still_held(held, RouteTable(), {}) == {}


def test_a_new_address_is_not_a_change() -> None:
    moved = decide([GOOD, container("bad", {"host": "bad.example", "path": "/x"}, networks={"front": "10.0.0.9"})]).table
    assert quarantine.still_held([refusal("bad.example")], moved, {}).keys() == {"bad.example"}


def test_what_was_never_live_is_left_out_and_the_rest_is_untouched() -> None:
    served = quarantine.without({"bad.example"}, TABLE, {"own.conf": "text"}, Served(RouteTable(), {}))
    assert serving(served.table) == {"good.example/": ["web"]}
    assert served.files == {"own.conf": "text"}


def test_what_was_live_goes_on_as_it_was_with_the_targets_of_today() -> None:
    before = decide([container("old", {"host": "bad.example", "path": "/x"}, networks={"front": "10.0.0.8"})]).table
    today = decide([BAD, container("more", {"host": "bad.example", "path": "/new"}, networks={"front": "10.0.0.7"})]).table
    served = quarantine.without({"bad.example"}, today, {}, Served(before, {}))
    assert serving(served.table) == {"bad.example/x": ["bad"]}


def test_a_place_whose_targets_are_gone_is_kept_and_has_none() -> None:
    before = VirtualHost("bad.example", (Location("/gone", False, "http", "s", "default", (), False),))
    served = quarantine.without({"bad.example"}, TABLE, {}, Served(RouteTable((before,)), {}))
    assert serving(served.table) == {"bad.example/gone": [], "good.example/": ["web"]}


def test_a_hand_written_file_falls_back_to_what_was_live_of_it() -> None:
    good = Served(RouteTable(), {"own.conf": "good"})
    assert quarantine.without({"file own.conf"}, TABLE, {"own.conf": "bad"}, good).files == {"own.conf": "good"}
    assert quarantine.without({"file own.conf"}, TABLE, {"own.conf": "bad"}, Served(RouteTable(), {})).files == {}


def test_those_whom_it_concerns_are_told_in_nginx_words() -> None:
    told = quarantine.rejections([refusal("bad.example"), refusal("file own.conf")], TABLE)
    assert [(r.container, r.reason) for r in told] == [("bad", "quarantined"), ("sites/own.conf", "quarantined")]
    assert all("no" in r.message and r.hint for r in told)
