"""Traefik, the peer, as a process on the host that listens on the loopback address."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.rig import LOOPBACK, Rig, ask, endpoint, free_port, until


@dataclass(frozen=True, slots=True)
class Traefik:
    port: int
    pid: int


@contextmanager
def traefik(rig: Rig, *settings: str) -> Iterator[Traefik]:
    """With settings of one's own (`--name=value`); `DOCKER_HOST` would come before them. Its log is in the rig's directory."""
    port = free_port()
    binary, listens = Path(sys.executable).with_name("traefik"), f"--entrypoints.web.address={LOOPBACK}:{port}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
    with (rig.directory / "traefik.log").open("wb") as log:
        process = subprocess.Popen([binary, listens, *settings], stdout=log, stderr=log, cwd=rig.directory, env=environment)
        try:
            until(lambda: ask(port, "nobody.invalid").status == 404, 15, "a Traefik that answers")
            yield Traefik(port, process.pid)
        finally:
            process.terminate()
            process.wait(10)


def for_containers_of(rig: Rig) -> tuple[str, ...]:
    """Settings: the real engine, and of its containers those that have the label `bench.traefik` of this rig."""
    return (
        f"--providers.docker.endpoint={endpoint() or 'unix:///var/run/docker.sock'}",
        "--providers.docker.exposedbydefault=false",
        f"--providers.docker.constraints=Label(`bench.traefik`,`{rig.run}`)",
    )
