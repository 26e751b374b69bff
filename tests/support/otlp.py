"""OTLP requests as other programs send them, protobuf and JSON."""

from __future__ import annotations

import base64
from typing import Any

import orjson
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList

from klyra_audit import otlp
from klyra_audit.catalog import Catalog
from klyra_audit.format import canonical, sections
from klyra_audit.mapping.table import MappingTable
from klyra_audit.otlp import EmitterIdentity
from klyra_audit.prepared import PreparedEvent, prepare
from klyra_audit.validation import Validator
from support.records import document

CATALOG = Catalog.load()
VALIDATOR = Validator(CATALOG)
TABLE = MappingTable(CATALOG)
BOOT = "0192f3c1-7c3e-7d1a-9a55-2f6c1d9e8b10"
NOW_US = 4_000_000_000_000_000


def prepared(organization_id: str = "org_acme", **members: Any) -> PreparedEvent:
    """Return a valid event made ready, as the emitter does."""
    return prepare(document(organization_id, **members), CATALOG, VALIDATOR, NOW_US)


def raw_event(encoded: bytes, event_type: str = "moderation.created") -> PreparedEvent:
    """Return an event whose body is just these bytes, valid or not."""
    shell = document() | {"event_type": event_type}
    return PreparedEvent(shell["id"], shell, encoded, bytes(range(48)), None, b"")


def invalid(organization_id: str = "org_acme", **members: Any) -> PreparedEvent:
    """Return an event in our own form that breaks its schema."""
    wrong = document(organization_id, **members)
    parts, salts = sections.split(wrong), sections.Salts.draw()
    commit = sections.commitments(parts, salts).event_commit()
    return PreparedEvent(wrong["id"], wrong, canonical.encode(wrong), salts.pack(), None, commit)


def own_form(*events: PreparedEvent, first: int = 0, emitter_id: str = "api-1", boot: str = BOOT) -> bytes:
    """Return a protobuf request in our own form."""
    identity = EmitterIdentity("tests", emitter_id, boot, "org_acme")
    return otlp.encode(identity, [(event, first + number) for number, event in enumerate(events)])


def any_value(value: Any) -> AnyValue:  # noqa: PLR0911 - one for each kind
    """Return a Python value as an OTLP one."""
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, bytes):
        return AnyValue(bytes_value=value)
    if isinstance(value, list):
        return AnyValue(array_value=ArrayValue(values=[any_value(item) for item in value]))
    if isinstance(value, dict):
        pairs = [KeyValue(key=key, value=any_value(item)) for key, item in value.items()]
        return AnyValue(kvlist_value=KeyValueList(values=pairs))
    return AnyValue() if value is None else AnyValue(string_value=value)


def json_value(value: Any) -> dict[str, Any]:  # noqa: PLR0911 - one for each kind
    """Return a Python value as OTLP/JSON writes it."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, bytes):
        return {"bytesValue": base64.b64encode(value).decode()}
    if isinstance(value, list):
        return {"arrayValue": {"values": [json_value(item) for item in value]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": [{"key": key, "value": json_value(item)} for key, item in value.items()]}}
    return {} if value is None else {"stringValue": value}


def foreign(*records: dict[str, Any], resource: dict[str, Any] | None = None) -> bytes:
    """Return a protobuf request of records given as {event_name, body, time, observed, attributes}."""
    request = ExportLogsServiceRequest()
    resource_logs = request.resource_logs.add()
    for key, value in (resource or {}).items():
        resource_logs.resource.attributes.add(key=key, value=any_value(value))
    scope = resource_logs.scope_logs.add()
    for record in records:
        message = scope.log_records.add()
        message.event_name = record.get("event_name", "")
        message.time_unix_nano = record.get("time", 0)
        message.observed_time_unix_nano = record.get("observed", 0)
        message.trace_id = bytes.fromhex(record.get("trace_id", ""))
        if "body" in record:
            message.body.CopyFrom(any_value(record["body"]))
        for key, value in record.get("attributes", {}).items():
            message.attributes.add(key=key, value=any_value(value))
    return request.SerializeToString()


def foreign_json(*records: dict[str, Any], resource: dict[str, Any] | None = None) -> bytes:
    """Return the same request as OTLP/JSON."""
    attributes = [{"key": key, "value": json_value(value)} for key, value in (resource or {}).items()]
    log_records = [
        {
            "eventName": record.get("event_name", ""),
            "timeUnixNano": str(record.get("time", 0)),
            "observedTimeUnixNano": str(record.get("observed", 0)),
            "traceId": record.get("trace_id", ""),
            "body": json_value(record.get("body")),
            "attributes": [
                {"key": key, "value": json_value(value)} for key, value in record.get("attributes", {}).items()
            ],
        }
        for record in records
    ]
    return orjson.dumps(
        {"resourceLogs": [{"resource": {"attributes": attributes}, "scopeLogs": [{"logRecords": log_records}]}]}
    )


MAPPED = {
    "event_name": "user.removed",
    "time": 1_781_000_000_123_456_789,
    "trace_id": "0af7651916cd43dd8448eb211c80319c",
    "body": "removed by hand",
    "attributes": {
        "audit.record.id": "6f1d",
        "audit.actor.id": "usr_1",
        "audit.actor.type": "user",
        "audit.action": "DELETE",
        "audit.outcome": "success",
        "audit.target.id": "usr_2",
        "audit.target.type": "user",
        "audit.source.id": "198.51.100.9",
        "user_agent.original": "curl/8",
        "ratio": 0.1,
        "big": 2**60,
        "blob": b"\x00\xff",
        "klyra.metadata.ticket": "T-1",
        "nested": {"list": [1, 0.5, None]},
    },
}
