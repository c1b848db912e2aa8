"""One container with labels, and what is read from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxyctl.model import Rejection, RouteSpec
from proxyctl.plan import labels
from tests.unit import make


def parse(said: Mapping[str, str], /, **container: Any) -> labels.Parsed:
    return labels.parse(make.container("web-1", said, **container), make.defaults())


def only_route(said: Mapping[str, str], /, **container: Any) -> RouteSpec:
    found = parse(said, **container)
    assert found.rejections == ()
    assert found.spec is not None
    (route,) = found.spec.routes
    return route


def only_rejection(said: Mapping[str, str], /, **container: Any) -> Rejection:
    (rejection,) = parse(said, **container).rejections
    return rejection
