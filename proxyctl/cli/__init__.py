"""The command line: arguments in, data on standard output, messages on standard error, an exit status that scripts can rely on.

0 done; 1 a negative answer; 2 usage or configuration; 3 no controller answers; 4 timed out; 130 interrupted. A command's module
is loaded when the command is called, so that `version` and completion need not wait for Docker's SDK.
"""

from __future__ import annotations

import os
import sys
import threading
from importlib import import_module
from typing import NoReturn, cast

import click

from proxyctl.cli.options import GLOBAL, Options, Stop

COMMANDS = {
    "run": "run:run",
    "check": "check:check",
    "render": "render:render",
    "diff": "render:diff",
    "status": "status:status",
    "explain": "explain:explain",
    "wait": "wait:wait",
    "rollout": "rollout:rollout",
    "maintenance": "rollout:maintenance",
    "freeze": "rollout:freeze",
    "unfreeze": "rollout:unfreeze",
    "release": "rollout:release",
    "history": "history:history",
    "events": "history:events",
    "doctor": "doctor:doctor",
    "host": "host:host",
    "export": "transfer:export",
    "import": "transfer:import_",
    "version": "version:version",
    "completion": "version:completion",
    "healthcheck": "healthcheck:healthcheck",
}


BROKEN_PIPE = 141
"""What the shell makes of SIGPIPE."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        return cast("click.Command", getattr(import_module(f"proxyctl.cli.{module}"), name))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(f"{error.message} {_nearest(args[0])}", ctx) from None


def _nearest(word: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(word, COMMANDS, n=1, cutoff=0.5)
    return f"Did you mean {near[0]}?" if near else f"Commands: {', '.join(name for name in COMMANDS if name != 'healthcheck')}."


@click.group(cls=_Commands, params=GLOBAL(), context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def group(ctx: click.Context) -> None:
    """Label a container and nginx serves it: health-checked, tested before it is published, proved live."""
    ctx.ensure_object(Options)


def main() -> NoReturn:
    """The process: runs the command of `sys.argv` and ends."""
    status = call()
    if any(not thread.daemon and thread is not threading.main_thread() for thread in threading.enumerate()):
        # A thread waits for an engine that does not answer. Nothing hangs on it, and Python would wait for it, too.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def call(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    try:
        status = group.main(arguments, prog_name="proxyctl", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return 2
    except Stop as stop:
        click.echo(f"proxyctl: {stop}", err=True)
        return stop.status
    except (click.Abort, KeyboardInterrupt):
        return 130
    except (BrokenPipeError, SystemExit):
        # The reader has left (`proxyctl history | head`), which click takes for an end of its own. Python would complain again
        # when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return int(status or 0)
