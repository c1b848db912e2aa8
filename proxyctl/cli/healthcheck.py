"""`proxyctl healthcheck`, for Docker's HEALTHCHECK: 0 when the loop is alive, else 1.

It runs every few seconds for ever, so it speaks HTTP with the standard library instead of loading an HTTP client.
"""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

import click

from proxyctl.cli.options import DONE, NEGATIVE, Command, Options

TIMEOUT = 4.0


class _OverUnix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(str(self._path))


@click.command(cls=Command, hidden=True)
@click.pass_obj
def healthcheck(options: Options) -> int:
    """Exit 0 when the controller's loop is alive, else 1."""
    path = options.socket_path()
    connection = _OverUnix(path)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        click.echo(answer.read().decode("utf-8", "replace").strip())
    except (OSError, http.client.HTTPException) as error:
        click.echo(f"no controller answers at {path}: {error}")
        return NEGATIVE
    finally:
        connection.close()
    return DONE if answer.status == 200 else NEGATIVE
