"""From a sealed record to a row of a store: checked against its commitments, joined, and taken apart by filter."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from klyra_audit import timestamps
from klyra_audit.errors import Halted
from klyra_audit.format import canonical, sections
from klyra_collector.store.addresses import key_of

if TYPE_CHECKING:
    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.frame import BodyFrame
    from klyra_audit.format.sections import SectionName
    from klyra_collector.seal.reader import SealedRecord

# The sort key is a signed 64-bit number: timestamps before 1677-09-21 all count as that moment.
LOWEST_NS = -(2**63)
HIGHEST_NS = 2**63 - 1

_NOTHING: frozenset[SectionName] = frozenset()


class RecordUnusable(Halted):
    """A record that the store cannot apply, and must not skip."""

    code = "record_unusable"


class Row(NamedTuple):
    """An entry with everything that filters, order and retention look at. A tuple, since one is made per event.

    Attributes:
        leaf_index: place of the leaf in its shard.
        client_ip: 16-byte key of `metadata.client_ip`, None without an address there.
        expire_day: the leaf's; an EXTEND may move it later.
        sealing_day: UTC day on which it was sealed.
        leaf: 112 bytes.
        entry: JSON text of the eight members, in the product page's order.
    """

    leaf_index: int
    organization_id: str
    org_ref: bytes
    id: str
    timestamp_ns: int
    event_type: str
    actor_type: str
    actor_id: str | None
    resource_type: str
    resource_id: str | None
    action: str
    status: str
    client_ip: bytes | None
    expire_day: int
    sealing_day: int
    org_seq: int
    leaf: bytes
    entry: bytes


def clamped(nanoseconds: int) -> int:
    """Return a time as a sort key holds it."""
    return min(max(nanoseconds, LOWEST_NS), HIGHEST_NS)


def is_erased(salt: bytes, encoded: bytes | None) -> bool:
    """Say whether a section's salt and bytes were overwritten with zeros (DESIGN section 5)."""
    return encoded is not None and not any(salt) and not any(encoded)


def erased_sections(body: BodyFrame) -> frozenset[SectionName]:
    """Return the sections of a body that were overwritten."""
    if not body.salts.actor.startswith(b"\0") and not body.salts.target.startswith(b"\0"):
        return _NOTHING
    found: set[SectionName] = set()
    if is_erased(body.salts.actor, body.sections.actor):
        found.add("actor")
    if is_erased(body.salts.target, body.sections.target):
        found.add("target")
    return frozenset(found)


def check(record: SealedRecord) -> None:
    """Return if the record's content is what its leaf commits to.

    An erased section, and a body that is gone, commit to nothing any more and are not looked at here.

    Raises:
        RecordUnusable: naming origin and index.
    """
    body = record.body
    if body is not None:
        _check_body(record, body)
    elif record.control is not None:
        encoded = canonical.encode(record.control)
        if sections.control_commit(encoded) != record.leaf.commit:
            raise unusable(record, "its control document is not the one that was sealed")


def row_of(record: SealedRecord, erased: frozenset[SectionName] = _NOTHING) -> Row:
    """Return the row of an EVENT record that has a body, as `check` has found it, without `erased` sections.

    Raises:
        RecordUnusable: the sections do not join to an entry.
    """
    try:
        return _row(record, joined(record, erased))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise unusable(record, f"its sections do not join to an entry ({type(error).__name__})") from error


def unusable(record: SealedRecord, reason: str) -> RecordUnusable:
    """Return the error for a record, with what to do about it."""
    return RecordUnusable(
        f"Record {record.index} of {record.origin} cannot be stored: {reason}.",
        remedy="Run `klyra-audit verify` on the ledger; nothing after this record is searchable until it is mended.",
    )


def _check_body(record: SealedRecord, body: BodyFrame) -> None:
    proofs, parts, salts = body.commitments, body.sections, body.salts
    if proofs.event_commit() != record.leaf.commit:
        raise unusable(record, "its commitments are not those of its leaf")
    erased = erased_sections(body)
    found = sections.commitments(parts, salts)
    intact = (
        found.core == proofs.core
        and ("actor" in erased or found.actor == proofs.actor)
        and ("target" in erased or found.target == proofs.target)
    )
    if not intact:
        raise unusable(record, "its body is not the one that was sealed")


def joined(record: SealedRecord, erased: frozenset[SectionName] = _NOTHING) -> JsonObject:
    """Join the sections of a record that has a body, without the `erased` ones.

    What hashes to the leaf's commit was validated when it was sealed, so it is not here.
    """
    assert record.body is not None  # noqa: S101 - the caller has looked
    parts = record.body.sections
    document: JsonObject = orjson.loads(parts.core)
    for name, encoded in (("actor", parts.actor), ("target", parts.target)):
        if encoded is None or name in erased:
            continue
        for pointer, value in orjson.loads(encoded).items():
            *path, member = _tokens(pointer)
            parent = document
            for token in path:
                parent = parent[token]
            parent[member] = value
    return document


@lru_cache(maxsize=4096)
def _tokens(pointer: str) -> tuple[str, ...]:
    """Return the reference tokens of a JSON Pointer (RFC 6901 section 4)."""
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in pointer[1:].split("/"))


def _row(record: SealedRecord, document: JsonObject) -> Row:
    leaf = record.leaf
    actor, resource, metadata = document["actor"], document["resource"], document["metadata"]
    address = metadata.get("client_ip")
    return Row(
        record.index,
        document["organization_id"],
        leaf.org_ref,
        document["id"],
        clamped(timestamps.to_nanoseconds(document["timestamp"])),
        document["event_type"],
        actor["type"],
        actor.get("id"),
        resource["type"],
        resource.get("id"),
        document["action"],
        document["status"],
        key_of(address) if type(address) is str else None,
        leaf.expire_day,
        timestamps.day_of(leaf.ingest_us),
        leaf.org_seq,
        record.leaf_bytes,
        entry_text(document),
    )


def entry_text(document: JsonObject) -> bytes:
    """Return the JSON text of the entry that the API shows for a joined document: the only place that makes it."""
    actor, resource = document["actor"], document["resource"]
    return orjson.dumps(_entry(document, actor, resource))


def _entry(document: JsonObject, actor: JsonObject, resource: JsonObject) -> dict[str, Any]:
    return {
        "id": document["id"],
        "timestamp": document["timestamp"],
        "event_type": document["event_type"],
        "actor": _party(actor),
        "resource": _party(resource),
        "action": document["action"],
        "status": document["status"],
        "metadata": document["metadata"],
    }


def _party(members: JsonObject) -> dict[str, Any]:
    """Return type, id and name; null stands for what was erased."""
    return {"type": members["type"], "id": members.get("id"), "name": members.get("name")}
