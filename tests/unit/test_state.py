"""What must not be forgotten: whatever is on disk, the latest state is read, and nothing foreign is taken for one."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyctl import state
from proxyctl.model import Drain, Owner, Target
from proxyctl.state import PORTABLE, HeldByAnother, State, StateStore, exported, imported
from proxyctl.versions import Rollout
from tests.unit import crash

TARGET = Target("id-web", "endpoint", "10.0.0.5", 80)
FIRST = (TARGET, "default")
OLD = State("a" * 32, {"a.example/": Owner("web")}, "digest-1", frozenset({FIRST}), frozenset({"front"}))
MIDDLE = State("a" * 32, {"c.example/": Owner("git")}, "digest-3")
NEW = State("a" * 32, {"a.example/": Owner("web", "project", 12.5), "b.example/git": Owner("git")}, "digest-2")


def store_of(directory: Path, *states: State) -> StateStore:
    store = StateStore(directory)
    for each in states:
        store.save(each)
    return store


def read(directory: Path) -> State:
    return StateStore(directory).load()


@pytest.mark.parametrize("state", [OLD, NEW, State("b" * 32)], ids=["old", "new", "empty"])
def test_what_is_saved_is_what_is_read(state: State, tmp_path: Path) -> None:
    store_of(tmp_path, state)
    assert read(tmp_path) == state


def test_the_first_state_has_a_token_that_nobody_can_guess(tmp_path: Path) -> None:
    one, two = read(tmp_path), read(tmp_path)
    assert one.token != two.token
    assert len(one.token) == 32
    assert int(one.token, 16) >= 0
    assert one == State(one.token)


@pytest.fixture(params=["whole", "changes"])
def big(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether every change is too much to be kept beside the whole."""
    is_big: bool = request.param == "whole"
    if is_big:
        monkeypatch.setattr(state, "FEW", 0)
    return is_big


TORN = pytest.mark.parametrize(
    ("name", "left", "doubtful"),
    [("state.json", NEW, True), ("state.previous.json", NEW, False), ("state.changes.json", OLD, True)],
)
"""A file, what is read without it, and whether that may be old."""


@TORN
def test_a_file_that_is_torn_anywhere_is_not_a_state(name: str, left: State, doubtful: bool, tmp_path: Path) -> None:
    store_of(tmp_path, OLD, NEW)
    whole = (tmp_path / name).read_bytes()
    for length in range(len(whole)):
        (tmp_path / name).write_bytes(whole[:length])
        store = StateStore(tmp_path)
        assert (store.load(), store.doubtful) == (left, doubtful)
        said = [f"{tmp_path / name} is not usable"] if name != "state.previous.json" else []  # which was not needed
        assert [note.partition(":")[0] for note in store.notes] == said


@TORN
def test_a_single_wrong_byte_anywhere_is_noticed(name: str, left: State, doubtful: bool, tmp_path: Path) -> None:
    store_of(tmp_path, OLD, NEW)
    whole = (tmp_path / name).read_bytes()
    for place in range(len(whole)):
        (tmp_path / name).write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        store = StateStore(tmp_path)
        assert (store.load(), store.doubtful) == (left, doubtful)


def newer(file: dict[str, object]) -> None:
    file["schema"] = 2


def edited(file: dict[str, object]) -> None:
    file["body"] = {"token": "0" * 32}


def checksum(file: dict[str, object]) -> None:
    file["sha256"] = "0" * 64


def nothing(file: dict[str, object]) -> None:
    file.clear()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (newer, "schema 2, this release reads 1"),
        (edited, "checksum"),
        (checksum, "checksum"),
        (nothing, "missing required field"),
    ],
)
def test_a_foreign_file_is_not_a_state(spoil: Callable[[dict[str, object]], None], words: str, tmp_path: Path) -> None:
    store_of(tmp_path, OLD, NEW)
    file = json.loads((tmp_path / "state.json").read_text())
    spoil(file)
    (tmp_path / "state.json").write_text(json.dumps(file))
    store = StateStore(tmp_path)
    assert store.load() == NEW
    assert words in store.notes[0]


def test_when_both_are_unusable_the_controller_starts_anew_and_both_are_told(tmp_path: Path) -> None:
    store_of(tmp_path, OLD, NEW)
    for name in ("state.json", "state.previous.json"):
        (tmp_path / name).write_text("{}")
    store = StateStore(tmp_path)
    assert store.load().owners == {}
    assert len(store.notes) == 2


def test_one_of_both_is_enough(tmp_path: Path) -> None:
    store_of(tmp_path, OLD, NEW)
    (tmp_path / "state.json").unlink()
    assert read(tmp_path) == NEW


@pytest.mark.parametrize("error", [OSError, crash.PowerCut])
def test_a_crash_at_any_step_of_saving_leaves_the_state_before_or_the_new_one(
    error: type[BaseException], big: bool, tmp_path: Path
) -> None:
    store = store_of(tmp_path, State("a" * 32), MIDDLE, OLD)
    assert (tmp_path / "state.changes.json").exists() is not big
    for _ in crash.everywhere(lambda: store.save(NEW), error):
        assert read(tmp_path) in (OLD, NEW)
    assert read(tmp_path) == NEW


@pytest.mark.parametrize("error", [OSError, crash.PowerCut])
def test_a_crash_while_changes_become_a_whole_forgets_neither(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def changed() -> StateStore:
        monkeypatch.setattr(state, "FEW", 250)
        store = store_of(tmp_path, MIDDLE, OLD)
        assert (tmp_path / "state.changes.json").exists()
        monkeypatch.setattr(state, "FEW", 0)
        return store

    stores = [changed()]
    for _ in crash.everywhere(lambda: stores[-1].save(NEW), error):
        assert read(tmp_path) in (OLD, NEW)
        monkeypatch.setattr(state, "FEW", 250)
        stores[-1].save(MIDDLE)  # the process may have outlived it
        assert read(tmp_path) == MIDDLE
        stores.append(changed())
    assert not (tmp_path / "state.changes.json").exists()
    assert read(tmp_path) == NEW


@pytest.mark.parametrize("error", [OSError, crash.PowerCut])
@pytest.mark.parametrize("name", ["state.json", "state.previous.json"])
def test_a_crash_while_a_torn_file_is_replaced_forgets_nothing(name: str, error: type[BaseException], tmp_path: Path) -> None:
    store_of(tmp_path, OLD, NEW)
    (tmp_path / name).write_text("torn")
    store = StateStore(tmp_path)
    found = store.load()
    for _ in crash.everywhere(lambda: store.save(found), error):
        assert read(tmp_path) == NEW
    assert read(tmp_path) == NEW


def test_changes_of_another_whole_are_not_believed(tmp_path: Path) -> None:
    store_of(tmp_path, OLD, NEW)
    changes = (tmp_path / "state.changes.json").read_bytes()
    store_of(tmp_path, MIDDLE)
    (tmp_path / "state.changes.json").write_bytes(changes)
    store = StateStore(tmp_path)
    assert (store.load(), store.notes, store.doubtful) == (MIDDLE, [], False)


class Owners(dict[str, Owner]):
    """One that tells when it is gone."""


def test_the_same_once_more_is_neither_written_nor_kept_beside_what_was(tmp_path: Path) -> None:
    """With 10,000 containers that was 6 MiB."""
    first = replace(OLD, owners=Owners(OLD.owners))
    kept, store = weakref.ref(first.owners), store_of(tmp_path, first)
    with crash.at(-1, OSError) as steps:
        store.save(OLD)
    assert steps == []
    del first
    assert kept() is None


def test_on_a_disk_that_is_full_only_what_changes_the_state_fails(tmp_path: Path) -> None:
    """A cycle asks for it several times, and goes on where there is nothing to write: with nginx's files on another partition,
    what it decides is live all the same."""
    store = store_of(tmp_path, OLD)
    with crash.at(0, OSError), pytest.raises(OSError, match="full"):
        store.save(NEW)
    with crash.at(0, OSError) as steps:
        store.save(OLD)
    assert steps == ["crash"]
    store.save(MIDDLE)
    assert read(tmp_path) == MIDDLE


@pytest.mark.usefixtures("big")
def test_what_could_not_be_kept_is_not_on_the_disk_once_it_is_taken_back(tmp_path: Path) -> None:
    """The directory could not be synced, so an operator was told that the word is not kept; and the file was there."""
    store = store_of(tmp_path, OLD)
    for _ in crash.everywhere(lambda: store.save(NEW), OSError):
        store.save(OLD)
        assert read(tmp_path) == OLD
    assert read(tmp_path) == NEW


def test_little_is_written_of_much(tmp_path: Path) -> None:
    """What 10,000 containers have in the state, 4 MB, is not written again for each of them."""
    many = replace(OLD, owners={f"a{number}.example/": Owner("web", f"project-{number}") for number in range(5_000)})
    store, now, written = store_of(tmp_path, many), many, []
    for number in range(600):
        before = (tmp_path / "state.json").stat().st_ino
        now = replace(now, owners={**now.owners, f"b{number}.example/": Owner("git")})
        store.save(now)
        written.append((tmp_path / "state.json").stat().st_ino != before)
        if number in (0, 554, 555, 599):
            assert read(tmp_path) == now
    assert [number for number, whole in enumerate(written) if whole] == [555], "a tenth of all that is in it by then"
    assert len((tmp_path / "state.changes.json").read_bytes()) < 10_000 < len((tmp_path / "state.json").read_bytes())


names = st.sampled_from("abcde")
targets = st.builds(lambda name, port: (replace(TARGET, container_id=name, port=port), "default"), names, st.integers(80, 82))
owners = st.builds(Owner, names, lost_unix=st.sampled_from([0.0, 7.5]))
rollouts = st.builds(Rollout, active=names, members=st.frozensets(names))
states = st.builds(
    State,
    st.just("a" * 32),
    owners=st.dictionaries(names, owners),
    live_digest=names,
    live_targets=st.frozensets(targets),
    places=st.frozensets(names),
    joined=st.frozensets(names),
    fallback_files=st.dictionaries(names, names),
    rollouts=st.dictionaries(names, rollouts),
    frozen=st.booleans(),
    drain=st.none() | st.builds(Drain, st.just(1.0), st.just(2.0)),
)


@given(saved=st.lists(states, min_size=1, max_size=6), few=st.integers(0, 60), torn=st.booleans())
def test_whatever_is_saved_after_whatever_is_what_is_read(saved: list[State], few: int, torn: bool) -> None:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(state, "FEW", few)
        store = StateStore(Path(folder))
        for each in saved:
            store.save(each)
            if torn:
                (Path(folder) / "state.json").write_text("torn")
            assert read(Path(folder)) == each


def test_a_directory_belongs_to_one_controller(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    first = StateStore(directory)
    first.acquire()
    with pytest.raises(HeldByAnother, match=f"is held by pid {os.getpid()} on "):
        StateStore(directory).acquire()
    assert directory.stat().st_mode & 0o777 == 0o700
    first.release()
    second = StateStore(directory)
    second.acquire()
    second.release()


def test_a_lock_of_a_controller_that_ended_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("pid 1 on elsewhere, which was killed\n")
    store = StateStore(tmp_path)
    store.acquire()
    assert (tmp_path / "lock").read_text().startswith(f"pid {os.getpid()} on ")
    assert len((tmp_path / "lock").read_text().splitlines()) == 1
    store.release()


def test_another_host_takes_over_who_owns_what_and_nothing_of_this_one() -> None:
    here = replace(State("b" * 32), owners={"c.example": Owner("other")}, joined=frozenset({"back"}))
    taken = imported(exported(replace(NEW, joined=frozenset({"front"}))).encode(), here)
    owners = {"a.example/": Owner("web", "project"), "b.example/git": Owner("git")}
    assert taken == replace(here, owners=owners), "a grace that has begun elsewhere begins anew"


def test_every_field_of_the_state_is_of_this_host_or_portable() -> None:
    """A new field must be put into one of the two."""
    of_this_host = {
        "token",
        "live_digest",
        "live_targets",
        "places",
        "joined",
        "addresses",
        "generations",
        "fallback_hosts",
        "fallback_files",
        "drain",
        "nginx_run",
    }
    assert {field.name for field in fields(State)} == of_this_host | set(PORTABLE)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: text.replace('"schema":1', '"schema":2'), "schema 2, this release reads 1"),
        (lambda text: text.replace("project", "projects"), "its checksum is wrong"),
        (lambda text: text[: len(text) // 2], "truncated"),
    ],
)
def test_a_file_of_another_schema_or_a_changed_one_is_not_taken(change: Callable[[str], str], why: str) -> None:
    with pytest.raises((ValueError, msgspec.MsgspecError), match=why):
        imported(change(exported(NEW)).encode(), OLD)
