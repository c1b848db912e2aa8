"""An nginx in no container: its pid file, its processes, its command."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyctl.model import EngineRefused
from proxyctl.publish.host import HostNginx
from proxyctl.publish.nginx import NginxMissing
from tests.rig import until

TITLE = "nginx: master process nginx -c /srv/nginx.conf"


@pytest.fixture
def pid(tmp_path: Path) -> Iterator[int]:
    """Of a process that has nginx's title, and the pid file names it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and a child inherits that
    process = subprocess.Popen([TITLE, "60"], executable="/bin/sleep")
    signal.signal(signal.SIGHUP, before)
    until(Path(f"/proc/{process.pid}/cmdline").read_bytes, 5, "a title", every=0.001)  # empty in the middle of exec
    (tmp_path / "pid").write_text(f"{process.pid}\n")
    yield process.pid
    process.kill()
    process.wait()


@pytest.fixture
def nginx(tmp_path: Path) -> HostNginx:
    return HostNginx(tmp_path / "pid", tmp_path / "vhosts")


async def test_it_looks_like_a_container_in_the_hosts_network(nginx: HostNginx, pid: int, tmp_path: Path) -> None:
    raw = await nginx.inspect_raw("host")
    assert raw
    assert raw["State"]["StartedAt"].startswith(f"{pid} ")
    assert raw["HostConfig"]["NetworkMode"] == "host"
    assert raw["Args"][1:3] == ["-c", "/srv/nginx.conf"]
    assert raw["Mounts"] == [{"Source": str(tmp_path / "vhosts"), "Destination": str(tmp_path / "vhosts")}]
    assert Path(raw["Config"]["Image"]).name in ("sleep", "coreutils", "busybox")
    assert [process[0] for process in await nginx.processes("host")] == [pid]


@pytest.mark.parametrize(
    "text",
    [None, "", "no number", str(2**22 + 1), str(os.getpid())],
    ids=["none", "empty", "no number", "no process", "another process"],
)
async def test_a_pid_file_that_names_no_nginx_is_told_and_nothing_is_signalled(
    text: str | None, nginx: HostNginx, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "pid").write_text(text)
    with pytest.raises(NginxMissing, match="start nginx"):
        await nginx.inspect_raw("host")
    with pytest.raises(EngineRefused):
        await nginx.kill("host", "HUP")
    with pytest.raises(EngineRefused):
        await nginx.processes("host")


def test_the_signal_goes_to_the_master(nginx: HostNginx, pid: int) -> None:
    asyncio.run(nginx.kill("host", "HUP"))
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGHUP


async def test_a_command_has_nothing_of_this_process(nginx: HostNginx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    held = os.pipe()
    os.set_inheritable(held[0], True)
    status, said = await nginx.execute("host", ["sh", "-c", f"echo $SECRET; ls /proc/self/fd/{held[0]}; pwd; exit 3"])
    for descriptor in held:
        os.close(descriptor)
    assert status == 3
    assert said.splitlines()[0] == ""
    assert "No such file" in said.splitlines()[1]
    assert said.splitlines()[2] == "/"


async def test_a_command_that_is_not_there_is_told(nginx: HostNginx) -> None:
    with pytest.raises(EngineRefused, match="no-such-nginx cannot be run"):
        await nginx.execute("host", ["no-such-nginx"])
