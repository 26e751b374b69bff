"""Counts over the entries of a search in the embedded store: one pass over an index for each kind of count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from klyra_audit.timestamps import NANOSECONDS
from klyra_collector.store import statements
from klyra_collector.store.addresses import text_of
from klyra_collector.store.searching import AddressRange
from klyra_collector.store.summarizing import NOTHING, TOP_NAMES, Frequent, Summary, interval_for, spread

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from klyra_collector.store.statements import Conditions, Value
    from klyra_collector.store.summarizing import Shape

_WORDS: Final = {
    "event_types": "event_type",
    "actor_types": "actor_type",
    "resource_types": "resource_type",
    "actions": "action",
    "status": "status",
}
# The second of a timestamp: SQLite divides towards zero, which would mix up what lies before 1970; and nanoseconds from
# one end of time to the other are more than 64 bits.
_SECOND: Final = f"(timestamp / {NANOSECONDS} - (timestamp % {NANOSECONDS} < 0))"
_TEXTS: Final = {"actor_ids": "actor_id", "resource_ids": "resource_id"}


@dataclass(frozen=True, slots=True)
class Summarizer:
    """Counts over one connection, in a transaction of whoever calls.

    Attributes:
        connection: to the store.
        conditions: of the search.
        driver: the column whose index is walked; None walks all of the organization's.
    """

    connection: sqlite3.Connection
    conditions: Conditions
    driver: str | None

    def summarize(self, shape: Shape) -> Summary:
        """Return the counts."""
        ((total, first, last),) = self._select("count(*), min(timestamp), max(timestamp)")
        if not total:
            return NOTHING
        interval = interval_for(first, last, shape.buckets)
        return Summary(
            total=total,
            first_ns=first,
            last_ns=last,
            interval_ns=interval,
            buckets=spread(self._over_time(first, interval), first, last, interval),
            top={name: self._top(name, shape.top) for name in TOP_NAMES},
        )

    def _over_time(self, first: int, interval: int) -> dict[tuple[int, str], int]:
        start, length = first // interval * interval // NANOSECONDS, interval // NANOSECONDS
        rows = self._select(f"({_SECOND} - ?) / ?, status, count(*)", (start, length), "GROUP BY 1, 2")
        return {(bucket, self._word(status)): count for bucket, status, count in rows}

    def _top(self, name: str, limit: int) -> tuple[Frequent, ...]:
        if not limit:
            return ()
        if name in _WORDS:
            # Few are distinct, and only their texts know their order.
            rows = self._select(f"{_WORDS[name]}, count(*)", tail="GROUP BY 1")
            found = [Frequent(self._word(number), count) for number, count in rows]
            return tuple(sorted(found, key=lambda one: (-one.entries, one.value))[:limit])
        column = _TEXTS.get(name, "client_ip")
        frequent = f"GROUP BY 1 HAVING {column} IS NOT NULL ORDER BY 2 DESC, 1 LIMIT {limit}"
        rows = self._select(f"{column}, count(*)", tail=frequent)
        return tuple(Frequent(value if name in _TEXTS else _address(value), count) for value, count in rows)

    def _word(self, number: int) -> str:
        ((word,),) = self.connection.execute("SELECT word FROM words WHERE number = ?", (number,))
        return str(word)

    def _select(self, what: str, before: Sequence[Value] = (), tail: str = "") -> list[tuple[Any, ...]]:
        statement = statements.aggregate(self.conditions, self.driver, what, tail)
        return self.connection.execute(statement.sql, (*before, *statement.parameters)).fetchall()


def _address(key: bytes) -> str:
    return text_of(AddressRange(key, key))
