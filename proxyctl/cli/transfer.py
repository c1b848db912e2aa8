"""`proxyctl export` and `proxyctl import`: what a host has settled, as a file, for another host."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from proxyctl.cli.options import NEGATIVE, USAGE, Command, Options, Stop
from proxyctl.cli.output import say

if TYPE_CHECKING:
    from proxyctl.state import StateStore


@click.command(cls=Command)
@click.argument("file", default="-", type=click.Path(path_type=Path, allow_dash=True, dir_okay=False))
@click.pass_obj
def export(options: Options, file: Path) -> None:
    """Write what another host can take over.

    That is who owns which host and path, which versions have the traffic, and what operators said about them. Addresses, tokens
    and what is live belong to this host and stay here. Works while the controller runs.
    """
    from proxyctl.state import exported

    store = _store(options)
    try:
        text = exported(store.load())
        if store.doubtful:
            raise Stop("; ".join(store.notes) or f"there is no state in {options.config().state_dir}", NEGATIVE)
        if file == Path("-"):
            click.echo(text)
        else:
            file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise Stop(f"{error.filename}: {error.strerror}" if error.filename else str(error), NEGATIVE) from error


@click.command("import", cls=Command)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True, dir_okay=False))
@click.pass_obj
def import_(options: Options, file: Path) -> None:
    """Take over what `export` wrote on another host.

    The controller must not run meanwhile. What was settled here before is replaced, and kept in
    state.before-import.json.
    """
    from msgspec import MsgspecError

    from proxyctl.state import HeldByAnother, imported

    store = _store(options)
    try:
        raw = sys.stdin.buffer.read() if file == Path("-") else file.read_bytes()
        store.acquire()
        before = store.load()
        state = imported(raw, before)
        store.keep(before)
        store.save(state)
        store.release()
    except HeldByAnother as error:
        raise Stop(f"{error}: stop that controller first; it would overwrite what is imported", NEGATIVE) from error
    except (ValueError, MsgspecError) as error:
        raise Stop(f"{file} is not taken: {error}; nothing has changed", USAGE) from error
    except OSError as error:
        raise Stop(f"{error.filename}: {error.strerror}" if error.filename else str(error), NEGATIVE) from error
    say(f"{sum('/' not in place for place in state.owners)} hosts with their owners; they hold from the controller's next start")
    if state.frozen:
        say("frozen: no version is rolled out until `proxyctl unfreeze`")


def _store(options: Options) -> StateStore:
    from proxyctl.state import StateStore

    return StateStore(options.config().state_dir)
