"""In which order frames stand in a file, also those that were moved into it."""

from __future__ import annotations

import pytest

from klyra_audit.format.leaf import NO_PREVIOUS, Kind, Leaf
from klyra_collector.verify import Verdict
from klyra_collector.verify.filing import FrameReport, Moved, Told
from klyra_collector.verify.layout import HELD
from klyra_collector.verify.order import FileOrder

ROW = (b"", 0)
ACME = b"a" * 16


class Seen:
    """Remembers everything."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def see(self, index: int) -> bool:
        """See `order.Seen`."""
        before = index in self._seen
        self._seen.add(index)
        return before


def complaints(report: FrameReport, day: int = 0) -> list[tuple[int, Verdict]]:
    """Return what is said of a file of which all other frames were sealed on a day."""
    order = FileOrder(Seen(), lambda _: day)
    return [(found.index, found.problem.verdict) for found in order.feed(report)]


def moved(*frames: tuple[int, int], behind: int = 0, row: tuple[bytes, int] | None = ROW) -> FrameReport:
    """Return a report of moved frames, given as (own day, index)."""
    report = FrameReport()
    report.moved = [Moved(index, place, behind, day, row) for place, (day, index) in enumerate(frames)]
    return report


def test_what_is_held_comes_day_by_day() -> None:
    """And in the order of its file within a day."""
    assert complaints(moved((10, 5), (10, 9), (11, 2), (12, 1))) == []


@pytest.mark.parametrize("frames", [((10, 9), (10, 5)), ((11, 2), (10, 5))])
def test_what_is_held_in_another_order(frames) -> None:
    """The one that comes too late stands out of place."""
    assert complaints(moved(*frames)) == [(5, Verdict.REORDERED)]


def test_what_came_by_another_way_may_stand_anywhere() -> None:
    """Held and extended by turns."""
    assert complaints(moved((10, 9), (10, 5), row=None)) == []


def test_a_frame_that_was_moved_twice() -> None:
    """It stands here a second time."""
    assert complaints(moved((10, 5), (10, 5))) == [(5, Verdict.DUPLICATE)]


@pytest.mark.parametrize(("sealed_on", "expected"), [(9, [(5, Verdict.REORDERED)]), (10, [])])
def test_nothing_is_moved_before_its_day(sealed_on, expected) -> None:
    """A frame that was filed here earlier than that stands before it."""
    report = moved((10, 5), behind=1)
    for index in (100, 101):
        report.add(index, index)
    assert complaints(report, sealed_on) == expected


def test_rows() -> None:
    """Which frames have a place in a row: held ones, and those extended once."""
    leaf = Leaf(Kind.EVENT, 0, 50, ACME, 3, 0, 0, 0, NO_PREVIOUS, bytes(32))
    held = Told(None, swept_day=50)
    assert held.is_moved_to(HELD, leaf)
    assert not Told(None, swept_day=49).is_moved_to(HELD, leaf)
    assert held.moved(7, 0, leaf, 0).row == (b"", 0)
    once = Told(None, extended=((ACME, 0, 9, 90),))
    assert [once.is_moved_to(day, leaf) for day in (90, 91, 92)] == [False, True, False]
    assert once.moved(7, 0, leaf, 0).row == (ACME, 50)
    twice = Told(None, extended=((ACME, 0, 9, 90), (ACME, 0, 9, 120)))
    assert twice.moved(7, 0, leaf, 0).row is None
    assert Told(None, extended=((ACME, 0, 9, 90),), held=frozenset({ACME})).moved(7, 0, leaf, 0).row is None
