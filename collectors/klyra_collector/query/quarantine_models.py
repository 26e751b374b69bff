"""What `/v1/quarantine` may be asked, and the shapes of its answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from klyra_collector.query.parameters import DEFAULT_LIMIT, MAX_LIMIT, Choices, Ids, Number, Time

MAX_POINTER_CHARACTERS = 1024
ENCODINGS = ("otlp-protobuf", "otlp-json", "forward", "forward-unacknowledged", "document", "unknown")


class QuarantineFilterParameters(BaseModel):
    """Which quarantined inputs; the values of one filter are OR, filters are AND."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    start_time: Time | None = Field(None, description="Earliest time of receipt, included.")
    end_time: Time | None = Field(None, description="Latest time of receipt, included at its written precision.")
    sources: Ids | None = Field(None, description="Public ids of the keys that brought them, `key_…`.")
    encodings: Choices(*ENCODINGS) | None = Field(None, description="How they are written.")  # type: ignore[valid-type] # made by a function
    pointer: Annotated[str, Field(max_length=MAX_POINTER_CHARACTERS)] | None = Field(
        None, description="How the JSON Pointer to the offending member begins."
    )
    organization_id: str | None = Field(None, description="Whose; for keys of the operator alone.")


class QuarantineParameters(QuarantineFilterParameters):
    """A page of quarantined inputs."""

    state: Literal["waiting", "replayed"] | None = Field(None, description="Those that wait, or that became entries.")
    order: Literal["asc", "desc"] = Field("desc", description="By time of receipt: oldest or newest first.")
    limit: Number = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="Inputs on a page.")
    cursor: str | None = Field(None, description="`next_cursor` of the page before; the filters stay the same.")


class SummaryParameters(QuarantineFilterParameters):
    """What is counted."""

    state: Literal["waiting", "replayed"] | None = Field(None, description="Those that wait, or that became entries.")


def _truth(value: object) -> object:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


class ReplayParameters(QuarantineFilterParameters):
    """What to replay: inputs by name, or those that wait and match filters, the oldest first."""

    ids: Ids | None = Field(None, description="Names, `qtn_…`, instead of filters; 100 at most.")
    all: Annotated[bool, BeforeValidator(_truth)] = Field(
        False,  # noqa: FBT003 - a default
        description="Everything that waits; without it at least one filter is needed.",
    )
    limit: Number = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="Inputs replayed by one call.")


class InputSource(BaseModel):
    """Where a quarantined input came from."""

    key: str | None = Field(description="Public id of the key that brought it; null if it is not known.")
    encoding: str = Field(description="How it is written, such as otlp-protobuf.")


class QuarantinedInput(BaseModel):
    """An input that is no valid event, kept."""

    id: str
    received_at: str
    source: InputSource
    pointer: str = Field(description="JSON Pointer to the offending member.")
    reason: str
    size: int = Field(description="Bytes kept.")
    sha256: str = Field(description="Of the bytes kept, as it stands in the ledger.")
    log: str = Field(description="Origin of the shard.")
    index: int
    expires_on: str = Field(description="First day on which it is gone.")
    state: Literal["waiting", "replayed"]
    entry_id: str | None = Field(description="The entry that it became.")


class QuarantineList(BaseModel):
    """A page of quarantined inputs."""

    data: list[QuarantinedInput]
    has_more: bool
    next_cursor: str | None


class QuarantinedInputWhole(QuarantinedInput):
    """A quarantined input with what came."""

    leaf: str = Field(description="Base64 of the 112 bytes.")
    bytes: Literal["intact", "altered", "missing", "elsewhere"] = Field(
        description="What is kept hashes to `sha256`; or not; or is gone; or lies where the ledger is."
    )
    raw: str | None = Field(description="Base64 of the bytes kept: one line of JSON, then the input.")
    preview: str | None = Field(description="The input as text.")


class CountedSource(InputSource):
    """How much came from one source."""

    records: int
    waiting: int
    newest_at: str


class CountedReason(BaseModel):
    """How much was refused for one reason."""

    pointer: str
    reason: str
    records: int
    waiting: int


class QuarantineSummaryAnswer(BaseModel):
    """Counts, the largest first."""

    records: int
    waiting: int
    sources: list[CountedSource]
    reasons: list[CountedReason]


class ReplayOutcome(BaseModel):
    """What became of one replay."""

    id: str
    status: Literal["replayed", "repeat", "refused", "pending", "not_found"]
    entry_id: str | None = Field(description="The entry that it is now.")
    told_by: str | None = Field(description="Id of the `quarantine.replayed` entry, by which to ask later.")
    code: str | None
    pointer: str | None
    reason: str | None


class ReplayAnswer(BaseModel):
    """What became of replays, in the order in which they were made."""

    data: list[ReplayOutcome]
    has_more: bool = Field(description="More inputs match than one call replays.")
