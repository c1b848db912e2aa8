"""What the controller must not forget, in `state.dir`: one JSON file with a schema number and a checksum, and the one before it.

A file that is torn or foreign is not an empty state: the previous one is read, and without that one everything is learned from
Docker again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import msgspec

from proxyctl.files import sync_directory, write_whole
from proxyctl.fileset import Generation
from proxyctl.model import Drain, Owner, ProbeKey, VirtualHost
from proxyctl.versions import Rollout

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class State:
    token: str
    """The server name under which nginx tells its digest: 128 random bits."""
    owners: Mapping[str, Owner] = field(default_factory=dict)
    live_digest: str = ""
    live_targets: tuple[ProbeKey, ...] = ()
    """Targets that carried traffic when something was last Live: they start as healthy."""
    places: frozenset[str] = frozenset()
    """Hosts with paths that were live then: a site that is known answers 503 while it warms up, a new one 404."""
    joined: frozenset[str] = frozenset()
    """Networks that proxyctl put nginx into, and takes it out of again."""
    generations: tuple[Generation, ...] = ()
    """Old workers of nginx that lived after the latest proof."""
    fallback_hosts: tuple[VirtualHost, ...] = ()
    """What is served of hosts that are in quarantine, and below of hand-written files: their last good form."""
    fallback_files: Mapping[str, str] = field(default_factory=dict)
    rollouts: Mapping[str, Rollout] = field(default_factory=dict)
    """By service, where there are versions or an operator has said something."""
    frozen: bool = False
    """No version is swapped in until an operator says so."""
    drain: Drain | None = None
    """Since when the host is to be left; None when it is not."""


PORTABLE = ("owners", "rollouts", "frozen")
"""Fields that mean the same on another host; the others are about this one's containers and nginx."""


class _File(msgspec.Struct):
    schema: int
    sha256: str
    body: msgspec.Raw


class HeldByAnother(Exception):  # noqa: N818
    """Another controller works on this state directory."""


class StateStore:
    def __init__(self, directory: Path) -> None:
        self._path = directory / "state.json"
        self._previous = directory / "state.previous.json"
        self._intended = directory / "state.intended.json"
        self._lock_path = directory / "lock"
        self._lock: IO[str] | None = None
        self._intentions: tuple[ProbeKey, ...] = ()
        self._whole = True
        self.notes: list[str] = []
        """What was wrong with the files that were read."""
        self.doubtful = False
        """There was no state, or not the newest one."""

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
        state = self._load()
        try:
            self._intentions = _decode(self._intended.read_bytes()).live_targets
        except FileNotFoundError:
            return state
        except (ValueError, msgspec.MsgspecError) as error:
            self.notes.append(f"{self._intended} is not usable: {error}")
            return state
        return replace(state, live_targets=tuple(dict.fromkeys((*state.live_targets, *self._intentions))))

    def _load(self) -> State:
        for path in (self._path, self._previous):
            self.doubtful = path != self._path
            try:
                return _decode(path.read_bytes())
            except FileNotFoundError:
                continue
            except (ValueError, msgspec.MsgspecError) as error:
                self.notes.append(f"{path} is not usable: {error}")
                self._whole = False
        return State(token=secrets.token_hex(16))

    def keep(self, state: State) -> None:
        """Beside the files that are read, for whoever wants it back. Raises OSError."""
        write_whole(self._path.with_name("state.before-import.json"), _encode(state))

    def save(self, state: State) -> None:
        """Raises OSError; the state on disk is then the one before."""
        if self._whole and self._path.exists():  # what is torn must not push out the one before
            self._previous.unlink(missing_ok=True)
            os.link(self._path, self._previous)
        write_whole(self._path, _encode(state))
        self._intended.unlink(missing_ok=True)
        sync_directory(self._path.parent)
        self._intentions, self._whole = (), True

    def intend(self, targets: Collection[ProbeKey]) -> None:
        """What `live_targets` has in addition until the next `save`, which writes 4 MB for 10,000 containers. Raises OSError."""
        intentions = (*self._intentions, *targets)
        write_whole(self._intended, _encode(State("", live_targets=intentions)))
        sync_directory(self._path.parent)
        self._intentions = intentions


def exported(state: State) -> str:
    """What another host can take over, in the form of a state file."""
    owners = {place: replace(owner, lost_unix=0.0) for place, owner in state.owners.items()}
    return _encode(State("", **{name: getattr(state, name) for name in PORTABLE} | {"owners": owners})).decode()


def imported(raw: bytes, here: State) -> State:
    """This host's state with what `exported` wrote on another one. Raises ValueError or msgspec.MsgspecError, which say why it is
    not taken."""
    there = _decode(raw)
    rollouts = {
        service: replace(rollout, members=frozenset(), retiring=frozenset(), draining={})
        for service, rollout in there.rollouts.items()
    }
    return replace(here, **{name: getattr(there, name) for name in PORTABLE} | {"rollouts": rollouts})


def _encode(state: State) -> bytes:
    body = msgspec.json.encode(state)
    return msgspec.json.encode(_File(SCHEMA, hashlib.sha256(body).hexdigest(), msgspec.Raw(body)))


def _decode(raw: bytes) -> State:
    file = msgspec.json.decode(raw, type=_File)
    if file.schema != SCHEMA:
        raise ValueError(f"schema {file.schema}, this release reads {SCHEMA}")
    if hashlib.sha256(bytes(file.body)).hexdigest() != file.sha256:
        raise ValueError("its checksum is wrong")
    return msgspec.json.decode(file.body, type=State)
