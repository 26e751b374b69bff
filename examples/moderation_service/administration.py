"""Administration: API keys, webhooks, users, roles and settings. Only administrators succeed; every attempt counts."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from fastapi import APIRouter, HTTPException, Request
from pydantic import AfterValidator, BaseModel, Field

from klyra_audit import events
from moderation_service.caller import Caller, CallerDependency, StateDependency, as_user
from moderation_service.classifier import parse_threshold
from moderation_service.state import OWNER_ID, Role, User, Webhook, new_id, new_key, user_id_of
from moderation_service.trail import TrailDependency

if TYPE_CHECKING:
    from collections.abc import Mapping

SETTINGS_ID: Final = "project"

Name = Annotated[str, Field(min_length=1, max_length=100)]
Url = Annotated[str, Field(pattern="^https://", max_length=500)]
Threshold = Annotated[str, AfterValidator(lambda text: f"{parse_threshold(text):f}")]
Found = TypeVar("Found")

router = APIRouter(prefix="/v1")


class NewKey(BaseModel):
    """What a new API key is called."""

    name: Name


class NewWebhook(BaseModel):
    """Where to call, and of what to tell."""

    url: Url
    events: tuple[Name, ...] = ("moderation.flagged",)


class WebhookChange(BaseModel):
    """The members to change."""

    url: Url | None = None
    events: tuple[Name, ...] | None = None


class Invitation(BaseModel):
    """Who is invited, and as what."""

    email: Annotated[str, Field(pattern="^[^@ ]+@[^@ ]+$", max_length=200)]
    name: Name
    role: Role = "viewer"


class RoleChange(BaseModel):
    """The role to give."""

    role: Role


class SettingsChange(BaseModel):
    """The settings to change."""

    flag_threshold: Threshold


@router.post("/api-keys", status_code=201)
def create_key(
    body: NewKey, caller: CallerDependency, state: StateDependency, trail: TrailDependency
) -> dict[str, str]:
    """Issue an API key; its secret is shown this once."""
    key, secret = new_key(body.name)
    event = events.api_key_created(
        actor=caller.actor, key_id=key.id, name=key.name, scopes=["moderate"], **caller.context
    )
    trail.record(event, permitted=_is_admin(caller))
    state.keys[key.id] = key
    return {"id": key.id, "name": key.name, "key": secret}


@router.delete("/api-keys/{key_id}", status_code=204)
def revoke_key(key_id: str, caller: CallerDependency, state: StateDependency, trail: TrailDependency) -> None:
    """Refuse a key from now on."""
    with state.lock:
        key = _find(state.keys, key_id, "API key")
        event = events.api_key_revoked(actor=caller.actor, key_id=key.id, name=key.name, **caller.context)
        trail.record(event, permitted=_is_admin(caller))
        del state.keys[key_id]


@router.post("/webhooks", status_code=201)
def create_webhook(
    body: NewWebhook, caller: CallerDependency, state: StateDependency, trail: TrailDependency
) -> dict[str, Any]:
    """Set up a webhook."""
    webhook = Webhook(new_id("wh"), body.url, body.events)
    event = events.webhook_created(
        actor=caller.actor, webhook_id=webhook.id, url=webhook.url, events=webhook.events, **caller.context
    )
    trail.record(event, permitted=_is_admin(caller))
    state.webhooks[webhook.id] = webhook
    return asdict(webhook)


@router.patch("/webhooks/{webhook_id}")
def update_webhook(
    webhook_id: str,
    body: WebhookChange,
    caller: CallerDependency,
    state: StateDependency,
    trail: TrailDependency,
) -> dict[str, Any]:
    """Change a webhook's address or events."""
    changes = body.model_dump(exclude_none=True)
    with state.lock:
        webhook = replace(_find(state.webhooks, webhook_id, "webhook"), **changes)
        event = events.webhook_updated(
            actor=caller.actor,
            webhook_id=webhook_id,
            url=webhook.url,
            events=webhook.events,
            changes=sorted(changes),
            **caller.context,
        )
        trail.record(event, permitted=_is_admin(caller))
        state.webhooks[webhook_id] = webhook
    return asdict(webhook)


@router.delete("/webhooks/{webhook_id}", status_code=204)
def delete_webhook(webhook_id: str, caller: CallerDependency, state: StateDependency, trail: TrailDependency) -> None:
    """Take a webhook away."""
    with state.lock:
        webhook = _find(state.webhooks, webhook_id, "webhook")
        event = events.webhook_deleted(actor=caller.actor, webhook_id=webhook_id, url=webhook.url, **caller.context)
        trail.record(event, permitted=_is_admin(caller))
        del state.webhooks[webhook_id]


@router.post("/invitations", status_code=201)
def invite(
    body: Invitation, caller: CallerDependency, state: StateDependency, trail: TrailDependency
) -> dict[str, str]:
    """Invite somebody; whoever has the token in the answer can accept."""
    user = User(user_id_of(body.email), body.email, body.name, body.role)
    with state.lock:
        if user.id in state.users:
            raise HTTPException(409, f"{body.email} is a user already.")
        event = events.user_invited(
            actor=caller.actor,
            user_id=user.id,
            name=user.name,
            email=user.email,
            role=user.role,
            **caller.context,
        )
        trail.record(event, permitted=_is_admin(caller))
        token = new_id("inv")
        state.invitations[token] = user
    return {"id": user.id, "token": token}


@router.post("/invitations/{token}/accept", status_code=201)
def accept(token: str, request: Request, state: StateDependency, trail: TrailDependency) -> dict[str, str]:
    """Join, by an invitation's token."""
    with state.lock:
        user = _find(state.invitations, token, "invitation")
        joining = as_user(user, request)
        event = events.user_added(
            actor=joining.actor,
            user_id=user.id,
            name=user.name,
            email=user.email,
            role=user.role,
            **joining.context,
        )
        trail.record(event)
        state.users[user.id] = state.invitations.pop(token)
    return asdict(user)


@router.put("/users/{user_id}/role")
def assign_role(
    user_id: str, body: RoleChange, caller: CallerDependency, state: StateDependency, trail: TrailDependency
) -> dict[str, str]:
    """Give a user a role."""
    with state.lock:
        user = _find_user(state.users, user_id)
        event = events.role_assigned(
            actor=caller.actor,
            user_id=user.id,
            name=user.name,
            role=body.role,
            previous_role=user.role,
            **caller.context,
        )
        trail.record(event, permitted=_is_admin(caller))
        state.users[user_id] = replace(user, role=body.role)
        return asdict(state.users[user_id])


@router.delete("/users/{user_id}", status_code=204)
def remove_user(user_id: str, caller: CallerDependency, state: StateDependency, trail: TrailDependency) -> None:
    """Take a user out of the organization."""
    with state.lock:
        user = _find_user(state.users, user_id)
        event = events.user_removed(actor=caller.actor, user_id=user.id, name=user.name, **caller.context)
        trail.record(event, permitted=_is_admin(caller))
        del state.users[user_id]


@router.patch("/settings")
def update_settings(
    body: SettingsChange, caller: CallerDependency, state: StateDependency, trail: TrailDependency
) -> dict[str, str]:
    """Change from which score on a text is flagged."""
    with state.lock:
        change = {"flag_threshold": {"from": f"{state.flag_threshold:f}", "to": body.flag_threshold}}
        event = events.settings_updated(
            actor=caller.actor,
            settings_id=SETTINGS_ID,
            name="Project settings",
            changes=change,
            **caller.context,
        )
        trail.record(event, permitted=_is_admin(caller))
        state.flag_threshold = parse_threshold(body.flag_threshold)
    return {"flag_threshold": body.flag_threshold}


def _is_admin(caller: Caller) -> bool:
    return caller.is_one_of("admin")


def _find(among: Mapping[str, Found], wanted: str, kind: str) -> Found:
    if wanted not in among:
        raise HTTPException(404, f"There is no {kind} {wanted}.")
    return among[wanted]


def _find_user(users: Mapping[str, User], user_id: str) -> User:
    if user_id == OWNER_ID:
        raise HTTPException(409, "The owner stays the owner.")
    return _find(users, user_id, "user")
