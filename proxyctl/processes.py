"""Processes of this host, as far as this process can see them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


def family(parent: int, proc: Path = PROC) -> list[tuple[int, str]]:
    """(pid, title) of a process and its children, where this process can see them."""
    found = []
    for entry in proc.glob("[0-9]*"):
        with suppress(OSError):
            after_name = (entry / "stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
            if int(entry.name) == parent or int(after_name[1]) == parent:
                title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
                found.append((int(entry.name), title))
    return found
