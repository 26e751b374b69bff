"""Find out what happened to `leaves` when its hashes are known: changed, left out, put in, moved. Pure.

Two cursors walk over the authentic leaf hashes and over those of the leaves that are there. Where they part, a
window ahead says whether leaves are missing, were added, or merely differ; what is missing here and turns up there
was moved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

WINDOW: Final = 512
MAX_PENDING: Final = 50_000  # more differences than this are another file, not a changed one

Hashes = Callable[[int, int], list[bytes]]  # (first, count) → at most count leaf hashes


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """A run of leaves that are the authentic ones: `count` from `index` on stand at `position` in the file."""

    index: int
    position: int
    count: int


@dataclass(slots=True)
class Alignment:
    """What became of each leaf.

    Attributes:
        segments: where the authentic leaves stand, by index; what no segment covers has no leaf to trust.
        altered: (index, position in the file) of leaves that are there with other bytes.
        missing: indexes whose leaf was left out.
        moved: indexes whose leaf stands elsewhere.
        extra: positions in the file of leaves that were never sealed.
        end: position behind the last one looked at.
        cut: index from which on the file has no leaves at all, or None.
        given_up: index from which on there were too many differences to follow, or None.
    """

    segments: list[Segment] = field(default_factory=list)
    altered: list[tuple[int, int]] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    moved: list[int] = field(default_factory=list)
    extra: list[int] = field(default_factory=list)
    end: int = 0
    cut: int | None = None
    given_up: int | None = None


@dataclass(frozen=True, slots=True)
class _Absent:
    index: int
    position: int
    replaced: bool  # another leaf stands in its place


class Aligner:
    """One walk. Indexes before `start` are taken to stand where they belong."""

    def __init__(self, authentic: Hashes, actual: Hashes, start: int, size: int) -> None:
        self._authentic = authentic
        self._actual = actual
        self._size = size
        self._index = self._position = start
        self._absent: dict[bytes, _Absent] = {}
        self._added: dict[bytes, tuple[int, bool]] = {}  # position, and whether it replaces another leaf
        self._result = Alignment()
        self._keep(0, 0, start)

    def run(self, skip_to: Callable[[int], int] | None = None) -> Alignment:
        """Walk to the end.

        Args:
            skip_to: returns from where on, at or after an index, the files may differ at equal positions; lets the
                walk leave out what is known to be equal.
        """
        while self._index < self._size and self._result.given_up is None:
            if skip_to is not None and self._index == self._position:
                self._advance(min(skip_to(self._index), self._size) - self._index)
            self._step()
        self._look_behind()
        self._settle()
        self._result.end = self._position
        return self._result

    def _step(self) -> None:
        expected = self._authentic(self._index, min(WINDOW, self._size - self._index))
        found = self._actual(self._position, WINDOW)
        if not found:
            self._reach_end(expected)
            return
        same = _common(expected, found)
        if same:
            self._advance(same)
            return
        self._part(expected, found)
        if len(self._absent) + len(self._added) > MAX_PENDING:
            self._result.given_up = self._index

    def _look_behind(self) -> None:
        """See whether leaves that are missing were put behind the last one."""
        for hashed in self._actual(self._position, WINDOW):
            if hashed not in self._absent:
                return
            self._note_added(hashed, replaces=False)
            self._position += 1

    def _part(self, expected: list[bytes], found: list[bytes]) -> None:
        """Decide what happened where the cursors part."""
        added = _distance(expected[0], found)
        left_out = _distance(found[0], expected)
        if added == left_out:  # neither turns up in the window, or two leaves changed places
            self._note_absent(expected[0], replaced=True)
            self._note_added(found[0], replaces=True)
            self._index += 1
            self._position += 1
        elif left_out is None or (added is not None and added < left_out):
            for hashed in found[:added]:
                self._note_added(hashed, replaces=False)
                self._position += 1
        else:
            self._miss(expected[:left_out])

    def _reach_end(self, expected: list[bytes]) -> None:
        """Note that the file ends here; a few leaves from its end may still stand elsewhere."""
        self._result.cut = self._index
        if self._index + len(expected) == self._size:
            self._miss(expected)
        self._index = self._size

    def _miss(self, expected: list[bytes]) -> None:
        for hashed in expected:
            self._note_absent(hashed, replaced=False)
            self._index += 1

    def _note_absent(self, hashed: bytes, *, replaced: bool) -> None:
        earlier = self._added.pop(hashed, None)
        if earlier is not None:
            self._move(self._index, earlier[0])
        else:
            self._absent[hashed] = _Absent(self._index, self._position, replaced)

    def _note_added(self, hashed: bytes, *, replaces: bool) -> None:
        earlier = self._absent.pop(hashed, None)
        if earlier is not None:
            self._move(earlier.index, self._position)
        else:
            self._added[hashed] = (self._position, replaces)

    def _move(self, index: int, position: int) -> None:
        self._result.moved.append(index)
        self._keep(index, position, 1)

    def _advance(self, count: int) -> None:
        self._keep(self._index, self._position, count)
        self._index += count
        self._position += count

    def _keep(self, index: int, position: int, count: int) -> None:
        segments = self._result.segments
        if not count:
            return
        if segments:
            last = segments[-1]
            if (last.index + last.count, last.position + last.count) == (index, position):
                segments[-1] = Segment(last.index, last.position, last.count + count)
                return
        segments.append(Segment(index, position, count))

    def _settle(self) -> None:
        """Judge what never turned up again."""
        result = self._result
        result.altered = sorted((one.index, one.position) for one in self._absent.values() if one.replaced)
        result.missing = sorted(one.index for one in self._absent.values() if not one.replaced)
        result.extra = sorted(position for position, replaces in self._added.values() if not replaces)
        result.moved.sort()
        result.segments.sort()
        if result.cut is not None:
            self._settle_end(result.cut)

    def _settle_end(self, cut: int) -> None:
        """Tell what was cut off from what stands in front of something that was not."""
        result = self._result
        cut = max((index + 1 for index in result.moved if index >= cut), default=cut)
        result.cut = cut if cut < self._size else None
        result.missing = [index for index in result.missing if index < cut]


def _common(expected: list[bytes], found: list[bytes]) -> int:
    if expected == found[: len(expected)]:
        return len(expected)
    return next((at for at, (one, other) in enumerate(zip(expected, found, strict=False)) if one != other), len(found))


def _distance(hashed: bytes, ahead: list[bytes]) -> int | None:
    try:
        return ahead.index(hashed)
    except ValueError:
        return None
