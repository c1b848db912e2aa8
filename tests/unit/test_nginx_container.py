"""The nginx container: found, made when it is missing, and described; joined to networks, and taken out of them again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from proxyctl.model import EngineRefused
from proxyctl.publish import nginx
from proxyctl.publish.nginx import JoinResult, NginxContainer, NginxInstance, NginxMissing
from tests.unit import bench, make


@pytest.fixture
def engine(tmp_path: Path) -> bench.Engine:
    return bench.Engine(tmp_path)


def container(engine: bench.Engine, *, create: bool = True, pull: bool = True) -> NginxContainer:
    return NginxContainer(engine, bench.spec(engine.directory, create=create, pull=pull))


async def test_an_nginx_that_runs_is_described_and_left_as_it_is(engine: bench.Engine) -> None:
    engine.networks = {"front": "10.0.0.1", "back": ""}
    found = await container(engine).ensure()
    assert (found.id, found.started_at, found.image_id, found.image) == (bench.NGINX, "1", "image-1", "nginx:test")
    assert (found.view.version, found.view.container) == ((1, 31, 3), found.id)
    assert found.view.networks == {"back": "", "front": "10.0.0.1"}
    assert found.view.conf_dir == str(engine.directory / "conf")
    assert found.addresses == (("127.0.0.1", engine.nginx.port),)
    assert {call[0] for call in engine.calls} == {"inspect_raw"}


async def test_a_missing_nginx_is_made_and_started_in_a_network_of_its_own(engine: bench.Engine) -> None:
    engine.status = ""
    found = await container(engine).ensure()
    assert found.id == bench.NGINX
    made = [call[0] for call in engine.calls]
    assert made == ["inspect_raw", "has_image", "create_network", "create_container", "start", "inspect_raw"]
    assert engine.did("create_network")[0][0] == engine.settings["HostConfig"]["NetworkMode"] == "0-nginx"


async def test_what_is_made_mounts_its_configuration_read_only_and_has_no_more_rights_than_it_needs(engine: bench.Engine) -> None:
    engine.status = ""
    await container(engine).ensure()
    host = engine.settings["HostConfig"]
    where = engine.directory
    assert host["Binds"] == [
        f"{where / 'conf'}:/etc/proxyctl/conf:ro",
        f"{where / 'boot'}:/etc/proxyctl/boot:ro",
        f"{where / 'logs'}:/var/log/nginx:rw",
    ]
    assert not any("docker.sock" in bind for bind in host["Binds"])
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert not {"SYS_ADMIN", "NET_ADMIN", "NET_RAW"} & {*host["CapAdd"]}
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["RestartPolicy"] == {"Name": "always"}
    assert host["PortBindings"] == {
        "80/tcp": [{"HostIp": "", "HostPort": "80"}],
        "443/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8443"}],
    }
    assert engine.settings["StopSignal"] == "SIGQUIT"
    assert engine.settings["Labels"]["proxyctl.nginx"] == "true"


async def test_an_image_that_is_not_here_is_pulled(engine: bench.Engine) -> None:
    engine.status, engine.images = "", set()
    await container(engine).ensure()
    assert engine.did("pull") == [("nginx:test",)]


async def test_an_image_that_must_not_be_pulled_is_asked_for(engine: bench.Engine) -> None:
    engine.status, engine.images = "", set()
    with pytest.raises(NginxMissing, match=r"the image nginx:test is not here and nginx\.pull is never"):
        await container(engine, pull=False).ensure()
    assert engine.did("create_container") == []


async def test_an_nginx_that_must_not_be_made_is_asked_for(engine: bench.Engine) -> None:
    engine.status = ""
    with pytest.raises(NginxMissing, match=r"there is no container nginx: start it, or set nginx\.create = true"):
        await container(engine, create=False).ensure()


@pytest.mark.parametrize("status", ["created", "exited", "dead"])
async def test_an_nginx_that_does_not_run_is_started(status: str, engine: bench.Engine) -> None:
    engine.status = status
    assert (await container(engine, create=False).ensure()).id == bench.NGINX
    assert engine.did("start") == [("nginx",)]


async def test_an_nginx_that_does_not_start_says_why(engine: bench.Engine) -> None:
    engine.status, engine.starts = "exited", False
    engine.nginx.write("[emerg] 1#1: bind() failed")
    engine.nginx.write("exiting")
    with pytest.raises(NginxMissing, match=r"does not run: .*bind\(\) failed"):
        await container(engine).ensure()


@pytest.mark.parametrize(("missing", "key"), [("conf", "nginx.dir"), ("boot", "state.runtime"), ("logs", "nginx.logs")])
async def test_an_nginx_without_one_of_the_directories_is_told_which(missing: str, key: str, engine: bench.Engine) -> None:
    engine.mounted = tuple(name for name in engine.mounted if name != missing)
    with pytest.raises(NginxMissing, match=f"does not mount .*{missing} \\({key}\\)"):
        await container(engine).ensure()


async def test_an_image_that_holds_no_nginx_is_told(engine: bench.Engine) -> None:
    engine.version = "unknown"
    with pytest.raises(NginxMissing, match="does not tell the version of an nginx"):
        await container(engine).ensure()


async def test_an_nginx_that_was_made_from_other_settings_is_outdated_and_goes_on(engine: bench.Engine) -> None:
    engine.status = ""
    assert not (await container(engine).ensure()).outdated
    other = replace(bench.spec(engine.directory), ports=(("", 8080, 80),))
    assert (await NginxContainer(engine, other).ensure()).outdated
    engine.labels = {}
    assert not (await NginxContainer(engine, other).ensure()).outdated


# ---------------------------------------------------------------- networks


ASKED = ("10.0.0.254",)


def described(engine: bench.Engine, **networks: str) -> NginxInstance:
    return bench.instance(engine, view=make.view(networks=networks))


async def test_nginx_joins_the_networks_that_it_is_not_in(engine: bench.Engine) -> None:
    joined = await container(engine).join(described(engine, front="10.0.0.1"), frozenset({"front", "back", "far"}), {})
    assert joined == JoinResult(frozenset({"back", "far"}), {}, {"back": ASKED, "far": ASKED})
    assert engine.did("connect") == [("back", bench.NGINX), ("far", bench.NGINX)]


async def test_a_network_that_refuses_keeps_no_other_out(engine: bench.Engine) -> None:
    engine.closed_networks = {"back"}
    joined = await container(engine).join(described(engine), frozenset({"back", "far"}), {})
    assert joined == JoinResult(frozenset({"far"}), {"back": "back is closed"}, {"far": ASKED})


async def test_an_nginx_in_the_hosts_network_joins_nothing(engine: bench.Engine) -> None:
    outside = bench.instance(engine, view=make.view(networks={}, host_network=True))
    assert await container(engine).join(outside, frozenset({"front"}), {}) == JoinResult()
    assert engine.calls == []


async def test_leaving_a_network_that_is_gone_is_what_was_wanted(engine: bench.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nginx, "YOUNG", 0.0)
    engine.networks = {"far": "10.0.0.1"}
    there = container(engine)
    assert await there.leave(await there.ensure(), frozenset({"far", "gone"}))
    assert engine.networks == {}


async def test_an_nginx_that_has_just_been_started_leaves_no_network(
    engine: bench.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the engine was away as that was decided, and has started it since."""
    engine.networks, there, far = {"far": "10.0.0.1"}, container(engine), frozenset({"far"})
    found = await there.ensure()
    assert not await there.leave(found, far)
    monkeypatch.setattr(nginx, "YOUNG", 0.0)
    engine.started += 1
    assert not await there.leave(found, far)
    engine.started -= 1
    for status in ("exited", ""):
        engine.status = status
        assert not await there.leave(found, far)
    engine.status, asked = "running", engine.inspect_raw

    async def refused(_: str) -> None:
        raise EngineRefused(500, "no")

    monkeypatch.setattr(engine, "inspect_raw", refused)
    assert not await there.leave(found, far)
    monkeypatch.setattr(engine, "inspect_raw", asked)
    assert engine.did("disconnect") == []
    engine.status = "running"
    assert await there.leave(await there.ensure(), far)
    assert engine.networks == {}


async def test_nginx_stays_in_the_network_that_nobody_can_remove(engine: bench.Engine) -> None:
    assert await container(engine).leave(described(engine), frozenset({"bridge"}))
    assert engine.calls == []
