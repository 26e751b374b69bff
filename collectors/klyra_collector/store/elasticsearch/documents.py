"""A sealed record as a document of Elasticsearch, and back (DESIGN section 8).

What searches look at is copied out of the sections into indexed fields; what is shown, verified and rebuilt is read
from the sections alone, which stand under `klyra.sections` as the canonical texts that were sealed.

    @timestamp, timestamp, id, organization_id, event_type, action, status, schema
    actor, resource           {type, id, name}
    metadata                  members that the mapping has a field for, and whose JSON type fits it
    metadata_other            all other members: `flattened`, so that no metadata can make a document unacceptable
    klyra.log, .index, .leaf  where it was sealed, and the 112 bytes (base64)
    klyra.org_ref, .org_seq, .flags, .sealing_day, .ingested_at   as the leaf says; ingested_at in milliseconds
    klyra.timestamp_ns        the sort key: the timestamp in nanoseconds since 1970
    klyra.expire_day          effective: the leaf's, or a later one by EXTEND; 4294967295 never
    klyra.shown_from          of a later sealing of an id: the day on which the earlier one's retention ends
    klyra.policy, .held       retention policy of its stream; whether a legal hold keeps it
    klyra.sections, .salts    {core, actor, target}: canonical text; base64. What is absent or erased is left out
    klyra.c                   {actor, target}: commitments, hex, of what was erased
    klyra.evidence            base64 of what was kept of an emitter's batch; left out when there is none

A quarantined input has the same `klyra` members, and instead of an entry

    @timestamp                when it was sealed
    quarantine                {reference, encoding, key_id, reason, pointer, sha256, size} and raw, base64 of its bytes
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from klyra_audit import timestamps
from klyra_audit.errors import Rejected
from klyra_audit.format.errors import FormatError
from klyra_audit.format.frame import BodyFrame
from klyra_audit.format.leaf import Leaf
from klyra_audit.format.sections import ABSENT, SALT_SIZE, Commitments, Salts, Sections, commitments
from klyra_collector.seal.reader import SealedRecord
from klyra_collector.store.rows import clamped, entry_text, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.sections import SectionName
    from klyra_collector.store.quarantined import QuarantineRow

EARLIEST: Final = "1970-01-01T00:00:00Z"  # what `date_nanos` can hold: reference, "date_nanos field type"
LATEST: Final = "2262-04-11T23:47:16Z"
_LATEST_NS: Final = timestamps.to_nanoseconds(LATEST)

_NO_SALT: Final = bytes(SALT_SIZE)
_NOTHING: frozenset[SectionName] = frozenset()


class DocumentUnusable(Rejected):
    """A document that no writer of ours made, or that someone has changed: no record can be read from it."""

    code = "document_unusable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placing:
    """Where a document goes and how long it stays.

    Attributes:
        policy: retention policy of the stream.
        expire_day: effective; `leaf.NEVER` for ever.
        held: a legal hold keeps it.
        shown_from: the UTC day from which it is shown, if another document has its id; None for one that is.
    """

    policy: str
    expire_day: int
    held: bool = False
    shown_from: int | None = None


class MetadataFields:
    """Which members of an entry's metadata get a field of their own."""

    def __init__(self, properties: Mapping[str, Mapping[str, Any]]) -> None:
        """Take the properties of `metadata` from the mapping that is in force."""
        fitting = {name: _FITTING.get(str(field.get("type"))) for name, field in properties.items()}
        self._fitting: dict[str, Callable[[object], bool]] = {
            name: fits for name, fits in fitting.items() if fits is not None
        }

    def split(self, metadata: JsonObject) -> tuple[JsonObject, JsonObject]:
        """Return the members for fields of their own, and all others."""
        fitting = self._fitting
        own: JsonObject = {}
        other: JsonObject = {}
        for name, value in metadata.items():
            fits = fitting.get(name)
            (own if fits is not None and fits(value) else other)[name] = value
        return own, other


def document_id(organization_id: str, entry_id: str) -> str:
    """Return the `_id` of an entry's first sealing."""
    return f"{organization_id}:{entry_id}"


def repeated_id(document_id: str, origin: str, index: int) -> str:
    """Return the `_id` of a later sealing of the same entry id, which has a document of its own."""
    return f"{document_id}:{origin}:{index}"


def entry_document(
    record: SealedRecord,
    placing: Placing,
    fields: MetadataFields,
    erased: frozenset[SectionName] = _NOTHING,
) -> JsonObject:
    """Return the document of an EVENT record with a body, without `erased` sections.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the sections do not join to an entry.
    """
    event = joined(record, erased)
    timestamp = event["timestamp"]
    nanoseconds = timestamps.to_nanoseconds(timestamp)
    own, other = fields.split(event["metadata"])
    document = {
        "@timestamp": _indexed_time(timestamp, nanoseconds),
        "timestamp": timestamp,
        "id": event["id"],
        "organization_id": event["organization_id"],
        "event_type": event["event_type"],
        "action": event["action"],
        "status": event["status"],
        "schema": event["schema"],
        "actor": event["actor"],
        "resource": event["resource"],
        "metadata": own,
        "klyra": _envelope(record, placing, clamped(nanoseconds), erased),
    }
    if other:
        document["metadata_other"] = other
    return document


def quarantine_document(record: SealedRecord, placing: Placing, row: QuarantineRow, raw: bytes | None) -> JsonObject:
    """Return the document of a QUARANTINE record with a body; `raw` is what was kept of the input, None if gone."""
    sealed_ns = record.leaf.ingest_us * 1000
    quarantine: JsonObject = {
        "reference": row.reference,
        "encoding": row.encoding,
        "key_id": row.key_id,
        "reason": row.reason,
        "pointer": row.pointer,
        "sha256": row.sha256,
        "size": row.size,
    }
    if raw is not None:
        quarantine["raw"] = as_base64(raw)
    return {
        "@timestamp": timestamps.from_nanoseconds(sealed_ns),
        "quarantine": quarantine,
        "klyra": _envelope(record, placing, sealed_ns, _NOTHING),
    }


def record_of(document: Mapping[str, Any]) -> SealedRecord:
    """Return the record of an entry's or quarantined input's document, as it was sealed; nothing is checked.

    What was erased is absent in the record; its commitment is kept.

    Raises:
        DocumentUnusable: a member is missing or is not what it must be.
    """
    try:
        klyra = document["klyra"]
        encoded = _bytes(klyra["leaf"])
        index = int(klyra["index"])
        leaf = Leaf.unpack(encoded)
        return SealedRecord(str(klyra["log"]), index, encoded, leaf, _body(index, klyra), None)
    except (KeyError, TypeError, ValueError, AttributeError, FormatError) as error:
        raise _unusable(error) from error


def quarantined_bytes(document: Mapping[str, Any]) -> bytes | None:
    """Return what was kept of a quarantined input, None if it is not in its document; errors as `record_of`."""
    try:
        raw = document["quarantine"].get("raw")
        return None if raw is None else _bytes(raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unusable(error) from error


def entry_of(document: Mapping[str, Any]) -> bytes:
    """Return the JSON text of the entry that the API shows, byte for byte as the embedded store has it.

    Raises:
        DocumentUnusable: the sections are not those that the leaf commits to, or do not join to an entry.
    """
    record = record_of(document)
    if record.body is None or record.body.commitments.event_commit() != record.leaf.commit:
        raise _unusable(ValueError("what it carries is not what its leaf commits to"))
    try:
        return entry_text(joined(record))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unusable(error) from error


def _envelope(
    record: SealedRecord, placing: Placing, timestamp_ns: int, erased: frozenset[SectionName]
) -> dict[str, Any]:
    """Return what is needed to find, keep and verify a record."""
    body, leaf = record.body, record.leaf
    assert body is not None  # noqa: S101 - the caller has looked
    parts, salts = body.sections, body.salts
    sections = {"core": parts.core.decode()}
    salt_texts = {"core": as_base64(salts.core)}
    if parts.actor and "actor" not in erased:
        sections["actor"], salt_texts["actor"] = parts.actor.decode(), as_base64(salts.actor)
    if parts.target and "target" not in erased:
        sections["target"], salt_texts["target"] = parts.target.decode(), as_base64(salts.target)
    envelope: dict[str, Any] = {
        "log": record.origin,
        "index": record.index,
        "leaf": as_base64(record.leaf_bytes),
        "org_ref": leaf.org_ref.hex(),
        "org_seq": leaf.org_seq,
        "flags": leaf.flags,
        "timestamp_ns": timestamp_ns,
        "sealing_day": timestamps.day_of(leaf.ingest_us),
        "ingested_at": leaf.ingest_us // 1000,
        "expire_day": placing.expire_day,
        "policy": placing.policy,
        "held": placing.held,
        "sections": sections,
        "salts": salt_texts,
    }
    if placing.shown_from is not None:
        envelope["shown_from"] = placing.shown_from
    remaining = _commitments_of_absent(body.commitments, sections)
    if remaining:
        envelope["c"] = remaining
    if body.attachment:
        envelope["evidence"] = as_base64(body.attachment)
    return envelope


def _commitments_of_absent(proofs: Commitments, sections: Mapping[str, str]) -> dict[str, str]:
    """Return the commitments that cannot be recomputed any more, since their sections were erased."""
    remaining: dict[str, str] = {}
    if "actor" not in sections and proofs.actor != ABSENT:
        remaining["actor"] = proofs.actor.hex()
    if "target" not in sections and proofs.target != ABSENT:
        remaining["target"] = proofs.target.hex()
    return remaining


def _body(index: int, klyra: Mapping[str, Any]) -> BodyFrame:
    texts, salt_texts, remaining = klyra["sections"], klyra["salts"], klyra.get("c", {})
    parts = Sections(
        texts["core"].encode(),
        texts["actor"].encode() if "actor" in texts else None,
        texts["target"].encode() if "target" in texts else None,
    )
    salts = Salts(
        _bytes(salt_texts["core"]),
        _bytes(salt_texts["actor"]) if "actor" in salt_texts else _NO_SALT,
        _bytes(salt_texts["target"]) if "target" in salt_texts else _NO_SALT,
    )
    found = commitments(parts, salts)
    proofs = Commitments(
        found.core,
        bytes.fromhex(remaining["actor"]) if "actor" in remaining else found.actor,
        bytes.fromhex(remaining["target"]) if "target" in remaining else found.target,
    )
    evidence = klyra.get("evidence")
    return BodyFrame(index, parts, salts, proofs, b"" if evidence is None else _bytes(evidence))


def _indexed_time(timestamp: str, nanoseconds: int) -> str:
    """Return the time by which a document is found: what lies outside `date_nanos` counts as its nearest end."""
    if nanoseconds < 0:
        return EARLIEST
    return timestamp if nanoseconds <= _LATEST_NS else LATEST


def _is_words(value: object) -> bool:
    """Say whether a value is a text, a list of texts, or nothing."""
    if type(value) is list:
        return all(type(item) is str for item in value)
    return value is None or type(value) is str


def _is_number(value: object) -> bool:
    return value is None or type(value) is int


def _is_boolean(value: object) -> bool:
    return value is None or type(value) is bool


def _is_text(value: object) -> bool:
    return value is None or type(value) is str


_FITTING: Final[Mapping[str, Callable[[object], bool]]] = {
    "keyword": _is_words,
    "ip": _is_text,
    "long": _is_number,
    "boolean": _is_boolean,
}


def as_base64(content: bytes) -> str:
    """Return bytes as they stand in documents."""
    return binascii.b2a_base64(content, newline=False).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _unusable(error: Exception) -> DocumentUnusable:
    return DocumentUnusable(
        f"A document of the store is none that was written from the ledger ({type(error).__name__}).",
        remedy="Compare the store with the ledger: klyra-audit verify elasticsearch+https://HOST:9200.",
    )
