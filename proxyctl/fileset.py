"""What nginx is given, what it refuses of it, and which of its workers know what: types that cross borders, as in `model`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from proxyctl.model import Target

OWN_FILE = "file "
"""Sources are `file own.conf` for hand-written vhosts and the plain host name for a rendered one."""


@dataclass(frozen=True, slots=True)
class ConfigPart:
    """What is written for one host, or one hand-written file."""

    source: str
    """The host, or `file own.conf`."""
    body: str
    """Its server block, or all of a hand-written file."""
    forms: tuple[str, ...]
    """Digests of what nginx must have accepted within the same frame, one of them: names, target addresses, ports and weights do
    not change them. The first is its own; a place without targets is known from the form with targets too."""
    upstreams: str = ""

    @property
    def text(self) -> str:
        return self.upstreams + self.body


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """Parts that are written as one file, since thousands of files cost more than they are worth. Upstreams come first: nginx
    goes through all that it has for each name, sooner when they lie close together (10,000 hosts: `nginx -t` 1.80 s, 1.94 s with
    each host's own before it; 1.31.3)."""

    parts: tuple[ConfigPart, ...]

    @property
    def text(self) -> str:
        return "".join(text for _, text in self._blocks())

    def source_at(self, line: int) -> str:
        """Which part has this line, counted from 1."""
        for source, text in self._blocks():
            line -= text.count("\n")
            if line <= 0:
                return source
        return self.parts[-1].source

    def _blocks(self) -> Iterator[tuple[str, str]]:
        yield from ((part.source, part.upstreams) for part in self.parts)
        yield from ((part.source, part.body) for part in self.parts)


@dataclass(frozen=True, slots=True)
class FileSet:
    """Rendered configuration. Names of objects are digests of their content; `digest` names the whole."""

    digest: str
    main: str
    """nginx.conf: settings and one include of the manifest, as published."""
    draft: str
    """Names the draft: digest of the whole and of what is beside it."""
    draft_main: str
    """The same with the draft's own list included: `nginx -t` must see it before this boot has published anything. With the
    nginx.conf of somebody else around it, where there is one."""
    draft_links: Mapping[str, str]
    """Names beside it -> where they lead."""
    neighbours: bool
    """Whether there are files of others that nginx reads with it."""
    manifest: str
    frame: str
    """The manifest without objects."""
    frame_form: str
    """Digest of everything but the objects, and of those that are hand-written."""
    objects: Mapping[str, ConfigFile]
    sample: str
    """The object that drafts hold in addition: the form of a place without targets."""
    objects_dir: str
    """As nginx sees it."""
    separable: bool
    """Objects cannot harm each other, so that nginx may be asked about some of them: the templates are the shipped ones."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What nginx does not take. `essence`: what it was about; when that changes, it is tried again."""

    source: str
    essence: object
    reason: str


@dataclass(frozen=True, slots=True)
class NginxWorker:
    pid: int
    shutting_down: bool


@dataclass(frozen=True, slots=True)
class Freed:
    """A target that is not served any more, and the service that it was of; empty when that is not known."""

    target: Target
    service: str
    project: str = ""
    """Of compose; empty without one, or when it is not known."""


@dataclass(frozen=True, slots=True)
class Generation:
    """Old workers that began with the same configuration, and what they know that the current one does not."""

    run: str
    """Of nginx: another one has other workers."""
    workers: frozenset[int]
    """Pids on the host."""
    freed: frozenset[Freed]
    since_unix: float = 0.0
    """When the next configuration was proved; 0 when that is not known."""
