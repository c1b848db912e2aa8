"""`proxyctl check`: what would be refused, before it is: settings, templates, and labels of an engine or a compose file."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from proxyctl.cli.options import DONE, NEGATIVE, UNREACHABLE, USAGE, Command, Options, Stop, json_option
from proxyctl.cli.output import clean, say, styled
from proxyctl.cli.status import rejection_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxyctl.model import Rejection


@click.command(cls=Command)
@click.argument("file", required=False, type=click.Path(path_type=Path, allow_dash=True))
@json_option
@click.pass_obj
def check(options: Options, file: Path | None, *, as_json: bool) -> int:
    """Tell what would be rejected.

    Checks the configuration, the templates and the labels of all containers; or those of a compose FILE, before anything runs.
    Exit status 1 when something would be rejected, 3 when the labels cannot be read since no engine answers.
    """
    notes: list[str] = []
    rejections, what, status = (*_compose(options, file, notes), DONE) if file else _engine(options, notes)
    status = NEGATIVE if rejections else status
    if as_json:
        import msgspec

        answer = {"schema": 1, "ok": not status, "checked": what, "rejections": rejections, "notes": notes}
        click.echo(msgspec.json.encode(answer))
        return status
    for note in notes:
        click.echo(f"proxyctl: {clean(note)}", err=True)
    for rejection in rejections:
        for text in rejection_lines(rejection):
            say(text)
    say(styled(f"{what}: {_count(rejections)}", "fail" if status else "ok"))
    return status


def _count(rejections: Sequence[Rejection]) -> str:
    return f"{len(rejections)} rejected" if rejections else "nothing would be rejected"


def _engine(options: Options, notes: list[str]) -> tuple[tuple[Rejection, ...], str, int]:
    """With the exit status when nothing is rejected. Raises Stop for configuration and templates."""
    from proxyctl.app import App
    from proxyctl.cli import offline
    from proxyctl.model import Neighbours
    from proxyctl.publish import by_hand

    app = App(options.config(), options.config_file)
    policy = offline.read_policy(app, offline.NO_TOKEN)
    app.engine.close()
    refused = asyncio.run(offline.not_taken(options))
    counted = {f"{each.container}: {each.message}" for each in refused}

    def note(text: str) -> None:
        if "counts as healthy" not in text and text not in counted:
            notes.append(text)

    try:
        plan = offline.draw(options, note).plan
    except Stop as stop:
        if stop.status != UNREACHABLE:
            raise
        notes.append(f"{stop}")
        return refused, "configuration and templates, without the labels, which could not be read", UNREACHABLE
    ignored = by_hand.rejections(policy.operator_files, plan.table, Neighbours())
    return (*plan.rejections, *refused, *ignored), "configuration, templates and labels", DONE


def _compose(options: Options, file: Path, notes: list[str]) -> tuple[tuple[Rejection, ...], str]:
    """Raises Stop."""
    from proxyctl.app import claim_rules, label_defaults, own_ports
    from proxyctl.cli import compose

    config = options.config()
    defaults = label_defaults(config)
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Stop(f"{file}: {getattr(error, 'strerror', None) or error}", USAGE) from error
    folder = Path.cwd() if str(file) == "-" else file.absolute().parent
    project = folder.name or "compose"
    try:
        verdict = compose.check(text, str(file), project, defaults, claim_rules(config), own_ports(config))
    except compose.NotCompose as error:
        raise Stop(str(error), USAGE) from error
    if not verdict.services:
        notes.append(f"no service in it has a label that starts with {defaults.prefix}.")
    notes.extend(verdict.notes)
    shown = "standard input" if str(file) == "-" else file
    return verdict.rejections, f"{shown}, {verdict.services} service{'' if verdict.services == 1 else 's'} with labels"
