"""Bodies of one organization among all others', in ascending order: what an export reads through.

A frame begins with its magic and its index, twelve bytes that cannot stand inside canonical JSON, so the next body
is found by searching for them instead of walking over every other organization's frames.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final

from klyra_audit.format import frame
from klyra_audit.format.errors import FrameError
from klyra_audit.format.ordinary import read_ordinary
from klyra_collector.data_directory import FRAMES

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_audit.format.frame import BodyFrame
    from klyra_audit.format.leaf import Leaf
    from klyra_audit.format.ordinary import OrdinaryBody
    from klyra_collector.data_directory import ShardDirectory

_HELD: Final = "held"


class PacketBodies:
    """Finds bodies wherever an expiry, a hold or an extension has left them. Keeps a file open for each day."""

    def __init__(self, shard: ShardDirectory) -> None:
        self._shard = shard
        self._files: dict[str, _DayFile | None] = {}

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            if file is not None:
                file.close()
        self._files.clear()

    def find(self, index: int, leaf: Leaf) -> BodyFrame | None:
        """Return the body of a leaf; None if it is gone or is not what the leaf commits to."""
        body = self._find_in(str(leaf.expire_day), index, leaf.commit)
        return body or self._find_moved(index, leaf)

    def find_ordinary(self, index: int, leaf: Leaf) -> OrdinaryBody | None:
        """Return the body of a leaf if it is ordinary and stands where nearly all do; None says nothing."""
        file = self._file(str(leaf.expire_day))
        return None if file is None else file.find_ordinary(index, leaf.commit)

    def _find_moved(self, index: int, leaf: Leaf) -> BodyFrame | None:
        if not self._shard.bodies.is_dir():
            return None
        days = sorted(int(path.name) for path in self._shard.bodies.iterdir() if path.name.isdecimal())
        for name in (_HELD, *(str(day) for day in days if day > leaf.expire_day)):
            body = self._find_in(name, index, leaf.commit)
            if body is not None:
                return body
        return None

    def _find_in(self, name: str, index: int, commit: bytes) -> BodyFrame | None:
        file = self._file(name)
        return None if file is None else file.find(index, commit)

    def _file(self, name: str) -> _DayFile | None:
        if name not in self._files:
            self._files[name] = _open(self._shard.bodies / name / FRAMES)
        return self._files[name]


class _DayFile:
    """One file of frames, as long as it was when it was opened."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self._mapped = mapped
        self._buffer: frame.Buffer = mapped  # type: ignore[assignment] # an mmap slices to bytes
        self._offset = 0

    def close(self) -> None:
        self._mapped.close()

    def find(self, index: int, commit: bytes) -> BodyFrame | None:
        """Return a body: ahead of the one before it, else from the beginning."""
        return self._search(index, commit, self._offset) or self._search(index, commit, 0)

    def find_ordinary(self, index: int, commit: bytes) -> OrdinaryBody | None:
        """Return the next body of that index if it is ordinary and the leaf's."""
        offset = self._mapped.find(_needle(index), self._offset)
        body = read_ordinary(self._buffer, offset) if offset >= 0 else None
        if body is None or body.commit != commit:
            return None
        self._offset = body.end
        return body

    def _search(self, index: int, commit: bytes, start: int) -> BodyFrame | None:
        needle = _needle(index)
        offset = self._mapped.find(needle, start)
        while offset >= 0:
            try:
                end, body = frame.read_body(self._buffer, offset)
            except FrameError:
                end, body = offset + 1, None
            if body is not None and body.commitments.event_commit() == commit:
                self._offset = end
                return body
            offset = self._mapped.find(needle, offset + 1)
        return None


def _needle(index: int) -> bytes:
    return frame.BODY_MAGIC + index.to_bytes(8)


def _open(path: Path) -> _DayFile | None:
    try:
        with path.open("rb") as file:
            return _DayFile(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (FileNotFoundError, ValueError):  # gone, or empty
        return None
