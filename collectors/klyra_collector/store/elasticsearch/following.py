"""Elasticsearch as a store that follows the ledger: documents first, then what changes them, then the cursor."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from klyra_audit.errors import Halted
from klyra_collector.dead_letters import DeadLetter
from klyra_collector.store.elasticsearch.cursor import load, save
from klyra_collector.store.elasticsearch.lines import repeated

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from klyra_collector.dead_letters import DeadLetters
    from klyra_collector.seal.durable import Disk
    from klyra_collector.seal.expiry_facts import RetentionFacts
    from klyra_collector.store.changes import Batch, Expiration, Ranges
    from klyra_collector.store.elasticsearch.bulk import BulkWriter, Line, RefusedLine
    from klyra_collector.store.elasticsearch.ledger_index import LedgerCopy
    from klyra_collector.store.elasticsearch.lines import DocumentLines
    from klyra_collector.store.elasticsearch.operations import Operations
    from klyra_collector.store.elasticsearch.searchable import Present, Searchable
    from klyra_collector.store.elasticsearch.sweep import Sweep

SWEEP_SECONDS: Final = 3600.0  # it finds nothing to do but once a day; an EXPIRY may come at any hour

_log = structlog.get_logger(__name__)


class CopyDiffers(Halted):
    """The index `klyra-audit-ledger` holds other records at the place of ours."""

    code = "ledger_copy_differs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the store is made of.

    Attributes:
        bulk: writes lines with the writer's key.
        lines: makes them.
        ledger_copy: makes those of the ledger's copy.
        searchable: finds out what a search finds.
        present: knows what was written before this process.
        operations, sweep: change and delete with the sweeper's key.
        facts: what the ledger says about retention up to now.
        on_searchable: told origin → size of what a search finds by now; must not raise.
        on_idle: called now and then; must not raise.
    """

    bulk: BulkWriter
    lines: DocumentLines
    ledger_copy: LedgerCopy
    searchable: Searchable
    present: Present
    operations: Operations
    sweep: Sweep
    facts: Callable[[], RetentionFacts]
    on_searchable: Callable[[Mapping[str, int]], None] = field(default=lambda _: None)
    on_idle: Callable[[], None] = field(default=lambda: None)


class ElasticsearchStore:
    """Satisfies `FollowingStore`. One thread uses it.

    It goes on from where a search finds everything, not from where everything was stored: so what a crash left half
    way is looked up again, by place, and nothing is sent twice that is there.
    """

    def __init__(
        self,
        parts: Parts,
        cursors: Path,
        disk: Disk,
        dead_letters: DeadLetters,
        *,
        wall_us: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Go on from the cursor.

        Args:
            parts: see there.
            cursors: folder of the cursor.
            disk: writes it.
            dead_letters: of this store.
            wall_us: present time, microseconds since 1970.
            monotonic: seconds.

        Raises:
            StoreCursorDamaged: the cursor cannot be read.
        """
        self._parts = parts
        self._cursors = cursors
        self._disk = disk
        self._dead_letters = dead_letters
        self._wall_us = wall_us
        self._monotonic = monotonic
        self._cursor = load(cursors)
        self._found_applied: Mapping[str, int] = dict(self._cursor.applied)
        self._next = dict(self._cursor.searchable)
        self._next_sweep = 0.0

    @property
    def makes_documents(self) -> bool:
        """Whether it makes what it stores itself: it stores documents."""
        return True

    def cursor(self, origin: str) -> int:
        """Return the index of the next record of a shard to apply."""
        return self._next.get(origin, 0)

    def apply(self, batch: Batch) -> None:
        """Store a batch, then do what its control records ask for, then move the cursor.

        A crash before the last step leaves the cursor; every step does nothing when it is done again.

        Raises:
            ElasticsearchBusy, ClusterUnreachable: later.
            WriterRefused, MappingRefuses, ClusterRefuses: once an operator has acted.
            CopyDiffers, RecordUnusable, RequestNotUnderstood: never.
        """
        if self.cursor(batch.origin) != batch.start:
            return
        documents = self._store(batch)
        self._change(batch)
        self._move(batch, documents)
        self._tend()

    def indexes(self, origin: str, org_ref: bytes, ranges: Ranges) -> list[int]:
        """Return the indexes of an organization's entries with `org_seq` in any of some inclusive ranges."""
        return self._parts.operations.indexes(origin, org_ref, ranges)

    def expire(self, expiration: Expiration, limit: int) -> int:
        """Delete up to `limit` of the documents that an EXPIRY record names; return how many."""
        deleted = self._parts.operations.expire(expiration, limit)
        self._seen(self._parts.searchable.all_found())
        return deleted

    def shrink(self) -> bool:
        """Do what is done when nothing is to be applied: say what a search finds by now, copy, sweep."""
        self._tend()
        if self._monotonic() >= self._next_sweep:
            self._sweep()
        return False

    def finish(self) -> None:
        """Write what the ledger's copy lacks of what was applied: nothing comes after it for as long as we are stopped.

        Raises:
            ElasticsearchBusy, WriterRefused, ClusterRefuses: it is written after the next start.
            CopyDiffers: see there.
        """
        self._complete_copy()

    def _store(self, batch: Batch) -> int:
        """Create the documents of a batch and the bundles it completes; return how many documents there must be."""
        found = self._found_applied.get(batch.origin, 0)
        present = self._parts.present.among(batch.origin, batch.start, batch.end, found)
        documents = len(batch.entries) + len(batch.quarantined)
        refused = self._parts.bulk.write(self._parts.lines.of(batch, present), repeated=repeated)
        if refused:
            self._bury(refused)
        self._copy(list(self._parts.ledger_copy.bundles(batch)))
        return documents - len(refused)

    def _bury(self, refused: Sequence[RefusedLine]) -> None:
        now = self._wall_us()
        for line, why in refused:
            _log.error("elasticsearch.dead_letter", log=line.origin, index=line.number, status=why.status)
        self._dead_letters.add([_letter(line, why.status, now) for line, why in refused])

    def _copy(self, lines: Sequence[Line]) -> None:
        refused = self._parts.bulk.write(lines)
        if refused:
            line, why = refused[0]
            raise CopyDiffers(
                f"The document {line.id} of {line.stream} is not what the ledger says: {why.reason}.",
                remedy="Find out who writes there: two ledgers of one name, or somebody who has changed it. "
                "Run klyra-audit verify on both.",
            )

    def _change(self, batch: Batch) -> None:
        if not (batch.rewritten or batch.extensions or batch.holds):
            return
        operations = self._parts.operations
        operations.erase(batch.rewritten, batch.origin, batch.start)
        for extension in batch.extensions:
            operations.extend(extension)
        for hold in batch.holds:
            operations.hold(hold)

    def _move(self, batch: Batch, documents: int) -> None:
        self._next[batch.origin] = batch.end
        self._parts.searchable.applied(batch.origin, batch.start, batch.end, documents)
        cursor = self._cursor
        if batch.end > cursor.applied.get(batch.origin, 0):
            cursor = cursor.moved(batch.origin, batch.end)
        if batch.rewritten or batch.extensions or batch.holds:
            sizes = self._parts.searchable.all_found()
            cursor = cursor.seen(sizes)
            self._parts.on_searchable(sizes)
        save(self._cursors, cursor, self._disk)
        self._cursor = cursor

    def _tend(self) -> None:
        """Do what is due while following and in between."""
        self._seen(self._parts.searchable.look())
        if self._parts.ledger_copy.is_due():
            self._complete_copy()
        self._parts.on_idle()

    def _complete_copy(self) -> None:
        lines = self._parts.ledger_copy.rest()
        self._copy(lines)
        self._parts.ledger_copy.written(lines)

    def _seen(self, sizes: Mapping[str, int]) -> None:
        if sizes:
            cursor = self._cursor.seen(sizes)
            save(self._cursors, cursor, self._disk)
            self._cursor = cursor
            self._parts.on_searchable(sizes)

    def _sweep(self) -> None:
        # A sweep that fails is tried again by the follower's own waiting.
        deleted = self._parts.sweep.run(self._cursor.applied, self._parts.facts())
        self._seen(self._parts.searchable.all_found())
        self._next_sweep = self._monotonic() + SWEEP_SECONDS
        if deleted:
            _log.info("elasticsearch.swept", documents=deleted)


def _letter(line: Line, status: int, now_us: int) -> DeadLetter:
    organization_id, _, entry_id = line.id.partition(":")
    return DeadLetter(
        origin=line.origin,
        index=line.number,
        entry_id=entry_id,
        organization_id=organization_id,
        status=str(status),
        refused_us=now_us,
    )
