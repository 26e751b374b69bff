"""The shapes of answers, for `/openapi.json`; lists and files are written without passing through here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class Party(BaseModel):
    """Who acted, or what was acted upon; null stands for what was erased."""

    type: str
    id: str | None
    name: str | None


class Integrity(BaseModel):
    """Where an entry stands in the ledger."""

    log: str = Field(description="Origin of the shard.")
    index: int
    leaf: str = Field(description="Base64 of the 112 bytes.")


class Entry(BaseModel):
    """A sealed event."""

    id: str
    timestamp: str = Field(description="RFC 3339, UTC.")
    event_type: str
    actor: Party
    resource: Party
    action: Literal["create", "read", "update", "delete"]
    status: Literal["success", "failure"]
    metadata: dict[str, Any]
    integrity: Integrity | None = Field(None, description="With include=integrity.")


class EntryList(BaseModel):
    """A page of entries."""

    data: list[Entry]
    has_more: bool
    next_cursor: str | None
    warnings: list[str] | None = Field(None, description="Absent when there are none.")


class ProblemDocument(BaseModel):
    """A refusal (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    remedy: str


class PlanAnswer(BaseModel):
    """What an organization has bought, and what that keeps."""

    organization_id: str
    plan: str
    policy: str
    retention_days: int
    window_start: str = Field(description="First moment of the earliest day of sealing still kept.")
    window_end: str
    export_formats: list[str]
    siem: bool


class EventTypeAnswer(BaseModel):
    """An event type of the catalog."""

    name: str
    title: str
    description: str
    group: str


class CatalogAnswer(BaseModel):
    """The catalog."""

    event_types: list[EventTypeAnswer]


class SessionAnswer(BaseModel):
    """A browser that signed in."""

    session_id: str
    organization_id: str | None
    actor: Party
    scopes: list[str]
    created_at: str
    expires_at: str
