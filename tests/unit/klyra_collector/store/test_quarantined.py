"""Quarantined input in the embedded store: followed, listed, counted, replayed, expired."""

from __future__ import annotations

import pytest

from klyra_audit.format import control
from klyra_audit.format.leaf import Kind
from klyra_audit.format.quarantined import KeptInput, quarantine_reference
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID
from klyra_collector.store.follower import Follower
from klyra_collector.store.quarantined import QuarantineFilters, QuarantineSearch
from klyra_collector.store.rows import RecordUnusable
from support.entries import ACME, ORIGIN, RETENTION_DAYS, TODAY, TODAY_US, document, organization_reference

OTHER = "org_other"
GONE = TODAY + RETENTION_DAYS + 1
REFERENCE = organization_reference(ACME).hex()


def packed(text: str = "x", key_id: str | None = "key_1", encoding: str = "otlp-json") -> bytes:
    """Return the bytes kept of an input."""
    return KeptInput(encoding, key_id, text.encode()).pack()


def search(organization_id: str = ACME, *, today: int = TODAY, order="desc", after=None, snapshot=None, **filters):
    """Return a list of an organization."""
    return QuarantineSearch(
        organization_id=organization_id,
        filters=QuarantineFilters(**filters),
        today=today,
        order=order,
        after=after,
        snapshot=snapshot,
    )


def replayed(record, entry_id: str = "log_replayed1", **members):
    """Return the entry that tells of a replay."""
    resource = {"type": "quarantine", "id": quarantine_reference(record.leaf_bytes), "name": None}
    told = {"event_type": "quarantine.replayed", "resource": resource, "metadata": {"entry_id": entry_id}}
    return document(99, **(told | members))


@pytest.fixture
def follow(store, ledger):
    """Return what follows the ledger to its end; the organization has an entry, as each has."""
    ledger.seal(document(0))

    def run() -> None:
        follower = Follower(ledger, store)
        while follower.step():
            pass

    return run


class TestList:
    """What is listed."""

    def test_a_record_says_what_it_is_and_where_from(self, store, ledger, follow) -> None:
        """Reason and pointer come from the core, the source from the bytes, time and name from the leaf."""
        record = ledger.quarantine(raw=packed(), reason="is bad", pointer="/actor/id")
        follow()
        [found] = store.quarantined(search(), 10)
        row = found.row
        assert (row.reason, row.pointer, row.size, row.sealed_us) == ("is bad", "/actor/id", len(packed()), TODAY_US)
        assert (row.key_id, row.encoding, row.leaf) == ("key_1", "otlp-json", record.leaf_bytes)
        assert (found.key.origin, found.key.index, found.replayed_as) == (ORIGIN, record.index, None)
        assert store.quarantined_one(ACME, row.reference, TODAY) == found

    @pytest.mark.parametrize("raw", [None, b"others"])
    def test_bytes_that_are_gone_or_others_say_nothing(self, store, ledger, follow, raw) -> None:
        """The record stays in the list, its source unknown."""
        record = ledger.quarantine(raw=packed())
        ledger.kept[record.origin, record.index] = raw
        follow()
        [found] = store.quarantined(search(), 10)
        assert (found.row.encoding, found.row.key_id) == ("unknown", None)

    def test_a_core_of_something_else_stops_the_follower(self, store, ledger, follow) -> None:
        """A record that cannot be understood is never skipped."""
        record = ledger.seal(document(1))
        ledger.change(record, leaf=record.leaf._replace(kind=Kind.QUARANTINE))
        with pytest.raises(RecordUnusable) as caught:
            follow()
        assert caught.value.code == "record_unusable"
        assert "verify" in caught.value.remedy

    def test_others_have_lists_of_their_own(self, store, ledger, follow) -> None:
        """Nobody sees another organization's, and the operator's are under its own name."""
        ledger.seal(document(1, organization_id=OTHER))
        record = ledger.quarantine()
        own = ledger.quarantine(organization_id=OPERATOR_ORGANIZATION_ID)
        follow()
        reference = quarantine_reference(record.leaf_bytes)
        assert store.quarantined(search(OTHER), 10) == store.quarantined(search("org_none"), 10) == []
        assert store.quarantined_one(OTHER, reference, TODAY) is None
        [found] = store.quarantined(search(OPERATOR_ORGANIZATION_ID), 10)
        assert found.key.index == own.index

    def test_an_organization_without_entries_is_found_once_it_has_one(self, store, ledger) -> None:
        """Whose input it is becomes known with the organization's first entry."""
        ledger.quarantine(organization_id=OTHER)
        Follower(ledger, store).step()
        assert store.quarantined(search(OTHER), 10) == []
        ledger.seal(document(1, organization_id=OTHER))
        Follower(ledger, store).step()
        assert len(store.quarantined(search(OTHER), 10)) == 1

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({}, [3, 2, 1, 0]),
            ({"start_us": TODAY_US + 1, "end_us": TODAY_US + 3}, [2, 1]),
            ({"key_ids": ("key_a", "key_b")}, [2, 1, 0]),
            ({"encodings": ("forward",)}, [2]),
            ({"pointer": "/actor"}, [1, 0]),
            ({"pointer": "/actor/id", "key_ids": ("key_a",)}, [0]),
            ({"state": "waiting"}, [3, 2, 0]),
            ({"state": "replayed"}, [1]),
        ],
    )
    def test_filters(self, store, ledger, follow, filters, expected) -> None:
        """Values of one filter are OR, filters are AND."""
        sources = [("key_a", "otlp-json"), ("key_a", "otlp-json"), ("key_b", "forward"), (None, "unknown")]
        pointers = ["/actor/id", "/actor/name", "/status", ""]
        records = [
            ledger.quarantine(raw=packed(str(number), *source), pointer=pointer, ingest_us=TODAY_US + number)
            for number, (source, pointer) in enumerate(zip(sources, pointers, strict=True))
        ]
        ledger.seal(replayed(records[1]))
        follow()
        found = store.quarantined(search(**filters), 10)
        assert [item.key.index - records[0].index for item in found] == expected

    @pytest.mark.parametrize("order", ["asc", "desc"])
    def test_pages_meet_each_record_once(self, store, ledger, follow, order) -> None:
        """Records of one microsecond are told apart by index; what comes later is on no page of the list."""
        for number in range(5):
            ledger.quarantine(raw=packed(str(number)), ingest_us=TODAY_US + number // 3)
        follow()
        snapshot, after, seen = store.snapshot(), None, []
        ledger.quarantine(raw=packed("late"))
        while page := store.quarantined(search(order=order, after=after, snapshot=snapshot), 2):
            follow()
            seen += [item.key.index for item in page]
            after = page[-1].key
        assert seen == sorted(range(1, 6), reverse=order == "desc")


class TestReplayed:
    """What `quarantine.replayed` entries change."""

    def test_the_record_names_its_first_entry(self, store, ledger, follow) -> None:
        """A second replay changes nothing."""
        record = ledger.quarantine()
        ledger.seal(replayed(record, "log_first0001"))
        ledger.seal(replayed(record, "log_second001", id="log_other0001"))
        follow()
        [found] = store.quarantined(search(), 10)
        assert found.replayed_as == "log_first0001"

    @pytest.mark.parametrize(
        "members", [{"status": "failure"}, {"organization_id": OTHER}, {"metadata": {"entry_id": 1}}]
    )
    def test_what_tells_of_nothing_changes_nothing(self, store, ledger, follow, members) -> None:
        """A failure, another organization's entry, and one that no collector writes."""
        ledger.seal(replayed(ledger.quarantine(), **members))
        follow()
        [found] = store.quarantined(search(), 10)
        assert found.replayed_as is None

    def test_it_stays_replayed_when_its_entry_is_erased(self, store, ledger, follow) -> None:
        """A store built again still knows that nothing waits."""
        record = ledger.quarantine()
        ledger.seal(replayed(record, metadata={}))
        follow()
        [found] = store.quarantined(search(), 10)
        assert found.replayed_as == ""
        assert store.quarantine_backlog(TODAY).waiting == 0


class TestCounts:
    """Counts per source and per reason."""

    def test_summary(self, store, ledger, follow) -> None:
        """The largest first; what was replayed does not wait."""
        first = ledger.quarantine(raw=packed("1"), reason="bad id", pointer="/id")
        ledger.quarantine(raw=packed("2"), reason="bad id", pointer="/id", ingest_us=TODAY_US + 5)
        ledger.quarantine(raw=packed("3", "key_2", "forward"), reason="bad actor", pointer="/actor")
        ledger.quarantine(raw=packed("4"), organization_id=OTHER)
        ledger.seal(replayed(first))
        follow()
        summary = store.quarantine_summary(search(), 10)
        sources = [(item.key_id, item.encoding, item.records, item.waiting) for item in summary.sources]
        assert sources == [("key_1", "otlp-json", 2, 1), ("key_2", "forward", 1, 1)]
        assert summary.sources[0].newest_us == TODAY_US + 5
        reasons = [(item.pointer, item.reason, item.records, item.waiting) for item in summary.reasons]
        assert reasons == [("/id", "bad id", 2, 1), ("/actor", "bad actor", 1, 1)]
        assert len(store.quarantine_summary(search(), 1).sources) == 1
        assert store.quarantine_summary(search(key_ids=("key_2",)), 9).sources == summary.sources[1:]

    def test_backlog_is_of_everybody(self, store, ledger, follow) -> None:
        """All organizations count, what was replayed or has expired does not."""
        assert (store.quarantine_backlog(TODAY).waiting, store.quarantine_backlog(TODAY).oldest_us) == (0, None)
        record = ledger.quarantine(raw=packed("1"), ingest_us=TODAY_US)
        ledger.quarantine(raw=packed("2"), organization_id=OTHER, ingest_us=TODAY_US + 1)
        ledger.seal(replayed(record))
        follow()
        backlog = store.quarantine_backlog(TODAY)
        assert (backlog.waiting, backlog.oldest_us) == (1, TODAY_US + 1)
        assert store.quarantine_backlog(GONE).waiting == 0


class TestRetention:
    """Quarantined input is kept as long as the plan says."""

    def expiry(self, count: int, held: control.Ranges = ()) -> dict:
        """Return an EXPIRY document of Acme."""
        digest = control.seq_digest(range(count))
        return control.Expiry(organization_reference(ACME), GONE, count, digest, held).document()

    def test_it_is_gone_at_the_midnight_that_ends_its_time(self, store, ledger, follow) -> None:
        """Whatever is still in the table."""
        record = ledger.quarantine()
        follow()
        reference = quarantine_reference(record.leaf_bytes)
        assert len(store.quarantined(search(today=GONE - 1), 10)) == 1
        assert store.quarantined(search(today=GONE), 10) == []
        assert store.quarantined_one(ACME, reference, GONE) is None
        assert store.quarantine_summary(search(today=GONE), 9).sources == ()

    def test_expiry_deletes_what_it_names(self, store, ledger, follow, monkeypatch) -> None:
        """In small steps together with the entries; what is held stays."""
        monkeypatch.setattr("klyra_collector.store.follower._EXPIRE", 2)
        for number in range(4):
            ledger.quarantine(raw=packed(str(number)))
        ledger.seal(document(7))
        ledger.control(Kind.EXPIRY, self.expiry(5, held=((2, 2),)))
        follow()
        assert [item.key.index for item in store.quarantined(search(today=0), 10)] == [2]
        assert store.get(ACME, document(7)["id"], 0) is None

    def test_an_extension_keeps_it(self, store, ledger, follow) -> None:
        """As it keeps entries."""
        ledger.quarantine()
        extend = {"type": "extend", "org_ref": REFERENCE, "first_seq": 0, "last_seq": 1, "retention_days": 90}
        ledger.control(Kind.EXTEND, extend)
        follow()
        assert len(store.quarantined(search(today=TODAY + 90), 10)) == 1
        assert store.quarantined(search(today=TODAY + 91), 10) == []
