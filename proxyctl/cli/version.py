"""`proxyctl version` and `proxyctl completion`: answered without loading anything else."""

from __future__ import annotations

import json
import platform

import click

from proxyctl import __version__
from proxyctl.cli.options import Command, json_option


@click.command(cls=Command)
@json_option
def version(*, as_json: bool) -> None:
    """Tell the version."""
    if as_json:
        click.echo(json.dumps({"schema": 1, "version": __version__, "python": platform.python_version()}))
    else:
        click.echo(f"proxyctl {__version__}")


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the shell's completion script.

    bash: eval "$(proxyctl completion bash)"; fish: proxyctl completion fish | source
    """
    from click.shell_completion import get_completion_class

    if kind := get_completion_class(shell):
        click.echo(kind(ctx.find_root().command, {}, "proxyctl", "_PROXYCTL_COMPLETE").source())
