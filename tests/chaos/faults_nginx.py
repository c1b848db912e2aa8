"""nginx dies, stands still, is reloaded by somebody else, or finds other files than the controller wrote."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

from proxyctl.publish.promote import BOOT_MARK
from tests.chaos.scene import STANDING, WITHIN, Scene, Seen, fault
from tests.rig import until

TITLE = b"nginx: worker process"


def newcomer(scene: Scene, tenant: str = "meanwhile") -> None:
    """Something to do for the controller while the fault is on."""
    scene.add(tenant)


def workers(scene: Scene) -> list[int]:
    """Pids of nginx's workers that serve, on this host."""
    rows = scene.rig.client.top(scene.controller.nginx, "-eo pid,args")["Processes"] or []
    return [int(pid) for pid, args in rows if args.startswith(TITLE.decode()) and "shutting down" not in args]


@fault(nginx_lives=False, short=True)
def nginx_killed(scene: Scene) -> None:
    """SIGKILL of nginx's master while a container starts."""
    scene.rig.client.kill(scene.controller.nginx, "KILL")
    time.sleep(scene.chance.uniform(0, 0.3))
    newcomer(scene)


@fault(nginx_lives=False)
def nginx_restarted(scene: Scene) -> None:
    """`docker restart` of nginx while a container starts."""
    app = scene.create("meanwhile")
    scene.rig.client.restart(scene.controller.nginx, timeout=scene.turn([0, 1]))
    scene.start(app)


@fault(nginx_lives=False)
def nginx_removed(scene: Scene) -> None:
    """`docker rm -f` of nginx: it is made anew."""
    scene.rig.client.remove_container(scene.controller.nginx, force=True)
    time.sleep(scene.chance.uniform(0, 0.3))
    newcomer(scene)


@fault()
def nginx_paused(scene: Scene) -> None:
    """`docker pause` of nginx for up to 3 s while a container starts."""
    scene.rig.client.pause(scene.controller.nginx)
    newcomer(scene)
    time.sleep(scene.chance.uniform(1, 3))
    scene.rig.client.unpause(scene.controller.nginx)


@fault(nginx_lives=False)
def worker_killed(scene: Scene) -> None:
    """SIGKILL of one of nginx's workers while a container starts: its master starts another one."""
    os.kill(scene.chance.choice(workers(scene)), signal.SIGKILL)
    time.sleep(scene.chance.uniform(0, 0.2))
    newcomer(scene)


@fault(short=True)
def signals_by_somebody_else(scene: Scene) -> None:
    """SIGHUPs from elsewhere just before and while the controller reloads: nginx overhears what comes while it parses."""
    app = scene.create("meanwhile")
    for number in range(12):
        if number == 4:
            scene.start(app)
        scene.rig.client.kill(scene.controller.nginx, "HUP")
        time.sleep(scene.chance.uniform(0, 0.06))


@fault()
def reloaded_by_somebody_else(scene: Scene) -> None:
    """`nginx -s reload` by hand, once, while nothing else happens and while a container stops."""
    app = scene.add("meanwhile")
    scene.controller.wait_for(app.host)
    reload = ["nginx", "-e", "stderr", "-c", "/etc/proxyctl/conf/nginx.conf", "-s", "reload"]
    for _ in range(2):
        made = scene.rig.client.exec_create(scene.controller.nginx, reload)
        scene.rig.client.exec_start(made["Id"])
        time.sleep(scene.chance.uniform(0, 0.3))
    scene.stop(app)


# ---------------------------------------------------------------- files


def directory(scene: Scene) -> Path:
    return scene.controller.directory / "state" / "nginx"


def live_object(scene: Scene, text: str) -> Path:
    """A file that nginx includes now and that names this."""
    root = directory(scene)
    manifest = (root / "manifests" / (root / "nginx.conf").readlink().name).read_text(encoding="utf-8")
    named = (root / "objects" / line.rpartition("/")[2].rstrip(";") for line in manifest.splitlines() if "/objects/" in line)
    return next(path for path in named if text in path.read_text(encoding="utf-8"))


@fault(spoils=True, short=True)
def reference_replaced(scene: Scene) -> None:
    """Somebody puts a file of his own where the reference is, or removes it, or turns it to an older configuration."""
    reference = directory(scene) / "nginx.conf"
    before = reference.readlink()
    scene.add("before")
    until(lambda: reference.readlink() != before, 5, "a newer configuration")
    time.sleep(scene.chance.uniform(0, 0.5))
    match scene.turn(["file", "gone", "older"]):
        case "file":
            reference.unlink()
            reference.write_text("events {} http { server { listen 80; return 418; } }\n")
        case "gone":
            reference.unlink()
        case _:
            reference.unlink()
            reference.symlink_to(before)
    newcomer(scene)


@fault(spoils=True, short=True)
def object_deleted(scene: Scene) -> None:
    """Somebody deletes a file that the live configuration includes."""
    live_object(scene, f"{scene.turn(['north', 'south'])}.example").unlink()
    newcomer(scene)


@fault(spoils=True)
def objects_deleted_while_idle(scene: Scene) -> None:
    """Somebody deletes all that the live configuration includes, and nothing else happens."""
    for path in (directory(scene) / "objects").iterdir():
        path.unlink()


@fault(spoils=True)
def object_overwritten(scene: Scene) -> None:
    """Somebody writes into a file that the live configuration includes: nonsense, or another answer."""
    host = f"{scene.chance.choice(['north', 'south'])}.example"
    text = scene.turn(["retrun;\n", "", f"server {{ listen 80; server_name {host}; return 418; }}\n"])
    live_object(scene, host).write_text(text, encoding="utf-8")
    newcomer(scene)


def boot_mark(scene: Scene) -> Path:
    return scene.controller.directory / "runtime" / BOOT_MARK


def spoil_mark(scene: Scene) -> None:
    mark = boot_mark(scene)
    mark.unlink()
    if scene.turn([False, True]):
        mark.symlink_to("/nowhere")


@fault(spoils=True, short=True)
def boot_mark_removed(scene: Scene) -> None:
    """Somebody clears the runtime directory, where nginx finds its sites since the boot, or turns the link in it elsewhere."""
    mark = boot_mark(scene)
    right = mark.readlink()
    spoil_mark(scene)
    scene.over()
    until(lambda: mark.is_symlink() and mark.readlink() == right, WITHIN, "the link to be put back")
    scene.notes.append(f"put back after {time.monotonic() - scene.over_at:.2f} s")


@fault(nginx_lives=False, spoils=True)
def boot_mark_removed_and_reloaded(scene: Scene) -> None:
    """The same, and nginx is told to reload: it has no sites then."""
    spoil_mark(scene)
    scene.rig.client.kill(scene.controller.nginx, "HUP")


@fault(nginx_lives=False, spoils=True)
def runtime_directory_replaced(scene: Scene) -> None:
    """Somebody removes the whole directory and makes it anew: nginx, which has the old one, is not told to load what it would not
    find any more, until it is restarted."""
    directory = boot_mark(scene).parent
    shutil.rmtree(directory)
    if scene.turn([False, True]):
        directory.mkdir()
    app = scene.add("meanwhile")
    until(lambda: not scene.ready(), WITHIN, "a controller that is not ready")
    time.sleep(scene.chance.uniform(0, 3))
    said = scene.controller.records("failed")[-1]["error"] if not scene.ready() else "nothing"
    served, lost = scene.ask(app.tenant).status, sum(scene.report(tenant).lost_of() for tenant in STANDING)
    directory.mkdir(exist_ok=True)
    scene.rig.client.restart(scene.controller.nginx, timeout=0)
    if "docker restart" not in said or served == 200 or lost:
        raise Seen(f"before nginx was restarted {lost} requests were lost, {app.host} got {served}, the controller says: {said}")


@fault(nginx_lives=False, spoils=True)
def manifest_deleted(scene: Scene) -> None:
    """Somebody empties the directory of manifests, and tells nginx to reload: it has no sites then."""
    for path in (directory(scene) / "manifests").iterdir():
        path.unlink()
    scene.rig.client.kill(scene.controller.nginx, "HUP")
    newcomer(scene)
