"""Standing and the latest cycles -> the HTML page. Autoescaped: container names, labels and errors are foreign text."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from jinja2 import Environment, StrictUndefined, Template

from proxyctl.serve import views
from proxyctl.serve.history import Cycle
from proxyctl.serve.standing import Standing
from proxyctl.versions import Order

TEMPLATE = "dashboard.html.j2"
REFRESH = 5
"""Seconds between reloads of the page by the browser."""


class Page:
    """`source` gives the template's text; it is compiled again when that changes."""

    def __init__(self, source: Callable[[], str]) -> None:
        self._source = source
        self._text = ""
        self._template: Template | None = None
        self._environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)

    def render(self, standing: Standing, cycles: tuple[Cycle, ...], nonce: str, now: float) -> str:
        """Raises jinja2.TemplateError, or OSError when the template cannot be read."""
        text = self._source()
        if self._template is None or text != self._text:
            self._template, self._text = self._environment.from_string(text), text
        return self._template.render(
            status=views.status(standing),
            services=views.services(standing).services,
            cycles=cycles,
            prefix=standing.place.label_prefix,
            nonce=nonce,
            refresh=REFRESH,
            clock=_clock,
            ordered=lambda order: ordered(order, _clock),
            ago=lambda unix: ago(now - unix),
        )


def ordered(order: Order | None, clock: Callable[[float], str]) -> str:
    """Since when, by whom and why, for the end of a sentence."""
    return f" since {clock(order.since_unix)}{order.signature}" if order else ""


def _clock(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S")


def ago(seconds: float) -> str:
    """In the largest unit that fits: `12 s`, `5 min`, `3 h`, `2 d`."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"
