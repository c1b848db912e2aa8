"""An nginx that somebody else runs: found by name or label, never made or started, and asked what it reads beside our file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from proxyctl.model import EngineRefused, Neighbours
from proxyctl.publish import neighbours
from proxyctl.publish.nginx import Engine, Nginx, NginxInstance, NginxMissing, not_running
from proxyctl.publish.test import reason_of

LOOK_SHARE = 200
"""nginx prints its configuration again after so many times what that takes it, though nothing in the directory has changed: what
is elsewhere can be edited, too."""


@dataclass(frozen=True, slots=True)
class IncludingSpec:
    """How it is found, and what is shared with it."""

    name: str
    label: str
    """Set to `true`, it stands for the name."""
    directory: Path
    """What its nginx.conf includes, as this process sees it."""
    source: Path
    """The same, as its mounts name it."""
    home: str
    reference: str
    """The folder and the file that proxyctl has in there."""


class IncludingNginx(Nginx):
    def __init__(self, engine: Engine, spec: IncludingSpec) -> None:
        super().__init__(engine)
        self._spec = spec
        self._neighbours = Neighbours()
        self._read: tuple[object, ...] = ()
        """What it was read from, and whether nginx took it."""
        self._read_again = 0.0

    async def look(self) -> NginxInstance:
        raw = await self._find()
        name = str(raw["Name"]).lstrip("/")
        if raw["State"]["Status"] != "running":
            raise NginxMissing(not_running(raw, await self._last_words(str(raw["Id"]))))
        directory = self._appears(raw, name)
        await self._look_around(raw, directory)
        return await self._describe(raw, (f"{directory}/{self._spec.home}", "/", "/"), self._neighbours)

    async def _find(self) -> Mapping[str, Any]:
        """By its name, else by the label."""
        raw = await self._engine.inspect_raw(self._spec.name)
        if raw is not None:
            return raw
        label = self._spec.label
        marked = [c for c in await self._engine.list_containers() if c.labels.get(label) == "true" and c.state == "running"]
        if len(marked) > 1:
            names = ", ".join(sorted(c.name for c in marked))
            raise NginxMissing(f"several containers have the label {label}=true ({names}): set nginx.container to one of them")
        found = await self._engine.inspect_raw(marked[0].id) if marked else None
        if found is None:
            todo = f"start it, set nginx.container, or give it the label {label}=true"
            raise NginxMissing(f"there is no container {self._spec.name}: {todo}")
        return found

    def _appears(self, raw: Mapping[str, Any], name: str) -> str:
        """Where `nginx.dir` is in the container."""
        mounts = {str(m.get("Source", "")): str(m.get("Destination", "")) for m in raw.get("Mounts") or []}
        path = self._spec.source
        for outer in (path, *path.parents):
            if str(outer) in mounts:
                return str(Path(mounts[str(outer)]) / path.relative_to(outer))
        todo = f"mount it there, like -v {path}:/etc/nginx/sites-enabled:ro"
        raise NginxMissing(f"the container {name} does not mount {path} (nginx.dir): {todo}")

    async def _look_around(self, raw: Mapping[str, Any], directory: str) -> None:
        """Reads what lies beside our file, when it has changed or may have."""
        source = (raw["Id"], raw["State"].get("StartedAt"), directory, self._listing())
        if self._read == source and time.monotonic() < self._read_again:
            return
        began = time.monotonic()
        status, said = await self._engine.execute(str(raw["Id"]), ["nginx", "-e", "stderr", "-T", "-q", *_file_option(raw)])
        if status != 0 and "nginx:" not in said:
            raise EngineRefused(500, f"nginx -T could not be run (exit status {status}): {reason_of(said)}")
        if status != 0:
            told = f"{reason_of(said)}: that is not proxyctl's, and nothing new is published until it is mended"
            self._neighbours, self._read = replace(self._neighbours, refused=told), ()
            return
        try:
            self._neighbours = neighbours.read(said, str(raw["Config"].get("WorkingDir") or "/"), directory, self._spec.reference)
        except neighbours.NotIncluded as error:
            raise NginxMissing(str(error)) from error
        self._read, self._read_again = source, time.monotonic() + LOOK_SHARE * (time.monotonic() - began)

    def _listing(self) -> tuple[object, ...]:
        """Changes with the files of others in the directory."""
        found: list[object] = []
        for path in sorted(self._spec.directory.iterdir()):
            if not path.name.startswith(".") and path.name != self._spec.reference:
                with suppress(OSError):  # gone meanwhile, or a link that leads nowhere on this side
                    found.append((path.name, path.lstat().st_ino))
                    stat = path.stat()
                    found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
        return tuple(found)


def _file_option(raw: Mapping[str, Any]) -> list[str]:
    """As the container's own command has it."""
    words = list(raw.get("Args") or [])
    return words[words.index("-c") :][:2] if "-c" in words else []
