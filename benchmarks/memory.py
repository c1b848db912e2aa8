"""What nginx's processes hold, while something else goes on."""

from __future__ import annotations

import re
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.rig import Controller, Rig, until

EVERY = 0.5


@dataclass(frozen=True, slots=True)
class Reading:
    """`memory`: MiB of the master and all workers, old ones among them; a page that several of them share counts once."""

    workers: int
    memory: float


class NginxMemory:
    """`with NginxMemory(rig, controller) as nginx: ...` and then `nginx.most`; `read()` at any time."""

    def __init__(self, rig: Rig, controller: Controller) -> None:
        """Root is needed to read what other users' processes hold."""
        self._master = int(rig.client.inspect_container(controller.nginx)["State"]["Pid"])
        until(lambda: self.workers, 10, f"the workers of {controller.nginx}")
        self.before = self.most = self.read()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="nginx memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    @property
    def workers(self) -> int:
        return len(self._children())

    def read(self) -> Reading:
        """Now. A process that ends meanwhile counts as a worker without memory."""
        workers = self._children()
        return Reading(len(workers), sum(map(_proportional, (str(self._master), *workers))))

    def _children(self) -> list[str]:
        return Path(f"/proc/{self._master}/task/{self._master}/children").read_text(encoding="ascii").split()

    def _watch(self) -> None:
        while not self._over.wait(EVERY):
            self.most = max(self.most, self.read(), key=lambda reading: reading.memory)


def _proportional(pid: str) -> float:
    """MiB: private pages, and of each shared one this process's part (proc(5), smaps_rollup: Pss)."""
    with suppress(OSError):
        found = re.search(r"^Pss: +([0-9]+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii"), re.MULTILINE)
        return int(found[1]) / 1024 if found else 0.0
    return 0.0
