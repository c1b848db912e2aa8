"""Text on standard output: aligned tables in colour on a terminal, the same without colour and without wrapping elsewhere.

What is shown comes from labels, images and error messages of others, so control characters never reach the terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

WIDE = 10_000
"""Columns when nobody looks: a line is a record, and wrapping would break it."""

STYLES = {
    "ok": "green",
    "healthy": "green",
    "live": "green",
    "warn": "yellow",
    "degraded": "yellow",
    "fail-open": "yellow",
    "starting": "yellow",
    "warming": "yellow",
    "candidate": "yellow",
    "draining": "yellow",
    "maintenance": "yellow",
    "active": "green",
    "stopping": "yellow",
    "fail": "red",
    "down": "red",
    "unhealthy": "red",
    "refused": "red",
    "restored": "red",
    "failed": "red",
    "unreadable": "red",
}


def console() -> Console:
    """Colour is left out when it is no terminal, or NO_COLOR is set."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else WIDE)


def clean(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(c if c.isprintable() else " " if c in "\n\t" else "\ufffd" for c in text)


def styled(text: str, style: str = "") -> Text:
    """`style` is one of rich's, or a word of STYLES."""
    from rich.text import Text

    return Text(clean(text), style=STYLES.get(style, style))


def line(*parts: tuple[str, str]) -> Text:
    """One line of (text, style) pieces."""
    from rich.text import Text

    return Text.assemble(*((clean(text), STYLES.get(style, style)) for text, style in parts))


def table(head: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, show_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in head:
        grid.add_column(name, overflow="fold", no_wrap=not sys.stdout.isatty())
    for row in rows:
        grid.add_row(*(styled(cell) if isinstance(cell, str) else cell for cell in row))
    say(grid)


def say(*parts: object) -> None:
    """One line, or a table. No trailing blanks in pipes."""
    target = console()
    if sys.stdout.isatty():
        target.print(*(styled(part) if isinstance(part, str) else part for part in parts))
        return
    with target.capture() as caught:
        target.print(*(styled(part) if isinstance(part, str) else part for part in parts))
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in caught.get().splitlines()))
    sys.stdout.flush()


def clock(unix: float) -> str:
    """Local time on a terminal, UTC as ISO 8601 in a pipe."""
    if sys.stdout.isatty():
        return datetime.fromtimestamp(unix).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
