"""The product's 15 event types as functions: each takes what its schema knows and returns an `AuditEvent`.

    moderation_flagged(
        actor=Actor.system("moderation-engine"),
        moderation_id="mod_1",
        categories=["toxic"],
        scores={"toxic": Decimal("0.93")},
        client_ip="198.51.100.7",
    )

What is None is left out. Every function also takes the members of `Context`, and the first three those of `Content`.
Each raises `InvalidEvent` for a float, which has no one decimal notation, and for a member given twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from klyra_audit.errors import InvalidEvent
from klyra_audit.event import AuditEvent, Resource
from klyra_audit.format.canonical import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from klyra_audit.event import Actor

    Scores = Mapping[str, Decimal | str]
    Changes = Mapping[str, Any] | Sequence[str]


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


class Content(Context, total=False):
    """What was moderated.

    Attributes:
        content_type: such as text or image.
        content_hash: a digest, never the content.
        content_id, author_id: the content and its author, as the application knows them.
    """

    content_type: str | None
    content_hash: str | None
    content_id: str | None
    author_id: str | None


_CONTEXT = frozenset(Context.__annotations__)
_CONTENT = frozenset(Content.__annotations__)  # has those of Context as well
_ENVELOPE = ("status", "timestamp", "id")


def moderation_created(
    *,
    actor: Actor,
    moderation_id: str,
    categories: Sequence[str] | None = None,
    **content: Unpack[Content],
) -> AuditEvent:
    """A request to moderate content came in; `categories` says what to look for."""
    resource = Resource("moderation", moderation_id)
    known = {"categories": _listed(categories)}
    return _event("moderation.created", "create", actor, resource, known, content)


def moderation_completed(
    *,
    actor: Actor,
    moderation_id: str,
    decision: str,
    categories: Sequence[str] | None = None,
    scores: Scores | None = None,
    duration_ms: int | None = None,
    model: str | None = None,
    **content: Unpack[Content],
) -> AuditEvent:
    """A moderation request was processed; `decision` is a word such as approved, flagged or rejected."""
    resource = Resource("moderation", moderation_id)
    known = {
        "decision": decision,
        "categories": _listed(categories),
        "scores": scores,
        "duration_ms": duration_ms,
        "model": model,
    }
    return _event("moderation.completed", "update", actor, resource, known, content)


def moderation_flagged(
    *,
    actor: Actor,
    moderation_id: str,
    categories: Sequence[str],
    scores: Scores | None = None,
    threshold: Decimal | str | None = None,
    **content: Unpack[Content],
) -> AuditEvent:
    """Content was found to be a possible violation of `categories`."""
    resource = Resource("moderation", moderation_id)
    known = {"categories": _listed(categories), "scores": scores, "threshold": threshold}
    return _event("moderation.flagged", "update", actor, resource, known, content)


def moderation_appealed(
    *,
    actor: Actor,
    moderation_id: str,
    reason: str | None = None,
    decision: str | None = None,
    appeal_id: str | None = None,
    author_id: str | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """Somebody asked for a decision to be reviewed; `reason` is in their own words."""
    resource = Resource("moderation", moderation_id)
    known = {"reason": reason, "decision": decision, "appeal_id": appeal_id, "author_id": author_id}
    return _event("moderation.appealed", "update", actor, resource, known, context)


def moderation_overridden(
    *,
    actor: Actor,
    moderation_id: str,
    decision: str,
    previous_decision: str | None = None,
    reason: str | None = None,
    appeal_id: str | None = None,
    author_id: str | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """A person replaced `previous_decision` by `decision`."""
    resource = Resource("moderation", moderation_id)
    known = {
        "decision": decision,
        "previous_decision": previous_decision,
        "reason": reason,
        "appeal_id": appeal_id,
        "author_id": author_id,
    }
    return _event("moderation.overridden", "update", actor, resource, known, context)


def api_key_created(
    *,
    actor: Actor,
    key_id: str,
    name: str | None = None,
    scopes: Sequence[str] | None = None,
    expires_at: str | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """An API key was issued; `key_id` is its public id, never the secret."""
    known = {"scopes": _listed(scopes), "expires_at": expires_at}
    return _event("api_key.created", "create", actor, Resource("api_key", key_id, name), known, context)


def api_key_revoked(
    *,
    actor: Actor,
    key_id: str,
    name: str | None = None,
    scopes: Sequence[str] | None = None,
    reason: str | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """An API key stopped being accepted."""
    known = {"scopes": _listed(scopes), "reason": reason}
    return _event("api_key.revoked", "delete", actor, Resource("api_key", key_id, name), known, context)


def webhook_created(
    *,
    actor: Actor,
    webhook_id: str,
    url: str,
    name: str | None = None,
    events: Sequence[str] | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """A webhook endpoint was set up; the URL is kept as given, so leave secrets out of it."""
    known = {"url": url, "events": _listed(events)}
    return _event("webhook.created", "create", actor, Resource("webhook", webhook_id, name), known, context)


def webhook_updated(
    *,
    actor: Actor,
    webhook_id: str,
    name: str | None = None,
    url: str | None = None,
    events: Sequence[str] | None = None,
    changes: Changes | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """A webhook endpoint was changed; `url` and `events` are as they are from now on."""
    known = {"url": url, "events": _listed(events), "changes": changes}
    return _event("webhook.updated", "update", actor, Resource("webhook", webhook_id, name), known, context)


def webhook_deleted(
    *,
    actor: Actor,
    webhook_id: str,
    name: str | None = None,
    url: str | None = None,
    reason: str | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """A webhook endpoint was taken away."""
    known = {"url": url, "reason": reason}
    return _event("webhook.deleted", "delete", actor, Resource("webhook", webhook_id, name), known, context)


def user_invited(
    *,
    actor: Actor,
    user_id: str,
    name: str | None = None,
    email: str | None = None,
    role: str | None = None,
    expires_at: str | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """Somebody was invited to join the organization."""
    known = {"email": email, "role": role, "expires_at": expires_at}
    return _event("user.invited", "create", actor, Resource("user", user_id, name), known, context)


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
    return _event("user.added", "create", actor, Resource("user", user_id, name), known, context)


def user_removed(
    *,
    actor: Actor,
    user_id: str,
    name: str | None = None,
    email: str | None = None,
    role: str | None = None,
    reason: str | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """Somebody is no longer part of the organization."""
    known = {"email": email, "role": role, "reason": reason}
    return _event("user.removed", "delete", actor, Resource("user", user_id, name), known, context)


def role_assigned(
    *,
    actor: Actor,
    user_id: str,
    role: str,
    name: str | None = None,
    previous_role: str | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """A user was given a role."""
    known = {"role": role, "previous_role": previous_role}
    return _event("role.assigned", "update", actor, Resource("user", user_id, name), known, context)


def settings_updated(
    *,
    actor: Actor,
    settings_id: str,
    changes: Changes,
    name: str | None = None,
    project_id: str | None = None,
    **context: Unpack[Context],
) -> AuditEvent:
    """Settings were changed; `changes` names them, or gives by name the new value or {"from": …, "to": …}."""
    known = {"changes": changes, "project_id": project_id}
    return _event("settings.updated", "update", actor, Resource("settings", settings_id, name), known, context)


def _event(
    event_type: str,
    action: str,
    actor: Actor,
    resource: Resource,
    known: Mapping[str, Any],
    context: Context | Content,
) -> AuditEvent:
    given: dict[str, Any] = dict(context)
    _refuse_unknown(event_type, given)
    envelope = {member: given.pop(member) for member in _ENVELOPE if member in given}
    further: Mapping[str, Any] = given.pop("metadata", {})
    metadata = {member: value for member, value in {**given, **known}.items() if value is not None}
    for member in further:
        if member in metadata:
            raise InvalidEvent("is given both by name and in `metadata`", pointer=f"/metadata/{escape(member)}")
    return AuditEvent(
        event_type=event_type,
        actor=actor,
        resource=resource,
        action=action,
        metadata={**metadata, **further},
        **envelope,
    )


def _refuse_unknown(event_type: str, given: Mapping[str, Any]) -> None:
    """Raise as Python does for a misspelt argument, which `**context` would swallow."""
    about_content = event_type in ("moderation.created", "moderation.completed", "moderation.flagged")
    for name in given.keys() - (_CONTENT if about_content else _CONTEXT):
        raise TypeError(f"{event_type.replace('.', '_')}() got an unexpected keyword argument '{name}'")


def _listed(items: Sequence[str] | None) -> list[str] | None:
    return None if items is None else list(items)
