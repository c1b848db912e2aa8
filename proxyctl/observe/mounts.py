"""A path of this process -> the same file as the Docker host names it.

On the host they are equal. In a container the container's own mounts tell: a bind by its source, a volume by where the engine
keeps it. The container finds its own id in the mounts that Docker makes for it (/etc/hostname and its like).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

_OWN_MOUNT = re.compile(r"^\S+ \S+ \S+ \S*/containers/([0-9a-f]{64})/\S+ /etc/(?:hostname|hosts|resolv\.conf) ", re.MULTILINE)


class Engine(Protocol):
    async def inspect_raw(self, container: str) -> Mapping[str, Any] | None: ...


class NotMounted(Exception):  # noqa: N818
    """A directory that nginx must share lies inside the controller's own container."""


def own_container_id(mountinfo: Path = Path("/proc/self/mountinfo")) -> str:
    """The id of the container that this process runs in; empty on a host."""
    try:
        match = _OWN_MOUNT.search(mountinfo.read_text(encoding="utf-8"))
    except OSError:
        return ""
    return match[1] if match else ""


async def host_path(engine: Engine, path: Path) -> Path:
    """Raises NotMounted, or EngineUnavailable when the engine must be asked and does not answer."""
    own = own_container_id()
    raw = await engine.inspect_raw(own) if own else None
    if raw is None:
        return path
    return translate(path, {Path(m["Destination"]): Path(m["Source"]) for m in raw.get("Mounts") or []})


def translate(path: Path, mounts: Mapping[Path, Path]) -> Path:
    """`mounts`: where each appears in the container -> its source on the host."""
    for inside in (path, *path.parents):
        if inside in mounts:
            return mounts[inside] / path.relative_to(inside)
    raise NotMounted(f"{path} is not on a volume: mount one there, so that nginx can be given the same")
