"""What the calls under `/v1/destinations` take and answer."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from klyra_collector.query.parameters import OrganizationParameters

_Text = str
_Option = str | int | bool


class DestinationFilters(BaseModel):
    """Which entries are delivered: of each list at least one must fit; an empty one is no condition."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    event_types: list[str] = Field(default_factory=list, max_length=100)
    statuses: list[Literal["success", "failure"]] = Field(default_factory=list)
    actors: list[str] = Field(default_factory=list, max_length=100)


class DestinationChange(OrganizationParameters):
    """What is to be another than it is."""

    name: str | None = Field(None, description="Unique in the organization: up to 63 of a-z, 0-9 and -.")
    kind: str | None = Field(None, description="One of /v1/destination-kinds; does not change.")
    endpoint: str | None = Field(None, max_length=2000, description="Address of the vendor's intake.", repr=False)
    format: str | None = Field(None, description="How entries are written.")
    when_too_old: Literal["restamp", "preserve", "dead_letter"] | None = Field(
        None, description="What becomes of an entry that the vendor would not take for its age."
    )
    filters: DestinationFilters | None = Field(None, description="Which entries are delivered.")
    options: dict[str, _Option] | None = Field(None, description="Of the kind, none of them secret.")
    secrets: dict[str, _Text] | None = Field(None, description="Of the kind; they are never shown again.", repr=False)
    paused: bool | None = Field(None, description="Whether nothing is delivered for now.")


class KindField(BaseModel):
    """One thing that a kind asks for."""

    name: str
    label: str
    type: Literal["text", "number", "boolean", "secret"]
    required: bool
    help: str


class KindEndpoint(BaseModel):
    """The address of a kind."""

    label: str
    help: str
    is_secret: bool


class DestinationKind(BaseModel):
    """One kind of destination."""

    kind: str
    title: str
    endpoint: KindEndpoint
    fields: list[KindField]
    formats: list[str]
    documentation: str


class DestinationKindsAnswer(BaseModel):
    """Every kind that is offered."""

    data: list[DestinationKind]


class SecretState(BaseModel):
    """All that is shown of a secret."""

    is_set: bool


class LastError(BaseModel):
    """What went wrong last."""

    at: str
    reason: str


class DestinationAnswer(BaseModel):
    """A destination, and how it is doing."""

    id: str
    name: str
    kind: str
    endpoint: str
    format: str
    when_too_old: str
    filters: DestinationFilters
    options: dict[str, Any]
    secrets: dict[str, SecretState]
    paused: bool
    state: Literal["starting", "delivering", "retrying", "paused", "halted", "stopped"]
    since: str | None
    lag_entries: int | None
    lag_seconds: float | None
    last_success: str | None
    last_error: LastError | None
    delivered: int
    dead_letters: int
    window_left_seconds: float | None
    created_at: str
    updated_at: str


class DestinationsAnswer(BaseModel):
    """Every destination of the organization."""

    data: list[DestinationAnswer]


class TrialAnswer(BaseModel):
    """What the vendor said to a test event."""

    outcome: Literal["delivered", "retry", "refused", "not_let_in"]
    status: str
    answer: str
    event_id: str
