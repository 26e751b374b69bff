"""Administration: API keys, webhooks, users, roles and settings. Only administrators succeed; every attempt counts."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, HTTPException, Request
from pydantic import AfterValidator, BaseModel, Field

from klyra_audit import events
from moderation_service.call import Caller, call_of_user
from moderation_service.classifier import parse_threshold
from moderation_service.state import OWNER_ID, Role, State, User, Webhook, find, new_id, new_key, user_id_of

SETTINGS_ID: Final = "project"

router = APIRouter(prefix="/v1")

Name = Annotated[str, Field(min_length=1, max_length=100)]
Email = Annotated[str, Field(pattern="^[^@ ]+@[^@ ]+$", max_length=200)]
Url = Annotated[str, Field(pattern="^https://", max_length=500)]
Threshold = Annotated[str, AfterValidator(lambda text: f"{parse_threshold(text):f}")]


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

    email: Email
    name: Name
    role: Role = "viewer"


class RoleChange(BaseModel):
    """The role to give."""

    role: Role


class SettingsChange(BaseModel):
    """From which score on a text is flagged."""

    flag_threshold: Threshold


@router.post("/api-keys", status_code=201)
def create_key(body: NewKey, call: Caller) -> dict[str, str]:
    """Issue an API key; its secret is shown this once."""
    key, secret = new_key(body.name)
    call.record(events.api_key_created(key_id=key.id, name=key.name, scopes=["moderate"], **call.by), "admin")
    call.state.keys[key.id] = key
    return {"id": key.id, "name": key.name, "key": secret}


@router.delete("/api-keys/{key_id}", status_code=204)
def revoke_key(key_id: str, call: Caller) -> None:
    """Refuse a key from now on."""
    with call.state.lock:
        key = find(call.state.keys, key_id)
        call.record(events.api_key_revoked(key_id=key.id, name=key.name, **call.by), "admin")
        del call.state.keys[key_id]


@router.post("/webhooks", status_code=201)
def create_webhook(body: NewWebhook, call: Caller) -> dict[str, Any]:
    """Set up a webhook."""
    webhook = Webhook(new_id("wh"), body.url, body.events)
    event = events.webhook_created(webhook_id=webhook.id, url=webhook.url, events=webhook.events, **call.by)
    call.record(event, "admin")
    call.state.webhooks[webhook.id] = webhook
    return asdict(webhook)


@router.patch("/webhooks/{webhook_id}")
def update_webhook(webhook_id: str, body: WebhookChange, call: Caller) -> dict[str, Any]:
    """Change a webhook's address or events."""
    asked = body.model_dump(exclude_none=True)
    with call.state.lock:
        before = find(call.state.webhooks, webhook_id)
        webhook = replace(before, **asked)
        changes = {name: {"from": getattr(before, name), "to": value} for name, value in asked.items()}
        event = events.webhook_updated(
            webhook_id=webhook_id, url=webhook.url, events=webhook.events, changes=changes, **call.by
        )
        call.record(event, "admin")
        call.state.webhooks[webhook_id] = webhook
    return asdict(webhook)


@router.delete("/webhooks/{webhook_id}", status_code=204)
def delete_webhook(webhook_id: str, call: Caller) -> None:
    """Take a webhook away."""
    with call.state.lock:
        webhook = find(call.state.webhooks, webhook_id)
        call.record(events.webhook_deleted(webhook_id=webhook_id, url=webhook.url, **call.by), "admin")
        del call.state.webhooks[webhook_id]


@router.post("/invitations", status_code=201)
def invite(body: Invitation, call: Caller) -> dict[str, str]:
    """Invite somebody; whoever has the token in the answer can accept."""
    user = User(user_id_of(body.email), body.email, body.name, body.role)
    with call.state.lock:
        if user.id in call.state.users:
            raise HTTPException(409, f"{body.email} is a user already.")
        event = events.user_invited(user_id=user.id, name=user.name, email=user.email, role=user.role, **call.by)
        call.record(event, "admin")
        token = new_id("inv")
        call.state.invitations[token] = user
    return {"id": user.id, "token": token}


@router.post("/invitations/{token}/accept", status_code=201)
def accept(token: str, request: Request) -> dict[str, str]:
    """Join: the token proves who it is, and an accepted one is used up."""
    state: State = request.app.state.moderation
    with state.lock:
        user = find(state.invitations, token)
        call = call_of_user(request, user)
        call.record(events.user_added(user_id=user.id, name=user.name, email=user.email, role=user.role, **call.by))
        state.users[user.id] = state.invitations.pop(token)
    return asdict(user)


@router.put("/users/{user_id}/role")
def assign_role(user_id: str, body: RoleChange, call: Caller) -> dict[str, str]:
    """Give a user a role."""
    with call.state.lock:
        user = _find_user(call.state, user_id)
        event = events.role_assigned(
            user_id=user.id, name=user.name, role=body.role, previous_role=user.role, **call.by
        )
        call.record(event, "admin")
        call.state.users[user_id] = changed = replace(user, role=body.role)
    return asdict(changed)


@router.delete("/users/{user_id}", status_code=204)
def remove_user(user_id: str, call: Caller) -> None:
    """Take a user out of the organization."""
    with call.state.lock:
        user = _find_user(call.state, user_id)
        call.record(events.user_removed(user_id=user.id, name=user.name, role=user.role, **call.by), "admin")
        del call.state.users[user_id]


@router.patch("/settings")
def update_settings(body: SettingsChange, call: Caller) -> dict[str, str]:
    """Change the project's settings."""
    with call.state.lock:
        changes = {"flag_threshold": {"from": f"{call.state.flag_threshold:f}", "to": body.flag_threshold}}
        call.record(events.settings_updated(settings_id=SETTINGS_ID, changes=changes, **call.by), "admin")
        call.state.flag_threshold = parse_threshold(body.flag_threshold)
    return {"flag_threshold": body.flag_threshold}


def _find_user(state: State, user_id: str) -> User:
    if user_id == OWNER_ID:
        raise HTTPException(409, "The owner stays the owner.")
    return find(state.users, user_id)
