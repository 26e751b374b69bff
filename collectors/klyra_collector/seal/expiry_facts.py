"""What the control records of a ledger say about how long bodies are kept (DESIGN section 5, Bodies).

Built from POLICY, HOLD, RELEASE, EXTEND and EXPIRY records in ledger order. Pure: whoever reads them hands them in.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from klyra_audit.format.control import Expiry, Extend, Hold, PolicyRecord, Release
from klyra_audit.timestamps import day_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_audit.format.control import ControlDocument, Ranges


HELD: Final = "held"  # the folder of bodies that only a hold keeps


class Place(NamedTuple):
    """Where a record stands among all shards: the shard's number, oldest 0, and its number there. Orders by time."""

    shard: int
    number: int


class AgedLeaf(Protocol):
    """The fields of a leaf that say how long its body is kept."""

    @property
    def expire_day(self) -> int:
        """As sealed."""
        ...

    @property
    def org_ref(self) -> bytes:
        """Whose."""
        ...

    @property
    def org_seq(self) -> int:
        """Which of theirs."""
        ...

    @property
    def ingest_us(self) -> int:
        """When it was sealed, microseconds since 1970."""
        ...


@dataclass(frozen=True, slots=True)
class Named:
    """An EXPIRY record: everything of its organization that was due by its day went, except what it calls held."""

    place: Place
    cutoff_day: int
    held: Ranges

    def keeps(self, sequence: int) -> bool:
        """Say whether an org_seq is among the held ones."""
        return is_within(self.held, sequence)


@dataclass(frozen=True, slots=True)
class _Extension:
    place: Place
    first: int
    last: int
    days: int


@dataclass(slots=True)
class HoldState:
    """A legal hold and where it was released; None while it is in force."""

    hold: Hold
    released: Place | None = None


@dataclass(slots=True)
class _Kept:
    """What is said of one organization's records in one shard."""

    named: list[Named] = field(default_factory=list)
    cutoffs: list[int] = field(default_factory=list)  # the highest up to each of them
    extensions: list[_Extension] = field(default_factory=list)


_NOTHING = _Kept()


class RetentionFacts:
    """Answers how long a body is kept, whether a hold stops its expiry, and whether an EXPIRY has named it.

    Attributes:
        changes: how many records there are that may end the holding of a body: each RELEASE, each EXTEND.
        plans: by organization's reference.
        plan_lengths: every retention length, in days, that a plan has ever meant.
    """

    def __init__(self) -> None:
        self._shards: dict[str, int] = {}
        self._kept: dict[tuple[str, bytes], _Kept] = {}
        self._lengths: dict[str, set[int]] = {}
        self._holds: dict[str, HoldState] = {}
        self._holds_of: dict[bytes, list[HoldState]] = {}
        self._newest: dict[str, tuple[Place, str, Expiry]] = {}
        self.changes = 0
        self.plans: dict[bytes, str] = {}
        self.plan_lengths: dict[str, set[int]] = {}

    def add(self, origin: str, index: int, document: ControlDocument) -> None:
        """Take in the next record; shards oldest first, records of a shard in order."""
        place = Place(self._shards.setdefault(origin, len(self._shards)), index)
        match document:
            case PolicyRecord():
                self._lengths.setdefault(origin, set()).add(document.retention_days)
                self.plans[document.org_ref] = document.plan
                self.plan_lengths.setdefault(document.plan, set()).add(document.retention_days)
            case Extend():
                self._extend(document.log or origin, place, document)
            case Expiry():
                log = document.log or origin
                named = Named(place, document.cutoff_day, document.held)
                kept = self._of(log, document.org_ref)
                kept.named.append(named)
                kept.cutoffs.append(max((named.cutoff_day, *kept.cutoffs[-1:])))
                self._newest[log] = (place, origin, document)
            case Hold():
                self._hold(document)
            case Release() if document.hold_id in self._holds:
                self._holds[document.hold_id].released = place
                self.changes += 1
            case _:
                pass

    def lengths(self, log: str) -> frozenset[int]:
        """Return every retention length, in days, that a body of a shard may have been given."""
        return frozenset(self._lengths.get(log, ()))

    def moves_any(self) -> bool:
        """Say whether any record was ever held or extended: without one, a day's file goes as it is."""
        return bool(self._holds) or any(kept.extensions for kept in self._kept.values())

    def is_plain(self, log: str, org_ref: bytes, since_day: int) -> bool:
        """Say whether what an organization has due from a day on is due exactly when its leaves say, and unnamed."""
        kept = self._kept.get((log, org_ref), _NOTHING)
        latest = kept.cutoffs[-1] if kept.cutoffs else -1
        return not kept.extensions and latest < since_day and org_ref not in self._holds_of

    def effective_day(self, log: str, leaf: AgedLeaf, before: Place | None = None) -> int:
        """Return the first day on which a body may be absent: by its leaf, or by an EXTEND sealed before a place."""
        days = (
            day_of(leaf.ingest_us) + 1 + extension.days
            for extension in self._extensions(log, leaf)
            if before is None or extension.place < before
        )
        return max((leaf.expire_day, *days))

    def folders(self, log: str, leaf: AgedLeaf) -> tuple[str, ...]:
        """Return the folders of bodies, beside its own day's, in which a body may be filed by now."""
        days = (day_of(leaf.ingest_us) + 1 + extension.days for extension in self._extensions(log, leaf))
        held = (HELD,) if leaf.org_ref in self._holds_of else ()
        return (*held, *sorted({str(day) for day in days if day > leaf.expire_day}))

    def is_named(self, log: str, leaf: AgedLeaf) -> bool:
        """Say whether an EXPIRY has named a body: it was due by the record's day, and is not among its held ones."""
        return self.named_by(log, leaf) is not None

    def named_by(self, log: str, leaf: AgedLeaf) -> Named | None:
        """Return the first EXPIRY that named a body; None while there is none."""
        kept = self._kept.get((log, leaf.org_ref), _NOTHING)
        for record in islice(kept.named, bisect_left(kept.cutoffs, leaf.expire_day), None):
            if record.cutoff_day >= self.effective_day(log, leaf, record.place) and not record.keeps(leaf.org_seq):
                return record
        return None

    def hold_on(self, leaf: AgedLeaf) -> Hold | None:
        """Return a hold in force that covers a record; one with a selection covers all of its window here.

        The selection stands in the registry; until it is looked at there, nothing of the window may go.
        """
        for state in self._holds_of.get(leaf.org_ref, ()):
            if state.released is None and state.hold.covers(leaf.ingest_us):
                return state.hold
        return None

    def held(self, log: str, org_ref: bytes) -> Ranges:
        """Return what the newest EXPIRY of an organization calls held; nothing once no hold is in force."""
        if all(state.released for state in self._holds_of.get(org_ref, ())):
            return ()
        named = self._kept.get((log, org_ref), _NOTHING).named
        return named[-1].held if named else ()

    def released(self, log: str) -> Iterator[Hold]:
        """Yield holds released since the newest EXPIRY of an organization that has held records in a shard."""
        for org_ref, states in self._holds_of.items():
            named = self._kept.get((log, org_ref), _NOTHING).named
            if named and named[-1].held:
                yield from (state.hold for state in states if state.released and state.released > named[-1].place)

    def newest_expiry(self, log: str) -> tuple[str, int, int] | None:
        """Return (origin, index, cutoff day) of the newest EXPIRY about a shard; None without one."""
        newest = self._newest.get(log)
        return None if newest is None else (newest[1], newest[0].number, newest[2].cutoff_day)

    def _extensions(self, log: str, leaf: AgedLeaf) -> Iterator[_Extension]:
        for extension in self._kept.get((log, leaf.org_ref), _NOTHING).extensions:
            if extension.first <= leaf.org_seq <= extension.last:
                yield extension

    def _of(self, log: str, org_ref: bytes) -> _Kept:
        return self._kept.setdefault((log, org_ref), _Kept())

    def _extend(self, log: str, place: Place, extend: Extend) -> None:
        extension = _Extension(place, extend.first_seq, extend.last_seq, extend.retention_days)
        self._of(log, extend.org_ref).extensions.append(extension)
        self._lengths.setdefault(log, set()).add(extend.retention_days)
        self.changes += 1

    def _hold(self, hold: Hold) -> None:
        if hold.hold_id not in self._holds:  # a new shard repeats those in force
            state = self._holds[hold.hold_id] = HoldState(hold)
            self._holds_of.setdefault(hold.org_ref, []).append(state)


def is_within(ranges: Ranges, sequence: int) -> bool:
    """Say whether a number lies in ascending ranges; for many ranges faster than looking at each."""
    position = bisect_left(ranges, (sequence + 1,)) - 1
    return position >= 0 and sequence <= ranges[position][1]
