"""`proxyctl doctor`: looks at everything that proxyctl stands on, and says what to do about what is wrong or costs something."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from proxyctl.cli.options import DONE, NEGATIVE, Command, Options, Stop, json_option
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
    findings = asyncio.run(_examine(options))
    failed = any(f.standing == "fail" for f in findings)
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode({"schema": 1, "ok": not failed, "checks": findings}))
    else:
        _show(findings)
    return NEGATIVE if failed else DONE


async def _examine(options: Options) -> list[Finding]:
    """With a configuration that cannot be read, what is wrong with it and what the controller says: the rest depends on it."""
    from proxyctl.cli import checkup

    try:
        config = options.config()
    except Stop as stop:
        said, _ = await checkup.controller(options.socket_path())
        if not said[1:]:
            raise
        return [checkup.Finding("fail", "configuration", str(stop), checkup.BROKEN), *said]
    return await checkup.examine(config, options.config_file, options.socket_path())


def _show(findings: Sequence[Finding]) -> None:
    table(("", "CHECK", "FOUND"), ((styled(f.standing, f.standing), f.what, f.found) for f in findings))
    todo = [f for f in findings if f.todo]
    if todo:
        say()
        say(styled("What to do", "bold"))
        for finding in todo:
            say(line((f"  {finding.what}: ", finding.standing), (finding.todo, "")))
