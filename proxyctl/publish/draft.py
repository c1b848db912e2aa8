"""FileSet -> files on the state partition, under the one directory that nginx mounts.

    objects/DIGEST.conf       server and upstream blocks; the name is the digest of the content, so it is never rewritten
    manifests/DIGEST.conf     the includes of one configuration
    mains/DIGEST.conf         its nginx.conf
    drafts/DIGEST.conf        the same for `nginx -t`
    drafts/DIGEST.list.conf   what that includes: everything, or what nginx has not accepted yet
    nginx.conf              the one reference: a symlink to a main (promote.py moves it)

A file appears under its name whole or not at all: temporary file, fsync, rename, fsync of the directory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from proxyctl.files import sync_directory, write_whole
from proxyctl.model import FileSet

FOLDERS = ("objects", "manifests", "mains", "drafts")
WRITERS = 16


@dataclass(frozen=True, slots=True)
class Draft:
    """Written, referenced by nothing. `untested`: the objects that `nginx -t` sees; None: everything."""

    fileset: FileSet
    untested: frozenset[str] | None = None


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

    async def write(self, fileset: FileSet, untested: frozenset[str] | None = None) -> Draft:
        """Raises OSError when the partition does not take it; nothing that is live is touched."""
        objects = {f"objects/{name}": file for name, file in fileset.objects.items()}
        missing = {name: file.text for name, file in objects.items() if name not in self._present}
        texts = {
            f"manifests/{fileset.digest}.conf": fileset.manifest,
            f"mains/{fileset.digest}.conf": fileset.main,
            f"drafts/{fileset.digest}.conf": fileset.draft_main,
        }
        missing |= {name: text for name, text in texts.items() if name not in self._present}
        if untested is None or untested:
            missing[f"drafts/{fileset.digest}.list.conf"] = listing(fileset, untested)
        if missing:
            await asyncio.to_thread(self._write_all, missing)
            self._present |= missing.keys()
        return Draft(fileset, untested)

    def _write_all(self, files: dict[str, str]) -> None:
        """Several at a time: an fsync takes the disk milliseconds, and a few of them together hardly more."""
        with ThreadPoolExecutor(WRITERS) as writers:
            list(writers.map(lambda item: write_whole(self._directory / item[0], item[1]), files.items()))
        for folder in {name.partition("/")[0] for name in files}:
            sync_directory(self._directory / folder)

    async def collect(self, keep: Iterable[FileSet]) -> int:
        """Removes every file that none of `keep` names; returns how many."""
        needed: set[str] = set()
        for fileset in keep:
            needed |= {f"objects/{name}" for name in fileset.objects}
            needed |= {f"{folder}/{fileset.digest}.conf" for folder in FOLDERS[1:]}
            needed.add(f"drafts/{fileset.digest}.list.conf")
        stale = self._present - needed
        if stale:
            await asyncio.to_thread(self._remove, stale)
            self._present -= stale
        return len(stale)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self._directory / name).unlink(missing_ok=True)


def listing(fileset: FileSet, untested: frozenset[str] | None) -> str:
    """What a draft includes. The frame is in it always: an object must go with it."""
    if untested is None:
        manifest = fileset.objects_dir.removesuffix("objects") + f"manifests/{fileset.digest}.conf"
        return f"include {manifest};\ninclude {fileset.objects_dir}/{fileset.sample};\n"
    return fileset.frame + "".join(f"include {fileset.objects_dir}/{name};\n" for name in sorted(untested | {fileset.sample}))
