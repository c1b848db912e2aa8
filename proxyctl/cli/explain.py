"""`proxyctl explain`: which container answers a URL, why others do not, and what the owner of a rejected one has to write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from proxyctl.cli.asking import ask
from proxyctl.cli.options import DONE, NEGATIVE, Command, Options, json_option
from proxyctl.cli.output import say, styled, table
from proxyctl.cli.status import rejection_lines

if TYPE_CHECKING:
    from proxyctl.serve.explain import Explanation
    from proxyctl.serve.views import Target


IN_MAINTENANCE = "its service is in maintenance"


@click.command(cls=Command)
@click.argument("url", metavar="HOST[/PATH]")
@json_option
@click.pass_obj
def explain(options: Options, url: str, *, as_json: bool) -> int:
    """Tell who answers a URL, and why others do not.

    Exit status 1 when nobody does.
    """
    if as_json:
        body = ask(options, lambda client: client.raw("/api/v1/explain", {"url": url}))
        click.echo(body, nl=False)
        return DONE if b'"answer":"served"' in body else NEGATIVE
    found = ask(options, lambda client: client.explain(url))
    _show(found)
    return DONE if found.answer == "served" else NEGATIVE


def _share(target: Target) -> str:
    """Why a healthy one has no traffic, or a part of it."""
    if not target.version:
        return ""
    return f"version {target.version}" if target.serving else f"version {target.version} has no share of the traffic"


def _show(found: Explanation) -> None:
    from proxyctl.serve.explain import reason_of

    say(styled(found.summary, "bold" if found.answer == "served" else "bold red"))
    if found.nearest:
        say(f"Served here under a name like it: {', '.join(found.nearest)}")
    if found.answer == "unknown-path":
        say(f"Paths of {found.host}: {', '.join(found.paths)}")
    if found.route and found.route.targets:
        say()
        closed = found.route.state == "maintenance"
        rows = (
            (
                target.container,
                f"{target.address or '-'}:{target.port}",
                styled(target.state, target.state),
                "yes" if target.serving else "no",
                reason_of(target) or (IN_MAINTENANCE if closed else _share(target)),
            )
            for target in found.route.targets
        )
        table(("TARGET", "ADDRESS", "STATE", "SERVES", "WHY"), rows)
    if found.rejections:
        say()
        say(f"Asked for {found.host} and rejected:")
        for rejection in found.rejections:
            for text in rejection_lines(rejection):
                say(text)
