"""What of a ledger is delivered: not the expired, not the erased, nothing that was changed; and shard after shard."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from klyra_audit.format.leaf import Kind
from klyra_audit.format.sections import Salts
from klyra_collector.fanout.cursor import Cursor, Span
from klyra_collector.fanout.ledger_position import LedgerBehindDestination, LedgerPosition
from klyra_collector.fanout.source import EntrySource, RecordUndeliverable
from support.entries import ACME, ORIGIN, RETENTION_DAYS, TODAY, MemoryLedger, document, organization_reference

NEXT = ORIGIN.replace("2026", "2027")
THIRD = ORIGIN.replace("2026", "2028")


@pytest.fixture
def ledger() -> MemoryLedger:
    """A ledger in memory."""
    return MemoryLedger()


class Entitled:
    """Who is entitled, once asked again."""

    def __init__(self, *later: str, fresh: bool = True) -> None:
        self.later = later
        self.fresh = fresh
        self.known = frozenset({organization_reference(ACME)})

    def references(self) -> frozenset[bytes]:
        """Return what was read last."""
        return self.known

    def refresh(self) -> bool:
        """Read again, if it is time."""
        if self.fresh:
            self.known |= {organization_reference(name) for name in self.later}
        return self.fresh


def read(ledger: MemoryLedger, *, today: int = TODAY, origin: str = ORIGIN):
    """Return everything of a shard as a destination for ACME finds it."""
    return EntrySource(ledger, Entitled(), lambda: today).read(origin, 0, 1000)


def erasure(ledger: MemoryLedger, *, actor=(), target=(), origin: str = ORIGIN, **members) -> None:
    """Seal an ERASURE."""
    content = {
        "type": "erasure",
        "org_ref": organization_reference(ACME).hex(),
        "actor": [list(one) for one in actor],
        "target": [list(one) for one in target],
        "basis": "request",
        "requested_day": TODAY,
        **members,
    }
    ledger.control(Kind.ERASURE, content, origin=origin)


class TestEntries:
    """What becomes of each record."""

    def test_an_entry_is_whole(self, ledger) -> None:
        """Document, canonical bytes and what proves them."""
        record = ledger.seal(document(1))
        [found] = read(ledger)
        assert found.entry.document == document(1)
        assert json.loads(found.entry.encoded) == document(1)
        assert (found.entry.leaf, found.entry.body, found.entry.index) == (record.leaf_bytes, record.body, 0)
        assert (found.entry.entry_id, found.entry.organization_id) == (document(1)["id"], ACME)

    def test_the_reasons(self, ledger) -> None:
        """Everything that is not delivered says why."""
        ledger.seal(document(1, organization_id="org_other"))
        ledger.quarantine()
        ledger.control(
            Kind.POLICY,
            {"type": "policy", "org_ref": "00" * 16, "plan": "startup", "policy": "startup", "retention_days": 30},
        )
        ledger.seal(document(2))
        assert [found.reason for found in read(ledger)] == ["organization", "quarantine", "control", ""]

    def test_expiry(self, ledger) -> None:
        """Up to the last day of its retention an entry is delivered, from the next on it is not."""
        ledger.seal(document(1))
        assert read(ledger, today=TODAY + RETENTION_DAYS)[0].entry is not None
        assert read(ledger, today=TODAY + RETENTION_DAYS + 1)[0].reason == "expired"

    def test_an_extension_prolongs(self, ledger) -> None:
        """EXTEND moves the day."""
        ledger.seal(document(1))
        extend = {"type": "extend", "org_ref": organization_reference(ACME).hex(), "first_seq": 0, "last_seq": 0}
        ledger.control(Kind.EXTEND, extend | {"retention_days": 90})
        assert read(ledger, today=TODAY + 60)[0].entry is not None

    def test_a_deleted_body_that_nobody_expired(self, ledger) -> None:
        """A body that is missing before its time is damage, never silence."""
        record = ledger.seal(document(1))
        ledger.change(record, body=None)
        with pytest.raises(RecordUndeliverable, match="no EXPIRY record names it") as caught:
            read(ledger)
        assert caught.value.code == "record_undeliverable"
        assert "klyra-audit verify" in caught.value.remedy

    def test_a_changed_body(self, ledger) -> None:
        """What is not what was sealed is not passed on as if it were."""
        record = ledger.seal(document(1))
        sections = replace(record.body.sections, core=record.body.sections.core.replace(b"success", b"failure"))
        ledger.change(record, body=replace(record.body, sections=sections))
        with pytest.raises(RecordUndeliverable, match=f"Record 0 of {ORIGIN}"):
            read(ledger)


class TestNewOrganizations:
    """Organizations that were entitled a moment ago."""

    @pytest.fixture
    def ledger(self) -> MemoryLedger:
        """Entries of an old organization around one of a new one."""
        ledger = MemoryLedger()
        for name in (ACME, "org_new", ACME):
            ledger.seal(document(1, organization_id=name))
        return ledger

    def test_the_registry_is_asked_again(self, ledger) -> None:
        """An entry of somebody unknown is passed over only by an answer that is newer than the entry."""
        found = EntrySource(ledger, Entitled("org_new"), lambda: TODAY).read_on(ORIGIN, 0, 10)
        assert [one.reason for one in found] == ["", "", ""]

    def test_until_it_can_be_asked_delivery_waits(self, ledger) -> None:
        """What stands before the entry is delivered, the entry itself is waited for."""
        entitled = Entitled("org_new", fresh=False)
        source = EntrySource(ledger, entitled, lambda: TODAY)
        assert [one.index for one in source.read_on(ORIGIN, 0, 10)] == [0]
        entitled.fresh = True
        assert [one.reason for one in source.read_on(ORIGIN, 1, 10)] == ["", ""]

    def test_once_is_enough(self, ledger) -> None:
        """Up to where the ledger ended when the registry answered, it is not asked again."""
        entitled = Entitled()
        source = EntrySource(ledger, entitled, lambda: TODAY)
        source.read_on(ORIGIN, 0, 1)
        source.read_on(ORIGIN, 0, 2)
        entitled.fresh = False
        assert [one.reason for one in source.read_on(ORIGIN, 0, 10)] == ["", "organization", ""]
        ledger.seal(document(1, organization_id="org_new"))
        assert len(source.read_on(ORIGIN, 0, 10)) == 3


class TestErasure:
    """Erased sections."""

    def test_it_counts_from_its_sealing_on(self, ledger) -> None:
        """An actor that is erased further on in the ledger is not delivered, though its bytes still lie there."""
        ledger.seal(document(1))
        erasure(ledger, actor=[(0, 0)])
        [found, _] = read(ledger)
        assert found.entry.redacted == ("actor",)
        assert found.entry.body.sections.actor is None
        assert found.entry.body.salts.actor == bytes(16)
        for personal in ("key_9z8y7x6w5v4u", "198.51.100.123", "klyra-sdk"):
            assert personal not in found.entry.encoded.decode()

    def test_overwritten_sections(self, ledger) -> None:
        """Zeros are not passed on."""
        record = ledger.seal(document(1))
        erasure(ledger, actor=[(0, 5)])
        ledger.erase(record, "actor")
        assert read(ledger)[0].entry.body.sections.actor is None

    def test_a_target(self, ledger) -> None:
        """The person acted upon is erased apart from the actor."""
        ledger.seal(document(1, resource={"type": "user", "id": "usr_9", "name": "Ada"}))
        erasure(ledger, target=[(0, 0)])
        entry = read(ledger)[0].entry
        assert (entry.redacted, "usr_9" in entry.encoded.decode()) == (("target",), False)
        assert entry.body.sections.actor is not None
        assert Salts.unpack(entry.body.salts.pack()).target == bytes(16)

    def test_others_stay_whole(self, ledger) -> None:
        """Only the sequences that are named."""
        for number in range(3):
            ledger.seal(document(number))
        erasure(ledger, actor=[(1, 1)])
        assert [found.entry.redacted for found in read(ledger)[:3]] == [(), ("actor",), ()]

    def test_in_a_later_shard(self) -> None:
        """An ERASURE may stand in another year than what it names."""
        ledger = MemoryLedger(ORIGIN, NEXT)
        ledger.seal(document(1))
        erasure(ledger, actor=[(0, 0)], origin=NEXT, log=ORIGIN)
        assert read(ledger)[0].entry.redacted == ("actor",)

    def test_without_a_record_it_is_damage(self, ledger) -> None:
        """Overwritten bytes that no ERASURE names are not taken for an erasure."""
        ledger.erase(ledger.seal(document(1)), "actor")
        with pytest.raises(RecordUndeliverable, match="no ERASURE record says so"):
            read(ledger)


class TestPosition:
    """From shard to shard."""

    @pytest.fixture
    def years(self) -> MemoryLedger:
        """Two shards with two entries each."""
        ledger = MemoryLedger(ORIGIN, NEXT)
        for origin in (ORIGIN, ORIGIN, NEXT, NEXT):
            ledger.seal(document(1), origin=origin)
        return ledger

    def test_where_it_begins(self, years) -> None:
        """With the oldest record, or behind the newest."""
        assert LedgerPosition(years).first() == Cursor(ORIGIN, 0)
        assert LedgerPosition(years, from_end=True).first() == Cursor(NEXT, 2)

    def test_the_next_shard_follows_at_the_end(self, years) -> None:
        """Not before the last record, and not behind the newest shard."""
        position = LedgerPosition(years)
        assert position.after(Cursor(ORIGIN, 1)) is None
        assert position.after(Cursor(ORIGIN, 2)) == Cursor(NEXT, 0)
        assert position.after(Cursor(NEXT, 2)) is None

    def test_a_dropped_shard(self, years) -> None:
        """When all of a shard has expired and it is gone, the oldest one after it follows."""
        assert LedgerPosition(years).checked(Cursor(ORIGIN.replace("2026", "2025"), 7)) == Cursor(ORIGIN, 0)

    @pytest.mark.parametrize(
        "cursor", [Cursor("other.log/c1/2026", 1), Cursor("nonsense", 1), Cursor(THIRD, 1), Cursor(NEXT, 3)]
    )
    def test_another_ledger(self, years, cursor) -> None:
        """A cursor that this ledger cannot have moved halts: nothing is guessed, nothing is skipped."""
        with pytest.raises(LedgerBehindDestination) as caught:
            LedgerPosition(years).checked(cursor)
        assert caught.value.code == "ledger_behind_destination"
        assert "Restore the newest ledger" in caught.value.remedy

    def test_a_batch_beyond_the_end(self, years) -> None:
        """What was under way must be there, too."""
        with pytest.raises(LedgerBehindDestination):
            LedgerPosition(years).checked(Cursor(NEXT, 1, (Span(1, 3),)))

    def test_a_shard_left_behind(self, years) -> None:
        """What a disaster took of it was delivered before: delivery goes on with what follows."""
        years.left.add(ORIGIN)
        position = LedgerPosition(years)
        cursor = position.checked(Cursor(ORIGIN, 9, (Span(9, 12),)))
        assert (cursor, position.after(cursor)) == (Cursor(ORIGIN, 2), Cursor(NEXT, 0))
