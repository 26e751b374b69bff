"""Judge the order in which frames stand in a file, and what its damaged places once held. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from klyra_collector.verify.filing import Complaint
from klyra_collector.verify.verdicts import Problem, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from klyra_collector.verify.filing import FrameReport, Moved
    from klyra_collector.verify.walk import Damage


NO_DAY: Final = 1 << 32  # later than every day
MOVED_TWICE: Final = "its content stands here a second time, while it stands where it was before, too"


class Seen(Protocol):
    """Remembers whose content was seen."""

    def see(self, index: int) -> bool:
        """Note a record; return whether it had been seen before."""
        ...


@dataclass(slots=True)
class Gap:
    """A damaged place in a file, and the indexes of the frames around it: -1 in front of the first.

    Attributes:
        damage: the bytes.
        after: index of the frame before it.
        at_end: no frame follows.
    """

    damage: Damage
    after: int
    at_end: bool = True


class FileOrder:
    """Follows the frames of one file from its beginning to its end.

    Args:
        seen: of whom.
        sealed_on: returns the UTC day on which a record was sealed.

    Attributes:
        gaps: its damaged places, in their order.
    """

    def __init__(self, seen: Seen, sealed_on: Callable[[int], int] = lambda _: NO_DAY) -> None:
        self.gaps: list[Gap] = []
        self._seen = seen
        self._sealed_on = sealed_on
        self._last = self._before_last = -1
        self._last_offset = 0
        self._rows: dict[tuple[bytes, int], tuple[int, int]] = {}
        self._moved: list[Moved] = []  # since the last frame that is filed where it belongs

    def feed(self, report: FrameReport) -> Iterator[Complaint]:
        """Go on with a report; yield what stands twice or in another place than it should."""
        damages = iter([*report.damages, (len(report.indexes) + 1, None)])
        position, damage = next(damages)
        moved = iter(report.moved)
        next_moved = next(moved, None)
        for place, index in enumerate(report.indexes):
            while next_moved is not None and next_moved.behind <= place:
                yield from self._follow(next_moved)
                next_moved = next(moved, None)
            if self._moved:
                yield from self._judge_moved(index)
            while damage is not None and position <= place:
                self.gaps.append(Gap(damage, self._last))
                position, damage = next(damages)
            if self.gaps and self.gaps[-1].at_end:
                self._close_gaps()
            if self._seen.see(index):
                problem = Problem(Verdict.DUPLICATE, "its content stands here a second time")
                yield Complaint(index, report.offsets[place], problem)
            elif index > self._last:
                self._go_on(index, report.offsets[place])
            else:
                yield self._judge_descent(index, report.offsets[place])
        while damage is not None:
            self.gaps.append(Gap(damage, self._last))
            _, damage = next(damages)
        while next_moved is not None:
            yield from self._follow(next_moved)
            next_moved = next(moved, None)

    def _follow(self, moved: Moved) -> Iterator[Complaint]:
        """Judge a frame that was moved here by the one before it in its row."""
        self._moved.append(moved)
        if self._seen.see(moved.index):
            yield Complaint(moved.index, moved.offset, Problem(Verdict.DUPLICATE, MOVED_TWICE))
        elif moved.row is not None:
            before = self._rows.get(moved.row, (-1, -1))
            self._rows[moved.row] = max(before, (moved.day, moved.index))
            if (moved.day, moved.index) < before:
                yield _misplaced(moved.index, moved.offset)

    def _judge_moved(self, index: int) -> Iterator[Complaint]:
        """Judge moved frames by the frame behind them: nobody moves a frame before its day has come."""
        sealed_on = self._sealed_on(index)
        for moved in self._moved:
            if sealed_on < moved.day:
                yield _misplaced(moved.index, moved.offset)
        self._moved.clear()

    def _go_on(self, index: int, offset: int) -> None:
        self._before_last, self._last, self._last_offset = self._last, index, offset

    def _judge_descent(self, index: int, offset: int) -> Complaint:
        """Say which of two frames in descending order is out of place: the one without which all others ascend."""
        if index < self._before_last:
            return _misplaced(index, offset)
        complaint = _misplaced(self._last, self._last_offset)
        self._last, self._last_offset = index, offset
        return complaint

    def _close_gaps(self) -> None:
        for gap in reversed(self.gaps):
            if not gap.at_end:
                return
            gap.at_end = False


def _misplaced(index: int, offset: int) -> Complaint:
    return Complaint(index, offset, Problem(Verdict.REORDERED, "its content stands out of order in this file"))
