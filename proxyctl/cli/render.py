"""`proxyctl render` and `proxyctl diff`: nginx's configuration as it would be now, and how it differs from what is published."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import unified_diff
from pathlib import Path
from typing import TYPE_CHECKING

import click

from proxyctl.cli.options import DONE, NEGATIVE, USAGE, Command, Options, Stop

if TYPE_CHECKING:
    from proxyctl.fileset import FileSet

_NAMED = re.compile(r"^\s*(?:server_name ([^;\s]+)|upstream ([^\s{]+))", re.MULTILINE)
_BLOCK = re.compile(r"^(?=server |upstream )", re.MULTILINE)
_OBJECT = re.compile(r"/objects/([0-9a-f]+\.conf)\b")


def _note(text: str) -> None:
    click.echo(f"proxyctl: {text}", err=True)


@click.command(cls=Command)
@click.pass_obj
def render(options: Options) -> int:
    """Print the nginx configuration as of now.

    Reads the engine itself; needs no controller.
    """
    from proxyctl.cli.offline import draw

    fileset = draw(options, _note).fileset
    for name, text in _files(fileset).items():
        click.echo(f"# {name}\n{text.rstrip()}\n")
    return DONE


def _files(fileset: FileSet) -> Mapping[str, str]:
    """In the order in which nginx reads them; the sample that only drafts hold is left out."""
    included = _OBJECT.findall(fileset.manifest)
    return {
        f"mains/{fileset.digest}.conf": fileset.main,
        f"manifests/{fileset.digest}.conf": fileset.manifest,
        **{f"objects/{name}": fileset.objects[name].text for name in included},
    }


@click.command(cls=Command)
@click.pass_obj
def diff(options: Options) -> int:
    """Compare what is published with `render`.

    Exit status 1 when they differ.
    """
    from proxyctl.cli.offline import draw

    config = options.config()
    published = _published(config.home, config.reference)
    wanted = _by_subject(_files(draw(options, _note).fileset))
    different = False
    for subject in sorted(published.keys() | wanted.keys()):
        before, after = published.get(subject, ""), wanted.get(subject, "")
        for line in _difference(subject, before, after):
            different = True
            click.echo(line)
    return NEGATIVE if different else DONE


def _difference(subject: str, before: str, after: str) -> Iterator[str]:
    lines = unified_diff(
        before.splitlines(),
        after.splitlines(),
        f"published/{subject}" if before else "/dev/null",
        f"wanted/{subject}" if after else "/dev/null",
        lineterm="",
    )
    yield from lines


def _published(directory: Path, reference: Path) -> Mapping[str, str]:
    """The files behind the reference, by subject; empty when nothing is published. Raises Stop."""
    try:
        main = reference.parent / reference.readlink()
        digest = main.stem
        manifest = (directory / "manifests" / f"{digest}.conf").read_text(encoding="utf-8")
        files = {f"mains/{digest}.conf": main.read_text(encoding="utf-8"), f"manifests/{digest}.conf": manifest}
        for name in _OBJECT.findall(manifest):
            files[f"objects/{name}"] = (directory / "objects" / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        _note(f"nothing is published in {directory}")
        return {}
    except OSError as error:
        raise Stop(f"{error.filename}: {error.strerror}", USAGE) from error
    return _by_subject(files)


def _by_subject(files: Mapping[str, str]) -> Mapping[str, str]:
    """By what a file is about instead of its digest, and without the digests that change with everything."""
    found: dict[str, str] = {}
    for name, text in files.items():
        folder, _, file = name.partition("/")
        digest = file.removesuffix(".conf")
        if folder == "objects":
            for block in filter(None, _BLOCK.split(text)):
                match = _NAMED.search(block)
                subject = (f"server {match[1]}" if match[1] else f"upstream {match[2]}") if match else f"site {digest}"
                found[subject] = found.get(subject, "") + block
        else:
            plain = "".join(line for line in text.splitlines(keepends=True) if not _OBJECT.search(line))
            found["nginx.conf" if folder == "mains" else "manifest"] = plain.replace(digest, "DIGEST")
    return found
