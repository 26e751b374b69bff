"""What is written of a closed shard, and what is made of a damaged copy of it."""

from __future__ import annotations

import pytest

from klyra_audit.format import canonical
from klyra_audit.format.leaf import LEAF_SIZE, Kind, Leaf
from klyra_collector.data_directory import DataDirectory, ShardDirectory
from klyra_collector.errors import LedgerDamaged
from klyra_collector.seal.closed import ClosedShard, LeafFiles, load_closed, replay
from klyra_collector.seal.intervals import IntervalSet
from klyra_collector.seal.state import LedgerState
from klyra_collector.stages import ControlRecord, EmitterPosition
from support import records
from support.records import BUSINESS, submission
from support.sealing import SetClock, crash, open_ledger, read_all

BOOT = "0192f3c1-7c3e-7d1a-9a55-2f6c1d9e8b10"


@pytest.fixture
def shard(tmp_path):
    """A shard with two policies, an emitter's events 0, 1 and 5, and a hold."""
    ledger = open_ledger(tmp_path, SetClock())
    events = [records.record(position=EmitterPosition("moderator", BOOT, number)) for number in (0, 1, 5)]
    ledger.commit([submission(*events, records.record(BUSINESS))])
    org_ref = read_all(tmp_path)[-1].leaf.org_ref.hex()
    hold = {"type": "hold", "hold_id": "h", "org_ref": org_ref, "from_us": 0, "to_us": None, "selection_c": None}
    ledger.commit_controls([ControlRecord(Kind.HOLD, hold, BUSINESS.organization_id)])
    ledger.close()
    return ShardDirectory(DataDirectory(tmp_path).ledger / "2026")


def size_of(shard) -> int:
    """Return how many leaves a shard has."""
    return shard.leaves.stat().st_size // LEAF_SIZE


def said(closed: ClosedShard) -> tuple:
    """Return everything a closed shard says, comparable."""
    sequences = {ordinal: seen.intervals() for ordinal, seen in closed.sequences.items()}
    return closed.size, closed.last_us, closed.last_ordinal, dict(closed.boots), sequences, closed.in_force


def test_what_is_written_is_read_back(shard) -> None:
    """`parse` is the inverse of `encode`."""
    state, problem = replay(shard, size_of(shard))
    assert problem is None
    closed = ClosedShard.of("2026", state)
    assert said(ClosedShard.parse("2026", closed.encode())) == said(closed)
    assert [seen.intervals() for seen in closed.sequences.values()] == [[(0, 1), (5, 5)]]
    assert [document.KIND for document in closed.in_force] == [
        Kind.KEY,
        Kind.POLICY,
        Kind.POLICY,
        Kind.SCHEMA,
        Kind.HOLD,
    ]


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b'{"size": 1}',
        b'{"size":0,"last_us":0,"last_ordinal":0,"boots":[["zz","a","b",1]],"sequences":[],"in_force":[]}',
        b'{"size":0,"last_us":0,"last_ordinal":0,"boots":[],"sequences":[[1,[[5,1]]]],"in_force":[]}',
        b'{"size":0,"last_us":0,"last_ordinal":0,"boots":[],"sequences":[],"in_force":[[6,{}]]}',
    ],
)
def test_a_damaged_or_missing_file_is_made_again(shard, damaged) -> None:
    """Whatever stands in it, the leaves decide."""
    expected = said(load_closed(shard, shard.sequences, size_of(shard)))
    shard.sequences.write_bytes(damaged)
    assert said(load_closed(shard, shard.sequences, size_of(shard))) == expected


def test_a_file_of_another_size_is_not_believed(shard) -> None:
    """A file that was made of fewer leaves says nothing of the others."""
    state, _ = replay(shard, 3)
    shard.sequences.write_bytes(ClosedShard.of("2026", state).encode())
    assert load_closed(shard, shard.sequences, size_of(shard)).size == size_of(shard)


def test_a_shard_is_known_up_to_its_damage(shard) -> None:
    """Missing leaves, a damaged leaf and a missing control document end what is known, and say why."""
    size = size_of(shard)
    assert replay(shard, size + 1)[1] == "it is missing"
    whole, control = shard.leaves.read_bytes(), shard.control.read_bytes()
    shard.control.write_bytes(control[: len(control) // 2])
    state, problem = replay(shard, size)
    assert (state.size < size, problem) == (True, "its control document is missing")
    shard.control.write_bytes(control)
    shard.leaves.write_bytes(whole[: 2 * LEAF_SIZE] + b"\x09" + whole[2 * LEAF_SIZE + 1 :])
    state, problem = replay(shard, size)
    assert state.size == 2
    assert "version" in problem


def test_leaves_are_found_by_their_place(shard) -> None:
    """By index, and by an emitter's ordinal and sequence; what is not there is not found."""
    files = LeafFiles(shard.root.parent)
    size = size_of(shard)
    found = files.find("2026", size, 2, 5)
    leaf = Leaf.unpack(files.leaf("2026", found))
    assert (leaf.emitter, leaf.emitter_seq) == (2, 5)
    assert files.find("2026", size, 2, 4) is None
    assert files.find("2026", found, 2, 5) is None


@pytest.mark.parametrize("intervals", [[(2, 1)], [(0, 1), (1, 2)], [(5, 6), (1, 2)], [(-1, 0)]])
def test_intervals_that_are_none_are_refused(intervals) -> None:
    """A set is made only of ascending, disjoint pairs."""
    with pytest.raises(ValueError, match="not ascending"):
        IntervalSet.of(intervals)


def test_intervals_make_the_set_they_came_from() -> None:
    """`of` is the inverse of `intervals`, and the set goes on growing."""
    made = IntervalSet.of([(0, 3), (7, 7)])
    made.add(4)
    assert made.intervals() == [(0, 4), (7, 7)]
    assert (4 in made, 5 in made) == (True, False)


def test_a_control_document_of_an_unknown_form_refuses_to_start(tmp_path, monkeypatch) -> None:
    """What a newer version wrote is not guessed; the older one says so."""
    clock = SetClock()
    ledger = open_ledger(tmp_path, clock)
    newer = {"type": "release", "hold_id": "h", "why": "unknown here"}
    with monkeypatch.context() as newer_version:
        newer_version.setattr(LedgerState, "apply_control", lambda *_: None)
        ledger.commit_controls([ControlRecord(Kind.RELEASE, newer, "operator")])
    crash(ledger)
    shard = ShardDirectory(DataDirectory(tmp_path).ledger / "2026")
    assert canonical.encode(newer) in shard.control.read_bytes()
    with pytest.raises(LedgerDamaged, match="form that is not known") as caught:
        open_ledger(tmp_path, clock)
    assert (caught.value.code, "newer" in caught.value.remedy) == ("control_unknown", True)
