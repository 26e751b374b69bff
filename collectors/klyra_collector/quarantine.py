"""The record that keeps an input which is no valid event: durable, visible, never dropped (DESIGN section 5)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from klyra_audit.format import canonical, sections
from klyra_audit.format.sections import Salts, Sections
from klyra_collector.stages import EmitterPosition, Record

if TYPE_CHECKING:
    from klyra_collector.stages import Tenancy

MAX_REASON_CHARACTERS = 1000
MAX_POINTER_CHARACTERS = 1024


def quarantine_record(
    tenancy: Tenancy, raw: bytes, *, reason: str, pointer: str, position: EmitterPosition | None = None
) -> Record:
    """Return the record of quarantined bytes.

    Args:
        tenancy: whose key sent them.
        raw: the record as received.
        reason: why it is no valid event, without quoting values.
        pointer: JSON Pointer to the offending member.
        position: in the emitter's sequence, so that a quarantined event leaves no gap.
    """
    digest = hashlib.sha256(raw).hexdigest()
    core = canonical.encode(
        {
            "reason": reason[:MAX_REASON_CHARACTERS],
            "pointer": pointer[:MAX_POINTER_CHARACTERS],
            "sha256": digest,
            "size": len(raw),
        }
    )
    parts = Sections(core)
    salts = Salts.draw()
    return Record(
        tenancy=tenancy,
        record_id=quarantine_id(digest),
        content=digest.encode(),
        sections=parts,
        salts=salts,
        commitments=sections.commitments(parts, salts),
        position=position,
        quarantined=raw,
    )


def quarantine_id(digest: str) -> str:
    """Return under what name the quarantined bytes of a SHA-256 digest are recognised as a repeat."""
    return f"quarantine:{digest}"
