"""`proxyctl history` and `proxyctl events`: cycles that changed something or failed, those behind and those to come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from proxyctl.cli.asking import ask
from proxyctl.cli.options import DONE, UNREACHABLE, Command, Options, Stop, json_option
from proxyctl.cli.output import clock, line, say

if TYPE_CHECKING:
    from proxyctl.cli.client import Client
    from proxyctl.serve.history import Cycle


@click.command(cls=Command)
@click.option(
    "-n", "limit", type=click.IntRange(1, 500), default=20, show_default=True, help="How many, counted from the newest."
)
@json_option
@click.pass_obj
def history(options: Options, limit: int, *, as_json: bool) -> int:
    """Show what changed or failed, the newest last."""
    if as_json:
        click.echo(ask(options, lambda client: client.raw("/api/v1/cycles", {"limit": str(limit)})), nl=False)
        return DONE
    for cycle in reversed(ask(options, lambda client: client.cycles(limit))):
        _show(cycle)
    return DONE


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="One JSON document a line.")
@click.pass_obj
def events(options: Options, *, as_json: bool) -> int:
    """Follow what changes, until Ctrl-C."""

    async def follow(client: Client) -> None:
        import msgspec

        from proxyctl.serve.history import Cycle

        async for body in client.follow():
            if as_json:
                click.echo(body)
            else:
                _show(msgspec.json.decode(body, type=Cycle))

    ask(options, follow)
    raise Stop(f"the controller at {options.socket_path()} has ended", UNREACHABLE)


def _show(cycle: Cycle) -> None:
    took = f" in {cycle.event_to_live * 1000:.0f} ms" if cycle.event_to_live is not None else ""
    word = cycle.incident or cycle.result
    times = f", {cycle.times} times since {clock(cycle.first_unix)}" if cycle.times > 1 else ""
    say(line((f"{clock(cycle.at_unix)} ", "dim"), (word, cycle.result), (took, "dim"), (times, "dim")))
    for text in _lines(cycle):
        say(f"  {text}")


def _lines(cycle: Cycle) -> Iterator[str]:
    if cycle.error:
        yield cycle.error
    yield from cycle.changes
    for rejection in cycle.rejected:
        yield f"rejected {rejection.container} {rejection.label}: {rejection.message}; {rejection.hint}"
    for text in cycle.settled:
        yield f"settled {text}"
