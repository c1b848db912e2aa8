"""What must not be forgotten: whatever is on disk, the latest whole state is read, and nothing foreign is taken for one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import msgspec
import pytest

from proxyctl.model import Owner, Target
from proxyctl.state import PORTABLE, HeldByAnother, State, StateStore, exported, imported
from tests.unit import crash

TARGET = Target("id-web", "endpoint", "10.0.0.5", 80)
SECOND, THIRD = ((replace(TARGET, container_id=name), "default") for name in ("id-second", "id-third"))
OLD = State("a" * 32, {"a.example/": Owner("web")}, "digest-1", ((TARGET, "default"),), frozenset({"front"}))
NEW = State("a" * 32, {"a.example/": Owner("web", "project", 12.5), "b.example/git": Owner("git")}, "digest-2")


def store_of(directory: Path, *states: State) -> StateStore:
    store = StateStore(directory)
    for state in states:
        store.save(state)
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


def test_a_file_that_is_torn_anywhere_is_not_a_state_and_the_one_before_is_read(tmp_path: Path) -> None:
    store_of(tmp_path, OLD, NEW)
    whole = (tmp_path / "state.json").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "state.json").write_bytes(whole[:length])
        store = StateStore(tmp_path)
        assert store.load() == OLD
        assert len(store.notes) == 1
        assert "state.json is not usable" in store.notes[0]


def test_a_single_wrong_byte_anywhere_is_noticed(tmp_path: Path) -> None:
    store_of(tmp_path, OLD, NEW)
    whole = (tmp_path / "state.json").read_bytes()
    for place in range(len(whole)):
        (tmp_path / "state.json").write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        assert read(tmp_path) == OLD


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
    assert store.load() == OLD
    assert words in store.notes[0]


def test_when_both_are_unusable_the_controller_starts_anew_and_both_are_told(tmp_path: Path) -> None:
    store_of(tmp_path, OLD, NEW)
    for name in ("state.json", "state.previous.json"):
        (tmp_path / name).write_text("{}")
    store = StateStore(tmp_path)
    assert store.load().owners == {}
    assert len(store.notes) == 2


def test_the_one_before_is_kept(tmp_path: Path) -> None:
    store_of(tmp_path, OLD, NEW)
    (tmp_path / "state.json").unlink()
    assert read(tmp_path) == OLD


@pytest.mark.parametrize("error", [OSError, crash.PowerCut])
def test_a_crash_at_any_step_of_saving_leaves_the_state_before_or_the_new_one(error: type[BaseException], tmp_path: Path) -> None:
    store = store_of(tmp_path, State("a" * 32), OLD)
    for _ in crash.everywhere(lambda: store.save(NEW), error):
        assert read(tmp_path) in (OLD, NEW)
    assert read(tmp_path) == NEW


@pytest.mark.parametrize("error", [OSError, crash.PowerCut])
def test_a_crash_while_a_torn_file_is_replaced_does_not_lose_the_one_before(error: type[BaseException], tmp_path: Path) -> None:
    store_of(tmp_path, OLD, NEW)
    (tmp_path / "state.json").write_text("torn")
    store = StateStore(tmp_path)
    found = store.load()
    for _ in crash.everywhere(lambda: store.save(found), error):
        assert read(tmp_path) == OLD
    assert read(tmp_path) == OLD


def test_what_is_intended_is_known_until_more_is_saved(tmp_path: Path) -> None:
    store = store_of(tmp_path, OLD)
    for target in (SECOND, THIRD):  # the second time nothing was saved in between
        store.intend([target])
    assert read(tmp_path).live_targets == (*OLD.live_targets, SECOND, THIRD)
    store.save(NEW)
    assert read(tmp_path) == NEW
    store.intend([THIRD])
    again = StateStore(tmp_path)
    assert again.load() == replace(NEW, live_targets=(THIRD,))
    again.intend([SECOND])
    assert read(tmp_path) == replace(NEW, live_targets=(THIRD, SECOND))


@pytest.mark.parametrize("error", [OSError, crash.PowerCut])
def test_a_crash_at_any_step_of_intending_forgets_nothing(error: type[BaseException], tmp_path: Path) -> None:
    store = store_of(tmp_path, OLD)
    store.intend([SECOND])
    for _ in crash.everywhere(lambda: store.intend([THIRD]), error):
        assert read(tmp_path).live_targets in ((*OLD.live_targets, SECOND), (*OLD.live_targets, SECOND, THIRD))
    for _ in crash.everywhere(lambda: store.save(NEW), error):
        assert read(tmp_path) in (
            replace(OLD, live_targets=(*OLD.live_targets, SECOND, THIRD)),
            replace(NEW, live_targets=(SECOND, THIRD)),
            NEW,
        )
    assert read(tmp_path) == NEW


def test_intentions_that_are_torn_are_told_and_the_state_is_read(tmp_path: Path) -> None:
    store_of(tmp_path, OLD).intend([SECOND])
    (tmp_path / "state.intended.json").write_text("torn")
    store = StateStore(tmp_path)
    assert store.load() == OLD
    assert [note.partition(":")[0] for note in store.notes] == [f"{tmp_path}/state.intended.json is not usable"]
    assert not store.doubtful


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
        "generations",
        "fallback_hosts",
        "fallback_files",
        "drain",
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
