"""What a person or a script gets from each command: words, JSON, exit status."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxyctl import __version__, cli
from proxyctl.cli import checkup, client, compose
from proxyctl.cli.output import clean
from proxyctl.model import Owner
from proxyctl.state import State, StateStore
from tests.unit import desk as desks
from tests.unit import make
from tests.unit.desk import Desk
from tests.unit.make import container

NO_ENGINE = {"docker": {"endpoint": "unix:///nonexistent/docker.sock"}}
MAIN = (
    "import signal, sys; from proxyctl.cli import main; sys.argv[0] = 'proxyctl'; "
    "signal.signal(signal.SIGINT, signal.default_int_handler); main()"  # ignored by what a shell has put in the background
)
PROGRAM = [sys.executable, "-c", MAIN]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desks.opened(tmp_path) as desk:
        yield desk


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("PROXYCTL_", "DOCKER_"))]:
        monkeypatch.delenv(name)


class Ran:
    """A finished command."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        assert self.out.count("\n") == 1
        return json.loads(self.out)


class Shell:
    """Runs commands in this process, on a thread of their own: the front they ask lives on this one's loop."""

    def __init__(self, capsys: pytest.CaptureFixture[str], directory: Path) -> None:
        self._capsys = capsys
        self.nobody = directory / "nobody.sock"

    def __call__(self, *arguments: object) -> Ran:
        self._capsys.readouterr()
        status = cli.call([str(a) for a in arguments])
        out, err = self._capsys.readouterr()
        return Ran(status, out, err)

    async def at(self, desk: Desk, *arguments: object) -> Ran:
        return await asyncio.to_thread(self, "--socket", desk.socket, *arguments)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    return Shell(capsys, tmp_path)


def process(*arguments: object, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=make.REPOSITORY, **more
    )


def ran(*arguments: object, **more: Any) -> Ran:
    running = process(*arguments, **more)
    out, err = running.communicate(timeout=20)
    return Ran(running.returncode, out, err)


# ---------------------------------------------------------------- the program


def test_version(shell: Shell) -> None:
    assert shell("version").out == f"proxyctl {__version__}\n"
    assert shell("version", "--json").json["version"] == __version__


@pytest.mark.parametrize(
    "arguments", [["version"], ["completion", "bash"], ["--help"], ["healthcheck", "--socket", "/nonexistent"]]
)
def test_what_must_be_fast_loads_no_engine_no_http_client_and_no_tables(arguments: list[str]) -> None:
    program = (
        "import sys, proxyctl.cli as c; c.call(sys.argv[1:]);"
        "print(sorted({'docker', 'aiohttp', 'rich', 'structlog', 'jinja2', 'prometheus_client'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, cwd=make.REPOSITORY
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(shell: Shell, name: str) -> None:
    ran = shell(name, "--help")
    assert ran.status == 0
    assert "--config" in ran.out
    assert "--socket" in ran.out


def test_help_lists_every_command_but_the_one_for_docker(shell: Shell) -> None:
    listed = shell("--help").out.partition("Commands:")[2]
    assert [line.split()[0] for line in listed.splitlines() if line.strip()] == [c for c in cli.COMMANDS if c != "healthcheck"]
    assert "..." not in listed


def test_an_unknown_command_names_the_nearest(shell: Shell) -> None:
    ran = shell("statsu")
    assert (ran.status, ran.out) == (2, "")
    assert "Did you mean status?" in ran.err


WRONG: list[list[str]] = [
    ["status", "--nope"],
    ["status", "--watch", "--json"],
    ["explain"],
    ["history", "-n", "0"],
    ["host", "drain", "--notice", "2h"],
    ["completion", "tcsh"],
    [],
]


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_usage_is_status_2_and_leaves_standard_output_alone(shell: Shell, arguments: list[str]) -> None:
    ran = shell(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert "Usage:" in ran.err


@pytest.mark.parametrize("kind", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: Shell, kind: str) -> None:
    assert "_PROXYCTL_COMPLETE" in shell("completion", kind).out


def test_completion_knows_the_commands() -> None:
    environment = os.environ | {"COMP_WORDS": "proxyctl ch", "COMP_CWORD": "1", "_PROXYCTL_COMPLETE": "bash_complete"}
    assert ran(env=environment).out.strip() == "plain,check"


@pytest.mark.parametrize("command", [["status"], ["history"], ["explain", "a.example"], ["events"], ["status", "--json"]])
def test_without_a_controller_the_status_is_3_and_says_where_it_looked(shell: Shell, command: list[str]) -> None:
    ran = shell("--socket", shell.nobody, *command)
    assert (ran.status, ran.out) == (3, "")
    assert ran.err == f"proxyctl: no controller answers at {shell.nobody}: start one with `proxyctl run`\n"


def test_options_may_stand_before_and_behind_the_command(shell: Shell, tmp_path: Path) -> None:
    for arguments in (["--config", tmp_path / "no.toml", "status"], ["status", "--config", tmp_path / "no.toml"]):
        ran = shell(*arguments)
        assert (ran.status, ran.err) == (2, f"proxyctl: {tmp_path}/no.toml: No such file or directory\n")


def test_configuration_errors_name_the_key(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[nginx]\nimag = "x"\n')
    for command in (["status"], ["run"], ["check"], ["diff"], ["doctor"], ["check", "-"]):
        ran = shell("--config", tmp_path / "c.toml", *command)
        assert ran.status == 2
        assert "unknown key nginx.imag: did you mean nginx.image?" in ran.err


def test_a_reader_who_leaves_gets_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*PROGRAM, "version"], stdout=write, stderr=subprocess.PIPE, text=True, cwd=make.REPOSITORY, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


# ---------------------------------------------------------------- status


async def test_status_has_a_headline_the_routes_and_the_problems(desk: Desk, shell: Shell) -> None:
    git = {"host": "a.example", "path": "/git", "service": "cgit"}
    two = container("git-2", git, networks={"front": "10.0.0.6"})
    desk.decide(
        [container("web", {"host": "b.example"}), container("git-1", git), two, container("bad", {"hots": "x"})],
        {"git-2": "unhealthy"},
    )
    ran = await shell.at(desk, "status")
    assert (ran.status, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "In sync for 0 s: nginx 1.31.3, 2 services, 2 of 3 targets healthy"
    assert [line.split() for line in lines[2:5]] == [
        ["ROUTE", "SERVICE", "TARGETS", "STATE"],
        ["a.example/git", "cgit", "1/2", "healthy", "degraded", "git-2:", "refused"],
        ["b.example", "web", "1/1", "healthy", "ok"],
    ]
    assert "  bad proxyctl.hots: is not a label that proxyctl knows" in lines
    assert "    did you mean proxyctl.host?" in lines


async def test_status_says_why_it_is_not_in_sync(desk: Desk, shell: Shell) -> None:
    desk.decide([container("web", {"host": "a.example"})], {"web": "unhealthy"})
    desk.report("restored", error="nginx did not answer")
    ran = await shell.at(desk, "status")
    assert ran.status == 0
    assert ran.out.startswith("Not in sync for 0 s: nginx 1.31.3, 1 service, 0 of 1 targets healthy\n")
    assert "  nginx did not answer\n" in ran.out
    assert "  a.example: nothing is healthy, so what is alive serves all the same\n" in ran.out


async def test_status_json_is_the_api_s_own(desk: Desk, shell: Shell) -> None:
    desk.decide([container("web", {"host": "a.example"})])
    assert (await shell.at(desk, "status", "--json")).json == (await desk.ask("/api/v1/status"))[1]


async def test_a_pipe_gets_neither_colour_nor_wrapping(desk: Desk, shell: Shell) -> None:
    name = "x" * 60
    desk.decide([container(name, {"host": f"{'y' * 60}.{'z' * 60}.example", "service": "s" * 100})])
    ran = await shell.at(desk, "status")
    assert "\x1b" not in ran.out
    assert len(ran.out.splitlines()) == 4
    assert not any(line.endswith(" ") for line in ran.out.splitlines())


def test_what_a_terminal_would_obey_does_not_reach_it() -> None:
    assert clean("a\x1b[2Jb\rc\n\u202ed") == "a\ufffd[2Jb\ufffdc \ufffdd"


# ---------------------------------------------------------------- explain, history, events, healthcheck


@pytest.mark.parametrize(
    ("url", "status", "said"),
    [
        ("a.example/x", 0, "a.example belongs to web and goes to web"),
        ("https://a.example/x?y", 0, "a.example belongs to web and goes to web"),
        ("a.exampel", 1, "Served here under a name like it: a.example, b.example"),
        ("b.example/other", 1, "Paths of b.example: /git"),
        ("b.example/git", 1, "no target of b.example/git (git) serves: nginx answers 503"),
        ("1.2.3.4", 2, ""),
    ],
)
async def test_explain(desk: Desk, shell: Shell, url: str, status: int, said: str) -> None:
    git = container("git", {"host": "b.example", "path": "/git"})
    desk.decide([container("web", {"host": "a.example"}), git], {"git": "warming"}, published=["b.example/git"])
    ran = await shell.at(desk, "explain", url)
    assert ran.status == status
    assert said in ran.out
    if status < 2:
        assert (await shell.at(desk, "explain", "--json", url)).json["schema"] == 1


async def test_explain_shows_the_rejected(desk: Desk, shell: Shell) -> None:
    desk.decide([container("web", {"host": "a.example", "prot": "80"})])
    ran = await shell.at(desk, "explain", "a.example")
    assert "Asked for a.example and rejected:\n  web proxyctl.prot: is not a label that proxyctl knows" in ran.out


async def test_history_is_newest_last(desk: Desk, shell: Shell) -> None:
    for number in range(3):
        desk.report("live", changes=(f"change {number}",), event_to_live=0.0884)
    ran = await shell.at(desk, "history", "-n", "2")
    assert [line for line in ran.out.splitlines() if line.startswith("  ")] == ["  change 1", "  change 2"]
    assert "live in 88 ms" in ran.out
    assert len((await shell.at(desk, "history", "--json")).json["cycles"]) == 3


async def test_events_follow_until_interrupted(desk: Desk) -> None:
    running = process("events", "--json", "--socket", desk.socket)
    await desk.followed()
    desk.report("live", changes=("+ a.example",))
    assert running.stdout
    line = await asyncio.to_thread(running.stdout.readline)
    assert json.loads(line)["changes"] == ["+ a.example"]
    running.send_signal(signal.SIGINT)
    _, err = await asyncio.to_thread(running.communicate, timeout=10)
    assert (running.returncode, err.strip()) == (130, "")


async def test_events_end_with_the_controller(tmp_path: Path) -> None:
    async with desks.opened(tmp_path) as desk:
        running = process("events", "--socket", desk.socket)
        await desk.followed()
        desk.report("failed", error="no room")
    out, err = await asyncio.to_thread(running.communicate, timeout=10)
    assert running.returncode == 3
    assert out.endswith(" failed\n  no room\n")
    assert "has ended" in err


async def test_healthcheck(desk: Desk, shell: Shell) -> None:
    assert (await shell.at(desk, "healthcheck")).status == 0
    desk.held.beat -= 1000
    assert (await shell.at(desk, "healthcheck")).status == 1
    assert shell("healthcheck", "--socket", shell.nobody).status == 1


async def test_a_controller_that_says_nothing_is_a_timeout(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 0.2)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        ran = await asyncio.to_thread(shell, "--socket", tmp_path / "s", "status")
    assert ran.status == 4
    assert "does not answer within 0.2 s" in ran.err


async def test_a_controller_of_another_schema_is_not_guessed_at(
    desk: Desk, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SCHEMA", 2)
    ran = await shell.at(desk, "status")
    assert (ran.status, "speaks schema 1, this command 2" in ran.err) == (2, True)


# ---------------------------------------------------------------- check


def compose_file(tmp_path: Path, text: str) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir(exist_ok=True)
    path = folder / "compose.yaml"
    path.write_text(text)
    return path


def test_check_of_a_compose_file_that_is_fine(shell: Shell, tmp_path: Path) -> None:
    path = compose_file(tmp_path, "services: {web: {ports: ['8080:80'], labels: {proxyctl.host: a.example}}, db: {}}")
    ran = shell("check", path)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == f"{path}, 1 service with labels: nothing would be rejected\n"


def test_check_of_a_compose_file_knows_what_the_operator_keeps_for_himself(shell: Shell, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[api]\nlisten = "127.0.0.1:9180"\n[[claims]]\nhosts = ["kept.example"]\nprojects = ["other"]\n')
    kept = "web: {expose: [80], labels: {proxyctl.host: kept.example}}"
    own = "loop: {network_mode: host, labels: {proxyctl.host: loop.example, proxyctl.port: 9180}}"
    path = compose_file(tmp_path, f"services: {{{kept}, {own}}}")
    found = shell("--config", config, "check", "--json", path).json["rejections"]
    assert {(r["container"], r["reason"]) for r in found} == {("shop-web-1", "not-allowed"), ("shop-loop-1", "unreachable")}


def test_check_prints_what_the_owner_has_to_write(shell: Shell, tmp_path: Path) -> None:
    path = compose_file(tmp_path, "services: {web: {expose: [80], labels: [proxyctl.host=a.example, proxyctl.prot=80]}}")
    ran = shell("check", path)
    assert ran.status == 1
    assert ran.out.startswith("  shop-web-1 proxyctl.prot: is not a label that proxyctl knows\n    did you mean proxyctl.port?\n")
    found = shell("check", "--json", path)
    assert (found.status, found.json["ok"], found.json["rejections"][0]["hint"]) == (1, False, "did you mean proxyctl.port?")


def verdict(text: str) -> compose.Verdict:
    return compose.check(text, "compose.yaml", "shop", make.defaults(), (), frozenset())


def refused(text: str) -> list[tuple[str, str, str]]:
    return [(r.container, r.reason, r.label) for r in verdict(text).rejections]


def test_services_of_one_file_that_want_the_same_place_are_found() -> None:
    text = (
        "services: {a: {expose: [80], labels: {proxyctl.host: a.example}}, b: {expose: [80], labels: {proxyctl.host: a.example}}}"
    )
    assert refused(text) == [("shop-b-1", "host-taken", "proxyctl.host")]


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ("expose: [3000]", []),
        ("expose: ['3000/tcp', '5000/udp']", []),
        ("ports: ['80']", []),
        ("ports: ['127.0.0.1:8080:80/tcp']", []),
        ("ports: ['[::1]:8080:3000']", []),
        ("ports: [{target: 3000, published: 8080}]", []),
        ("ports: [8080:80, 8443:443]", []),
        ("expose: [3000, 4000]", ["no-port"]),
        ("expose: [3000], ports: ['4000:4000']", ["no-port"]),
        ("image: x", []),
    ],
)
def test_the_port_is_found_as_docker_would(ports: str, expected: list[str]) -> None:
    found = verdict(f"services: {{web: {{{ports}, labels: {{proxyctl.host: a.example}}}}}}")
    assert [r.reason for r in found.rejections] == expected
    assert ("port not checked" in "".join(found.notes)) == ("image" in ports)


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("host: '${SUB}.a.example'", "x.a.example"),
        ("host: '${SUB:-www}.a.example'", "www.a.example"),
        ("port: $PORT", "1"),
        ("port: '80${PORT}'", "801"),
        ("path: '/${A}/b'", "/x/b"),
        ("path: '${A}'", "/x"),
        ("health.interval: '${A}'", "1s"),
        ("health.type: '${A:?must}'", "http"),
        ("routes.x.strip-path: '${A}'", "1"),
    ],
)
def test_a_label_with_a_variable_is_checked_with_a_value_that_fits_and_that_is_said(label: str, shown: str) -> None:
    host = "" if label.startswith("host") else ", proxyctl.routes.x.host: b.example, proxyctl.host: a.example"
    found = verdict(f"services: {{web: {{expose: [80], labels: {{proxyctl.{label}{host}}}}}}}")
    assert found.rejections == ()
    assert [note for note in found.notes if note.endswith(f"has a variable: checked as {shown}")]


def test_two_dollars_are_one_and_no_variable() -> None:
    found = verdict("services: {web: {expose: [80], labels: {proxyctl.host: a.example, proxyctl.health.path: '/a$$b'}}}")
    assert (found.rejections, found.notes) == ((), [])


def test_a_variable_does_not_hide_a_mistake_beside_it() -> None:
    assert refused("services: {web: {expose: [80], labels: {proxyctl.host: 'http://${A}/'}}}")[0][1] == "bad-value"


def test_text_stays_text_as_in_compose() -> None:
    found = verdict(
        "services: {web: {expose: [80], labels: {proxyctl.host: a.example, proxyctl.strip-path: on, proxyctl.port: 22:22}}}"
    )
    assert [r.message for r in found.rejections] == ["'22:22' is not a number from 1 to 65535"]


def test_merge_keys_anchors_and_tags_of_compose_are_followed() -> None:
    text = """
x-all: &all {expose: [80]}
x-labels: &labels {proxyctl.path: /x}
services:
  web: {<<: *all, labels: {<<: *labels, proxyctl.hots: a.example}, ports: !reset [], env: !override {A: 1}, cmd: !x y}
"""
    assert refused(text) == [("shop-web-1", "unknown-label", "proxyctl.hots")]


def test_networks_are_named_as_docker_will_name_them() -> None:
    text = """
services:
  a: {expose: [80], networks: [front], labels: {proxyctl.host: a.example, proxyctl.network: front}}
  b: {expose: [80], networks: {out: {}}, labels: {proxyctl.host: b.example, proxyctl.network: web}}
  c: {expose: [80], networks: [ext], labels: {proxyctl.host: c.example, proxyctl.network: ext}}
  d: {expose: [80], networks: [front], labels: {proxyctl.host: d.example, proxyctl.network: other}}
  e: {expose: [80], network_mode: none, labels: {proxyctl.host: e.example}}
  f: {expose: [80], network_mode: "service:a", labels: {proxyctl.host: f.example}}
networks: {front: {}, out: {name: web}, ext: {external: true}}
"""
    assert refused(text) == [("shop-d-1", "unreachable", "proxyctl.network"), ("shop-e-1", "unreachable", "proxyctl.network")]


@pytest.mark.parametrize(
    ("healthcheck", "expected", "noted"),
    [
        ("healthcheck: {test: [CMD, x]}, ", [], False),
        ("healthcheck: {disable: true}, ", ["bad-value"], False),
        ("healthcheck: {test: [NONE]}, ", ["bad-value"], False),
        ("", [], True),
    ],
)
def test_a_healthcheck_that_the_file_does_not_have_may_be_the_image_s(healthcheck: str, expected: list[str], noted: bool) -> None:
    found = verdict(
        f"services: {{a: {{{healthcheck}expose: [80], labels: {{proxyctl.host: a.example, proxyctl.health.type: docker}}}}}}"
    )
    assert [r.reason for r in found.rejections] == expected
    assert bool(found.notes) == noted


def test_labels_in_the_wrong_place_and_files_that_are_not_followed_are_said() -> None:
    found = verdict("services: {a: {extends: b, deploy: {labels: {proxyctl.host: a.example}}}}\ninclude: [x.yaml]")
    assert len(found.notes) == 3
    assert found.services == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("services:\n  a: [\n", "compose.yaml:3: not YAML"),
        ("a: b\nc", "not YAML"),
        ("[1]", "no mapping"),
        ("", "no services"),
        ("x: 1", "no services"),
        ("services: 1", "services is no mapping"),
        ("services: {a: 1}", r"services\.a is no mapping"),
        ("services: {a: {labels: 1}}", r"services\.a\.labels is no mapping"),
        ("services: {a: *b}", "undefined alias"),
        ("\0", "not YAML"),
    ],
)
def test_what_is_no_compose_file_is_said_with_its_place(shell: Shell, tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(compose.NotCompose, match=problem):
        verdict(text)
    assert shell("check", compose_file(tmp_path, text)).status == 2


def test_a_file_that_is_not_there_is_a_usage_error(shell: Shell, tmp_path: Path) -> None:
    ran = shell("check", tmp_path / "none.yaml")
    assert (ran.status, ran.err) == (2, f"proxyctl: {tmp_path}/none.yaml: No such file or directory\n")


def test_check_without_an_engine_checks_what_it_can_and_says_so(tmp_path: Path) -> None:
    done = ran("--config", Desk(tmp_path).config_file(**NO_ENGINE), "check")
    what = "configuration and templates, without the labels, which could not be read"
    assert (done.status, done.out) == (3, f"{what}: nothing would be rejected\n")
    assert "/nonexistent/docker.sock does not answer" in done.err


@pytest.mark.parametrize("text", ["{% if %}", "{{ nothing_of_that_name }}"])
def test_check_names_the_template_that_is_wrong(shell: Shell, tmp_path: Path, text: str) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "server.conf.j2").write_text(text)
    ran = shell("--config", Desk(tmp_path).config_file(**NO_ENGINE), "check")
    assert (ran.status, ran.out) == (2, "")
    assert "server.conf.j2" in ran.err or "nothing_of_that_name" in ran.err


# ---------------------------------------------------------------- export and import


def test_what_one_host_exports_another_one_imports(tmp_path: Path) -> None:
    one, other = (Desk(tmp_path / name) for name in ("one", "other"))
    for desk in (one, other):
        desk.directory.mkdir()
    files = [desk.config_file(state={"dir": str(desk.directory / "state")}) for desk in (one, other)]
    nothing = ran("--config", files[0], "export")
    assert (nothing.status, "there is no state in" in nothing.err) == (1, True)
    (one.directory / "state").mkdir()
    StateStore(one.directory / "state").save(State("a" * 32, {"a.example": Owner("web"), "a.example/": Owner("web")}))
    written = str(tmp_path / "host.json")
    assert ran("--config", files[0], "export", written).status == 0
    done = ran("--config", files[1], "import", written)
    assert (done.status, done.out) == (0, "1 hosts with their owners; they hold from the controller's next start\n")
    taken = StateStore(other.directory / "state").load()
    assert (taken.owners["a.example"], taken.token == "a" * 32) == (Owner("web"), False)


def test_import_does_not_meddle_with_a_controller_that_runs(tmp_path: Path) -> None:
    file = Desk(tmp_path).config_file(state={"dir": str(tmp_path / "state")})
    store = StateStore(tmp_path / "state")
    store.acquire()
    store.save(State("a" * 32, {"a.example": Owner("web")}))
    written = tmp_path / "host.json"
    written.write_text(ran("--config", file, "export").out)
    done = ran("--config", file, "import", str(written))
    store.release()
    assert (done.status, "stop that controller first" in done.err) == (1, True)
    written.write_text("{}")
    assert ran("--config", file, "import", str(written)).status == 2
    assert store.load().owners == {"a.example": Owner("web")}


# ---------------------------------------------------------------- run and doctor, without an engine


def test_run_says_what_is_in_its_way(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    file = desk.config_file(**NO_ENGINE)
    with socket.socket() as other:
        other.bind(("127.0.0.1", desk.port))
        other.listen()
        taken = ran("run", "--config", file)
    assert taken.status == 2
    assert f"proxyctl: api.listen 127.0.0.1:{desk.port} is taken" in taken.err.splitlines()[-1]


def test_run_says_who_holds_the_state_directory(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    store.acquire()
    held = ran("run", "--config", Desk(tmp_path).config_file(**NO_ENGINE))
    store.release()
    assert held.status == 2
    assert f"{tmp_path} is held by pid {os.getpid()} on " in held.err
    assert "Traceback" not in held.err


def test_run_says_which_directory_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    failed = ran("run", "--config", Desk(tmp_path).config_file(**NO_ENGINE, state={"dir": str(tmp_path / "file" / "state")}))
    assert failed.status == 2
    assert str(tmp_path / "file") in failed.err
    assert "Traceback" not in failed.err


def test_run_without_an_engine_goes_on_trying_says_so_once_and_ends_at_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    running = process(
        "run", "--config", desk.config_file(**NO_ENGINE, state={"dir": str(tmp_path / "s"), "runtime": str(tmp_path / "r")})
    )
    assert running.stderr
    said = [running.stderr.readline() for _ in range(4)]
    assert "there is no such socket: start Docker" in said[-1]
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(1.5)
    running.send_signal(signal.SIGTERM)
    out, rest = running.communicate(timeout=5.0)
    assert (running.returncode, out, rest.count("\n")) == (0, "", 1)
    assert "controller stopped" in rest
    assert not desk.socket.exists()


def test_an_engine_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    directories = {"dir": str(tmp_path / "s"), "runtime": str(tmp_path / "r")}
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "d"))
        silent.listen()
        running = process("run", "--config", desk.config_file(docker={"endpoint": f"unix://{tmp_path}/d"}, state=directories))
        assert running.stderr
        assert ["listening" in running.stderr.readline() for _ in range(2)] == [False, True]
        connection, _ = silent.accept()
        connection.recv(100)
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=5.0)
        connection.close()
    assert running.returncode == 0


def test_doctor_without_an_engine_fails_and_says_what_to_do(tmp_path: Path) -> None:
    file = Desk(tmp_path).config_file(**NO_ENGINE)
    done = ran("--config", file, "doctor")
    assert (done.status, "What to do\n  engine: start Docker" in done.out) == (1, True)
    found = ran("--config", file, "doctor", "--json").json
    checks = {check["what"]: check for check in found["checks"]}
    assert (found["ok"], checks["engine"]["standing"]) == (False, "fail")
    assert "mount the socket: -v /nonexistent/docker.sock:/nonexistent/docker.sock" in checks["engine"]["todo"]
    assert checks["state.dir"]["standing"] == "ok"
    assert checks["controller"]["standing"] == "warn"


def test_doctor_looks_at_the_token_file_as_the_controller_will(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    file = Desk(tmp_path).config_file(**NO_ENGINE, api={"token_file": str(tokens)})

    def finding() -> Any:
        (found,) = (c for c in ran("--config", file, "doctor", "--json").json["checks"] if c["what"] == "api.token_file")
        return found

    assert (finding()["standing"], "is not there" in finding()["found"]) == ("fail", True)
    tokens.write_text(f"sha256:{'0' * 64}\n")
    tokens.chmod(0o640)
    assert finding()["standing"] == "ok"


def test_the_filesystem_of_a_path_is_the_innermost_mount_s(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/a / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\n/dev/b /run/x xfs rw 0 0\noverlay /running overlay rw 0 0\n"
    )
    found = [checkup.filesystem(Path(path), mounts) for path in ("/var/lib", "/run/proxyctl", "/run/x/y", "/running/z", "/run")]
    assert found == ["ext4", "tmpfs", "xfs", "overlay", "tmpfs"]
