"""A path of this process -> the same file as the Docker host names it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from proxyctl.observe import mounts
from proxyctl.observe.mounts import NotMounted, own_container_id, translate

ID = "0123456789abcdef" * 4
LINE = f"685 680 254:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw,relatime - ext4 /dev/vda1 rw\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("22 1 0:21 / /proc rw - proc proc rw\n" + LINE, ID, id="by its host name"),
        pytest.param(LINE.replace("hostname", "resolv.conf"), ID, id="by its resolver"),
        pytest.param(LINE.replace("/var/lib/docker", "/srv/elsewhere"), ID, id="with a data root elsewhere"),
        pytest.param(f"1 1 0:1 /containers/{ID}/hostname /mnt/hostname rw - ext4 x rw\n", "", id="a mount that is not Docker's"),
        pytest.param(LINE.replace(ID, ID[:12]), "", id="not an id"),
        pytest.param("", "", id="a host"),
    ],
)
def test_a_container_knows_itself_by_the_mounts_that_docker_makes_for_it(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(text)
    assert own_container_id(tmp_path / "mountinfo") == expected


def test_a_system_without_proc_is_a_host(tmp_path: Path) -> None:
    assert own_container_id(tmp_path / "none") == ""


MOUNTS = {Path("/data"): Path("/host/volume"), Path("/data/deep"): Path("/host/deep"), Path("/run"): Path("/host/run")}


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/data", "/host/volume"), ("/data/a/b", "/host/volume/a/b"), ("/data/deep/x", "/host/deep/x"), ("/run/y", "/host/run/y")],
)
def test_a_path_is_that_of_the_nearest_mount_around_it(path: str, expected: str) -> None:
    assert translate(Path(path), MOUNTS) == Path(expected)


@pytest.mark.parametrize("path", ["/etc/x", "/datax", "/"])
def test_a_path_on_no_mount_is_told(path: str) -> None:
    with pytest.raises(NotMounted, match=f"{path} is not on a volume: mount one there"):
        translate(Path(path), MOUNTS)


class Engine:
    def __init__(self, raw: Mapping[str, Any] | None) -> None:
        self.raw, self.asked = raw, 0

    async def inspect_raw(self, container: str) -> Mapping[str, Any] | None:
        assert container == ID
        self.asked += 1
        return self.raw


async def test_on_a_host_a_path_is_itself_and_the_engine_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "own_container_id", lambda: "")
    engine = Engine({})
    assert await mounts.host_path(engine, Path("/var/lib/x")) == Path("/var/lib/x")
    assert engine.asked == 0


async def test_in_a_container_the_engine_says_where_a_mount_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "own_container_id", lambda: ID)
    engine = Engine({"Mounts": [{"Destination": "/state", "Source": "/host/state"}]})
    assert await mounts.host_path(engine, Path("/state/nginx")) == Path("/host/state/nginx")
    with pytest.raises(NotMounted):
        await mounts.host_path(engine, Path("/elsewhere"))


async def test_a_container_that_the_engine_does_not_know_is_a_host_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "own_container_id", lambda: ID)
    assert await mounts.host_path(Engine(None), Path("/state")) == Path("/state")
