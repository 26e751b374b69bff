"""The embedded store: one SQLite file, written by its follower, read by any number of threads and processes."""

from __future__ import annotations

import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Self

from klyra_collector.store.quarantine_sqlite import QuarantineReader
from klyra_collector.store.reading import Reader
from klyra_collector.store.schema import connect, create, typed_errors
from klyra_collector.store.writing import Writer

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from klyra_collector.store.changes import Batch, Expiration, Ranges
    from klyra_collector.store.quarantined import (
        FoundQuarantined,
        QuarantineBacklog,
        QuarantineSearch,
        QuarantineSummary,
    )
    from klyra_collector.store.searching import Found, Search
    from klyra_collector.store.summarizing import Shape, Summary


class SqliteStore:
    """Satisfies `Store` and `QuarantineStore` for searches, and `FollowingStore` for its follower.

    Every reading thread has a connection of its own, every export another one, the follower's thread the only
    one that writes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._lock = threading.Lock()
        self._opened: list[sqlite3.Connection] = []
        self._writer: Writer | None = None

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the store, making the file if it does not exist.

        Raises:
            StoreBusy: the file is locked, or cannot be made.
            StoreDamaged: it is none of ours, or of another version.
        """
        create(path)
        return cls(path)

    def close(self) -> None:
        """Close all connections; no other thread may be using the store."""
        with self._lock:
            for connection in self._opened:
                connection.close()
            self._opened.clear()
            self._writer = None
            self._local = threading.local()

    def snapshot(self) -> Mapping[str, int]:
        """Return origin → size of what has been applied."""
        with typed_errors():
            return self._reader().snapshot()

    def search(self, search: Search, limit: int) -> list[Found]:
        """Return the first `limit` entries of a search, in its order."""
        with typed_errors():
            return list(self._reader().find(search, limit))

    def get(self, organization_id: str, entry_id: str, today: int) -> Found | None:
        """Return one entry of an organization, None if it has no such entry."""
        with typed_errors():
            return self._reader().get(organization_id, entry_id, today)

    @contextmanager
    def export(self, search: Search) -> Iterator[Iterator[Found]]:
        """Yield every entry of a search out of one read transaction."""
        with typed_errors():
            connection = connect(self._path, read_only=True)
            try:
                connection.execute("BEGIN")
                reader = Reader(connection)
                reader.snapshot()  # the first read fixes what the transaction sees
                with closing(reader.find(search, None)) as found:
                    yield found
            finally:
                connection.close()

    def summarize(self, search: Search, shape: Shape) -> Summary:
        """Return counts over the entries of a search, all of one moment."""
        with typed_errors():
            return self._reader().summarize(search, shape)

    def earliest_sealing_day(self, organization_id: str, today: int) -> int | None:
        """Return the earliest UTC day on which an entry that is still visible was sealed."""
        with typed_errors():
            return self._reader().earliest_sealing_day(organization_id, today)

    def quarantined(self, search: QuarantineSearch, limit: int) -> list[FoundQuarantined]:
        """Return the first `limit` quarantined inputs of a list, in its order."""
        with typed_errors():
            return self._quarantine().find(search, limit)

    def quarantined_one(self, organization_id: str, reference: str, today: int) -> FoundQuarantined | None:
        """Return one quarantined input of an organization, None if it has no such input."""
        with typed_errors():
            return self._quarantine().get(organization_id, reference, today)

    def quarantine_summary(self, search: QuarantineSearch, limit: int) -> QuarantineSummary:
        """Return counts over a list, up to `limit` sources and as many reasons."""
        with typed_errors():
            return self._quarantine().summary(search, limit)

    def quarantine_backlog(self, today: int) -> QuarantineBacklog:
        """Return what waits of all organizations."""
        with typed_errors():
            return self._quarantine().backlog(today)

    def check(self) -> None:
        """Return if a search would be answered now."""
        self.snapshot()

    @property
    def makes_documents(self) -> bool:
        """Whether it makes what it stores itself: it stores rows."""
        return False

    def cursor(self, origin: str) -> int:
        """Return the index of the next record of a shard to apply."""
        return self._writing().cursor(origin)

    def apply(self, batch: Batch) -> None:
        """Apply a batch and move the cursor to its end, in one transaction."""
        self._writing().apply(batch)

    def indexes(self, origin: str, org_ref: bytes, ranges: Ranges) -> list[int]:
        """Return the indexes of an organization's entries with `org_seq` in any of some inclusive ranges."""
        return self._writing().indexes(origin, org_ref, ranges)

    def expire(self, expiration: Expiration, limit: int) -> int:
        """Delete up to `limit` of the entries and quarantined inputs that an EXPIRY record names; return how many."""
        return self._writing().expire(expiration, limit)

    def shrink(self) -> bool:
        """Give some of the space that deleted entries left back to the system; return whether there is more."""
        return self._writing().shrink()

    def _quarantine(self) -> QuarantineReader:
        reader: QuarantineReader | None = getattr(self._local, "quarantine", None)
        if reader is None:
            reader = self._local.quarantine = QuarantineReader(self._connection(read_only=True))
        return reader

    def _reader(self) -> Reader:
        reader: Reader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = Reader(self._connection(read_only=True))
        return reader

    def _writing(self) -> Writer:
        if self._writer is None:
            with typed_errors():
                self._writer = Writer(self._connection(read_only=False))
        return self._writer

    def _connection(self, *, read_only: bool) -> sqlite3.Connection:
        connection = connect(self._path, read_only=read_only)
        with self._lock:
            self._opened.append(connection)
        return connection
