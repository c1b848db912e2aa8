"""`make demo`: containers are labelled and answered by name; one is stopped, one breaks, one is killed, one is recreated under
another name, one has a wrong label; versions swap, one goes back by itself, one by hand. Requests run all the while, and a table
says what happened.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.load import Death, Load, Report
from tests.rig import Box, Controller, Rig, ask, until

SITES = ("blog", "wiki", "git")
REPLICAS = 4


@dataclass(frozen=True, slots=True)
class Line:
    what: str
    came_of_it: str
    took: float | None
    """Seconds."""


class Demo:
    def __init__(self, rig: Rig, console: Console) -> None:
        self.rig = rig
        self.console = console
        self.lines: list[Line] = []
        self.controller: Controller | None = None

    def say(self, text: str) -> None:
        self.console.print(f"[bold cyan]>[/] {text}")

    def start(self) -> Controller:
        self.say("starting the controller; it creates its nginx")
        self.controller = self.rig.controller({"health": {"interval": "500ms", "timeout": "300ms"}})
        self.say(f"nginx listens on http://127.0.0.1:{self.controller.port}")
        return self.controller

    def serve(self, name: str, host: str) -> Box:
        """Runs a labelled container, and notes how long it took from its start to the first answer."""
        assert self.controller
        box = self.rig.create_container({"host": host, "service": name}, name=name)
        time.sleep(0.2)  # what `docker run` takes between create and start
        box.start()
        first = self._first_answer(host, name)
        took = first - box.when("StartedAt")
        self.lines.append(Line(f"-l proxyctl.host={host}", f"answers as {name}", took))
        self.say(f"{host} answers {took * 1000:.0f} ms after its process started")
        return box

    def _first_answer(self, host: str, name: str) -> float:
        assert self.controller
        end = time.monotonic() + 10
        while time.monotonic() < end:
            if ask(self.controller.port, host).backend == name:
                return time.time()
            time.sleep(0.002)
        raise AssertionError(f"{host} was not answered by {name} within 10 s")

    def watch(self, what: str, came_of_it: str, act: Callable[[], object], done: Callable[[], bool]) -> None:
        """Does something and notes how long it took until it was so."""
        self.say(what)
        began = time.monotonic()
        act()
        until(done, 20, came_of_it, every=0.005)
        self.lines.append(Line(what, came_of_it, time.monotonic() - began))


def play(demo: Demo) -> bool:
    """The whole piece. Returns whether nothing was lost that nginx could have saved."""
    controller = demo.start()
    port = controller.port
    for name in SITES:
        demo.serve(name, f"{name}.localhost")
    shop = [
        demo.rig.create_container({"host": "shop.localhost", "service": "shop", "health.path": "/health"}, name=f"shop{n}")
        for n in range(REPLICAS)
    ]
    for box in shop:
        box.start()
    until(lambda: len({ask(port, "shop.localhost").backend for _ in range(20)}) == REPLICAS, 15, "all replicas to answer")
    with ExitStack() as loads:
        running = [loads.enter_context(Load("shop.localhost", port, new_per_second=150, keepalive_clients=20))]
        running.append(loads.enter_context(Load("blog.localhost", port, new_per_second=50, keepalive_clients=5)))
        demo.say("requests run now: 200 a second on new connections, 25 keep-alive clients")
        time.sleep(1.0)
        killed = trouble(demo, shop, port)
        wrong_label(demo)
        swaps = versions(demo, port)
        time.sleep(1.0)
    reports = [*(load.report for load in running), swaps]
    held = reports[0].held([killed])
    lost = sum(report.lost_of() for report in reports) - held
    for report in reports:
        if lost and report.lost_of():
            demo.console.print(f"[red]{report}[/]")
    show(demo, lost, sum(report.sent_of() for report in reports), held)
    return lost == 0


def trouble(demo: Demo, shop: list[Box], port: int) -> Death:
    """Returns how the killed one ended."""

    def gone(name: str) -> Callable[[], bool]:
        return lambda: name not in {ask(port, "shop.localhost").backend for _ in range(12)}

    demo.watch("docker stop shop0", "out of the traffic", shop[0].stop, gone("shop0"))
    demo.watch("shop1 breaks: its health check answers 503", "out", lambda: shop[1].tell("/set?health=503"), gone("shop1"))
    signalled = time.time()
    demo.watch("shop2 is killed (SIGKILL)", "out", shop[2].kill, gone("shop2"))
    killed = Death(signalled, shop[2].when("FinishedAt"))
    demo.watch("shop1 is well again", "back in", lambda: shop[1].tell("/set?health=200"), lambda: not gone("shop1")())
    demo.say("wiki is recreated with another host name")
    old = next(c for c in demo.rig.client.containers() if c["Names"][0].endswith("-wiki"))
    demo.rig.client.remove_container(old["Id"], force=True)
    demo.serve("wiki-2", "handbook.localhost")
    return killed


def versions(demo: Demo, port: int) -> Report:
    """A swap, a bad version that goes back by itself, and a rollback by hand, under load of their own: what became of that."""
    assert demo.controller
    command = cli(demo.controller)

    def start(version: str) -> Box:
        said = {"host": "cart.localhost", "service": "cart", "version": version, "health.path": "/health"}
        said |= {"rollout.bake": "2s", "health.interval": "200ms", "health.rise": "1", "health.fall": "1"}
        return demo.rig.run_container(said, name=f"cart-{version}", args=["--name", version])

    def answers(version: str) -> Callable[[], bool]:
        return lambda: all(ask(port, "cart.localhost").backend == version for _ in range(10))

    def waits(version: str) -> int:
        return subprocess.run([*command, "wait", "cart", "--version", version], check=False, capture_output=True).returncode

    start("v1")
    until(answers("v1"), 10, "cart v1")
    with Load("cart.localhost", port, new_per_second=100, keepalive_clients=10) as load:
        demo.watch("cart v2 starts beside v1", "v2 has the traffic", lambda: start("v2"), answers("v2"))
        demo.watch("proxyctl wait cart --version v2", "past its bake, exit status 0", lambda: None, lambda: waits("v2") == 0)
        bad = start("v3")
        until(answers("v3"), 10, "cart v3")
        demo.watch(
            "cart v3 takes over, and turns ill in its bake",
            "v2 has the traffic again, v3 is not tried again",
            lambda: bad.tell("/set?health=503"),
            answers("v2"),
        )
        rollback = [*command, "rollout", "rollback", "cart", "--why", "the demo"]
        demo.watch(
            "proxyctl rollout rollback cart", "v1 has the traffic", lambda: subprocess.run(rollback, check=True), answers("v1")
        )
    lost, sent = load.report.lost_of(), load.report.sent_of()
    demo.lines.append(Line("three swaps, one of them back", f"{lost} of {sent:,} requests lost", None))
    return load.report


def wrong_label(demo: Demo) -> None:
    assert demo.controller
    demo.say("a container with a wrong label: proxyctl.prot=8080")
    demo.rig.run_container({"host": "typo.localhost", "prot": "8080"}, name="typo")
    told = demo.controller.wait_rejected("typo")
    demo.lines.append(Line("-l proxyctl.prot=8080", f"refused: {told['label']} {told['problem']}; {told['hint']}", None))


def show(demo: Demo, lost: int, sent: int, held: int) -> None:
    assert demo.controller
    table = Table(title="what happened", title_justify="left")
    table.add_column("event")
    table.add_column("what came of it")
    table.add_column("after", justify="right")
    for line in demo.lines:
        table.add_row(line.what, line.came_of_it, f"{line.took * 1000:,.0f} ms" if line.took is not None else "")
    demo.console.print()
    demo.console.print(table)
    demo.console.print(f"requests: {sent:,} sent, [bold {'red' if lost else 'green'}]{lost} lost[/]")
    if held:
        demo.console.print(f"and {held} that shop2 held when it was killed: nginx never sends a POST twice")
    demo.console.print()
    demo.console.print("[bold]proxyctl status[/] says now:")
    subprocess.run([*cli(demo.controller), "status"], check=False)


def cli(controller: Controller) -> list[str]:
    return [str(Path(sys.executable).with_name("proxyctl")), "--config", str(controller.config)]


def what_to_try(controller: Controller, console: Console) -> None:
    command = " ".join(cli(controller))
    console.print(
        f"\nIt goes on running (controller pid {controller.pid}). Try:\n"
        '  eval "$(scripts/testbed env)"\n'
        f"  docker run -d -l proxyctl.host=hello.localhost -l testbed.proxyctl=1 proxyctl-testbed/backend --name hello\n"
        f"  curl -H 'Host: hello.localhost' http://127.0.0.1:{controller.port}/\n"
        f"  {command} status\n  {command} explain shop.localhost\n  {command} history\n"
        f"  curl http://{controller.api}/metrics\n"
        f"To end it: kill {controller.pid}; scripts/testbed down",
        soft_wrap=True,
        highlight=False,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end")
    keep = parser.parse_args().keep
    console = Console()
    try:
        with Rig(prefix="proxyctl") as rig:
            demo = Demo(rig, console)
            good = play(demo)
            if keep and demo.controller:
                rig.keep()
                what_to_try(demo.controller, console)
    except KeyboardInterrupt:
        return 1
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
