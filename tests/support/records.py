"""Records ready to be sealed, made as the receivers make them."""

from __future__ import annotations

from typing import Any

from klyra_audit import ids
from klyra_audit.format import canonical, sections
from klyra_audit.format.sections import Salts
from klyra_collector.quarantine import quarantine_record
from klyra_collector.stages import EmitterPosition, Record, Submission, Tenancy

STARTUP = Tenancy("org_startup", "startup", "startup", 30)
BUSINESS = Tenancy("org_business", "business", "business", 90)


def document(organization_id: str = STARTUP.organization_id, **members: Any) -> dict[str, Any]:
    """Return an event document; `members` replace its own."""
    return {
        "id": ids.new_log_id(),
        "timestamp": "2026-06-15T14:30:45.000Z",
        "event_type": "moderation.created",
        "actor": {"type": "api_key", "id": "key_1", "name": "Production"},
        "resource": {"type": "moderation", "id": "mod_1", "name": None},
        "action": "create",
        "status": "success",
        "metadata": {"client_ip": "198.51.100.7", "user_agent": "tests/1", "content_type": "text"},
        "organization_id": organization_id,
        "schema": "klyra.audit/1",
    } | members


def record(tenancy: Tenancy = STARTUP, *, position: EmitterPosition | None = None, **members: Any) -> Record:
    """Return an event's record."""
    event = document(tenancy.organization_id, **members)
    parts = sections.split(event)
    salts = Salts.draw()
    return Record(
        tenancy=tenancy,
        record_id=event["id"],
        content=canonical.encode(event),
        sections=parts,
        salts=salts,
        commitments=sections.commitments(parts, salts),
        position=position,
    )


def bad(tenancy: Tenancy = STARTUP, raw: bytes = b"not an event") -> Record:
    """Return the record of a quarantined input."""
    return quarantine_record(tenancy, raw, reason="is not an event", pointer="")


def submission(*records: Record, strict: bool = False) -> Submission:
    """Return records as one request's submission."""
    return Submission(records, strict, sum(len(item.content) for item in records))
