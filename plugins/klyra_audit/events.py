"""The product's 15 event types as functions: each takes what its schema knows and returns an `AuditEvent`.

Every function also takes `client_ip`, `user_agent`, `status`, `timestamp`, `id` and further `metadata`.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from klyra_audit.errors import InvalidEvent
from klyra_audit.event import AuditEvent, Resource

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from klyra_audit.event import Actor

    Scores = Mapping[str, Decimal | str]


class Context(TypedDict, total=False):
    """What every event may say beside its own.

    Attributes:
        client_ip, user_agent: of the request that caused it.
        status: success (the default) or failure.
        timestamp: RFC 3339 in UTC with Z; now by default.
        id: `log_…`; a fresh one by default.
        metadata: further members.
    """

    client_ip: str | None
    user_agent: str | None
    status: str
    timestamp: str | None
    id: str | None
    metadata: Mapping[str, Any]


def moderation_created(
    *,
    actor: Actor,
    moderation_id: str,
    content_type: str,
    content_hash: str | None = None,
    categories: Sequence[str] | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """Content was submitted for moderation."""
    known = {"content_type": content_type, "content_hash": content_hash, "categories": _list(categories)}
    return _event("moderation.created", actor, Resource("moderation", moderation_id), "create", known, context)


def moderation_completed(
    *,
    actor: Actor,
    moderation_id: str,
    decision: str,
    categories: Sequence[str] | None = None,
    scores: Scores | None = None,
    duration_ms: int | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """The moderation came to a decision: approved, flagged or rejected."""
    known = {
        "decision": decision,
        "categories": _list(categories),
        "scores": _scores(scores),
        "duration_ms": duration_ms,
    }
    return _event("moderation.completed", actor, Resource("moderation", moderation_id), "update", known, context)


def moderation_flagged(
    *,
    actor: Actor,
    moderation_id: str,
    categories: Sequence[str],
    scores: Scores | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """Content was flagged as a potential violation."""
    known = {"categories": _list(categories), "scores": _scores(scores)}
    return _event("moderation.flagged", actor, Resource("moderation", moderation_id), "update", known, context)


def moderation_appealed(
    *, actor: Actor, moderation_id: str, reason: str, **context: Unpack[Context]
) -> AuditEvent:
    """Somebody appealed a decision."""
    known = {"reason": reason}
    return _event("moderation.appealed", actor, Resource("moderation", moderation_id), "update", known, context)


def moderation_overridden(
    *,
    actor: Actor,
    moderation_id: str,
    decision: str,
    previous_decision: str,
    reason: str | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """A person replaced a decision by their own."""
    known = {"decision": decision, "previous_decision": previous_decision, "reason": reason}
    return _event("moderation.overridden", actor, Resource("moderation", moderation_id), "update", known, context)


def api_key_created(
    *,
    actor: Actor,
    key_id: str,
    name: str | None = None,
    scopes: Sequence[str] | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """An API key was issued; `key_id` is its public id, never the secret."""
    known = {"scopes": _list(scopes)}
    return _event("api_key.created", actor, Resource("api_key", key_id, name), "create", known, context)


def api_key_revoked(
    *, actor: Actor, key_id: str, name: str | None = None, reason: str | None = None, **context: Unpack[Context]
) -> AuditEvent:
    """An API key was made invalid."""
    known = {"reason": reason}
    return _event("api_key.revoked", actor, Resource("api_key", key_id, name), "delete", known, context)


def webhook_created(
    *,
    actor: Actor,
    webhook_id: str,
    url: str,
    events: Sequence[str] | None = None,
    name: str | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """A webhook endpoint was set up."""
    known = {"url": url, "events": _list(events)}
    return _event("webhook.created", actor, Resource("webhook", webhook_id, name), "create", known, context)


def webhook_updated(
    *,
    actor: Actor,
    webhook_id: str,
    url: str | None = None,
    events: Sequence[str] | None = None,
    changes: Sequence[str] | None = None,
    name: str | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """A webhook endpoint was changed; `changes` names the members that were."""
    known = {"url": url, "events": _list(events), "changes": _list(changes)}
    return _event("webhook.updated", actor, Resource("webhook", webhook_id, name), "update", known, context)


def webhook_deleted(
    *, actor: Actor, webhook_id: str, url: str | None = None, name: str | None = None, **context: Unpack[Context]
) -> AuditEvent:
    """A webhook endpoint was taken away."""
    known = {"url": url}
    return _event("webhook.deleted", actor, Resource("webhook", webhook_id, name), "delete", known, context)


def user_invited(
    *,
    actor: Actor,
    user_id: str,
    name: str | None = None,
    email: str | None = None,
    role: str | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """Somebody was invited to the organization."""
    known = {"email": email, "role": role}
    return _event("user.invited", actor, Resource("user", user_id, name), "create", known, context)


def user_added(
    *,
    actor: Actor,
    user_id: str,
    name: str | None = None,
    email: str | None = None,
    role: str | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """Somebody joined the organization."""
    known = {"email": email, "role": role}
    return _event("user.added", actor, Resource("user", user_id, name), "create", known, context)


def user_removed(
    *, actor: Actor, user_id: str, name: str | None = None, reason: str | None = None, **context: Unpack[Context]
) -> AuditEvent:
    """Somebody was taken out of the organization."""
    known = {"reason": reason}
    return _event("user.removed", actor, Resource("user", user_id, name), "delete", known, context)


def role_assigned(
    *,
    actor: Actor,
    user_id: str,
    role: str,
    previous_role: str | None = None,
    name: str | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """A user was given a role."""
    known = {"role": role, "previous_role": previous_role}
    return _event("role.assigned", actor, Resource("user", user_id, name), "update", known, context)


def settings_updated(
    *,
    actor: Actor,
    settings_id: str,
    changes: Mapping[str, Any] | None = None,
    name: str | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """Settings were changed; `changes` says which, without floats."""
    known = {"changes": None if changes is None else dict(changes)}
    return _event("settings.updated", actor, Resource("settings", settings_id, name), "update", known, context)


def _event(
    event_type: str, actor: Actor, resource: Resource, action: str, known: Mapping[str, Any], context: Context
) -> AuditEvent:
    members = {"client_ip": context.get("client_ip"), "user_agent": context.get("user_agent"), **known}
    metadata = {name: value for name, value in members.items() if value is not None}
    return AuditEvent(
        event_type=event_type,
        actor=actor,
        resource=resource,
        action=action,
        status=context.get("status", "success"),
        metadata=metadata | dict(context.get("metadata", {})),
        id=context.get("id"),
        timestamp=context.get("timestamp"),
    )


def _list(items: Sequence[str] | None) -> list[str] | None:
    return None if items is None else list(items)


def _scores(scores: Scores | None) -> dict[str, str] | None:
    """Return scores as decimal strings; a float has no one decimal notation, so none is guessed."""
    if scores is None:
        return None
    for name, score in scores.items():
        if not isinstance(score, Decimal | str):
            raise InvalidEvent(
                f"is a {type(score).__name__}; give scores as Decimal or str, such as Decimal('0.87')",
                pointer=f"/metadata/scores/{name}",
            )
    return {name: format(score, "f") if isinstance(score, Decimal) else score for name, score in scores.items()}
