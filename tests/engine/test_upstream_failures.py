"""What one failing answer or one lost target costs other requests, and how long the failing request itself takes."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection

import pytest

from tests.rig import BASE, LOOPBACK, Box, Controller, Rig, ask, ask_unix, until

FAILING = """
import socket, struct, threading
def answer(client):
    with client:
        head = b""
        while b"\\r\\n\\r\\n" not in head:
            piece = client.recv(65536)
            if not piece:
                return
            head += piece
        path = head.split(b" ")[1]
        if path == b"/reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif path == b"/garbage":
            client.sendall(b"nothing like HTTP\\r\\n\\r\\n")
        elif path == b"/header":
            client.sendall(b"HTTP/1.1 200 OK\\r\\nX-Long: " + b"x" * 1_000_000 + b"\\r\\n\\r\\n")
        elif path == b"/half":
            client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 100\\r\\n\\r\\nhalf")
        elif path != b"/close":
            client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nok")
listening = socket.create_server(("", 80), backlog=1000)
while True:
    threading.Thread(target=answer, args=listening.accept()[:1], daemon=True).start()
"""


SLOW_QUEUE = """
import http.server, time
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        time.sleep(0.02)
        super().do_GET()
http.server.HTTPServer(("", 80), Handler).serve_forever()
"""


@contextmanager
def load(controller: Controller, host: str, threads: int = 8) -> Iterator[Counter[int]]:
    """Requests of others, all the while. The statuses are complete at the end of the block."""
    statuses: Counter[int] = Counter()
    over = threading.Event()

    def work() -> list[int]:
        found = []
        while not over.is_set():
            found.append(controller.ask(host).status)
            over.wait(0.01)
        return found

    with ThreadPoolExecutor(threads) as pool:
        working = [pool.submit(work) for _ in range(threads)]
        try:
            yield statuses
        finally:
            over.set()
            for each in working:
                statuses.update(each.result())


def start(rig: Rig, host: str, count: int) -> list[Box]:
    return [rig.run_container({"host": host, "service": host.partition(".")[0]}, name=f"{host}{n}") for n in range(count)]


def routed(controller: Controller, host: str) -> list[str]:
    """Names of the containers that carry its traffic."""
    found = json.loads(ask_unix(controller.socket, "/api/v1/status")[1])["routes"]
    return [t["container"] for route in found if route["host"] == host for t in route["targets"] if t["serving"]]


def answering(controller: Controller, host: str) -> int:
    return len({controller.ask(host).backend for _ in range(20)} - {""})


def wait_for(controller: Controller, host: str, count: int) -> None:
    """Until so many targets carry its traffic, and the controller knows that no worker has another configuration."""
    until(lambda: len(routed(controller, host)) == count, 10, f"{count} targets")
    until(lambda: answering(controller, host) == count, 10, f"{count} targets to answer")
    until(lambda: controller.ask_api("/readyz").status == 200, 10, "what is wanted to be live")


def running(targets: list[Box]) -> int:
    return sum(bool(box.inspect()["State"]["Running"]) for box in targets)


@contextmanager
def frozen(controller: Controller) -> Iterator[None]:
    """The controller notices nothing."""
    os.kill(controller.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(controller.pid, signal.SIGCONT)


@pytest.mark.parametrize("replicas", [2, 5])
def test_failing_answer_harms_no_other_request(rig: Rig, controller: Controller, replicas: int) -> None:
    host = f"failing{replicas}.example"
    labels = {"host": host, "service": f"failing{replicas}", "port": "80"}
    for number in range(replicas):
        rig.run_container(labels, name=f"failing{replicas}-{number}", image=BASE, args=["python3", "-c", FAILING])
    controller.wait_for(host)
    time.sleep(1)
    with load(controller, host) as others:
        for path in ("/close", "/reset", "/garbage", "/header", "/half"):
            for method in ("GET", "POST"):
                answer = controller.ask(host, path, method=method)
                assert answer.status in {"/half": (0, 200), "/garbage": (0, 502)}.get(path, (502,)), path
                time.sleep(0.05)
    assert set(others) == {200}, others


def test_request_that_ends_its_process_reaches_two_targets(rig: Rig, controller: Controller) -> None:
    """nginx has idle connections to all of them."""
    host = "killer.example"
    targets = start(rig, host, 4)
    wait_for(controller, host, 4)
    with ThreadPoolExecutor(24) as pool:
        list(pool.map(lambda _: controller.ask(host, "/slow?ms=20"), range(96)))
    with frozen(controller):
        assert controller.ask(host, "/exit").status == 502
        until(lambda: running(targets) <= 2, 10, "two to end")
        time.sleep(0.5)
        assert running(targets) == 2
        while running(targets) == 2:  # refused connections are tried again, and reach nobody
            assert controller.ask(host, "/exit", method="POST").status == 502
            time.sleep(0.5)
        assert running(targets) == 1


@pytest.mark.parametrize("replicas", [1, 2])
def test_full_accept_queue_is_waited_for(rig: Rig, controller: Controller, replicas: int) -> None:
    """python -m http.server: a backlog of 5, one request at a time."""
    host = f"queue{replicas}.example"
    labels = {"host": host, "service": f"queue{replicas}", "port": "80", "health.type": "none"}
    for number in range(replicas):
        rig.run_container(labels, name=f"queue{replicas}-{number}", image=BASE, args=["python3", "-c", SLOW_QUEUE])
    controller.wait_for(host)
    with ThreadPoolExecutor(20) as pool:
        statuses = list(pool.map(lambda _: ask(controller.port, host, timeout=15).status, range(20)))
    assert statuses == [200] * 20


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_refused_connection_is_tried_elsewhere(rig: Rig, controller: Controller, method: str) -> None:
    """One of two targets does not listen, and a request may meet it several times in a row."""
    host = f"refused-{method.lower()}.example"
    labels = {"host": host, "service": f"refused{method}", "port": "80", "health.type": "none"}
    rig.run_container(labels, name=f"{method}listens")
    rig.run_container(labels, name=f"{method}silent", image=BASE, args=["sleep", "60"])
    until(lambda: len(routed(controller, host)) == 2, 10, "two targets")
    until(lambda: controller.ask_api("/readyz").status == 200, 10, "both to be live")
    time.sleep(0.5)
    with ThreadPoolExecutor(2) as pool:
        statuses = Counter(pool.map(lambda _: controller.ask(host, method=method).status, range(100)))
    assert statuses == {200: 100}


def test_vanished_target_holds_no_request_when_another_lives(rig: Rig, controller: Controller) -> None:
    host = "vanished.example"
    targets = start(rig, host, 2)
    wait_for(controller, host, 2)
    with frozen(controller):
        targets[0].kill()
        for _ in range(8):
            began = time.monotonic()
            assert controller.ask(host).status == 200
            assert time.monotonic() - began < 2
            assert controller.ask(host, method="POST").status == 200, "nothing was sent to the first one"


def test_kept_connection_does_not_wait_for_a_dead_target(rig: Rig, controller: Controller) -> None:
    """It belongs to a worker with the configuration from before, which knows the dead target alone."""
    host = "kept.example"
    (target,) = start(rig, host, 1)
    controller.wait_for(host)
    kept = [HTTPConnection(LOOPBACK, controller.port, timeout=10) for _ in range(4)]
    for connection in kept:
        connection.request("GET", "/", headers={"Host": host})
        connection.getresponse().read()
    target.kill()
    until(lambda: controller.ask(host).status == 503, 5, "503 on new connections")
    for connection, method in zip(kept, ("GET", "POST", "GET", "POST"), strict=True):
        began = time.monotonic()
        connection.request(method, "/", headers={"Host": host})
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("Retry-After")) == (503, "2")
        assert time.monotonic() - began < 2
        connection.close()


def test_old_nginx_retries_too(rig: Rig) -> None:
    old = rig.controller({"nginx": {"image": "proxyctl-testbed/nginx:1.22"}}, prefix=f"{rig.prefix}old")
    labels = {f"{old.prefix}.host": "old.example", f"{old.prefix}.service": "old"}
    targets = [rig.run_container(name=f"old{number}", other_labels=labels) for number in range(2)]
    wait_for(old, "old.example", 2)
    with frozen(old):
        targets[0].kill()
        assert {old.ask("old.example", method=method).status for method in ("GET", "POST") * 4} == {200}
    targets[1].kill()
    old.wait_for("old.example", 503)
    old.stop()
