"""An nginx of somebody else: found, looked at, and never made, started or changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxyctl.model import EngineRefused
from proxyctl.publish.included import IncludingNginx, IncludingSpec
from proxyctl.publish.nginx import NginxMissing
from tests.unit import bench, make

OURS = "zz-proxyctl.conf"


class Engine(bench.Engine):
    """Its nginx prints the files of the host's `conf`, and an nginx.conf that includes them."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.refused = ""
        self.command: list[str] = []
        self.named = True
        """There is a container of the name in the configuration."""

    async def inspect_raw(self, container: str) -> Any:
        raw = await super().inspect_raw(container)
        if not self.named and container == "nginx":
            return None
        return raw and {**raw, "Args": self.command}

    async def execute(self, container: str, argv: list[str]) -> tuple[int, str]:
        if "-T" not in argv:
            return await super().execute(container, argv)
        self._called("print", *argv)
        if self.refused:
            return 1, f"nginx: [emerg] {self.refused}\n"
        conf = self.directory / "conf"
        files = {"/etc/nginx/nginx.conf": f"events {{}}\nhttp {{ include {conf}/*.conf; }}\n"}
        files |= {str(path): path.read_text() for path in sorted(conf.glob("*.conf"))}
        return 0, "".join(f"# configuration file {path}:\n{text}\n" for path, text in files.items())


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    bench.folders(tmp_path)
    (tmp_path / "conf" / "hand.conf").write_text("server { server_name hand.example; }\n")
    return Engine(tmp_path)


def theirs(engine: Engine) -> IncludingNginx:
    conf = engine.directory / "conf"
    return IncludingNginx(engine, IncludingSpec("nginx", "proxyctl.nginx", conf, conf, ".proxyctl", OURS))


async def test_it_is_described_with_what_lies_beside_our_file(engine: Engine) -> None:
    found = await theirs(engine).ensure()
    conf = engine.directory / "conf"
    assert found.view.conf_dir == f"{conf}/.proxyctl"
    assert found.view.neighbours.hosts == {"hand.example": f"{conf}/hand.conf"}
    assert not found.outdated
    assert {call[0] for call in engine.calls} == {"inspect_raw", "print"}


async def test_one_that_is_paused_is_named_with_the_remedy(engine: Engine) -> None:
    engine.status = "paused"
    with pytest.raises(NginxMissing, match=r"the container .* is paused, and nginx answers nobody: docker unpause "):
        await theirs(engine).ensure()


@pytest.mark.parametrize("status", ["created", "exited", "dead"])
async def test_one_that_does_not_run_is_not_started(status: str, engine: Engine) -> None:
    engine.status = status
    engine.nginx.write("nginx: [emerg] no port")
    with pytest.raises(NginxMissing, match=r"does not run: nginx: \[emerg\] no port"):
        await theirs(engine).ensure()
    assert not engine.did("start")


async def test_one_that_is_not_there_is_not_made(engine: Engine) -> None:
    engine.status = ""
    with pytest.raises(NginxMissing, match="there is no container nginx"):
        await theirs(engine).ensure()
    assert {call[0] for call in engine.calls} == {"inspect_raw", "list"}


async def test_without_one_of_the_name_the_label_counts(engine: Engine) -> None:
    engine.named = False
    engine.put(make.container("other"), make.container(bench.NGINX, labels={"proxyctl.nginx": "true"}))
    assert (await theirs(engine).ensure()).id == bench.NGINX


async def test_two_with_the_label_are_told_by_name(engine: Engine) -> None:
    engine.named = False
    engine.put(*(make.container(name, labels={"proxyctl.nginx": "true"}) for name in ("one", "two")))
    with pytest.raises(NginxMissing, match="one, two"):
        await theirs(engine).ensure()


async def test_a_directory_that_is_not_mounted_is_told(engine: Engine) -> None:
    engine.mounted = ("logs",)
    with pytest.raises(NginxMissing, match=r"does not mount .*/conf"):
        await theirs(engine).ensure()


async def test_a_folder_above_it_may_be_what_is_mounted(engine: Engine) -> None:
    engine.mounted = ("",)
    assert (await theirs(engine).ensure()).view.conf_dir == f"{engine.directory}/conf/.proxyctl"


async def test_it_is_asked_what_it_reads_when_that_has_changed_and_not_each_time(engine: Engine, monkeypatch: Any) -> None:
    nginx = theirs(engine)
    monkeypatch.setattr("proxyctl.publish.included.LOOK_SHARE", 1e9)
    for _ in range(3):
        await nginx.ensure()
    assert len(engine.did("print")) == 1
    (engine.directory / "conf" / OURS).write_text("ours\n")
    (engine.directory / "conf" / ".hidden").write_text("nobody's\n")
    await nginx.ensure()
    assert len(engine.did("print")) == 1
    (engine.directory / "conf" / "more.conf").write_text("server { server_name more.example; }\n")
    assert "more.example" in (await nginx.ensure()).view.neighbours.hosts
    engine.started += 1
    await nginx.ensure()
    assert len(engine.did("print")) == 3


async def test_what_it_reads_from_elsewhere_is_looked_at_again_after_a_while(engine: Engine, monkeypatch: Any) -> None:
    nginx = theirs(engine)
    monkeypatch.setattr("proxyctl.publish.included.LOOK_SHARE", 0)
    await nginx.ensure()
    await nginx.ensure()
    assert len(engine.did("print")) == 2


async def test_a_configuration_of_theirs_that_nginx_refuses_is_told_and_looked_at_until_it_is_mended(engine: Engine) -> None:
    nginx = theirs(engine)
    good = (await nginx.ensure()).view.neighbours
    (engine.directory / "conf" / "hand.conf").write_text("servr {}\n")
    engine.refused = 'unknown directive "servr" in /etc/nginx/conf.d/hand.conf:1'
    found = (await nginx.ensure()).view.neighbours
    assert found.refused.startswith(f"{engine.refused}: that is not proxyctl's")
    assert (found.hosts, found.around) == (good.hosts, good.around)
    engine.refused = ""
    assert not (await nginx.ensure()).view.neighbours.refused


async def test_a_command_that_could_not_be_run_is_nobodys_fault(engine: Engine, monkeypatch: Any) -> None:
    async def gone(*_: object) -> tuple[int, str]:
        return 126, "exec failed"

    monkeypatch.setattr(engine, "execute", gone)
    with pytest.raises(EngineRefused, match="exec failed"):
        await theirs(engine).ensure()


async def test_the_file_that_it_was_started_with_is_the_one_that_counts(engine: Engine) -> None:
    engine.command = ["-c", "/srv/own.conf", "-g", "daemon off;"]
    await theirs(engine).ensure()
    assert engine.did("print")[0][-2:] == ("-c", "/srv/own.conf")
