"""`proxyctl status`: whether the world is as the labels ask, in one line; then every route, and below it what is wrong."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from proxyctl.cli.asking import ask
from proxyctl.cli.options import DONE, Command, Options, json_option
from proxyctl.cli.output import clock, line, say, styled, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.text import Text

    from proxyctl.model import Rejection
    from proxyctl.serve.swaps import Rollout
    from proxyctl.serve.views import Route, Status

MOST_ENDED = 2
"""Containers that have ended, listed in one line."""


@click.command(cls=Command)
@click.option("--watch", is_flag=True, help="Again every second, until Ctrl-C.")
@json_option
@click.pass_obj
def status(options: Options, *, watch: bool, as_json: bool) -> int:
    """Show what is routed, where to, and what is wrong."""
    if as_json and watch:
        raise click.UsageError("--json and --watch do not go together: `proxyctl events --json` follows what happens")
    if as_json:
        click.echo(ask(options, lambda client: client.raw("/api/v1/status")), nl=False)
        return DONE
    _show(ask(options, lambda client: client.status()), time.time())
    while watch:
        time.sleep(1)
        click.clear()
        _show(ask(options, lambda client: client.status()), time.time())
    return DONE


def _show(status: Status, now: float) -> None:
    from proxyctl.serve.page import ordered

    word, style = ("In sync", "bold green") if not status.error else ("Not in sync", "bold red")
    say(line((word, style), (headline(status, now), "")))
    for reason in (status.error, *(f"Configuration not taken over: {why}" for why in status.configuration.problems)):
        if reason:
            say(styled(f"  {reason}", "red"))
    if status.configuration.restart:
        say(styled(f"  Changed, and in effect after a restart of proxyctl: {', '.join(status.configuration.restart)}", "warn"))
    if status.routes:
        say()
        table(("ROUTE", "SERVICE", "TARGETS", "STATE", ""), map(_row, status.routes))
    elif not status.error:
        say()
        say("Nothing is routed: give a container the label proxyctl.host=a.example, or see `proxyctl check`.")
    if status.frozen:
        say()
        say(styled(f"Frozen{ordered(status.freeze, clock)}: no version is rolled out until `proxyctl unfreeze`", "warn"))
    for rollout in status.rollouts:
        if rollout.maintenance:
            end = f"`proxyctl maintenance off {rollout.service}` ends it"
            say(styled(f"{rollout.service} is in maintenance{ordered(rollout.maintained, clock)}: {end}", "warn"))
    if any(rollout.versions for rollout in status.rollouts):
        say()
        table(("VERSION", "SERVICE", "STANDING", "TRAFFIC", "HEALTHY", ""), _versions(status.rollouts))
    problems = tuple(_problems(status))
    if problems:
        say()
        say(styled("Problems", "bold"))
        for problem in problems:
            say(problem)


def headline(status: Status, now: float) -> str:
    from proxyctl.serve.page import ago
    from proxyctl.serve.views import summary

    since = f" for {ago(now - status.since_unix)}" if status.since_unix else ""
    return f"{since}: {summary(status.nginx, status.counts)}"


def _row(route: Route) -> tuple[str | Text, ...]:
    worst = next((t for t in route.targets if t.state != "healthy" and t.reason and t.state != "down"), None)
    ended = () if route.state == "ok" else tuple(t for t in route.targets if t.state == "down" and t.exited)
    notes = [] if route.live else ["not live"]
    notes += [f"{worst.container}: {worst.reason}"] if worst else []
    notes += [f"{t.container} {t.exited}" for t in ended[:MOST_ENDED]]
    notes += [f"{len(ended) - MOST_ENDED} more ended"] if len(ended) > MOST_ENDED else []
    return route.place, route.service, route.shown_targets, styled(route.state, route.state), styled("; ".join(notes), "dim")


def _versions(rollouts: Iterable[Rollout]) -> Iterator[tuple[str | Text, ...]]:
    for rollout in rollouts:
        for number, version in enumerate(rollout.versions):
            note = version.reason if version.standing == "failed" else "" if number else rollout.outlook
            yield (
                version.version or "(no label)",
                rollout.service,
                styled(version.standing, version.standing),
                f"{version.weight} %",
                f"{version.healthy}/{len(version.containers)}",
                styled(note, "dim"),
            )


def _problems(status: Status) -> Iterable[str | Text]:
    if not status.error and not status.engine.connected:
        yield f"  the Docker engine at {status.engine.endpoint} does not answer: nothing new is routed until it does"
    if status.host != "serving":
        yield f"  the host is to be left ({status.host}): `proxyctl host undrain` takes it back"
    if status.nginx and status.nginx.outdated:
        nginx = status.nginx
        keys = f" ({', '.join(nginx.differing)})" if nginx.differing else ""
        yield f"  {nginx.container} was made from other settings than today's{keys}: {nginx.renewal}"
    for route in status.routes:
        if route.state == "fail-open":
            yield f"  {route.place}: nothing is healthy, so what is alive serves all the same"
    for rejection in status.rejections:
        yield from rejection_lines(rejection)


def rejection_lines(rejection: Rejection) -> tuple[str | Text, ...]:
    where = "" if rejection.route == "default" else f" (route {rejection.route})"
    label = f" {rejection.label}" if rejection.label else ""
    return (
        line((f"  {rejection.container}{where}", "warn"), (f"{label}: {rejection.message}", "")),
        styled(f"    {rejection.hint}", "dim"),
    )
