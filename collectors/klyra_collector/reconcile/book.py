"""What was seen of each record: a few bytes on disk for every record of the ledger, whatever order an export has.

The bytes are in a temporary file that has no name and goes with the process; what nobody has seen takes no room.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
import tempfile
from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

DIGEST_SIZE: Final = 16

_SLOT = struct.Struct(f">BB{DIGEST_SIZE}s")
_MOST = 255
_NOTHING = bytes(DIGEST_SIZE)


class Seen(IntFlag):
    """What was seen of a record."""

    WHOLE = 1
    ALTERED = 2
    CUT = 4
    WITHOUT_ACTOR = 8
    WITHOUT_TARGET = 16
    DIFFERENT = 32


@dataclass(frozen=True, slots=True)
class Sighting:
    """All that was seen of one record.

    Attributes:
        flags: of all its copies together.
        copies: how many, 255 for more.
        digest: of the leaf that its first whole copy names.
    """

    flags: Seen
    copies: int
    digest: bytes


class Book:
    """Sightings by place. Closing it forgets them."""

    def __init__(self, committed: Mapping[str, int]) -> None:
        """Prepare to note.

        Args:
            committed: how many records each shard has, by origin.
        """
        self._committed = dict(committed)
        self._begin: dict[str, int] = {}
        total = 0
        for origin, count in committed.items():
            self._begin[origin] = total
            total += count
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the book
        self._file.truncate(max(1, total) * _SLOT.size)
        self._slots = mmap.mmap(self._file.fileno(), 0)

    def has(self, origin: str, index: int) -> bool:
        """Say whether there is such a record."""
        return 0 <= index < self._committed.get(origin, 0)

    def note(self, origin: str, index: int, flags: Seen, digest: bytes = _NOTHING) -> None:
        """Note a copy of a record that is there."""
        offset = self._offset(origin, index)
        before, copies, first = _SLOT.unpack_from(self._slots, offset)
        if digest != _NOTHING and first not in (_NOTHING, digest):
            flags |= Seen.DIFFERENT
        kept = digest if first == _NOTHING else first
        _SLOT.pack_into(self._slots, offset, before | flags, min(copies + 1, _MOST), kept)

    def sighting(self, origin: str, index: int) -> Sighting:
        """Return what was seen of a record."""
        flags, copies, digest = _SLOT.unpack_from(self._slots, self._offset(origin, index))
        return Sighting(Seen(flags), copies, digest)

    def close(self) -> None:
        """Forget everything."""
        self._slots.close()
        self._file.close()

    def _offset(self, origin: str, index: int) -> int:
        return (self._begin[origin] + index) * _SLOT.size


def digest_of(leaf: bytes) -> bytes:
    """Return what a leaf is remembered by."""
    return hashlib.sha256(leaf).digest()[:DIGEST_SIZE]
