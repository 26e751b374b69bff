"""Quarantined input as a store keeps it: what the follower hands in, what a list asks for, what comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klyra_collector.store.searching import Order, SortKey

State = Literal["waiting", "replayed"]


class QuarantineRow(NamedTuple):
    """A QUARANTINE record with what lists filter and count by.

    Attributes:
        leaf_index: place of the leaf in its shard.
        org_ref: whose it is; its organization stands nowhere in the record.
        reference: `qtn_…`, what people call it.
        sealed_us: when it came, microseconds since 1970.
        expire_day, sealing_day, org_seq: as of entries.
        encoding, key_id: as `KeptInput` says; `unknown` and None where its bytes cannot be read.
        reason, pointer, sha256, size: as sealed.
        leaf: 112 bytes.
    """

    leaf_index: int
    org_ref: bytes
    reference: str
    sealed_us: int
    expire_day: int
    sealing_day: int
    org_seq: int
    encoding: str
    key_id: str | None
    reason: str
    pointer: str
    sha256: str
    size: int
    leaf: bytes


class ReplayNote(NamedTuple):
    """A `quarantine.replayed` entry that tells of success.

    Attributes:
        org_ref: in whose log it stands.
        reference: of the quarantine record.
        entry_id: as which it was sealed; "" once that was erased.
    """

    org_ref: bytes
    reference: str
    entry_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineFilters:
    """Which records: the values of one filter are OR, filters are AND, an empty one is none.

    Attributes:
        start_us: earliest time of sealing, microseconds since 1970, included; None for no bound.
        end_us: the first behind the range, excluded; None for no bound.
        key_ids, encodings: sources.
        pointer: how the JSON Pointer begins.
        state: None for both.
    """

    start_us: int | None = None
    end_us: int | None = None
    key_ids: tuple[str, ...] = ()
    encodings: tuple[str, ...] = ()
    pointer: str = ""
    state: State | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineSearch:
    """One list of one organization; the members mean what they mean in `Search`."""

    organization_id: str
    filters: QuarantineFilters
    today: int
    order: Order = "desc"
    after: SortKey | None = None
    snapshot: Mapping[str, int] | None = field(default=None)


@dataclass(frozen=True, slots=True)
class FoundQuarantined:
    """A quarantined input as a store gives it back.

    Attributes:
        key: time of sealing in nanoseconds, origin and index.
        row: the record.
        replayed_as: id of the entry it became, "" once that was erased; None while it waits.
    """

    key: SortKey
    row: QuarantineRow
    replayed_as: str | None


@dataclass(frozen=True, slots=True)
class SourceCount:
    """How many inputs came with one key in one encoding, how many of them wait, and when the newest was sealed."""

    key_id: str | None
    encoding: str
    records: int
    waiting: int
    newest_us: int


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """How many inputs were refused at one place for one reason, and how many of them wait."""

    pointer: str
    reason: str
    records: int
    waiting: int


@dataclass(frozen=True, slots=True)
class QuarantineSummary:
    """Counts, the largest first."""

    sources: tuple[SourceCount, ...]
    reasons: tuple[ReasonCount, ...]


@dataclass(frozen=True, slots=True)
class QuarantineBacklog:
    """What waits of all organizations.

    Attributes:
        waiting: how many inputs are kept and were not replayed.
        oldest_us: when the oldest of them was sealed, microseconds since 1970; None if none waits.
    """

    waiting: int
    oldest_us: int | None


class QuarantineStore(Protocol):
    """Where quarantined input is listed. Any thread may call it; it blocks and raises as `Store` does."""

    def quarantined(self, search: QuarantineSearch, limit: int) -> list[FoundQuarantined]:
        """Return the first `limit` records of a list, in its order."""
        ...

    def quarantined_one(self, organization_id: str, reference: str, today: int) -> FoundQuarantined | None:
        """Return one record of an organization, None if it has no such record."""
        ...

    def quarantine_summary(self, search: QuarantineSearch, limit: int) -> QuarantineSummary:
        """Return counts over a list, up to `limit` sources and as many reasons."""
        ...

    def quarantine_backlog(self, today: int) -> QuarantineBacklog:
        """Return what waits of all organizations."""
        ...
