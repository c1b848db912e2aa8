"""One event -> everybody who follows: a bounded queue for each, and a follower who does not keep up is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

BEHIND = 64
"""Events that a follower may be behind."""
MOST = 100
"""Followers at the same time."""


class Full(Exception):  # noqa: N818
    """There are as many followers as there may be."""


@dataclass(eq=False, slots=True)
class _Follower:
    drop: Callable[[], None]
    queue: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(BEHIND))


class Feed:
    def __init__(self) -> None:
        self._followers: set[_Follower] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._followers)

    @contextmanager
    def follow(self, drop: Callable[[], None]) -> Iterator[asyncio.Queue[bytes | None]]:
        """A queue of what is published from now on; None ends it. `drop` is called on one who is too slow. Raises Full."""
        if self._closed or len(self._followers) >= MOST:
            raise Full
        follower = _Follower(drop)
        self._followers.add(follower)
        try:
            yield follower.queue
        finally:
            self._followers.discard(follower)

    def publish(self, data: bytes) -> None:
        self._put(data)

    def close(self) -> None:
        """Ends every follower."""
        self._closed = True
        self._put(None)

    def _put(self, item: bytes | None) -> None:
        for follower in list(self._followers):
            try:
                follower.queue.put_nowait(item)
            except asyncio.QueueFull:
                self._followers.discard(follower)
                follower.drop()
