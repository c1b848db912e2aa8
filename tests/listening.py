"""systemd's end of NOTIFY_SOCKET: a socket, and the datagrams that come."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Self

Fields = dict[str, str]


class Listening:
    """`with Listening(path) as systemd:`; `path` may be abstract: @name."""

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{self.path[1:]}" if self.path.startswith("@") else self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()

    def _next(self, within: float) -> Fields | None:
        self._socket.settimeout(within)
        try:
            text = self._socket.recv(65536).decode()
        except (TimeoutError, BlockingIOError):
            return None
        return dict(line.split("=", 1) for line in text.split("\n"))

    def take(self, within: float = 0.0) -> list[Fields]:
        """All that comes in so many seconds. The kernel keeps about ten for who does not read, and lets the sender wait."""
        end = time.monotonic() + within
        return list(iter(lambda: self._next(max(0.0, end - time.monotonic())), None))

    def wait_for(self, name: str, text: str = "", within: float = 30.0) -> list[Fields]:
        """All that comes until a datagram has the field, with `text` in it; that one included."""
        taken: list[Fields] = []
        end = time.monotonic() + within
        while (left := end - time.monotonic()) > 0:
            if fields := self._next(left):
                taken.append(fields)
                if name in fields and text in fields[name]:
                    return taken
        raise AssertionError(f"not within {within:g} s: {name} {text}; it was {taken}")
