"""What a follower hands to a store: the rows of some consecutive records, and what later records change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from klyra_audit.format.control import Hold
    from klyra_audit.format.sections import SectionName
    from klyra_collector.seal.reader import SealedRecord
    from klyra_collector.store.quarantined import QuarantineRow, ReplayNote
    from klyra_collector.store.rows import Row

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Extension:
    """An EXTEND record: entries kept longer than their leaves say (DESIGN section 5).

    Attributes:
        origin: shard of the entries.
        org_ref: whose they are.
        first_seq, last_seq: which, both included.
        retention_days: counted from the day they were sealed.
    """

    origin: str
    org_ref: bytes
    first_seq: int
    last_seq: int
    retention_days: int


@dataclass(frozen=True, slots=True)
class Expiration:
    """An EXPIRY record: entries that are deleted (DESIGN section 5, control documents).

    Attributes:
        origin: shard of the entries.
        org_ref: whose they are.
        cutoff_day: those whose effective expiry day is not after this UTC day.
        held: org_seqs that are kept all the same.
    """

    origin: str
    org_ref: bytes
    cutoff_day: int
    held: Ranges = ()


class CheckedEntry(NamedTuple):
    """An EVENT record whose content is what its leaf commits to.

    Attributes:
        record: with its body.
        erased: sections of it that are not to be shown any more.
    """

    record: SealedRecord
    erased: frozenset[SectionName]


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive records of one shard, as a store applies them: all or nothing, with the cursor.

    Attributes:
        origin: name of the shard.
        start, end: indexes of the first record and behind the last one.
        rows: the entries among them, ascending; none for a store that `makes_documents`.
        extensions: applied after the rows, in ledger order.
        erased: (origin, row) of entries sealed earlier, without what was erased from them.
        quarantined: the quarantined inputs among the records, ascending.
        replays: what tells of quarantined inputs that became entries, in ledger order.
        records: all of them, checked; for a store that keeps more of a record than its row.
        entries: the entries among them, ascending.
        rewritten: the entries behind `erased`.
        kept: what was kept of quarantined inputs, by index.
        holds: HOLD records, applied after the rows, in ledger order.
    """

    origin: str
    start: int
    end: int
    rows: Sequence[Row]
    extensions: Sequence[Extension] = ()
    erased: Sequence[tuple[str, Row]] = ()
    quarantined: Sequence[QuarantineRow] = ()
    replays: Sequence[ReplayNote] = ()
    records: Sequence[SealedRecord] = ()
    entries: Sequence[CheckedEntry] = ()
    rewritten: Sequence[CheckedEntry] = ()
    kept: Mapping[int, bytes] = field(default_factory=dict)
    holds: Sequence[Hold] = ()


class FollowingStore(Protocol):
    """A store as its follower sees it. One thread calls it.

    Attributes:
        makes_documents: it makes what it stores from `entries` and wants no `rows`.

    Raises:
        RetryLater: (every method) the cursor stands where it was; the same call may succeed later.
        Paused: (every method) as above, once an operator has acted.
        Halted: (every method) the store is damaged; build it again from the ledger.
    """

    @property
    def makes_documents(self) -> bool:
        """See above."""
        ...

    def cursor(self, origin: str) -> int:
        """Return the index of the next record of a shard to apply."""
        ...

    def apply(self, batch: Batch) -> None:
        """Apply a batch and move the cursor to its end, durably and at once.

        A batch that does not start at the cursor has been applied before, and changes nothing.
        """
        ...

    def indexes(self, origin: str, org_ref: bytes, ranges: Ranges) -> list[int]:
        """Return the indexes of an organization's entries with `org_seq` in any of some inclusive ranges."""
        ...

    def expire(self, expiration: Expiration, limit: int) -> int:
        """Delete up to `limit` of the entries and quarantined inputs that an EXPIRY record names; return how many.

        Fewer than `limit` were the last. Doing it again deletes nothing that the record does not name.
        """
        ...

    def shrink(self) -> bool:
        """Give some of the space that deleted entries left back to the system; return whether there is more."""
        ...
