"""The record that keeps an input which is no valid event: durable, visible, never dropped (DESIGN section 5).

What is kept of the input is in `klyra_audit.format.quarantined`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from klyra_audit.format import canonical, sections
from klyra_audit.format.sections import Salts, Sections
from klyra_collector.stages import EmitterPosition, Record

if TYPE_CHECKING:
    from klyra_collector.stages import Tenancy

MAX_REASON_CHARACTERS = 1000
MAX_POINTER_CHARACTERS = 1024

REPLAYED: Final = "quarantine.replayed"  # the type of the entry that tells of a replay
DOCUMENT: Final = "document"
REPEAT: Final = "repeat"


def quarantine_record(
    tenancy: Tenancy,
    raw: bytes,
    *,
    reason: str,
    pointer: str,
    position: EmitterPosition | None = None,
    key_id: str | None = None,
) -> Record:
    """Return the record of a quarantined input.

    Args:
        tenancy: whose key sent it.
        raw: what was received, as `KeptInput.pack` has it.
        reason: why it is no valid event, without quoting values.
        pointer: JSON Pointer to the offending member.
        position: in the emitter's sequence, so that a quarantined event leaves no gap.
        key_id: whose key brought it.
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
        key_id=key_id,
    )


def quarantine_id(digest: str) -> str:
    """Return under what name the quarantined bytes of a SHA-256 digest are recognised as a repeat."""
    return f"quarantine:{digest}"
