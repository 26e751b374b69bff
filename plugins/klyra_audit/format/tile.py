"""Tiles and entry bundles of a log (C2SP tlog-tiles): their paths, and how leaves are packed into bundles."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from klyra_audit.format.errors import TileError
from klyra_audit.format.leaf import LEAF_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

ENTRIES: Final = -1  # the level of entry bundles
FULL_WIDTH: Final = 256
MAX_LEVEL: Final = 63

_PATH = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII)
_GROUP = 1000
_LENGTH = struct.Struct(">H")


@dataclass(frozen=True, slots=True)
class Tile:
    """A range of 256 hashes of one level, or of 256 entries; partial at the right edge of a tree.

    Attributes:
        level: hashes are roots of perfect subtrees of height 8 · level; `ENTRIES` for an entry bundle.
        number: of the tile in its level.
        width: how many hashes or entries, 1 to 256.
    """

    level: int
    number: int
    width: int = FULL_WIDTH

    @property
    def is_full(self) -> bool:
        """Whether nothing will ever be added to it."""
        return self.width == FULL_WIDTH

    @property
    def first(self) -> int:
        """Number of its first hash in the level, or index of its first entry."""
        return self.number * FULL_WIDTH

    @property
    def path(self) -> str:
        """Where it lies below the log's prefix, such as ``tile/0/x001/234.p/5``."""
        groups = [f"{self.number % _GROUP:03d}"]
        rest = self.number // _GROUP
        while rest:
            groups.insert(0, f"x{rest % _GROUP:03d}")
            rest //= _GROUP
        level = "entries" if self.level == ENTRIES else str(self.level)
        partial = "" if self.is_full else f".p/{self.width}"
        return f"tile/{level}/{'/'.join(groups)}{partial}"

    @classmethod
    def parse(cls, path: str) -> Tile:
        """Read a path; `TileError` unless it is the only spelling of a tile's."""
        matched = _PATH.fullmatch(path)
        if matched is None:
            raise TileError("the path names no tile")
        level, groups, width = matched.groups()
        number = int(groups.replace("/", "").replace("x", ""))
        tile = cls(ENTRIES if level == "entries" else int(level), number, FULL_WIDTH if width is None else int(width))
        if tile.path != path or tile.width > FULL_WIDTH or tile.level > MAX_LEVEL:
            raise TileError("the path names no tile")
        return tile

    def is_published_at(self, size: int) -> bool:
        """Say whether a log of `size` leaves has it: a full tile, or any partial one whose hashes are there."""
        count = size if self.level == ENTRIES else size >> (8 * self.level)
        return self.first + self.width <= count


def tiles_of(size: int) -> Iterator[Tile]:
    """Yield every tile and bundle that a log of exactly `size` leaves publishes, partial ones included."""
    yield from _level(ENTRIES, size)
    level, count = 0, size
    while count:
        yield from _level(level, count)
        level += 1
        count //= FULL_WIDTH


def _level(level: int, count: int) -> Iterator[Tile]:
    full, rest = divmod(count, FULL_WIDTH)
    for number in range(full):
        yield Tile(level, number)
    if rest:
        yield Tile(level, full, rest)


def bundle(leaves: bytes) -> bytes:
    """Return the entry bundle of whole leaves: each behind its length, an unsigned 16-bit number."""
    if len(leaves) % LEAF_SIZE:
        raise TileError("a bundle is made of whole leaves")
    prefix = _LENGTH.pack(LEAF_SIZE)
    return b"".join(prefix + leaves[offset : offset + LEAF_SIZE] for offset in range(0, len(leaves), LEAF_SIZE))


def split_bundle(encoded: bytes) -> list[bytes]:
    """Return the entries of a bundle; `TileError` if it is torn, empty, or holds more than 256."""
    entries: list[bytes] = []
    offset = 0
    while offset < len(encoded):
        if offset + _LENGTH.size > len(encoded):
            raise TileError("an entry bundle is torn")
        (length,) = _LENGTH.unpack_from(encoded, offset)
        offset += _LENGTH.size
        if offset + length > len(encoded) or len(entries) == FULL_WIDTH:
            raise TileError("an entry bundle is torn, or holds more than 256 entries")
        entries.append(encoded[offset : offset + length])
        offset += length
    if not entries:
        raise TileError("an entry bundle is empty")
    return entries
