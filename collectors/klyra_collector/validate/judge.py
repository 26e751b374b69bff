"""From a received record to a record to seal: valid, or refused with the place and the reason. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from klyra_audit.errors import InvalidEvent
from klyra_audit.format import sections
from klyra_collector.stages import EmitterPosition, Record

if TYPE_CHECKING:
    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.sections import Salts, Sections
    from klyra_audit.validation import Validator
    from klyra_collector.stages import Tenancy


@dataclass(frozen=True, slots=True)
class Candidate:
    """An event as received, split but not yet judged.

    Attributes:
        document, encoded: the event document and its canonical bytes.
        sections, salts: how it was split, by its emitter or by the collector.
        position: in the emitter's sequence.
    """

    document: JsonObject
    encoded: bytes
    sections: Sections
    salts: Salts
    position: EmitterPosition | None


def judge(
    candidate: Candidate, tenancy: Tenancy, validator: Validator, now_us: int, key_id: str | None = None
) -> Record:
    """Return the record to seal.

    Raises:
        InvalidEvent: it breaks its schema or a rule of the event profile, or belongs to another organization.
    """
    document = candidate.document
    if document.get("organization_id") != tenancy.organization_id:
        raise InvalidEvent(
            "is not the organization that the key belongs to", pointer="/organization_id", code="foreign_organization"
        )
    validator.check(document, candidate.encoded, now_us=now_us)
    return Record(
        tenancy=tenancy,
        record_id=document["id"],
        content=candidate.encoded,
        sections=candidate.sections,
        salts=candidate.salts,
        commitments=sections.commitments(candidate.sections, candidate.salts),
        position=candidate.position,
        key_id=key_id,
    )
