"""Files that are whole at every moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyctl.files import sync_directory, write_whole
from tests.unit import crash


def test_a_file_is_written_with_its_text_for_everybody_to_read(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.conf", "caf\u00e9\n")
    assert (tmp_path / "a.conf").read_bytes() == b"caf\xc3\xa9\n"
    assert (tmp_path / "a.conf").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["a.conf"]


def test_the_content_is_durable_before_its_name_is(tmp_path: Path) -> None:
    with crash.at(-1, OSError) as steps:
        write_whole(tmp_path / "a.conf", "new")
    assert steps == ["open", "fsync", "replace"]


@pytest.mark.parametrize("error", [OSError, crash.PowerCut])
def test_a_crash_at_any_step_leaves_the_old_content_or_the_new_one(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    path.write_text("old")
    crashes = 0
    for _ in crash.everywhere(lambda: write_whole(path, "new"), error):
        crashes += 1
        assert path.read_text() == "old"
    assert crashes == 3
    assert path.read_text() == "new"


def test_a_full_disk_leaves_no_rest_behind(tmp_path: Path) -> None:
    for _ in crash.everywhere(lambda: write_whole(tmp_path / "a.conf", "new"), OSError):
        assert list(tmp_path.iterdir()) == []


def test_the_rest_of_a_power_cut_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".a.conf.new").write_text("the rest of something longer")
    write_whole(tmp_path / "a.conf", "new")
    assert (tmp_path / "a.conf").read_text() == "new"


def test_the_temporary_file_is_hidden_from_a_glob_of_nginx(tmp_path: Path) -> None:
    with crash.at(2, crash.PowerCut), pytest.raises(crash.PowerCut):
        write_whole(tmp_path / "a.conf", "new")
    assert [path.name for path in tmp_path.iterdir()] == [".a.conf.new"]
    assert list(tmp_path.glob("[!.]*")) == []


def test_only_a_directory_can_be_synced_as_one(tmp_path: Path) -> None:
    sync_directory(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        sync_directory(tmp_path / "file")
