"""A ledger in memory with real commitments, and event documents to seal in it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from klyra_audit import timestamps
from klyra_audit.format import canonical, leaf, merkle, sections
from klyra_audit.format.base32 import encode_base32
from klyra_audit.format.frame import BodyFrame
from klyra_audit.format.leaf import Flag, Kind, Leaf
from klyra_audit.format.sections import NO_MARKS, Marks, Salts, Sections
from klyra_collector.seal.expiry_controls import ControlLog
from klyra_collector.seal.expiry_facts import RetentionFacts
from klyra_collector.seal.reader import SealedRecord

ORG_SALT = bytes(range(32))
ORIGIN = "klyra-audit.test/collector-1/2026"
ACME = "org_acme"
TODAY_US = timestamps.to_nanoseconds("2026-03-10T12:00:00Z") // 1000
TODAY = timestamps.day_of(TODAY_US)
RETENTION_DAYS = 30


def document(number: int = 0, /, *, organization_id: str = ACME, **members: Any) -> dict[str, Any]:
    """Return an event document like the product page's; `members` replaces any of its members."""
    second = number % 60
    return {
        "id": f"log_{encode_base32(number)}",
        "timestamp": f"2026-03-10T11:{number // 60 % 60:02d}:{second:02d}Z",
        "event_type": "moderation.created",
        "actor": {"type": "api_key", "id": "key_9z8y7x6w5v4u", "name": "Production API Key"},
        "resource": {"type": "moderation", "id": f"mod_{number}", "name": None},
        "action": "create",
        "status": "success",
        "metadata": {
            "client_ip": "198.51.100.123",
            "user_agent": "klyra-sdk/1.0.0 node/16.15.0",
            "content_type": "text",
            "content_hash": "a1b2c3d4e5f6",
            "categories": ["toxic", "harassment"],
        },
        "organization_id": organization_id,
        "schema": "klyra.audit/1",
    } | members


def entry_of(event: dict[str, Any]) -> dict[str, Any]:
    """Return the entry that the API shows for an event document."""
    members = ("id", "timestamp", "event_type", "actor", "resource", "action", "status", "metadata")
    return {name: event[name] for name in members}


def organization_reference(organization_id: str) -> bytes:
    """Return the org_ref of an organization in every `MemoryLedger`."""
    return sections.organization_reference(ORG_SALT, organization_id)


class MemoryLedger:
    """Seals records in memory as the ledger does and reads them back as `LedgerReader` does."""

    def __init__(self, *origins: str) -> None:
        self._shards: dict[str, list[SealedRecord]] = {origin: [] for origin in origins or (ORIGIN,)}
        self._chains: dict[tuple[str, bytes], list[bytes]] = {}
        self.left: set[str] = set()
        self.kept: dict[tuple[str, int], bytes] = {}

    def left_behind(self, origin: str) -> bool:
        """Say whether a shard was left behind after a disaster."""
        return origin in self.left

    def origins(self) -> list[str]:
        """Return the origins, in the order given."""
        return list(self._shards)

    def committed(self, origin: str) -> int:
        """Return how many records a shard has."""
        return len(self._shards[origin])

    def read(self, origin: str, start: int, limit: int) -> list[SealedRecord]:
        """Return up to `limit` records from index `start` on."""
        return self._shards[origin][start : start + limit]

    def at(self, origin: str, indexes: Collection[int]) -> dict[int, bytes]:
        """Return leaves by index, as `CommittedLeaves` does."""
        records = self._shards.get(origin, [])
        return {index: records[index].leaf_bytes for index in indexes if index < len(records)}

    def controls(self, origin: str, start: int, limit: int) -> list[tuple[int, bytes]]:
        """Return up to `limit` control documents from index `start` on."""
        found = [(record.index, canonical.encode(record.control)) for record in self._shards[origin] if record.control]
        return [(index, encoded) for index, encoded in found if index >= start][:limit]

    def retention(self) -> RetentionFacts:
        """Return what all control records say about retention."""
        return ControlLog(self).catch_up()

    def seal(
        self,
        event: dict[str, Any],
        *,
        origin: str = ORIGIN,
        ingest_us: int = TODAY_US,
        retention_days: int = RETENTION_DAYS,
        marks: Marks = NO_MARKS,
    ) -> SealedRecord:
        """Seal an event document."""
        parts, salts = sections.split(event, marks), Salts.draw()
        proofs = sections.commitments(parts, salts)
        flags = (Flag.HAS_ACTOR if parts.actor else 0) | (Flag.HAS_TARGET if parts.target else 0)
        expire_day = timestamps.day_of(ingest_us) + 1 + retention_days
        record = self._leaf(
            origin, Kind.EVENT, flags, expire_day, event["organization_id"], ingest_us, proofs.event_commit()
        )
        return self._add(replace(record, body=BodyFrame(record.index, parts, salts, proofs)))

    def quarantine(
        self,
        *,
        organization_id: str = ACME,
        origin: str = ORIGIN,
        ingest_us: int = TODAY_US,
        raw: bytes = b"not",
        reason: str = "is not JSON",
        pointer: str = "",
    ) -> SealedRecord:
        """Seal a QUARANTINE record."""
        digest = hashlib.sha256(raw).hexdigest()
        core = canonical.encode({"reason": reason, "pointer": pointer, "sha256": digest, "size": len(raw)})
        parts, salts = Sections(core), Salts.draw()
        proofs = sections.commitments(parts, salts)
        expire_day = timestamps.day_of(ingest_us) + 1 + RETENTION_DAYS
        record = self._leaf(origin, Kind.QUARANTINE, 0, expire_day, organization_id, ingest_us, proofs.event_commit())
        self.kept[record.origin, record.index] = raw
        return self._add(replace(record, body=BodyFrame(record.index, parts, salts, proofs)))

    def quarantined(self, record: SealedRecord) -> bytes | None:
        """Return the bytes kept of a QUARANTINE record."""
        return self.kept.get((record.origin, record.index))

    def control(
        self,
        kind: Kind,
        content: dict[str, Any],
        *,
        organization_id: str = ACME,
        origin: str = ORIGIN,
        ingest_us: int = TODAY_US,
    ) -> SealedRecord:
        """Seal a control document."""
        commit = sections.control_commit(canonical.encode(content))
        record = self._leaf(origin, kind, 0, leaf.NEVER, organization_id, ingest_us, commit)
        return self._add(replace(record, control=content))

    def change(self, record: SealedRecord, **changes: Any) -> None:
        """Replace what is stored of a record, as someone with access to the files could."""
        self._shards[record.origin][record.index] = replace(record, **changes)

    def forget(self, origin: str) -> None:
        """Leave a shard as it was before its first record."""
        self._shards[origin].clear()

    def erase(self, record: SealedRecord, *names: str) -> None:
        """Overwrite sections of a record with zeros, as an erasure does."""
        assert record.body is not None
        parts, salts = record.body.sections, record.body.salts
        zeros = {name: bytes(len(getattr(parts, name))) for name in names}
        no_salt = {name: bytes(16) for name in names}
        body = replace(record.body, sections=replace(parts, **zeros), salts=replace(salts, **no_salt))
        self.change(record, body=body)

    def _leaf(
        self,
        origin: str,
        kind: Kind,
        flags: int,
        expire_day: int,
        organization_id: str,
        ingest_us: int,
        commit: bytes,
    ) -> SealedRecord:
        org_ref = organization_reference(organization_id)
        chain = self._chains.setdefault((origin, org_ref), [])
        previous = chain[-1] if chain else leaf.NO_PREVIOUS
        made = Leaf(kind, flags, expire_day, org_ref, len(chain), ingest_us, 0, 0, previous, commit)
        encoded = made.pack()
        chain.append(merkle.leaf_hash(encoded))
        # Unpacked again, as whoever reads the ledger has it: a kind is a plain number there.
        return SealedRecord(origin, len(self._shards[origin]), encoded, Leaf.unpack(encoded), None, None)

    def _add(self, record: SealedRecord) -> SealedRecord:
        self._shards[record.origin].append(record)
        return record
