"""`proxyctl doctor`: looks at everything that proxyctl stands on, and says what to do about what is wrong or costs something."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from proxyctl.cli.options import DONE, NEGATIVE, Command, Options, json_option
from proxyctl.cli.output import line, say, styled, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxyctl.cli.checkup import Finding


@click.command(cls=Command)
@json_option
@click.pass_obj
def doctor(options: Options, *, as_json: bool) -> int:
    """Check everything that proxyctl stands on.

    The engine, nginx, directories, ports, the controller. Exit status 1 when something fails.
    """
    from proxyctl.cli import checkup

    findings = asyncio.run(checkup.examine(options.config(), options.config_file, options.socket_path()))
    failed = any(f.standing == "fail" for f in findings)
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode({"schema": 1, "ok": not failed, "checks": findings}))
    else:
        _show(findings)
    return NEGATIVE if failed else DONE


def _show(findings: Sequence[Finding]) -> None:
    table(("", "CHECK", "FOUND"), ((styled(f.standing, f.standing), f.what, f.found) for f in findings))
    todo = [f for f in findings if f.todo]
    if todo:
        say()
        say(styled("What to do", "bold"))
        for finding in todo:
            say(line((f"  {finding.what}: ", finding.standing), (finding.todo, "")))
