"""The command line."""

from __future__ import annotations
import asyncio
from pathlib import Path
import click
from proxyctl import config as configuration
from proxyctl.serve import log as logs


@click.group()
def main() -> None:
    """x"""


@main.command()
@click.option("--config", "file", type=click.Path(path_type=Path))
def run(file: Path | None) -> None:
    from proxyctl.app import App

    logs.configure()
    config = configuration.load(file)
    asyncio.run(App(config, file or configuration.DEFAULT_FILE).run())
