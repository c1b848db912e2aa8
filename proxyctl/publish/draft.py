"""FileSet -> files on the state partition, under the one directory that nginx mounts.

    objects/DIGEST.conf       server and upstream blocks; the name is the digest of the content, so it is never rewritten
    manifests/DIGEST.conf     the includes of one configuration
    mains/DIGEST.conf         its nginx.conf
    drafts/DIGEST.conf        the same for `nginx -t`, between what is around it in an nginx.conf of somebody else
    drafts/DIGEST.list.conf   what that includes: everything, or what nginx has not accepted yet
    alive/UPSTREAM            empty: this upstream has a target; see server.conf.j2
    alive/UPSTREAM.ADDRESS    empty: and this is one

The one reference, a symlink to a main, is promote.py's: it lies in that directory, or in the one that somebody else's nginx
includes, and then all this is in a folder there that the include does not match.
A file appears under its name whole or not at all: temporary file, fsync, rename, fsync of the directory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from proxyctl.files import sync_directory, write_whole
from proxyctl.fileset import ConfigFile, FileSet

FOLDERS = ("objects", "manifests", "mains", "drafts")
ALIVE = "alive"
WRITERS = 16


@dataclass(frozen=True, slots=True)
class Draft:
    """Written, referenced by nothing. `untested`: the objects that `nginx -t` sees; None: everything."""

    fileset: FileSet
    untested: frozenset[str] | None = None


Seen = tuple[int, int, int]
"""Inode, size and time of a file as it was when its content was known to be right."""


class Drafts:
    """Writes drafts into `nginx.dir` and collects what no longer matters. Believes no file that has changed since it wrote or
    read it: others can reach the partition too, and a power cut leaves names without content."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._present: dict[str, Seen | None] = {}
        self._alive: frozenset[str] = frozenset()

    def prepare(self) -> None:
        """Makes the folders and learns which files are there already."""
        for folder in FOLDERS:
            (self._directory / folder).mkdir(mode=0o755, parents=True, exist_ok=True)
        self._present = {f"{folder}/{path.name}": None for folder in FOLDERS for path in (self._directory / folder).iterdir()}
        self._alive = self._alive_on_disk()

    async def mark_alive(self, names: frozenset[str]) -> None:
        """Makes the files of `alive` those with these names. They need not be durable: the next start writes them again."""
        if names != self._alive:
            await asyncio.to_thread(self._mark_alive, names)
            self._alive = names

    def _alive_on_disk(self) -> frozenset[str]:
        folder = self._directory / ALIVE
        folder.mkdir(mode=0o755, exist_ok=True)
        return frozenset(path.name for path in folder.iterdir())

    def _mark_alive(self, names: frozenset[str]) -> None:
        folder = self._directory / ALIVE
        folder.mkdir(mode=0o755, exist_ok=True)
        for name in names - self._alive:
            (folder / name).touch(mode=0o644)
        for name in self._alive - names:
            (folder / name).unlink(missing_ok=True)

    async def write(self, fileset: FileSet, untested: frozenset[str] | None = None) -> Draft:
        """Raises OSError when the partition does not take it; nothing that is live is touched."""
        missing = await asyncio.to_thread(self._missing, fileset)
        if untested is None or untested:
            missing[f"drafts/{fileset.draft}.list.conf"] = listing(fileset, untested)
            await asyncio.to_thread(self._link, fileset.draft_links)
        if missing:
            await asyncio.to_thread(self._write_all, missing)
        return Draft(fileset, untested)

    async def mend(self, fileset: FileSet) -> tuple[str, ...]:
        """Writes again what somebody has removed or changed of these files; returns their names."""
        missing = await asyncio.to_thread(self._missing, fileset)
        if missing:
            await asyncio.to_thread(self._write_all, missing)
        alive, self._alive = self._alive, await asyncio.to_thread(self._alive_on_disk)
        await self.mark_alive(alive)
        return tuple(sorted(missing))

    async def damaged(self, fileset: FileSet) -> bool:
        """Whether `mend` has something to do."""
        return bool(await asyncio.to_thread(self._missing, fileset))

    def _missing(self, fileset: FileSet) -> dict[str, str]:
        """What has to be written: name -> content."""
        files = {f"objects/{name}": file for name, file in fileset.objects.items()}
        texts = {
            f"manifests/{fileset.digest}.conf": fileset.manifest,
            f"mains/{fileset.digest}.conf": fileset.main,
            f"drafts/{fileset.draft}.conf": fileset.draft_main,
        }
        missing = {name: file.text for name, file in files.items() if not self._is_right(name, file)}
        return missing | {name: text for name, text in texts.items() if not self._is_right(name, text)}

    def _is_right(self, name: str, content: str | ConfigFile) -> bool:
        if name not in self._present:
            return False
        path = self._directory / name
        try:
            seen = _seen(path)
            if seen != self._present[name]:
                if path.read_text(encoding="utf-8", errors="replace") != (content if isinstance(content, str) else content.text):
                    return False
                self._present[name] = seen
        except FileNotFoundError:
            return False
        return True

    def _link(self, links: Mapping[str, str]) -> None:
        """Nothing that is published needs them, so they need not be durable."""
        for name, target in links.items():
            path = self._directory / "drafts" / name
            if not path.is_symlink() or path.readlink() != Path(target):
                path.unlink(missing_ok=True)
                path.symlink_to(target)
            self._present[f"drafts/{name}"] = None

    def _write_all(self, files: dict[str, str]) -> None:
        """Several at a time: an fsync takes the disk milliseconds, and a few of them together hardly more."""
        for folder in {name.partition("/")[0] for name in files}:
            (self._directory / folder).mkdir(mode=0o755, exist_ok=True)
        with ThreadPoolExecutor(WRITERS) as writers:
            list(writers.map(lambda item: write_whole(self._directory / item[0], item[1]), files.items()))
        for folder in {name.partition("/")[0] for name in files}:
            sync_directory(self._directory / folder)
        self._present |= {name: _seen(self._directory / name) for name in files}

    async def collect(self, keep: Iterable[FileSet]) -> int:
        """Removes every file that none of `keep` names; returns how many."""
        needed: set[str] = set()
        for fileset in keep:
            needed |= {f"objects/{name}" for name in fileset.objects}
            needed |= {f"manifests/{fileset.digest}.conf", f"mains/{fileset.digest}.conf"}
            needed |= {f"drafts/{name}" for name in (f"{fileset.draft}.conf", f"{fileset.draft}.list.conf", *fileset.draft_links)}
        stale = self._present.keys() - needed
        if stale:
            await asyncio.to_thread(self._remove, stale)
            for name in stale:
                del self._present[name]
        return len(stale)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self._directory / name).unlink(missing_ok=True)


def _seen(path: Path) -> Seen:
    stat = path.stat()
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns)


def listing(fileset: FileSet, untested: frozenset[str] | None) -> str:
    """What a draft includes. The frame is in it always: an object must go with it."""
    if untested is None:
        manifest = fileset.objects_dir.removesuffix("objects") + f"manifests/{fileset.digest}.conf"
        return f"include {manifest};\ninclude {fileset.objects_dir}/{fileset.sample};\n"
    shown = untested | {fileset.sample}  # in the manifest's order: what is hand-written may refer to what comes before
    return fileset.frame + "".join(f"include {fileset.objects_dir}/{name};\n" for name in fileset.objects if name in shown)
