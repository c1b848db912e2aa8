"""`proxyctl host drain` and `undrain`: leaves a host to its balancer before a reboot, and takes it back."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import click

from proxyctl.cli.asking import ask
from proxyctl.cli.options import TIMED_OUT, Group, Options, Stop, duration
from proxyctl.cli.output import say
from proxyctl.values import MAX_NOTICE

if TYPE_CHECKING:
    from proxyctl.cli.client import Client


WHY = {
    "serving": "nginx could not be told, or it was undrained meanwhile: `proxyctl status`",
    "noticing": "the balancer still has its time",
    "ending": "connections go on in old workers of nginx",
}


def notice(text: str) -> float:
    """As much as the API takes."""
    return duration(text, MAX_NOTICE)


@click.group(cls=Group)
def host() -> None:
    """Leave this host to its balancer, or take it back."""


@host.command
@click.option("--notice", "seconds", default="15s", type=notice, help="How long the balancer may take to notice (15s).")
@click.option("--timeout", default="5m", type=duration, help="How long requests may take to end after that (5m).")
@click.pass_obj
def drain(options: Options, seconds: float, timeout: float) -> None:
    """Tell the balancer, and return when no request is under way.

    /-/ready of nginx and /readyz say 503. Everything is served while the balancer notices; then the workers of nginx end with
    their requests, and the command with the last of them. Exit status 4 when some go on.
    """
    say(ask(options, lambda client: client.change("/api/v1/host/drain", {"notice": seconds})))
    began = time.monotonic()

    async def wait(client: Client) -> str:
        while True:
            phase = (await client.status()).host
            if phase == "drained" or time.monotonic() - began > seconds + timeout:
                return phase
            await asyncio.sleep(0.5)

    try:
        phase = ask(options, wait)
    except KeyboardInterrupt:
        click.echo("proxyctl: the drain goes on; `proxyctl host undrain` takes the host back", err=True)
        raise
    if phase != "drained":
        raise Stop(f"not drained within {seconds + timeout:g} s: {phase}; {WHY[phase]}", TIMED_OUT)
    say(f"drained after {time.monotonic() - began:.1f} s")


@host.command
@click.pass_obj
def undrain(options: Options) -> None:
    """Take the host back: /-/ready and /readyz say 200 again."""
    say(ask(options, lambda client: client.change("/api/v1/host/undrain")))
