"""Files on the partition: written whole, never rewritten, collected when nothing needs them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from proxyctl.fileset import FileSet
from proxyctl.publish.draft import ALIVE, FOLDERS, Drafts, listing
from tests.unit import crash, make

ONE, TWO = make.render(make.site("a.example")), make.render(make.site("b.example"))


def ready(directory: Path) -> Drafts:
    drafts = Drafts(directory)
    drafts.prepare()
    return drafts


def on_disk(directory: Path) -> dict[str, str]:
    return {f"{folder}/{path.name}": path.read_text() for folder in FOLDERS for path in (directory / folder).iterdir()}


def files(fileset: FileSet) -> dict[str, str]:
    name = f"{fileset.digest}.conf"
    texts = {f"objects/{key}": file.text for key, file in fileset.objects.items()}
    texts |= {f"manifests/{name}": fileset.manifest, f"mains/{name}": fileset.main, f"drafts/{name}": fileset.draft_main}
    return texts | {f"drafts/{fileset.digest}.list.conf": listing(fileset, None)}


async def test_a_draft_is_all_its_files_and_nothing_refers_to_it(tmp_path: Path) -> None:
    draft = await ready(tmp_path).write(ONE)
    assert draft.fileset is ONE
    assert on_disk(tmp_path) == files(ONE)
    assert set(os.listdir(tmp_path)) == {*FOLDERS, ALIVE}  # noqa: PTH208


async def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    drafts = ready(tmp_path)
    await drafts.write(ONE)
    with crash.at(0, OSError) as steps:
        await drafts.write(ONE, frozenset())
    assert steps == []


async def test_a_draft_of_what_is_untested_has_that_the_frame_and_the_sample(tmp_path: Path) -> None:
    both = make.render(
        make.table(("a.example", make.location("/", make.routed())), ("b.example", make.location("/", make.routed())))
    )
    named = next(name for name, file in both.objects.items() if "b.example" in file.text)
    await ready(tmp_path).write(both, frozenset({named}))
    shown = (tmp_path / "drafts" / f"{both.digest}.list.conf").read_text()
    assert shown.startswith(both.frame)
    assert {line for line in shown.removeprefix(both.frame).splitlines() if line} == {
        f"include {both.objects_dir}/{name};" for name in (named, both.sample)
    }


async def test_what_another_run_has_written_is_not_written_again(tmp_path: Path) -> None:
    await ready(tmp_path).write(ONE)
    drafts = ready(tmp_path)
    with crash.at(0, OSError) as steps:
        await drafts.write(ONE, frozenset())
    assert steps == []


async def test_a_second_draft_writes_what_differs(tmp_path: Path) -> None:
    drafts = ready(tmp_path)
    await drafts.write(ONE)
    with crash.at(-1, OSError) as steps:
        await drafts.write(TWO)
    assert steps.count("replace") == len(files(TWO).keys() - files(ONE).keys())
    assert on_disk(tmp_path) == files(ONE) | files(TWO)


async def test_names_are_durable_when_a_draft_is_written(tmp_path: Path) -> None:
    drafts = ready(tmp_path)
    with crash.at(-1, OSError) as steps:
        await drafts.write(ONE)
    last = len(steps) - steps[::-1].index("replace")
    assert steps[last:] == ["open", "fsync"] * len(FOLDERS)


@pytest.mark.parametrize("error", [OSError, crash.PowerCut])
async def test_a_draft_that_could_not_be_written_whole_is_written_at_the_next_try(
    error: type[BaseException], tmp_path: Path
) -> None:
    drafts = ready(tmp_path)
    for step in (4, 9, 14, 18):  # the first ones find that the folders are there
        with crash.at(step, error), pytest.raises(error):
            drafts._write_all(files(ONE))
        assert all(files(ONE).get(name, text) == text for name, text in on_disk(tmp_path).items())
    await drafts.write(ONE)
    assert on_disk(tmp_path).items() >= files(ONE).items()


async def test_a_full_disk_says_so_and_touches_nothing_that_is_there(tmp_path: Path) -> None:
    drafts = ready(tmp_path)
    await drafts.write(ONE)
    with crash.at(4, OSError), pytest.raises(OSError, match="the disk is full"):
        await drafts.write(TWO)
    assert on_disk(tmp_path).items() >= files(ONE).items()
    await drafts.write(TWO)
    assert on_disk(tmp_path).items() >= files(TWO).items()


async def test_collecting_keeps_what_is_needed_and_says_how_many_went(tmp_path: Path) -> None:
    drafts = ready(tmp_path)
    await drafts.write(ONE)
    await drafts.write(TWO)
    gone = files(ONE).keys() - files(TWO).keys()
    assert await drafts.collect([ONE, TWO]) == 0
    assert await drafts.collect([TWO]) == len(gone)
    assert on_disk(tmp_path) == files(TWO)
    await drafts.write(ONE)
    assert on_disk(tmp_path) == files(ONE) | files(TWO)


async def test_rests_of_a_run_that_was_killed_are_collected(tmp_path: Path) -> None:
    ready(tmp_path)
    (tmp_path / "objects" / ".0123.conf.new").write_text("half")
    (tmp_path / "mains" / "0123.conf").write_text("an old one")
    drafts = ready(tmp_path)
    await drafts.write(ONE)
    assert await drafts.collect([ONE]) == 2
    assert on_disk(tmp_path) == files(ONE)


async def test_collecting_touches_nothing_outside_its_folders(tmp_path: Path) -> None:
    drafts = ready(tmp_path)
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "own.conf").touch()
    (tmp_path / "nginx.conf").symlink_to("mains/x.conf")
    await drafts.collect([])
    assert (tmp_path / "sites" / "own.conf").exists()
    assert (tmp_path / "nginx.conf").is_symlink()


@pytest.mark.parametrize("what", ["removed", "emptied", "changed in place", "its folder removed"])
async def test_what_somebody_else_did_to_a_file_is_noticed_and_mended(what: str, tmp_path: Path) -> None:
    drafts = ready(tmp_path)
    await drafts.write(ONE)
    assert await drafts.mend(ONE) == ()
    name = next(iter(ONE.objects))
    path = tmp_path / "objects" / name
    if what == "removed":
        path.unlink()
    elif what == "emptied":
        path.write_text("")
    elif what == "changed in place":
        path.write_text("x" * path.stat().st_size)
    else:
        shutil.rmtree(path.parent)
    assert f"objects/{name}" in await drafts.mend(ONE)
    assert on_disk(tmp_path).items() >= files(ONE).items()
    assert await drafts.mend(ONE) == ()


async def test_a_file_that_a_power_cut_left_empty_is_not_believed(tmp_path: Path) -> None:
    await ready(tmp_path).write(ONE)
    path = tmp_path / "objects" / next(iter(ONE.objects))
    path.write_text("")
    await ready(tmp_path).write(ONE)
    assert on_disk(tmp_path) == files(ONE)


async def test_living_upstreams_have_a_file_each(tmp_path: Path) -> None:
    drafts = Drafts(tmp_path)
    drafts.prepare()
    for names in ({"a", "b"}, {"b", "c"}, set[str]()):
        await drafts.mark_alive(frozenset(names))
        assert {path.name for path in (tmp_path / ALIVE).iterdir()} == names
    await drafts.write(ONE)
    await drafts.mark_alive(frozenset({"a"}))
    shutil.rmtree(tmp_path / ALIVE)
    await drafts.mend(ONE)
    assert {path.name for path in (tmp_path / ALIVE).iterdir()} == {"a"}
    (tmp_path / ALIVE / "from-before").touch()
    drafts.prepare()
    await drafts.mark_alive(frozenset())
    assert not list((tmp_path / ALIVE).iterdir())
