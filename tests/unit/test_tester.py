"""Draft -> Tested: what nginx has accepted is not asked again, and what it refuses is refused in its own words."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxyctl import acceptance
from proxyctl.acceptance import Acceptance
from proxyctl.fileset import FileSet
from proxyctl.model import EngineRefused, RouteTable
from proxyctl.plan.quarantine import Served
from proxyctl.plan.vhosts import Renderer
from proxyctl.publish import test as testing
from proxyctl.publish.draft import Drafts
from tests.unit import bench, make, nginx_tree
from tests.unit.make import location, routed, table

ONE = table(("a.example", location("/", routed())))
MOVED = table(("a.example", location("/", routed("10.9.9.9:81", weight=3), routed("10.9.9.8:81"))))
DEAD = table(("a.example", location("/", routed(serving=False))))
OTHER = table(("b.example", location("/git", routed())))
NAMED = table(("b.example", location("/", routed())))


class Bench:
    def __init__(self, directory: Path) -> None:
        self.engine = bench.Engine(directory)
        self.drafts = Drafts(directory / "conf")
        self.drafts.prepare()
        self.tester = testing.Tester(self.engine)
        self.view = nginx_tree.view(directory / "conf")

    def rendered(self, what: RouteTable) -> FileSet:
        return make.render(what, self.view)

    async def test(self, what: RouteTable) -> testing.Tested:
        nginx, fileset = bench.instance(self.engine, view=self.view), self.rendered(what)
        return await self.tester.test(await self.drafts.write(fileset, self.tester.untested(fileset, nginx)), nginx)

    def listen(self) -> list[str]:
        """What nginx is shown from now on."""
        seen: list[str] = []

        def refuses(text: str) -> str:
            seen.append(text)
            return ""

        self.engine.refuses = refuses
        return seen

    def knows(self, what: RouteTable) -> bool:
        return self.tester.untested(self.rendered(what), bench.instance(self.engine, view=self.view)) == frozenset()


@pytest.fixture
def here(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_a_draft_is_tested_by_nginx_in_its_own_container(here: Bench) -> None:
    tested = await here.test(ONE)
    assert tested.draft.fileset == here.rendered(ONE)
    assert here.engine.did("test") == [(bench.NGINX, f"{here.view.conf_dir}/drafts/{tested.draft.fileset.digest}.conf")]


@pytest.mark.parametrize("again", [ONE, MOVED, DEAD, NAMED], ids=["the same", "other targets", "none alive", "another name"])
async def test_what_differs_in_targets_and_names_alone_is_accepted_already(again: RouteTable, here: Bench) -> None:
    await here.test(ONE)
    assert here.knows(again)
    await here.test(again)
    assert len(here.engine.did("test")) == 1


async def test_what_has_another_shape_is_tested(here: Bench) -> None:
    await here.test(ONE)
    assert not here.knows(OTHER)
    await here.test(OTHER)
    assert len(here.engine.did("test")) == 2


async def test_another_image_of_nginx_is_asked_anew(here: Bench) -> None:
    await here.test(ONE)
    here.engine.image_id = "image-2"
    assert not here.knows(ONE)
    await here.test(OTHER)
    assert here.knows(OTHER)
    assert not here.knows(ONE)
    here.engine.image_id = "image-1"
    assert not here.knows(OTHER)


async def test_what_is_refused_is_not_remembered_as_accepted(here: Bench) -> None:
    here.engine.refuses = lambda text: "no such thing" if "b.example" in text else ""
    with pytest.raises(testing.Refused, match="nginx refuses the draft: no such thing"):
        await here.test(OTHER)
    assert not here.knows(OTHER)
    here.engine.refuses = lambda _: ""
    assert (await here.test(OTHER)).draft.fileset == here.rendered(OTHER)


async def test_what_is_remembered_is_bounded(here: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "MOST_FORMS", 1)
    await here.test(ONE)
    await here.test(OTHER)
    assert here.knows(OTHER)
    assert not here.knows(ONE)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("nginx: [emerg] unknown directive in /a.conf:3\nnginx: test failed\n", "unknown directive in /a.conf:3"),
        ("2026/11/24 06:00:00 [emerg] 7#7: no port\n", "no port"),
        ("[warn] first\n[emerg] second\n[emerg] third\n", "second"),
        ("exec failed: no such file\n", "exec failed: no such file"),
        ("", "no reason given"),
        ("\n\n", "no reason given"),
    ],
)  # fmt: skip
def test_the_reason_is_what_nginx_says_first(said: str, reason: str) -> None:
    assert testing.reason_of(said) == reason


CROWD = table(*((f"h{number}.example", location(f"/h{number}", routed())) for number in range(300)))
"""Each has a path of its own, and so another form."""


async def test_of_many_hosts_nginx_sees_those_that_are_new(here: Bench) -> None:
    await here.test(CROWD)
    seen = here.listen()
    await here.test(RouteTable((*CROWD.vhosts, *ONE.vhosts)))
    (text,) = seen
    assert "server_name a.example;" in text
    assert text.count("server_name h") < 10, "the few that share its file"
    assert "default_server" in text, "the frame"


async def test_of_many_hosts_of_one_form_nginx_sees_a_few(here: Bench) -> None:
    same = table(*((f"h{number:03}.example", location("/", routed())) for number in range(300)))
    seen = here.listen()
    await here.test(same)
    (text,) = seen
    assert 0 < text.count("server_name h") < 10, "those of one file"
    assert here.knows(same)


async def test_a_draft_that_hides_what_is_untested_is_no_draft(here: Bench) -> None:
    await here.test(CROWD)
    fileset, nginx = here.rendered(RouteTable((*CROWD.vhosts, *ONE.vhosts))), bench.instance(here.engine, view=here.view)
    with pytest.raises(ValueError, match="leaves out"):
        await here.tester.test(await here.drafts.write(fileset, frozenset()), nginx)
    assert not here.knows(ONE)


async def test_with_templates_of_ones_own_nginx_sees_everything(here: Bench) -> None:
    own = Renderer(make.templates())
    nginx, seen = bench.instance(here.engine, view=here.view), here.listen()
    for what in (ONE, RouteTable((*ONE.vhosts, *OTHER.vhosts))):
        fileset = make.render(what, here.view, renderer=own)
        await here.tester.test(await here.drafts.write(fileset, here.tester.untested(fileset, nginx)), nginx)
    assert [text.count("server_name a.example;") for text in seen] == [1, 1]


@pytest.mark.parametrize(
    ("status", "said"),
    [(126, "OCI runtime exec failed: exec failed"), (137, ""), (-1, ""), (1, "error executing setns process: exit status 1")],
)
async def test_an_nginx_that_could_not_be_asked_has_refused_nothing(
    status: int, said: str, here: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def execute(*_: object) -> tuple[int, str]:
        return status, said

    monkeypatch.setattr(here.engine, "execute", execute)
    with pytest.raises(EngineRefused, match="could not be run"):
        await here.test(ONE)
    assert not here.knows(ONE)


async def test_an_nginx_that_crashes_on_a_draft_has_refused_it(here: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def execute(*_: object) -> tuple[int, str]:
        return 139, ""

    monkeypatch.setattr(here.engine, "execute", execute)
    with pytest.raises(testing.Refused, match="crashes"):
        await here.test(ONE)


async def test_what_all_parts_of_a_test_took_is_what_nginx_needs_to_parse(here: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = here.engine.execute

    async def slowly(container: str, argv: list[str]) -> tuple[int, str]:
        await asyncio.sleep(0.02)
        return await execute(container, argv)

    monkeypatch.setattr(here.engine, "execute", slowly)
    monkeypatch.setattr(acceptance, "AT_ONCE", 250)
    crowd = table(*((f"h{number}.example", location(f"/h{number}", routed())) for number in range(1500)))
    fileset, nginx = make.render(crowd, here.view), bench.instance(here.engine, view=here.view)
    await Acceptance(here.drafts, here.tester, Served(RouteTable(), {})).test(fileset, nginx)
    parts = len(here.engine.did("test"))
    assert parts > 4
    assert here.tester.parsing >= 0.02 * (parts - 1)


async def test_what_the_engine_needs_for_any_test_is_not_what_nginx_needs_to_parse(
    here: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = here.engine.execute

    async def slowly(container: str, argv: list[str]) -> tuple[int, str]:
        await asyncio.sleep(0.2)
        return await execute(container, argv)

    monkeypatch.setattr(here.engine, "execute", slowly)
    await here.test(ONE)
    await here.test(OTHER)
    assert here.tester.parsing < 0.1


async def test_thousands_of_hosts_are_shown_in_parts_and_what_is_hand_written_with_each(
    here: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptance, "AT_ONCE", 250)
    crowd = table(*((f"h{number}.example", location(f"/h{number}", routed())) for number in range(1500)))
    fileset, nginx = (
        make.render(crowd, here.view, operator_files={"own.conf": "server { listen 81; }\n"}),
        bench.instance(here.engine, view=here.view),
    )
    seen = here.listen()
    accepting = Acceptance(here.drafts, here.tester, Served(RouteTable(), {}))
    assert (await accepting.test(fileset, nginx)).draft.fileset is fileset
    assert len(seen) > 4
    assert sum(text.count("server_name h") for text in seen) == 1500
    assert all("listen 81" in text and "default_server" in text for text in seen)
    before = sorted(here.drafts._present)
    assert (await accepting.test(fileset, nginx)).draft.untested == frozenset(), "nothing is written to be shown again"
    assert sorted(here.drafts._present) == before
    assert len(here.engine.did("test")) == len(seen)
