"""Runs a question to the controller and turns its failures into words and exit statuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from proxyctl.cli.options import NEGATIVE, TIMED_OUT, UNREACHABLE, USAGE, Options, Stop

if TYPE_CHECKING:
    from proxyctl.cli.client import Client

T = TypeVar("T")


def ask(options: Options, question: Callable[[Client], Awaitable[T]]) -> T:
    """Raises Stop: 3 when no controller answers, 4 when it takes too long, 2 when it does not take the question, 1 when
    what was asked for is not possible now."""
    from proxyctl.cli import client

    async def run() -> T:
        async with client.connect(options.socket_path()) as connected:
            return await question(connected)

    try:
        return asyncio.run(run())
    except client.Unreachable as error:
        raise (Stop(options.broken, USAGE) if options.broken else Stop(str(error), UNREACHABLE)) from error
    except client.TimedOut as error:
        raise Stop(str(error), TIMED_OUT) from error
    except client.Declined as error:
        raise Stop(str(error), NEGATIVE) from error
    except client.Refused as error:
        raise Stop(str(error), USAGE) from error
