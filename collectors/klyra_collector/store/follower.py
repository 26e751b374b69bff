"""Follows the ledger into a store: reads on from a durable cursor, checks every record, applies it in order."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import structlog

from klyra_audit.errors import Halted, Paused, RetryLater
from klyra_audit.format import control
from klyra_audit.format.errors import FormatError
from klyra_audit.format.leaf import Kind
from klyra_collector.store.changes import Batch, CheckedEntry, Expiration, Extension
from klyra_collector.store.quarantine_rows import quarantine_row_of, replays_of
from klyra_collector.store.rows import check, erased_sections, row_of, unusable

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence

    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.sections import SectionName
    from klyra_collector.seal.expiry_facts import RetentionFacts
    from klyra_collector.seal.reader import LedgerReader, SealedRecord
    from klyra_collector.store.changes import FollowingStore, Ranges
    from klyra_collector.store.quarantined import QuarantineRow

_BATCH = 5000
_EXPIRE = 1000  # entries deleted in one transaction at most
_IDLE_SECONDS = 0.1
_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 15.0
_PAUSED_SECONDS = 60.0

_log = structlog.get_logger(__name__)


class LedgerBehindStore(Halted):
    """The ledger is shorter than what the store has applied of it."""

    code = "ledger_behind_store"


class Follower:
    """Moves one store along one ledger. One thread runs it."""

    def __init__(self, reader: LedgerReader, store: FollowingStore, *, batch: int = _BATCH) -> None:
        """Prepare to follow.

        Args:
            reader: of the ledger; nobody else uses it.
            store: to write to.
            batch: records applied in one transaction at most.
        """
        self._reader = reader
        self._store = store
        self._batch = batch
        self._erasures = Erasures(reader)
        self._facts: RetentionFacts | None = None  # read at most once a step

    def step(self) -> int:
        """Apply the next records of the oldest shard that has some; return how many, 0 if there are none.

        An EXPIRY record takes as many steps as it needs, each of which deletes some entries.

        Raises:
            RetryLater: nothing was applied, the cursor stands where it was.
            Halted: a record cannot be applied and must not be skipped; it names origin and index.
        """
        for origin in self._reader.origins():
            start = self._store.cursor(origin)
            committed = self._reader.committed(origin)
            if committed < start:
                if self._reader.left_behind(origin):
                    continue  # the store keeps what the disaster took from the ledger
                raise _ahead(origin, start, committed)
            if committed > start:
                return self._advance(origin, start)
        return 0

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set; wait and try again whenever the store cannot be written.

        Raises:
            Halted: as `step`; the store stays as it was before the record.
        """
        wait = _FIRST_WAIT_SECONDS
        while not stop.is_set():
            try:
                busy = self.step() or self._store.shrink()
            except RetryLater as error:
                _log.warning("store.waiting", reason=str(error), code=error.code, seconds=wait)
                stop.wait(wait * random.uniform(0.5, 1.0))  # noqa: S311 - jitter is no secret
                wait = min(wait * 2, _LONGEST_WAIT_SECONDS)
                continue
            except Paused as error:
                _log.error("store.paused", reason=str(error), code=error.code, seconds=_PAUSED_SECONDS)
                stop.wait(_PAUSED_SECONDS)
                continue
            wait = _FIRST_WAIT_SECONDS
            if not busy:
                stop.wait(_IDLE_SECONDS)

    def _advance(self, origin: str, start: int) -> int:
        self._facts = None
        records = list(_until_change(self._read(origin, start, self._batch)))
        if records[0].leaf.kind == Kind.EXPIRY:
            return self._expire(records[0])
        self._store.apply(self._batch_of(records))
        return len(records)

    def _expire(self, record: SealedRecord) -> int:
        """Delete some of what an EXPIRY record names; move the cursor behind it once all of that is gone."""
        check(record)
        deleted = self._store.expire(_expiration(record), _EXPIRE)
        if deleted < _EXPIRE:
            self._store.apply(Batch(record.origin, record.index, record.index + 1, (), records=(record,)))
        return deleted + 1

    def _read(self, origin: str, start: int, limit: int) -> Sequence[SealedRecord]:
        records = self._reader.read(origin, start, limit)
        for index, record in enumerate(records, start):
            if record.index != index or record.origin != origin:
                raise unusable(record, f"record {index} of {origin} should have come")
        return records

    def _batch_of(self, records: Sequence[SealedRecord]) -> Batch:
        entries: list[CheckedEntry] = []
        extensions: list[Extension] = []
        rewritten: list[CheckedEntry] = []
        quarantined: list[QuarantineRow] = []
        kept: dict[int, bytes] = {}
        holds: list[control.Hold] = []
        for record in records:
            check(record)
            kind = record.leaf.kind
            if kind == Kind.EVENT:
                entries += self._entry(record)
            elif kind == Kind.QUARANTINE and record.body is not None:
                raw = self._reader.quarantined(record)
                quarantined.append(quarantine_row_of(record, raw))
                if raw is not None:
                    kept[record.index] = raw
            elif kind == Kind.EXTEND:
                extensions.append(_extension(record))
            elif kind == Kind.HOLD:
                holds.append(_hold(record))
            elif kind == Kind.ERASURE:
                rewritten += self._erased(record)
        last = records[-1]
        rows = [] if self._store.makes_documents else [row_of(*entry) for entry in entries]
        return Batch(
            last.origin,
            records[0].index,
            last.index + 1,
            rows,
            extensions,
            erased=[(entry.record.origin, row_of(*entry)) for entry in rewritten],
            quarantined=quarantined,
            replays=list(replays_of(rows)),
            records=records,
            entries=entries,
            rewritten=rewritten,
            kept=kept,
            holds=holds,
        )

    def _entry(self, record: SealedRecord) -> Iterator[CheckedEntry]:
        if record.body is None:
            # It was named before it was deleted: a store that is built late finds the EXPIRY further on.
            if self._facts is None:
                self._facts = self._reader.retention()
            if not self._facts.is_named(record.origin, record.leaf):
                raise unusable(record, "its body is missing, and no EXPIRY record names it")
            return
        erased = erased_sections(record.body)
        if erased and not erased <= self._erasures.of(record):
            raise unusable(record, "a section was overwritten, and no ERASURE record says so")
        yield CheckedEntry(record, erased)

    def _erased(self, record: SealedRecord) -> Iterator[CheckedEntry]:
        """Read the entries that an ERASURE record names again, without what it erased."""
        document = _control(record)
        origin, org_ref = document.get("log", record.origin), bytes.fromhex(document["org_ref"])
        sections: dict[int, set[SectionName]] = {}
        for name in ("actor", "target"):
            for index in self._store.indexes(origin, org_ref, _ranges(document[name])):
                sections.setdefault(index, set()).add(name)
        for index, names in sorted(sections.items()):
            for entry in self._read(origin, index, 1):
                check(entry)
                # A store that others can write to may name any place; what is named is for the ledger to say.
                named = {name for name in names if _is_named(entry, org_ref, _ranges(document[name]))}
                if named and entry.body is not None:
                    yield CheckedEntry(entry, erased_sections(entry.body) | named)


class Erasures:
    """The ERASURE records of a ledger, looked for only once an overwritten section is met."""

    def __init__(self, reader: LedgerReader) -> None:
        self._reader = reader
        self._read: dict[str, int] = {}
        self._named: dict[tuple[str, bytes], list[tuple[SectionName, Ranges]]] = {}

    def of(self, record: SealedRecord) -> frozenset[SectionName]:
        """Return the sections of an entry that any committed ERASURE record names."""
        for origin in self._reader.origins():
            self._read_on(origin)
        named = self._named.get((record.origin, record.leaf.org_ref), [])
        sequence = record.leaf.org_seq
        return frozenset(name for name, ranges in named if any(first <= sequence <= last for first, last in ranges))

    def _read_on(self, origin: str) -> None:
        index = self._read.get(origin, 0)
        while records := self._reader.read(origin, index, _BATCH):
            for record in records:
                if record.leaf.kind == Kind.ERASURE:
                    self._add(record)
            index = self._read[origin] = index + len(records)

    def _add(self, record: SealedRecord) -> None:
        check(record)
        document = _control(record)
        key = (document.get("log", record.origin), bytes.fromhex(document["org_ref"]))
        named = self._named.setdefault(key, [])
        named.append(("actor", _ranges(document["actor"])))
        named.append(("target", _ranges(document["target"])))


def _until_change(records: Sequence[SealedRecord]) -> Iterator[SealedRecord]:
    """Yield the records before the first ERASURE or EXPIRY, or it alone: what it names must be in the store by then."""
    for position, record in enumerate(records):
        changes = record.leaf.kind in (Kind.ERASURE, Kind.EXPIRY)
        if changes and position:
            return
        yield record
        if changes:
            return


def _extension(record: SealedRecord) -> Extension:
    document = _control(record)
    return Extension(
        document.get("log", record.origin),
        bytes.fromhex(document["org_ref"]),
        document["first_seq"],
        document["last_seq"],
        document["retention_days"],
    )


def _expiration(record: SealedRecord) -> Expiration:
    document = _control(record)
    return Expiration(
        document.get("log", record.origin),
        bytes.fromhex(document["org_ref"]),
        document["cutoff_day"],
        _ranges(document["held"]),
    )


def _hold(record: SealedRecord) -> control.Hold:
    try:
        parsed = control.parse(Kind.HOLD, _control(record))
    except FormatError as error:
        raise unusable(record, f"its control document is no HOLD ({error})") from error
    assert isinstance(parsed, control.Hold)  # noqa: S101 - what was parsed as one is one
    return parsed


def _control(record: SealedRecord) -> JsonObject:
    if record.control is None:
        raise unusable(record, "its control document is missing")
    return record.control


def _is_named(record: SealedRecord, org_ref: bytes, ranges: Ranges) -> bool:
    return record.leaf.org_ref == org_ref and any(first <= record.leaf.org_seq <= last for first, last in ranges)


def _ranges(listed: list[list[int]]) -> Ranges:
    return tuple((first, last) for first, last in listed)


def _ahead(origin: str, applied: int, committed: int) -> LedgerBehindStore:
    return LedgerBehindStore(
        f"The store has applied {applied} records of {origin}, which has only {committed}: the ledger was replaced.",
        remedy="Restore the newest ledger, or delete store.sqlite to build the store from this one.",
    )
