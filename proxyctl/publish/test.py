"""Draft -> Tested: nginx itself has accepted it, in its own container, or everything in it before.

What was accepted is remembered by form (see fileset.ConfigPart), so a draft that differs in names, target addresses, ports and
weights alone costs nothing, and what a `create` event announced has been tested before its `start`. Of one that has new forms,
nginx sees one host of each, with the frame and everything hand-written: what the shipped templates make of one host cannot clash
with another's.
"""

from __future__ import annotations

import math
import re
import signal
import time
from dataclasses import dataclass

from proxyctl.fileset import ConfigPart, FileSet
from proxyctl.model import EngineRefused
from proxyctl.publish.draft import Draft
from proxyctl.publish.nginx import Engine, NginxInstance

MOST_FORMS = 200_000
"""Remembered forms; past that, all are forgotten and tested again."""
CRASHED = frozenset({128 + number for number in (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV)})


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
        self._forms: dict[str, set[str]] = {}
        """By frame: what is accepted within one may be refused within another."""
        self._files: dict[str, set[str]] = {}
        """Names of objects whose forms are all accepted: most objects of a draft are those of the one before."""
        self._doubted = False
        self._longest, self._shortest = 0.0, math.inf
        """Seconds of the longest test, all its parts together, and of the shortest part."""

    @property
    def parsing(self) -> float:
        """Seconds that nginx has needed for a test, less what the engine needs for any: of what is hand-written and few hosts."""
        return max(0.0, self._longest - self._shortest)

    def doubt(self) -> None:
        """What counted as accepted was refused by a reload: nothing does any more, and drafts are shown in whole."""
        self._forms, self._files, self._doubted = {}, {}, True

    def trust(self) -> None:
        """Until nginx has accepted one."""
        self._doubted = False

    def untested(self, fileset: FileSet, nginx: NginxInstance) -> frozenset[str] | None:
        """The objects to show to nginx, this image of it, before it has accepted all; None when it has to see all at once."""
        if nginx.image_id != self._binary:
            self._binary = nginx.image_id
            self._forms, self._files = {}, {}
        if self._doubted:
            return None
        accepted, files = self._forms.get(fileset.frame_form), self._files.setdefault(fileset.frame_form, set())
        shown, forms = set[str](), set[str]()
        for name, file in fileset.objects.items():
            if name in files:
                continue
            if accepted and all(_is_in(accepted, part) for part in file.parts):
                files.add(name)
            elif not all(_is_in(accepted or forms, part) or _is_in(forms, part) for part in file.parts):
                shown.add(name)
                forms.update(part.forms[0] for part in file.parts if part.forms)
        if accepted is None:
            shown.add(fileset.sample)
        return frozenset(shown) if not shown or fileset.separable else None

    async def show(self, draft: Draft, nginx: NginxInstance) -> float:
        """Lets nginx test what the draft shows of its file set; returns the seconds that it took. Raises Refused; EngineRefused
        when it could not be asked."""
        fileset = draft.fileset
        path = f"{nginx.view.conf_dir}/drafts/{fileset.draft}.conf"
        began = time.monotonic()
        status, said = await self._engine.execute(nginx.id, ["nginx", "-e", "stderr", "-t", "-q", "-c", path])
        if status in CRASHED:
            raise Refused(f"nginx crashes on it (exit status {status})")
        if status != 0 and (status != 1 or "nginx:" not in said):
            raise EngineRefused(500, f"nginx -t could not be run (exit status {status}): {reason_of(said)}")
        if status != 0:
            raise Refused(reason_of(said))
        took = time.monotonic() - began
        self._shortest = min(self._shortest, took)
        if sum(map(len, self._forms.values())) >= MOST_FORMS:
            self._forms, self._files = {}, {}
        shown = fileset.objects.keys() if draft.untested is None else draft.untested
        forms = {part.forms[0] for name in shown for part in fileset.objects[name].parts if part.forms}
        self._forms.setdefault(fileset.frame_form, set()).update(forms)
        return took

    async def test(self, draft: Draft, nginx: NginxInstance, taken: float = 0.0) -> Tested:
        """Shows it to nginx, unless all of its file set is accepted already. `taken`: seconds that its other parts needed. Raises
        what `show` raises, and ValueError when it leaves out something that nginx has not accepted."""
        untested = self.untested(draft.fileset, nginx)
        if draft.untested is not None and (untested is None or not untested <= draft.untested):
            raise ValueError("the draft leaves out what nginx has not accepted")
        if untested is None or untested:
            self._longest = max(self._longest, taken + await self.show(draft, nginx))
        return Tested(draft, _Seal())


def _is_in(forms: set[str], part: ConfigPart) -> bool:
    return not part.forms or not forms.isdisjoint(part.forms)


def reason_of(said: str) -> str:
    for line in said.splitlines():
        match = re.search(r"\[emerg\] (?:[0-9]+#[0-9]+: )?(.*)", line)
        if match:
            return match[1]
    return said.strip().splitlines()[-1] if said.strip() else "no reason given"
