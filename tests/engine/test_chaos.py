"""The short pass of `make chaos`: the faults that no other test has, one seed each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.scene import Fault, Stage, play

SEED = 1


class _Stages:
    """One stage for all faults, until something goes wrong on it."""

    def __init__(self) -> None:
        self._stage: Stage | None = None

    def get(self) -> Stage:
        self._stage = self._stage or Stage().__enter__()
        return self._stage

    def drop(self) -> None:
        if self._stage:
            self._stage.close()
        self._stage = None


@pytest.fixture(scope="module")
def stages() -> Iterator[_Stages]:
    made = _Stages()
    yield made
    made.drop()


@pytest.mark.parametrize("chosen", [pytest.param(fault, id=name) for name, fault in FAULTS.items() if fault.short])
def test_everything_is_as_it_should_be_after(stages: _Stages, chosen: Fault) -> None:
    stage = stages.get()
    try:
        verdict = play(chosen, stage, SEED)
        assert not verdict.problems, str(verdict)
    except BaseException:
        stages.drop()
        raise
    print(verdict)
