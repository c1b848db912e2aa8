"""An operator's words: `rollout`, `maintenance`, `freeze` and `unfreeze`. Each says what it has done and what comes next."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast, get_args

import click

from proxyctl.cli.asking import ask
from proxyctl.cli.options import DONE, USAGE, Command, Options, Stop, json_option
from proxyctl.cli.output import say
from proxyctl.versions import Verb

if TYPE_CHECKING:
    from msgspec import Struct

VERBS = tuple(verb for verb in get_args(Verb) if verb != "maintenance")
why_option = click.option("--why", default="", metavar="TEXT", help="Kept in the history, with your name.")


@click.command(cls=Command)
@click.argument("verb", type=click.Choice(VERBS))
@click.argument("service")
@click.argument("percent", type=click.IntRange(0, 99), required=False)
@why_option
@json_option
@click.pass_obj
def rollout(options: Options, verb: str, service: str, percent: int | None, why: str, *, as_json: bool) -> int:
    """Say a word about the versions of a service.

    promote: the version that is ready gets the traffic. rollback: the one before gets it back, and this one is not tried again.
    pause and resume: nothing goes on, but what protects. retry: the version that failed is tried again. weight: PERCENT for the
    version that is ready.
    """
    from proxyctl.serve.openapi import Said

    if (percent is None) == (verb == "weight"):
        raise Stop("write `rollout weight SERVICE PERCENT`; the other words take no percent", USAGE)
    return _tell(options, "/api/v1/rollout", Said(service, cast("Verb", verb), percent or 0, _who(), why), as_json=as_json)


@click.command(cls=Command)
@click.argument("state", type=click.Choice(("on", "off")))
@click.argument("service")
@why_option
@json_option
@click.pass_obj
def maintenance(options: Options, state: str, service: str, why: str, *, as_json: bool) -> int:
    """Answer a service with 503, until it is off again."""
    from proxyctl.serve.openapi import Said

    return _tell(options, "/api/v1/rollout", Said(service, "maintenance", int(state == "on"), _who(), why), as_json=as_json)


@click.command(cls=Command)
@why_option
@json_option
@click.pass_obj
def freeze(options: Options, why: str, *, as_json: bool) -> int:
    """Let no version be rolled out until `unfreeze`.

    What protects goes on: a bad version goes back, a dead one is replaced.
    """
    return _freeze(options, why, on=True, as_json=as_json)


@click.command(cls=Command)
@why_option
@json_option
@click.pass_obj
def unfreeze(options: Options, why: str, *, as_json: bool) -> int:
    """Let versions be rolled out again."""
    return _freeze(options, why, on=False, as_json=as_json)


def _freeze(options: Options, why: str, *, on: bool, as_json: bool) -> int:
    from proxyctl.serve.openapi import Freeze

    return _tell(options, "/api/v1/freeze", Freeze(on, _who(), why), as_json=as_json)


def _tell(options: Options, path: str, body: Struct, *, as_json: bool) -> int:
    import msgspec

    from proxyctl.serve.views import Done

    answer = ask(options, lambda client: client.raw(path, body=body))
    if as_json:
        click.echo(answer, nl=False)
        return DONE
    done = msgspec.json.decode(answer, type=Done)
    say(done.done)
    if done.outlook:
        say(done.outlook)
    return DONE


def _who() -> str:
    """Who sits at the keyboard; empty when nobody does, and then the controller knows the user by number."""
    return os.environ.get("SUDO_USER", "") or os.environ.get("USER", "")
