"""Quarantined input in the embedded store: its table, written within the follower's transactions, and its lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID, OPERATOR_REFERENCE
from klyra_collector.seal.expiry_facts import is_within
from klyra_collector.store.positions import Positions
from klyra_collector.store.quarantined import (
    FoundQuarantined,
    QuarantineBacklog,
    QuarantineRow,
    QuarantineSummary,
    ReasonCount,
    SourceCount,
)
from klyra_collector.store.searching import SortKey

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from klyra_collector.store.changes import Expiration, Extension
    from klyra_collector.store.quarantined import QuarantineFilters, QuarantineSearch, ReplayNote

# `position` orders records as (origin, index) does. The organization is known by its reference alone, since nothing
# else of it stands in a QUARANTINE record.
TABLES = """
CREATE TABLE quarantine (
    position INTEGER PRIMARY KEY,
    org_ref BLOB NOT NULL,
    reference TEXT NOT NULL,
    sealed_us INTEGER NOT NULL,
    expire_day INTEGER NOT NULL,
    sealing_day INTEGER NOT NULL,
    org_seq INTEGER NOT NULL,
    encoding TEXT NOT NULL,
    key_id TEXT,
    reason TEXT NOT NULL,
    pointer TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    size INTEGER NOT NULL,
    leaf BLOB NOT NULL,
    replayed_as TEXT
) STRICT;
CREATE UNIQUE INDEX quarantine_by_reference ON quarantine (org_ref, reference);
CREATE INDEX quarantine_by_time ON quarantine (org_ref, sealed_us);
CREATE INDEX quarantine_by_expire_day ON quarantine (org_ref, expire_day);
CREATE INDEX quarantine_waiting ON quarantine (sealed_us, expire_day) WHERE replayed_as IS NULL;
"""

_MARKS = ", ".join("?" * (len(QuarantineRow._fields)))
_INSERT = f"INSERT OR IGNORE INTO quarantine VALUES ({_MARKS}, NULL)"  # noqa: S608 - marks only
_REPLAYED = "UPDATE quarantine SET replayed_as = ? WHERE org_ref = ? AND reference = ? AND replayed_as IS NULL"
_EXTEND = (
    "UPDATE quarantine SET expire_day = max(expire_day, sealing_day + 1 + ?) "
    "WHERE org_ref = ? AND position BETWEEN ? AND ? AND org_seq BETWEEN ? AND ?"
)
_DUE = (
    "SELECT position, org_seq FROM quarantine WHERE org_ref = ? AND expire_day <= ? "
    "AND position BETWEEN ? AND ? ORDER BY position"
)
_NANOSECONDS = 1000  # of a microsecond
_KEPT = "org_ref = ? AND expire_day > ?"
_FIELDS = ", ".join(QuarantineRow._fields[1:])

_Condition = tuple[list[str], list[Any]]


class QuarantineWriter:
    """Writes over the follower's connection, inside its transactions."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def insert(self, positions: Positions, origin: str, rows: Sequence[QuarantineRow]) -> None:
        """Insert the records of a shard."""
        first = positions.of(origin, 0)
        self._connection.executemany(_INSERT, [(first | row.leaf_index, *row[1:]) for row in rows])

    def note_replays(self, replays: Sequence[ReplayNote]) -> None:
        """Note what records became; the first replay stays."""
        self._connection.executemany(_REPLAYED, [(note.entry_id, note.org_ref, note.reference) for note in replays])

    def extend(self, positions: Positions, extension: Extension) -> None:
        """Keep longer what an EXTEND record names."""
        span = positions.span(extension.origin)
        bounds = (extension.first_seq, extension.last_seq)
        self._connection.execute(_EXTEND, (extension.retention_days, extension.org_ref, *span, *bounds))

    def expire(self, positions: Positions, expiration: Expiration, limit: int) -> int:
        """Delete up to `limit` of what an EXPIRY record names; return how many."""
        span = positions.span(expiration.origin)
        due = self._connection.execute(_DUE, (expiration.org_ref, expiration.cutoff_day, *span))
        gone: list[tuple[int]] = []
        for position, sequence in due:
            if len(gone) == limit:
                break
            if not is_within(expiration.held, sequence):
                gone.append((position,))
        due.close()
        self._connection.executemany("DELETE FROM quarantine WHERE position = ?", gone)
        return len(gone)


class QuarantineReader:
    """Lists over one connection. Used by one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def find(self, search: QuarantineSearch, limit: int) -> list[FoundQuarantined]:
        """Return the first `limit` records of a list, in its order."""
        org_ref = self._reference(search.organization_id)
        if org_ref is None:
            return []
        positions = self._positions()
        clauses, values = _conditions(search.filters)
        if search.after is not None:
            after = (search.after.timestamp_ns // _NANOSECONDS, positions.of(search.after.origin, search.after.index))
            clauses.append(f"(sealed_us, position) {'<' if search.order == 'desc' else '>'} (?, ?)")
            values += after
        for origin, size in (search.snapshot or {}).items():
            clauses.append("NOT position BETWEEN ? AND ?")
            values += (positions.of(origin, size), positions.span(origin)[1])
        if search.snapshot is not None:
            known = [positions.span(origin) for origin in search.snapshot if origin in positions.numbers]
            clauses.append("(" + " OR ".join(["position BETWEEN ? AND ?"] * len(known) or ["0"]) + ")")
            values += [bound for span in known for bound in span]
        query = (
            f"SELECT position, {_FIELDS}, replayed_as FROM quarantine "  # noqa: S608 - our names and marks only
            f"WHERE {' AND '.join([_KEPT, *clauses])} "
            f"ORDER BY sealed_us {search.order}, position {search.order} LIMIT ?"
        )
        rows = self._connection.execute(query, (org_ref, search.today, *values, limit))
        return [_found(positions, row) for row in rows]

    def get(self, organization_id: str, reference: str, today: int) -> FoundQuarantined | None:
        """Return one record, None if the organization has no such record that is still kept."""
        query = f"SELECT position, {_FIELDS}, replayed_as FROM quarantine WHERE {_KEPT} AND reference = ?"  # noqa: S608 - as above
        row = self._connection.execute(query, (self._reference(organization_id), today, reference)).fetchone()
        return None if row is None else _found(self._positions(), row)

    def summary(self, search: QuarantineSearch, limit: int) -> QuarantineSummary:
        """Return counts over a list, the largest first."""
        clauses, values = _conditions(search.filters)
        where = " AND ".join([_KEPT, *clauses])
        parameters = (self._reference(search.organization_id), search.today, *values, limit)
        counts = "count(*) AS records, sum(replayed_as IS NULL)"
        sources = self._connection.execute(
            f"SELECT key_id, encoding, {counts}, max(sealed_us) FROM quarantine WHERE {where} "  # noqa: S608 - as above
            "GROUP BY key_id, encoding ORDER BY records DESC, key_id, encoding LIMIT ?",
            parameters,
        )
        reasons = self._connection.execute(
            f"SELECT pointer, reason, {counts} FROM quarantine WHERE {where} "  # noqa: S608 - as above
            "GROUP BY pointer, reason ORDER BY records DESC, pointer, reason LIMIT ?",
            parameters,
        )
        return QuarantineSummary(
            tuple(SourceCount(*row) for row in sources), tuple(ReasonCount(*row) for row in reasons)
        )

    def backlog(self, today: int) -> QuarantineBacklog:
        """Return what waits of all organizations."""
        row = self._connection.execute(
            "SELECT count(*), min(sealed_us) FROM quarantine WHERE replayed_as IS NULL AND expire_day > ?", (today,)
        ).fetchone()
        return QuarantineBacklog(*row)

    def _reference(self, organization_id: str) -> bytes | None:
        if organization_id == OPERATOR_ORGANIZATION_ID:
            return OPERATOR_REFERENCE
        row = self._connection.execute(
            "SELECT org_ref FROM organizations WHERE organization_id = ?", (organization_id,)
        ).fetchone()
        return None if row is None else bytes(row[0])

    def _positions(self) -> Positions:
        return Positions(dict(self._connection.execute("SELECT origin, number FROM origins")))


def _conditions(filters: QuarantineFilters) -> _Condition:
    clauses: list[str] = []
    values: list[Any] = []
    for clause, value in (("sealed_us >= ?", filters.start_us), ("sealed_us < ?", filters.end_us)):
        if value is not None:
            clauses.append(clause)
            values.append(value)
    for column, words in (("key_id", filters.key_ids), ("encoding", filters.encodings)):
        if words:
            clauses.append(f"{column} IN ({', '.join('?' * len(words))})")
            values += words
    if filters.pointer:
        clauses.append("substr(pointer, 1, ?) = ?")
        values += (len(filters.pointer), filters.pointer)
    if filters.state is not None:
        clauses.append(f"replayed_as IS {'NULL' if filters.state == 'waiting' else 'NOT NULL'}")
    return clauses, values


def _found(positions: Positions, row: tuple[Any, ...]) -> FoundQuarantined:
    position, *members, replayed_as = row
    origin, index = positions.place(position)
    found = QuarantineRow(index, *members)
    return FoundQuarantined(SortKey(found.sealed_us * _NANOSECONDS, origin, index), found, replayed_as)
