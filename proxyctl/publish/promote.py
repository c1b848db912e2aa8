"""Tested -> Published: one atomic rename moves the reference, back as well as forth."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from proxyctl.files import sync_directory
from proxyctl.publish.draft import Draft
from proxyctl.publish.test import Tested

BOOT_MARK = "live"


@dataclass(frozen=True, slots=True)
class Published:
    """What nginx reads at its next start or signal. `previous` is what to go back to; empty when there is nothing."""

    digest: str
    previous: str


class Reference:
    """Owns the one file that nginx reads, and the mark that this boot has published (a symlink in the directory that a boot
    clears). `optional`: nginx does without that file, so where there was nothing before, nothing is what can be put back."""

    def __init__(self, path: Path, home: Path, boot_directory: Path, conf_dir_inside: str, *, optional: bool = False) -> None:
        self._path = path
        self._home = home
        self._mains = home.relative_to(path.parent) / "mains"
        self._optional = optional
        self._mark = boot_directory / BOOT_MARK
        self._conf_dir_inside = conf_dir_inside
        self._run: object = None
        self._mounted: tuple[int, int] | None = None
        """Which directory was there when this run of nginx was first seen."""

    def current(self) -> str:
        """The digest that is published; empty when there is none, or what is there is not ours."""
        try:
            target = self._path.readlink()
        except OSError:
            return ""
        return target.stem if target == self._mains / target.name and self._has(target.stem) else ""

    def _has(self, digest: str) -> bool:
        return bool(digest) and (self._home / "mains" / f"{digest}.conf").is_file()

    def is_marked(self) -> bool:
        """Whether something was published in this boot."""
        try:
            return self._mark.readlink() == Path(self._conf_dir_inside)
        except OSError:
            return False

    def is_replaced(self, run: object) -> bool:
        """Whether the directory that a boot clears is another one than `run`, a run of nginx, has mounted: a mark in it would not
        be seen. Asked in every cycle, so that it is known what was there when the run began."""
        try:
            stat = self._mark.parent.stat()
            there = (stat.st_dev, stat.st_ino)
        except OSError:
            there = None
        if run != self._run:
            self._run, self._mounted = run, there
        return there != self._mounted

    async def promote(self, tested: Tested, good: str = "") -> Published:
        """`good`: the digest that was proved last, which is what to go back to. What the reference names may be more than that:
        published, and then the proof was interrupted. Raises OSError, and then the reference is where it was."""
        previous = good if self._has(good) else self.current()
        await asyncio.to_thread(self._move, tested.draft.fileset.digest)
        return Published(tested.draft.fileset.digest, previous)

    def can_restore(self, published: Published) -> bool:
        return published.previous != published.digest and (bool(published.previous) or self._optional)

    async def restore(self, published: Published) -> Published:
        """Puts back what was published before; it was Live once, so it needs no test."""
        await asyncio.to_thread(self._move, published.previous)
        return Published(published.previous, published.digest)

    def bootstrap(self, draft: Draft) -> None:
        """The first configuration on an empty partition: no site in it, and no nginx yet that could test it."""
        self._point(draft.fileset.digest)

    def _point(self, digest: str) -> None:
        if digest:
            self._link(self._path, self._mains / f"{digest}.conf")
        else:
            self._path.unlink(missing_ok=True)
            sync_directory(self._path.parent)

    def _move(self, digest: str) -> None:
        before = self.current()
        try:
            self._point(digest)
            if not self.is_marked():
                self._link(self._mark, Path(self._conf_dir_inside))
        except OSError:
            if before and self.current() != before:
                self._point(before)
            raise

    @staticmethod
    def _link(path: Path, target: Path) -> None:
        temporary = path.with_name(f".{path.name}.new")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(path)
        sync_directory(path.parent)
