"""The controller dies between two steps, stands still or runs twice; its disk says no; its state is torn; its clock jumps."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from docker.errors import APIError

from proxyctl.plan.ownership import EXITED_GRACE
from tests.chaos.launch import Instruments
from tests.chaos.scene import PATIENCE, SECTIONS, WITHIN, App, Scene, Seen, fault
from tests.load import Load
from tests.rig import Controller, until

STRIDE = 5
"""So many seeds in a row kill the controller at every step of a cycle: each takes every fifth of them."""
ZONE = "limit_req_zone ${} zone=own:1m rate=9r/s;\nserver {{ listen 80; server_name zone.example; return 200 {}; }}\n"
"""nginx accepts another key for a zone of the same name in its test, and not in a reload."""
HOUR = 3600.0


@contextmanager
def instrumented(scene: Scene) -> Iterator[Instruments]:
    """The scene's controller, started again with instruments."""
    controller = scene.controller
    plain = controller.program
    controller.stop()
    instruments = Instruments(controller)
    instruments.clear()
    controller.start()
    settle(scene)
    try:
        yield instruments
    finally:
        instruments.clear()
        instruments.move_clock(0)
        controller.program = plain


def settle(scene: Scene) -> None:
    """Waits until everything is as it should be, before the fault or after one step of it that is not judged."""
    scene.over_at = 0.0
    took, problem = scene.converge()
    scene.over_at = 0.0
    if took is None:
        raise Seen(f"it does not come to rest: {problem}")


def restart(scene: Scene) -> float:
    """Starts the controller. Returns when that was: at its first word, because how long Python takes to load (0.9 s where nothing
    else runs, 8 s where six test runs do) is not the controller's to better."""
    controller = scene.controller
    before = len(controller.records("starting"))
    controller.start(wait=False)
    until(lambda: len(controller.records("starting")) > before, PATIENCE, "the controller's first word", every=0.01)
    return time.monotonic()


def recovers(scene: Scene, since: float, what: str) -> float:
    """Seconds from the end of a fault until everything is as it should be. Raises Seen when they are too many."""
    scene.over_at = since
    took, problem = scene.converge()
    scene.over_at = 0.0
    if took is None or took > WITHIN:
        raise Seen(
            f"{what}: {f'{PATIENCE:g} s were not enough' if took is None else f'{took:.1f} s'} to converge; last seen: {problem}"
        )
    return took


# ---------------------------------------------------------------- killed at a step


@dataclass(frozen=True, slots=True)
class Course:
    """Something that makes the controller run a cycle. `begin` is what it sees; `undo` brings everything back to before it."""

    begin: Callable[[], object]
    undo: Callable[[], object] = lambda: None


def arrives(scene: Scene) -> Course:
    """A new site."""
    added: list[App] = []

    def undo() -> None:
        app = added.pop()
        scene.remove(app)
        scene.apps.remove(app)
        until(lambda: scene.ask(app.tenant).status != 200, WITHIN, "the site's end")

    return Course(lambda: added.append(scene.add(f"fresh{time.monotonic_ns() % 10**6}")), undo)


def leaves(scene: Scene) -> Course:
    """One of two targets stops."""
    going = scene.add("pair")
    scene.add("pair")
    settle(scene)

    def undo() -> None:
        scene.start(going)
        scene.controller.wait_for(going.host, backend=going.name, steady=0)

    return Course(lambda: scene.stop(going), undo)


def is_refused(scene: Scene) -> Course:
    """nginx accepts a change in its test and refuses it in the reload, and what was before is put back."""
    file = scene.controller.directory / "state" / "nginx" / "sites" / "zone.conf"

    def undo() -> None:
        file.unlink(missing_ok=True)
        until(lambda: scene.ask("zone").status == 404, 10, "the end of the hand-written site")
        file.write_text(ZONE.format("binary_remote_addr", "one"), encoding="utf-8")
        until(lambda: scene.ask("zone").body == "one", 10, "the hand-written site")

    undo()
    return Course(lambda: file.write_text(ZONE.format("request_uri", "two"), encoding="utf-8"), undo)


def starts(scene: Scene) -> Course:
    """The controller starts, adopts what is live, and removes the files of what was."""

    def undo() -> None:
        app = scene.add(f"stale{time.monotonic_ns() % 10**6}")
        scene.controller.wait_for(app.host, steady=0)
        scene.remove(app)
        scene.apps.remove(app)
        until(lambda: scene.ask(app.tenant).status != 200, WITHIN, "the site's end")
        scene.controller.kill()

    undo()
    return Course(lambda: scene.controller.start(wait=False), undo)


def kill_at(scene: Scene, instruments: Instruments, course: Course, number: int) -> float | None:
    """Kills the controller at this step, looks, starts it again. Returns the seconds to converge; None without such a step."""
    instruments.kill_at(number)
    course.begin()
    dead = instruments.wait_dead()
    steps = instruments.steps()
    instruments.clear()
    if not dead:
        return None
    said = scene.accepts()
    if said:
        raise Seen(f"killed at step {number} ({steps[-1]}) it leaves a bad configuration: {said}")
    return recovers(scene, restart(scene), f"killed at step {number} ({steps[-1]})")


def count_steps(instruments: Instruments, course: Course) -> int:
    """Of one undisturbed cycle, with the tidying and the retries that follow."""
    instruments.record()
    course.begin()
    instruments.wait_dead()
    count = len(instruments.steps())
    course.undo()
    return count


def kill_everywhere(scene: Scene, make: Callable[[Scene], Course]) -> None:
    """At every fifth step, beginning with one that the seed says."""
    with instrumented(scene) as instruments:
        course = make(scene)
        count = count_steps(instruments, course)
        numbers = range(1 + scene.seed % STRIDE, count + 1, STRIDE)
        kill_at_each(scene, instruments, course, numbers, count)


def kill_at_each(scene: Scene, instruments: Instruments, course: Course, numbers: Iterable[int], count: int) -> None:
    took: list[float] = []
    for number in numbers:
        seconds = kill_at(scene, instruments, course, number)
        if seconds is not None:
            took.append(seconds)
        course.undo()
    if not scene.controller.running:
        scene.controller.start()
    scene.notes.append(f"killed at {len(took)} of {count} steps, slowest {max(took, default=0):.2f} s")


@fault()
def killed_while_a_site_comes(scene: Scene) -> None:
    """SIGKILL in place of every fifth step of the cycle that brings a new site live."""
    kill_everywhere(scene, arrives)


@fault()
def killed_while_a_target_leaves(scene: Scene) -> None:
    """SIGKILL in place of every fifth step of the cycle that takes a target out."""
    kill_everywhere(scene, leaves)


@fault()
def killed_while_it_rolls_back(scene: Scene) -> None:
    """SIGKILL in place of every fifth step of a publish that nginx refuses, and of putting back what was before."""
    kill_everywhere(scene, is_refused)


@fault()
def killed_while_it_starts(scene: Scene) -> None:
    """SIGKILL in place of every fifth step of a start that adopts what is live and tidies up."""
    kill_everywhere(scene, starts)


@fault(short=True)
def killed_at_some_steps(scene: Scene) -> None:
    """SIGKILL in place of two steps of the cycles that bring a new site live."""
    with instrumented(scene) as instruments:
        course = arrives(scene)
        count = count_steps(instruments, course)
        kill_at_each(scene, instruments, course, scene.chance.sample(range(1, count + 1), 2), count)


@fault(spoils=True)
def killed_at_its_first_start(scene: Scene) -> None:
    """SIGKILL in place of every fifth step of a start without state and without nginx. It is another controller beside."""
    with beside(scene) as other:
        instruments = Instruments(other)
        instruments.record()
        other.start()
        instruments.wait_dead()
        count = len(instruments.steps())
        took: list[float] = []
        for number in range(1 + scene.seed % STRIDE, count + 1, STRIDE):
            other.kill()
            wipe(scene, other)
            seconds = kill_at(scene, instruments, Course(lambda: other.start(wait=False)), number)
            if seconds is not None:
                took.append(seconds)
        scene.notes.append(f"killed at {len(took)} of {count} steps, slowest {max(took, default=0):.2f} s")


@contextmanager
def beside(scene: Scene, partition: str = "", **sections: Mapping[str, object]) -> Iterator[Controller]:
    """Another controller that sees the same containers and has an nginx and a state of its own; what is true is asked of it.
    `partition`: a folder of it that is a file system of 2 MiB."""
    first = scene.controller
    other = scene.rig.controller({"health": SECTIONS["health"], **sections}, start=False)
    scene.controller = other
    mounted = other.directory / partition
    if partition:
        mounted.mkdir()
        mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mounted))
    try:
        yield other
    except (Seen, AssertionError) as error:
        raise Seen(f"{error}; the end of its log:\n{other.tail(12)}") from error
    finally:
        scene.controller = first
        if other.running:
            other.kill()
        wipe(scene, other)
        if partition:
            subprocess.run(["umount", "--lazy", str(mounted)], check=False)


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def wipe(scene: Scene, controller: Controller) -> None:
    """Its nginx and its state."""
    with suppress(APIError):
        scene.rig.client.remove_container(controller.nginx, force=True)
    for folder in ("state", "runtime"):
        shutil.rmtree(controller.directory / folder, ignore_errors=True)


# ---------------------------------------------------------------- stopped, twice


@fault()
def controller_stopped(scene: Scene) -> None:
    """SIGSTOP of the controller for 60 s while containers come and go."""
    going, _ = scene.add("pair"), scene.add("pair")
    coming, leaving = scene.create("pair"), scene.create("short-lived")
    settle(scene)
    os.kill(scene.controller.pid, signal.SIGSTOP)
    began = time.monotonic()
    steps: list[Callable[[], object]] = [
        lambda: scene.stop(going),
        lambda: scene.start(coming),
        lambda: scene.add("meanwhile"),
        lambda: scene.stop(scene.start(leaving)),
    ]
    scene.chance.shuffle(steps)
    for step in steps:
        time.sleep(scene.chance.uniform(0, 14))
        step()
    time.sleep(max(0.0, began + 60 - time.monotonic()))
    os.kill(scene.controller.pid, signal.SIGCONT)
    scene.over()


@fault()
def controller_started_twice(scene: Scene) -> None:
    """A second `proxyctl run` with the same configuration, twice, the first one under way with a new site."""
    first = scene.controller
    for _ in range(2):
        scene.add(f"meanwhile{time.monotonic_ns() % 10**6}")
        time.sleep(scene.chance.uniform(0, 0.5))
        second = subprocess.run(
            [*first.program, "run", "--config", first.config], capture_output=True, text=True, timeout=20, check=False
        )
        if second.returncode != 2 or f"held by pid {first.pid}" not in second.stderr:
            raise Seen(f"the second one ended with {second.returncode} and said: {second.stderr[-300:]}")
    if not first.running:
        raise Seen("the first one has ended")


@fault()
def nginx_of_another_controller(scene: Scene) -> None:
    """A controller with a state of its own is told to use the nginx of this one: it says that it cannot, and changes nothing."""
    other = scene.rig.controller(start=False)
    settings = other.config.read_text(encoding="utf-8")
    other.config.write_text(settings.replace(other.nginx, scene.controller.nginx), encoding="utf-8")
    try:
        other.start(wait=False)
        until(lambda: other.records("failed"), PATIENCE, "the second one's complaint")
        said = other.records("failed")[0]["error"]
        if "does not mount" not in said:
            raise Seen(f"the second one says: {said}")
        scene.add("meanwhile")
        recovers(scene, time.monotonic(), "beside a second one")
    finally:
        other.kill()


# ---------------------------------------------------------------- the disk


WRITING = ("open", "write", "fsync", "replace", "symlink", "link", "unlink", "mkdir")
ERRORS = ("ENOSPC", "EIO", "EROFS")
FAILURES = (("EIO", ("write",)), ("EIO", ("fsync",)), ("EIO", ("replace",)), ("ENOSPC", WRITING), ("EROFS", WRITING))
OTHERS = (("ENOSPC", ("write",)), ("ENOSPC", ("fsync",)), ("ENOSPC", ("replace",)), ("EIO", WRITING), ("EROFS", WRITING))
"""What fails, and where."""


def disk_fails_for(scene: Scene, seconds: float, failures: Sequence[tuple[str, tuple[str, ...]]]) -> None:
    error, kinds = scene.turn(failures)
    with instrumented(scene) as instruments:
        going, _ = scene.add("pair"), scene.add("pair")
        settle(scene)
        instruments.fail_at(1, error, kinds)
        began = time.monotonic()
        scene.add("meanwhile")
        scene.stop(going)
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        failed = len(scene.controller.records("failed"))
        instruments.clear()
        took = recovers(scene, time.monotonic(), f"{error} at {' '.join(kinds)} for {seconds:.1f} s, {failed} failures told")
        scene.notes.append(
            f"{error} at {kinds[0] if len(kinds) == 1 else 'everything'} for {seconds:.1f} s: over in {took:.2f} s"
        )


@fault()
def disk_fails(scene: Scene) -> None:
    """EIO at write, fsync or rename, or ENOSPC or EROFS at everything, for up to 20 s, while a site comes and a target leaves."""
    disk_fails_for(scene, scene.chance.uniform(5, 20), FAILURES)


@fault(short=True)
def disk_fails_shortly(scene: Scene) -> None:
    """ENOSPC at write, fsync or rename, or EIO or EROFS at everything, for up to 3 s."""
    disk_fails_for(scene, scene.chance.uniform(1, 3), OTHERS)


@fault()
def disk_fails_once(scene: Scene) -> None:
    """One error in place of every fifth step of the cycle that brings a new site live."""
    with instrumented(scene) as instruments:
        course, took = arrives(scene), list[float]()
        count = count_steps(instruments, course)
        before = len(scene.controller.records("failed"))
        for number in range(1 + scene.seed % STRIDE, count + 1, STRIDE):
            error = scene.chance.choice(ERRORS)
            instruments.fail_at(number, error, WRITING, times=1)
            course.begin()
            took.append(recovers(scene, time.monotonic(), f"{error} in place of step {number}"))
            course.undo()
        failed = len(scene.controller.records("failed")) - before
        scene.notes.append(f"{failed} failures told at {len(took)} of {count} steps, slowest {max(took):.2f} s")
        if not failed:
            raise Seen("no error was noticed")


@contextmanager
def served_all_the_while(controller: Controller) -> Iterator[None]:
    """A load of its own on another controller's nginx. Raises Seen when something is lost."""
    with Load("north.example", controller.port, new_per_second=40, keepalive_clients=5, timeout=5) as load:
        yield
    if load.report.lost_of():
        raise Seen(f"north beside: {load.report}")


@fault()
def disk_full(scene: Scene) -> None:
    """A partition that is full for up to 15 s while a site comes: a real one, of another controller beside."""
    with beside(scene, "state") as other:
        other.start()
        settle(scene)
        with served_all_the_while(other):
            filler = other.directory / "state" / "filler"
            with filler.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(b"\0" * 4096)
            scene.add("meanwhile")
            until(lambda: other.records("failed"), 10, "the error in the log")
            if "No space left" not in other.records("failed")[0]["error"]:
                raise Seen(f"the log says {other.records('failed')[0]['error']}")
            time.sleep(scene.chance.uniform(0, 15))
            filler.unlink()
            took = recovers(scene, time.monotonic(), "a full partition")
    scene.notes.append(f"over in {took:.2f} s")


@fault()
def disk_read_only(scene: Scene) -> None:
    """nginx.dir is read-only for up to 15 s while a site comes: a real partition, of another controller beside."""
    with beside(scene, "conf") as other:
        settings = other.config.read_text(encoding="utf-8")
        other.config.write_text(settings.replace("[nginx]", f'[nginx]\ndir = "{other.directory}/conf"'), encoding="utf-8")
        other.start()
        settle(scene)
        with served_all_the_while(other):
            mount("-o", "remount,ro", str(other.directory / "conf"))
            scene.add("meanwhile")
            until(lambda: other.records("failed"), 10, "the error in the log")
            if "Read-only file system" not in other.records("failed")[0]["error"]:
                raise Seen(f"the log says {other.records('failed')[0]['error']}")
            time.sleep(scene.chance.uniform(0, 15))
            mount("-o", "remount,rw", str(other.directory / "conf"))
            took = recovers(scene, time.monotonic(), "a read-only partition")
    scene.notes.append(f"over in {took:.2f} s")


# ---------------------------------------------------------------- the state


def damages(scene: Scene) -> list[Callable[[Path], object]]:
    """What may have become of a file, in the seed's order."""

    def torn(path: Path) -> None:
        whole = path.read_bytes()
        path.write_bytes(whole[: scene.chance.randrange(len(whole))])

    def flipped(path: Path) -> None:
        raw = bytearray(path.read_bytes())
        for _ in range(scene.chance.randint(1, 5)):
            raw[scene.chance.randrange(len(raw))] ^= 1 << scene.chance.randrange(8)
        path.write_bytes(raw)

    found: list[Callable[[Path], object]] = [torn, flipped, lambda path: path.write_bytes(b""), lambda path: path.unlink()]
    scene.chance.shuffle(found)
    return found


@fault()
def state_torn(scene: Scene) -> None:
    """A state file is torn, changed, empty or gone at a start; who owns a host against an older container is still known."""
    controller = scene.controller
    state = controller.directory / "state"
    controller.stop()
    rival = scene.create("rival", labels={"host": "owned.example"})
    rival.box.start()
    rival.box.kill()
    scene.add("owned")
    controller.start()
    settle(scene)
    rival.box.start()
    for name in ("later", "latest"):
        scene.add(name)
        settle(scene)
    files = ("state.json", "state.json", "state.previous.json", "state.changes.json")
    for name, damage in zip(files, damages(scene), strict=True):
        controller.kill()
        with suppress(FileNotFoundError):
            damage(state / name)
        recovers(scene, restart(scene), f"a damaged {name}")


@fault(short=True)
def state_lost(scene: Scene) -> None:
    """All state files are torn, changed, empty or gone at a start: what is served goes on."""
    controller = scene.controller
    for damage in damages(scene)[:2]:
        controller.kill()
        for name in ("state.json", "state.previous.json", "state.changes.json"):
            with suppress(FileNotFoundError):
                damage(controller.directory / "state" / name)
        recovers(scene, restart(scene), "a lost state")


# ---------------------------------------------------------------- the clock


@fault(short=True)
def clock_jumps(scene: Scene) -> None:
    """The wall clock jumps by an hour, forward with odd seeds and back with even ones, while graces run, and later back again."""
    with instrumented(scene) as instruments:
        gone, owner = scene.add("gone"), scene.add("owned")
        rival = scene.create("rival", labels={"host": "owned.example"})
        sick = scene.create("sick", labels={"health.path": "/status/503"})
        settle(scene)
        scene.remove(gone)
        sick.box.start()
        scene.kill(owner)
        exited = time.monotonic()
        rival.box.start()
        time.sleep(0.7)
        hours = 1 if scene.seed % 2 else -1
        instruments.move_clock(hours * HOUR)
        moved = f"{hours:+} h"
        scene.add("meanwhile")
        while time.monotonic() < exited + EXITED_GRACE / 2:
            if scene.ask("owned").backend:
                raise Seen(f"{moved}: an exited container's host was given away {time.monotonic() - exited:.1f} s after its end")
            time.sleep(0.1)
        scene.start(owner)
        if time.monotonic() > exited + EXITED_GRACE:
            raise Seen("this machine is too slow to judge: the owner came back after its grace")
        recovers(scene, time.monotonic(), f"{moved}: a new site, and the owner's return")
        if scene.ask("gone").status != 503:
            raise Seen(f"{moved}: a host whose containers were removed answers {scene.ask('gone').status}")
        until(lambda: scene.ask("sick").status == 503, WITHIN, f"{moved}: 503 for a site that does not warm up")
        scene.controller.kill()
        recovers(scene, restart(scene), f"{moved}: a start")
        instruments.move_clock(0)
        scene.add("later")
        recovers(scene, time.monotonic(), "the clock's return")
        scene.notes.append(moved)
