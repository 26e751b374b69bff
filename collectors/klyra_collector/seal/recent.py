"""Which ids were sealed lately, and with what content, so that a repeat is recognised (DESIGN section 5).

One table a UTC day; today's and yesterday's are kept, or more as configured, so an id is recognised for at least 24
hours. The content is
remembered as an HMAC under a local key, never as a plain hash that could confirm a guess after erasure.

The file is written lazily, after the commit: it says up to which leaf it is complete, and what a crash took from
it is read again from leaves and bodies.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LEAST_DAYS = 2  # today and yesterday: at least 24 hours

_KEYS_PER_QUERY = 512


class Seen(NamedTuple):
    """Where an id was sealed first (the leaf's index), and the tag of its content."""

    leaf: int
    tag: bytes


class RecentIds:
    """Ids of the last `days` UTC days. Owned by the sealing thread."""

    def __init__(self, path: Path, day: int, days: int = LEAST_DAYS) -> None:
        self._kept = days
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # A lost tail is read again from the ledger, so no commit of this file needs to reach the disk at once.
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute("CREATE TABLE IF NOT EXISTS covered (size INTEGER NOT NULL)")
        self._unwritten: dict[bytes, Seen] = {}
        self._day = day
        self._days: list[int] = []
        self._roll(day)

    def close(self) -> None:
        """Close the file; what was not flushed is read again at the next start."""
        self._connection.close()

    @property
    def covered(self) -> int:
        """Number of leaves whose ids are in the file."""
        row = self._connection.execute("SELECT max(size) FROM covered").fetchone()
        return int(row[0] or 0)

    @property
    def first_day(self) -> int:
        """The oldest day whose ids are kept."""
        return self._day - self._kept + 1

    def find_unwritten(self, key: bytes) -> Seen | None:
        """Return where an id was sealed since the last flush."""
        return self._unwritten.get(key)

    def find_all(self, keys: Sequence[bytes]) -> dict[bytes, Seen]:
        """Return, of the ids of `keys` that were flushed, where each was sealed."""
        found: dict[bytes, Seen] = {}
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            some = keys[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(some))
            for day in self._days:
                rows = self._connection.execute(_FIND.format(day, marks), some)
                found.update((key, Seen(leaf, tag)) for key, leaf, tag in rows)
        return found

    def remember(self, key: bytes, seen: Seen) -> None:
        """Note an id of today; `flush` writes it."""
        self._unwritten[key] = seen

    def forget_unwritten(self) -> None:
        """Forget what was noted since the last flush, because its commit failed."""
        self._unwritten.clear()

    def flush(self, size: int, day: int) -> None:
        """Write what was noted and say that the file is complete up to `size` leaves; start a new day's table."""
        rows = sorted((key, seen.leaf, seen.tag) for key, seen in self._unwritten.items())
        self._connection.execute("BEGIN")
        self._connection.executemany(_INSERT.format(self._day), rows)
        self._connection.execute("DELETE FROM covered")
        self._connection.execute("INSERT INTO covered VALUES (?)", (size,))
        self._connection.execute("COMMIT")
        self._unwritten.clear()
        if day != self._day:
            self._roll(day)

    def _roll(self, day: int) -> None:
        self._day = day
        self._connection.execute(_CREATE.format(day))
        names = self._connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'ids_%'"
        ).fetchall()
        days = sorted((int(name.removeprefix("ids_")) for (name,) in names), reverse=True)
        for old in days:
            if old < self.first_day:
                self._connection.execute(f"DROP TABLE ids_{old}")
        self._days = [kept for kept in days if kept >= self.first_day]


_CREATE = (
    "CREATE TABLE IF NOT EXISTS ids_{} (key BLOB PRIMARY KEY, leaf INTEGER NOT NULL, tag BLOB NOT NULL) WITHOUT ROWID"
)
_FIND = "SELECT key, leaf, tag FROM ids_{} WHERE key IN ({})"
_INSERT = "INSERT OR REPLACE INTO ids_{} VALUES (?, ?, ?)"
