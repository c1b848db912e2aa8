"""The machine of the story and the steps that it goes through. `python -m examples.cgit` tells them, tests/engine/test_cgit.py
checks them.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.rig import Answer, Rig, ask, free_port, until

MACHINE = "proxyctl-testbed/cgit-machine"
IMAGES = {
    "proxyctl-testbed/cgit:v1": "cgit:v1",
    "proxyctl-testbed/cgit:v2": "cgit:v2",
    "proxyctl-testbed/nginx-extras:1.22": "nginx-extras:1.22",
    "proxyctl-testbed/backend:latest": "backend",
}
REGISTRY = "127.0.0.1:5000"
CODE, WIKI = "code.example", "wiki.example"
CLONE = f"http://{CODE}/git/story.git"
MIB = 16
"""Of the repository's one large file: a clone of it takes four seconds, since lighttpd.conf gives a connection 4 MiB/s."""
BOOT = 60.0


class Failed(Exception):
    """A command in the machine that went wrong."""


class Machine:
    """A container with systemd, an engine and a registry in it, whose port 80 is `port` on 127.0.0.1."""

    def __init__(self, rig: Rig) -> None:
        self.port = free_port()
        self.client = rig.client
        host_config = {
            "CapAdd": ["SYS_ADMIN", "NET_ADMIN"],
            "SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined"],
            "MaskedPaths": [],
            "ReadonlyPaths": [],
            "DeviceCgroupRules": ["a *:* rwm"],
            "CgroupnsMode": "private",
            "Tmpfs": {"/run": "exec", "/tmp": ""},
            "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(self.port)}]},
            "ExtraHosts": [f"{CODE}:127.0.0.1", f"{WIKI}:127.0.0.1"],
        }
        self.box = rig.run_container(
            name="machine", image=MACHINE, host_config=host_config, ExposedPorts={"80/tcp": {}}, Hostname="machine"
        )
        self.wait_up()

    def wait_up(self) -> None:
        until(lambda: self.tries("docker", "version") and self.tries("curl", "-sf", f"{REGISTRY}/v2/"), BOOT, "an engine and a registry", 0.2)

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

    def load(self, image: str) -> None:
        """An image of the engine around it, into its own."""
        from_here = subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE)
        subprocess.run(["docker", "exec", "-i", self.box.id, "docker", "load"], stdin=from_here.stdout, check=True, capture_output=True)
        if from_here.wait():
            raise Failed(f"docker save {image}")

    def ask(self, host: str, path: str = "/") -> Answer:
        return ask(self.port, host, path, timeout=2)

    def address(self, container: str) -> str:
        return self.run("docker", "inspect", "--format", "{{.NetworkSettings.IPAddress}}", container).strip()

    def status(self) -> Mapping[str, Any]:
        return dict(json.loads(self.run("proxyctl", "status", "--json")))

    def journal(self, unit: str, lines: int = 30) -> str:
        return self.run("journalctl", "--unit", unit, "--output", "cat", "--lines", str(lines))
