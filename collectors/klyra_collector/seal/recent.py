"""Which ids were sealed lately, and with what content, so that a repeat is recognised (DESIGN section 5).

One table a UTC day; today's and yesterday's are kept, or more as configured, so an id is recognised for at least 24
hours. The content is
remembered as an HMAC under a local key, never as a plain hash that could confirm a guess after erasure.

One file serves all shards. It is written lazily, after the commit: it says up to which leaf of each shard it is
complete, and what a crash took from it is read again from leaves and bodies.
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
    """Where an id was sealed first (the shard's name and the leaf's index), and the tag of its content."""

    shard: str
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
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS covered (shard TEXT PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID"
        )
        self._unwritten: dict[bytes, Seen] = {}
        self._day = day
        self._days: list[int] = []
        self._roll(day)

    def close(self) -> None:
        """Close the file; what was not flushed is read again at the next start."""
        self._connection.close()

    def covered(self, shard: str) -> int:
        """Return how many leaves of a shard have their ids in the file."""
        row = self._connection.execute("SELECT size FROM covered WHERE shard = ?", (shard,)).fetchone()
        return int(row[0]) if row else 0

    @property
    def day(self) -> int:
        """The day whose ids are noted now."""
        return self._day

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
                found.update((key, Seen(shard, leaf, tag)) for key, shard, leaf, tag in rows)
        return found

    def remember(self, key: bytes, seen: Seen) -> None:
        """Note an id of today; `flush` writes it."""
        self._unwritten[key] = seen

    def forget_unwritten(self) -> None:
        """Forget what was noted since the last flush, because its commit failed."""
        self._unwritten.clear()

    def flush(self, shard: str, size: int, day: int) -> None:
        """Write what was noted, say that `size` leaves of a shard are covered, and start a new day's table."""
        rows = sorted((key, seen.shard, seen.leaf, seen.tag) for key, seen in self._unwritten.items())
        self._connection.execute("BEGIN")
        self._connection.executemany(_INSERT.format(self._day), rows)
        self._connection.execute("INSERT OR REPLACE INTO covered VALUES (?, ?)", (shard, size))
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
    "CREATE TABLE IF NOT EXISTS ids_{} "
    "(key BLOB PRIMARY KEY, shard TEXT NOT NULL, leaf INTEGER NOT NULL, tag BLOB NOT NULL) WITHOUT ROWID"
)
_FIND = "SELECT key, shard, leaf, tag FROM ids_{} WHERE key IN ({})"
_INSERT = "INSERT OR REPLACE INTO ids_{} VALUES (?, ?, ?, ?)"
