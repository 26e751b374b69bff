"""An event of each of the catalog's moderation and administrative types, sealed as a destination gets them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from klyra_audit.catalog import Catalog
from klyra_audit.format.leaf import Kind
from klyra_collector.fanout.source import EntrySource
from support.entries import ACME, ORIGIN, TODAY, MemoryLedger, document, organization_reference

if TYPE_CHECKING:
    from klyra_siem.destination import SealedEntry

USER = {"type": "user", "id": "usr_1", "name": "Ada | Lovelace = \\ 王"}
SYSTEM = {"type": "system", "id": "classifier", "name": None}
_CLIENT = {"client_ip": "2001:db8::7", "user_agent": "Mozilla/5.0 (X11; Linux x86_64)"}

_EVENTS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "moderation.created": ({"type": "api_key", "id": "key_1", "name": "Production"}, "mod_1", {"content_type": "text"}),
    "moderation.completed": (SYSTEM, "mod_1", {"decision": "flagged", "categories": ["hate"], "duration_ms": 41}),
    "moderation.flagged": (SYSTEM, "mod_1", {"categories": ["hate", "threat"], "content_hash": "sha256:ab"}),
    "moderation.appealed": (USER, "mod_1", {"reason": "it was a joke\nand a pun"}),
    "moderation.overridden": (USER, "mod_1", {"decision": "approved", "previous_decision": "flagged"}),
    "api_key.created": (USER, "key_2", {"scopes": ["read"]}),
    "api_key.revoked": (USER, "key_2", {}),
    "webhook.created": (USER, "wh_1", {"url": "https://example.com/hook"}),
    "webhook.updated": (USER, "wh_1", {"changes": {"url": {"from": "https://a.example", "to": "https://b.example"}}}),
    "webhook.deleted": (USER, "wh_1", {}),
    "user.invited": (USER, "usr_2", {"email": "grace@example.com", "role": "viewer"}),
    "user.added": (USER, "usr_2", {"email": "grace@example.com"}),
    "user.removed": (USER, "usr_2", {}),
    "role.assigned": (USER, "usr_2", {"role": "admin", "previous_role": "viewer"}),
    "settings.updated": (USER, "account", {"changes": {"threshold": {"from": "0.7", "to": "0.8"}}}),
}
EVENT_TYPES = tuple(_EVENTS)
CATALOG = Catalog.load()


def event(event_type: str, number: int = 0, /, **members: Any) -> dict[str, Any]:
    """Return an event of a type that satisfies its schema; `members` replace its own."""
    described = CATALOG.event_types[event_type]
    actor, resource_id, metadata = _EVENTS[event_type]
    name = None if described.resource_type == "moderation" else f"The {described.resource_type}"
    return (
        document(
            number,
            event_type=event_type,
            actor=actor,
            resource={"type": described.resource_type, "id": resource_id, "name": name},
            action=described.action,
            metadata=_CLIENT | metadata,
        )
        | members
    )


class Everyone:
    """Entitles one organization."""

    def references(self) -> frozenset[bytes]:
        """Return its reference."""
        return frozenset({organization_reference(ACME)})

    def refresh(self) -> bool:
        """Say that it has just been asked."""
        return True


def delivered(ledger: MemoryLedger, origin: str = ORIGIN) -> list[SealedEntry]:
    """Return everything of a shard that a destination for ACME gets."""
    found = EntrySource(ledger, Everyone(), lambda: TODAY).read(origin, 0, 10_000)
    return [one.entry for one in found if one.entry is not None]


def sealed(*events: dict[str, Any]) -> list[SealedEntry]:
    """Return events, one of each type if none is given, as a destination gets them."""
    ledger = MemoryLedger()
    for one in events or [event(name, number) for number, name in enumerate(EVENT_TYPES)]:
        ledger.seal(one, marks=CATALOG.marks(one["event_type"]))
    return delivered(ledger)


def sealed_without(event_type: str, *names: str) -> SealedEntry:
    """Return an entry of a type whose sections of these names were erased."""
    ledger = MemoryLedger()
    record = ledger.seal(event(event_type), marks=CATALOG.marks(event_type))
    ranges = {name: [[0, 0]] if name in names else [] for name in ("actor", "target")}
    content = {"type": "erasure", "org_ref": organization_reference(ACME).hex(), "basis": "request"}
    ledger.control(Kind.ERASURE, content | ranges | {"requested_day": TODAY})
    ledger.erase(record, *names)
    (entry,) = delivered(ledger)
    return entry
