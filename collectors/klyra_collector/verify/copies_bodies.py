"""Find the bodies of a shard by index, though they are filed by the day on which they expire."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Self

from klyra_audit.format.frame import BodyFrame
from klyra_collector.verify.files import NoFile, RegularFile, Unreadable, open_if_readable
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
        self._open: OrderedDict[int, tuple[RegularFile | NoFile, BodyWalker]] = OrderedDict()
        for number, path in enumerate(self._paths, 1):
            self._look_through(number, path)

    def at(self, index: int) -> BodyFrame | None:
        """Return a body, None where the ledger has none that can be read."""
        number = self._numbers[index]
        if not number:
            return None
        offset = self._offsets[index]
        try:
            _, _, item = next(self._walker(number).walk(offset, offset + 1), (0, 0, None))
        except Unreadable:
            return None
        return item if isinstance(item, BodyFrame) else None

    def close(self) -> None:
        """Close the files."""
        while self._open:
            self._open.popitem()[1][0].close()

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

    def _walker(self, number: int) -> BodyWalker:
        if number in self._open:
            self._open.move_to_end(number)
        else:
            file = open_if_readable(self._paths[number - 1])
            self._open[number] = file, BodyWalker(file)
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1][0].close()
        return self._open[number][1]
