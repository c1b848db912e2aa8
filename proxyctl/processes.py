"""Processes of this host, and who holds a TCP port, as far as this process can see them."""

from __future__ import annotations

import pwd
import re
import resource
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
MOST_OPEN_FILES = 1 << 20
"""What the kernel lets a process have (fs.nr_open), unless it was changed."""
_LISTENING = re.compile(
    r"^ *\d+: (?P<address>[0-9A-F]{8,32}):(?P<port>[0-9A-F]{4}) \S+ 0A (?:\S+ ){3}\s*(?P<uid>\d+) +\S+ (?P<inode>\d+) ",
    re.MULTILINE,
)
"""A socket that listens, in /proc/net/tcp and tcp6; see proc(5)."""


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


def booted_unix(proc: Path = PROC) -> float:
    """When this host was booted, as Unix time in whole seconds; 0 where /proc does not tell."""
    with suppress(OSError):
        if found := re.search(r"^btime (\d+)$", (proc / "stat").read_text(encoding="ascii"), re.MULTILINE):
            return float(found[1])
    return 0.0


def hard_limit_of_open_files(master: int, proc: Path = PROC) -> int:
    """Of nginx's processes, whose master has this number on the host. In a container the controller may not see it; then its own
    limit stands for it, since the engine gives both the same unless told otherwise."""
    with suppress(OSError):
        if master and (proc / str(master) / "cmdline").read_bytes().startswith(b"nginx: master process"):
            limits = (proc / str(master) / "limits").read_text(encoding="ascii")
            if found := re.search(r"^Max open files +\S+ +(\d+)", limits, re.MULTILINE):
                return min(int(found[1]), MOST_OPEN_FILES)
            return MOST_OPEN_FILES
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)


class Published(NamedTuple):
    """A port of the host that leads to a container. `address` is 0.0.0.0 or :: for every address."""

    container: str
    address: str
    port: int


def holder(address: str, port: int, published: Iterable[Published] = (), proc: Path = PROC) -> str:
    """Who holds this port of the host, in words; empty when nobody does. `address` is empty for every address; `published`: what
    the engine knows, since Docker forwards ports of containers by a process of its own or by none."""
    for each in published:
        if each.port == port and _overlap(address, each.address):
            return f"the container {each.container}"
    for text, uid, inode in _listeners(port, proc):
        if _overlap(address, text):
            return (
                _process_with(inode, proc) or f"a process of the user {_user(uid)} (as root, `ss -ltnp sport = :{port}` names it)"
            )
    return ""


def _listeners(port: int, proc: Path) -> Iterator[tuple[str, int, str]]:
    """(address, user, inode) of the sockets that listen on it."""
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for row in _LISTENING.finditer((proc / "net" / table).read_text(encoding="ascii")):
                if int(row["port"], 16) == port:
                    yield _written(row["address"]), int(row["uid"]), row["inode"]


def _written(raw: str) -> str:
    """The kernel writes an address as numbers of 32 bits in its own byte order, which is little-endian where Docker runs."""
    packed = b"".join(bytes.fromhex(raw[i : i + 8])[::-1] for i in range(0, len(raw), 8))
    return str(ip_address(packed))


def _overlap(one: str, other: str) -> bool:
    every = {"", "0.0.0.0", "::"}  # noqa: S104
    return one == other or one in every or other in every


def _process_with(inode: str, proc: Path) -> str:
    """The process that has this socket open; empty when this one may not see it."""
    for process in sorted(proc.glob("[0-9]*"), key=lambda path: int(path.name)):
        with suppress(OSError):
            if any(str(link.readlink()) == f"socket:[{inode}]" for link in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text(encoding='utf-8', errors='replace').strip()} (process {process.name})"
    return ""


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
