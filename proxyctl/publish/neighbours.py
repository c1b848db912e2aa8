"""What `nginx -T` prints -> what an included file must know of the configuration around it.

nginx prints every file that it reads, as it sees it, so nothing has to be known about links, mounts and folders of its container.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from posixpath import dirname, join, normpath
from typing import NamedTuple

from proxyctl.model import Neighbours

_FILE = re.compile(r"^# configuration file (.+):\n", re.MULTILINE)
_TOKEN = re.compile(
    r"""\#[^\n]* | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | [{};] | (?:\$\{[^}]*\} | \\. | [^\s{};\\])+""", re.VERBOSE | re.DOTALL
)
_INCLUDE = re.compile(r"""^([^#\n]*?(?<![^\s;{}]))include\s+["']?([^\s;"']+)["']?\s*;""", re.MULTILINE)
_NAME = re.compile(r"(?!\.{1,2}(?:/|$))[A-Za-z0-9_.][A-Za-z0-9_.@+-]*", re.ASCII)
HTTP = 80


class NotIncluded(Exception):  # noqa: N818
    """nginx.conf does not read the directory, or not a file of that name."""


@dataclass(frozen=True, slots=True)
class Directive:
    name: str
    args: tuple[str, ...]
    block: tuple[Directive, ...] = ()


def read(dump: str, working_directory: str, directory: str, reference: str) -> Neighbours:
    """`working_directory`: of nginx, which the path of nginx.conf may count from; `directory`: where the included one is in the
    container; `reference`: the name of proxyctl's file there. Raises NotIncluded."""
    own = (f"{directory}/{reference}", f"{directory}/.")
    files = {
        path: text for path, text in _files(dump, working_directory).items() if path != own[0] and not path.startswith(own[1])
    }
    main = next(iter(files), "nginx.conf")
    around = _around(files, main, directory, reference)
    parsed = {path: list(directives(text)) for path, text in files.items()}
    hosts: dict[str, str] = {}
    for path, found in parsed.items():
        for name in _names(found):
            hosts.setdefault(name, path)
    prefix = dirname(main)
    workers = [d.args[0] for d in parsed[main] if d.name == "worker_processes" and d.args and d.args[0].isdecimal()]
    return Neighbours(
        hosts=hosts,
        digest=hashlib.sha256("\0".join(part for item in files.items() for part in item).encode()).hexdigest()[:32],
        around=around,
        links={name: join(prefix, name) for found in parsed.values() for name in _relative(found)},
        workers=int(workers[0]) if workers else 0,
        ignored=tuple((each.file, each.name, each.address, each.by) for each in ignored(parsed)),
        ends_old_workers=any(d.name == "worker_shutdown_timeout" for d in parsed[main]),
    )


def _files(dump: str, working_directory: str) -> dict[str, str]:
    """By path, in the order in which nginx read them: nginx.conf is the first. What it said before that is left out."""
    _, *parts = _FILE.split(dump)
    return {
        normpath(join(working_directory, path)): text.removesuffix("\n")
        for path, text in zip(parts[::2], parts[1::2], strict=True)
    }


def _around(files: Mapping[str, str], main: str, directory: str, reference: str) -> tuple[str, str]:
    """The copy of nginx.conf for drafts: files that the include brought in are named one by one, and there is a gap for ours."""
    text = files.get(main, "")
    for match in _INCLUDE.finditer(text):
        pattern = normpath(join(dirname(main), match[2]))
        if dirname(pattern) != directory or not fnmatchcase(f"{directory}/{reference}", pattern):
            continue
        others = [path for path in files if dirname(path) == directory and fnmatchcase(path, pattern)]
        before = "".join(f"include {path};\n" for path in others if path < f"{directory}/{reference}")
        after = "".join(f"include {path};\n" for path in others if path > f"{directory}/{reference}")
        return f"{text[: match.start()]}{match[1]}\n{before}", f"{after}{text[match.end() :]}"
    raise NotIncluded(f"{main} does not include {directory}/{reference}: write include {directory}/*; in its http block")


def directives(text: str) -> Iterator[Directive]:
    """Raises nothing: nginx has accepted the text."""
    yield from _block(token for token in _TOKEN.findall(text) if not token.startswith("#"))


def _block(tokens: Iterator[str]) -> Iterator[Directive]:
    words: list[str] = []
    for word in tokens:
        if word == "}":
            return
        if word not in ("{", ";"):
            words.append(word[1:-1] if word[0] in "\"'" and len(word) > 1 else word)
            continue
        block = tuple(_block(tokens)) if word == "{" else ()
        if words:
            yield Directive(words[0], tuple(words[1:]), block)
        words = []


class Ignored(NamedTuple):
    """A `server_name` that nginx ignores, with a warning only, since an earlier server of that address has it."""

    file: str
    name: str
    """Empty for a server without a name."""
    address: str
    """Of `listen`, like `*:80`."""
    by: str
    """Who has it."""


def ignored(files: Mapping[str, Iterable[Directive]], taken: Callable[[str, str], str] = lambda _, __: "") -> list[Ignored]:
    """`files` in the order in which nginx reads them; `taken`: who has (address, name) before all of them, or empty."""
    owners: dict[tuple[str, str], str] = {}
    found: dict[Ignored, None] = {}
    for file, directives_of in files.items():
        for address, name in _listening(directives_of):
            by = taken(address, name) or owners.setdefault((address, name), file)
            if by != file:
                found[Ignored(file, name, address, by)] = None
    return list(found)


def _listening(found: Iterable[Directive]) -> Iterator[tuple[str, str]]:
    """(address, name) of every server. Names that are regular expressions do not clash."""
    for directive in found:
        if directive.name == "http":
            yield from _listening(directive.block)
        if directive.name != "server" or not directive.block:
            continue
        addresses = [_address(d.args[0]) for d in directive.block if d.name == "listen" and d.args] or [f"*:{HTTP}"]
        names = [arg.lower() for d in directive.block if d.name == "server_name" for arg in d.args] or [""]
        for name in names:
            if not name.startswith("~"):
                for each in (name[1:], f"*{name}") if name.startswith(".") else (name,):
                    yield from ((address, each) for address in addresses)


def _address(listen: str) -> str:
    if listen.startswith("unix:"):
        return listen
    if listen.isdecimal():
        return f"*:{listen}"
    host = listen if listen.endswith("]") or ":" not in listen else listen.rpartition(":")[0]
    return f"{'*' if host == '0.0.0.0' else host}:{_port(listen)}"  # noqa: S104 - as nginx takes it


def _names(found: Iterable[Directive]) -> Iterator[str]:
    """Names of the servers that answer on port 80. `.a.example` is two; patterns are nobody's name."""
    for directive in found:
        if directive.name == "http":
            yield from _names(directive.block)
        if directive.name != "server" or not directive.block:
            continue
        listens = [d.args[0] for d in directive.block if d.name == "listen" and d.args]
        if listens and HTTP not in map(_port, listens):
            continue
        for name in (arg.lower() for d in directive.block if d.name == "server_name" for arg in d.args):
            if name.startswith("."):
                yield from (name[1:], f"*{name}")
            elif not name.startswith("~"):
                yield name


def _port(listen: str) -> int:
    """0 for a unix socket."""
    if listen.startswith("unix:"):
        return 0
    last = re.sub(r"^\[[^]]*\]", "", listen).rpartition(":")[2]
    return int(last) if last.isdecimal() else HTTP


def _relative(found: Iterable[Directive]) -> Iterator[str]:
    """What words begin with that may be relative paths. Which are is not known, and a link to nothing does no harm."""
    for directive in found:
        if directive.name != "types":
            yield from (match[0] for arg in directive.args if (match := _NAME.match(arg)) and not match[0].isdecimal())
            yield from _relative(directive.block)
