"""From when on to deliver again: the first record that was sealed at a time or later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klyra_audit.errors import Rejected
from klyra_collector.fanout.cursor import Cursor

if TYPE_CHECKING:
    from klyra_collector.seal.reader import LedgerReader


class NothingToReplay(Rejected):
    """There is no such place, or the destination has not come that far."""

    code = "nothing_to_replay"


def place_at(reader: LedgerReader, sealed_us: int) -> Cursor:
    """Return the first record sealed at a time or later.

    Args:
        reader: of the ledger.
        sealed_us: microseconds since 1970.

    Raises:
        NothingToReplay: nothing was sealed since.
    """
    for origin in reader.origins():
        first, end = 0, reader.committed(origin)
        size = end
        while first < end:  # times of sealing never go back in a ledger
            middle = (first + end) // 2
            (record,) = reader.read(origin, middle, 1)
            first, end = (first, middle) if record.leaf.ingest_us >= sealed_us else (middle + 1, end)
        if first < size:
            return Cursor(origin, first)
    raise NothingToReplay("Nothing was sealed since then.", remedy="Name an earlier time.")


def check_place(reader: LedgerReader, place: Cursor, stands: Cursor | None) -> None:
    """Return if a destination can go back to a place.

    Raises:
        NothingToReplay: there is no such record, or the destination has not come that far: to go forward would leave
            entries out.
    """
    origins = reader.origins()
    if place.origin not in origins or not 0 <= place.index <= reader.committed(place.origin):
        raise NothingToReplay(
            f"There is no record {place.index} of {place.origin}.",
            remedy=f"The shards are {', '.join(origins) or 'none yet'}.",
        )
    if stands is None or _order(origins, place) > _order(origins, stands):
        raise NothingToReplay(
            "The destination has not come that far: what is between would be left out.",
            remedy="Name an earlier place; klyra-audit destination list says where it stands.",
        )


def _order(origins: list[str], place: Cursor) -> tuple[int, int]:
    return (origins.index(place.origin) if place.origin in origins else -1), place.index
