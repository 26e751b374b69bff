"""From any other program's log record to an event document: the mapping table of DESIGN section 6 applied. Pure.

Mapping is not coercion of our own form: it only gives foreign values a place that the JSON profile has. Nothing
is dropped: what the table does not place goes to `metadata.attributes`, `metadata.resource` and `metadata.body`.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from klyra_audit import ids, timestamps
from klyra_audit.errors import InvalidEvent
from klyra_audit.event import SCHEMA
from klyra_audit.format.canonical import MAX_INTEGER
from klyra_audit.mapping.foreign import NOTHING, Foreign
from klyra_audit.mapping.table import (
    ATTRIBUTES,
    BODY,
    COLLECTORS_MEMBERS,
    EVENT_TYPE,
    METADATA,
    OWN_METADATA,
    RECORD,
    RESOURCE,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.sections import Marks
    from klyra_audit.mapping.table import MappingTable, Name, Target

CATALOG = "the catalog"
THE_KEY = "the key"
REQUEST = "the request and the record's position in it"
COLLECTOR = "the collector's clock"
CONNECTION = "a connection without acknowledgements"

_MOST_NAMED = 4  # names in a message
_MAX_TIME = 2**64
_NANOSECONDS_PER_MILLISECOND = 1_000_000
_FIELD = "record."  # before the name of a field that an attribute has, too
_FIRST_RARE = Foreign._fields.index("severity_number")
_NOTHING_RARE = Foreign("", None, {}, 0, 0, "", "")[_FIRST_RARE:]
_SET_BESIDE_ATTRIBUTES = COLLECTORS_MEMBERS | {"client_ip", "user_agent"}


@dataclass(frozen=True, slots=True)
class Arrival:
    """How and when a record came in: what the table takes when the record itself is silent.

    Attributes:
        organization_id: the key's; None for a key that may emit for many.
        received_ns: receive time, nanoseconds since 1970.
        seed: at least 10 bytes for the id of a record without one, the same whenever the request is sent again.
    """

    organization_id: str | None
    received_ns: int
    seed: bytes


@dataclass(frozen=True, slots=True)
class Mapped:
    """An event document and how it came about.

    Attributes:
        document: not validated yet.
        marks: what of it belongs to the actor and to the target.
        origins: by target, the name that gave it, or what else did.
    """

    document: JsonObject
    marks: Marks
    origins: Mapping[str, str]


def map_record(record: Foreign, resource: Mapping[str, Any], arrival: Arrival, table: MappingTable) -> Mapped:
    """Return the event document of a foreign record.

    Raises:
        InvalidEvent: there is no event type, time, organization, actor or resource to be found.
    """
    reader = _Reader(record, resource)
    targets, origins = table.targets, reader.origins
    metadata: JsonObject = {}
    event_type = _event_type(reader, table)
    known = table.catalog.get(event_type)
    event_time_ns = _event_time_ns(record, arrival, metadata, origins)
    kind = reader.find(targets["resource.type"])
    if kind is None and known is not None:
        kind, origins["resource.type"] = known.resource_type, CATALOG
    action = reader.find(targets["action"])
    if action is None and known is not None:
        action, origins["action"] = known.action, CATALOG
    document: JsonObject = {
        "id": _entry_id(reader, targets["id"], metadata, event_time_ns, arrival),
        "timestamp": timestamps.from_nanoseconds(event_time_ns),
        "event_type": event_type,
        "actor": {
            "type": reader.find(targets["actor.type"]),
            "id": reader.need(targets["actor.id"]),
            "name": reader.find(targets["actor.name"]),
        },
        "resource": {
            "type": kind,
            "id": reader.need(targets["resource.id"]),
            "name": reader.find(targets["resource.name"]),
        },
        "action": action,
        "status": reader.find(targets["status"]),
        "metadata": metadata,
        "organization_id": _organization(reader, targets["organization_id"], arrival),
        "schema": SCHEMA,
    }
    _fill_metadata(metadata, reader, record, table)
    _place_rest(metadata, reader, record)
    return Mapped(document, table.marks(event_type, about_user=kind == "user"), origins)


class _Reader:
    """A record's values by where they stand, which of them are used, and for what."""

    __slots__ = ("origins", "places", "used")

    def __init__(self, record: Foreign, resource: Mapping[str, Any]) -> None:
        body = record.body
        self.places: tuple[Mapping[str, Any], ...] = (
            record.attributes,
            body if type(body) is dict else NOTHING,
            resource,
            _fields(record),
        )
        self.used: tuple[set[str], ...] = (set(), set(), set(), set())
        self.origins: dict[str, str] = {}

    def find(self, target: Target) -> str | None:
        """Return the text of the first name that has a fitting one; else the constant or default, if there is one.

        A value stays where it was, too, if its place in the document does not say all of it.
        """
        name_of_target, names, read, otherwise = target
        for place, key, label in names:
            value = self.places[place].get(key)
            if value is None:
                continue
            text = value if type(value) is str else text_of(value)
            if not text:
                continue
            result = text if read is None else read(text)
            if result is not None:
                if result in (text, text.lower()):
                    self.used[place].add(key)
                self.origins[name_of_target] = label
                return result
        if otherwise is None:
            return None
        result, self.origins[name_of_target] = otherwise
        return result

    def need(self, target: Target) -> str:
        """Return what `find` does; `InvalidEvent` if that is nothing."""
        found = self.find(target)
        if found is None:
            what, pointer = target.name.partition(".")[0], "/" + target.name.replace(".", "/")
            names = ", ".join(name.label for name in target.names[:_MOST_NAMED])
            raise InvalidEvent(f"the record names no {what} ({names})", pointer=pointer)
        return found

    def find_any(self, target: Target) -> Any:  # noqa: ANN401 - metadata hold anything
        """Return the first value that is there, of whatever kind, in the JSON profile; else the constant."""
        for place, key, label in target.names:
            value = self.places[place].get(key)
            if value is not None:
                self.used[place].add(key)
                self.origins[target.name] = label
                return to_profile(value)
        if target.otherwise is None:
            return None
        value, self.origins[target.name] = target.otherwise
        return value

    def text(self, name: Name) -> str:
        """Return one value as text, "" if it is not there or has none; it is not used by that."""
        return text_of(self.places[name.place].get(name.key)) or ""


def _fields(record: Foreign) -> dict[str, Any]:
    """Return what stands in the record itself, by the name under which it can be asked for."""
    name = record.event_name
    fields: dict[str, Any] = {"event_name": name} if name else {}
    if record[_FIRST_RARE:] == _NOTHING_RARE:
        return fields
    rare = {
        "severity_text": record.severity_text,
        "severity_number": record.severity_number,
        "flags": record.flags,
        "otel.scope.name": record.scope_name,
        "otel.scope.version": record.scope_version,
        "otel.scope.attributes": record.scope_attributes,
        "tag": record.tag,
    }
    return fields | {name: value for name, value in rare.items() if value}


def _event_type(reader: _Reader, table: MappingTable) -> str:
    """Return the event type: a name of the catalog as it stands, else what a rule says, else the name."""
    if table.rules:
        names = table.targets[EVENT_TYPE].names
        text = next(filter(None, map(reader.text, names)), "")
        if table.catalog.get(text) is None:
            for rule in table.rules:
                if rule.matches(text) and all(matches(reader.text(name)) for name, matches in rule.conditions):
                    reader.origins[EVENT_TYPE] = rule.label
                    return rule.event_type
    found = reader.find(table.targets[EVENT_TYPE])
    if found is None:
        raise InvalidEvent("the record has neither an event name nor klyra.event_type", pointer="/event_type")
    return found


def _event_time_ns(record: Foreign, arrival: Arrival, metadata: JsonObject, origins: dict[str, str]) -> int:
    time, origin = record.time_unix_nano, "record:time_unix_nano"
    if not time:
        time, origin = record.observed_time_unix_nano, "record:observed_time_unix_nano"
    if not time:
        metadata["timestamp_source"] = "collector"
        origins["metadata.timestamp_source"] = COLLECTOR
        time, origin = arrival.received_ns, COLLECTOR
    if not 0 < time < _MAX_TIME:
        raise InvalidEvent("is no time in nanoseconds since 1970", pointer="/timestamp")
    origins["timestamp"] = origin
    return time


def _entry_id(reader: _Reader, target: Target, metadata: JsonObject, event_time_ns: int, arrival: Arrival) -> str:
    value = reader.find(target)
    if value is None:
        reader.origins[target.name] = REQUEST
        return ids.log_id(ids.uuid7(event_time_ns // _NANOSECONDS_PER_MILLISECOND, arrival.seed))
    if ids.LOG_ID.fullmatch(value):
        return value
    metadata["source_id"] = value
    reader.origins["metadata.source_id"] = reader.origins[target.name]
    return ids.log_id_of_foreign(reader.origins[target.name], value)


def _organization(reader: _Reader, target: Target, arrival: Arrival) -> str:
    """Return whose event it is: the key's organization; for a key of many, the one that is named."""
    own = arrival.organization_id
    if own is None:
        found = reader.find(target)
        if found is None:
            raise InvalidEvent(
                "the key may emit for many organizations, and neither record nor resource has " + target.names[0].label,
                pointer="/organization_id",
            )
        return found
    for name in target.names:
        if reader.places[name.place].get(name.key) == own:
            reader.used[name.place].add(name.key)
    reader.origins[target.name] = THE_KEY
    return own


def _fill_metadata(metadata: JsonObject, reader: _Reader, record: Foreign, table: MappingTable) -> None:
    """Add what the collector knows and what the table names."""
    for target in (table.targets["metadata.client_ip"], table.targets["metadata.user_agent"]):
        text = reader.find(target)
        if text is not None:
            metadata[target.name.removeprefix(METADATA)] = text
    for target in table.metadata:
        value = reader.find_any(target)
        if value is not None:
            metadata[target.name.removeprefix(METADATA)] = value
    for member, identifier in (("trace_id", record.trace_id), ("span_id", record.span_id)):
        if identifier.strip("0"):
            metadata[member] = identifier
            reader.origins[METADATA + member] = f"record:{member}"
    if record.tag:
        metadata["tag"] = record.tag
        reader.origins["metadata.tag"] = "record:tag"
        reader.used[RECORD].add("tag")
    if record.best_effort:
        metadata["delivery"] = "best_effort"
        reader.origins["metadata.delivery"] = CONNECTION
    if record.dropped_attributes_count:
        metadata["dropped_attributes_count"] = to_profile(record.dropped_attributes_count)
        reader.origins["metadata.dropped_attributes_count"] = "record:dropped_attributes_count"


def _place_rest(metadata: JsonObject, reader: _Reader, record: Foreign) -> None:
    """Add everything that has no place yet."""
    origins = reader.origins
    attributes = _rest(reader, ATTRIBUTES)
    for name in [name for name in attributes if name.startswith(OWN_METADATA)]:
        member = name.removeprefix(OWN_METADATA)
        if member and member not in metadata and member not in _SET_BESIDE_ATTRIBUTES:
            metadata[member] = attributes.pop(name)
            origins[METADATA + member] = name
    _place_body(metadata, reader, record.body)
    for name, value in _rest(reader, RECORD).items():
        free = name
        while free in attributes:
            free = _FIELD + free
        attributes[free] = value
    if attributes:
        metadata["attributes"] = attributes
    if reader.places[RESOURCE]:
        rest = _rest(reader, RESOURCE)
        if rest:
            metadata["resource"] = rest


def _rest(reader: _Reader, place: int) -> JsonObject:
    """Return what is not used yet of one place, in the JSON profile."""
    used = reader.used[place]
    return {
        name: value if type(value) is str else to_profile(value)
        for name, value in reader.places[place].items()
        if name not in used
    }


def _place_body(metadata: JsonObject, reader: _Reader, body: Any) -> None:  # noqa: ANN401 - a body is anything
    """Make a map's members metadata, anything else their `message`; what finds its place taken goes to `body`."""
    if body is None:
        return
    if not isinstance(body, dict):
        member = "body" if "message" in metadata else "message"
        metadata[member] = to_profile(body)
        reader.origins[METADATA + member] = "the record's body"
        return
    rest: JsonObject = {}
    for member, value in body.items():
        if member in reader.used[BODY]:
            continue
        if member in metadata or member in _SET_BESIDE_ATTRIBUTES:
            rest[member] = to_profile(value)
        else:
            metadata[member] = to_profile(value)
            reader.origins[METADATA + member] = f"body:{member}"
    if rest:
        metadata["body"] = rest


def text_of(value: object) -> str | None:
    """Return a value as text, None for what has none: nothing, lists and maps."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _decimal(value)
    return base64.b64encode(value).decode() if isinstance(value, bytes) else None


def to_profile(value: Any) -> Any:  # noqa: ANN401 - attributes hold anything
    """Return a foreign value as the JSON profile has it: doubles and large integers as strings, bytes as base64."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return value if -MAX_INTEGER <= value <= MAX_INTEGER else str(value)
    if isinstance(value, float):
        return _decimal(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list):
        return [to_profile(item) for item in value]
    return {member: to_profile(inner) for member, inner in value.items()}


def _decimal(value: float) -> str:
    """Return the shortest decimal string that reads back as the same double."""
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
