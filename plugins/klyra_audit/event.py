"""What an application says happened, before it is sealed (DESIGN section 4)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from klyra_audit import ids, timestamps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klyra_audit.format.canonical import JsonObject

SCHEMA = "klyra.audit/1"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who or what did it: a user, an API key or a part of the system."""

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
        """Return a part of the system that acted by itself."""
        return cls("system", component, name)


@dataclass(frozen=True, slots=True)
class Resource:
    """What it was done to."""

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
        metadata: context; JSON without floats.
        id: `log_…`; None draws one. Keep it to have a second emission recognised as a repeat.
        timestamp: RFC 3339 in UTC with Z; None takes now.
    """

    event_type: str
    actor: Actor
    resource: Resource
    action: str
    status: str = "success"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None
    timestamp: str | None = None

    def document(self, organization_id: str) -> JsonObject:
        """Return the event document of an organization, not yet validated."""
        return {
            "id": self.id or ids.new_log_id(),
            "timestamp": self.timestamp or timestamps.from_microseconds(time.time_ns() // 1000),
            "event_type": self.event_type,
            "actor": {"type": self.actor.type, "id": self.actor.id, "name": self.actor.name},
            "resource": {"type": self.resource.type, "id": self.resource.id, "name": self.resource.name},
            "action": self.action,
            "status": self.status,
            "metadata": dict(self.metadata),
            "organization_id": organization_id,
            "schema": SCHEMA,
        }
