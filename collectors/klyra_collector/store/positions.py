"""One number for a place in the ledgers: `position` orders as (origin, index) does (DESIGN section 7, sort key).

Its high bits are a number given to the origin when it is first met, with room left so that origins met later fall
between; its low 40 bits are the index, more than a year of leaves can need.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from klyra_audit.errors import Halted

if TYPE_CHECKING:
    from collections.abc import Mapping

INDEX_BITS = 40
_INDEX_MASK = (1 << INDEX_BITS) - 1
_NUMBERS = 1 << (63 - INDEX_BITS)  # a position is a signed 64-bit number
_ROOM = 1 << 12


class NoRoom(Halted):
    """So many origins lie between two others that no number is left between theirs."""

    code = "store_origins_full"


@dataclass(frozen=True, slots=True)
class Positions:
    """The numbers of the origins that a store knows."""

    numbers: Mapping[str, int]

    def of(self, origin: str, index: int) -> int:
        """Return the position of a place; for an unknown origin one that lies where its entries would."""
        number = self.numbers.get(origin)
        if number is not None:
            return number << INDEX_BITS | index
        above = min((self.numbers[name] for name in self.numbers if name > origin), default=_NUMBERS)
        return (above << INDEX_BITS) - 1

    def place(self, position: int) -> tuple[str, int]:
        """Return the origin and index of a position."""
        number = position >> INDEX_BITS
        origin = next(name for name, known in self.numbers.items() if known == number)
        return origin, position & _INDEX_MASK

    def span(self, origin: str) -> tuple[int, int]:
        """Return the first and last position of an origin."""
        first = self.of(origin, 0)
        return first, first | _INDEX_MASK

    def number_for(self, origin: str) -> int:
        """Return the number to give to an origin that is not known yet; `NoRoom` if there is none."""
        names = sorted(self.numbers)
        place = bisect_left(names, origin)
        below = self.numbers[names[place - 1]] if place else None
        above = self.numbers[names[place]] if place < len(names) else None
        number = _between(below, above)
        if not 0 < number < _NUMBERS or number in (below, above):
            raise NoRoom(
                f"The store has no room for the origin {origin} among its {len(names)} others.",
                remedy="Stop the server and delete store.sqlite: the next start builds it again from the ledger.",
            )
        return number


def _between(below: int | None, above: int | None) -> int:
    if below is None:
        return _NUMBERS // 2 if above is None else above - _ROOM
    return below + _ROOM if above is None else (below + above) // 2
