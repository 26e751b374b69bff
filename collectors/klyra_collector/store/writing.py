"""The writing side of the embedded store: batches with their cursor in one transaction, and retention."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

import structlog

from klyra_collector.seal.expiry_facts import is_within
from klyra_collector.store.positions import Positions
from klyra_collector.store.quarantine_sqlite import QuarantineWriter
from klyra_collector.store.schema import INCREMENTAL, typed_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from klyra_collector.store.changes import Batch, Expiration, Extension, Ranges
    from klyra_collector.store.rows import Row

_COLUMNS = (
    "position",
    "organization",
    "id",
    "shown",
    "timestamp",
    "event_type",
    "actor_type",
    "actor_id",
    "resource_type",
    "resource_id",
    "action",
    "status",
    "client_ip",
    "expire_day",
    "sealing_day",
    "org_seq",
    "leaf",
    "entry",
)
_SHOWN = _COLUMNS.index("shown")
_INSERT = f"INSERT INTO entries ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608 - names
_INSERT_UNLESS_REPEATED = f"{_INSERT} ON CONFLICT (organization, id) WHERE shown = 1 DO NOTHING"
_ERASE = (
    "UPDATE entries SET actor_id = ?, resource_id = ?, client_ip = ?, entry = ? WHERE position = ? AND organization = ?"
)
_EXTENDED = "organization = ? AND position BETWEEN ? AND ? AND org_seq BETWEEN ? AND ?"
_NAMED = f"SELECT position FROM entries WHERE {_EXTENDED} ORDER BY position"  # noqa: S608 - as above
_EXTEND = f"UPDATE entries SET expire_day = max(expire_day, sealing_day + 1 + ?) WHERE {_EXTENDED}"  # noqa: S608 - as above
_KEEP = "INSERT OR IGNORE INTO kept_days (organization, expire_day, sealing_day)"
_KEEP_DAY = f"{_KEEP} VALUES (?, ?, ?)"
_KEEP_EXTENDED = f"{_KEEP} SELECT DISTINCT organization, expire_day, sealing_day FROM entries WHERE {_EXTENDED}"  # noqa: S608 - as above
_DUE = (
    "SELECT position, expire_day, org_seq, id, shown FROM entries INDEXED BY entries_by_expire_day "
    "WHERE organization = ? AND expire_day BETWEEN ? AND ? AND (expire_day > ? OR position > ?) "
    "AND position BETWEEN ? AND ? ORDER BY expire_day, position LIMIT ?"
)
_DELETE = "DELETE FROM entries WHERE position = ?"
_SHOW_NEXT = (
    "UPDATE entries SET shown = 1 WHERE position = "
    "(SELECT min(position) FROM entries WHERE organization = ? AND id = ? AND shown = 0)"
)

_DUE_AT_ONCE = 1000
_PAGES_AT_ONCE = 128

_log = structlog.get_logger(__name__)

_Values = tuple[object, ...]
_Due = tuple[int, int, int, str, int]  # position, expire_day, org_seq, id, shown


class Writer:
    """Applies batches over one connection. Used by one thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._quarantine = QuarantineWriter(connection)
        self._words: dict[str, int] = {}
        self._organizations: dict[str, int] = {}
        self._looked_through: tuple[Expiration, tuple[int, int]] | None = None
        self._stays_as_it_is = False

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def cursor(self, origin: str) -> int:
        """Return the index of the next record of a shard to apply."""
        with typed_errors():
            row = self._connection.execute("SELECT next_index FROM origins WHERE origin = ?", (origin,)).fetchone()
        return int(row[0]) if row else 0

    def apply(self, batch: Batch) -> None:
        """Apply a batch that starts at the cursor, and move the cursor; any other changes nothing."""
        with self._transaction():
            if self.cursor(batch.origin) != batch.start:
                return
            positions = self._met(batch.origin)
            self._insert(positions, batch.origin, batch.rows)
            self._quarantine.insert(positions, batch.origin, batch.quarantined)
            self._quarantine.note_replays(batch.replays)
            for extension in batch.extensions:
                self._extend(positions, extension)
            for origin, row in batch.erased:
                self._erase(positions.of(origin, row.leaf_index), row)
            self._connection.execute("UPDATE origins SET next_index = ? WHERE origin = ?", (batch.end, batch.origin))

    def indexes(self, origin: str, org_ref: bytes, ranges: Ranges) -> list[int]:
        """Return the indexes of an organization's entries with `org_seq` in any of some inclusive ranges."""
        with typed_errors():
            positions = self._positions()
            organization = self._organization_of(org_ref)
            if organization is None or origin not in positions.numbers:
                return []
            found: list[int] = []
            for bounds in ranges:
                rows = self._connection.execute(_NAMED, (organization, *positions.span(origin), *bounds))
                found += [positions.place(position)[1] for (position,) in rows]
        return found

    def expire(self, expiration: Expiration, limit: int) -> int:
        """Delete up to `limit` of the entries and quarantined inputs that an EXPIRY record names; return how many."""
        with self._transaction():
            positions = self._positions()
            if expiration.origin not in positions.numbers:
                return 0
            inputs = self._quarantine.expire(positions, expiration, limit)
            gone = self._expire_entries(positions, expiration, limit - inputs)
        is_cut = 0 < len(gone) == limit - inputs
        self._looked_through = (expiration, (gone[-1][1], gone[-1][0])) if is_cut else None
        return inputs + len(gone)

    def _expire_entries(self, positions: Positions, expiration: Expiration, limit: int) -> list[_Due]:
        organization = self._organization_of(expiration.org_ref)
        if organization is None or not limit:
            return []
        gone = list(islice(self._named(positions, organization, expiration), limit))
        self._connection.executemany(_DELETE, [(row[0],) for row in gone])
        self._connection.executemany(_SHOW_NEXT, [(organization, id_) for _, _, _, id_, shown in gone if shown])
        if len(gone) < limit:
            self._connection.execute(
                "DELETE FROM kept_days WHERE organization = ? AND expire_day <= ?",
                (organization, expiration.cutoff_day),
            )
        return gone

    def shrink(self) -> bool:
        """Give some free pages back to the system; return whether there are more.

        A file made by an earlier version cannot, until it is written anew; that is done once, when it has free pages.
        """
        with typed_errors():
            (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
            if not free or self._stays_as_it_is:
                return False
            if self._connection.execute("PRAGMA auto_vacuum").fetchone() != (INCREMENTAL,):
                self._write_anew()
                return False
            # `execute` would stop after the first page: it steps a statement without columns only once.
            self._connection.executescript(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})")
            if free <= _PAGES_AT_ONCE:
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()  # which cuts the file itself
            return bool(free > _PAGES_AT_ONCE)

    def _write_anew(self) -> None:
        _log.info("store.written_anew", reason="it was made by an earlier version and cannot shrink otherwise")
        try:
            self._connection.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
            self._connection.execute("VACUUM")
        except sqlite3.OperationalError as error:
            self._stays_as_it_is = True
            _log.warning("store.does_not_shrink", reason=str(error), remedy="It goes on; free disk space, restart.")

    def _named(self, positions: Positions, organization: int, expiration: Expiration) -> Iterator[_Due]:
        """Yield what an EXPIRY record names, from where its last batch ended."""
        day, position = 0, -1
        if self._looked_through is not None and self._looked_through[0] == expiration:
            day, position = self._looked_through[1]
        span = positions.span(expiration.origin)
        while True:
            found: list[_Due] = self._connection.execute(
                _DUE, (organization, day, expiration.cutoff_day, day, position, *span, _DUE_AT_ONCE)
            ).fetchall()
            for row in found:
                if not is_within(expiration.held, row[2]):
                    yield row
            if len(found) < _DUE_AT_ONCE:
                return
            position, day = found[-1][:2]

    def _insert(self, positions: Positions, origin: str, rows: Sequence[Row]) -> None:
        first = positions.of(origin, 0)
        values = [self._values(first, row) for row in rows]
        before = self._connection.total_changes
        self._connection.executemany(_INSERT_UNLESS_REPEATED, values)
        if self._connection.total_changes - before < len(values):
            self._insert_repeats(values)
        days = {(self._organizations[row.organization_id], row.expire_day, row.sealing_day) for row in rows}
        self._connection.executemany(_KEEP_DAY, days)

    def _insert_repeats(self, values: Sequence[_Values]) -> None:
        """Insert, unseen, what the organization has under the same id already."""
        for row in values:
            known = self._connection.execute("SELECT 1 FROM entries WHERE position = ?", (row[0],)).fetchone()
            if known is None:
                self._connection.execute(_INSERT, (*row[:_SHOWN], 0, *row[_SHOWN + 1 :]))

    def _values(self, first: int, row: Row) -> _Values:
        word = self._word
        return (
            first | row.leaf_index,
            self._organization(row.organization_id, row.org_ref),
            row.id,
            1,
            row.timestamp_ns,
            word(row.event_type),
            word(row.actor_type),
            row.actor_id,
            word(row.resource_type),
            row.resource_id,
            word(row.action),
            word(row.status),
            row.client_ip,
            row.expire_day,
            row.sealing_day,
            row.org_seq,
            row.leaf,
            row.entry,
        )

    def _extend(self, positions: Positions, extension: Extension) -> None:
        if extension.origin not in positions.numbers:
            return
        self._quarantine.extend(positions, extension)
        organization = self._organization_of(extension.org_ref)
        if organization is None:
            return
        which = (
            organization,
            *positions.span(extension.origin),
            extension.first_seq,
            extension.last_seq,
        )
        self._connection.execute(_EXTEND, (extension.retention_days, *which))
        self._connection.execute(_KEEP_EXTENDED, which)

    def _erase(self, position: int, row: Row) -> None:
        organization = self._organization(row.organization_id, row.org_ref)
        values = (row.actor_id, row.resource_id, row.client_ip, row.entry, position, organization)
        self._connection.execute(_ERASE, values)

    def _met(self, origin: str) -> Positions:
        """Return the known positions, after giving a number to an origin met for the first time."""
        positions = self._positions()
        if origin in positions.numbers:
            return positions
        self._connection.execute(
            "INSERT INTO origins (number, origin, next_index) VALUES (?, ?, 0)",
            (positions.number_for(origin), origin),
        )
        return self._positions()

    def _positions(self) -> Positions:
        return Positions(dict(self._connection.execute("SELECT origin, number FROM origins")))

    def _word(self, word: str) -> int:
        number = self._words.get(word)
        if number is None:
            number = self._words[word] = self._numbered("words", "word", word)
        return number

    def _organization(self, organization_id: str, org_ref: bytes) -> int:
        number = self._organizations.get(organization_id)
        if number is None:
            self._connection.execute(
                "INSERT OR IGNORE INTO organizations (organization_id, org_ref) VALUES (?, ?)",
                (organization_id, org_ref),
            )
            number = self._organizations[organization_id] = self._number(
                "organizations", "organization_id", organization_id
            )
        return number

    def _organization_of(self, org_ref: bytes) -> int | None:
        row = self._connection.execute("SELECT number FROM organizations WHERE org_ref = ?", (org_ref,)).fetchone()
        return int(row[0]) if row else None

    def _numbered(self, table: str, column: str, text: str) -> int:
        self._connection.execute(f"INSERT OR IGNORE INTO {table} ({column}) VALUES (?)", (text,))  # noqa: S608 - our names
        return self._number(table, column, text)

    def _number(self, table: str, column: str, text: str) -> int:
        query = f"SELECT number FROM {table} WHERE {column} = ?"  # noqa: S608 - our names
        return int(self._connection.execute(query, (text,)).fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit what the block does, or undo all of it."""
        with typed_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._undo()
                raise

    def _undo(self) -> None:
        self._words.clear()  # numbers given in the undone transaction are not in the tables
        self._organizations.clear()
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
