"""The unchanged controller in a process with instruments: each of its steps that has an effect outside is counted and written
down, and at the one that a test names the process dies, or the disk says no. Its wall clock can be moved.

    python -m tests.chaos.inside DIRECTORY run --config DIRECTORY/config.toml

DIRECTORY holds what `tests.chaos.launch` speaks with it by: `orders.json`, `steps`, `clock`.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

FILES = ("open", "fsync", "replace", "symlink", "link", "unlink", "mkdir")
"""Functions of `os` that change a file or a name, also when pathlib calls them; `write` is the eighth step, of an open file."""
ENGINE = (
    "create_network",
    "create_container_from_config",
    "start",
    "exec_start",
    "connect_container_to_network",
    "disconnect_container_from_network",
    "kill",
)
"""Methods of the SDK's client that change something. An exec_create alone does not."""

Met = Callable[[str, tuple[Any, ...]], None]
"""Is told the step's name and its arguments before it happens. What it raises happens instead."""


def watched(real: Callable[..., Any], name: str, met: Met) -> Callable[..., Any]:
    def step(*args: Any, **more: Any) -> Any:
        met(name, args)
        return real(*args, **more)

    return step


class Orders:
    """What the test wants, read anew at every step: a test changes it while the controller runs."""

    def __init__(self, directory: Path) -> None:
        self._orders = directory / "orders.json"
        self._root = str(directory)
        self._log = os.open(directory / "steps", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock = threading.Lock()
        self._text = b""
        self._count = 0
        self._left = 0.0

    def met(self, name: str, args: tuple[Any, ...], half: Callable[[], object] | None = None) -> None:
        """`half`: does a part of the step, for a death in the middle of it."""
        where = self._where(name, args)
        if where is None:
            return
        with self._lock:
            orders = self._read()
            if orders and orders["kinds"] and name not in orders["kinds"]:
                orders = None
            self._count += 1 if orders else 0
            number = self._count if orders else 0
            os.write(self._log, f"{number} {name} {where}\n".encode())
            if not orders or number < orders["nth"]:
                return
            if orders["do"] == "kill":
                if half:
                    half()
                os.kill(os.getpid(), signal.SIGKILL)
            if self._left and name not in ENGINE:
                self._left -= 1
                raise OSError(orders["errno"], os.strerror(orders["errno"]), where)

    def _read(self) -> dict[str, Any] | None:
        """None: only write down. Counting starts again with each change."""
        text = b""
        with suppress(FileNotFoundError):
            text = self._orders.read_bytes()
        orders: dict[str, Any] | None = json.loads(text) if text else None
        if text != self._text:
            self._text, self._count = text, 0
            self._left = float(orders["times"] or "inf") if orders else 0.0
        return orders

    def _where(self, name: str, args: tuple[Any, ...]) -> str | None:
        """The path, or what the engine is asked to change; None for what is nobody's business here."""
        if name in ENGINE:
            return str(args[1])[:12] if len(args) > 1 else ""
        if name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR):
            return None
        path = args[1] if name in ("replace", "symlink", "link") else args[0]
        if isinstance(path, int):
            path = Path(f"/proc/self/fd/{path}").readlink()
        return str(path) if str(path).startswith(self._root) else None

    # ------------------------------------------------------------ putting it in

    def install(self) -> None:
        import docker

        for name in FILES:
            setattr(os, name, watched(getattr(os, name), name, self.met))
        for name in ENGINE:
            setattr(docker.APIClient, name, watched(getattr(docker.APIClient, name), name, self.met))
        real = io.open

        def opened(file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
            if not set(mode) & set("wax+"):
                return real(file, mode, *args, **more)
            if not isinstance(file, int):
                self.met("open", (file, os.O_WRONLY))
            made = real(file, mode, *args, **more)
            return _File(made, self)

        io.open = opened


class _File:
    """A file open for writing; each write is a step."""

    def __init__(self, real: Any, orders: Orders) -> None:
        self._real = real
        self._orders = orders

    def write(self, data: Any) -> Any:
        def half() -> None:
            self._real.write(data[: len(data) // 2])
            self._real.flush()

        self._orders.met("write", (self._real.fileno(),), half)
        return self._real.write(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self._real.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def move_clock(directory: Path) -> None:
    """`time.time()`, which is what the controller reads, is off by the seconds in the file `clock`; monotonic time is not.

    Not libfaketime: the whole process would have the other clock, the parts in C too, but Python's `time.time` is the only one
    of them that decides anything here, and it is one Debian package less to install.
    """
    real, file = time.time, directory / "clock"

    def moved() -> float:
        try:
            return real() + float(file.read_text(encoding="ascii") or 0)
        except (FileNotFoundError, ValueError):
            return real()

    time.time = moved


def main() -> None:
    directory = Path(sys.argv.pop(1))
    move_clock(directory)
    Orders(directory).install()
    from proxyctl import cli

    cli.main()


if __name__ == "__main__":
    main()
