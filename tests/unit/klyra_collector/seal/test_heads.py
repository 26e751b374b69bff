"""The HEADS record: under one root, which record of each organization is its newest."""

from __future__ import annotations

import pytest

from klyra_audit.format import sections
from klyra_audit.format.heads import Head, HeadsTree, head_proof
from klyra_audit.format.leaf import Kind
from klyra_audit.format.merkle import leaf_hash
from support import records
from support.records import BUSINESS, STARTUP, submission
from support.sealing import Fault, FaultyDisk, SetClock, crash, open_ledger, read_all


@pytest.fixture
def clock():
    """A clock that stands at midsummer."""
    return SetClock()


def heads_before(records_read, index) -> list[Head]:
    """Return the newest record of each organization before an index, computed afresh."""
    newest = {}
    for record in records_read[:index]:
        leaf = record.leaf
        newest[leaf.org_ref] = Head(leaf.org_ref, leaf.org_seq, leaf_hash(record.leaf_bytes), record.index)
    return sorted(newest.values())


def check(root) -> int:
    """Assert that every HEADS record of the newest shard is true; return how many there are."""
    committed = read_all(root)
    found = [record for record in committed if record.leaf.kind == Kind.HEADS]
    for record in found:
        tree = HeadsTree()
        for head in heads_before(committed, record.index):
            tree.put(head)
        expected = {"type": "heads", "size": record.index, "count": tree.count, "root": tree.root().hex()}
        assert record.control == expected
        assert record.leaf.org_ref == sections.OPERATOR_REFERENCE
    return len(found)


def test_heads_name_the_newest_record_of_everyone(tmp_path, clock) -> None:
    """Each HEADS is what its leaves say, whether organizations are new, went on, or stood still."""
    ledger = open_ledger(tmp_path, clock)
    for tenancies in ((STARTUP,), (BUSINESS, STARTUP), (), (BUSINESS,)):
        ledger.commit([submission(*[records.record(tenancy) for tenancy in tenancies])])
        ledger.seal_heads()
    assert check(tmp_path) == 3
    ledger.close()


def test_nothing_but_heads_since_the_last_one_seals_none(tmp_path, clock) -> None:
    """A quiet ledger does not grow by the minute, and one with a new record does."""
    ledger = open_ledger(tmp_path, clock)
    ledger.seal_heads()
    size = ledger.size
    ledger.seal_heads()
    assert ledger.size == size
    ledger.commit([submission(records.record())])
    ledger.seal_heads()
    assert check(tmp_path) == 2
    ledger.close()


def test_heads_go_on_after_a_restart(tmp_path, clock) -> None:
    """The tree is made again from the leaves, also of those that came before the last HEADS."""
    ledger = open_ledger(tmp_path, clock)
    ledger.commit([submission(records.record(STARTUP), records.record(BUSINESS))])
    ledger.seal_heads()
    crash(ledger)
    ledger = open_ledger(tmp_path, clock)
    ledger.commit([submission(records.record(BUSINESS))])
    ledger.seal_heads()
    assert check(tmp_path) == 2
    ledger.close()


@pytest.mark.parametrize(("step", "moment"), [("append", "torn"), ("append", "after"), ("sync", "before")])
def test_heads_that_could_not_be_written_are_true_afterwards(tmp_path, clock, step, moment) -> None:
    """A HEADS that failed is forgotten; the next one is true all the same."""
    disk = FaultyDisk()
    ledger = open_ledger(tmp_path, clock, disk)
    ledger.commit([submission(records.record(STARTUP))])
    disk.fault = Fault(step, moment)
    with pytest.raises(Exception, match="disk failed"):
        ledger.seal_heads()
    ledger.resume()
    ledger.commit([submission(records.record(BUSINESS))])
    ledger.seal_heads()
    assert check(tmp_path) == 1
    ledger.close()


def test_presence_and_absence_are_proved_by_a_sealed_root(tmp_path, clock) -> None:
    """Who has a record proves its newest one, and who has none proves that, under the root that was sealed."""
    ledger = open_ledger(tmp_path, clock)
    ledger.commit([submission(records.record(STARTUP))])
    ledger.seal_heads()
    ledger.close()
    committed = read_all(tmp_path)
    (sealed,) = (record for record in committed if record.leaf.kind == Kind.HEADS)
    heads = heads_before(committed, sealed.index)
    root, count = bytes.fromhex(sealed.control["root"]), sealed.control["count"]
    for head in heads:
        assert head_proof(heads, head.org_ref).verify(root, count) == head
    assert head_proof(heads, b"\xff" * 16).verify(root, count) is None
