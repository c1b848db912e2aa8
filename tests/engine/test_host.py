"""A host that is left to its balancer, and taken back: what nginx tells, and that nobody loses anything."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.load import Load
from tests.rig import Answer, Controller, Rig, ask, until

READY = "/-/ready"


def proxyctl(controller: Controller, *arguments: str) -> subprocess.Popen[str]:
    program: list[str | Path] = [Path(sys.executable).with_name("proxyctl"), "--config", controller.config, *arguments]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(controller: Controller) -> tuple[int, int]:
    """What a balancer is told: by nginx, and by the controller, which answers 20 times a second."""
    return controller.ask("10.0.0.1", READY).status, controller.ask_api("/readyz").status


def test_a_host_is_left_and_taken_back_without_a_lost_request(rig: Rig, controller: Controller) -> None:
    rig.run_container({"host": "left.example"}, name="left")
    controller.wait_for("left.example")
    until(lambda: said(controller) == (200, 200), 10, "a controller that has seen that, too")
    answers: list[Answer] = []

    def ask_slowly() -> None:
        answers.append(ask(controller.port, "left.example", "/slow?ms=4000", timeout=10))

    with Load("left.example", controller.port, own="left", new_per_second=100, keepalive_clients=20) as load:
        slow = threading.Thread(target=ask_slowly)
        slow.start()
        time.sleep(0.3)
        draining = proxyctl(controller, "host", "drain", "--notice", "1s")
        until(lambda: said(controller) == (503, 503), 10, "a balancer that is told to leave", every=0.1)
        assert controller.ask("left.example").backend == "left", "who comes all the same is served"
        out, err = draining.communicate(timeout=20)
        assert (draining.returncode, err, len(answers)) == (0, "", 1), "not before the request has ended"
        assert out.splitlines()[0].startswith(
            "/-/ready and /readyz say 503 from the next reload on; everything is served for 1 s more"
        )
        assert out.splitlines()[1].startswith("drained after ")
        slow.join()
        assert (answers[0].status, answers[0].backend) == (200, "left")
        controller.kill()
        controller.start(wait=False)
        until(
            lambda: said(controller)[1] == 503 and controller.ask("10.0.0.1", READY).body == "ending\n",
            10,
            "still left",
            every=0.1,
        )
        assert proxyctl(controller, "host", "undrain").communicate(timeout=10)[1] == ""
        until(lambda: said(controller) == (200, 200), 5, "a host that is taken back", every=0.1)
    assert load.report.lost_of() == 0, str(load.report)
    who = re.findall(r"\b(?:un)?drained by", " ".join(str(record["reasons"]) for record in controller.records("live")))
    assert who == ["drained by", "undrained by"]


def test_a_connection_that_does_not_end_is_told(rig: Rig, controller: Controller) -> None:
    rig.run_container({"host": "endless.example"}, name="endless")
    controller.wait_for("endless.example")
    slow = threading.Thread(target=ask, args=(controller.port, "endless.example", "/slow?ms=6000"), kwargs={"timeout": 10})
    slow.start()
    time.sleep(0.3)
    draining = proxyctl(controller, "host", "drain", "--notice", "0s", "--timeout", "1s")
    _, err = draining.communicate(timeout=10)
    assert (draining.returncode, "not drained within 1 s: ending" in err) == (4, True)
    assert proxyctl(controller, "host", "undrain").communicate(timeout=10)[1] == ""
    slow.join()
