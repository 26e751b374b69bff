"""A record becomes a document and the document becomes the record again, whatever an event's metadata holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from klyra_audit.format import leaf
from klyra_audit.format.frame import BodyFrame
from klyra_audit.format.sections import Salts
from klyra_collector.store.elasticsearch.documents import (
    EARLIEST,
    LATEST,
    DocumentUnusable,
    MetadataFields,
    Placing,
    document_id,
    entry_document,
    entry_of,
    quarantine_document,
    quarantined_bytes,
    record_of,
    repeated_id,
)
from klyra_collector.store.quarantine_rows import quarantine_row_of
from klyra_collector.store.rows import row_of
from support.entries import ACME, ORIGIN, MemoryLedger, document

FIELDS = MetadataFields(
    {
        "client_ip": {"type": "ip"},
        "categories": {"type": "keyword"},
        "duration_ms": {"type": "long"},
        "complete": {"type": "boolean"},
        "scores": {"type": "flattened"},
    }
)
PLACING = Placing(policy="startup", expire_day=20_600)


def document_of(ledger: MemoryLedger, event: dict[str, Any]) -> Any:
    """Seal an event and return its document as it comes back from the server."""
    return orjson.loads(orjson.dumps(entry_document(ledger.seal(event), PLACING, FIELDS)))


class TestThereAndBack:
    """From record to document to record."""

    def test_a_record_comes_back_as_it_was(self) -> None:
        """Leaf, sections, salts and commitments are all in the document."""
        record = MemoryLedger().seal(document(resource={"type": "user", "id": "usr_1", "name": "Ada"}))
        assert record.body is not None
        record = replace(record, body=replace(record.body, attachment=b"evidence\0"))
        found = record_of(orjson.loads(orjson.dumps(entry_document(record, PLACING, FIELDS))))
        assert found == record

    def test_an_absent_section_stays_absent(self) -> None:
        """What was not there is not there; the salt that was drawn for it is not kept."""
        ledger = MemoryLedger()
        record = ledger.seal(document())
        assert record.body is not None
        found = record_of(entry_document(record, PLACING, FIELDS))
        assert found.body == replace(
            record.body, salts=Salts(record.body.salts.core, record.body.salts.actor, bytes(16))
        )

    def test_an_erased_section_leaves_its_commitment(self) -> None:
        """Neither its text nor its salt nor the fields that copied it are in the document, but the leaf is proven."""
        record = MemoryLedger().seal(document(actor={"type": "user", "id": "usr_secret", "name": "Secret"}))
        made = entry_document(record, PLACING, FIELDS, frozenset({"actor"}))
        assert b"ecret" not in orjson.dumps(made)
        assert made["actor"] == {"type": "user"}
        body = record_of(made).body
        assert isinstance(body, BodyFrame)
        assert body.sections.actor is None
        assert body.commitments.event_commit() == record.leaf.commit

    def test_the_entry_is_the_embedded_stores(self) -> None:
        """What is shown is made from the sections, byte for byte the same for both stores."""
        record = MemoryLedger().seal(document(metadata={"b": 1, "a": {"x.y": [None]}, "client_ip": "::1"}))
        made = orjson.loads(orjson.dumps(entry_document(record, PLACING, FIELDS)))
        assert entry_of(made) == row_of(record).entry

    def test_an_indexed_copy_that_was_edited_is_not_shown(self) -> None:
        """Only sections count."""
        ledger = MemoryLedger()
        made = document_of(ledger, document())
        shown = entry_of(made)
        made["status"] = "failure"
        assert entry_of(made) == shown

    def test_quarantined_input_comes_back_with_its_bytes(self) -> None:
        """The record, and what was kept beside it."""
        ledger = MemoryLedger()
        record = ledger.quarantine(raw=b"\xff not JSON")
        raw = ledger.quarantined(record)
        made = quarantine_document(record, PLACING, quarantine_row_of(record, raw), raw)
        made = orjson.loads(orjson.dumps(made))
        found = record_of(made)
        assert (found.leaf_bytes, found.origin, found.index) == (record.leaf_bytes, ORIGIN, 0)
        assert quarantined_bytes(made) == raw
        assert made["quarantine"]["reason"] == "is not JSON"

    def test_quarantined_input_without_its_bytes(self) -> None:
        """What is gone is absent."""
        record = MemoryLedger().quarantine()
        made = quarantine_document(record, PLACING, quarantine_row_of(record, None), None)
        assert quarantined_bytes(made) is None


class TestFields:
    """What searches look at."""

    def test_envelope(self) -> None:
        """Place, age and stream are fields of their own."""
        ledger = MemoryLedger()
        record = ledger.seal(document())
        klyra = entry_document(record, Placing(policy="startup", expire_day=leaf.NEVER, held=True), FIELDS)["klyra"]
        assert (klyra["log"], klyra["index"], klyra["org_seq"]) == (ORIGIN, 0, 0)
        assert klyra["org_ref"] == record.leaf.org_ref.hex()
        assert klyra["timestamp_ns"] == row_of(record).timestamp_ns
        assert klyra["sealing_day"] == row_of(record).sealing_day
        assert klyra["ingested_at"] == record.leaf.ingest_us // 1000
        assert (klyra["policy"], klyra["expire_day"], klyra["held"]) == ("startup", 4294967295, True)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("client_ip", "198.51.100.1"),
            ("categories", "spam"),
            ("categories", ["spam", "hate"]),
            ("categories", None),
            ("duration_ms", 12),
            ("complete", True),
        ],
    )
    def test_fitting_metadata_has_its_field(self, name: str, value: Any) -> None:
        """A member whose JSON type fits the mapping is there."""
        made = document_of(MemoryLedger(), document(metadata={name: value}))
        assert made["metadata"] == {name: value}
        assert "metadata_other" not in made

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("client_ip", ["198.51.100.1"]),
            ("client_ip", {"v4": "198.51.100.1"}),
            ("categories", {"spam": "yes"}),
            ("categories", ["spam", 1]),
            ("duration_ms", "12"),
            ("duration_ms", True),
            ("complete", 1),
            ("scores", {"spam": "0.9"}),
            ("own.dotted", "x"),
        ],
    )
    def test_any_other_metadata_goes_to_metadata_other(self, name: str, value: Any) -> None:
        """No metadata can make a document that the mapping refuses."""
        made = document_of(MemoryLedger(), document(metadata={name: value}))
        assert made["metadata"] == {}
        assert made["metadata_other"] == {name: value}

    @pytest.mark.parametrize(
        ("timestamp", "indexed"),
        [
            ("2026-03-10T11:00:00.123456789Z", "2026-03-10T11:00:00.123456789Z"),
            ("0001-01-01T00:00:00Z", EARLIEST),
            ("1969-12-31T23:59:59.999Z", EARLIEST),
            ("9999-12-31T23:59:59Z", LATEST),
        ],
    )
    def test_time_outside_of_date_nanos(self, timestamp: str, indexed: str) -> None:
        """The indexed time is the nearest that the server can hold; the timestamp is as sent."""
        made = document_of(MemoryLedger(), document(timestamp=timestamp))
        assert (made["@timestamp"], made["timestamp"]) == (indexed, timestamp)

    def test_ids(self) -> None:
        """An entry's `_id` is found without looking; a later sealing has one of its own."""
        first = document_id(ACME, "log_00000001")
        assert first == "org_acme:log_00000001"
        assert repeated_id(first, ORIGIN, 7) == f"org_acme:log_00000001:{ORIGIN}:7"


class TestForeignDocuments:
    """What no writer of ours made."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda found: found.pop("klyra"),
            lambda found: found["klyra"].pop("leaf"),
            lambda found: found["klyra"].update(leaf="*"),
            lambda found: found["klyra"].update(leaf="AAAA"),
            lambda found: found["klyra"].update(index="x"),
            lambda found: found["klyra"]["sections"].pop("core"),
            lambda found: found["klyra"].update(sections=[]),
            lambda found: found["klyra"]["salts"].update(core=None),
            lambda found: found["klyra"].update(c={"target": "xyz"}),
        ],
    )
    def test_no_record_can_be_read(self, change: Any) -> None:
        """It is refused by type, with what to do."""
        found = document_of(MemoryLedger(), document())
        change(found)
        with pytest.raises(DocumentUnusable) as caught:
            record_of(found)
        assert caught.value.code == "document_unusable"
        assert "klyra-audit verify" in caught.value.remedy

    @pytest.mark.parametrize(
        "change",
        [
            lambda k: k["sections"].update(core=k["sections"]["core"].replace("success", "failure")),
            lambda k: k["salts"].update(core="AAAAAAAAAAAAAAAAAAAAAA=="),
            lambda k: k["sections"].pop("actor"),
        ],
    )
    def test_an_entry_that_its_leaf_does_not_commit_to(self, change: Any) -> None:
        """It is not shown: whoever may add documents could have made it up."""
        written = orjson.loads(orjson.dumps(entry_document(MemoryLedger().seal(document()), PLACING, FIELDS)))
        change(written["klyra"])
        with pytest.raises(DocumentUnusable) as refused:
            entry_of(written)
        assert refused.value.code == "document_unusable"

    def test_sections_that_do_not_join(self) -> None:
        """An entry cannot be shown; neither can bytes of what is no quarantined input."""
        found = document_of(MemoryLedger(), document())
        with pytest.raises(DocumentUnusable):
            quarantined_bytes(found)
        found["klyra"]["sections"]["core"] = "{}"
        with pytest.raises(DocumentUnusable):
            entry_of(found)
