"""Draft -> Tested: nginx itself has accepted it, in its own container, or everything in it before.

What was accepted is remembered by shape (see plan.vhosts), so a draft that differs in target addresses, ports and weights alone
costs nothing, and what a `create` event announced has been tested before its `start`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxyctl.model import FileSet
from proxyctl.publish.draft import Draft
from proxyctl.publish.nginx import Engine, NginxInstance

MOST_SHAPES = 200_000
"""Remembered shapes; past that, all are forgotten and tested again."""


class Refused(Exception):  # noqa: N818
    """nginx does not accept the draft. `reason` is its own words."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"nginx refuses the draft: {reason}")
        self.reason = reason


class _Seal:
    """Only this module makes one, so only this module makes a Tested."""


@dataclass(frozen=True, slots=True)
class Tested:
    draft: Draft
    seal: _Seal


class Tester:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._binary = ""
        self._accepted: set[str] = set()

    def knows(self, fileset: FileSet, nginx: NginxInstance) -> bool:
        """Whether nginx, this image of it, has accepted everything in it."""
        return nginx.image_id == self._binary and fileset.shapes <= self._accepted

    async def test(self, draft: Draft, nginx: NginxInstance) -> Tested:
        """Raises Refused."""
        if not self.knows(draft.fileset, nginx):
            path = f"{nginx.view.conf_dir}/drafts/{draft.fileset.digest}.conf"
            status, said = await self._engine.execute(nginx.id, ["nginx", "-e", "stderr", "-t", "-q", "-c", path])
            if status != 0:
                raise Refused(_reason(said))
            if nginx.image_id != self._binary or len(self._accepted) > MOST_SHAPES:
                self._accepted.clear()
            self._binary = nginx.image_id
            self._accepted |= draft.fileset.shapes
        return Tested(draft, _Seal())


def _reason(said: str) -> str:
    for line in said.splitlines():
        match = re.search(r"\[emerg\] (?:[0-9]+#[0-9]+: )?(.*)", line)
        if match:
            return match[1]
    return said.strip().splitlines()[-1] if said.strip() else "no reason given"
