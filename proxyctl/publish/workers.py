"""nginx's workers: which there are, and the end of one of them."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from proxyctl.fileset import NginxWorker
from proxyctl.publish.nginx import Engine, NginxInstance

TITLE = "nginx: worker process"


async def workers(engine: Engine, nginx: NginxInstance) -> list[NginxWorker]:
    """Workers of the container, with the ones that end. Cache processes and the master are not workers."""
    return [NginxWorker(pid, "shutting down" in args) for pid, args in await engine.processes(nginx.id) if args.startswith(TITLE)]


def end(pid: int) -> bool:
    """SIGTERM to one old worker, which cuts its connections. False when this process cannot see it (it may have ended) or may not
    do that.

    The engine's API signals a container's first process only, so this needs the host's process numbers and CAP_KILL.
    """
    return _send(pid, signal.SIGTERM)


def can_end(pid: int) -> bool:
    """Whether `end` would."""
    return _send(pid, 0)


def _send(pid: int, number: int) -> bool:
    with suppress(OSError):
        process = os.pidfd_open(pid)
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(TITLE.encode()):
                signal.pidfd_send_signal(process, number)
                return True
        finally:
            os.close(process)
    return False
