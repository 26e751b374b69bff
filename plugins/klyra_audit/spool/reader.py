"""Read a boot's segments in order, note what was delivered, remove what nobody needs any more.

The note of what was delivered is not synced: after a power loss it may be old, and then events are sent again that the
collector recognises by boot and sequence. A segment is removed only when all of it was delivered.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from klyra_audit.spool import segment
from klyra_audit.spool.segment import Damage, SpooledEvent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from klyra_audit.otlp import EmitterIdentity
    from klyra_audit.spool.writer import Durable

DELIVERED: Final = "delivered"

_NOTE: Final = struct.Struct(">II")  # the next sequence number, CRC-32 of it


@dataclass(frozen=True, slots=True)
class Lost:
    """Events that were promised and cannot be read any more.

    Attributes:
        boot: whose.
        reason: what was found.
    """

    boot: str
    reason: str


class BootReader:
    """Reads one boot's events from the first undelivered one on. Not thread-safe.

    Args:
        folder: of the boot.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.next_sequence = self._delivered()
        self.lost: list[Lost] = []
        self._name: str | None = None
        self._offset = 0

    def identity(self) -> EmitterIdentity | None:
        """Return whose boot it is; None if nothing was ever promised in it."""
        for name in self._names():
            header = segment.read_header((self.folder / name).read_bytes())
            if header is not None:
                return header[0]
        return None

    def read(self, count: int, size: int, durable: Durable | None = None) -> list[SpooledEvent]:
        """Return the next undelivered events, in order; the same again until `note_delivered`.

        Args:
            count: at most so many events.
            size: at most so many bytes of documents, but at least one event.
            durable: how far a boot may be read that is still being written; None for all of it.
        """
        found: list[SpooledEvent] = []
        held = 0
        for spooled in self._undelivered(durable):
            held += len(spooled.event.encoded)
            if found and (len(found) >= count or held > size):
                break
            found.append(spooled)
        return found

    def note_delivered(self, next_sequence: int) -> None:
        """Note that everything before a sequence number was delivered; remove segments that hold nothing else.

        The newest segment stays, since it may still be appended to.
        """
        self.next_sequence = next_sequence
        encoded = next_sequence.to_bytes(4)
        (self.folder / DELIVERED).write_bytes(_NOTE.pack(next_sequence, zlib.crc32(encoded)))
        for name, behind in pairwise(self._names()):
            if (segment.first_sequence(behind) or 0) <= next_sequence:
                (self.folder / name).unlink(missing_ok=True)

    def size(self) -> int:
        """Return how many bytes the boot takes on the disk."""
        total = 0
        for name in self._names():
            with contextlib.suppress(FileNotFoundError):
                total += (self.folder / name).stat().st_size
        return total

    def remove(self) -> None:
        """Remove the segments of a boot of which everything was delivered."""
        for name in (*self._names(), DELIVERED):
            (self.folder / name).unlink(missing_ok=True)

    def _undelivered(self, durable: Durable | None) -> Iterator[SpooledEvent]:
        for name in self._names():
            if durable is not None and name > durable.name:
                return
            limit = durable.size if durable is not None and name == durable.name else None
            yield from self._in_segment(name, limit)

    def _in_segment(self, name: str, limit: int | None) -> Iterator[SpooledEvent]:
        encoded = (self.folder / name).read_bytes()[:limit]
        header = segment.read_header(encoded)
        if header is None:
            return
        begin = self._offset if name == self._name else header[1]
        for found, end in segment.read_frames(encoded, begin):
            if isinstance(found, Damage):
                self._note_lost(name, found)
            elif found.sequence >= self.next_sequence:
                yield found
            else:
                self._name, self._offset = name, end

    def _note_lost(self, name: str, damage: Damage) -> None:
        reason = f"bytes {damage.begin} to {damage.end} of {name} are damaged"
        lost = Lost(self.folder.name, reason)
        if lost not in self.lost:
            self.lost.append(lost)

    def _names(self) -> list[str]:
        try:
            names = [path.name for path in self.folder.iterdir()]
        except FileNotFoundError:
            return []
        return sorted(name for name in names if segment.first_sequence(name) is not None)

    def _delivered(self) -> int:
        try:
            number, checksum = _NOTE.unpack((self.folder / DELIVERED).read_bytes())
        except (FileNotFoundError, struct.error):
            return 0
        return int(number) if zlib.crc32(number.to_bytes(4)) == checksum else 0
