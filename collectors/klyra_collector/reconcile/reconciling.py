"""The comparison: every row of an export is read once, then every record of the ledger.

A row is first verified by itself (`klyra_siem.formats`): its sections against its own leaf, what it shows against its
sections. What it claims to be is noted. Then the ledger is read as the destination reads it, with its filters and
what was erased since, and each entry gets a verdict. Only what stands before the destination's cursor, and whose
time is in the window, can be missing; what has expired cannot.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from klyra_audit import timestamps
from klyra_collector.fanout.heartbeat import EVENT_TYPE as HEARTBEAT
from klyra_collector.fanout.trial import TEST_ORIGIN
from klyra_collector.reconcile.book import Book, Seen, Sighting, digest_of
from klyra_collector.reconcile.errors import ExportEmpty
from klyra_siem.formats.integrity import NotACopy
from klyra_siem.formats.reading import Cut, Differs, compare, find_copy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from klyra_audit.format.sections import SectionName
    from klyra_collector.fanout.source import Found
    from klyra_collector.reconcile.rows import Row
    from klyra_siem.destination import SealedEntry
    from klyra_siem.formats.integrity import Copy
    from klyra_siem.formats.reading import Told

READ: Final = 500
MOST_CUT: Final = 100_000

_WITHOUT: Mapping[SectionName, Seen] = {"actor": Seen.WITHOUT_ACTOR, "target": Seen.WITHOUT_TARGET}
_NOBODY_S = frozenset({"control", "quarantine"})
_PLACES = (("klyra_log", "seq"), ("LogOrigin", "LogIndex"))


class Verdict(StrEnum):
    """What there is to say about one entry."""

    OK = "OK"
    MISSING = "MISSING"
    ALTERED = "ALTERED"
    DUPLICATE = "DUPLICATE"
    EXTRA = "EXTRA"
    TRUNCATED = "TRUNCATED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The verdict on one entry.

    Attributes:
        verdict: what is so.
        entry_id: "" where nobody knows.
        log, index: where its leaf stands; "" and None for a row that names no record of this ledger.
        reason: in words; "" for OK.
        row: number of the export's row, from 1; None for what was found in the ledger.
    """

    verdict: Verdict
    entry_id: str
    log: str = ""
    index: int | None = None
    reason: str = ""
    row: int | None = None


@dataclass(slots=True)
class Summary:
    """Figures of one comparison.

    Attributes:
        rows: of the export.
        verdicts: how often each.
        not_delivered_yet: entries of the window behind the destination's cursor that are not there.
        not_erased: entries whose copy still has what was erased in the ledger since.
        test_events: rows that `klyra-audit destination test` has sent; they are no entries, and no fault.
    """

    rows: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    not_delivered_yet: int = 0
    not_erased: int = 0
    test_events: int = 0

    @property
    def is_intact(self) -> bool:
        """Whether there was nothing but OK."""
        return not any(count for verdict, count in self.verdicts.items() if verdict is not Verdict.OK)


class Source(Protocol):
    """The ledger as the destination reads it; see `fanout.source.EntrySource`."""

    def read(self, origin: str, start: int, limit: int) -> list[Found]:
        """Return up to `limit` records, with the entries that the destination is to have."""
        ...


class Shards(Protocol):
    """The ledger as it stands; see `seal.reader.LedgerReader`."""

    def origins(self) -> list[str]:
        """Return the origins of all shards, oldest first."""
        ...

    def committed(self, origin: str) -> int:
        """Return how many records a shard has."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What an export should hold.

    Attributes:
        from_ns, to_ns: entries of this time, nanoseconds since 1970, the second exclusive.
        delivered: up to which record of which shard the destination has been; None for everything that is sealed.
        dead: records that the destination refused for good.
    """

    from_ns: int
    to_ns: int
    delivered: tuple[str, int] | None
    dead: frozenset[tuple[str, int]] = frozenset()

    def has_time(self, entry: SealedEntry) -> bool:
        """Say whether an entry is of the window."""
        return self.from_ns <= timestamps.to_nanoseconds(entry.document["timestamp"]) < self.to_ns


class Ledger(NamedTuple):
    """Both views of one ledger.

    Attributes:
        shards: how many records there are.
        source: what of them the destination is to have.
        leaf: returns the leaf of a record that it is not to have.
    """

    shards: Shards
    source: Source
    leaf: Callable[[str, int], bytes]


class Reconciliation:
    """One comparison. `answers` is asked once; then `summary` is whole."""

    def __init__(self, ledger: Ledger, expected: Expected) -> None:
        self._ledger = ledger
        self._expected = expected
        self._origins = ledger.shards.origins()
        self._committed = {origin: ledger.shards.committed(origin) for origin in self._origins}
        self._cut: Counter[str] = Counter()
        self.summary = Summary()

    def answers(self, rows: Iterable[Row]) -> Iterator[Answer]:
        """Yield a verdict on every entry of the window and on every row.

        Raises:
            ExportEmpty: there are no rows.
            ExportUnreadable: they end in their middle.
            RecordUndeliverable, LedgerDamaged, RetryLater: the ledger cannot be read.
        """
        with contextlib.closing(Book(self._committed)) as book:
            for answer in self._all(rows, book):
                self.summary.verdicts[answer.verdict] += 1
                yield answer

    def _all(self, rows: Iterable[Row], book: Book) -> Iterator[Answer]:
        for number, row in enumerate(rows, 1):
            self.summary.rows = number
            answer = self._noted(row, number, book)
            if answer is not None:
                yield answer
        if not self.summary.rows:
            raise ExportEmpty(
                "The export has no rows, which says nothing.",
                remedy="Check the search it comes from; --from and --to name the window.",
            )
        for position, origin in enumerate(self._origins):
            yield from self._of_shard(position, origin, book)
        for entry_id, copies in self._cut.items():
            reason = f"{copies} cut copies of an entry that the destination is not to have"
            yield Answer(verdict=Verdict.TRUNCATED, entry_id=entry_id, reason=reason)

    def _noted(self, row: Row, number: int, book: Book) -> Answer | None:
        """Note what a row is a copy of; return an answer for a row that is none of this ledger's."""
        try:
            copy, told = find_copy(row)
        except Cut as error:
            return self._noted_cut(row, error.entry_id, number, book)
        except NotACopy as error:
            return Answer(verdict=Verdict.EXTRA, entry_id="", reason=error.args[0], row=number)
        if _is_test_event(copy, told):
            self.summary.test_events += 1
            return None
        if not book.has(copy.log, copy.index):
            reason = f"it names record {copy.index} of {copy.log}, which this ledger does not have"
            return Answer(verdict=Verdict.EXTRA, entry_id=copy.entry_id, reason=reason, row=number)
        flags = _flags(copy)
        if flags & Seen.WHOLE:
            try:
                compare(copy, told)
            except Differs:
                flags = Seen.ALTERED
        book.note(copy.log, copy.index, flags, digest_of(copy.leaf))
        return None

    def _noted_cut(self, row: Row, entry_id: str, number: int, book: Book) -> Answer | None:
        place = _place(row)
        if place is not None and book.has(*place):
            book.note(*place, Seen.CUT)
            return None
        if not entry_id or (len(self._cut) >= MOST_CUT and entry_id not in self._cut):
            reason = "it was cut off, and nothing says which entry it was"
            return Answer(verdict=Verdict.TRUNCATED, entry_id=entry_id, reason=reason, row=number)
        self._cut[entry_id] += 1
        return None

    def _of_shard(self, position: int, origin: str, book: Book) -> Iterator[Answer]:
        index = 0
        while index < self._committed[origin]:
            found = self._ledger.source.read(origin, index, min(READ, self._committed[origin] - index))
            for one in found:
                answer = self._of_record(position, origin, one, book.sighting(origin, one.index))
                if answer is not None:
                    yield answer
            index += len(found) or READ

    def _of_record(self, position: int, origin: str, found: Found, seen: Sighting) -> Answer | None:
        if found.entry is None:
            return self._of_other(origin, found, seen) if seen.copies else None
        entry, cut = found.entry, self._cut.pop(found.entry.entry_id, 0)
        if seen.copies or cut:
            return self._of_seen(entry, seen, cut)
        if not self._expected.has_time(entry):
            return None
        if not self._is_delivered(position, found.index):
            self.summary.not_delivered_yet += 1
            return None
        is_dead = (origin, found.index) in self._expected.dead
        reason = "it is a dead letter: the destination refused it" if is_dead else "it was delivered and is not there"
        return _answer(Verdict.MISSING, entry, reason)

    def _of_seen(self, entry: SealedEntry, seen: Sighting, cut: int) -> Answer:
        problem = _problem(seen, digest_of(entry.leaf))
        lacking = [name for name, flag in _WITHOUT.items() if seen.flags & flag and name not in entry.redacted]
        if problem:
            return _answer(Verdict.ALTERED, entry, problem)
        if lacking:
            return _answer(Verdict.ALTERED, entry, f"it lacks its {lacking[0]} section, which no erasure names")
        if not seen.flags & Seen.WHOLE:
            return _answer(Verdict.TRUNCATED, entry, "it was cut off")
        self.summary.not_erased += any(not seen.flags & _WITHOUT[name] for name in entry.redacted)
        copies = seen.copies + cut
        if copies > 1:
            return _answer(Verdict.DUPLICATE, entry, f"it is there {copies} times")
        return _answer(Verdict.OK, entry, "")

    def _of_other(self, origin: str, found: Found, seen: Sighting) -> Answer:
        """Return what to say of copies of a record that the destination is not to have now."""
        if found.reason in _NOBODY_S:
            return _place_answer(Verdict.EXTRA, origin, found.index, "that record of the ledger is no entry")
        problem = _problem(seen, digest_of(self._ledger.leaf(origin, found.index)))
        if problem:
            return _place_answer(Verdict.ALTERED, origin, found.index, problem)
        if found.reason != "expired":
            reason = f"the destination is not to have it: {found.reason}"
            return _place_answer(Verdict.EXTRA, origin, found.index, reason)
        if not seen.flags & Seen.WHOLE:
            return _place_answer(Verdict.TRUNCATED, origin, found.index, "it was cut off")
        if seen.copies > 1:
            return _place_answer(Verdict.DUPLICATE, origin, found.index, f"it is there {seen.copies} times")
        return _place_answer(Verdict.OK, origin, found.index, "")

    def _is_delivered(self, position: int, index: int) -> bool:
        delivered = self._expected.delivered
        if delivered is None:
            return True
        origin, end = delivered
        reached = self._origins.index(origin) if origin in self._origins else -1
        return position < reached or (position == reached and index < end)


def _flags(copy: Copy) -> Seen:
    if copy.mismatch():
        return Seen.ALTERED
    flags = Seen.WHOLE
    for name in copy.redacted:
        flags |= _WITHOUT[name]
    return flags


def _is_test_event(copy: Copy, told: Told) -> bool:
    """Say whether a row is a test event and shows nothing else: whoever makes up such a row deceives nobody."""
    if copy.log != TEST_ORIGIN or copy.mismatch():
        return False
    try:
        compare(copy, told)
    except Differs:
        return False
    document = copy.entry().document
    return bool(document["event_type"] == HEARTBEAT and document["metadata"].get("purpose") == "test")


def _problem(seen: Sighting, digest: bytes) -> str:
    """Return why a record that was seen is not what is sealed; "" if nothing says so."""
    if seen.flags & Seen.ALTERED:
        return "a copy was changed: it does not agree with its own leaf"
    if seen.flags & Seen.DIFFERENT or (seen.flags & Seen.WHOLE and seen.digest != digest):
        return "a copy has a leaf that is not the ledger's"
    return ""


def _place(row: Row) -> tuple[str, int] | None:
    """Return which record a row is about, by the members that vendors' modules put beside the record."""
    for holder in (row, row.get("fields") if isinstance(row, dict) else None):
        for log, index in _PLACES:
            if isinstance(holder, dict) and isinstance(holder.get(log), str) and str(holder.get(index)).isdigit():
                return holder[log], int(holder[index])
    return None


def _answer(verdict: Verdict, entry: SealedEntry, reason: str) -> Answer:
    return Answer(verdict=verdict, entry_id=entry.entry_id, log=entry.origin, index=entry.index, reason=reason)


def _place_answer(verdict: Verdict, origin: str, index: int, reason: str) -> Answer:
    """Return an answer about a record of which only the leaf is still there."""
    return Answer(verdict=verdict, entry_id="", log=origin, index=index, reason=reason)


def verdict_lines(summary: Summary) -> Sequence[str]:
    """Return a summary for people."""
    counts = ", ".join(f"{summary.verdicts[verdict]} {verdict}" for verdict in Verdict if summary.verdicts[verdict])
    lines = [f"{summary.rows} rows: {counts or 'nothing to compare'}"]
    if summary.not_delivered_yet:
        lines.append(f"{summary.not_delivered_yet} entries of the window have not been delivered yet")
    if summary.not_erased:
        lines.append(f"{summary.not_erased} copies still hold what was erased here since: remove it there too")
    if summary.test_events:
        lines.append(f"{summary.test_events} test events are there besides")
    return lines
