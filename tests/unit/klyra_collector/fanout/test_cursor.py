"""The cursor's file."""

from __future__ import annotations

import contextlib
import json

import pytest

from klyra_collector.fanout.cursor import Cursor, CursorDamaged, CursorFile, Span
from klyra_collector.seal.durable import Disk
from support.sealing import Fault, FaultyDisk, Killed

ORIGIN = "klyra-audit.test/c1/2026"


@pytest.fixture
def disk():
    """A disk that can be told to fail."""
    with contextlib.closing(FaultyDisk()) as made:
        yield made


def test_a_new_destination_has_none(tmp_path, disk) -> None:
    """Nothing was ever delivered."""
    assert CursorFile(tmp_path, "back", disk).load() is None


def test_it_comes_back_as_it_was(tmp_path, disk) -> None:
    """Position and batches under way survive."""
    cursor = Cursor(ORIGIN, 5, (Span(5, 9), Span(9, 20)))
    CursorFile(tmp_path, "back", disk).save(cursor)
    assert CursorFile(tmp_path, "back", Disk()).load() == cursor


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_leaves_the_old_one_or_the_new_one(tmp_path, disk, moment) -> None:
    """The file is replaced as a whole."""
    file = CursorFile(tmp_path, "back", disk)
    old, new = Cursor(ORIGIN, 5), Cursor(ORIGIN, 9)
    file.save(old)
    disk.fault = Fault("replace", moment, error=Killed)
    with pytest.raises(Killed):
        file.save(new)
    assert file.load() == (old if moment == "before" else new)


@pytest.mark.parametrize(
    "members",
    [
        {"format": "klyra-cursor/2"},
        {"index": -1},
        {"index": "5"},
        {"origin": None},
        {"pending": [[6, 9]]},
        {"pending": [[5, 5]]},
        {"pending": [[5, 9], [10, 12]]},
        {"pending": 7},
    ],
)
def test_a_file_that_is_none_is_not_guessed(tmp_path, disk, members) -> None:
    """Whatever does not say where the destination stands halts, with two ways out."""
    whole = {"format": "klyra-cursor/1", "origin": ORIGIN, "index": 5, "pending": [[5, 9]]}
    (tmp_path / "back.cursor.json").write_text(json.dumps(whole | members))
    with pytest.raises(CursorDamaged) as caught:
        CursorFile(tmp_path, "back", disk).load()
    assert caught.value.code == "cursor_damaged"
    assert caught.value.remedy == "Restore it; or delete it, and everything still kept is delivered again."


def test_moves() -> None:
    """Batches begin behind one another, are halved, and are completed from the front alone."""
    begun = Cursor(ORIGIN, 5).begun(Span(5, 20)).begun(Span(20, 30))
    halved = begun.bisected(5, 12)
    assert (begun.tail, Cursor(ORIGIN, 5).tail) == (30, 5)
    assert halved == Cursor(ORIGIN, 5, (Span(5, 12), Span(12, 20), Span(20, 30)))
    assert halved.completed({5}) == Cursor(ORIGIN, 12, (Span(12, 20), Span(20, 30)))
    assert halved.completed({12, 20}) == halved
    assert halved.completed({5, 12, 20}) == Cursor(ORIGIN, 30)
    assert begun.begun_again(20, 7) == Cursor(ORIGIN, 5, (Span(5, 20), Span(20, 30, 7)))
    assert Cursor(ORIGIN, 5).moved(9) == Cursor(ORIGIN, 9)
