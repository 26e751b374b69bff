"""Sealed entries as OTLP log records: our own form, so that another klyra-audit seals the same event, with integrity.

One record an entry, one `ResourceLogs` an organization. Beside what our emitters send (DESIGN section 6: the canonical
document as body, `klyra.salts`, `klyra.sections`, `audit.*`) a record tells where it was sealed: `klyra.log`,
`klyra.index`, `klyra.leaf`. With the salts and sections that is all a verifier needs to compare the copy with the
ledger. When sections were erased, `klyra.redacted` names them and `klyra.commitments` holds the three Cs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from klyra_audit import timestamps
from klyra_audit.audit_integrity import describe_key, sign_record
from klyra_audit.format import canonical, sections
from klyra_audit.otlp import draft_attributes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs

    from klyra_audit.audit_integrity import RecordKey
    from klyra_siem.destination import SealedEntry

SERVICE_NAME: Final = "klyra-audit"

# What a record holds beside its document: leaf, salts, names of attributes, signature, and the resource's share.
_FIXED_BYTES = 2048
_PROTOBUF_LIMIT_NS = 2**64 - 1


def measure(entry: SealedEntry) -> int:
    """Return more bytes than an entry's record has: its document's strings stand in it twice at most."""
    return 2 * len(entry.encoded) + _FIXED_BYTES


def encode(entries: Sequence[SealedEntry], key: RecordKey | None) -> bytes:
    """Return the protobuf request, each record signed by `key` if there is one.

    The same entries give the same bytes: Ed25519 signatures do not vary.
    """
    request = ExportLogsServiceRequest()
    resources: dict[str, ResourceLogs] = {}
    for entry in entries:
        organization_id = entry.organization_id
        if organization_id not in resources:
            resources[organization_id] = _add_resource(request, organization_id, key)
        record = resources[organization_id].scope_logs[0].log_records.add()
        fill_record(record, entry)
        if key is not None:
            sign_record(record, key)
    return request.SerializeToString(deterministic=True)


def fill_record(record: LogRecord, entry: SealedEntry) -> None:
    """Write an entry into an empty record."""
    document = entry.document
    record.time_unix_nano = min(max(0, timestamps.to_nanoseconds(document["timestamp"])), _PROTOBUF_LIMIT_NS)
    record.observed_time_unix_nano = entry.ingest_us * 1000
    record.event_name = document["event_type"]
    record.body.string_value = entry.encoded.decode()
    _value(record, "klyra.salts").bytes_value = entry.body.salts.pack()
    _value(record, "klyra.sections").string_value = _pointer_lists(entry)
    _value(record, "klyra.log").string_value = entry.origin
    _value(record, "klyra.index").int_value = entry.index
    _value(record, "klyra.leaf").bytes_value = entry.leaf
    if entry.redacted:
        proofs = entry.body.commitments
        _value(record, "klyra.redacted").string_value = ",".join(entry.redacted)
        _value(record, "klyra.commitments").bytes_value = proofs.core + proofs.actor + proofs.target
    for name, text in _draft_attributes(entry):
        _value(record, name).string_value = text


def _add_resource(request: ExportLogsServiceRequest, organization_id: str, key: RecordKey | None) -> ResourceLogs:
    resource_logs = request.resource_logs.add()
    resource_logs.scope_logs.add()
    for name, text in (("service.name", SERVICE_NAME), ("klyra.organization.id", organization_id)):
        attribute = resource_logs.resource.attributes.add()
        attribute.key = name
        attribute.value.string_value = text
    if key is not None:
        describe_key(resource_logs.resource, key)
    return resource_logs


def _draft_attributes(entry: SealedEntry) -> Iterable[tuple[str, str]]:
    """Return the `audit.*` attributes; what was erased has none."""
    document = entry.document
    if not entry.redacted:
        return draft_attributes(document)
    parties = {name: {"id": "", "name": None, **document[name]} for name in ("actor", "resource")}
    return [(name, text) for name, text in draft_attributes(document | parties) if text]


def _pointer_lists(entry: SealedEntry) -> str:
    actor, target = sections.pointers(entry.body.sections)
    return canonical.encode({"actor": list(actor), "target": list(target)}).decode()


def _value(record: LogRecord, name: str) -> AnyValue:
    attribute = record.attributes.add()
    attribute.key = name
    return attribute.value
