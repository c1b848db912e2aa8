"""FileSet -> files on the state partition, under the one directory that nginx mounts.

    objects/DIGEST.conf     one server or upstream block; the name is the digest of the content, so it is never rewritten
    manifests/DIGEST.conf   the includes of one configuration
    mains/DIGEST.conf       its nginx.conf
    drafts/DIGEST.conf      the same for `nginx -t`
    nginx.conf              the one reference: a symlink to a main (promote.py moves it)

A file appears under its name whole or not at all: temporary file, fsync, rename, fsync of the directory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from proxyctl.files import sync_directory, write_whole
from proxyctl.model import FileSet

FOLDERS = ("objects", "manifests", "mains", "drafts")


@dataclass(frozen=True, slots=True)
class Draft:
    """Written, referenced by nothing."""

    fileset: FileSet


class Drafts:
    """Writes drafts into `nginx.dir` and collects what no longer matters."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._present: set[str] = set()

    def prepare(self) -> None:
        """Makes the folders and learns which files are there already."""
        for folder in FOLDERS:
            (self._directory / folder).mkdir(mode=0o755, parents=True, exist_ok=True)
        self._present = {f"{folder}/{path.name}" for folder in FOLDERS for path in (self._directory / folder).iterdir()}

    async def write(self, fileset: FileSet) -> Draft:
        """Raises OSError when the partition does not take it; nothing that is live is touched."""
        wanted = {
            **{f"objects/{name}": text for name, text in fileset.objects.items()},
            f"manifests/{fileset.digest}.conf": fileset.manifest,
            f"mains/{fileset.digest}.conf": fileset.main,
            f"drafts/{fileset.digest}.conf": fileset.draft_main,
        }
        missing = {name: text for name, text in wanted.items() if name not in self._present}
        if missing:
            await asyncio.to_thread(self._write_all, missing)
            self._present |= missing.keys()
        return Draft(fileset)

    def _write_all(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            write_whole(self._directory / name, text)
        for folder in {name.partition("/")[0] for name in files}:
            sync_directory(self._directory / folder)

    async def collect(self, keep: Iterable[FileSet]) -> int:
        """Removes every file that none of `keep` names; returns how many."""
        needed: set[str] = set()
        for fileset in keep:
            needed |= {f"objects/{name}" for name in fileset.objects}
            needed |= {f"{folder}/{fileset.digest}.conf" for folder in FOLDERS[1:]}
        stale = self._present - needed
        if stale:
            await asyncio.to_thread(self._remove, stale)
            self._present -= stale
        return len(stale)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self._directory / name).unlink(missing_ok=True)
