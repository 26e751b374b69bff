"""What every protocol's records look like to the rest of the collector, and OTLP log requests as protobuf.

`wire_json.py` reads the same as JSON. No sockets here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from klyra_audit.errors import InvalidEvent, Rejected
from klyra_audit.mapping.foreign import NOTHING, Foreign
from klyra_collector.receive.salvage import NotProtobuf, join_request, split_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
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


_OWN_COUNT = 3
_UNPARSED = "the record, its resource or its scope is nested too deeply or has text that is not UTF-8"


class MalformedRequest(Rejected):
    """The request is no OTLP log request; sending it again cannot help."""

    code = "malformed_request"


class MalformedRecord(InvalidEvent):
    """One record of a request is not what OTLP says it is; the others are not concerned."""

    code = "malformed_record"


class DuplicateAttribute(MalformedRecord):
    """The same attribute key stands twice; which of them counts is anyone's guess.

    Attributes:
        key: which.
    """

    code = "duplicate_attribute"

    def __init__(self, key: str) -> None:
        super().__init__("the record, its resource or its scope has the same attribute twice")
        self.key = key


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
        """Return the record in our own form, None if it is another's; `MalformedRecord`."""
        ...

    def foreign(self) -> Foreign:
        """Return the record as any OTLP client's; `MalformedRecord`."""
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
        for scope_logs in resource_logs.scope_logs:
            records.extend(_records((resource_logs.resource, scope_logs.scope), scope_logs.log_records))
    return records


def _records(around: tuple[Resource, InstrumentationScope], messages: Iterable[LogRecord]) -> Iterator[WireRecord]:
    """Yield the records of one scope; all of them are unreadable if it or the resource is."""
    try:
        resource, scope = _first_of_each(around[0].attributes), _scope(around[1])
    except MalformedRecord as error:
        yield from (UnreadableRecord(_encode(around, message), reason=error.reason) for message in messages)
    else:
        yield from (ProtobufRecord(resource, scope, message, around) for message in messages)


def _encode(around: tuple[Resource, InstrumentationScope], message: LogRecord) -> bytes:
    """Return a request of one record."""
    resource, scope = around
    scope_logs = ScopeLogs(scope=scope, log_records=[message])
    return ExportLogsServiceRequest(
        resource_logs=[ResourceLogs(resource=resource, scope_logs=[scope_logs])]
    ).SerializeToString()


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
        [record] = _records(around, [LogRecord.FromString(part.record)])
    except DecodeError:
        return UnreadableRecord(join_request(part))
    return record


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
        return _encode(self._around, self._message)


class UnreadableRecord:
    """A record that its parser refuses, or whose resource or scope it refuses.

    Args:
        encoded: a request of this record alone, as far as it can be written.
        encoding: what it is written in.
        reason: why it is refused; without it, what protobuf's parser refuses.
    """

    __slots__ = ("_encoded", "_reason", "encoding", "resource")

    def __init__(self, encoded: bytes, encoding: str = OTLP_PROTOBUF, reason: str = _UNPARSED) -> None:
        self.resource: dict[str, Any] = {}
        self.encoding = encoding
        self._encoded = encoded
        self._reason = reason

    def own_form(self) -> OwnForm | None:
        """Raise what has the record quarantined."""
        self._refuse()

    def foreign(self) -> Foreign:
        """Raise as `own_form` does."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise MalformedRecord(self._reason)

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
    # An index into a profile's table of strings has no meaning in a log record: it is nothing, as the protocol says.
    return None if kind is None or kind.endswith("_strindex") else getattr(value, kind)
