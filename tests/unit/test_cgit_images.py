"""What examples/cgit/build.py makes of files: the same bytes wherever and whenever they were checked out. That Debian's packages
give the same ones is seen when the images are built: scripts/testbed builds cgit twice."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from examples.cgit import build

RECIPES = sorted(path.name for path in (build.HERE / "images").iterdir())


@pytest.mark.parametrize("name", RECIPES)
def test_another_clone_gives_the_same_layer(tmp_path: Path, name: str) -> None:
    root = build.HERE / "images" / name / "root"
    shutil.copytree(root, tmp_path / "clone", symlinks=True)
    for path in (tmp_path / "clone").rglob("*"):
        if not path.is_symlink():
            path.chmod(0o700)
            os.utime(path, (1, 1))
    assert build.files(tmp_path / "clone", "v1") == build.files(root, "v1")


def test_versions_differ_in_what_names_them_and_nothing_else() -> None:
    root = build.HERE / "images" / "cgit" / "root"
    layers = {version: build.files(root, version) for version in ("v1", "v2")}
    assert layers["v1"] != layers["v2"]
    assert layers["v1"].replace(b"cgit-v1", b"cgit-v2").replace(b"image v1", b"image v2") == layers["v2"]
    with tarfile.open(fileobj=io.BytesIO(layers["v1"])) as layer:
        assert {entry.mtime for entry in layer} == {build.EPOCH}


def test_a_changed_file_changes_the_image_id(tmp_path: Path) -> None:
    recipe = build.HERE / "images" / "cgit"
    (tmp_path / "a").write_bytes(build.files(recipe / "root", "v1"))
    (tmp_path / "b").write_bytes(build.files(recipe / "root", "v2"))
    one, same, other = (build.config_of(recipe, [tmp_path / name], {}) for name in "aab")
    assert one == same != other
