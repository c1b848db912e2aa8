"""Bodies of the requests that change something, strictly: a field that nobody knows is an error. And the answer to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from proxyctl.serve.views import SCHEMA
from proxyctl.values import MAX_HOST, MAX_NAME, MAX_NOTICE
from proxyctl.versions import Verb

MAX_WHY = 500
"""Characters of a reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The answer to a change: what will happen."""

    schema: int = SCHEMA
    outlook: str


class NoWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a change takes that takes nothing."""


class DrainWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What POST /api/v1/host/drain takes."""

    notice: Annotated[float, msgspec.Meta(ge=0, le=MAX_NOTICE)] = 15.0
    """Seconds for which everything is served on while the health address says 503."""


class RolloutWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What POST /api/v1/rollout takes: a word about the versions of a service."""

    service: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
    verb: Verb
    value: Annotated[int, msgspec.Meta(ge=0, le=99)] = 0
    """Of `weight`: percent for the new version; of `maintenance`: 1 is on."""
    why: Annotated[str, msgspec.Meta(max_length=MAX_WHY)] = ""
    to: Annotated[str, msgspec.Meta(max_length=MAX_NAME)] | None = None
    """Of `rollback`: the version that gets the traffic; empty for the containers without one."""


class ReleaseWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What POST /api/v1/release takes."""

    host: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_HOST)]
    why: Annotated[str, msgspec.Meta(max_length=MAX_WHY)] = ""


class FreezeWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What POST /api/v1/freeze and unfreeze take."""

    why: Annotated[str, msgspec.Meta(max_length=MAX_WHY)] = ""
