"""A unix socket between a controller and its engine that can be cut, or go silent: an engine's faults without touching it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.rig import endpoint

CHUNK = 65536


class Relay:
    """`with Relay(path) as relay:` passes everything on to the engine at tests.rig.endpoint() (a unix socket)."""

    def __init__(self, path: Path) -> None:
        self._upstream = (endpoint() or "unix:///var/run/docker.sock").removeprefix("unix://")
        self._path = path
        self._silent = threading.Event()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener: socket.socket | None = None

    @property
    def endpoint(self) -> str:
        return f"unix://{self._path}"

    def __enter__(self) -> Self:
        self.restore()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.cut()

    def restore(self) -> None:
        """The engine answers."""
        self._silent.clear()
        if self._listener is None:
            self._path.unlink(missing_ok=True)
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self._path))
            self._listener.listen(64)
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """The engine is gone: open streams end, new calls are refused."""
        if self._listener:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
            self._path.unlink(missing_ok=True)
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def hang(self) -> None:
        """The engine takes calls and answers none."""
        self._silent.set()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            engine.connect(self._upstream)
            self._pairs.append((client, engine))
            threading.Thread(target=self._pass_on, args=(client, engine), daemon=True).start()

    def _pass_on(self, client: socket.socket, engine: socket.socket) -> None:
        with client, engine:
            back = threading.Thread(target=self._pump, args=(engine, client), kwargs={"answers": True}, daemon=True)
            back.start()
            self._pump(client, engine, answers=False)
            back.join()

    def _pump(self, source: socket.socket, sink: socket.socket, *, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                if not (answers and self._silent.is_set()):
                    sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
