"""A rig's controller started with instruments (`tests.chaos.inside`), and the test's side of them."""

from __future__ import annotations

import errno
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.rig import Controller, until

ROOT = Path(__file__).parents[2]
QUIET = 1.5
"""Seconds without a step after which a cycle is over, with the retry that follows it."""
CODES = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EROFS": errno.EROFS}


@dataclass(frozen=True, slots=True)
class Step:
    """`number` counts from the latest order, those of its kinds only; 0 without one."""

    number: int
    kind: str
    where: str

    def __str__(self) -> str:
        return f"{self.kind} {self.where}".strip()


class Instruments:
    """Put into every process that the controller starts from now on."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._directory = controller.directory
        self._orders = controller.directory / "orders.json"
        self._count = 0
        self._read = 0
        controller.program = ("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.chaos.inside", self._directory)

    def kill_at(self, number: int, kinds: Iterable[str] = ()) -> None:
        """SIGKILL in place of the nth step from now; a write is done half."""
        self._order("kill", number, kinds)

    def fail_at(self, number: int, error: str, kinds: Iterable[str], times: int = 0) -> None:
        """`error` ("EIO") in place of the nth step from now and of so many in all; 0: until `clear`."""
        self._order("fail", number, kinds, error, times)

    def record(self) -> None:
        """Only numbers the steps from now on."""
        self._order("kill", 10**6, ())

    def clear(self) -> None:
        """No orders; the steps so far are forgotten."""
        self._orders.unlink(missing_ok=True)
        self._read = self._size()

    def _order(self, do: str, number: int, kinds: Iterable[str], error: str = "EIO", times: int = 1) -> None:
        self._count += 1
        order = {"id": self._count, "do": do, "nth": number, "kinds": [*kinds], "errno": CODES[error], "times": times}
        fresh = self._orders.with_suffix(".new")
        fresh.write_text(json.dumps(order), encoding="utf-8")
        self._read = self._size()
        fresh.replace(self._orders)

    def _size(self) -> int:
        log = self._directory / "steps"
        return log.stat().st_size if log.exists() else 0

    def steps(self) -> list[Step]:
        """Since the latest order, of all kinds."""
        log = self._directory / "steps"
        text = log.read_bytes()[self._read :].decode() if log.exists() else ""
        split = (line.split(" ", 2) for line in text.splitlines())
        return [Step(int(number), kind, where.replace(f"{self._directory}/", "")) for number, kind, where in split]

    def wait_dead(self) -> bool:
        """Whether the order to kill was carried out. False when steps came, and then none for a while."""
        seen, since = self._read, 0.0

        def over() -> bool:
            nonlocal seen, since
            if self._size() != seen:
                seen, since = self._size(), time.monotonic()
            return not self._controller.running or bool(since and time.monotonic() - since > QUIET)

        until(over, 30, "the controller's steps")
        return not self._controller.running

    def move_clock(self, seconds: float) -> None:
        """The controller's wall clock, from the true one."""
        (self._directory / "clock").write_text(str(seconds), encoding="ascii")
