"""What of two collections is not the same: compared as objects, since what nothing has happened to stays the same object."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable
from typing import TypeVar

T = TypeVar("T")


def between(before: Collection[T], after: Collection[T]) -> tuple[list[T], list[T]]:
    """What only `before` holds, and what only `after` does; neither holds anything twice. What is the same at the beginning and
    at the end, which is nearly all, costs some 30 ns each."""
    if before is after:
        return [], []
    old, new = list(before), list(after)
    start = _alike(old, new)
    del old[:start], new[:start]
    end = _alike(reversed(old), reversed(new))
    del old[len(old) - end :], new[len(new) - end :]
    olds, news = set(map(id, old)), set(map(id, new))
    return [each for each in old if id(each) not in news], [each for each in new if id(each) not in olds]


def _alike(some: Iterable[object], others: Iterable[object]) -> int:
    """How many are the same before the first that is not."""
    same = [*map(operator.is_, some, others), False]
    return same.index(False)
