"""Fault runs on the real engine, with a load all the while: `python -m tests.chaos --seeds 5`, or one of them again with
`--only nginx-killed --seed 3`. Exit status 1 when something is not as it should be.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby

from tests.chaos.faults import FAULTS
from tests.chaos.own_engine import OwnEngine, in_own_network, own_engine
from tests.chaos.scene import EngineKind, Fault, Stage, Verdict, play


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many, one after another")
    parser.add_argument("--only", action="append", choices=sorted(FAULTS), metavar="NAME", help="this fault; may be repeated")
    parser.add_argument("--list", action="store_true", help="print the faults")
    return parser.parse_args()


def run(faults: Iterable[Fault], seeds: range) -> Iterator[Verdict]:
    """Each fault with each seed."""
    for kind, of in groupby(faults, key=lambda chosen: chosen.engine):
        if kind:
            yield from in_own_network(partial(with_own_engine, tuple(of), seeds, kind))
        else:
            yield from on_stages(of, seeds)


def with_own_engine(faults: Iterable[Fault], seeds: range, kind: EngineKind) -> list[Verdict]:
    with own_engine(live_restore=kind == "live-restore") as engine:
        return list(on_stages(faults, seeds, engine))


def on_stages(faults: Iterable[Fault], seeds: range, engine: OwnEngine | None = None) -> Iterator[Verdict]:
    """A stage that something went wrong on is not used again."""
    stage: Stage | None = None
    try:
        for chosen in faults:
            for seed in seeds:
                try:
                    stage = stage or Stage(engine=engine).__enter__()
                    verdict = play(chosen, stage, seed)
                except Exception:  # noqa: BLE001 - the others are run all the same
                    verdict = Verdict(chosen, seed, problems=[traceback.format_exc()])
                print(verdict, flush=True)
                if verdict.problems and stage:
                    stage.close()
                    stage = None
                yield verdict
    finally:
        if stage:
            stage.close()


def table(verdicts: Iterable[Verdict]) -> str:
    """A line for each fault, the worst of its seeds."""
    by_fault: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_fault.setdefault(verdict.fault.name, []).append(verdict)
    lines = [
        "| fault | runs | lost | misrouted in the window | after Live | converged, slowest | |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, of in by_fault.items():
        took = [v.converged for v in of]
        slowest = f"{max(t for t in took if t is not None):.2f} s" if None not in took else "never"
        lost = f"{sum(v.lost for v in of)} of {sum(v.sent for v in of):,}"
        bad = sum(bool(v.problems) for v in of)
        early, after = sum(v.strays_early for v in of), sum(v.strays for v in of)
        lines.append(f"| {name} | {len(of)} | {lost} | {early} | {after} | {slowest} | {f'{bad} WRONG' if bad else 'ok'} |")
    return "\n".join(lines)


def main() -> int:
    options = arguments()
    chosen = [FAULTS[name] for name in options.only or FAULTS]
    if options.list:
        for item in chosen:
            print(f"{item.name:32} {item.words}")
        return 0
    began = time.monotonic()
    verdicts = list(run(chosen, range(options.seed, options.seed + options.seeds)))
    print(f"\n{table(verdicts)}\n{len(verdicts)} runs in {time.monotonic() - began:.0f} s")
    return int(any(verdict.problems for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
