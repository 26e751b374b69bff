"""Find the bodies of a shard by index, though they are filed by the day on which they expire."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Self

from klyra_audit.format.frame import BodyFrame
from klyra_collector.verify.files import Unreadable, open_if_readable
from klyra_collector.verify.walk import BodyWalker

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

OPEN_FILES: Final = 16  # each with a buffer; entries of one time are filed under as many days as there are plans


class BodiesByIndex:
    """Remembers where every body stands, 12 bytes a record: an EXTEND or a HOLD files old bodies behind newer ones."""

    def __init__(self, paths: Iterable[Path], size: int) -> None:
        """Look through files.

        Args:
            paths: files of body frames; one that cannot be read has none.
            size: how many records of the shard are looked at.
        """
        self._paths = list(paths)
        self._numbers = array("I", bytes(4 * size))  # of the file, from 1
        self._offsets = array("Q", bytes(8 * size))
        self._open: OrderedDict[int, _OpenFile] = OrderedDict()
        for number, path in enumerate(self._paths, 1):
            self._look_through(number, path)

    def at(self, index: int) -> BodyFrame | None:
        """Return a body, None where the ledger has none that can be read."""
        number = self._numbers[index]
        if not number:
            return None
        try:
            return self._opened(number).read(self._offsets[index])
        except Unreadable:
            return None

    def close(self) -> None:
        """Close the files."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _look_through(self, number: int, path: Path) -> None:
        try:
            with open_if_readable(path) as file:
                for offset, _, item in BodyWalker(file).walk(0, file.size):
                    if isinstance(item, BodyFrame) and item.index < len(self._numbers):
                        self._numbers[item.index] = number
                        self._offsets[item.index] = offset
        except Unreadable:  # what stands behind the place that cannot be read is not found
            return

    def _opened(self, number: int) -> _OpenFile:
        if number in self._open:
            self._open.move_to_end(number)
        else:
            self._open[number] = _OpenFile(self._paths[number - 1])
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        return self._open[number]


class _OpenFile:
    """A file of bodies, read mostly forward; whoever goes back begins with a new buffer."""

    def __init__(self, path: Path) -> None:
        self._file = open_if_readable(path)
        self._walker = BodyWalker(self._file)
        self._reached = 0

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, offset: int) -> BodyFrame | None:
        """Return the body that begins at an offset, None if none does any more."""
        if offset < self._reached:
            self._walker = BodyWalker(self._file)
        self._reached = offset
        _, _, item = next(self._walker.walk(offset, offset + 1), (0, 0, None))
        return item if isinstance(item, BodyFrame) else None
