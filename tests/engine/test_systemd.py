"""The controller under systemd: what it tells at NOTIFY_SOCKET, and the unit under a real systemd, in a container."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from proxyctl.app import shipped_templates
from tests.listening import Listening
from tests.rig import LOOPBACK, NGINX, Answer, Box, Controller, Rig, ask, endpoint, free_port, until

IMAGE = "proxyctl-testbed/systemd"

# ---------------------------------------------------------------- what it tells


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    with Listening(tmp_path_factory.mktemp("systemd") / "notify") as systemd:
        yield systemd


@pytest.fixture(scope="module")
def told(rig: Rig, listening: Listening) -> Controller:
    """A controller that has just been started, and has told nothing yet that was read."""
    rig.run_container({"host": "told.example"}, name="told")
    controller = rig.controller(start=False)
    controller.environment = {"NOTIFY_SOCKET": listening.path, "WATCHDOG_USEC": "1000000"}
    controller.start(wait=False)
    return controller


def test_it_is_ready_when_what_is_wanted_is_live_and_not_before(told: Controller, listening: Listening) -> None:
    first = listening.wait_for("READY", within=30)[-1]
    assert told.ask("nobody.invalid").status == 404, "published: before that it is 503, or no answer"
    assert first["STATUS"].startswith("In sync: nginx 1.31.3, ")


def test_the_status_follows_the_containers(rig: Rig, told: Controller, listening: Listening) -> None:
    box = rig.run_container({"host": "more.example"})
    listening.wait_for("STATUS", "2 services, 2 of 2 targets healthy")
    box.remove()
    listening.wait_for("STATUS", "1 of 1 targets healthy")
    assert told.ask("told.example").backend == "told"


def test_signs_of_life_come_at_least_twice_in_the_time_that_they_have(told: Controller, listening: Listening) -> None:
    beats = sum("WATCHDOG" in fields for fields in listening.take(3.0))
    assert beats >= 5
    assert told.running


def test_a_hangup_takes_the_configuration_over_and_says_when_it_is_live(told: Controller, listening: Listening) -> None:
    before = time.monotonic_ns() // 1000
    told.config.write_text(told.config.read_text().replace("[nginx]\n", '[nginx]\nworker_shutdown_timeout = "7m"\n'))
    os.kill(told.pid, signal.SIGHUP)
    began = listening.wait_for("RELOADING")[-1]
    assert before <= int(began["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    ended = listening.wait_for("READY")[-1]
    assert "worker_shutdown_timeout 420s;" in (told.directory / "state/nginx/nginx.conf").read_text()
    assert ended["STATUS"].startswith("In sync: nginx 1.31.3, ")
    assert told.records("configuration read")[0]["files"] == "all, at SIGHUP"


def test_a_hangup_with_a_broken_file_changes_nothing_and_says_so(told: Controller, listening: Listening) -> None:
    listening.take(1.0)  # the watch of the files has noticed the change before, too
    whole = told.config.read_text()
    told.config.write_text(whole + "[bogus]\n")
    os.kill(told.pid, signal.SIGHUP)
    listening.wait_for("RELOADING")
    ended = listening.wait_for("READY")[-1]
    assert ended["STATUS"].startswith(f"Configuration not taken over: {told.config}: unknown key bogus")
    assert ended["STATUS"].endswith(" targets healthy"), "and what was live still is"
    assert told.ask("told.example").backend == "told"
    listening.take(1.0)
    told.config.write_text(whole)
    os.kill(told.pid, signal.SIGHUP)
    assert listening.wait_for("READY")[-1]["STATUS"].startswith("In sync")


def test_a_hangup_with_a_template_that_nginx_refuses_says_so_until_it_is_mended(told: Controller, listening: Listening) -> None:
    listening.take(1.0)
    own = told.directory / "templates" / "nginx.conf.j2"
    own.parent.mkdir()
    own.write_text((shipped_templates() / own.name).read_text().replace("http {", "http {\n    nonsense on;"))
    os.kill(told.pid, signal.SIGHUP)
    refused = listening.wait_for("READY")[-1]
    assert refused["STATUS"].startswith("Configuration not taken over: ")
    assert "nonsense" in refused["STATUS"]
    later = [fields["STATUS"] for fields in listening.take(2.0) if "READY" in fields or "In sync" in fields.get("STATUS", "")]
    assert all("nonsense" in status for status in later)
    own.unlink()
    os.kill(told.pid, signal.SIGHUP)
    assert listening.wait_for("READY")[-1]["STATUS"].startswith("In sync")


def test_it_says_that_it_stops(told: Controller, listening: Listening) -> None:
    assert told.stop() == 0
    listening.wait_for("STOPPING", within=1)


# ---------------------------------------------------------------- the unit under a real systemd


class Machine:
    """A container whose first process is systemd. The controller in it makes its nginx beside it, as everywhere."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.port, self.nginx = free_port(), f"{rig.run}-nginx-of-unit"
        self.volumes = [f"{rig.run}-unit-{name}" for name in ("state", "run")]
        rig.client.create_volume(self.volumes[0], labels=rig.marks)
        in_memory = {"type": "tmpfs", "device": "tmpfs"}  # as /run is; systemd empties nothing else
        rig.client.create_volume(self.volumes[1], labels=rig.marks, driver="local", driver_opts=in_memory)
        self.config = rig.directory / "etc" / "config.toml"
        self.config.parent.mkdir()
        self.config.write_text(
            f"""
            nginx = {{ image = "{NGINX}", pull = "never", container = "{self.nginx}", publish = ["{LOOPBACK}:{self.port}:80"] }}
            api.listen = "{LOOPBACK}:{free_port()}"
            discovery.label_prefix = "{rig.prefix}"
            """
        )
        socket = (endpoint() or "unix:///var/run/docker.sock").removeprefix("unix://")
        host_config = {
            "Binds": [
                f"{socket}:/run/docker.sock",
                f"{self.config.parent}:/etc/proxyctl",
                f"{self.volumes[0]}:/var/lib/proxyctl",
                f"{self.volumes[1]}:/run/proxyctl",
            ],
            "Tmpfs": {"/run": "", "/tmp": ""},
            "CapAdd": ["SYS_ADMIN"],
            "SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined"],
            "CgroupnsMode": "private",
        }
        self.box = rig.run_container(name="systemd", image=IMAGE, network="host", host_config=host_config)

    def run(self, *argv: str) -> tuple[int, str]:
        made = self.rig.client.exec_create(self.box.id, list(argv))
        output = self.rig.client.exec_start(made["Id"]).decode()
        return int(self.rig.client.exec_inspect(made["Id"])["ExitCode"]), output

    def show(self, name: str) -> str:
        return self.run("systemctl", "show", "--property", name, "--value", "proxyctl")[1].strip()

    def journal(self) -> str:
        return self.run("journalctl", "--unit", "proxyctl", "--output", "cat")[1]


@pytest.fixture(scope="module")
def machine(rig: Rig) -> Iterator[Machine]:
    made = Machine(rig)
    yield made
    made.box.remove()
    Box(rig.client, made.nginx, made.nginx).remove()
    rig.client.remove_network(f"0-{made.nginx}")
    for volume in made.volumes:
        rig.client.remove_volume(volume, force=True)


def test_the_unit_starts_at_boot_hardened_and_serves(rig: Rig, machine: Machine) -> None:
    rig.run_container({"host": "unit.example"}, name="unit")
    try:
        until(lambda: machine.show("ActiveState") == "active", 30, "an active unit", every=0.2)
        until(lambda: ask(machine.port, "unit.example").backend == "unit", 20, "an answer")
    except AssertionError as error:
        error.add_note(rig.client.logs(machine.box.id).decode())
        error.add_note(machine.journal())
        raise
    until(lambda: ", 0 of " not in machine.show("StatusText"), 5, "a healthy target in the status")
    assert machine.show("StatusText").startswith("In sync: nginx 1.31.3, ")


def test_what_it_publishes_can_be_read_by_all_and_its_state_only_by_root(machine: Machine) -> None:
    _, modes = machine.run(
        "sh", "-c", "cd /var/lib/proxyctl && stat -c '%a %n' . nginx nginx/objects nginx/objects/* /run/proxyctl/nginx"
    )
    found = {line.split()[1]: line.split()[0] for line in modes.splitlines()}
    assert found.pop(".") == "700"
    assert {mode for name, mode in found.items() if name.endswith(".conf")} == {"644"}
    assert {mode for name, mode in found.items() if not name.endswith(".conf")} == {"755"}


def test_reload_waits_until_the_changed_configuration_is_live(machine: Machine) -> None:
    machine.config.write_text(machine.config.read_text().replace("pull =", 'worker_shutdown_timeout = "7m", pull ='))
    nginx = Box(machine.rig.client, machine.nginx, machine.nginx)
    nginx.kill("STOP")  # its first process only, which would start the new workers; the old ones serve
    later = threading.Timer(2.0, nginx.kill, ["CONT"])
    later.start()
    began = time.monotonic()
    status, said = machine.run("systemctl", "reload", "proxyctl")
    took = time.monotonic() - began
    later.join()
    assert status == 0, said
    assert took > 2.0
    assert machine.run("grep", "worker_shutdown_timeout 420s", "/var/lib/proxyctl/nginx/nginx.conf")[0] == 0
    assert machine.show("StatusText").startswith("In sync")


def test_a_stop_leaves_nginx_and_the_directories_that_it_mounts(machine: Machine) -> None:
    where = ("stat", "-c", "%i", "/run/proxyctl/nginx", "/var/lib/proxyctl/nginx")
    before = machine.run(*where)
    nginx = Box(machine.rig.client, machine.nginx, machine.nginx)
    started = nginx.inspect()["State"]["StartedAt"]
    assert machine.run("systemctl", "stop", "proxyctl")[0] == 0
    assert machine.show("Result") == "success"
    assert machine.run("test", "-L", "/run/proxyctl/nginx/live")[0] == 0, "nginx could not serve after a restart of its own"
    assert ask(machine.port, "unit.example").backend == "unit"
    assert machine.run("systemctl", "start", "proxyctl")[0] == 0
    assert machine.run(*where) == before
    assert ask(machine.port, "unit.example").backend == "unit"
    assert nginx.inspect()["State"]["StartedAt"] == started


def test_a_controller_without_a_sign_of_life_is_started_again(machine: Machine) -> None:
    """Stopped dead, here: what a stuck loop is, tests/unit/test_notify.py shows."""
    drop_in = "mkdir -p /run/systemd/system/proxyctl.service.d && printf '[Service]\nWatchdogSec=4s\n' > $_/short.conf"
    assert machine.run("bash", "-c", f"{drop_in} && systemctl daemon-reload && systemctl restart proxyctl")[0] == 0
    before = machine.show("MainPID")
    assert machine.run("sh", "-c", f"kill -STOP {before}")[0] == 0
    until(lambda: machine.show("MainPID") not in (before, "0"), 20, "another process", every=0.2)
    until(lambda: machine.show("ActiveState") == "active", 20, "an active unit", every=0.2)
    assert int(machine.show("NRestarts")) >= 1
    assert "Fatal Python error: Aborted" in machine.journal(), "where it was stuck"
    assert ask(machine.port, "unit.example").backend == "unit"


def test_a_shutdown_waits_until_the_balancer_has_left_and_requests_have_ended(machine: Machine) -> None:
    """The machine is halted as by `systemctl halt`, with a request of 5 s under way, and started again."""
    short = "printf '[Service]\nExecStop=\nExecStop=/opt/proxyctl/bin/proxyctl host drain --notice 1s\n'"
    where = "/etc/systemd/system/proxyctl-drain.service.d"
    assert machine.run("bash", "-c", f"mkdir -p {where} && {short} > {where}/short.conf && systemctl daemon-reload")[0] == 0
    assert machine.run("systemctl", "is-active", "proxyctl-drain")[1].strip() == "active"
    assert ask(machine.port, "10.0.0.1", "/-/ready").status == 200
    answers: list[tuple[float, Answer]] = []

    def ask_slowly() -> None:
        answer = ask(machine.port, "unit.example", "/slow?ms=5000", timeout=15)
        answers.append((time.monotonic(), answer))

    slow = threading.Thread(target=ask_slowly)
    slow.start()
    time.sleep(0.3)
    halting = threading.Thread(target=machine.rig.client.stop, args=(machine.box.id,), kwargs={"timeout": 60})
    halting.start()
    until(lambda: ask(machine.port, "10.0.0.1", "/-/ready").status == 503, 10, "a balancer that is told to leave")
    assert ask(machine.port, "unit.example").backend == "unit", "who comes all the same is served"
    halting.join()
    halted = time.monotonic()
    slow.join()
    ended, answer = answers[0]
    assert (answer.status, answer.backend) == (200, "unit")
    assert ended < halted, "the shutdown went on when the request had ended"
    machine.rig.client.start(machine.box.id)
    until(lambda: ask(machine.port, "10.0.0.1", "/-/ready").status == 200, 30, "a host that is taken back", every=0.2)
    assert ask(machine.port, "unit.example").backend == "unit"
