"""The reading side of the embedded store: a search in its tables, over one connection."""

from __future__ import annotations

import heapq
from itertools import islice
from typing import TYPE_CHECKING

from klyra_collector.store import statements
from klyra_collector.store.positions import Positions
from klyra_collector.store.rows import clamped
from klyra_collector.store.schema import WORD_COLUMNS
from klyra_collector.store.searching import Found, SortKey
from klyra_collector.store.statements import Conditions
from klyra_collector.store.summarizing import NOTHING
from klyra_collector.store.summary_sqlite import Summarizer

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Generator, Mapping

    from klyra_collector.store.searching import Filters, Search
    from klyra_collector.store.statements import Value
    from klyra_collector.store.summarizing import Shape, Summary

# So many index entries are counted at most to choose a driver: well under a millisecond for each filter.
_PROBE = 2000
_Row = tuple[int, int, bytes, bytes]


class Reader:
    """Searches over one connection. Used by one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def snapshot(self) -> Mapping[str, int]:
        """Return origin → size of what has been applied."""
        return dict(self._connection.execute("SELECT origin, next_index FROM origins ORDER BY origin"))

    def find(self, search: Search, limit: int | None) -> Generator[Found, None, None]:
        """Yield the entries of a search, the first `limit` or all, in its order."""
        positions = self._positions()
        conditions = self._conditions(search, positions)
        if conditions is None:
            return
        arms = [
            self._connection.execute(statement.sql, statement.parameters)
            for statement in statements.selects(conditions, self._driver(conditions), limit)
        ]
        merged = heapq.merge(*arms, key=_sort_key, reverse=search.order == "desc")
        try:
            for row in islice(merged, limit):
                yield _found(positions, row)
        finally:
            # A statement that is not at its end would hold this connection at what it sees now.
            for arm in arms:
                arm.close()

    def summarize(self, search: Search, shape: Shape) -> Summary:
        """Return counts over the entries of a search, all of one moment."""
        self._connection.execute("BEGIN")
        try:
            conditions = self._conditions(search, self._positions())
            if conditions is None:
                return NOTHING
            return Summarizer(self._connection, conditions, self._driver(conditions)).summarize(shape)
        finally:
            self._connection.execute("ROLLBACK")

    def get(self, organization_id: str, entry_id: str, today: int) -> Found | None:
        """Return one entry of an organization that is not past its expiry."""
        row = self._connection.execute(
            "SELECT position, timestamp, leaf, entry FROM entries WHERE id = ? AND shown = 1 AND expire_day > ? "
            "AND organization = (SELECT number FROM organizations WHERE organization_id = ?)",
            (entry_id, today, organization_id),
        ).fetchone()
        return None if row is None else _found(self._positions(), row)

    def earliest_sealing_day(self, organization_id: str, today: int) -> int | None:
        """Return the earliest day on which an entry that is still visible was sealed."""
        (day,) = self._connection.execute(
            "SELECT min(sealing_day) FROM kept_days WHERE expire_day > ? "
            "AND organization = (SELECT number FROM organizations WHERE organization_id = ?)",
            (today, organization_id),
        ).fetchone()
        return None if day is None else int(day)

    def _conditions(self, search: Search, positions: Positions) -> Conditions | None:
        """Return the search in the store's numbers; None if nothing here can match."""
        organization = self._connection.execute(
            "SELECT number FROM organizations WHERE organization_id = ?", (search.organization_id,)
        ).fetchone()
        columns = self._columns(search.filters)
        if organization is None or columns is None:
            return None
        after = search.after
        return Conditions(
            organization=organization[0],
            today=search.today,
            order=search.order,
            columns=columns,
            client_ip=search.filters.client_ip,
            low=_clamped(search.filters.start_ns),
            high=_clamped(search.filters.end_ns),
            after=None if after is None else (after.timestamp_ns, positions.of(after.origin, after.index)),
            below=_below(search, positions),
        )

    def _columns(self, filters: Filters) -> dict[str, list[Value]] | None:
        """Return filtered column → values; None if a filter names only words that no entry has."""
        asked = {
            "event_type": filters.event_types,
            "actor_type": filters.actor_types,
            "actor_id": filters.actor_ids,
            "resource_type": filters.resource_types,
            "resource_id": filters.resource_ids,
            "action": filters.actions,
            "status": filters.status,
        }
        columns: dict[str, list[Value]] = {}
        for column, texts in asked.items():
            if not texts:
                continue
            columns[column] = self._numbers(texts) if column in WORD_COLUMNS else list(texts)
            if not columns[column]:
                return None
        return columns

    def _numbers(self, words: tuple[str, ...]) -> list[Value]:
        marks = ", ".join("?" * len(words))
        query = f"SELECT number FROM words WHERE word IN ({marks})"  # noqa: S608 - marks only
        return [number for (number,) in self._connection.execute(query, words)]

    def _driver(self, conditions: Conditions) -> str | None:
        """Return the filtered column whose index leaves the fewest entries to look at."""
        found = statements.candidates(conditions)
        blocks = conditions.client_ip is not None and conditions.client_ip.low != conditions.client_ip.high
        if len(found) == 1 and not blocks:
            return found[0]
        counts = {column: self._probe(conditions, column) for column in found}
        if blocks and counts["client_ip"] >= _PROBE:
            del counts["client_ip"]  # its index is ordered by address: too many to sort by time
        return min(counts, key=counts.__getitem__, default=None)

    def _probe(self, conditions: Conditions, column: str) -> int:
        total = 0
        values: list[Value | None] = [*conditions.columns.get(column, [])] or [None]
        for value in values:
            statement = statements.count(conditions, column, value, _PROBE - total)
            total += self._connection.execute(statement.sql, statement.parameters).fetchone()[0]
            if total >= _PROBE:
                break
        return total

    def _positions(self) -> Positions:
        return Positions(dict(self._connection.execute("SELECT origin, number FROM origins")))


def _clamped(nanoseconds: int | None) -> int | None:
    return None if nanoseconds is None else clamped(nanoseconds)


def _below(search: Search, positions: Positions) -> list[tuple[int, int]] | None:
    if search.snapshot is None:
        return None
    return [
        (positions.of(origin, 0), positions.of(origin, size))
        for origin, size in search.snapshot.items()
        if origin in positions.numbers
    ]


def _sort_key(row: _Row) -> tuple[int, int]:
    return row[1], row[0]


def _found(positions: Positions, row: _Row) -> Found:
    position, timestamp, leaf, entry = row
    return Found(SortKey(timestamp, *positions.place(position)), leaf, entry)
