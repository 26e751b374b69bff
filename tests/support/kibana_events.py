"""Documents of every kind that Kibana shows: real entries of every event type, quarantined input, health documents."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from klyra_audit import timestamps
from klyra_audit.catalog import Catalog
from klyra_audit.format import canonical
from klyra_audit.format.leaf import Kind
from klyra_audit.validation import Validator
from klyra_collector.data_directory import DataDirectory, ShardDirectory
from klyra_collector.destination_status import DestinationStatus, State
from klyra_collector.store.elasticsearch import names
from klyra_collector.store.elasticsearch.documents import (
    MetadataFields,
    Placing,
    document_id,
    entry_document,
    quarantine_document,
)
from klyra_collector.store.elasticsearch.health import Health, Sources
from klyra_collector.store.quarantine_rows import quarantine_row_of
from support.entries import ORIGIN, MemoryLedger, document

if TYPE_CHECKING:
    from elasticsearch import Elasticsearch

ORGANIZATION = "org_kibana"
SECOND_US = 1_000_000
FROM = {"client_ip": "198.51.100.7", "user_agent": "klyra-console/2.4"}

# What each event type has that its schema requires, or that a dashboard counts.
METADATA: dict[str, dict[str, Any]] = {
    "moderation.created": {"content_type": "text", "content_hash": "a1b2"},
    "moderation.completed": {
        "decision": "flagged",
        "categories": ["toxic", "spam"],
        "content_type": "text",
        "duration_ms": 41,
    },
    "moderation.flagged": {"categories": ["toxic"], "content_type": "text"},
    "moderation.appealed": {"decision": "flagged", "reason": "a joke"},
    "moderation.overridden": {"decision": "approved", "previous_decision": "flagged", "reason": "satire"},
    "api_key.created": {"scopes": ["read"]},
    "role.assigned": {"role": "admin"},
    "settings.updated": {"changes": {"threshold": {"from": "0.8", "to": "0.7"}}},
    "user.invited": {"role": "viewer"},
    "webhook.created": {"url": "https://hooks.example/klyra", "events": ["moderation.flagged"]},
    "audit_log.queried": {"filters": {}, "returned": 12, "reads": 3},
    "audit_log.exported": {"filters": {}, "format": "csv", "returned": 120},
    "audit_log.verified": {"entry_id": "log_0000000000000000000000000a", "verdict": "ALTERED", "log": ORIGIN},
    "siem_destination.created": {"kind": "splunk", "payload": "ocsf"},
    "siem_destination.updated": {"kind": "splunk", "payload": "ocsf"},
    "siem_destination.deleted": {"kind": "splunk"},
    "heartbeat.sent": {"purpose": "alive", "kind": "splunk", "interval_seconds": 3600},
    "retention.changed": {"plan": "business", "policy": "business", "retention_days": 90},
    "legal_hold.placed": {"selection": {}, "reason": "a case"},
    "legal_hold.released": {"selection": {}, "reason": "the case is closed"},
    "personal_data.erased": {"subject_hmac": "00" * 32, "basis": "request", "entries": 4},
    "emitter_key.added": {"vkey": "emitter+00000000+AAAA"},
    "emitter_key.revoked": {"vkey": "emitter+00000000+AAAA"},
    "access.denied": {"reason": "scope_missing", "attempts": 5},
    "session.created": {"scopes": ["read"]},
    "viewer_token.created": {"subject": "usr_1", "filters": {}, "expires_at": "2030-01-01T00:00:00Z"},
    "quarantine.replayed": {"selection": {}, "accepted": 2, "refused": 0},
    "operator.accessed": {"call": "GET /v1/audit-logs", "filters": {}, "reason": "support"},
}
FAILED = {"access.denied", "audit_log.verified", "webhook.deleted"}


def lines(fields: MetadataFields, client: Elasticsearch, folder: Path) -> bytes:
    """Return the body of a bulk request with documents of the last hour."""
    actions = [line for pair in (*_entries(fields), *_quarantined(), *_health(client, folder)) for line in pair]
    return b"".join(orjson.dumps(line) + b"\n" for line in actions)


def events(now_us: int) -> Iterator[dict[str, Any]]:
    """Yield valid events of every type in the catalog: four of each, by two people, one of them without a name."""
    catalog = Catalog.load()
    validator = Validator(catalog)
    number = 0
    for event_type in catalog.event_types.values():
        for turn in range(12 if event_type.name in FAILED else 4):
            number += 1
            moment = now_us - number * 7 * SECOND_US
            event = document(
                number,
                organization_id=ORGANIZATION,
                id=f"log_{hashlib.sha256(f'{now_us} {number}'.encode()).hexdigest()[:26]}",
                timestamp=timestamps.from_nanoseconds(moment * 1000),
                event_type=event_type.name,
                action=event_type.action,
                status="failure" if event_type.name in FAILED else "success",
                actor={"type": "user", "id": f"usr_{turn % 2}", "name": "Zoë Ahn" if turn % 2 else None},
                resource={"type": event_type.resource_type, "id": f"res_{number % 5}", "name": "Content policy"},
                metadata=FROM | METADATA.get(event_type.name, {}),
            )
            validator.check(event, canonical.encode(event), now_us=now_us)
            yield event


def _entries(fields: MetadataFields) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    now_us = time.time_ns() // 1000
    ledger = MemoryLedger()
    for event in events(now_us):
        record = ledger.seal(event, ingest_us=now_us - SECOND_US)
        made = entry_document(record, Placing(policy="startup", expire_day=record.leaf.expire_day), fields)
        yield _create(names.entry_stream("startup"), document_id(ORGANIZATION, made["id"])), made


def _quarantined() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    now_us = time.time_ns() // 1000
    ledger = MemoryLedger()
    for number in range(12):
        raw = f"not JSON {now_us} {number}".encode()
        record = ledger.quarantine(organization_id=ORGANIZATION, ingest_us=now_us - number * SECOND_US, raw=raw)
        assert record.leaf.kind == Kind.QUARANTINE
        placing = Placing(policy="startup", expire_day=record.leaf.expire_day)
        row = quarantine_row_of(record, raw)._replace(key_id="key_0123456789ab")
        yield _create(names.quarantine_stream("startup"), row.sha256), quarantine_document(record, placing, row, raw)


def _health(client: Elasticsearch, folder: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    now_us = time.time_ns() // 1000
    for number in range(6):
        for collector in ("collector-1", "collector-2"):
            made = health_document(client, folder / collector, collector, now_us - number * 30 * SECOND_US)
            yield _create(names.HEALTH_STREAM, f"{made['collector']}:{made['@timestamp']}"), made


def health_document(client: Elasticsearch, folder: Path, collector: str, moment_us: int) -> dict[str, Any]:
    """Return what the product writes about a collector that has something of everything."""
    origin = f"klyra-audit.test/{collector}/2026"
    ledger = MemoryLedger(origin)
    timestamp = timestamps.from_nanoseconds((moment_us - 840_000) * 1000)
    ledger.seal(document(1, timestamp=timestamp), origin=origin, ingest_us=moment_us)
    data = DataDirectory(folder)
    shard = ShardDirectory(data.ledger / "2026")
    shard.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    shard.checkpoint.touch()
    data.cursors.mkdir(exist_ok=True)
    statuses = [
        DestinationStatus(name=state.value, kind="otlp", endpoint="https://siem.example", state=state, skipped={})
        for state in State
    ]
    sources = Sources(
        data=data,
        reader=ledger,  # type: ignore[arg-type] - reads the same
        client=client,
        destinations=lambda: statuses,
        waiting=lambda: 2,
        dead_letters=lambda: 1,
        witnessed_s=lambda: moment_us // SECOND_US - 61,
        self_check=lambda: {"self_check": "failed", "self_check_age_seconds": 7200},
        wall_us=lambda: moment_us,
    )
    return Health(sources, bulk=None).document()  # type: ignore[arg-type] - nothing is written


def _create(stream: str, ident: str) -> dict[str, Any]:
    return {"create": {"_index": stream, "_id": ident}}
