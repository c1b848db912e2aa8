"""Who may have answered for whom: what the controller said that nginx knows, against who left and who came.

Nothing here waits or asks: times are monotonic.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tests.load import Stray

AROUND = 20.0
"""Seconds before and after the first wrong answer that a trace tells of."""


@dataclass(frozen=True, slots=True)
class Told:
    """A line of the controller's log that says what nginx knows from now on."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Departure:
    """Of a container that ends, or leaves its address."""

    host: str
    name: str
    address: str
    at: float
    """When that was asked for."""


def closed(left: Iterable[Departure], backend: str, addresses: Iterable[str], told: list[Told]) -> float:
    """When nginx stopped to lead from those who `left` a host to this backend: the Live without them, or the end of old workers
    that knew their address, where some had to be ended. Endless while there was no Live; 0: it had not led there as they left.
    `addresses`: of the backend, for those who left one that was not noted."""
    let_go = [(_let_go(each, told), each) for each in left]
    return max((max(at, _ended(each, backend, addresses, told)) for at, each in let_go if at), default=0.0)


def _ended(departure: Departure, backend: str, addresses: Iterable[str], told: list[Told]) -> float:
    """When old workers that knew the address were ended because it was the backend's by then; 0 when none had to be. It may have
    another address by now."""
    of = "|".join(map(re.escape, [departure.address] if departure.address else sorted(addresses)))
    said = re.compile(rf"\b({of}) belongs to (\S*-)?{re.escape(backend)} now")
    return next((t.at for t in told if t.at >= departure.at and said.search(t.text)), 0.0)


def _let_go(departure: Departure, told: list[Told]) -> float:
    """When nginx was proved not to lead to it any more; 0 when it had not led there as it left."""
    name, left = departure.name, departure.at
    before = [f"{name} out" in t.text for t in told if t.at < left and _tells_of(name, t) and "belongs to" not in t.text]
    if not before or before[-1]:
        return 0.0
    words = (f"{name} out", f"- {departure.host}/", "... and")
    return min((t.at for t in told if t.at >= left and any(word in t.text for word in words)), default=float("inf"))


def _tells_of(name: str, told: Told) -> bool:
    """web-1 is not web-12. The log has names with the run's own prefix."""
    return re.search(rf"(?<!\w){re.escape(name)}(?![\w-])", told.text) is not None


def trace(host: str, late: list[Stray], departed: Iterable[Departure], told: list[Told]) -> list[str]:
    """What was said of those who gave these answers, and of those who left the host."""
    if not late:
        return []
    leaving = [each for each in departed if each.host == host or each.name in {stray.backend for stray in late}]
    names = {stray.backend for stray in late} | {each.name for each in leaving}
    lines = [(stray.began, f"{host} is answered by {stray.backend}") for stray in late]
    lines += [(each.at, f"{each.name} leaves {each.address}") for each in leaving]
    lines += [(t.at, t.text) for t in told if any(_tells_of(name, t) for name in names)]
    first = min(stray.began for stray in late)
    return [f"{at - first:+.3f} s {text}" for at, text in sorted(lines) if abs(at - first) < AROUND]
