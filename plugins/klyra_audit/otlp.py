"""Our OTLP form: the event as a LogRecord that survives any collector in between (DESIGN section 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from klyra_audit import timestamps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource

    from klyra_audit.batch import SignedCommits
    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.prepared import PreparedEvent

BATCH: Final = "klyra.batch"
COMMITS: Final = "klyra.batch.commits"


_DRAFT_ACTOR_TYPES = {"user": "user", "api_key": "service", "system": "system"}


@dataclass(frozen=True, slots=True)
class EmitterIdentity:
    """What the resource of every record says.

    Attributes:
        service_name: of the application, `service.name`.
        emitter_id: printable ASCII, at most 256 characters.
        boot: UUID of this run.
        organization_id: `org_…`.
    """

    service_name: str
    emitter_id: str
    boot: str
    organization_id: str


def encode(
    identity: EmitterIdentity, events: Sequence[tuple[PreparedEvent, int]], signed: SignedCommits | None = None
) -> bytes:
    """Return the protobuf request of events with their sequence numbers, under their emitter's signature if any."""
    request = ExportLogsServiceRequest()
    resource_logs = request.resource_logs.add()
    _fill_resource(resource_logs.resource, identity)
    if signed is not None:
        _add(resource_logs.resource, BATCH).string_value = signed.note.decode()
        _add(resource_logs.resource, COMMITS).bytes_value = signed.commits
    scope_logs = resource_logs.scope_logs.add()
    for event, sequence in events:
        _fill_record(scope_logs.log_records.add(), event, sequence)
    return request.SerializeToString()


def _add(resource: Resource, key: str) -> AnyValue:
    attribute = resource.attributes.add()
    attribute.key = key
    return attribute.value


def _fill_resource(resource: Resource, identity: EmitterIdentity) -> None:
    for key, value in (
        ("service.name", identity.service_name),
        ("klyra.emitter.id", identity.emitter_id),
        ("klyra.emitter.boot", identity.boot),
        ("klyra.organization.id", identity.organization_id),
    ):
        _add(resource, key).string_value = value


def _fill_record(record: LogRecord, event: PreparedEvent, sequence: int) -> None:
    document = event.document
    record.time_unix_nano = max(0, timestamps.to_nanoseconds(document["timestamp"]))
    record.observed_time_unix_nano = record.time_unix_nano
    record.event_name = document["event_type"]
    record.body.string_value = event.encoded.decode()
    # Ours come first: the collector then need not look at the rest.
    salts = record.attributes.add()
    salts.key = "klyra.salts"
    salts.value.bytes_value = event.salts
    place = record.attributes.add()
    place.key = "klyra.emitter.seq"
    place.value.int_value = sequence
    if event.sections is not None:
        attribute = record.attributes.add()
        attribute.key = "klyra.sections"
        attribute.value.string_value = event.sections
    for key, value in draft_attributes(document):
        attribute = record.attributes.add()
        attribute.key = key
        attribute.value.string_value = value


def draft_attributes(document: JsonObject) -> list[tuple[str, str]]:
    """Return the `audit.*` attributes of the OpenTelemetry audit draft, for other tools on the way."""
    actor, resource, metadata = document["actor"], document["resource"], document["metadata"]
    attributes = [
        ("audit.record.id", document["id"]),
        ("audit.actor.id", actor["id"]),
        ("audit.actor.type", _DRAFT_ACTOR_TYPES.get(actor["type"], "service")),
        ("audit.action", document["action"].upper()),
        ("audit.outcome", document["status"]),
        ("audit.target.id", resource["id"]),
        ("audit.target.type", resource["type"]),
        ("audit.schema.version", document["schema"]),
    ]
    client_ip = metadata.get("client_ip")
    if isinstance(client_ip, str):
        attributes += [("audit.source.id", client_ip), ("audit.source.type", "ipv6" if ":" in client_ip else "ipv4")]
    return attributes
