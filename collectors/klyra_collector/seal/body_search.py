"""Find one body among many without reading through its file, which may hold a whole day.

Frames stand in the order of their indexes, so the file is searched by halves; from anywhere in it the next frame is
found by its magic and the checksum of its header. What stands out of order, because it was moved when its retention
was extended, is not found here. The file is read and not mapped: a failed commit cuts it, and to touch what was
mapped there ends a process.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from klyra_audit.format import frame
from klyra_audit.format.errors import FrameError
from klyra_audit.format.frame import BODY_HEADER_SIZE

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_audit.format.frame import BodyFrame

_NEAR_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a frame stands, and of which leaf it is the body."""

    offset: int
    end: int
    index: int


class BodySearch:
    """One day's bodies, by index, as they were when it was made; close it by `with`."""

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self._size = 0
        with contextlib.suppress(FileNotFoundError):  # it has expired
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._size = os.fstat(self._descriptor).st_size
        self._next = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def find(self, index: int) -> BodyFrame | None:
        """Return the body of a leaf; None if it is not there or cannot be read."""
        found = self._along(self._next, index) or self._by_halves(index)
        if found is None:
            return None
        self._next = found.end
        with contextlib.suppress(FrameError):
            return frame.read_body(os.pread(self._descriptor, found.end - found.offset, found.offset), 0)[1]
        return None

    def _by_halves(self, index: int) -> _Frame | None:
        low, high = 0, self._size
        while high - low > _NEAR_BYTES:
            middle = (low + high) // 2
            found = self._first_from(middle, high)
            if found is None or found.index > index:
                high = middle
            elif found.index == index:
                return found
            else:
                low = found.offset
        return self._along(low, index)

    def _along(self, offset: int, index: int) -> _Frame | None:
        """Return the frame of a leaf if it stands near behind the beginning of another, or there."""
        until = min(self._size, offset + 2 * _NEAR_BYTES)
        while offset < until:
            found = self._frame_at(offset)
            if found is None or found.index >= index:
                return found if found is not None and found.index == index else None
            offset = found.end
        return None

    def _first_from(self, begin: int, end: int) -> _Frame | None:
        """Return the first frame that begins in a part of the file."""
        while begin < end:
            window = os.pread(self._descriptor, min(_NEAR_BYTES, end - begin) + len(frame.BODY_MAGIC) - 1, begin)
            place = window.find(frame.BODY_MAGIC)
            while place >= 0:
                found = self._frame_at(begin + place)
                if found is not None:
                    return found
                place = window.find(frame.BODY_MAGIC, place + 1)
            begin += _NEAR_BYTES
        return None

    def _frame_at(self, offset: int) -> _Frame | None:
        try:
            header = frame.read_body_header(os.pread(self._descriptor, BODY_HEADER_SIZE, offset), 0)
        except FrameError:
            return None
        return _Frame(offset, offset + header.end, header.index)
