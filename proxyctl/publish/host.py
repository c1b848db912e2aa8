"""An nginx that runs on this host and in no container, behind what publishing asks of Docker: a pid file and nginx's own command.

`nginx -t` is a process of its own here, too, without this one's environment and files; but it has its rights, and no container is
around it.
"""

from __future__ import annotations

import asyncio
import os
import signal as signals
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from proxyctl.model import Container, EngineRefused
from proxyctl.processes import PROC, family
from proxyctl.publish.nginx import NginxMissing

COMMAND_WITHIN = 300.0
"""Seconds."""
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class HostNginx:
    """`directory`: the one that its nginx.conf includes."""

    def __init__(self, pid_file: Path, directory: Path, proc: Path = PROC) -> None:
        self._pid_file = pid_file
        self._directory = directory
        self._proc = proc

    def _pid(self) -> int:
        try:
            return int(self._pid_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            raise NginxMissing(f"{self._pid_file} names no process: start nginx, or set nginx.pid_file to its `pid`") from None

    def _processes(self) -> list[tuple[int, str]]:
        """The master first. Raises NginxMissing when that is something else by now."""
        pid = self._pid()
        found = sorted(family(pid, self._proc), key=lambda process: process[0] != pid)
        if not found or found[0][0] != pid or not found[0][1].startswith("nginx: master process"):
            raise NginxMissing(f"{self._pid_file} names process {pid}, which is no nginx: start nginx")
        return found

    # ------------------------------------------------------------ as the engine says it

    async def inspect_raw(self, container: str) -> Mapping[str, Any] | None:
        """As a container in the host's network. Raises NginxMissing."""
        pid, title = self._processes()[0]
        binary, started = self._run(pid)
        return {
            "Id": container,
            "Name": container,
            "Image": f"{binary} {_version_of(binary)}",
            "Args": title.split()[3:],
            "State": {"Status": "running", "Running": True, "StartedAt": f"{pid} {started}"},
            "Config": {"Image": str(binary), "Labels": {}, "WorkingDir": "/"},
            "HostConfig": {"NetworkMode": "host"},
            "Mounts": [{"Source": str(self._directory), "Destination": str(self._directory)}],
            "NetworkSettings": {"Networks": {}},
        }

    def _run(self, pid: int) -> tuple[Path, str]:
        """The binary, and when it was started (in ticks since the boot)."""
        process = self._proc / str(pid)
        try:
            return (process / "exe").readlink(), (process / "stat").read_text(encoding="utf-8").rpartition(") ")[2].split()[19]
        except OSError as error:
            raise NginxMissing(
                f"process {pid} of {self._pid_file} cannot be looked at ({error.strerror}): run as root"
            ) from error

    async def list_containers(self) -> list[Container]:
        return []

    async def processes(self, container: str) -> list[tuple[int, str]]:  # noqa: ARG002 - there is one nginx
        try:
            return self._processes()
        except NginxMissing as error:
            raise EngineRefused(404, str(error)) from error

    async def logs(self, container: str, since_unix: float | None = None) -> str:  # noqa: ARG002
        """Where it writes is not known here."""
        return ""

    async def execute(self, container: str, argv: list[str]) -> tuple[int, str]:  # noqa: ARG002
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd="/",
                env=ENVIRONMENT,
            )
        except OSError as error:
            raise EngineRefused(404, f"{argv[0]} cannot be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(COMMAND_WITHIN):
                said, _ = await process.communicate()
        except TimeoutError as error:
            raise EngineRefused(504, f"{argv[0]} did not end within {COMMAND_WITHIN:.0f} s") from error
        finally:
            if process.returncode is None:
                process.kill()
        return (process.returncode or 0) % 256, said.decode("utf-8", "replace")

    async def kill(self, container: str, signal: str) -> None:  # noqa: ARG002
        try:
            os.kill(self._processes()[0][0], signals.Signals[f"SIG{signal}"])
        except (NginxMissing, OSError) as error:
            raise EngineRefused(409, f"nginx cannot be sent SIG{signal}: {error}") from error

    async def connect_network(self, network: str, container: str, known: Collection[str] = ()) -> tuple[str, ...]:  # noqa: ARG002
        raise EngineRefused(409, "nginx is in no container")

    async def disconnect_network(self, network: str, container: str) -> None:
        await self.connect_network(network, container)


def _version_of(binary: Path) -> str:
    """Another one when the file is replaced: the command is of the file on disk."""
    return str(binary.stat().st_mtime_ns) if binary.exists() else "gone"
