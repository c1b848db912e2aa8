"""A rendered configuration as nginx would read it: written below a directory, its includes followed, parsed by crossplane."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import crossplane  # type: ignore[import-untyped]  # the package has no types

from proxyctl.fileset import FileSet
from proxyctl.model import NginxView
from proxyctl.publish.draft import FOLDERS, listing
from tests.unit import make


@dataclass(frozen=True, slots=True)
class Directive:
    name: str
    args: tuple[str, ...] = ()
    block: tuple[Directive, ...] = ()

    def all(self, name: str) -> list[Directive]:
        return [inner for inner in self.block if inner.name == name]

    def one(self, name: str) -> Directive:
        (found,) = self.all(name)
        return found


def view(directory: Path, version: tuple[int, ...] = (1, 31, 3), *, ipv6: bool = False) -> NginxView:
    """`directory` stands for all three that nginx mounts."""
    boot = str(directory / "boot")
    return make.view(version, ipv6=ipv6, conf_dir=str(directory), runtime_dir=boot, logs_dir=str(directory))


def write(fileset: FileSet, directory: Path) -> Path:
    """As `publish.draft` does, without its care. Returns the main file, or one that includes it."""
    for folder in FOLDERS:
        (directory / folder).mkdir(parents=True, exist_ok=True)
    name = f"{fileset.digest}.conf"
    texts = {f"objects/{key}": file.text for key, file in fileset.objects.items()}
    texts |= {
        f"manifests/{name}": fileset.manifest,
        f"mains/{name}": fileset.main,
        f"drafts/{fileset.draft}.conf": fileset.draft_main,
    }
    texts[f"drafts/{fileset.draft}.list.conf"] = listing(fileset, None)
    for path, text in texts.items():
        (directory / path).write_text(text, encoding="utf-8")
    main = directory / "mains" / name
    if not fileset.neighbours:
        return main
    around = directory / f"around-{name}"
    around.write_text(f"events {{}}\nhttp {{\n    include {main};\n}}\n", encoding="utf-8")
    return around


def parse(main: Path, *, comments: bool = False) -> Directive:
    """The whole configuration as one directive without a name. Raises what crossplane finds wrong. Comments: directives `#`."""
    payload: Mapping[str, Any] = crossplane.parse(str(main), combine=True, catch_errors=False, comments=comments)
    return Directive("", (), _block(payload["config"][0]["parsed"]))


def _block(parsed: Iterable[Mapping[str, Any]]) -> tuple[Directive, ...]:
    return tuple(Directive(item["directive"], _args(item), _block(item.get("block", ()))) for item in parsed)


def _args(item: Mapping[str, Any]) -> tuple[str, ...]:
    return (item["comment"],) if "comment" in item else tuple(item["args"])


def http(fileset: FileSet, directory: Path) -> Directive:
    return parse(write(fileset, directory)).one("http")
