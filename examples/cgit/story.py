"""The machine of the story, and what happens on it, step by step with figures: `make cgit` tells it, tests/engine/test_cgit.py
checks it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

from tests.load import Load, Report
from tests.rig import Answer, Rig, ask, free_port, until

MACHINE = "proxyctl-testbed/cgit-machine"
REGISTRY = "127.0.0.1:5000"
IMAGES = ("nginx-extras:1.22", "cgit:v1", "cgit:v2", "backend:latest")
CODE, WIKI = "code.example", "wiki.example"
CLONE = f"http://{CODE}/git/story.git"
MIB = 16
"""Of the repository's one large file: a clone takes five seconds, since lighttpd.conf gives a connection 3 MiB/s."""
COMMITS = 4
BY_HAND = "all is well"
UP_WITHIN = 60.0
BACK_WITHIN = 30.0

STATE_PARTITION = f"""
install --directory /media/state/_CUSTOM/nginx /media/state/git
cat >/media/state/_CUSTOM/nginx/status <<'END'
# written by hand, long before proxyctl
server {{
    listen 80;
    server_name status.example;
    location / {{ return 200 "{BY_HAND}"; }}
}}
END
git init --quiet --bare --initial-branch main /media/state/git/story.git
git init --quiet --initial-branch main /root/work
cd /root/work
git config user.name Author && git config user.email author@code.example
for chapter in $(seq {COMMITS - 1}); do git commit --quiet --allow-empty --message "Chapter $chapter"; done
head --bytes {MIB}M /dev/urandom >ball && git add ball && git commit --quiet --message "Something large"
git push --quiet /media/state/git/story.git main
"""


class Failed(Exception):  # noqa: N818
    """A command in the machine that went wrong."""


class Machine:
    """A container with systemd, an engine and a registry in it. Its port 80 is `port` of 127.0.0.1."""

    def __init__(self, rig: Rig) -> None:
        self.port = free_port()
        self.client = rig.client
        host_config = {
            "CapAdd": ["NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"],
            "SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined"],
            "MaskedPaths": [],
            "ReadonlyPaths": [],
            "DeviceCgroupRules": ["a *:* rwm"],
            "CgroupnsMode": "private",
            "Tmpfs": {"/run": "", "/tmp": ""},
            "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(self.port)}]},
            "ExtraHosts": [f"{CODE}:127.0.0.1"],
        }
        self.box = rig.run_container(
            name="machine", image=MACHINE, host_config=host_config, ExposedPorts={"80/tcp": {}}, Hostname="machine"
        )
        self.wait_up()

    def wait_up(self) -> None:
        until(lambda: self.tries("docker", "version"), UP_WITHIN, "an engine in the machine", every=0.1)

    def run(self, *argv: str) -> str:
        """Returns what a command in the machine printed. Raises Failed."""
        made = self.client.exec_create(self.box.id, list(argv))
        output = bytes(self.client.exec_start(made["Id"])).decode("utf-8", "replace")
        status = self.client.exec_inspect(made["Id"])["ExitCode"]
        if status != 0:
            raise Failed(f"{' '.join(argv)}: exit status {status}\n{output}")
        return output

    def tries(self, *argv: str) -> bool:
        try:
            self.run(*argv)
        except Failed:
            return False
        return True

    def sh(self, script: str) -> str:
        return self.run("bash", "-euo", "pipefail", "-c", script)

    def systemctl(self, *words: str) -> None:
        self.run("systemctl", *words)

    def enable(self, container: str) -> None:
        """Its unit. Returns when it runs."""
        self.systemctl("enable", "--now", unit_of(container))
        until(lambda: self.tries("docker", "top", container), BACK_WITHIN, container, every=0.1)

    def ask(self, host: str, path: str = "/") -> Answer:
        return ask(self.port, host, path, timeout=2)

    def addresses(self) -> dict[str, str]:
        """By container."""
        form = "{{.Name}} {{.NetworkSettings.IPAddress}}"
        lines = self.sh(f"docker inspect --format '{form}' $(docker ps --quiet)").splitlines()
        return dict(line.removeprefix("/").split() for line in lines)

    def nginx_version(self) -> str:
        return self.run("docker", "exec", "nginx", "nginx", "-v").strip().rpartition("/")[2]

    def first_live(self, since: float) -> float:
        """When proxyctl had first published after `since` (both unix)."""
        cycles = json.loads(self.run("proxyctl", "history", "--json", "-n", "500"))["cycles"]
        return float(min(cycle["at_unix"] for cycle in cycles if cycle["result"] == "live" and cycle["at_unix"] > since))

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.run("proxyctl", "status", "--json")))

    def code(self) -> str:
        """Which cgit lists the repositories; empty when none does."""
        answer = self.ask(CODE, "/git/")
        return answer.backend if answer.status == 200 else ""

    def wiki(self) -> str:
        answer = self.ask(WIKI)
        return answer.backend if answer.status == 200 else ""

    def serves(self, version: str) -> bool:
        return self.code() == f"cgit-{version}" and self.wiki() == "wiki"


def unit_of(container: str) -> str:
    return container.replace("cgit-", "cgit@")


class Clones:
    """`git clone` again and again, three at a time, until the block ends."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(3)]
        self.done: list[tuple[float, float]] = []
        """From when to when (monotonic)."""
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, number: int) -> None:
        self._stopping.wait(number)  # so that one is always in its middle
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                clone(self._machine, f"/tmp/clone{number}")
                self.done.append((began, time.monotonic()))
            except Failed as failure:
                self.failures.append(str(failure))


def clone(machine: Machine, into: str) -> int:
    """Through nginx. Returns how many commits came, with the large file whole. Raises Failed."""
    machine.sh(f"rm -rf {into}; git clone --quiet {CLONE} {into}; cmp {into}/ball /root/work/ball")
    return int(machine.run("git", "-C", into, "rev-list", "--count", "HEAD"))


class Watch:
    """Asks both sites all the while, and notes who answers."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.wrong: list[float] = []
        """When what one site answered for the other was asked (unix)."""
        self.right = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stopping.wait(0.02):
            for host, own in ((CODE, "cgit-"), (WIKI, "wiki")):
                began = time.time()
                backend = self._machine.ask(host, "/git/").backend
                if backend.startswith(own):
                    self.right += 1
                elif backend:
                    self.wrong.append(began)


# ---------------------------------------------------------------- the steps


def set_up(machine: Machine) -> Mapping[str, str]:
    """Everything as the story has it, with cgit v1. Returns the digests of the images, by name, as the registry gave them."""
    machine.sh(STATE_PARTITION)
    until(lambda: machine.tries("curl", "--silent", "--fail", f"{REGISTRY}/v2/"), UP_WITHIN, "a registry", every=0.1)
    pulls = [f"docker pull --quiet {REGISTRY}/{image} >&2 & pulls+=($!)" for image in IMAGES]
    machine.sh("\n".join(["pulls=()", *pulls, "for pull in ${pulls[@]}; do wait $pull; done"]))
    form = "{{index .RepoDigests 0}}"
    names = machine.run("docker", "image", "inspect", "--format", form, *(f"{REGISTRY}/{image}" for image in IMAGES)).split()
    digests = {image: name.partition("@")[2] for image, name in zip(IMAGES, names, strict=True)}
    for container in ("nginx", "cgit-v1", "wiki"):
        machine.enable(container)
    machine.systemctl("enable", "--now", "proxyctl", "proxyctl-drain")
    until(lambda: machine.serves("v1"), BACK_WITHIN, "both sites", every=0.1)
    return digests


@dataclass(frozen=True, slots=True)
class Cloned:
    listed: bool
    redirect: str
    commits: int
    seconds: float
    by_hand: str
    """What the vhost that was there before answers."""


def list_and_clone(machine: Machine) -> Cloned:
    front, page = machine.ask(CODE), machine.ask(CODE, "/git/")
    began = time.monotonic()
    commits = clone(machine, "/tmp/first")
    return Cloned(
        listed="story.git" in page.body,
        redirect=f"{front.status} {front.headers.get('location', '')}",
        commits=commits,
        seconds=time.monotonic() - began,
        by_hand=machine.ask("status.example").body,
    )


@dataclass(frozen=True, slots=True)
class Swapped:
    pages: Report
    """On new connections."""
    kept: Report
    """Of clients that keep theirs. nginx before 1.27.4 closes them at a reload, in the face of a request now and then."""
    clones: int
    across: int
    """How many of the clones had begun before v2 was started and ended after."""
    failures: tuple[str, ...]
    before: str
    """What `proxyctl wait` prints: the version that was live before."""
    drained_after: float
    """Seconds from `systemctl enable --now cgit@v2` until nothing of nginx knew v1."""
    late: bool
    """Whether v1 answered a page after that."""


def swap(machine: Machine) -> Swapped:
    """cgit v2 beside v1, tested, in its place, and v1 stopped when it is drained, while pages are read and clones run."""
    with ExitStack() as stack:
        clones = stack.enter_context(Clones(machine))
        pages = stack.enter_context(Load(CODE, machine.port, path="/git/", new_per_second=15, keepalive_clients=0))
        kept = stack.enter_context(
            Load(CODE, machine.port, path="/git/cgit.css", new_per_second=0, post_share=0, keepalive_clients=10)
        )
        time.sleep(3)
        began = time.monotonic()
        machine.systemctl("enable", "--now", "cgit@v2")
        before = machine.run("proxyctl", "wait", "cgit", "--version", "v2", "--drained").split()[-1]
        drained = time.monotonic()
        machine.systemctl("disable", "--now", "cgit@v1")
        time.sleep(1)
    across = sum(start < began < end for start, end in clones.done)
    failures, late = tuple(clones.failures), pages.report.answers["cgit-v1"].last > drained
    return Swapped(pages.report, kept.report, len(clones.done), across, failures, before, drained - began, late)


@dataclass(frozen=True, slots=True)
class Alone:
    back_after: float
    """Seconds from the death of nginx to its first answer."""


def nginx_alone(machine: Machine) -> Alone:
    """No controller, and nginx is killed."""
    machine.systemctl("stop", "proxyctl")
    began = time.monotonic()
    machine.run("docker", "kill", "nginx")
    until(lambda: machine.serves("v2"), BACK_WITHIN, "both sites without a controller")
    took = time.monotonic() - began
    machine.systemctl("start", "proxyctl")
    return Alone(took)


@dataclass(frozen=True, slots=True)
class Restarted:
    back_after: float
    """Seconds from the power coming back until both sites answer."""
    before: Mapping[str, str]
    after: Mapping[str, str]
    """Addresses by container."""
    right: int
    wrong_before: int
    """Answers of one site for the other, until proxyctl had published in this boot."""
    wrong_after: int


def power_cut(machine: Machine) -> Restarted:
    """The worst order after it: nginx is first, cgit gets the address that the wiki had, proxyctl is last."""
    order = ("nginx", "wiki", "cgit-v2")
    machine.systemctl("disable", *map(unit_of, order), "proxyctl", "proxyctl-drain")
    before = machine.addresses()
    with Watch(machine) as watch:
        machine.box.kill()
        machine.box.start()
        began = time.time()
        machine.wait_up()
        for container in order:
            machine.enable(container)
        time.sleep(2)
        machine.systemctl("enable", "--now", "proxyctl", "proxyctl-drain")
        until(lambda: machine.serves("v2"), BACK_WITHIN, "both sites", every=0.1)
        back = time.time()
        time.sleep(2)
    published = machine.first_live(began)
    after = sum(at > published for at in watch.wrong)
    return Restarted(back - began, before, machine.addresses(), watch.right, len(watch.wrong) - after, after)


@dataclass(frozen=True, slots=True)
class Rebooted:
    told_after: float
    """Seconds from the order to shut down until the balancer's check failed."""
    pages: Report
    """That the balancer sent until it knew."""
    clone: str
    """What went wrong with the one that was under way; empty when nothing did."""
    clone_after: float
    """When it ended, as told_after."""
    down_after: float
    back_after: float
    """Seconds from the power coming back until both sites and the balancer's check answer."""


def reboot(machine: Machine) -> Rebooted:
    """An orderly one, behind a balancer, with a clone under way. All units start at once."""
    trouble, ended = "", 0.0

    def clone_across() -> None:
        nonlocal trouble, ended
        try:
            clone(machine, "/tmp/last")
        except Failed as failure:
            trouble = str(failure)
        ended = time.monotonic()

    def ready() -> bool:
        return machine.ask("ready.proxyctl.invalid", "/-/ready").status == 200

    until(ready, BACK_WITHIN, "a check that passes")
    cloning, stopping = threading.Thread(target=clone_across), threading.Thread(target=machine.box.stop, args=(120,))
    with Load(CODE, machine.port, path="/git/", new_per_second=15, keepalive_clients=0) as pages:
        cloning.start()
        time.sleep(0.5)
        began = time.monotonic()
        stopping.start()
        until(lambda: not ready(), UP_WITHIN, "a check that fails", every=0.5)
        told = time.monotonic()
    cloning.join()
    stopping.join()
    down = time.monotonic()
    machine.box.start()
    up = time.monotonic()
    until(lambda: machine.serves("v2") and ready(), UP_WITHIN, "both sites", every=0.1)
    back = time.monotonic()
    return Rebooted(told - began, pages.report, trouble, ended - began, down - began, back - up)
