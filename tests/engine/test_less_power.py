"""What the controller needs of the engine is what docs/security.md says: it works through a relay that allows only that, and asks
for all of it.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyctl.publish.nginx import YOUNG
from tests.relay import Call, Relay
from tests.rig import Box, Controller, Rig, until

ROOT = Path(__file__).parents[2]
LOGS = {"GET /containers/{id}/logs"}
"""Read when nginx is slow to take a reload, so not in every run."""
ZONE = "limit_req_zone ${} zone=own:1m rate=1r/s;\nserver {{ listen 80; server_name {}.example; return 200 {}; }}\n"


def rows() -> Iterator[tuple[str, str, str]]:
    """(`GET /events`, what it is about, the setting without which it is not asked) of the table, one call each."""
    text = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    table = text.partition("| engine API |")[2].partition("\n\n")[0].splitlines()[2:]
    for line in table:
        calls, about, _, setting = (cell.strip() for cell in line.strip("| ").split(" | "))
        for call in re.findall("`([A-Z]+ [^`]+)`", calls):
            yield call, about, setting


def calls(*settings: str) -> dict[str, str]:
    """The calls that are asked with these settings, and what each may be about."""
    return {call: about for call, about, setting in rows() if setting == "-" or setting.strip("`") in settings}


def permit(relay: Relay, rig: Rig, nginx: str, permitted: dict[str, str]) -> None:
    """What is said to be about nginx is refused for any other container."""
    known = {nginx}

    def allows(call: Call) -> bool:
        if call.path.startswith("/containers/") and permitted.get(call.template) == "nginx":
            if call.about not in known:
                known.add(rig.client.inspect_container(nginx)["Id"])
            return call.about in known
        return call.template in permitted

    relay.allows = allows
    relay.asked.clear()


def asked(relay: Relay) -> set[str]:
    return {call.template for call in relay.asked}


def refused(relay: Relay) -> list[str]:
    return [str(call) for call in relay.asked if not relay.allows(call)]


def doctor(controller: Controller) -> list[dict[str, str]]:
    """What `proxyctl doctor` finds, but for the state of this machine."""
    argv = [str(controller.program[0]), "doctor", "--json", "--config", str(controller.config)]
    said = subprocess.run(argv, capture_output=True, check=False, timeout=60)
    return [check for check in json.loads(said.stdout)["checks"] if check["what"] in ("engine", "nginx", "docker top")]


@pytest.fixture
def relay(rig: Rig) -> Iterator[Relay]:
    with Relay(rig.directory / "less.sock") as made:
        yield made


def test_without_create_join_and_pull_it_needs_to_read_and_to_speak_to_nginx(rig: Rig, relay: Relay) -> None:
    """Start, route, stop, reload, quarantine, doctor."""
    controller = rig.controller({"docker": {"endpoint": relay.endpoint}}, prefix=f"{rig.prefix}less")
    controller.stop()
    settings = controller.config.read_text(encoding="utf-8")
    controller.config.write_text(settings.replace("[nginx]", "[nginx]\ncreate = false\njoin = false"), encoding="utf-8")
    permitted = calls()
    permit(relay, rig, controller.nginx, permitted)
    controller.start()

    def site(name: str) -> dict[str, str]:
        return {f"{controller.prefix}.host": f"{name}.example"}

    network = f"0-{controller.nginx}"
    apps = [rig.run_container(name=name, other_labels=site(name), network=network) for name in ("one", "two")]
    for name in ("one", "two"):
        controller.wait_for(f"{name}.example", backend=name)
    apps[0].stop(1)
    controller.wait_for("one.example", 503)
    sites = controller.directory / "state" / "nginx" / "sites"
    (sites / "wrong.conf").write_text("server { retrun; }\n", encoding="utf-8")
    assert "retrun" in controller.wait_rejected("sites/wrong.conf")["problem"]
    (sites / "zone.conf").write_text(ZONE.format("binary_remote_addr", "zone", "one"), encoding="utf-8")
    controller.wait_for("zone.example")
    (sites / "zone.conf").write_text(ZONE.format("request_uri", "zone", "two"), encoding="utf-8")
    assert "limit_req" in controller.wait_rejected("sites/zone.conf", within=15)["problem"]
    apps[1].remove()
    controller.wait_for("two.example", 503)
    assert {check["standing"] for check in doctor(controller)} == {"ok"}
    controller.stop()
    assert refused(relay) == []
    assert asked(relay) == permitted.keys()


def test_with_create_and_join_it_needs_what_the_table_says(rig: Rig, relay: Relay) -> None:
    permitted = calls("nginx.create = true", "nginx.join = true")
    controller = rig.controller({"docker": {"endpoint": relay.endpoint}}, start=False, prefix=f"{rig.prefix}more")
    permit(relay, rig, controller.nginx, permitted)
    controller.start()
    network = rig.network("tenant")
    app = rig.run_container(name="more", network=network, other_labels={f"{controller.prefix}.host": "more.example"})
    controller.wait_for("more.example", backend="more")
    app.remove()
    until(lambda: "POST /networks/{id}/disconnect" in asked(relay), YOUNG + 5, "nginx to leave the network")
    controller.stop()
    assert refused(relay) == []
    assert asked(relay) | LOGS == permitted.keys() | LOGS


def test_an_image_is_asked_for_only_where_that_is_allowed(rig: Rig, relay: Relay) -> None:
    sections = {"docker": {"endpoint": relay.endpoint}, "nginx": {"image": "127.0.0.1:1/none", "pull": "missing"}}
    controller = rig.controller(sections, start=False, prefix=f"{rig.prefix}pull")
    controller.start(wait=False)
    until(lambda: "POST /images/create" in asked(relay), 10, "the image to be asked for")
    controller.stop()
    assert asked(relay) <= calls("nginx.create = true", 'nginx.pull = "missing"').keys()


def test_a_container_is_stopped_only_where_versions_are_to_be(rig: Rig, relay: Relay) -> None:
    permitted = calls("nginx.create = true", "nginx.join = true", 'rollout.retire = "stop"')
    sections = {"docker": {"endpoint": relay.endpoint}, "rollout": {"bake": "0s"}}
    controller = rig.controller(sections, start=False, prefix=f"{rig.prefix}stop")
    permit(relay, rig, controller.nginx, permitted)
    controller.start()

    def run(version: str, **more: str) -> Box:
        said = {"host": "stop.example", "service": "stop", "version": version, **more}
        return rig.run_container(
            name=f"stop-{version}", other_labels={f"{controller.prefix}.{key}": text for key, text in said.items()}
        )

    one = run("v1")
    controller.wait_for("stop.example", backend="stop-v1")
    two = run("v2")
    controller.wait_for("stop.example", backend="stop-v2")
    assert "POST /containers/{id}/stop" not in asked(relay)
    run("v3", **{"rollout.retire": "stop"})
    until(lambda: two.inspect()["State"]["Status"] == "exited", 20, "the old version to be stopped")
    assert one.inspect()["State"]["Status"] == "running"
    controller.stop()
    assert refused(relay) == []


def test_nginx_has_no_more_rights_than_it_needs(rig: Rig, controller: Controller) -> None:
    """In effect, not in settings: what the kernel says of its processes."""
    rows = rig.client.top(controller.nginx, "-eo pid,args")["Processes"]
    status = {args.partition(" ")[2]: Path(f"/proc/{pid}/status").read_text(encoding="utf-8") for pid, args in rows}
    master = next(text for args, text in status.items() if args.startswith("master"))
    workers = [text for args, text in status.items() if args.startswith("worker")]
    mask = sum(1 << number for number in (0, 1, 5, 6, 7, 10))  # chown, dac_override, kill, setgid, setuid, net_bind_service
    assert workers
    for text in (master, *workers):
        assert "NoNewPrivs:\t1" in text
        assert int(re.findall(r"CapBnd:\t(\w+)", text)[0], 16) == mask
    for text in workers:
        assert int(re.findall(r"CapEff:\t(\w+)", text)[0], 16) == 0
        assert re.findall(r"Uid:\t(\d+)", text) != ["0"]
    made = rig.client.exec_create(controller.nginx, ["nginx", "-t", "-e", "/anywhere"])
    assert b"Read-only file system" in rig.client.exec_start(made["Id"])
    mounts = rig.client.inspect_container(controller.nginx)["Mounts"]
    assert {mount["Destination"] for mount in mounts if mount["RW"]} == {"/var/log/nginx"}
    assert not [mount for mount in mounts if mount["Source"].endswith(".sock")]
