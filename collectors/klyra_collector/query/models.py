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


class TimeBucket(BaseModel):
    """Entries of one span of time, which ends where the next begins."""

    start: str
    success: int
    failure: int


class FrequentValue(BaseModel):
    """A value, as the filter of that name takes it, and how many entries have it."""

    value: str
    entries: int


class EntrySummary(BaseModel):
    """What a list with the same filters would hold, in numbers."""

    total: int
    first: str | None = Field(description="Earliest timestamp; null without entries.")
    last: str | None
    interval_seconds: int = Field(description="Length of a bucket; 0 without entries.")
    buckets: list[TimeBucket] = Field(description="From the first entry's to the last one's, empty ones too.")
    top: dict[str, list[FrequentValue]] = Field(description="By the name of the filter, most frequent first.")
    warnings: list[str] | None = Field(None, description="Absent when there are none.")


class SectionEvidence(BaseModel):
    """A section of the entry: opened with `salt` and `canonical`, or `c` alone once it is erased."""

    salt: str | None = Field(None, description="Base64 of 16 bytes.")
    canonical: str | None = Field(None, description="The section's canonical bytes, RFC 8785 JSON.")
    c: str | None = Field(None, description="Base64 of the commitment of an erased section.")


class BatchEvidence(BaseModel):
    """The emitter's signature for the batch that the event came in."""

    note: str
    position: int
    path: list[str] = Field(description="Base64 of the audit path of its commit, 32 bytes each.")


class ProofAnswer(BaseModel):
    """What proves one entry."""

    log: str = Field(description="Origin of the shard.")
    index: int
    leaf: str = Field(description="Base64 of the 112 bytes.")
    sections: dict[Literal["core", "actor", "target"], SectionEvidence | None] = Field(
        description="null for a section that the entry does not have."
    )
    tlog_proof: str = Field(description="A C2SP tlog-proof file.")
    batch: BatchEvidence | None


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
    witnessed_at: str | None = Field(
        description="By when a quorum of independent witnesses had cosigned the ledger; null: UNWITNESSED."
    )


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
