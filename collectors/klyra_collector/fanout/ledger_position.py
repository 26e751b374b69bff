"""Where a cursor may stand in a ledger of several shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from klyra_audit.errors import Halted
from klyra_collector.fanout.cursor import Cursor
from klyra_collector.seal.reader import shard_order

if TYPE_CHECKING:
    from klyra_collector.seal.reader import LedgerReader


class LedgerBehindDestination(Halted):
    """The ledger is another one, or shorter than what was delivered of it."""

    code = "ledger_behind_destination"


class LedgerPosition:
    """Goes from shard to shard, oldest first. Shares its reader with one `EntrySource`."""

    def __init__(self, reader: LedgerReader, *, from_end: bool = False) -> None:
        """Prepare to look.

        Args:
            reader: of the ledger.
            from_end: a destination without a cursor begins behind what is sealed, else with the oldest record.
        """
        self._reader = reader
        self._from_end = from_end

    def first(self) -> Cursor | None:
        """Return where a new destination begins; None while there are no records."""
        origins = self._reader.origins()
        if not origins:
            return None
        if self._from_end:
            return Cursor(origins[-1], self._reader.committed(origins[-1]))
        return Cursor(origins[0], 0)

    def checked(self, cursor: Cursor) -> Cursor:
        """Return the cursor, or the beginning of the oldest shard after its own if that was dropped as expired.

        Raises:
            LedgerBehindDestination: this ledger cannot be the one that the cursor was moved along.
        """
        origins = self._reader.origins()
        if cursor.origin not in origins:
            return _after_dropped(cursor, origins)
        committed = self._reader.committed(cursor.origin)
        end = cursor.pending[-1].end if cursor.pending else cursor.index
        if end <= committed:
            return cursor
        if self._reader.left_behind(cursor.origin):  # what the disaster took from the ledger was delivered before
            return Cursor(cursor.origin, min(cursor.index, committed))
        raise _behind(cursor, f"has only {committed} records")

    def after(self, cursor: Cursor) -> Cursor | None:
        """Return the beginning of the next shard if a cursor stands at its own shard's end; None if it goes on there.

        A shard that another follows never grows again: the next one is looked for first, the size second.
        """
        origins = self._reader.origins()
        position = origins.index(cursor.origin) + 1
        if position == len(origins) or self._reader.committed(cursor.origin) > cursor.index:
            return None
        return Cursor(origins[position], 0)


def _after_dropped(cursor: Cursor, origins: list[str]) -> Cursor:
    log, _, shard = cursor.origin.rpartition("/")
    if not shard[:1].isdigit():
        raise _behind(cursor, "is no shard")
    place = shard_order(Path(shard))
    for origin in origins:
        other, _, name = origin.rpartition("/")
        if other == log and shard_order(Path(name)) > place:
            return Cursor(origin, 0)
    raise _behind(cursor, "is not there")


def _behind(cursor: Cursor, problem: str) -> LedgerBehindDestination:
    return LedgerBehindDestination(
        f"Everything before record {cursor.index} of {cursor.origin} was delivered, but it {problem}.",
        remedy="Restore the newest ledger; or delete the cursor file, and everything still kept is delivered again.",
    )
