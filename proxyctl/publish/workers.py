"""nginx's workers: which there are, and the end of one of them."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from proxyctl.fileset import NginxWorker
from proxyctl.publish.nginx import Engine, NginxInstance

TITLE = "nginx: worker process"
TABLES = ("tcp", "tcp6")
ROW = re.compile(r"^ *\d+: (?P<ends>[0-9A-F]+:(?P<port>[0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4}) (?P<state>[0-9A-F]{2}) ", re.MULTILINE)
LIMIT = re.compile(r"^\s*worker_connections\s+(\d+);", re.MULTILINE)
LISTEN = "0A"
OPEN = frozenset({"01", "02", "08"})
"""ESTABLISHED, SYN_SENT, CLOSE_WAIT: those that a worker has among its connections."""
CLOSING = frozenset({"04", "05", "09", "0B"})
"""FIN_WAIT1, FIN_WAIT2, LAST_ACK, CLOSING (Linux, include/net/tcp_states.h)."""


async def workers(engine: Engine, nginx: NginxInstance) -> list[NginxWorker]:
    """Workers of the container, with the ones that end. Cache processes and the master are not workers."""
    return [NginxWorker(pid, "shutting down" in args) for pid, args in await engine.processes(nginx.id) if args.startswith(TITLE)]


def closing(pids: Iterable[int]) -> frozenset[str]:
    """Connections that nginx has closed and their clients have not: the kernel may still have bytes for them. None when this
    process sees none of `pids`, its workers (that takes the host's process numbers).
    """
    return closing_of(_tables(pids) or "")


def open_connections(pids: Iterable[int]) -> int | None:
    """The TCP connections of nginx, to clients and to targets, in a network namespace that only nginx uses. None when this
    process sees none of `pids`, its workers."""
    tables = _tables(pids)
    return None if tables is None else sum(row["state"] in OPEN for row in ROW.finditer(tables))


def connections_limit(main: str, serving: int) -> int | None:
    """How many connections so many workers may have open, by the text of nginx.conf; None when that does not say it."""
    found = LIMIT.search(main)
    return int(found[1]) * serving if found else None


def _tables(pids: Iterable[int]) -> str | None:
    """tcp and tcp6 of /proc/net as the first visible worker has them."""
    for pid in pids:
        with suppress(OSError):
            if _is_worker(pid):
                tables = (Path(f"/proc/{pid}/net/{name}") for name in TABLES)
                return "".join(table.read_text(encoding="ascii") for table in tables if table.exists())
    return None


def closing_of(tables: str) -> frozenset[str]:
    """`tables`: tcp and tcp6 of /proc/net. Connections are named as there, by both ends. Those that nginx opened do not count."""
    rows = list(ROW.finditer(tables))
    listening = {row["port"] for row in rows if row["state"] == LISTEN}
    return frozenset(row["ends"] for row in rows if row["state"] in CLOSING and row["port"] in listening)


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
            if _is_worker(pid):
                signal.pidfd_send_signal(process, number)
                return True
        finally:
            os.close(process)
    return False


def _is_worker(pid: int) -> bool:
    """Raises OSError when this process cannot see it."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(TITLE.encode())
