"""`make cgit`: tells the steps of story.py as they happen, with figures. Exit status 1 when a promise was broken."""

from __future__ import annotations

import argparse
import sys
import time

from examples.cgit import story
from tests.rig import Rig


class Telling:
    def __init__(self) -> None:
        self.good = True
        self._step = 0

    def step(self, title: str) -> None:
        self._step += 1
        print(f"\n{self._step}. {title}", flush=True)

    def say(self, text: str, *, good: bool = True) -> None:
        self.good &= good
        print(f"   {text}{'' if good else '   <- not as it should be'}", flush=True)


def set_up(telling: Telling, machine: story.Machine) -> None:
    telling.step("A machine with systemd, Docker and a registry; nginx, cgit@v1, wiki and proxyctl are its units")
    began = time.monotonic()
    for image, digest in story.set_up(machine).items():
        telling.say(f"{story.REGISTRY}/{image:18} {digest}")
    telling.say(f"both sites answer at http://127.0.0.1:{machine.port} after {time.monotonic() - began:.0f} s")


def list_and_clone(telling: Telling, machine: story.Machine) -> None:
    telling.step("A repository is listed and cloned")
    done = story.list_and_clone(machine)
    telling.say(f"http://{story.CODE}/ answers {done.redirect}, where story.git is listed", good=done.listed)
    telling.say(
        f"git clone {story.CLONE}: {done.commits} commits, {story.MIB} MiB, {done.seconds:.1f} s",
        good=done.commits == story.COMMITS,
    )
    telling.say(f"a vhost written by hand answers: {done.by_hand.strip()}", good=done.by_hand == story.BY_HAND)


def swap(telling: Telling, machine: story.Machine) -> None:
    telling.step("cgit v2 takes over while pages are read and clones run")
    done = story.swap(machine)
    telling.say(
        f"proxyctl wait cgit --version v2 --drained: it was {done.before}, and nothing knows it after {done.drained_after:.1f} s"
    )
    telling.say(f"v1 was stopped then; it {'still' if done.late else 'no longer'} had requests", good=not done.late)
    lost, kept = done.pages.lost_of(), done.kept.lost_of()
    telling.say(f"pages: {lost} of {done.pages.sent_of()} lost", good=lost == 0)
    telling.say(f"clones: {len(done.failures)} of {done.clones} failed; {done.across} ran across", good=not done.failures)
    telling.say(
        f"10 keep-alive clients: {kept} of {done.kept.sent_of()} lost (nginx {machine.nginx_version()}; none from 1.27.4 on)"
    )


def nginx_alone(telling: Telling, machine: story.Machine) -> None:
    telling.step("No controller, and nginx is killed")
    telling.say(f"both sites answer again after {story.nginx_alone(machine).back_after:.1f} s")


def power_cut(telling: Telling, machine: story.Machine) -> None:
    telling.step("A power cut; nginx starts first, cgit gets the address that the wiki had, proxyctl starts last")
    done = story.power_cut(machine)
    for when, addresses in (("before", done.before), ("after", done.after)):
        telling.say(f"{when + ':':8}" + ", ".join(f"{name} {addresses[name]}" for name in ("nginx", "cgit-v2", "wiki")))
    telling.say(f"both sites answer {done.back_after:.1f} s after the power came back, without a hand")
    telling.say(f"one answered for the other {done.wrong_before} times until proxyctl had published")
    telling.say(f"and {done.wrong_after} times from then on", good=done.wrong_after == 0)


def reboot(telling: Telling, machine: story.Machine) -> None:
    telling.step("A reboot behind a balancer, with a clone under way; all units start at once")
    done = story.reboot(machine)
    lost = done.pages.lost_of()
    telling.say(f"the balancer's check failed {done.told_after:.1f} s after the order to shut down")
    telling.say(f"pages until then: {lost} of {done.pages.sent_of()} lost", good=lost == 0)
    telling.say(f"the clone ended after {done.clone_after:.1f} s, {done.clone or 'well'}", good=not done.clone)
    telling.say(f"the machine was down after {done.down_after:.1f} s")
    telling.say(f"both sites and the check answer {done.back_after:.1f} s after the power came back")


def tell(machine: story.Machine) -> bool:
    """All steps. Returns whether every promise was kept."""
    telling = Telling()
    set_up(telling, machine)
    list_and_clone(telling, machine)
    swap(telling, machine)
    nginx_alone(telling, machine)
    power_cut(telling, machine)
    reboot(telling, machine)
    print(f"\n{machine.run('proxyctl', 'status')}")
    return telling.good


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.cgit", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the machine running at the end")
    keep = parser.parse_args().keep
    with Rig() as rig:
        machine = story.Machine(rig)
        good = tell(machine)
        if keep:
            rig.keep()
            print(
                f"It goes on running at http://127.0.0.1:{machine.port}. Look around:\n"
                f'  eval "$(scripts/testbed env)"; docker exec -it {machine.box.name} bash\n'
                f"To end it: scripts/testbed down"
            )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
