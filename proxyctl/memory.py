"""Memory of a process that holds some hundred thousand objects for as long as it lives: 10,000 containers."""

from __future__ import annotations

import ctypes
import gc
import os

M_TRIM_THRESHOLD, M_ARENA_MAX = -1, -8
"""Source: mallopt(3)."""


def settle() -> None:
    """At Python's own pace, looking through all objects again and again took a fifth of the time of a first plan, and five sixths
    of that of one container more. And glibc would keep the memory of each thread at its largest: 175 MiB, 140 with one arena."""
    gc.set_threshold(50_000, 20, 20)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_ARENA_MAX, 1)
        libc.mallopt(M_TRIM_THRESHOLD, 128 << 10)


def total() -> int:
    """Bytes of memory that this host has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
