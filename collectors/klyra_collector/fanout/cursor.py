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
    from collections.abc import Callable, Collection
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

    @property
    def tail(self) -> int:
        """The index behind the last batch under way: where the next one begins."""
        return self.pending[-1].end if self.pending else self.index

    def moved(self, end: int) -> Cursor:
        """Return the cursor behind records that were looked at, with nothing under way."""
        return Cursor(self.origin, end)

    def begun(self, span: Span) -> Cursor:
        """Return the cursor with one more batch under way, which begins at `tail`."""
        return Cursor(self.origin, self.index, (*self.pending, span))

    def completed(self, starts: Collection[int]) -> Cursor:
        """Return the cursor behind those first batches under way that were confirmed, named by their starts.

        A batch that was confirmed before an earlier one stays under way: the cursor never passes what is not confirmed.
        """
        index, pending = self.index, list(self.pending)
        while pending and pending[0].start in starts:
            index = pending.pop(0).end
        return Cursor(self.origin, index, tuple(pending))

    def bisected(self, start: int, middle: int) -> Cursor:
        """Return the cursor with the batch that begins at `start` in two parts, the second beginning at `middle`."""
        return self._replaced(start, lambda span: (span._replace(end=middle), span._replace(start=middle)))

    def begun_again(self, start: int, begun_us: int) -> Cursor:
        """Return the cursor with the batch that begins at `start` as if it was begun now."""
        return self._replaced(start, lambda span: (span._replace(begun_us=begun_us),))

    def _replaced(self, start: int, change: Callable[[Span], tuple[Span, ...]]) -> Cursor:
        parts = (change(span) if span.start == start else (span,) for span in self.pending)
        return Cursor(self.origin, self.index, tuple(span for part in parts for span in part))


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
