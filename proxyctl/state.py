"""What the controller must not forget, in `state.dir`: JSON files with a schema number and a checksum.

    state.json            all of it, 4 MB for 10,000 containers
    state.previous.json   the same once more: written before it, read when it is torn or foreign
    state.changes.json    what has changed since, while that is little; belongs to the state.json whose checksum it has

Without the first two, which is not an empty state, everything is learned from Docker again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from proxyctl.files import sync_directory, write_whole
from proxyctl.fileset import Generation
from proxyctl.model import Drain, Owner, ProbeKey, VirtualHost
from proxyctl.versions import Order, Rollout

SCHEMA = 1
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class State:
    token: str
    """The server name under which nginx tells its digest: 128 random bits."""
    owners: Mapping[str, Owner] = field(default_factory=dict)
    live_digest: str = ""
    live_targets: frozenset[ProbeKey] = frozenset()
    """Targets that carried traffic when something was last Live: they start as healthy."""
    places: frozenset[str] = frozenset()
    """Hosts with paths that were live then: a site that is known answers 503 while it warms up, a new one 404."""
    joined: frozenset[str] = frozenset()
    """Networks that proxyctl put nginx into, and takes it out of again."""
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What nginx asked for in the networks that it joined latest, and asks for again."""
    generations: tuple[Generation, ...] = ()
    """Old workers of nginx that lived after the latest proof."""
    fallback_hosts: tuple[VirtualHost, ...] = ()
    """What is served of hosts that are in quarantine, and below of hand-written files: their last good form."""
    fallback_files: Mapping[str, str] = field(default_factory=dict)
    rollouts: Mapping[str, Rollout] = field(default_factory=dict)
    """By service, where there are versions or an operator has said something."""
    frozen: bool = False
    """No version is swapped in until an operator says so."""
    freeze: Order | None = None
    """Who ordered that; None when nothing is frozen, or when an earlier release saved the state."""
    drain: Drain | None = None
    """Since when the host is to be left; None when it is not."""
    nginx_run: str = ""
    """The nginx that ran last: the id of its container and when it was started."""


PORTABLE = ("owners", "rollouts", "frozen", "freeze")
"""Fields that mean the same on another host; the others are about this one's containers and nginx."""


MAPPINGS, SETS = ("owners", "rollouts"), ("live_targets", "places")
"""Fields that grow with the containers: of these, changes hold what is new or otherwise, and what is gone; of the others, all."""
FEW, SHARE = 250, 0.1
"""Changes are little up to so many entries, or to this share of all."""


class _File(msgspec.Struct):
    schema: int
    sha256: str
    body: msgspec.Raw


NOTHING = State("")


class _Changes(msgspec.Struct):
    since: str
    """Checksum of the whole state that they belong to."""
    new: State
    gone: State


class HeldByAnother(Exception):  # noqa: N818
    """Another controller works on this state directory."""


class StateStore:
    def __init__(self, directory: Path) -> None:
        self._path = directory / "state.json"
        self._previous = directory / "state.previous.json"
        self._changes = directory / "state.changes.json"
        self._lock_path = directory / "lock"
        self._lock: IO[str] | None = None
        self._saved: State | None = None
        """What was written last."""
        self._sure = False
        """Whether that is on the disk: nothing has failed since."""
        self._beside = _Changes("", NOTHING, NOTHING)
        """What state.changes.json says."""
        self.notes: list[str] = []
        """What was wrong with the files that were read."""
        self.doubtful = False
        """There was no state, or it may not be the newest one."""

    def acquire(self) -> None:
        """Takes the directory for this process, until it ends or `release`s it. Raises HeldByAnother, or OSError."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = self._lock_path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            raise HeldByAnother(f"{self._path.parent} is held by {holder}") from None
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        self._lock = lock

    def release(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None

    def load(self) -> State:
        changes = self._read(self._changes, _Changes)
        self.doubtful = changes is None and self._changes.exists()
        for path in (self._path, self._previous):
            if found := self._read(path, State):
                checksum, state = found
                return _merged(state, changes[1].gone, changes[1].new) if changes and changes[1].since == checksum else state
            self.doubtful = True
        return State(token=secrets.token_hex(16))

    def _read(self, path: Path, kind: type[T]) -> tuple[str, T] | None:
        """Its checksum and what it holds; None when there is nothing, or nothing usable, which is noted."""
        try:
            return _decode(path.read_bytes(), kind)
        except FileNotFoundError:
            return None
        except (ValueError, msgspec.MsgspecError) as error:
            self.notes.append(f"{path} is not usable: {error}")
            return None

    def keep(self, state: State) -> None:
        """Beside the files that are read, for whoever wants it back. Raises OSError."""
        write_whole(self._path.with_name("state.before-import.json"), _encode(state)[1])

    def save(self, state: State) -> None:
        """Raises OSError; the state on disk is then the one before."""
        if state == self._saved:
            self._saved = state  # the same once more is not kept beside what it was made of
            if not self._sure:  # what could not be kept may lie there all the same
                with suppress(OSError):
                    self._beside, self._sure = self._save_whole(state), True
            return
        changes, self._sure = self._changes_to(state), False
        if changes is None:
            changes = self._save_whole(state)
        else:
            write_whole(self._changes, _encode(changes)[1])
            sync_directory(self._path.parent)
        self._saved, self._beside, self._sure = state, changes, True

    def _save_whole(self, state: State) -> _Changes:
        checksum, content = _encode(state)
        for path in (self._previous, self._path):
            write_whole(path, content)
        sync_directory(self._path.parent)
        self._changes.unlink(missing_ok=True)  # it belongs to what was there before
        sync_directory(self._path.parent)
        return _Changes(checksum, NOTHING, NOTHING)

    def _changes_to(self, state: State) -> _Changes | None:
        """Those beside the whole, and what is otherwise now; None when they are not little, or the whole is not sure."""
        if not self._saved or not self._sure:
            return None
        gone, new = _between(self._saved, state)
        beside = self._beside
        changes = _Changes(beside.since, _merged(beside.new, gone, new), _merged(beside.gone, NOTHING, gone))
        return changes if _entries(changes.new) + _entries(changes.gone) <= max(FEW, SHARE * _entries(state)) else None


def _between(before: State, after: State) -> tuple[State, State]:
    """What is gone of the fields that grow; and `after`, with nothing in them but what is new or otherwise."""
    gone, new = dict[str, Any](), dict[str, Any]()
    for name in MAPPINGS:
        old, now = getattr(before, name), getattr(after, name)
        gone[name] = {key: old[key] for key in old.keys() - now.keys()}
        new[name] = {key: value for key, value in now.items() if old.get(key) is not value and old.get(key) != value}
    for name in SETS:
        old, now = getattr(before, name), getattr(after, name)
        gone[name], new[name] = old - now, now - old
    return replace(NOTHING, **gone), replace(after, **new)


def _merged(state: State, gone: State, new: State) -> State:
    """`new`, and in the fields that grow what the state has beside it and is not gone."""

    def left(name: str) -> Any:
        return {key: value for key, value in getattr(state, name).items() if key not in getattr(gone, name)}

    mappings = {name: left(name) | getattr(new, name) for name in MAPPINGS}
    return replace(new, **mappings, **{name: getattr(state, name) - getattr(gone, name) | getattr(new, name) for name in SETS})


def _entries(state: State) -> int:
    return sum(len(getattr(state, name)) for name in MAPPINGS + SETS)


def exported(state: State) -> str:
    """What another host can take over, in the form of a state file."""
    owners = {place: replace(owner, lost_unix=0.0) for place, owner in state.owners.items()}
    return _encode(State("", **{name: getattr(state, name) for name in PORTABLE} | {"owners": owners}))[1].decode()


def imported(raw: bytes, here: State) -> State:
    """This host's state with what `exported` wrote on another one. Raises ValueError or msgspec.MsgspecError, which say why it is
    not taken."""
    _, there = _decode(raw, State)
    rollouts = {
        service: replace(rollout, members=frozenset(), retiring=frozenset(), draining={})
        for service, rollout in there.rollouts.items()
    }
    return replace(here, **{name: getattr(there, name) for name in PORTABLE} | {"rollouts": rollouts})


def _encode(content: State | _Changes) -> tuple[str, bytes]:
    """Its checksum, and the file."""
    body = msgspec.json.encode(content)
    checksum = hashlib.sha256(body).hexdigest()
    return checksum, msgspec.json.encode(_File(SCHEMA, checksum, msgspec.Raw(body)))


def _decode(raw: bytes, kind: type[T]) -> tuple[str, T]:
    file = msgspec.json.decode(raw, type=_File)
    if file.schema != SCHEMA:
        raise ValueError(f"schema {file.schema}, this release reads {SCHEMA}")
    if hashlib.sha256(bytes(file.body)).hexdigest() != file.sha256:
        raise ValueError("its checksum is wrong")
    return file.sha256, msgspec.json.decode(file.body, type=kind)
