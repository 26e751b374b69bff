"""What an application says happened, before it is sealed (DESIGN section 4)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any, Final

from klyra_audit import ids, timestamps
from klyra_audit.errors import InvalidEvent
from klyra_audit.format.canonical import escape

if TYPE_CHECKING:
    from klyra_audit.format.canonical import JsonObject

SCHEMA: Final = "klyra.audit/1"

_MICROSECONDS_PER_MILLISECOND = 1000
_NANOSECONDS_PER_MILLISECOND = 1_000_000
_RANDOM_BYTES = 10
_PLAIN = frozenset({str, int, bool, type(None)})


@dataclass(frozen=True, slots=True)
class Actor:
    """Who or what did it.

    Attributes:
        type: user, api_key or system.
        id: 1 to 256 characters without control characters.
        name: what people call it; None if it has no name.
    """

    type: str
    id: str
    name: str | None = None

    @classmethod
    def user(cls, user_id: str, name: str | None = None) -> Actor:
        """Return a person with an account."""
        return cls("user", user_id, name)

    @classmethod
    def api_key(cls, key_id: str, name: str | None = None) -> Actor:
        """Return a program that came with a key; give its public id, never the secret."""
        return cls("api_key", key_id, name)

    @classmethod
    def system(cls, component: str, name: str | None = None) -> Actor:
        """Return a part of the system that acted by itself; a component's name is its id."""
        return cls("system", component, name)


@dataclass(frozen=True, slots=True)
class Resource:
    """What it was done to.

    Attributes:
        type: fixed by the event type; a `user` is a person whose id and name can be erased.
        id: 1 to 256 characters without control characters.
        name: what people call it; None if it has no name.
    """

    type: str
    id: str
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One event. `klyra_audit.events` makes those of the product's own types.

    Attributes:
        event_type: a name in the catalog.
        actor, resource: who did it, and to what.
        action: create, read, update or delete.
        status: success or failure.
        metadata: context; a copy is kept, with each `Decimal` as decimal string, tuple as list, and
            member of an `IntEnum` or `StrEnum` as its value.
        id: `log_…`; drawn at once if none is given, so that a second emission of the same object is a repeat.
        timestamp: RFC 3339 in UTC with Z; None takes the time of emission, in milliseconds.

    Raises:
        InvalidEvent: the metadata have a float, or a `Decimal` that is no finite number.
    """

    event_type: str
    actor: Actor
    resource: Resource
    action: str
    status: str = "success"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None
    timestamp: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "metadata", to_json(self.metadata, "/metadata"))
        if self.id is None:
            object.__setattr__(self, "id", ids.new_log_id())

    def document(self, organization_id: str) -> JsonObject:
        """Return the event document of an organization, not yet validated; it shares nothing with the event.

        Where the event has no timestamp, every call takes the time anew.
        """
        return {
            "id": self.id,
            "timestamp": self.timestamp or timestamps.from_microseconds(time.time_ns() // 1000),
            "event_type": self.event_type,
            "actor": {"type": self.actor.type, "id": self.actor.id, "name": self.actor.name},
            "resource": {"type": self.resource.type, "id": self.resource.id, "name": self.resource.name},
            "action": self.action,
            "status": self.status,
            "metadata": _copied(self.metadata),
            "organization_id": organization_id,
            "schema": SCHEMA,
        }


def _copied(value: Any) -> Any:  # noqa: ANN401 - what `to_json` has made
    if type(value) is dict:
        return {name: _copied(member) for name, member in value.items()}
    return [_copied(member) for member in value] if type(value) is list else value


def to_json(value: Any, pointer: str) -> Any:  # noqa: ANN401 - whatever an application calls metadata
    """Return a copy of a value as the JSON profile has it; what is no JSON at all stays, to be refused later.

    Raises:
        InvalidEvent: a float, whose decimal notation would be a guess, or a `Decimal` that is not finite.
    """
    if isinstance(value, Mapping):
        return {
            name: member if type(member) in _PLAIN else to_json(member, f"{pointer}/{escape(str(name))}")
            for name, member in value.items()
        }
    if isinstance(value, list | tuple):
        return [to_json(member, f"{pointer}/{position}") for position, member in enumerate(value)]
    if isinstance(value, float):
        raise InvalidEvent(
            'is a float; pass a Decimal or a decimal string instead, such as Decimal("0.87")', pointer=pointer
        )
    if isinstance(value, Decimal):
        return _decimal_string(value, pointer)
    return value.value if isinstance(value, StrEnum | IntEnum) else value


def _decimal_string(value: Decimal, pointer: str) -> str:
    if not value.is_finite():
        raise InvalidEvent("is a Decimal that is not a finite number", pointer=pointer)
    return format(value, "f") if value else "0"
