"""Options that every command takes, before or after its name, and the exception that ends a command with words and a status."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from proxyctl.config import Config

DONE, NEGATIVE, USAGE, UNREACHABLE, TIMED_OUT = 0, 1, 2, 3, 4
DEFAULT_FILE = Path("/etc/proxyctl/config.toml")


class Stop(Exception):  # noqa: N818
    """Ends the command: the message goes to standard error, `status` to the shell."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Options:
    given_file: Path | None = None
    given_socket: Path | None = None
    broken: str = ""
    """Why the configuration cannot be read, when `socket_path` went on without it."""

    @property
    def config_file(self) -> Path:
        """Where the configuration is, or would be."""
        return (self.given_file or DEFAULT_FILE).absolute()

    def config(self) -> Config:
        """Raises Stop with status 2."""
        from proxyctl import config as configuration

        try:
            return configuration.load(self.given_file)
        except configuration.ConfigError as error:
            raise Stop(str(error), USAGE) from error

    def socket_path(self) -> Path:
        """Of the API: the option, else what the configuration says. When the file is broken, the controller goes on with the
        configuration of before, and must still be found: what can be read of the file is used. Raises Stop when there is none."""
        if self.given_socket:
            return self.given_socket
        from proxyctl import config as configuration

        try:
            return Path(configuration.load(self.given_file).api.socket)
        except configuration.ConfigError as error:
            if not os.access(self.config_file, os.R_OK):
                raise Stop(str(error), USAGE) from error
            self.broken = str(error)
            return Path(configuration.socket_of(self.given_file))


def _remember(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    options = ctx.ensure_object(Options)
    if value is not None and param.name:
        setattr(options, param.name, value)


def GLOBAL() -> list[click.Parameter]:  # noqa: N802 - reads as the constant that it stands for
    """New ones at each call: click keeps state by parameter object."""
    return [
        click.Option(
            ["--config", "given_file"],
            metavar="FILE",
            type=click.Path(path_type=Path),
            envvar="PROXYCTL_CONFIG",
            expose_value=False,
            callback=_remember,
            help=f"Configuration (PROXYCTL_CONFIG; {DEFAULT_FILE} when it exists).",
        ),
        click.Option(
            ["--socket", "given_socket"],
            metavar="PATH",
            type=click.Path(path_type=Path),
            envvar="PROXYCTL_SOCKET",
            expose_value=False,
            callback=_remember,
            help="The controller's API socket (PROXYCTL_SOCKET; api.socket of the configuration).",
        ),
    ]


class Command(click.Command):
    """A command that takes the global options after its name, too."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        params: Sequence[click.Parameter] = super().get_params(ctx)
        return [*params, *_again(ctx)]


class Group(click.Group):
    """Commands of one subject. It takes the global options after its name, too, and so do they."""

    command_class = Command

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        params: Sequence[click.Parameter] = super().get_params(ctx)
        return [*params, *_again(ctx)]


def _again(ctx: click.Context) -> list[click.Parameter]:
    """The same objects for one context: click compares parameters by identity while it parses."""
    key = "proxyctl.cli.global"
    if key not in ctx.meta:
        ctx.meta[key] = GLOBAL()
    params: list[click.Parameter] = ctx.meta[key]
    return params


def duration(text: str, high: float = math.inf) -> float:
    """An option's type: `500ms`, `30s`, `5m` -> seconds."""
    from proxyctl import values

    try:
        return values.duration(text, high=high)
    except values.BadValue as bad:
        raise click.BadParameter(str(bad)) from bad


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document, with a `schema` number.")
