"""The entries that the registry's own changes are: one function each, as the catalog's system types want them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from klyra_audit import timestamps
from klyra_audit.event import Actor, AuditEvent, Resource
from klyra_collector.registry.scopes import in_order

if TYPE_CHECKING:
    from datetime import timedelta

    from klyra_collector.registry.denials import Denial
    from klyra_collector.registry.destinations import StoredDestination
    from klyra_collector.registry.emitters import EmitterKey
    from klyra_collector.registry.keys import ApiKey
    from klyra_collector.registry.organizations import Organization
    from klyra_collector.registry.origin import Origin
    from klyra_collector.registry.reads import MergedReads, Read
    from klyra_collector.registry.sessions import Session

_UNKNOWN_KEY: Final = "unknown"


def retention_changed(by: Actor, after: Organization, before: Organization | None) -> AuditEvent:
    """An organization was registered, or its plan was changed."""
    metadata: dict[str, Any] = {
        "plan": after.plan,
        "policy": after.policy,
        "retention_days": after.retention_days,
    }
    if before is not None:
        metadata |= {
            "previous_plan": before.plan,
            "previous_policy": before.policy,
            "previous_retention_days": before.retention_days,
        }
    return _event("retention.changed", by, Resource("organization", after.organization_id), "update", metadata)


def key_created(by: Actor, key: ApiKey) -> AuditEvent:
    """A key was issued."""
    return _event("api_key.created", by, _key(key), "create", _key_metadata(key))


def key_rotated(by: Actor, key: ApiKey, overlap: timedelta) -> AuditEvent:
    """A key has a new secret: to an auditor that is a key created under a known id."""
    metadata = {**_key_metadata(key), "rotated": True, "overlap_seconds": int(overlap.total_seconds())}
    return _event("api_key.created", by, _key(key), "create", metadata)


def key_revoked(by: Actor, key: ApiKey) -> AuditEvent:
    """A key is refused from now on."""
    return _event("api_key.revoked", by, _key(key), "delete", _key_metadata(key))


def emitter_key_added(by: Actor, key: EmitterKey) -> AuditEvent:
    """A signing key of an emitter was registered."""
    return _event("emitter_key.added", by, _emitter_key(key), "create", {"vkey": key.vkey})


def emitter_key_revoked(by: Actor, key: EmitterKey) -> AuditEvent:
    """A signing key of an emitter is no longer accepted."""
    metadata = {"vkey": key.vkey, "revoked_after_seq": key.revoked_after_seq}
    return _event("emitter_key.revoked", by, _emitter_key(key), "delete", metadata)


def destination_created(by: Actor, made: StoredDestination, origin: Origin) -> AuditEvent:
    """An organization has its entries copied to a destination."""
    return _event("siem_destination.created", by, _destination(made), "create", _destination_metadata(made, origin))


def destination_updated(by: Actor, after: StoredDestination, changes: list[str], origin: Origin) -> AuditEvent:
    """A destination was changed, paused or resumed; `changes` are names, never values."""
    metadata = _destination_metadata(after, origin) | {"changes": changes, "paused": after.spec.paused}
    return _event("siem_destination.updated", by, _destination(after), "update", metadata)


def destination_deleted(by: Actor, before: StoredDestination, origin: Origin) -> AuditEvent:
    """Entries are no longer copied to a destination."""
    return _event("siem_destination.deleted", by, _destination(before), "delete", _destination_metadata(before, origin))


def session_created(session: Session, method: str) -> AuditEvent:
    """A browser signed in; `method` is key or link."""
    metadata = {
        "scopes": in_order(session.scopes),
        "method": method,
        "expires_at": timestamps.from_microseconds(session.expires_at),
    }
    return _event("session.created", session.actor, Resource("session", session.session_id), "create", metadata)


def queried(read: Read) -> AuditEvent:
    """Entries were read."""
    metadata = {**read.origin.metadata(), "filters": dict(read.filters), "returned": read.returned}
    return _event("audit_log.queried", read.actor, _log(read.organization_id), "read", metadata)


def queries_merged(merged: MergedReads) -> AuditEvent:
    """Entries were read several times in one window, the first of which has an entry of its own already."""
    metadata = {
        **merged.read.origin.metadata(),
        "filters": dict(merged.read.filters),
        "returned": merged.read.returned,
        "reads": merged.reads,
        "window_start": timestamps.from_microseconds(merged.opened_at),
        "window_end": timestamps.from_microseconds(merged.last_at),
    }
    return _event("audit_log.queried", merged.read.actor, _log(merged.read.organization_id), "read", metadata)


def access_denied(denial: Denial, attempts: int) -> AuditEvent:
    """Access was refused, `attempts` times since the last such entry."""
    metadata = {**denial.origin.metadata(), "reason": denial.reason, "attempts": attempts}
    actor = Actor.api_key(denial.key_id or _UNKNOWN_KEY)
    return _event("access.denied", actor, Resource("endpoint", denial.endpoint), "read", metadata, status="failure")


def _event(
    event_type: str,
    actor: Actor,
    resource: Resource,
    action: str,
    metadata: dict[str, Any],
    *,
    status: str = "success",
) -> AuditEvent:
    return AuditEvent(
        event_type=event_type, actor=actor, resource=resource, action=action, status=status, metadata=metadata
    )


def _key(key: ApiKey) -> Resource:
    return Resource("api_key", key.key_id, key.label or None)


def _emitter_key(key: EmitterKey) -> Resource:
    return Resource("emitter_key", key.emitter_id)


def _key_metadata(key: ApiKey) -> dict[str, Any]:
    metadata: dict[str, Any] = {"scopes": in_order(key.scopes)}
    if key.emitter_ids:
        metadata["emitter_ids"] = list(key.emitter_ids)
    if key.expires_at is not None:
        metadata["expires_at"] = timestamps.from_microseconds(key.expires_at)
    return metadata


def _destination(stored: StoredDestination) -> Resource:
    return Resource("siem_destination", stored.destination_id, stored.spec.name)


def _destination_metadata(stored: StoredDestination, origin: Origin) -> dict[str, Any]:
    spec = stored.spec
    metadata: dict[str, Any] = {
        **origin.metadata(),
        "kind": spec.kind,
        "payload": spec.format,
        "endpoint": spec.endpoint,
    }
    filters = {name: values for name, values in spec.filters.items() if values}
    return metadata | ({"filters": filters} if filters else {})


def _log(organization_id: str) -> Resource:
    return Resource("audit_log", organization_id)
