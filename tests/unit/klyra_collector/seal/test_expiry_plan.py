"""What is due: the plan against a plain reading of the rules, and records with more ranges than fit."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from klyra_audit.format import control
from klyra_audit.format.control import Expiry, Extend, Hold, PolicyRecord, Release
from klyra_audit.format.leaf import NEVER, NO_PREVIOUS, Kind, Leaf
from klyra_collector.errors import LedgerDamaged
from klyra_collector.seal.expiry import finish
from klyra_collector.seal.expiry_controls import ControlLog
from klyra_collector.seal.expiry_facts import HELD, RetentionFacts, is_within
from klyra_collector.seal.expiry_plan import Leaves, destination, plan

LOG = "ledger/collector/2026"
DAY_US = 86_400_000_000
ACME, OTHER = b"a" * 16, b"b" * 16
LENGTHS = {ACME: 3, OTHER: 7}


class Sealing:
    """Leaves in memory, with what their control records say."""

    def __init__(self) -> None:
        self.encoded = bytearray()
        self.facts = RetentionFacts()
        self.now_us = 100 * DAY_US
        self._next = {ACME: 0, OTHER: 0}
        for org_ref, days in LENGTHS.items():
            self.control(PolicyRecord(org_ref, "plan", "policy", days))

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self.encoded) // 112

    @property
    def leaves(self) -> Leaves:
        """The leaves so far."""
        return Leaves(bytes(self.encoded), self.size)

    @property
    def today(self) -> int:
        """The day by the clock."""
        return self.now_us // DAY_US

    def event(self, org_ref: bytes = ACME, kind: Kind = Kind.EVENT) -> int:
        """Seal an event; return its org_seq."""
        return self._leaf(kind, org_ref, self.today + 1 + LENGTHS[org_ref])

    def control(self, document) -> int:
        """Seal a control record; return its org_seq."""
        sequence = self._leaf(document.KIND, getattr(document, "org_ref", ACME), NEVER)
        self.facts.add(LOG, self.size - 1, document)
        return sequence

    def expire(self, after_day: int):
        """Plan what is due today and seal its records; return the plan."""
        found = finish(plan(self.leaves, LOG, self.facts, after_day, self.today))
        for document in found.documents:
            self.control(replace(document, log=None))
        return found

    def _leaf(self, kind: Kind, org_ref: bytes, expire_day: int) -> int:
        sequence = self._next[org_ref]
        self._next[org_ref] += 1
        leaf = Leaf(kind, 0, expire_day, org_ref, sequence, self.now_us, 0, 0, NO_PREVIOUS, bytes(32))
        self.encoded += leaf.pack()
        return sequence


@pytest.mark.parametrize("seed", [1, 2, 3, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(4, 300))])
def test_a_plan_is_what_the_rules_say(seed: int) -> None:
    """Over random days with holds, releases and extensions, exactly what is due and not held is named, once."""
    chance = random.Random(seed)  # noqa: S311 - the same history every time
    sealing = Sealing()
    events: dict[tuple[bytes, int], int] = {}  # place in a chain → day of sealing
    named: set[tuple[bytes, int]] = set()
    holds: dict[str, Hold] = {}
    extensions: list[Extend] = []
    for day in range(60):
        sealing.now_us = (100 + day) * DAY_US
        due = {
            place
            for place, sealed_day in events.items()
            if place not in named and _effective(place, sealed_day, extensions) <= sealing.today
        }
        held = {
            place
            for place in due
            if any(hold.org_ref == place[0] and hold.covers(events[place] * DAY_US) for hold in holds.values())
        }
        found = sealing.expire(sealing.today - 1)
        assert _named_by(found.due) == due - held
        for org_ref in (ACME, OTHER):
            documents = [document for document in found.documents if document.org_ref == org_ref]
            going = sorted(sequence for owner, sequence in due - held if owner == org_ref)
            assert sum(document.count for document in documents) == len(going)
            if documents:
                assert documents[0].seq_digest == control.seq_digest(going)
                assert all(is_within(documents[0].held, sequence) for owner, sequence in held if owner == org_ref)
                assert not any(is_within(documents[0].held, sequence) for sequence in going)
        named |= due - held
        for _ in range(chance.randrange(6)):
            org_ref = chance.choice((ACME, OTHER))
            kind = chance.choice((Kind.EVENT, Kind.EVENT, Kind.QUARANTINE))
            events[org_ref, sealing.event(org_ref, kind)] = sealing.today
        _disturb(chance, sealing, holds, extensions)
    found_named = {
        (leaf.org_ref, leaf.org_seq)
        for leaf in sealing.leaves.between(0, sealing.size)
        if Kind(leaf.kind).has_body and sealing.facts.is_named(LOG, leaf)
    }
    assert found_named == named


def _disturb(chance: random.Random, sealing: Sealing, holds: dict[str, Hold], extensions: list[Extend]) -> None:
    """Sometimes place or release a hold, or extend some records."""
    what = chance.randrange(10)
    if what < 2:
        first = (sealing.today - chance.randrange(8)) * DAY_US
        end = chance.choice((None, first + chance.randrange(6) * DAY_US))
        hold = Hold(f"hold_{sealing.size}", chance.choice((ACME, OTHER)), first, end)
        holds[hold.hold_id] = hold
        sealing.control(hold)
    elif what == 2 and holds:
        hold_id = chance.choice(sorted(holds))
        del holds[hold_id]
        sealing.control(Release(hold_id))
    elif what == 3:
        org_ref = chance.choice((ACME, OTHER))
        first_seq = chance.randrange(40)
        extend = Extend(org_ref, first_seq, first_seq + chance.randrange(10), chance.choice((5, 12)))
        extensions.append(extend)
        sealing.control(extend)


def _effective(place: tuple[bytes, int], sealed_day: int, extensions: list[Extend]) -> int:
    org_ref, sequence = place
    days = [LENGTHS[org_ref]]
    days += [
        extend.retention_days
        for extend in extensions
        if extend.org_ref == org_ref and extend.first_seq <= sequence <= extend.last_seq
    ]
    return sealed_day + 1 + max(days)


def _named_by(due) -> set[tuple[bytes, int]]:
    return {(item.org_ref, sequence) for item in due for sequence in item.going}


def test_more_ranges_than_fit_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records with few ranges each, read one after the other, name what one long record would, and repeat rightly."""
    monkeypatch.setattr("klyra_collector.seal.expiry_plan.MAX_RANGES", 5)
    sealing = Sealing()
    going, held = [], []
    for number in range(20):
        going.append(sealing.event())
        sealing.now_us += 1_000_000
        held.append(sealing.event())
        sealing.control(Hold(f"hold_{number}", ACME, sealing.now_us, sealing.now_us))
        sealing.now_us += 1_000_000
    sealing.now_us += 4 * DAY_US
    found = sealing.expire(sealing.today - 1)
    assert len(found.documents) == 7
    assert all(len(document.held) <= 5 for document in found.documents)
    assert sum(document.count for document in found.documents) == 20
    leaves = [leaf for leaf in sealing.leaves.between(0, sealing.size) if leaf.org_ref == ACME]
    assert [leaf.org_seq for leaf in leaves if leaf.kind == 0 and sealing.facts.is_named(LOG, leaf)] == going
    sealing.now_us += DAY_US
    assert sealing.expire(sealing.today - 1).documents == ()
    for number in range(20):
        sealing.control(Release(f"hold_{number}"))
    last = sealing.expire(sealing.today)
    assert [document.count for document in last.documents] == [20]
    assert all(sealing.facts.is_named(LOG, leaf) for leaf in leaves if leaf.kind == 0)


def test_a_range_joins_what_nothing_that_goes_lies_between() -> None:
    """Held records with only control records and undue ones between them are one range."""
    sealing = Sealing()
    first = sealing.event()
    sealing.control(Extend(ACME, 1000, 1000, 12))
    last = sealing.event()
    sealing.control(Hold("hold", ACME, 0))
    sealing.now_us += 4 * DAY_US
    (document,) = sealing.expire(sealing.today - 1).documents
    assert document.held == ((first, last),)


def test_only_the_days_that_can_matter_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a long ledger the plan of one day reads one ingest day for each length, and a few leaves to find it."""
    sealing = Sealing()
    for _ in range(200):
        for _ in range(10):
            sealing.event()
        sealing.now_us += DAY_US
    leaves = sealing.leaves
    read = []
    original = Leaves.between
    monkeypatch.setattr(Leaves, "between", lambda self, *span: read.append(span) or original(self, *span))
    finish(plan(leaves, LOG, sealing.facts, 249, 250))
    assert sum(end - start for start, end in read) == 20


def test_where_a_frame_belongs() -> None:
    """What was named goes, what was extended has a new day, everything else is held: nothing goes unnamed."""
    sealing = Sealing()
    sealing.event()
    sealing.event()
    leaf, extended = sealing.leaves.at(2), sealing.leaves.at(3)
    day = leaf.expire_day
    assert destination(sealing.facts, LOG, leaf, day) == HELD
    assert destination(sealing.facts, LOG, leaf, day - 1) == str(day)
    sealing.control(Extend(ACME, extended.org_seq, extended.org_seq, 12))
    assert destination(sealing.facts, LOG, extended, day) == str(100 + 1 + 12)
    assert sealing.facts.folders(LOG, extended) == (str(100 + 1 + 12),)
    sealing.control(Expiry(ACME, day, 1, control.seq_digest([1])))
    assert destination(sealing.facts, LOG, leaf, day) is None
    assert destination(sealing.facts, LOG, extended, day) == str(100 + 1 + 12)


class Broken:
    """A ledger with a control record that is not what its type says."""

    def origins(self) -> list[str]:
        """See `ControlSource`."""
        return [LOG]

    def committed(self, origin: str) -> int:
        """See `ControlSource`."""
        return 1

    def controls(self, origin: str, start: int, limit: int) -> list[tuple[int, bytes]]:
        """See `ControlSource`."""
        return [(0, b'{"type":"hold"}')]


def test_a_control_record_that_cannot_be_read_stops_everything() -> None:
    """It may have been a hold: nothing is decided without it."""
    with pytest.raises(LedgerDamaged, match=f"record 0 of {LOG}") as refused:
        ControlLog(Broken()).catch_up()
    assert refused.value.code == "ledger_damaged"
    assert "klyra-audit verify" in refused.value.remedy
