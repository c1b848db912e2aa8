"""What operators change: `rollout`, `maintenance`, `freeze`, `unfreeze` and `release`. Each says what it has done and what comes
next."""

from __future__ import annotations

from typing import get_args

import click

from proxyctl.cli.asking import ask
from proxyctl.cli.options import USAGE, Command, Options, Stop
from proxyctl.cli.output import say
from proxyctl.versions import Verb

VERBS = tuple(verb for verb in get_args(Verb) if verb != "maintenance")
why_option = click.option("--why", default="", metavar="TEXT", help="Kept in the history, with your name.")


@click.command(cls=Command)
@click.argument("verb", type=click.Choice(VERBS))
@click.argument("service")
@click.argument("percent", type=click.IntRange(0, 99), required=False)
@click.option("--to", metavar="VERSION", help="Of rollback: the version that gets the traffic, also one that has failed.")
@why_option
@click.pass_obj
def rollout(options: Options, verb: str, service: str, percent: int | None, to: str | None, why: str) -> None:
    """Say a word about the versions of a service.

    promote: the version that is ready gets the traffic. rollback: the one before gets it back, and this one is not tried again.
    pause and resume: nothing goes on, but what protects. retry: the version that failed is tried again. weight: PERCENT for the
    version that is ready.
    """
    if (percent is None) == (verb == "weight"):
        raise Stop("write `rollout weight SERVICE PERCENT`; the other words take no percent", USAGE)
    if to is not None and verb != "rollback":
        raise Stop("--to is for `rollout rollback`", USAGE)
    wish: dict[str, object] = {"service": service, "verb": verb, "value": percent or 0, "why": why}
    _tell(options, "rollout", wish if to is None else {**wish, "to": to})


@click.command(cls=Command)
@click.argument("state", type=click.Choice(("on", "off")))
@click.argument("service")
@why_option
@click.pass_obj
def maintenance(options: Options, state: str, service: str, why: str) -> None:
    """Answer a service with 503, until it is off again."""
    _tell(options, "rollout", {"service": service, "verb": "maintenance", "value": int(state == "on"), "why": why})


@click.command(cls=Command)
@why_option
@click.pass_obj
def freeze(options: Options, why: str) -> None:
    """Let no version be rolled out until `unfreeze`.

    What protects goes on: a bad version goes back, a dead one is replaced.
    """
    _tell(options, "freeze", {"why": why})


@click.command(cls=Command)
@why_option
@click.pass_obj
def unfreeze(options: Options, why: str) -> None:
    """Let versions be rolled out again."""
    _tell(options, "unfreeze", {"why": why})


@click.command(cls=Command)
@click.argument("host")
@why_option
@click.pass_obj
def release(options: Options, host: str, why: str) -> None:
    """Release a host whose containers were removed.

    Another project can have it at once, not after 5 minutes.
    """
    _tell(options, "release", {"host": host, "why": why})


def _tell(options: Options, what: str, wish: dict[str, object]) -> None:
    """The outlook, a line for each part of it."""
    for part in ask(options, lambda client: client.change(f"/api/v1/{what}", wish)).split("; "):
        say(part)
