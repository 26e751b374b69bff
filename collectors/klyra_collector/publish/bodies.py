"""Find the body of one leaf in a shard's files, without reading the whole of them.

Bodies lie in index order in the file of their expiry day, so half of what is left can be passed over at each step.
Frames that an extension or a hold moved stand behind others, out of order: whatever the search finds is checked
against the leaf, and where it finds nothing the file is read through.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from klyra_audit.format import frame
from klyra_audit.format.errors import FormatError, FrameError
from klyra_collector.data_directory import FRAMES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from klyra_audit.format.frame import BodyFrame, BodyHeader
    from klyra_audit.format.leaf import Leaf
    from klyra_collector.data_directory import ShardDirectory

HELD: Final = "held"

_WINDOW: Final = 64 * 1024  # longer than any body frame of an event (DESIGN section 4: 32 KiB, and its evidence)
_NEAR: Final = 256 * 1024  # below, reading on is as quick as another step


class _Place(NamedTuple):
    offset: int
    header: BodyHeader


def find_body(shard: ShardDirectory, index: int, leaf: Leaf) -> BodyFrame | None:
    """Return the body of a leaf; None if it is gone.

    Args:
        shard: whose leaf.
        index: of the leaf.
        leaf: says on which day's file the body was filed, and what it must commit to.
    """
    for path in _files(shard, leaf.expire_day):
        body = _find_in(path, index, leaf.commit)
        if body is not None:
            return body
    return None


def _files(shard: ShardDirectory, expire_day: int) -> Iterator[Path]:
    """Yield where the body may be: its own day, then what is held, then later days that an extension moved it to."""
    yield shard.bodies / str(expire_day) / FRAMES
    yield shard.bodies / HELD / FRAMES
    if shard.bodies.is_dir():
        days = sorted(int(path.name) for path in shard.bodies.iterdir() if path.name.isdecimal())
        yield from (shard.bodies / str(day) / FRAMES for day in days if day > expire_day)


def _find_in(path: Path, index: int, commit: bytes) -> BodyFrame | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        file = _File(descriptor, os.fstat(descriptor).st_size)
        return file.seek(index, commit) or file.read_through(index, commit)
    finally:
        os.close(descriptor)


class _File:
    """One open file of body frames, as long as it was when it was opened."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size

    def seek(self, index: int, commit: bytes) -> BodyFrame | None:
        """Search by halves; None if that does not lead to the body."""
        low, high = 0, self._size
        while high - low > _NEAR:
            middle = (low + high) // 2
            place = self._next_frame(middle)
            if place is None or place.header.index > index:
                high = middle
            else:
                low = place.offset
        return self._read_on(low, min(high + _WINDOW, self._size), index, commit)

    def read_through(self, index: int, commit: bytes) -> BodyFrame | None:
        """Look at every frame; None if the body is not there."""
        return self._read_on(0, self._size, index, commit)

    def _next_frame(self, offset: int) -> _Place | None:
        """Return the first frame that begins at `offset` or behind it, within a window."""
        window = os.pread(self._descriptor, _WINDOW, offset)
        at = window.find(frame.BODY_MAGIC)
        while at >= 0:
            try:
                return _Place(offset + at, frame.read_body_header(window, at))
            except FrameError:  # the four bytes stand inside a body too
                at = window.find(frame.BODY_MAGIC, at + 1)
        return None

    def _read_on(self, offset: int, end: int, index: int, commit: bytes) -> BodyFrame | None:
        while offset < end:
            encoded = os.pread(self._descriptor, frame.BODY_HEADER_SIZE, offset)
            try:
                header = frame.read_body_header(encoded, 0)
                if header.index == index and header.commitments.event_commit() == commit:
                    return frame.read_body(os.pread(self._descriptor, header.end, offset), 0)[1]
            except FormatError:  # damaged, or being written: nothing can be found behind it
                return None
            offset += header.end
        return None
