"""A port that somebody else holds is reported with its holder, and advice says what helps."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.rig import LOOPBACK, Box, Controller, Rig, until

HOLD = "import socket, time; s = socket.create_server(('127.0.0.1', {})); print(flush=True); time.sleep(600)"


@contextmanager
def held(port: int) -> Iterator[int]:
    """By a process, whose number it yields."""
    process = subprocess.Popen([sys.executable, "-c", HOLD.format(port)], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    try:
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def cli(controller: Controller, *words: str, nobody: bool = False) -> str:
    program = Path(sys.executable).with_name("proxyctl")
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if nobody else []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROXYCTL_")}
    ran = subprocess.run(
        [*user, program, *words, "--config", controller.config],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=60,
    )
    said = ran.stdout + ran.stderr
    assert "Traceback" not in said, said
    return said


def removing(said: str) -> bool:
    return "docker rm" in said or "remove" in said


@pytest.mark.parametrize("by", ["a process", "a container"])
def test_a_taken_port_of_nginx_is_reported_with_its_holder_and_is_used_when_it_is_free(rig: Rig, by: str) -> None:
    controller = rig.controller(start=False)
    if by == "a process":
        with held(controller.port) as pid:
            controller.start(wait=False)
            who = rf"taken by python\S* \(process {pid}\)"
            told_everywhere(controller, f"port {controller.port} of {LOOPBACK} is {who}", who)
    else:
        ports = {"80/tcp": [{"HostIp": LOOPBACK, "HostPort": str(controller.port)}]}
        taker = rig.run_container(
            host_config={"PortBindings": ports}, ExposedPorts={"80/tcp": {}}, name=f"taker{controller.port}"
        )
        controller.start(wait=False)
        who = f"taken by the container {taker.name}"
        told_everywhere(controller, f"port {controller.port} of {LOOPBACK} is {who}", who)
        taker.remove()
    controller.wait_ready()
    until(lambda: cli(controller, "status").startswith("In sync"), 10, "nginx with its port")
    assert re.search(rf"ok +port {LOOPBACK}:{controller.port} +published by {controller.nginx}", cli(controller, "doctor"))
    controller.stop()


def told_everywhere(controller: Controller, pattern: str, who: str) -> None:
    until(lambda: re.search(pattern, cli(controller, "status")), 15, f"{pattern} in {cli(controller, 'status')}")
    assert re.search(pattern, controller.ask_api("/readyz").body)
    assert re.search(rf"fail +port {LOOPBACK}:{controller.port} +{who}", cli(controller, "doctor"))
    assert re.search(pattern, controller.records("failed")[-1]["error"])
    assert not removing(cli(controller, "status") + cli(controller, "doctor"))


def test_a_taken_port_of_the_api_is_reported_with_its_holder(rig: Rig) -> None:
    controller = rig.controller(start=False)
    port = int(controller.api.rpartition(":")[2])
    with held(port) as pid:
        controller.start(wait=False)
        until(lambda: not controller.running, 10, "the end of the controller")
        pattern = rf"api\.listen {controller.api} is taken by python\S* \(process {pid}\): stop it, or set another api\.listen"
        assert re.search(pattern, controller.tail())
        assert re.search(
            rf"fail +api\.listen +{controller.api} is taken by python\S* \(process {pid}\)", cli(controller, "doctor")
        )
    ports = {"80/tcp": [{"HostIp": LOOPBACK, "HostPort": str(port)}]}
    taker = rig.run_container(host_config={"PortBindings": ports}, ExposedPorts={"80/tcp": {}}, name=f"api{port}")
    controller.start(wait=False)
    until(lambda: not controller.running, 10, "the end of the controller")
    assert f"is taken by the container {taker.name}" in controller.tail()
    assert f"is taken by the container {taker.name}" in cli(controller, "doctor")


def test_removing_nginx_is_advised_only_when_that_helps(rig: Rig) -> None:
    controller = rig.controller()
    other = controller.port + 1
    before = controller.config.read_text()
    controller.config.write_text(before.replace(f":{controller.port}:80", f":{other}:80"))
    until(lambda: "nginx.publish" in cli(controller, "status"), 10, "the key that needs a restart")
    assert not removing(cli(controller, "status")), "the controller would make it as it was"
    assert "restart the controller first" in cli(controller, "doctor")
    controller.stop()
    with held(other) as pid:
        controller.start(wait=False)
        pattern = rf"made from other settings than today's \(nginx\.publish\): first port {other} .*\(process {pid}\)"
        until(lambda: re.search(pattern, cli(controller, "status")), 10, "advice that begins with the port")
    controller.stop()
    controller.start(wait=False)
    until(lambda: f"(nginx.publish): `docker rm -f {controller.nginx}`" in cli(controller, "status"), 10, "advice")
    Box(rig.client, controller.nginx, controller.nginx).remove()
    controller.port = other
    controller.wait_ready()
    assert "other settings" not in cli(controller, "status")
    controller.stop()


def test_every_command_has_words_for_a_user_who_may_do_nothing(rig: Rig) -> None:
    controller = rig.controller()
    rig.directory.chmod(0o755)
    for mode in (0o755, 0o700):
        controller.directory.chmod(mode)
        said = cli(controller, "doctor", nobody=True)
        assert "nobody" in said or "Permission denied" in said
        for words in (
            ["status"],
            ["check"],
            ["render"],
            ["diff"],
            ["explain", "a.example"],
            ["history"],
            ["export"],
            ["healthcheck"],
        ):
            assert re.search("[Pp]ermission denied", cli(controller, *words, nobody=True)), words
    controller.directory.chmod(0o700)
    controller.stop()
