"""Which bodies are due on a day, and the EXPIRY records that name them (DESIGN section 5). Bytes only, no files.

A ledger is never searched whole. Ingest times never decrease along it, and a body's day is its ingest day + 1 + one
of a few lengths; so what is due on a day lies in one ingest day for each length, found by binary search.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from klyra_audit.format import control
from klyra_audit.format.control import MAX_RANGES, Expiry
from klyra_audit.format.leaf import LEAF_SIZE, Kind
from klyra_audit.timestamps import MICROSECONDS, SECONDS_PER_DAY
from klyra_collector.seal.expiry_facts import HELD

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from klyra_audit.format.control import Hold, Ranges
    from klyra_audit.format.frame import Buffer
    from klyra_collector.seal.expiry_facts import AgedLeaf, RetentionFacts

LEAVES_AT_ONCE = 8192  # some 10 ms of work, so that whoever runs this can do something else in between

_DAY_US = SECONDS_PER_DAY * MICROSECONDS
_AGED = struct.Struct(">xBxxI16sQQ72x")  # of a leaf: kind, expire_day, org_ref, org_seq, ingest_us
_BODIES = frozenset(kind.value for kind in Kind if kind.has_body)


class Aged(NamedTuple):
    """The part of a leaf that says how long its body is kept."""

    kind: int
    expire_day: int
    org_ref: bytes
    org_seq: int
    ingest_us: int


class Leaves:
    """A shard's leaves as they lie in the file, one behind the other."""

    def __init__(self, buffer: Buffer, size: int) -> None:
        """Look at the first `size` leaves of a buffer."""
        self._buffer = buffer
        self.size = size

    def at(self, index: int) -> Aged:
        """Return one leaf."""
        return Aged._make(_AGED.unpack_from(self._buffer, index * LEAF_SIZE))

    def between(self, start: int, end: int) -> Iterator[Aged]:
        """Yield the leaves of a range of indexes."""
        return map(Aged._make, _AGED.iter_unpack(self._buffer[start * LEAF_SIZE : end * LEAF_SIZE]))

    def first_at(self, ingest_us: int) -> int:
        """Return the index of the first leaf sealed at a time or later."""
        return bisect_left(range(self.size), ingest_us, key=lambda index: self.at(index).ingest_us)

    def sealed_on(self, day: int) -> tuple[int, int]:
        """Return the indexes of the first leaf sealed on a UTC day and behind the last."""
        return self.first_at(day * _DAY_US), self.first_at((day + 1) * _DAY_US)

    def first_day(self) -> int | None:
        """Return the UTC day of the first leaf; None without leaves."""
        return self.at(0).ingest_us // _DAY_US if self.size else None


@dataclass(frozen=True, slots=True)
class Due:
    """What of one organization is due on one day.

    Attributes:
        org_ref: whose.
        day: its effective expiry day.
        going: the org_seqs that go, ascending.
        held: those that a hold keeps, with its hold_id.
    """

    org_ref: bytes
    day: int
    going: list[int] = field(default_factory=list)
    held: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ExpiryPlan:
    """What is due in one shard.

    Attributes:
        log: the shard.
        cutoff_day: up to which it was looked.
        due: by organization and day.
        documents: the EXPIRY records to seal, with `log` set.
    """

    log: str
    cutoff_day: int
    due: tuple[Due, ...]
    documents: tuple[Expiry, ...]


def plan(
    leaves: Leaves, log: str, facts: RetentionFacts, after_day: int, cutoff_day: int
) -> Generator[None, None, ExpiryPlan]:
    """Return what is due in a shard and named by no EXPIRY yet; yields after each piece of work.

    Args:
        leaves: of the shard.
        log: its origin.
        facts: what control records say, up to now.
        after_day: up to this day everything that was due has been named, except what was held.
        cutoff_day: today, as far as the clock is believed.
    """
    planner = _Planner(leaves, log, facts)
    for day in range(after_day + 1, cutoff_day + 1):
        for days in sorted(facts.lengths(log)):
            yield from planner.add_due_on(day, day - 1 - days)
    for hold in facts.released(log):
        yield from planner.add_released(hold, after_day)
    documents: list[Expiry] = []
    for org_ref, due in planner.by_organization().items():
        documents += _documents(log, org_ref, cutoff_day, facts.held(log, org_ref), due)
        yield
    return ExpiryPlan(log, cutoff_day, planner.due(), tuple(documents))


def destination(facts: RetentionFacts, log: str, leaf: AgedLeaf, cutoff_day: int) -> str | None:
    """Return in which folder of bodies a frame is kept on from a day; None for one that goes.

    Only what an EXPIRY has named goes. What is extended is filed under its new day; everything else under `held`.
    """
    if facts.is_named(log, leaf):
        return None
    day = facts.effective_day(log, leaf)
    return str(day) if day > cutoff_day else HELD


class _Planner:
    """Collects what is due in one shard, by organization and day."""

    def __init__(self, leaves: Leaves, log: str, facts: RetentionFacts) -> None:
        self._leaves = leaves
        self._log = log
        self._facts = facts
        self._found: dict[tuple[bytes, int], Due] = {}

    def due(self) -> tuple[Due, ...]:
        """Return what was collected."""
        return tuple(self._found[key] for key in sorted(self._found))

    def by_organization(self) -> dict[bytes, list[Due]]:
        """Return what was collected, by org_ref."""
        grouped: dict[bytes, list[Due]] = {}
        for due in self.due():
            grouped.setdefault(due.org_ref, []).append(due)
        return grouped

    def add_due_on(self, day: int, sealing_day: int) -> Generator[None, None, None]:
        """Collect what was sealed on one day and is due on another."""
        plain: dict[bytes, bool] = {}
        for block in self._blocks(*self._leaves.sealed_on(sealing_day)):
            for leaf in block:
                org_ref = leaf.org_ref
                if leaf.kind not in _BODIES:
                    continue
                if org_ref not in plain:
                    plain[org_ref] = self._facts.is_plain(self._log, org_ref, day)
                if not plain[org_ref]:
                    self._add_unnamed(leaf, day)
                elif leaf.expire_day == day:
                    self._due(org_ref, day).going.append(leaf.org_seq)
            yield

    def add_released(self, hold: Hold, after_day: int) -> Generator[None, None, None]:
        """Collect what an earlier EXPIRY called held, a hold that is over covered, and none keeps any more."""
        first = self._leaves.first_at(hold.from_us)
        end = self._leaves.size if hold.to_us is None else self._leaves.first_at(hold.to_us + 1)
        seen = {sequence for due in self._found.values() if due.org_ref == hold.org_ref for sequence in due.going}
        for block in self._blocks(first, end):
            for leaf in block:
                if leaf.org_ref != hold.org_ref or leaf.kind not in _BODIES or leaf.org_seq in seen:
                    continue
                day = self._facts.effective_day(self._log, leaf)
                if day <= after_day and self._facts.hold_on(leaf) is None and not self._facts.is_named(self._log, leaf):
                    self._due(leaf.org_ref, day).going.append(leaf.org_seq)
            yield

    def _blocks(self, first: int, end: int) -> Iterator[Iterator[Aged]]:
        for start in range(first, end, LEAVES_AT_ONCE):
            yield self._leaves.between(start, min(start + LEAVES_AT_ONCE, end))

    def _add_unnamed(self, leaf: Aged, day: int) -> None:
        if self._facts.effective_day(self._log, leaf) != day or self._facts.is_named(self._log, leaf):
            return
        hold = self._facts.hold_on(leaf)
        due = self._due(leaf.org_ref, day)
        if hold is None:
            due.going.append(leaf.org_seq)
        else:
            due.held.append((leaf.org_seq, hold.hold_id))

    def _due(self, org_ref: bytes, day: int) -> Due:
        due = self._found.get((org_ref, day))
        if due is None:
            due = self._found[org_ref, day] = Due(org_ref, day)
        return due


def _documents(log: str, org_ref: bytes, cutoff_day: int, held_before: Ranges, due: Sequence[Due]) -> Iterator[Expiry]:
    """Yield the EXPIRY records of an organization: one, unless its held ranges are too many for one.

    Whatever was held before and is held still is repeated: what a record does not call held, it names.
    """
    going = sorted(sequence for item in due for sequence in item.going)
    kept = [(sequence, sequence) for item in due for sequence, _ in item.held]
    held = _joined([*held_before, *kept], going)
    for part, ranges in _parts(going, held):
        digest = control.seq_digest(part)
        yield Expiry(org_ref, cutoff_day, len(part), digest, ranges, log)


def _joined(kept: Sequence[tuple[int, int]], going: Sequence[int]) -> list[tuple[int, int]]:
    """Return held ranges as few as can be: without what goes, and joined where nothing that goes lies between.

    A range may then span records that are no bodies, that are not due yet or that are gone: it says nothing of them.
    """
    joined: list[tuple[int, int]] = []
    for first, last in sorted(piece for span in kept for piece in _without(span, going)):
        if joined and not _any_between(going, joined[-1][1], first):
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return joined


def _without(span: tuple[int, int], going: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield what is left of a range without some of its numbers."""
    first, last = span
    for sequence in going[bisect_left(going, first) : bisect_right(going, last)]:
        if first < sequence:
            yield first, sequence - 1
        first = sequence + 1
    if first <= last:
        yield first, last


def _any_between(going: Sequence[int], low: int, high: int) -> bool:
    return bisect_left(going, high) > bisect_right(going, low)


def _parts(going: list[int], held: list[tuple[int, int]]) -> Iterator[tuple[list[int], Ranges]]:
    """Yield (org_seqs that go, held ranges) of each record, so that none has more ranges than it may.

    All but the last call everything behind them held, and all but the first everything before them, which the
    earlier ones have named as far as it goes: read one after the other they say what one long record would.
    """
    if len(held) <= MAX_RANGES:
        yield going, tuple(held)
        return
    step = MAX_RANGES - 2  # room for one range before and one behind
    end = max((held[-1][1], *going[-1:]))
    for start in range(0, len(held), step):
        low = held[start][0] if start else 0
        is_last = start + step >= len(held)
        high = end + 1 if is_last else held[start + step][0]
        ranges = held[start : start + step]
        before = [(held[0][0], low - 1)] if start else []
        behind = [] if is_last else [(high, end)]
        part = going[bisect_left(going, low) : bisect_left(going, high)]
        yield part, (*before, *ranges, *behind)
