"""Where the API is served -> bound sockets, or words why not. Bound before the work starts, so that a mistake shows at once."""

from __future__ import annotations

import errno
import socket
import stat
from contextlib import suppress
from pathlib import Path

from proxyctl.processes import holder

SOCKET_MODE = 0o660
BACKLOG = 128
UNREAD = 30_000
"""Milliseconds for which a client may take nothing of an answer before the kernel ends its connection."""


class CannotListen(Exception):  # noqa: N818
    """The message names the key, the address, what is in the way and what to do. `taken`: the address, when somebody has it."""

    def __init__(self, message: str, taken: tuple[str, int] | None = None) -> None:
        super().__init__(message)
        self.taken = taken


def tcp(address: tuple[str, int]) -> socket.socket:
    """Raises CannotListen."""
    host, port = address
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD)  # accepted connections inherit it: tcp(7)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        taken = address if error.errno == errno.EADDRINUSE else None
        raise CannotListen(f"api.listen {shown(address)} {_why(error, address)}", taken) from error
    return listener


def shown(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def taken_by(address: tuple[str, int], who: str) -> str:
    """Words for an address that somebody has; `who` may be empty."""
    unknown = f"something else (see `ss -ltnp sport = :{address[1]}`)"
    return f"is taken by {who or unknown}: stop it, or set another api.listen"


def _why(error: OSError, address: tuple[str, int]) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return taken_by(address, holder(*address))
        case errno.EADDRNOTAVAIL:
            return "is not an address of this host: set api.listen to one that is, like 127.0.0.1:9180"
        case errno.EACCES:
            return "is not allowed to this user: set a port from 1024 on"
        case _:
            return f"cannot be listened on: {error.strerror}"


class UnixListener:
    """A socket file, from `__init__` to `close`. One that a crash left behind is replaced, one that answers is not."""

    def __init__(self, path: Path) -> None:
        """Raises CannotListen."""
        self._path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._clear()
            self.socket.bind(str(path))
            path.chmod(SOCKET_MODE)
            self._inode = path.stat().st_ino
            self.socket.listen(BACKLOG)
        except OSError as error:
            self.socket.close()
            hint = "set api.socket to a path that this user may write"
            raise CannotListen(f"api.socket {path} cannot be made ({error.strerror or error}): {hint}") from error
        except CannotListen:
            self.socket.close()
            raise

    def _clear(self) -> None:
        try:
            mode = self._path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise CannotListen(f"api.socket {self._path} is not a socket: move that file away, or set another api.socket")
        if answers(self._path):
            raise CannotListen(f"api.socket {self._path} is taken: another controller answers there")
        self._path.unlink()

    def close(self) -> None:
        """Removes the file, unless another controller has put its own there meanwhile."""
        self.socket.close()
        with suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()


def answers(path: Path) -> bool:
    """Whether somebody listens on a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
        return True
