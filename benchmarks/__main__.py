"""`python -m benchmarks [NAME...] [--short]`: runs them one after the other and prints what they found."""

from __future__ import annotations

import sys
from typing import Protocol

import click
from rich.console import Console

from benchmarks import cost, idle, loss, reloads, rollouts, scale, speed, storm, upgrades
from benchmarks.figures import Figures, publish


class Benchmark(Protocol):
    def __call__(self, *, short: bool) -> Figures: ...


BENCHMARKS: dict[str, Benchmark] = {
    "speed": speed.run,
    "cost": cost.run,
    "loss": loss.run,
    "idle": idle.run,
    "scale": scale.run,
    "reloads": reloads.run,
    "storm": storm.run,
    "rollouts": rollouts.run,
    "upgrades": upgrades.run,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--short", is_flag=True, help="A quick pass: few rounds, figures that say little.")
def main(names: tuple[str, ...], *, short: bool) -> None:
    """Measures proxyctl on the Docker engine at DOCKER_HOST. All of them take about 40 minutes."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    for name in names or BENCHMARKS:
        publish(BENCHMARKS[name](short=short), console, short=short)


if __name__ == "__main__":
    main()
