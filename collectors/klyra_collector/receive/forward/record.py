"""One entry of a Forward message as the pipeline reads it: in our own form, or any other program's."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from klyra_audit.errors import InvalidEvent
from klyra_audit.forward.entry import Entry, decode_entry, plain
from klyra_audit.forward.message import as_message
from klyra_audit.mapping.foreign import Foreign
from klyra_audit.otlp import COMMITS
from klyra_collector.receive.wire import RECORD_ID, SALTS, SECTIONS, SEQUENCE, OwnForm

if TYPE_CHECKING:
    from klyra_audit.forward.message import Message, RawEntry
    from klyra_collector.receive.forward.tags import TagTypes

BODY: Final = "body"
EVENT_NAME: Final = "event_name"
RESOURCE: Final = "resource"
METADATA: Final = "fluent.metadata"
FORWARD: Final = "forward"
FORWARD_UNACKNOWLEDGED: Final = "forward-unacknowledged"

_EVENT_TYPES: Final = (EVENT_NAME, "event.name", "klyra.event_type")
_BODIES: Final = ("message", "log")
_NESTED: Final = "klyra"
_NESTED_TWICE: Final = frozenset({"actor", "resource", "metadata", "organization"})


@dataclass(frozen=True, slots=True)
class Source:
    """What all entries of a message share.

    Attributes:
        tag: the message's; None if it is no UTF-8.
        raw_tag: as it came, in msgpack.
        acknowledged: the sender asks for an acknowledgement, and so sends again what got none.
        types: which event type a tag stands for.
    """

    tag: str | None
    raw_tag: bytes
    acknowledged: bool
    types: TagTypes


def records_of(message: Message, types: TagTypes) -> list[ForwardRecord]:
    """Return the entries of a message, not decoded yet."""
    source = Source(message.tag, message.raw_tag, message.raw_chunk is not None, types)
    return [ForwardRecord(source, entry) for entry in message.entries]


class ForwardRecord:
    """See `WireRecord`. Decoded when it is first asked for; a broken one says so with `InvalidEvent` each time."""

    __slots__ = ("_decoded", "_raw", "_source", "resource")

    def __init__(self, source: Source, raw: RawEntry) -> None:
        self.resource: dict[str, Any] = {}
        self._source = source
        self._raw = raw
        self._decoded: Entry | InvalidEvent | None = None

    @property
    def encoding(self) -> str:
        """See `WireRecord`; it tells whether the sender asked for an acknowledgement."""
        return FORWARD if self._source.acknowledged else FORWARD_UNACKNOWLEDGED

    def own_form(self) -> OwnForm | None:
        """See `WireRecord`; the resource's attributes are the record's member `resource`.

        Bytes may also come as base64: what stands in between may know JSON alone.
        """
        record = self._entry().record
        salts = record.get(SALTS)
        if salts is None:
            return None
        resource, body, name = record.get(RESOURCE), record.get(BODY), record.get(EVENT_NAME)
        sequence, sections = record.get(SEQUENCE), record.get(SECTIONS)
        self.resource = dict(resource) if isinstance(resource, dict) else {}
        if COMMITS in self.resource:
            self.resource[COMMITS] = _octets(self.resource[COMMITS])
        return OwnForm(
            body.encode() if isinstance(body, str) else b"",
            name if isinstance(name, str) else "",
            _octets(salts),
            sequence if isinstance(sequence, int) else None,
            sections if isinstance(sections, str) else None,
        )

    def foreign(self) -> Foreign:
        """See `WireRecord`: the record's members are its attributes, `message` or `log` its body."""
        entry = self._entry()
        attributes = _flat(plain(entry.record))
        if entry.metadata:
            attributes.setdefault(METADATA, plain(entry.metadata))
        name = attributes.get(EVENT_NAME)
        if isinstance(name, str):
            del attributes[EVENT_NAME]
        elif not any(member in attributes for member in _EVENT_TYPES):
            name = self._source.types.event_type(self._source.tag or "")
        return Foreign(
            event_name=name if isinstance(name, str) else "",
            body=_take_body(attributes),
            attributes=attributes,
            time_unix_nano=entry.time_unix_nano,
            observed_time_unix_nano=0,
            trace_id="",
            span_id="",
            tag=self._source.tag or "",
            best_effort=not self._source.acknowledged,
        )

    def record_id(self) -> str | None:
        """See `WireRecord`."""
        try:
            value = self._entry().record.get(RECORD_ID)
        except InvalidEvent:
            return None
        return None if value is None else str(value)

    def raw(self) -> bytes:
        """Return the entry as a Forward message of its own, which can be read again with its tag."""
        return as_message(self._source.raw_tag, self._raw)

    def _entry(self) -> Entry:
        if self._decoded is None:
            self._decoded = self._decode()
        if isinstance(self._decoded, InvalidEvent):
            raise self._decoded
        return self._decoded

    def _decode(self) -> Entry | InvalidEvent:
        if self._raw.fault is not None:
            return self._raw.fault
        if self._source.tag is None:
            return InvalidEvent("the message's tag is no UTF-8", code="malformed_entry")
        try:
            return decode_entry(self._raw.raw)
        except InvalidEvent as error:
            return error


def _octets(value: object) -> bytes:
    """Return bytes that came as they are or as base64; none for anything else, which no check takes."""
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except ValueError:
        return b""


def _take_body(attributes: dict[str, Any]) -> str | None:
    name = next((name for name in _BODIES if isinstance(attributes.get(name), str)), None)
    return None if name is None else str(attributes.pop(name))


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record whose map `klyra` is written out as dotted names: some senders cannot write a dot in a key.

    Raises:
        InvalidEvent: a name stands there in both ways.
    """
    nested = record.get(_NESTED)
    if not isinstance(nested, dict):
        return record
    attributes = {name: value for name, value in record.items() if name != _NESTED}
    for name, value in _dotted(nested):
        if name in attributes:
            raise InvalidEvent("the record has the same attribute twice", code="duplicate_attribute")
        attributes[name] = value
    return attributes


def _dotted(nested: dict[str, Any]) -> list[tuple[str, Any]]:
    named: list[tuple[str, Any]] = []
    for name, value in nested.items():
        if name in _NESTED_TWICE and isinstance(value, dict):
            named += [(f"{_NESTED}.{name}.{inner}", item) for inner, item in value.items()]
        else:
            named.append((f"{_NESTED}.{name}", value))
    return named
