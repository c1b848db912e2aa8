"""An nginx of somebody else, with a stock nginx.conf that includes a directory of the host: Debian's, and a current one."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.load import Kind, Load
from tests.rig import LOOPBACK, NGINX, Answer, Box, Rig, ask, endpoint, free_port, until

MORE = "server { listen 80; server_name %s; location / { return 200 hand; } }\n"
HAND = "server { listen 80 default_server; return 410 default; }\n" + MORE % "hand.example"
KINDS: tuple[Kind, ...] = ("new", "kept")
DRAINS = ("--on-term", "drain:2s")
QUICK = {"interval": "500ms", "timeout": "300ms"}


@dataclass(frozen=True, slots=True)
class Flavour:
    image: str
    inside: str
    name: str
    """What a hand-written file is called: Debian includes all of them."""


FLAVOURS = {
    "debian": Flavour("proxyctl-testbed/nginx:1.22", "/etc/nginx/sites-enabled", "{}"),
    "current": Flavour(NGINX, "/etc/nginx/conf.d", "{}.conf"),
}


class Theirs:
    """An nginx that its owner has started, with one vhost written by hand, and a controller beside it."""

    def __init__(self, rig: Rig, flavour: Flavour) -> None:
        self.rig, self.flavour = rig, flavour
        rig.directory.chmod(0o755)
        self.directory = rig.directory / "vhosts"
        self.directory.mkdir()
        self.write("hand", HAND)
        self.port = free_port()
        published = {"80/tcp": [{"HostIp": LOOPBACK, "HostPort": str(self.port)}]}
        self.prefix = rig.prefix
        self.nginx = rig.run_container(
            name="theirs",
            image=flavour.image,
            network=rig.network("0-theirs"),
            other_labels={f"{self.prefix}.nginx": "true"},
            ExposedPorts={"80/tcp": {}},
            host_config={"Binds": [f"{self.directory}:{flavour.inside}:ro"], "PortBindings": published},
        )
        until(lambda: self.ask("hand.example").body == "hand", 10, "the hand-written vhost")
        self.controller = rig.controller(
            {"nginx": {"layout": "include", "dir": str(self.directory), "container": self.nginx.name}, "health": QUICK},
            start=False,
        )
        self.controller.port = self.port

    def path(self, name: str) -> Path:
        return self.directory / self.flavour.name.format(name)

    def inside(self, name: str) -> str:
        return f"{self.flavour.inside}/{self.flavour.name.format(name)}"

    def write(self, name: str, text: str) -> None:
        self.path(name).write_text(text)

    def ask(self, host: str) -> Answer:
        return ask(self.port, host)

    def add(self, name: str, host: str = "", **settings: Any) -> Box:
        labels = {"host": host or f"{name}.example", "service": host.partition(".")[0] or name}
        return self.rig.run_container(labels, name=name, **settings)

    @property
    def live(self) -> str:
        return str((self.directory / "zz-proxyctl.conf").readlink())

    def visible(self) -> set[str]:
        return {path.name for path in self.directory.iterdir() if not path.name.startswith(".")}

    def test(self) -> tuple[int, str]:
        """`nginx -t` of what nginx would start with now."""
        made = self.rig.client.exec_create(self.nginx.id, ["nginx", "-e", "stderr", "-t", "-q"])
        said = self.rig.client.exec_start(made["Id"])
        return int(self.rig.client.exec_inspect(made["Id"])["ExitCode"]), bytes(said).decode()

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        program: list[str | Path] = [Path(sys.executable).with_name("proxyctl"), "--config", self.controller.config, *arguments]
        return subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def rig() -> Iterator[Rig]:
    """For the one nginx of a test of its own."""
    with Rig() as made:
        yield made


@pytest.fixture(scope="module", params=FLAVOURS)
def theirs(request: pytest.FixtureRequest) -> Iterator[Theirs]:
    with Rig() as rig:
        made = Theirs(rig, FLAVOURS[request.param])
        made.controller.start(wait=False)
        yield made


OF_ONE_NGINX = pytest.mark.parametrize("theirs", ["debian"], indirect=True)
"""What does not depend on the release."""


def test_a_labelled_container_is_served_and_what_was_there_goes_on(theirs: Theirs) -> None:
    theirs.add("first")
    theirs.controller.wait_for("first.example", backend="first")
    assert theirs.ask("hand.example").body == "hand"
    assert theirs.ask("nobody.example").body == "default", "who is unknown is answered as before"
    assert theirs.visible() == {theirs.path("hand").name, "zz-proxyctl.conf"}
    assert theirs.path("hand").read_text() == HAND


def test_what_targets_are_told_is_not_what_clients_say(theirs: Theirs) -> None:
    theirs.add("told")
    theirs.controller.wait_for("told.example")
    said = subprocess.run(
        ["curl", "-s", "-H", "Host: told.example", "-H", "X-Forwarded-For: 6.6.6.6", f"http://{LOOPBACK}:{theirs.port}/headers"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "6.6.6.6" not in said
    assert "told.example" in said


def test_a_hand_written_vhost_wins_its_host_and_the_label_is_told_the_file(theirs: Theirs) -> None:
    theirs.add("thief", "hand.example")
    told = theirs.controller.wait_rejected("thief")
    assert told["problem"] == f"hand.example belongs to the hand-written vhost in {theirs.inside('hand')}"
    assert theirs.ask("hand.example").body == "hand"


def test_a_vhost_that_is_written_later_takes_its_host_over(theirs: Theirs) -> None:
    theirs.add("earlier")
    theirs.controller.wait_for("earlier.example", backend="earlier")
    theirs.write("later", MORE % "earlier.example")
    until(lambda: theirs.ask("earlier.example").body == "hand", 10, "the hand-written vhost to have its host")
    assert theirs.inside("later") in theirs.controller.wait_rejected("earlier")["problem"]
    theirs.path("later").unlink()
    theirs.controller.wait_for("earlier.example", backend="earlier")


def test_a_broken_vhost_is_told_with_its_file_and_blocks_nothing_that_is_live(theirs: Theirs) -> None:
    theirs.add("living")
    theirs.controller.wait_for("living.example")
    before = theirs.live
    theirs.write("broken", "server { listen 80; servr_name broken.example; }\n")
    until(lambda: theirs.controller.records("refused"), 5, "the refusal")
    said = theirs.controller.records("refused")[-1]["error"]
    assert f'unknown directive "servr_name" in {theirs.inside("broken")}:1: that is not proxyctl\'s' in said
    theirs.add("waiting")
    time.sleep(1.5)
    assert theirs.live == before
    assert theirs.ask("living.example").backend == "living"
    assert theirs.ask("hand.example").body == "hand"
    assert not [r for r in theirs.controller.records("rejected") if "waiting" in str(r["container"])], "it is nobody else's fault"
    theirs.path("broken").unlink()
    theirs.controller.wait_for("waiting.example", backend="waiting")


def test_a_bad_draft_never_touches_the_live_file(theirs: Theirs) -> None:
    """While it is tested, and for as long as it is bad, nginx would start with what is on disk."""
    theirs.add("steady")
    theirs.controller.wait_for("steady.example")
    before = theirs.live
    templates = theirs.controller.directory / "templates"
    templates.mkdir(exist_ok=True)
    shipped = Path("templates/server.conf.j2").read_text(encoding="utf-8")
    (templates / "server.conf.j2").write_text(shipped.replace("server_name {{ name }};", "server_name {{ name }}; nonsense on;"))
    tested = []
    end = time.monotonic() + 2
    while time.monotonic() < end:
        tested.append(theirs.test()[0])
        assert theirs.live == before, theirs.controller.tail()
    assert "nonsense" in theirs.controller.records("configuration not taken over")[-1]["error"]
    assert len(tested) > 3
    assert not any(tested)
    (templates / "server.conf.j2").unlink()
    theirs.add("afterwards")
    theirs.controller.wait_for("afterwards.example", backend="afterwards")
    assert theirs.ask("steady.example").backend == "steady"


@OF_ONE_NGINX
def test_nginx_alone_serves_what_was_live(theirs: Theirs) -> None:
    theirs.add("alone")
    theirs.controller.wait_for("alone.example")
    theirs.controller.kill()
    theirs.nginx.stop()
    theirs.nginx.start()
    until(lambda: theirs.ask("alone.example").backend == "alone", 10, "nginx without a controller")
    assert theirs.ask("hand.example").body == "hand"
    theirs.controller.start(wait=False)
    theirs.add("back")
    theirs.controller.wait_for("back.example", backend="back")


@OF_ONE_NGINX
def test_a_controller_that_is_killed_at_any_moment_leaves_files_that_start(theirs: Theirs) -> None:
    """And no file under a visible name that is not there for good."""
    boxes = []
    for number in range(8):
        boxes.append(theirs.add(f"k{number}", "killed.example"))
        if len(boxes) > 2:
            boxes.pop(0).remove()
        time.sleep(random.uniform(0, 0.4))
        theirs.controller.kill()
        assert theirs.test() == (0, "")
        assert theirs.visible() == {theirs.path("hand").name, "zz-proxyctl.conf"}
        theirs.controller.start(wait=False)
    theirs.controller.wait_for("killed.example", within=15)
    assert theirs.ask("hand.example").body == "hand"


def test_the_commands_know_the_layout(theirs: Theirs) -> None:
    theirs.add("seen")
    theirs.controller.wait_for("seen.example")
    until(lambda: theirs.command("diff").returncode == 0, 10, "published and wanted to be the same")
    drawn = theirs.command("render")
    assert "server_name seen.example;" in drawn.stdout
    assert "worker_processes" not in drawn.stdout
    theirs.add("clash", "hand.example")
    checked = theirs.command("check")
    assert (checked.returncode, theirs.inside("hand") in checked.stdout) == (1, True)
    status = json.loads(theirs.command("status", "--json").stdout)
    assert status["nginx"]["container"] == theirs.nginx.name
    found = {check["what"]: check for check in json.loads(theirs.command("doctor", "--json").stdout)["checks"]}
    assert (found["nginx.conf"]["standing"], "worker_shutdown_timeout" in found["nginx.conf"]["todo"]) == ("warn", True)
    assert found["nginx"]["standing"] == ("warn" if "1.22" in theirs.flavour.image else "ok")
    assert "nginx.logs" not in found
    theirs.write("broken", "server { servr_name x; }\n")
    broken = json.loads(theirs.command("doctor", "--json").stdout)
    theirs.path("broken").unlink()
    assert not broken["ok"]
    assert any(theirs.inside("broken") in check["found"] for check in broken["checks"])


@OF_ONE_NGINX
def test_a_drained_host_says_so_under_its_own_name_and_goes_on_serving(theirs: Theirs) -> None:
    def ready() -> int:
        return ask(theirs.port, "ready.proxyctl.invalid", "/-/ready").status

    theirs.add("drained")
    theirs.controller.wait_for("drained.example", backend="drained")
    assert ready() == 200
    assert theirs.command("host", "drain", "--notice", "1s", "--timeout", "30s").returncode == 0
    assert ready() == 503
    assert theirs.ask("drained.example").backend == "drained"
    assert theirs.ask("hand.example").body == "hand"
    assert theirs.command("host", "undrain").returncode == 0
    until(lambda: ready() == 200, 5, "the host to be back")


@OF_ONE_NGINX
def test_nginx_is_found_by_its_label(theirs: Theirs) -> None:
    theirs.controller.stop()
    config = theirs.controller.config.read_text()
    theirs.controller.config.write_text(config.replace(f'"{theirs.nginx.name}"', '"nobody"'))
    theirs.controller.start(wait=False)
    theirs.add("marked")
    theirs.controller.wait_for("marked.example", backend="marked")
    theirs.controller.stop()
    theirs.controller.config.write_text(config)
    theirs.controller.start(wait=False)


def test_swaps_under_load(theirs: Theirs) -> None:
    """By clients that do not look whether their connection was closed before they write: an older nginx does that at a reload."""
    seamless = "1.22" not in theirs.flavour.image
    box = theirs.add("swap0", "swap.example", args=DRAINS)
    theirs.controller.wait_for("swap.example")
    before = len(theirs.controller.records("live"))
    with Load("swap.example", theirs.port, keepalive_clients=20, look=False, own="swap") as load:
        for number in range(1, 4):
            new = theirs.add(f"swap{number}", "swap.example", args=DRAINS)
            theirs.controller.wait_for("swap.example", backend=f"swap{number}", steady=0.0)
            time.sleep(1.2)
            box.stop()
            box = new
    report = load.report
    reloads = len(theirs.controller.records("live")) - before
    kinds = "; ".join(f"{kind}: {report.lost_of(kind)} of {report.sent_of(kind):,}" for kind in KINDS)
    print(f"{theirs.flavour.image}, {reloads} reloads: {kinds}; {report}")
    assert report.lost_of("new") == 0
    if seamless:
        assert report.lost_of() == 0
    else:
        assert 0 < report.lost_of("kept") <= 20 * reloads, "each idle client at each reload, at the most"


# ---------------------------------------------------------------- an nginx in no container

ALONE = """user root;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr;
events {}
http { include %s/*.conf; }
"""
RUN = "import sys; from proxyctl.cli import call; sys.exit(call())"


def test_an_nginx_of_the_host_is_told_by_its_pid_file_and_tested_by_its_own_command(rig: Rig) -> None:
    """The host is a container here, with an nginx that was started in it by hand, and the controller."""
    here = rig.directory / "host"
    vhosts = here / "vhosts"
    vhosts.mkdir(parents=True)
    rig.directory.chmod(0o755)
    packed = b"".join(rig.client.get_archive(rig.create_container(image=NGINX).id, "/usr/sbin/nginx")[0])
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(here, filter="data")
    (here / "nginx.conf").write_text(ALONE % vhosts)
    (vhosts / "hand.conf").write_text(HAND)
    (here / "config.toml").write_text(
        f'[docker]\nendpoint = "unix:///engine.sock"\n[state]\ndir = "{here}/state"\n[discovery]\nlabel_prefix = "{rig.prefix}"\n'
        f'[nginx]\nlayout = "include"\ndir = "{vhosts}"\npid_file = "/run/nginx.pid"\n'
    )
    port = free_port()
    host = rig.run_container(
        name="host",
        image="proxyctl-testbed/proxyctl",
        User="root",
        Env=["PYTHONPATH=/src"],
        Entrypoint=["sh", "-c"],
        args=[f"cd /tmp && nginx -c {here}/nginx.conf && exec python3 -c '{RUN}' --config {here}/config.toml run"],
        ExposedPorts={"80/tcp": {}},
        host_config={
            "Binds": [
                f"{here}/nginx:/usr/sbin/nginx:ro",
                f"{here}:{here}",
                f"{Path.cwd()}:/src:ro",
                f"{endpoint().removeprefix('unix://')}:/engine.sock",
            ],
            "PortBindings": {"80/tcp": [{"HostIp": LOOPBACK, "HostPort": str(port)}]},
        },
    )

    def log() -> str:
        return bytes(rig.client.logs(host.id)).decode()

    try:
        rig.run_container({"host": "a.example"}, name="plain")
        until(lambda: ask(port, "a.example").backend == "plain", 15, "the labelled container")
        assert ask(port, "hand.example").body == "hand"
        rig.run_container({"host": "hand.example"}, name="robber")
        until(lambda: "hand.example belongs to the hand-written vhost" in log(), 10, "the rejection")
        (vhosts / "broken.conf").write_text("servr {}\n")
        until(lambda: f"{vhosts}/broken.conf:1: that is not proxyctl's" in log(), 10, "the refusal")
        (vhosts / "broken.conf").unlink()
        rig.run_container({"host": "b.example"}, name="later")
        until(lambda: ask(port, "b.example").backend == "later", 10, "the second container")
    except AssertionError as error:
        error.add_note(log())
        raise


# ---------------------------------------------------------------- what does not fit


def test_where_the_first_publish_is_refused_by_the_reload_nothing_of_ours_is_left(rig: Rig) -> None:
    """`nginx -t` takes a second listener on the port, and the reload does not."""
    theirs = Theirs(rig, FLAVOURS["current"])
    theirs.write("hand", HAND.replace("listen 80 default_server", "listen [::]:80 ipv6only=off default_server"))
    theirs.write("hand", theirs.path("hand").read_text().replace("listen 80;", "listen [::]:80;"))
    theirs.nginx.stop()
    theirs.nginx.start()
    until(lambda: theirs.ask("hand.example").body == "hand", 10, "the hand-written vhost")
    theirs.add("unlucky")
    theirs.controller.start(wait=False)
    until(lambda: theirs.controller.records("failed"), 15, "a reload that is refused")
    assert "bind() to 0.0.0.0:80 failed" in theirs.controller.records("failed")[-1]["error"]
    assert theirs.controller.records("failed")[-1]["error"].endswith("; nothing of ours is published")
    theirs.controller.kill()
    assert theirs.visible() == {theirs.path("hand").name}
    assert theirs.ask("hand.example").body == "hand"


def test_links_and_relative_paths_lead_where_they_lead_in_the_container(rig: Rig) -> None:
    """As Debian writes them."""
    theirs = Theirs(rig, FLAVOURS["debian"])
    theirs.write("hand", MORE.replace("return", "include proxy_params; return") % "hand.example")
    theirs.path("default").symlink_to("/etc/nginx/sites-available/default")
    theirs.add("beside")
    theirs.controller.start(wait=False)
    theirs.controller.wait_for("beside.example", backend="beside")
    assert "Welcome to nginx" in theirs.ask("nobody.example").body
    assert theirs.ask("hand.example").body == "hand"
    theirs.controller.kill()


def test_a_name_that_does_not_fit_is_refused_alone_and_who_was_first_stays_first(rig: Rig) -> None:
    """Whoever is unknown gets the first server of all when none is the default: that was somebody else's, and still is."""
    theirs = Theirs(rig, FLAVOURS["current"])
    theirs.write("hand", MORE % "hand.example")
    theirs.add("long", f"{'long-name' * 6}.{'x' * 20}.example")
    theirs.add("short")
    theirs.controller.start(wait=False)
    theirs.controller.wait_for("short.example", backend="short")
    assert "server_names_hash_bucket_size" in theirs.controller.wait_rejected("long")["problem"]
    assert theirs.ask("nobody.example").body == "hand"
    theirs.controller.kill()


@OF_ONE_NGINX
def test_what_is_wrong_with_their_nginx_is_told_until_it_is_over(theirs: Theirs) -> None:
    """A pause, and two hand-written vhosts with one name, of which nginx ignores the second."""

    def ready() -> tuple[int, str]:
        answer = theirs.controller.ask_api("/readyz")
        return answer.status, answer.body

    until(lambda: ready() == (200, "ready\n"), 10, "readiness", every=0.1)
    theirs.rig.client.pause(theirs.nginx.id)
    try:
        until(lambda: f"docker unpause {theirs.nginx.name}" in ready()[1], 5, "the pause")
        time.sleep(5)
        assert ready()[0] == 503, "a list of the containers does not end it"
    finally:
        theirs.rig.client.unpause(theirs.nginx.id)
    until(lambda: ready()[0] == 200, 5, "readiness", every=0.1)
    theirs.write("hand2", MORE % "hand.example")
    try:
        until(lambda: theirs.inside("hand2") in theirs.command("status").stdout, 10, "the vhost that nginx ignores")
        told = theirs.controller.ask_api("/api/v1/rejections").body
        assert f"nginx ignores these of its server names: hand.example on *:80 ({theirs.inside('hand')} has it)" in told
        theirs.write("hand2", "server { nonsense; }\n")
        until(lambda: ready()[0] == 503 and "nonsense" in ready()[1], 10, "a directory that nginx refuses", every=0.1)
        metrics = theirs.controller.ask_api("/metrics").body
        assert "proxyctl_config_last_reload_successful 0.0" in metrics
        assert "nonsense" in theirs.command("status").stdout.splitlines()[1]
        assert "nonsense" in theirs.command("doctor").stdout
    finally:
        theirs.path("hand2").unlink()
    until(lambda: ready() == (200, "ready\n"), 10, "readiness", every=0.1)
