"""What a benchmark found -> a table for people, and one JSON line in `.testbed/bench/NAME.json` for comparisons over time."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).resolve().parent.parent / ".testbed" / "bench"
Value = float | int | str


@dataclass(frozen=True, slots=True)
class Figures:
    """One benchmark's outcome. `missed` names the targets that were not reached; empty when all were."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    values: Mapping[str, Value]
    missed: Sequence[str] = ()


def publish(figures: Figures, console: Console, *, short: bool) -> None:
    """Prints the table and appends the JSON line."""
    table = Table(title=figures.title, title_justify="left", caption_justify="left")
    for number, column in enumerate(figures.columns):
        table.add_column(column, justify="right" if number else "left")
    for row in figures.rows:
        table.add_row(*row)
    table.caption = f"missed: {'; '.join(figures.missed)}" if figures.missed else "all targets reached"
    console.print(table)
    FOLDER.mkdir(parents=True, exist_ok=True)
    line = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "short": short, **figures.values}
    with (FOLDER / f"{figures.name}.json").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"


def share(values: Sequence[float], part: float) -> float:
    """The value below which `part` of them lie; of few values the nearest one."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(part * (len(ordered) - 1)))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
