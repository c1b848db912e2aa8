"""Power cuts and full disks: the nth step that touches the disk does not happen, and raises instead."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.chaos.inside import FILES, watched


class PowerCut(BaseException):
    """Nothing after it runs: no handler for errors tidies up."""


@contextmanager
def at(step: int, error: type[BaseException]) -> Iterator[list[str]]:
    """Yields the names of the steps so far. Step 0 is the first; with fewer steps than that, nothing happens."""
    done: list[str] = []

    def met(name: str, _: tuple[Any, ...]) -> None:
        if len(done) == step:
            done.append("crash")
            raise error(5, "the disk is full")
        done.append(name)

    with pytest.MonkeyPatch.context() as patch:
        for name in FILES:
            patch.setattr(os, name, watched(getattr(os, name), name, met))
        yield done


def everywhere(work: Callable[[], object], error: type[BaseException]) -> Iterator[int]:
    """Runs `work` with a crash at its first step, then at its second, and so on until it comes through. Yields the step."""
    for step in range(1000):
        with at(step, error) as done, suppress(error):
            work()
        if "crash" not in done:
            return
        yield step
    raise AssertionError("it never came through")
