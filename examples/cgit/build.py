"""Makes images from Debian packages and a few files: `build.py NAME VERSION... --output ARCHIVE`, for `docker load`.

The same packages, files and SOURCE_DATE_EPOCH give the same bytes, and so the same image ID and the same digest in a registry.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "1767225600"))
"""2026-01-01: no file in an image is younger."""
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")
SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d/debian.sources"))
SUITE = "bookworm"


def packages(recipe: Path, into: Path) -> None:
    """A root file system of Debian's essential packages and those of the recipe, as a tar file. mmdebstrap makes the same one
    from the same packages at any time (`man mmdebstrap`, SOURCE_DATE_EPOCH)."""
    ways = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True).stdout.splitlines()
    ways = [line for line in ways if line.startswith(("Acquire::http", "Acquire::Check"))]
    release = Path("/etc/os-release").read_text(encoding="utf-8")
    mirror = [str(path) for path in SOURCES if path.exists()] if f"VERSION_CODENAME={SUITE}" in release else []
    subprocess.run(
        [
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--variant=essential",
            "--skip=output/dev",
            f"--include={','.join((recipe / 'packages').read_text(encoding='utf-8').split())}",
            *(f"--aptopt={way}" for way in ways),
            "--aptopt=APT::Install-Recommends \"false\"",
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
            SUITE,
            str(into),
            *mirror,
        ],
        check=True,
        env=os.environ | {"SOURCE_DATE_EPOCH": str(EPOCH)},
    )  # fmt: skip


def files(root: Path, version: str) -> bytes:
    """The files of a recipe as a layer, with @VERSION@ replaced."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as layer:
        for path in sorted(root.rglob("*")):
            entry = tarfile.TarInfo(str(path.relative_to(root)))
            entry.mtime = EPOCH
            content = b""
            if path.is_symlink():
                entry.type, entry.linkname = tarfile.SYMTYPE, str(path.readlink())
            elif path.is_dir():
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            else:
                content = path.read_bytes().replace(b"@VERSION@", version.encode())
                entry.size = len(content)
            layer.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def config_of(recipe: Path, layers: list[Path], labels: dict[str, str]) -> bytes:
    """The image's configuration, whose digest is the image ID."""
    own: dict[str, Any] = json.loads((recipe / "config.json").read_text(encoding="utf-8"))
    architecture = subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True).stdout.strip()
    created = datetime.fromtimestamp(EPOCH, UTC).isoformat()
    whole = {
        "architecture": architecture,
        "os": "linux",
        "created": created,
        "config": own | {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest_of(layer)}" for layer in layers]},
        "history": [{"created": created} for _ in layers],
    }
    return json.dumps(whole, sort_keys=True).encode()


def build(name: str, versions: list[str], output: Path, labels: dict[str, str]) -> list[str]:
    """Writes the archive of the images proxyctl-testbed/NAME:VERSION. Returns their IDs."""
    recipe = HERE / "images" / name
    listed, found = [], []
    with (
        tempfile.TemporaryDirectory(dir=output.parent) as scratch,
        tarfile.open(output, "w", format=tarfile.GNU_FORMAT) as archive,
    ):

        def add(path: Path) -> str:
            entry = tarfile.TarInfo(f"{digest_of(path)}.tar")
            entry.size, entry.mtime = path.stat().st_size, EPOCH
            with path.open("rb") as content:
                archive.addfile(entry, content)
            return entry.name

        def write(name: str, content: bytes) -> None:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(content), EPOCH
            archive.addfile(entry, io.BytesIO(content))

        below = Path(scratch) / "packages.tar"
        packages(recipe, below)
        below_name = add(below)
        for version in versions:
            above = Path(scratch) / f"{version}.tar"
            above.write_bytes(files(recipe / "root", version))
            config = config_of(recipe, [below, above], labels)
            identity = hashlib.sha256(config).hexdigest()
            write(f"{identity}.json", config)
            layers = [below_name, add(above)]
            listed.append({"Config": f"{identity}.json", "RepoTags": [f"proxyctl-testbed/{name}:{version}"], "Layers": layers})
            found.append(f"sha256:{identity}")
        write("manifest.json", json.dumps(listed).encode())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("versions", nargs="+", metavar="version")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--label", action="append", default=[], metavar="KEY=VALUE")
    asked = parser.parse_args()
    labels = dict(label.split("=", 1) for label in asked.label)
    for version, identity in zip(asked.versions, build(asked.name, asked.versions, asked.output, labels), strict=True):
        print(f"{asked.name}:{version} {identity}")


if __name__ == "__main__":
    main()
