"""One rename moves the reference, back as well as forth, and whatever crashes leaves one that resolves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from proxyctl.fileset import FileSet
from proxyctl.publish import test as testing
from proxyctl.publish.draft import Drafts
from proxyctl.publish.promote import Published, Reference
from tests.unit import bench, crash, make

ONE, TWO = make.render(make.site("a.example")), make.render(make.site("b.example"))


class Place:
    """The directories, and tested drafts for them."""

    def __init__(self, directory: Path) -> None:
        bench.folders(directory)
        self.conf, self.boot = directory / "conf", directory / "boot"
        self.drafts = Drafts(self.conf)
        self.drafts.prepare()
        self.engine = bench.Engine(directory)
        self.reference = Reference(self.conf / "nginx.conf", self.conf, self.boot, "/inside/conf")
        self.nginx = bench.instance(self.engine)

    async def tested(self, fileset: FileSet) -> testing.Tested:
        draft = await self.drafts.write(fileset)
        return await testing.Tester(self.engine).test(draft, self.nginx)

    async def promote(self, fileset: FileSet) -> Published:
        return await self.reference.promote(await self.tested(fileset))

    def published(self) -> str:
        """What nginx would read, through the symlink."""
        return (self.conf / "nginx.conf").read_text()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_what_is_promoted_is_what_nginx_reads(place: Place) -> None:
    assert place.reference.current() == ""
    assert await place.promote(ONE) == Published(ONE.digest, "")
    assert (place.reference.current(), place.published()) == (ONE.digest, ONE.main)
    assert await place.promote(TWO) == Published(TWO.digest, ONE.digest)
    assert (place.reference.current(), place.published()) == (TWO.digest, TWO.main)


async def test_the_reference_is_relative_so_that_it_resolves_wherever_it_is_mounted(place: Place) -> None:
    await place.promote(ONE)
    assert (place.conf / "nginx.conf").readlink() == Path("mains") / f"{ONE.digest}.conf"


async def test_what_was_before_comes_back_and_can_go_forth_again(place: Place) -> None:
    await place.promote(ONE)
    forth = await place.promote(TWO)
    back = await place.reference.restore(forth)
    assert back == Published(ONE.digest, TWO.digest)
    assert place.published() == ONE.main
    assert await place.reference.restore(back) == forth


async def test_the_first_publish_of_a_boot_leaves_a_mark_that_a_boot_clears(place: Place) -> None:
    await place.promote(ONE)
    mark = place.boot / "live"
    assert mark.readlink() == Path("/inside/conf")
    assert place.reference.is_marked()
    mark.unlink()
    assert not place.reference.is_marked()
    await place.promote(TWO)
    assert place.reference.is_marked()


async def test_a_mark_that_leads_elsewhere_is_none_and_is_replaced(place: Place) -> None:
    mark = place.boot / "live"
    mark.symlink_to("/nowhere")
    assert not place.reference.is_marked()
    await place.promote(ONE)
    assert mark.readlink() == Path("/inside/conf")


async def test_the_first_configuration_of_all_leaves_no_mark_because_nobody_has_tested_it(place: Place) -> None:
    place.reference.bootstrap(await place.drafts.write(ONE))
    assert place.published() == ONE.main
    assert not (place.boot / "live").is_symlink()


def by_hand(conf: Path) -> None:
    (conf / "nginx.conf").write_text("events {}\n")


def elsewhere(conf: Path) -> None:
    (conf / "nginx.conf").symlink_to("/etc/nginx/nginx.conf")


def dangling(conf: Path) -> None:
    (conf / "nginx.conf").symlink_to("mains/0123.conf")


@pytest.mark.parametrize("put", [by_hand, elsewhere, dangling])
async def test_a_reference_that_is_not_ours_counts_as_none_and_is_replaced(put: Callable[[Path], None], place: Place) -> None:
    put(place.conf)
    assert place.reference.current() == ""
    assert await place.promote(ONE) == Published(ONE.digest, "")
    assert place.published() == ONE.main


@pytest.mark.parametrize("error", [OSError, crash.PowerCut])
@pytest.mark.parametrize("marked", [True, False], ids=["later", "first of a boot"])
async def test_a_crash_at_any_step_leaves_a_reference_that_resolves(
    error: type[BaseException], marked: bool, place: Place
) -> None:
    await place.promote(ONE)
    if not marked:
        (place.boot / "live").unlink()
    await place.tested(TWO)
    crashes = 0
    for _ in crash.everywhere(lambda: place.reference._move(TWO.digest), error):
        crashes += 1
        assert place.published() in (ONE.main, TWO.main)
        assert Reference(place.conf / "nginx.conf", place.conf, place.boot, "/inside/conf").current() in (ONE.digest, TWO.digest)
    assert crashes >= 3
    assert place.published() == TWO.main
    assert (place.boot / "live").readlink() == Path("/inside/conf")


@pytest.mark.parametrize("marked", [True, False], ids=["later", "first of a boot"])
async def test_a_promotion_that_fails_leaves_the_reference_where_it_was(marked: bool, place: Place) -> None:
    await place.promote(ONE)
    tested = await place.tested(TWO)
    for step in range(20):
        if not marked:
            (place.boot / "live").unlink(missing_ok=True)
        with crash.at(step, OSError) as done:
            outcome = (await asyncio.gather(place.reference.promote(tested), return_exceptions=True))[0]
        if "crash" not in done:
            break
        assert isinstance(outcome, OSError)
        assert place.published() == ONE.main
    assert place.published() == TWO.main


async def test_two_readers_never_see_a_mixture(place: Place) -> None:
    await place.promote(ONE)
    one, two = await place.tested(ONE), await place.tested(TWO)
    seen = set()
    stop = False

    def look() -> None:
        while not stop:
            seen.add(place.published())

    looking = asyncio.create_task(asyncio.to_thread(look))
    for _ in range(100):
        await place.reference.promote(two)
        await place.reference.promote(one)
    stop = True
    await looking
    assert seen <= {ONE.main, TWO.main}


# ---------------------------------------------------------------- beside files of somebody else


class Beside(Place):
    """The folder of files is hidden in the directory that an nginx.conf of somebody else includes."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.file = self.conf / "zz-proxyctl.conf"
        self.drafts = Drafts(self.conf / ".proxyctl")
        self.drafts.prepare()
        self.reference = Reference(self.file, self.conf / ".proxyctl", self.boot, "", optional=True)
        self.nginx = bench.instance(self.engine, view=make.view(conf_dir=str(self.conf / ".proxyctl")))

    def published(self) -> str:
        return self.file.read_text() if self.file.is_symlink() else ""


async def test_one_visible_file_is_what_there_is_and_it_resolves_wherever_it_is_mounted(tmp_path: Path) -> None:
    place = Beside(tmp_path)
    await place.promote(ONE)
    assert place.published() == ONE.main
    assert place.file.readlink() == Path(".proxyctl/mains") / f"{ONE.digest}.conf"
    assert [path.name for path in place.conf.iterdir() if not path.name.startswith(".") and path.is_file()] == [place.file.name]


async def test_where_nothing_was_before_nothing_is_put_back(tmp_path: Path) -> None:
    place = Beside(tmp_path)
    first = await place.promote(ONE)
    assert place.reference.can_restore(first)
    assert await place.reference.restore(first) == Published("", ONE.digest)
    assert place.published() == ""
    second = await place.promote(TWO)
    assert await place.reference.restore(await place.promote(ONE)) == Published(TWO.digest, ONE.digest)
    assert second.previous == ""


async def test_an_nginx_conf_of_our_own_is_never_taken_away(place: Place) -> None:
    assert not place.reference.can_restore(await place.promote(ONE))


@pytest.mark.parametrize("error", [OSError, crash.PowerCut])
async def test_a_crash_at_any_step_leaves_no_visible_file_that_is_half_done(error: type[BaseException], tmp_path: Path) -> None:
    place = Beside(tmp_path)
    await place.promote(ONE)
    await place.tested(TWO)
    before = {path for path in place.conf.iterdir() if not path.name.startswith(".")}
    for _ in crash.everywhere(lambda: place.reference._move(TWO.digest), error):
        assert place.published() in (ONE.main, TWO.main)
        assert {path for path in place.conf.iterdir() if not path.name.startswith(".")} == before
    assert place.published() == TWO.main
