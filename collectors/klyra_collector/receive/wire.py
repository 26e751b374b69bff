"""OTLP log requests, protobuf or JSON, as records that the rest of the collector reads alike. No sockets here."""

from __future__ import annotations

import base64
import binascii
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import orjson
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from klyra_audit.errors import InvalidEvent, Rejected
from klyra_collector.receive.salvage import NotProtobuf, join_request, split_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import NoReturn

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

    from klyra_collector.receive.salvage import Part

OWN_PREFIX = "klyra."
SALTS = "klyra.salts"
SEQUENCE = "klyra.emitter.seq"
SECTIONS = "klyra.sections"
RECORD_ID = "audit.record.id"

OTLP_PROTOBUF = "otlp-protobuf"
OTLP_JSON = "otlp-json"

NOTHING: Mapping[str, Any] = MappingProxyType({})

_MAX_NESTING = 32
_OWN_COUNT = 3


class MalformedRequest(Rejected):
    """The request is no OTLP log request; sending it again cannot help."""

    code = "malformed_request"


class DuplicateAttribute(MalformedRequest):
    """The same attribute key stands twice; which of them counts is anyone's guess."""

    code = "duplicate_attribute"

    def __init__(self, key: str) -> None:
        super().__init__(f"Attribute {key[:128]!r} stands twice in one place.", remedy="Send each key once.")


class OwnForm(NamedTuple):
    """What our own emitters put into a record (DESIGN section 6).

    Attributes:
        document: canonical bytes of the event document.
        event_name: the record's own.
        salts: 48 bytes, unchecked.
        sequence: within the emitter's boot, None if the record has none.
        sections: canonical JSON of the pointer lists, None for the split without catalog marks.
    """

    document: bytes
    event_name: str
    salts: bytes
    sequence: int | None
    sections: str | None


class Foreign(NamedTuple):
    """Any other log record, its values as Python's own; what a protocol does not have is left out.

    Attributes:
        trace_id, span_id: hexadecimal.
        severity_number, severity_text, flags: 0 and "" when unset.
        dropped_attributes_count: attributes that were lost before the record came here.
        scope_name, scope_version, scope_attributes: of the instrumentation scope.
        tag: Forward's.
        best_effort: it came over a connection on which it cannot be acknowledged.
    """

    event_name: str
    body: Any
    attributes: dict[str, Any]
    time_unix_nano: int
    observed_time_unix_nano: int
    trace_id: str
    span_id: str
    severity_number: int = 0
    severity_text: str = ""
    flags: int = 0
    dropped_attributes_count: int = 0
    scope_name: str = ""
    scope_version: str = ""
    scope_attributes: Mapping[str, Any] = NOTHING
    tag: str = ""
    best_effort: bool = False


class Scope(NamedTuple):
    """The instrumentation scope of some records."""

    name: str = ""
    version: str = ""
    attributes: Mapping[str, Any] = NOTHING


class WireRecord(Protocol):
    """One log record of a request.

    Attributes:
        resource: attributes of the record's resource.
    """

    resource: dict[str, Any]

    @property
    def encoding(self) -> str:
        """What `raw` is written in, such as `otlp-protobuf`."""
        ...

    def own_form(self) -> OwnForm | None:
        """Return the record in our own form, None if it is another's; `DuplicateAttribute`."""
        ...

    def foreign(self) -> Foreign:
        """Return the record as any OTLP client's; `DuplicateAttribute`."""
        ...

    def record_id(self) -> str | None:
        """Return `audit.record.id`, None if it has none; for messages alone."""
        ...

    def raw(self) -> bytes:
        """Return a request of this record alone, resource and scope included, to be quarantined and read again."""
        ...


def decode_protobuf(body: bytes) -> list[WireRecord]:
    """Return the records of a protobuf request; `MalformedRequest` if it is none."""
    try:
        request = ExportLogsServiceRequest.FromString(body)
    except DecodeError as error:
        return _salvaged(body, error)
    records: list[WireRecord] = []
    for resource_logs in request.resource_logs:
        resource = _first_of_each(resource_logs.resource.attributes)
        for scope_logs in resource_logs.scope_logs:
            scope = _scope(scope_logs.scope)
            around = (resource_logs.resource, scope_logs.scope)
            records.extend(ProtobufRecord(resource, scope, record, around) for record in scope_logs.log_records)
    return records


def _salvaged(body: bytes, error: DecodeError) -> list[WireRecord]:
    """Return the records of a request of which the parser refuses some; the others are as good as ever."""
    try:
        return [_salvaged_record(part) for part in split_request(body)]
    except NotProtobuf:
        raise MalformedRequest(
            "The body is not a protobuf ExportLogsServiceRequest.",
            remedy="Check the exporter's protocol and Content-Type.",
        ) from error


def _salvaged_record(part: Part) -> WireRecord:
    try:
        around = (Resource.FromString(part.resource), InstrumentationScope.FromString(part.scope))
        resource, scope = _first_of_each(around[0].attributes), _scope(around[1])
        return ProtobufRecord(resource, scope, LogRecord.FromString(part.record), around)
    except DecodeError:
        return UnreadableRecord(join_request(part))


def decode_json(body: bytes) -> list[WireRecord]:
    """Return the records of an OTLP/JSON request; `MalformedRequest` if it is none."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(
            f"The body is not JSON: {error}.", remedy="Check the exporter's protocol and Content-Type."
        ) from error
    records: list[WireRecord] = []
    for resource_logs in _objects(_object(request, "the request"), "resourceLogs"):
        attributes = _objects(_object(resource_logs.get("resource") or {}, "resource"), "attributes")
        resource = {key: value for key, value in map(_json_attribute, attributes)}  # noqa: C416 - typed pairs
        for scope_logs in _objects(resource_logs, "scopeLogs"):
            scope = _json_scope(_object(scope_logs.get("scope") or {}, "scope"))
            around = (resource_logs.get("resource") or {}, scope_logs.get("scope") or {})
            records.extend(JsonRecord(resource, scope, record, around) for record in _objects(scope_logs, "logRecords"))
    return records


class ProtobufRecord:
    """A record of a protobuf request; `around` are the messages of its resource and its scope."""

    __slots__ = ("_around", "_message", "_scope", "resource")
    encoding = OTLP_PROTOBUF

    def __init__(
        self,
        resource: dict[str, Any],
        scope: Scope,
        message: LogRecord,
        around: tuple[Resource, InstrumentationScope],
    ) -> None:
        self.resource = resource
        self._scope = scope
        self._message = message
        self._around = around

    def own_form(self) -> OwnForm | None:
        """See `WireRecord`; the hot path: other tools' attributes are not even read.

        Our emitter puts its own attributes first; whatever came in between may have reordered them.
        """
        message = self._message
        attributes = message.attributes
        if len(attributes) > _OWN_COUNT and attributes[0].key == SALTS and attributes[1].key == SEQUENCE:
            third = attributes[2]
            return OwnForm(
                message.body.string_value.encode(),
                message.event_name,
                attributes[0].value.bytes_value,
                attributes[1].value.int_value,
                third.value.string_value if third.key == SECTIONS else None,
            )
        return self._own_form_anywhere()

    def _own_form_anywhere(self) -> OwnForm | None:
        message = self._message
        own: dict[str, AnyValue] = {}
        for attribute in message.attributes:
            key = attribute.key
            if key.startswith(OWN_PREFIX):
                if key in own:
                    raise DuplicateAttribute(key)
                own[key] = attribute.value
        salts = own.get(SALTS)
        if salts is None:
            return None
        sequence, sections = own.get(SEQUENCE), own.get(SECTIONS)
        return OwnForm(
            message.body.string_value.encode(),
            message.event_name,
            salts.bytes_value,
            None if sequence is None else sequence.int_value,
            None if sections is None else sections.string_value,
        )

    def foreign(self) -> Foreign:
        """See `WireRecord`."""
        message = self._message
        return Foreign(
            message.event_name,
            _python_value(message.body),
            _each_once(message.attributes),
            message.time_unix_nano,
            message.observed_time_unix_nano,
            message.trace_id.hex(),
            message.span_id.hex(),
            message.severity_number,
            message.severity_text,
            message.flags,
            message.dropped_attributes_count,
            *self._scope,
        )

    def record_id(self) -> str | None:
        """See `WireRecord`."""
        for attribute in self._message.attributes:
            if attribute.key == RECORD_ID:
                return attribute.value.string_value
        return None

    def raw(self) -> bytes:
        """See `WireRecord`."""
        resource, scope = self._around
        scope_logs = ScopeLogs(scope=scope, log_records=[self._message])
        request = ExportLogsServiceRequest(resource_logs=[ResourceLogs(resource=resource, scope_logs=[scope_logs])])
        return request.SerializeToString()


class UnreadableRecord:
    """A protobuf record that its parser refuses: some text is not UTF-8, or a value is nested too deeply."""

    __slots__ = ("_encoded", "resource")
    encoding = OTLP_PROTOBUF

    def __init__(self, encoded: bytes) -> None:
        self.resource: dict[str, Any] = {}
        self._encoded = encoded

    def own_form(self) -> OwnForm | None:
        """Raise what has the record quarantined."""
        self._refuse()

    def foreign(self) -> Foreign:
        """Raise as `own_form` does."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise InvalidEvent("the record, its resource or its scope is nested too deeply or has text that is not UTF-8")

    def record_id(self) -> str | None:
        """Return None: nothing of it can be read."""
        return None

    def raw(self) -> bytes:
        """See `WireRecord`."""
        return self._encoded


def _scope(scope: InstrumentationScope) -> Scope:
    return Scope(scope.name, scope.version, _first_of_each(scope.attributes))


def _each_once(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for attribute in attributes:
        if attribute.key in values:
            raise DuplicateAttribute(attribute.key)
        values[attribute.key] = _python_value(attribute.value)
    return values


def _first_of_each(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for attribute in attributes:
        values.setdefault(attribute.key, _python_value(attribute.value))
    return values


def _python_value(value: AnyValue) -> Any:  # noqa: ANN401 - an AnyValue holds anything
    kind = value.WhichOneof("value")
    if kind == "kvlist_value":
        return _each_once(value.kvlist_value.values)
    if kind == "array_value":
        return [_python_value(item) for item in value.array_value.values]
    return None if kind is None else getattr(value, kind)


class JsonRecord:
    """A record of an OTLP/JSON request (opentelemetry-proto specification, JSON Protobuf Encoding).

    `around` are the objects of its resource and its scope.
    """

    __slots__ = ("_around", "_members", "_scope", "resource")
    encoding = OTLP_JSON

    def __init__(
        self,
        resource: dict[str, Any],
        scope: Scope,
        members: dict[str, Any],
        around: tuple[dict[str, Any], dict[str, Any]],
    ) -> None:
        self.resource = resource
        self._scope = scope
        self._members = members
        self._around = around

    def own_form(self) -> OwnForm | None:
        """See `WireRecord`."""
        own: dict[str, Any] = {}
        for key, value in map(_json_attribute, _objects(self._members, "attributes")):
            if key.startswith(OWN_PREFIX):
                if key in own:
                    raise DuplicateAttribute(key)
                own[key] = value
        if SALTS not in own:
            return None
        body = _json_value(self._members.get("body") or {}, _MAX_NESTING)
        salts, sequence, sections = own[SALTS], own.get(SEQUENCE), own.get(SECTIONS)
        return OwnForm(
            _utf8(body) if isinstance(body, str) else b"",
            _text(self._members.get("eventName")),
            salts if isinstance(salts, bytes) else b"",
            sequence if isinstance(sequence, int) else None,
            sections if isinstance(sections, str) else None,
        )

    def foreign(self) -> Foreign:
        """See `WireRecord`."""
        members = self._members
        attributes: dict[str, Any] = {}
        for key, value in map(_json_attribute, _objects(members, "attributes")):
            if key in attributes:
                raise DuplicateAttribute(key)
            attributes[key] = value
        return Foreign(
            _text(members.get("eventName")),
            _json_value(members.get("body") or {}, _MAX_NESTING),
            attributes,
            _json_integer(members.get("timeUnixNano", 0)),
            _json_integer(members.get("observedTimeUnixNano", 0)),
            _text(members.get("traceId")).lower(),
            _text(members.get("spanId")).lower(),
            _json_integer(members.get("severityNumber", 0)),
            _text(members.get("severityText")),
            _json_integer(members.get("flags", 0)),
            _json_integer(members.get("droppedAttributesCount", 0)),
            *self._scope,
        )

    def record_id(self) -> str | None:
        """See `WireRecord`."""
        for key, value in map(_json_attribute, _objects(self._members, "attributes")):
            if key == RECORD_ID:
                return str(value)
        return None

    def raw(self) -> bytes:
        """See `WireRecord`."""
        resource, scope = self._around
        scope_logs = {"scope": scope, "logRecords": [self._members]}
        return orjson.dumps({"resourceLogs": [{"resource": resource, "scopeLogs": [scope_logs]}]})


def _json_scope(members: dict[str, Any]) -> Scope:
    attributes = dict(map(_json_attribute, _objects(members, "attributes")))
    return Scope(_text(members.get("name")), _text(members.get("version")), attributes)


def _json_attribute(attribute: dict[str, Any]) -> tuple[str, Any]:
    return _text(attribute.get("key")), _json_value(attribute.get("value") or {}, _MAX_NESTING)


def _json_value(value: object, nesting: int) -> Any:  # noqa: ANN401 - an AnyValue holds anything
    members = _object(value, "a value")
    if nesting == 0:
        raise MalformedRequest(f"A value is nested deeper than {_MAX_NESTING} levels.")
    for name, content in members.items():
        convert = _JSON_SCALARS.get(name)
        if convert is not None:
            return convert(content)
        if name == "arrayValue":
            return [_json_value(item, nesting - 1) for item in _objects(_object(content, name), "values")]
        if name == "kvlistValue":
            return _json_map(_objects(_object(content, name), "values"), nesting - 1)
    return None


def _json_map(pairs: list[dict[str, Any]], nesting: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        key = _text(pair.get("key"))
        if key in values:
            raise DuplicateAttribute(key)
        values[key] = _json_value(pair.get("value") or {}, nesting)
    return values


def _json_integer(content: object) -> int:
    """Read a 64-bit integer, which OTLP/JSON writes as a string and also allows as a number."""
    try:
        if isinstance(content, str | int) and not isinstance(content, bool):
            return int(content)
    except ValueError:
        pass
    raise MalformedRequest("A 64-bit integer is neither a number nor a string of digits.")


def _json_bytes(content: object) -> bytes:
    try:
        return base64.b64decode(_text(content), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedRequest("A bytesValue is not base64.") from error


def _json_double(content: object) -> float:
    try:
        if isinstance(content, str | int | float):
            return float(content)
    except ValueError:
        pass
    raise MalformedRequest("A doubleValue is no number.")


def _json_boolean(content: object) -> bool:
    if isinstance(content, bool):
        return content
    raise MalformedRequest("A boolValue is neither true nor false.")


def _text(content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    raise MalformedRequest("A member that must be a string is none.")


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


_JSON_SCALARS = {
    "stringValue": _text,
    "intValue": _json_integer,
    "doubleValue": _json_double,
    "boolValue": _json_boolean,
    "bytesValue": _json_bytes,
}


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedRequest(f"{what} is not a JSON object.")
    return value


def _objects(members: dict[str, Any], name: str) -> list[dict[str, Any]]:
    listed = members.get(name)
    if listed is None:
        return []
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise MalformedRequest(f"{name} is not a list of objects.")
    return listed
