"""What the OpenTelemetry audit draft asks of a record, and what is answered about it."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import rfc8785

from klyra_audit.errors import InvalidEvent
from klyra_audit.mapping.foreign import Foreign
from klyra_collector.receive.audit_record import AuditRecord, examine, with_chain_warnings

MANDATORY = {
    "audit.record.id": "6f1d5f8e-30a4-4d84-9b7e-1a8f0c6b2d11",
    "audit.actor.id": "usr_1",
    "audit.actor.type": "user",
    "audit.action": "DELETE",
    "audit.outcome": "success",
}
RECORD = Foreign("user.removed", None, MANDATORY, 10, 11, "", "")


def changed(**changes: Any) -> Foreign:
    """Return the record with attributes `audit.…` changed, or left out for None; `_` stands for a dot."""
    attributes = MANDATORY | {f"audit.{name.replace('_', '.')}": value for name, value in changes.items()}
    return RECORD._replace(attributes={name: value for name, value in attributes.items() if value is not None})


def refusal(record: Foreign) -> tuple[str, str]:
    """Return where and why a record is refused."""
    with pytest.raises(InvalidEvent) as caught:
        examine(record, None)
    assert caught.value.code == "invalid_event"
    return caught.value.pointer, caught.value.reason


class TestRecord:
    """One record."""

    def test_a_whole_record_is_taken(self) -> None:
        """Its id is echoed unchanged; without a signature nothing is said of one."""
        examined = examine(RECORD, None)
        assert (examined.record_id, examined.verify_status) == (MANDATORY["audit.record.id"], None)
        assert (examined.place, examined.chain_warning) == (None, "")

    def test_the_hash_is_of_the_canonical_record(self) -> None:
        """SHA-256 of RFC 8785 over the record without `audit.integrity.*`, computed here by another library."""
        attributes = {name: {"stringValue": value} for name, value in MANDATORY.items()}
        canonical = rfc8785.dumps(
            {"attributes": attributes, "event_name": "user.removed", "timestamp": "10", "observed_timestamp": "11"}
        )
        assert examine(RECORD, None).integrity_hash == hashlib.sha256(canonical).hexdigest()

    @pytest.mark.parametrize("name", MANDATORY)
    @pytest.mark.parametrize("value", [None, "", 5, ["x"]])
    def test_mandatory_attributes(self, name, value) -> None:
        """Each of the five must be a string that is not empty."""
        record = RECORD._replace(attributes=MANDATORY | {name: value})
        assert refusal(record) == (f"/attributes/{name}", "must be a string that is not empty")

    def test_an_attribute_that_is_missing(self) -> None:
        """A missing one is refused like an empty one."""
        assert refusal(changed(actor_id=None))[0] == "/attributes/audit.actor.id"

    def test_words_of_the_draft(self) -> None:
        """Actor type and outcome are one of three words each."""
        reason = "must be user, service or system"
        assert refusal(changed(actor_type="robot")) == ("/attributes/audit.actor.type", reason)
        reason = "must be success, failure or unknown"
        assert refusal(changed(outcome="SUCCESS")) == ("/attributes/audit.outcome", reason)
        examine(changed(outcome="unknown", actor_type="service"), None)

    def test_fields(self) -> None:
        """Event name and both times must be set, and nothing is observed before it happens."""
        assert refusal(RECORD._replace(event_name="")) == ("/eventName", "must be set")
        assert refusal(RECORD._replace(time_unix_nano=0)) == ("/timeUnixNano", "must be set")
        assert refusal(RECORD._replace(observed_time_unix_nano=0)) == ("/observedTimeUnixNano", "must be set")
        assert refusal(RECORD._replace(observed_time_unix_nano=9))[1] == "lies before timeUnixNano"
        examine(RECORD._replace(observed_time_unix_nano=10), None)

    def test_severity_and_scope_are_no_reason_to_refuse(self) -> None:
        """Exporters should leave them empty; receivers must not judge by them."""
        examine(RECORD._replace(severity_number=9, scope_name="auth", scope_version="1"), None)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("number", 0),
            ("number", "1"),
            ("number", True),
            ("end", "true"),
            ("stream_id", ""),
            ("previous_hash", 5),
            ("previous_record_id", ""),
        ],
    )
    def test_types_of_the_sequence(self, name, value) -> None:
        """The attributes of the chain have the draft's types."""
        record = RECORD._replace(attributes=MANDATORY | {f"audit.sequence.{name}": value})
        assert refusal(record)[0] == f"/attributes/audit.sequence.{name}"

    def test_a_record_that_cannot_be_canonical(self) -> None:
        """NaN is refused with the reason, since there is no hash to answer with."""
        assert "NaN" in refusal(RECORD._replace(attributes=MANDATORY | {"ratio": float("nan")}))[1]

    def test_other_records_are_not_held_to_the_draft(self) -> None:
        """A record without any audit attribute only gets its hash."""
        examined = examine(Foreign("", "hello", {"user.id": "u"}, 0, 0, "", ""), None)
        assert (examined.record_id, len(examined.integrity_hash)) == (None, 64)


def chained(*links: tuple[int, dict[str, Any]], stream: str = "s1") -> dict[int, AuditRecord]:
    """Return examined records of a stream: (number, further attributes of the sequence) each."""
    records = {}
    for position, (number, further) in enumerate(links):
        said = {"number": number, "stream_id": stream} | further
        attributes = MANDATORY | {"audit.record.id": f"r{position}"}
        attributes |= {f"audit.sequence.{name}": value for name, value in said.items()}
        records[position] = examine(RECORD._replace(attributes=attributes), None)
    return records


def warnings(records: dict[int, AuditRecord]) -> dict[int, str]:
    """Return the warnings by position."""
    return {
        position: item.chain_warning for position, item in with_chain_warnings(records).items() if item.chain_warning
    }


class TestChain:
    """Records of one request that name their place in a chain."""

    def test_a_whole_chain(self) -> None:
        """Numbers that follow each other with hash and id of the one before are in order, however they arrive."""
        first = chained((1, {}))[0]
        link = {"previous_hash": first.integrity_hash, "previous_record_id": "r0"}
        assert warnings(chained((1, {}), (2, link))) == {}
        second, third = chained((2, {}), (1, {})).values()
        assert warnings({0: second, 1: third}) == {}

    def test_contradictions(self) -> None:
        """A number twice, a wrong hash, a wrong id, and anything after the end are remarked."""
        assert "twice" in warnings(chained((1, {}), (1, {"end": False})))[1]
        assert "not the hash" in warnings(chained((1, {}), (2, {"previous_hash": "00"})))[1]
        assert "not the id" in warnings(chained((1, {}), (2, {"previous_record_id": "rx"})))[1]
        assert "ended the stream" in warnings(chained((1, {"end": True}), (5, {})))[1]

    def test_what_is_no_contradiction(self) -> None:
        """A gap may lie in another request, a repeat is the same record, another stream is another chain."""
        assert warnings(chained((1, {}), (3, {"previous_hash": "00"}))) == {}
        repeated = chained((1, {}))[0]
        assert warnings({0: repeated, 1: repeated}) == {}
        assert warnings({0: repeated, 1: chained((1, {}), stream="s2")[0]}) == {}
