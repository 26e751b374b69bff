"""Where a destination stands: durable, and moved only after the destination has confirmed.

The file also holds the batches that are under way, so that after a crash the very same ones go again. A crash leaves
the file before a change or after it: sent but not moved means sent again, with the same boundaries and entry ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from klyra_audit.errors import Halted

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_collector.seal.durable import Disk

SUFFIX: Final = ".cursor.json"

_FORMAT = "klyra-cursor/1"


class CursorDamaged(Halted):
    """A destination's cursor cannot be read: where it stood is not known."""

    code = "cursor_damaged"


class Span(NamedTuple):
    """Consecutive records of one shard.

    Attributes:
        start, end: the first index, and the one behind the last.
        begun_us: when its delivery was begun, microseconds since 1970; the same on every attempt, so that the same
            bytes go again.
    """

    start: int
    end: int
    begun_us: int = 0


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in the ledger: everything before it has been delivered, or is not to be.

    Attributes:
        origin: name of a shard; all older shards are done.
        index: of the next record in it.
        pending: the batches under way, ascending from `index` on, without gaps; none when nothing is.
    """

    origin: str
    index: int
    pending: tuple[Span, ...] = ()

    def moved(self, end: int) -> Cursor:
        """Return the cursor behind records that were looked at, with nothing under way."""
        return Cursor(self.origin, end)

    def begun(self, span: Span) -> Cursor:
        """Return the cursor with a batch under way."""
        return Cursor(self.origin, span.start, (span,))

    def completed(self) -> Cursor:
        """Return the cursor after the first batch under way was confirmed."""
        done, *rest = self.pending
        return Cursor(self.origin, done.end, tuple(rest))

    def bisected(self, middle: int) -> Cursor:
        """Return the cursor with the first batch under way in two parts, the second beginning at `middle`."""
        first, *rest = self.pending
        parts = first._replace(end=middle), first._replace(start=middle)
        return Cursor(self.origin, self.index, (*parts, *rest))

    def begun_again(self, begun_us: int) -> Cursor:
        """Return the cursor with the first batch under way as if it was begun now."""
        first, *rest = self.pending
        return Cursor(self.origin, self.index, (first._replace(begun_us=begun_us), *rest))


class CursorFile:
    """The file of one destination's cursor."""

    def __init__(self, folder: Path, name: str, disk: Disk) -> None:
        self._path = folder / f"{name}{SUFFIX}"
        self._disk = disk

    def load(self) -> Cursor | None:
        """Return the cursor; None if there never was one.

        Raises:
            CursorDamaged: the file is there and cannot be read.
        """
        try:
            return _parse(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CursorDamaged(
                f"{self._path} cannot be read: {error}.",
                remedy="Restore it; or delete it, and everything still kept is delivered again.",
            ) from error

    def save(self, cursor: Cursor) -> None:
        """Replace the cursor; durable when this returns."""
        members = {
            "format": _FORMAT,
            "origin": cursor.origin,
            "index": cursor.index,
            "pending": [list(span) for span in cursor.pending],
        }
        self._disk.replace(self._path, orjson.dumps(members))


def _parse(content: bytes) -> Cursor:
    members = orjson.loads(content)
    origin, index = members["origin"], members["index"]
    if members["format"] != _FORMAT or not isinstance(origin, str) or type(index) is not int or index < 0:
        raise ValueError("it is no cursor of this version")
    pending = tuple(Span(*span) for span in members["pending"])
    expected = index
    for span in pending:
        if not all(type(part) is int for part in span) or span.start != expected or span.end <= span.start:
            raise ValueError("its batches do not follow one another")
        expected = span.end
    return Cursor(origin, index, pending)
