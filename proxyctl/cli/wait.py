"""`proxyctl wait`: until a version has passed its bake, for the step after `docker compose up` in a pipeline."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import click

from proxyctl.cli.asking import ask
from proxyctl.cli.options import DONE, NEGATIVE, TIMED_OUT, USAGE, Command, Options, Stop, duration
from proxyctl.cli.output import say

if TYPE_CHECKING:
    from proxyctl.cli.client import Client
    from proxyctl.serve.swaps import Rollout

EVERY = 0.1
BEGINS_WITHIN = 10.0
"""Seconds for a controller that is just being started; then a wrong socket is a wrong socket."""
CERTAIN = 10
"""Looks after which a failed version has failed: a container that was started just now may not have been seen yet."""


@click.command(cls=Command)
@click.argument("service")
@click.option("--version", required=True, metavar="NAME", help="The version that is to be live.")
@click.option("--timeout", default="5m", type=duration, help="How long at the most (5m).")
@click.option("--drained", is_flag=True, help="Until nothing of nginx knows the old version either: it may be stopped then.")
@click.pass_obj
def wait(options: Options, service: str, version: str, timeout: float, *, drained: bool) -> int:
    """Wait until a version is live and past its bake."""
    if not version:
        raise Stop("--version is empty", USAGE)
    status, text = ask(options, lambda client: _follow(client, service, version, timeout, drained=drained))
    if status:
        raise Stop(f"{service}: {text}", status)
    if text:
        say(text)
    return DONE


async def _follow(client: Client, service: str, version: str, limit: float, *, drained: bool) -> tuple[int, str]:
    """The exit status, and what was live before or why not. Raises Unreachable and TimedOut when that is so at the beginning or
    at the end."""
    from proxyctl.cli.client import TimedOut, Unreachable

    end = time.monotonic() + limit
    previous, last, bad, reached = "", "nothing is known of it yet", 0, False
    told: object = None
    while True:
        over = time.monotonic() > end
        try:
            found = next(iter((await client.rollouts(service)).rollouts), None)
        except (Unreachable, TimedOut):  # a controller that begins anew is no answer
            if over or (not reached and time.monotonic() > end - limit + BEGINS_WITHIN):
                raise
            await asyncio.sleep(EVERY)
            continue
        reached = True
        if found:
            if version != found.active:
                previous = found.active or ""
            status, last = _judge(found, version, drained=drained)
            bad = bad + 1 if status == NEGATIVE else 0
            if status is None and told != (step := (found.state, found.candidate, found.active, found.draining)):
                told = step
                click.echo(f"proxyctl: waiting for {version}: {last}", err=True)
            if status == DONE or bad > CERTAIN:
                return (NEGATIVE, last) if bad else (DONE, previous or found.previous or "")
        elif told is None:
            told = ()
            click.echo(f"proxyctl: waiting for {version}: no container of {service} is known yet", err=True)
        if over:
            return TIMED_OUT, f"not within {limit:g} s: {last}"
        await asyncio.sleep(EVERY)


def _judge(found: Rollout, version: str, *, drained: bool) -> tuple[int | None, str]:
    """The exit status, once it is known, and what is to be said."""
    mine = next((each for each in found.versions if each.version == version), None)
    if mine and mine.standing == "failed":
        return NEGATIVE, f"{version} failed: {mine.reason}"
    if found.active != version or found.state not in ("idle", "draining", "failed") or (drained and found.draining):
        return None, found.outlook
    if not mine or not mine.healthy:
        return None, f"nothing of {version} is healthy"
    return (DONE, found.outlook) if found.live else (None, f"nginx is not proved to give traffic to {version}")
