"""Sets of sequence numbers that arrive nearly in order: sorted, disjoint, inclusive intervals."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable


class IntervalSet:
    """Numbers seen so far. An emitter's gap-free sequence is one interval however long it runs."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    @classmethod
    def of(cls, intervals: Iterable[tuple[int, int]]) -> Self:
        """Return the set of some intervals as `intervals` gives them; ValueError if they are not ascending pairs."""
        made = cls()
        for first, last in intervals:
            if not (made._lasts[-1] if made._lasts else -1) < first <= last:
                raise ValueError("intervals are not ascending")
            made._firsts.append(first)
            made._lasts.append(last)
        return made

    def __contains__(self, number: int) -> bool:
        position = bisect_right(self._firsts, number) - 1
        return position >= 0 and number <= self._lasts[position]

    def add(self, number: int) -> None:
        """Add one number; adding it twice changes nothing."""
        firsts, lasts = self._firsts, self._lasts
        if lasts and number == lasts[-1] + 1:
            lasts[-1] = number
            return
        position = bisect_right(firsts, number)
        if position and number <= lasts[position - 1]:
            return
        joins_left = position > 0 and lasts[position - 1] == number - 1
        joins_right = position < len(firsts) and firsts[position] == number + 1
        if joins_left and joins_right:
            lasts[position - 1] = lasts.pop(position)
            del firsts[position]
        elif joins_left:
            lasts[position - 1] = number
        elif joins_right:
            firsts[position] = number
        else:
            firsts.insert(position, number)
            lasts.insert(position, number)

    def intervals(self) -> list[tuple[int, int]]:
        """Return the inclusive intervals, ascending."""
        return list(zip(self._firsts, self._lasts, strict=True))
