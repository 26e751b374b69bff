"""From any other OTLP log record to an event document: the mapping table of DESIGN section 6. Pure.

Mapping is not coercion of our own form: it only gives foreign values a place that the JSON profile has. Nothing
is dropped; what the table does not name goes to `metadata.attributes`.
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

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klyra_audit.catalog import Catalog
    from klyra_audit.format.canonical import JsonObject
    from klyra_collector.receive.wire import Foreign

ORGANIZATION = "klyra.organization.id"

_EVENT_TYPES = ("event.name", "klyra.event_type")
_IDS = ("klyra.id", "audit.record.id", "log.record.uid")
_ACTOR_IDS = ("klyra.actor.id", "audit.actor.id", "user.id", "enduser.id")
_ACTOR_NAMES = ("klyra.actor.name", "user.name")
_ACTOR_TYPES = ("klyra.actor.type", "audit.actor.type")
_RESOURCE_IDS = ("klyra.resource.id", "audit.target.id")
_RESOURCE_TYPES = ("klyra.resource.type", "audit.target.type")
_RESOURCE_NAMES = ("klyra.resource.name",)
_ACTIONS = ("klyra.action", "audit.action")
_STATUSES = ("klyra.status", "audit.outcome")
_CLIENT_IPS = ("klyra.client_ip", "audit.source.id", "client.address")
_USER_AGENTS = ("user_agent.original",)
_METADATA = "klyra.metadata."
_ACTOR_TYPE_WORDS = {"service": "system"}
_NANOSECONDS_PER_MILLISECOND = 1_000_000


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


def map_record(record: Foreign, resource: Mapping[str, Any], arrival: Arrival, catalog: Catalog) -> JsonObject:
    """Return the event document of a foreign record; it is not validated yet.

    Raises:
        InvalidEvent: there is no event type, organization, actor or resource to be found.
    """
    source = _Attributes(record.attributes)
    metadata: JsonObject = {}
    event_type = record.event_name or source.take(_EVENT_TYPES)
    if not event_type:
        raise InvalidEvent("the record has neither an event name nor klyra.event_type", pointer="/event_type")
    event_time_ns = record.time_unix_nano or record.observed_time_unix_nano
    if not event_time_ns:
        event_time_ns = arrival.received_ns
        metadata["timestamp_source"] = "collector"
    known = catalog.get(event_type)
    document: JsonObject = {
        "id": _entry_id(source, metadata, event_time_ns, arrival),
        "timestamp": timestamps.from_nanoseconds(event_time_ns),
        "event_type": event_type,
        "actor": _actor(source),
        "resource": _resource(source, known.resource_type if known else None),
        "action": _word(source.take(_ACTIONS)) or (known.action if known else None),
        "status": _word(source.take(_STATUSES)) or "success",
        "metadata": metadata,
        "organization_id": _organization(source, resource, arrival),
        "schema": SCHEMA,
    }
    _fill_metadata(metadata, source, record)
    return document


class _Attributes:
    """The attributes not yet placed."""

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self.rest = dict(attributes)

    def take(self, names: tuple[str, ...]) -> Any:  # noqa: ANN401 - attributes hold anything
        """Return the first of `names` that is there and place it; the others stay, nothing is dropped."""
        name = self.take_name(names)
        return None if name is None else self.rest.pop(name)

    def take_name(self, names: tuple[str, ...]) -> str | None:
        """Return which of `names` is there first."""
        return next((name for name in names if name in self.rest), None)


def _entry_id(source: _Attributes, metadata: JsonObject, event_time_ns: int, arrival: Arrival) -> str:
    name = source.take_name(_IDS)
    if name is None:
        milliseconds = event_time_ns // _NANOSECONDS_PER_MILLISECOND
        return ids.log_id(ids.uuid7(milliseconds, arrival.seed))
    value = str(source.rest.pop(name))
    if ids.LOG_ID.fullmatch(value):
        return value
    metadata["source_id"] = value
    return ids.log_id_of_foreign(name, value)


def _actor(source: _Attributes) -> JsonObject:
    kind = _word(source.take(_ACTOR_TYPES))
    actor_id = source.take(_ACTOR_IDS)
    if actor_id is None:
        raise InvalidEvent("the record names no actor (klyra.actor.id, audit.actor.id, user.id)", pointer="/actor/id")
    return {
        "type": _ACTOR_TYPE_WORDS.get(str(kind), kind) or "user",
        "id": str(actor_id),
        "name": _optional_text(source.take(_ACTOR_NAMES)),
    }


def _resource(source: _Attributes, known_type: str | None) -> JsonObject:
    resource_id = source.take(_RESOURCE_IDS)
    if resource_id is None:
        raise InvalidEvent("the record names no resource (klyra.resource.id, audit.target.id)", pointer="/resource/id")
    kind = source.take(_RESOURCE_TYPES)
    return {
        "type": str(kind) if kind is not None else known_type,
        "id": str(resource_id),
        "name": _optional_text(source.take(_RESOURCE_NAMES)),
    }


def _organization(source: _Attributes, resource: Mapping[str, Any], arrival: Arrival) -> str:
    named = source.take((ORGANIZATION,)) or resource.get(ORGANIZATION)
    if arrival.organization_id is not None:
        return arrival.organization_id
    if not isinstance(named, str):
        raise InvalidEvent(
            f"the key may emit for many organizations, and neither record nor resource has {ORGANIZATION}",
            pointer="/organization_id",
        )
    return named


def _fill_metadata(metadata: JsonObject, source: _Attributes, record: Foreign) -> None:
    for member, names in (("client_ip", _CLIENT_IPS), ("user_agent", _USER_AGENTS)):
        value = source.take(names)
        if value is not None:
            metadata[member] = str(value)
    for member, value in (("trace_id", record.trace_id), ("span_id", record.span_id)):
        if value.strip("0"):
            metadata[member] = value
    if isinstance(record.body, dict):
        metadata |= {member: to_profile(value) for member, value in record.body.items() if member not in metadata}
    elif record.body is not None:
        metadata.setdefault("message", to_profile(record.body))
    attributes: JsonObject = {}
    for name, value in source.rest.items():
        member = name.removeprefix(_METADATA)
        if member != name and member and member not in metadata:
            metadata[member] = to_profile(value)
        else:
            attributes[name] = to_profile(value)
    if attributes:
        metadata["attributes"] = attributes


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
    if isinstance(value, dict):
        return {member: to_profile(inner) for member, inner in value.items()}
    return [to_profile(item) for item in value]


def _decimal(value: float) -> str:
    """Return the shortest decimal string that reads back as the same double."""
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _word(value: object) -> str | None:
    """Return a fixed word in lower case (CREATE is create)."""
    return None if value is None else str(value).lower()


def _optional_text(value: object) -> str | None:
    return None if value is None else str(value)
