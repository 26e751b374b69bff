"""What the OpenTelemetry audit draft asks of a record on `/v1/audit`, and what its answer says of it. Pure.

Source: the draft's data model and collector pages (see docs/opentelemetry-audit.md). Our own form is not looked at
here: it has rules, and evidence, of its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from klyra_audit.audit_canonical import NotCanonical
from klyra_audit.errors import InvalidEvent
from klyra_collector.receive.signing_processor import payload_of
from klyra_collector.receive.wire import RECORD_ID

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from klyra_audit.mapping.foreign import Foreign
    from klyra_collector.receive.signing_processor import Signature

PREFIX: Final = "audit."
PASSED, DEFERRED, FAILED = "passed", "deferred", "failed"

_MANDATORY = (RECORD_ID, "audit.actor.id", "audit.actor.type", "audit.action", "audit.outcome")
_WORDS = {
    "audit.actor.type": ("user", "service", "system"),
    "audit.outcome": ("success", "failure", "unknown"),
}
_NUMBER = "audit.sequence.number"
_PREVIOUS_HASH = "audit.sequence.previous_hash"
_PREVIOUS_RECORD = "audit.sequence.previous_record_id"
_END = "audit.sequence.end"
_STREAM = "audit.sequence.stream_id"
_TEXTS = (_PREVIOUS_HASH, _PREVIOUS_RECORD, _STREAM)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlace:
    """Where a record stands in its producer's own chain.

    Attributes:
        stream_id: which chain.
        number: from 1.
        previous_hash, previous_record_id: of the record before it; "" when not said.
        ends: the producer says that it is the last one.
    """

    stream_id: str
    number: int
    previous_hash: str
    previous_record_id: str
    ends: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """What the answer says of a record that is not in our own form.

    Attributes:
        record_id: its `audit.record.id`, unchanged; None if it has none.
        integrity_hash: SHA-256 hex of its canonical form (`klyra_audit.audit_canonical`).
        verify_status: of the signature it brought, `passed` or `deferred`; None if it brought none.
        place: in its producer's chain, None if it says none.
        chain_warning: what is wrong with that place, "" for nothing known.
    """

    record_id: str | None
    integrity_hash: str
    verify_status: str | None
    place: StreamPlace | None
    chain_warning: str = ""


def examine(record: Foreign, signature: Signature | None) -> AuditRecord:
    """Return what is to be answered about a record.

    Raises:
        InvalidEvent: it carries `audit.*` and breaks a MUST of the draft, or it has no canonical form.
    """
    if any(name.startswith(PREFIX) for name in record.attributes):
        _check_fields(record)
        _check_attributes(record.attributes)
    return AuditRecord(
        record_id=_text(record.attributes, RECORD_ID) or None,
        integrity_hash=hashlib.sha256(_canonical(record, signature)).hexdigest(),
        verify_status=None if signature is None else (PASSED if signature.key else DEFERRED),
        place=_place(record.attributes),
    )


def with_chain_warnings(records: Mapping[int, AuditRecord]) -> dict[int, AuditRecord]:
    """Return the records of one request with what their chains contradict; a gap may lie in another request.

    A producer numbers its records, and requests may overtake each other: so they are looked at in the order of their
    numbers, whatever order they came in.
    """
    streams: dict[str, list[tuple[int, int]]] = {}
    for position, record in records.items():
        if record.place is not None:
            streams.setdefault(record.place.stream_id, []).append((record.place.number, position))
    warned = dict(records)
    for stream in streams.values():
        in_order = [position for _, position in sorted(stream)]
        for earlier, later in pairwise(in_order):
            warning = _contradiction(records[earlier], records[later])
            if warning:
                warned[later] = replace(records[later], chain_warning=warning)
    return warned


def _contradiction(earlier: AuditRecord, later: AuditRecord) -> str:
    """Return what is wrong between two records of a stream next to each other by number, "" for nothing."""
    before, place = earlier.place, later.place
    if before is None or place is None or earlier.integrity_hash == later.integrity_hash:
        return ""  # the same record twice is a repeat
    next_to_each_other = place.number == before.number + 1
    rules = (
        (before.number == place.number, f"{_NUMBER} {place.number} stands twice in the stream"),
        (before.ends, f"comes after the record that ended the stream by {_END}"),
        (
            next_to_each_other and place.previous_record_id not in ("", earlier.record_id),
            f"{_PREVIOUS_RECORD} is not the id of the record before it",
        ),
        (
            next_to_each_other and place.previous_hash not in ("", earlier.integrity_hash),
            f"{_PREVIOUS_HASH} is not the hash of the record before it",
        ),
    )
    return next((warning for is_broken, warning in rules if is_broken), "")


def _check_fields(record: Foreign) -> None:
    if not record.event_name:
        raise InvalidEvent("must be set", pointer="/eventName")
    for pointer, time in (
        ("/timeUnixNano", record.time_unix_nano),
        ("/observedTimeUnixNano", record.observed_time_unix_nano),
    ):
        if not time:
            raise InvalidEvent("must be set", pointer=pointer)
    if record.observed_time_unix_nano < record.time_unix_nano:
        raise InvalidEvent("lies before timeUnixNano", pointer="/observedTimeUnixNano")


def _check_attributes(attributes: Mapping[str, Any]) -> None:
    for name in _MANDATORY:
        if not _text(attributes, name):
            raise InvalidEvent("must be a string that is not empty", pointer=f"/attributes/{name}")
    for name, words in _WORDS.items():
        if attributes[name] not in words:
            raise InvalidEvent(f"must be {', '.join(words[:-1])} or {words[-1]}", pointer=f"/attributes/{name}")
    for name, expected in _wrong_types(attributes):
        raise InvalidEvent(f"must be {expected}", pointer=f"/attributes/{name}")


def _wrong_types(attributes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the attributes of the sequence that are not of their type, and what they must be."""
    for name in _TEXTS:
        if name in attributes and not _text(attributes, name):
            yield name, "a string that is not empty"
    number = attributes.get(_NUMBER, 1)
    if type(number) is not int or number < 1:
        yield _NUMBER, "an integer from 1 on"
    if not isinstance(attributes.get(_END, False), bool):
        yield _END, "true or false"


def _place(attributes: Mapping[str, Any]) -> StreamPlace | None:
    if _NUMBER not in attributes or _STREAM not in attributes:
        return None
    return StreamPlace(
        stream_id=attributes[_STREAM],
        number=attributes[_NUMBER],
        previous_hash=_text(attributes, _PREVIOUS_HASH),
        previous_record_id=_text(attributes, _PREVIOUS_RECORD),
        ends=attributes.get(_END) is True,
    )


def _canonical(record: Foreign, signature: Signature | None) -> bytes:
    if signature is not None and signature.payload:
        return signature.payload
    try:
        return payload_of(record)
    except NotCanonical as error:
        raise InvalidEvent(f"has no canonical form: {error}") from error


def _text(attributes: Mapping[str, Any], name: str) -> str:
    value = attributes.get(name)
    return value if isinstance(value, str) else ""
