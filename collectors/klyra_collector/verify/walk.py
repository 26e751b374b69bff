"""Walk over the frames of a file that may be damaged: name the damage, find the next whole frame, go on.

Pure: bytes come through `Source`, never more than one frame's worth at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Generic, Protocol, TypeVar

from klyra_audit.format import frame
from klyra_audit.format.errors import FrameError
from klyra_audit.format.frame import BlobFrame, BodyFrame

if TYPE_CHECKING:
    from collections.abc import Iterator

WINDOW_BYTES: Final = 1024 * 1024
PROBE_BYTES: Final = 256 * 1024 * 1024  # bytes looked at in vain before the rest of a file is given up

_BLOB_LENGTH: Final = slice(12, 16)  # of a record frame's header, behind magic and index

_Frame = TypeVar("_Frame", BodyFrame, BlobFrame)


class Source(Protocol):
    """Something to read frames from: a file as long as it was when it was opened."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`, fewer only at the end."""
        ...

    def data_from(self, offset: int) -> int:
        """Return where, at or behind an offset, anything but a hole begins; `size` where nothing does."""
        ...


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are no frame.

    Attributes:
        offset, end: where they stand.
        torn: they reach to the end of the file, as if it had been cut.
        reason: what is wrong with them.
    """

    offset: int
    end: int
    torn: bool
    reason: str


class Walker(ABC, Generic[_Frame]):
    """Reads one file's frames, from its beginning or from any other place, forward."""

    magic: ClassVar[bytes]
    header_size: ClassVar[int]
    max_bytes: ClassVar[int]

    def __init__(self, source: Source) -> None:
        self._source = source
        self._buffer = b""
        self._base = 0
        self._probes_left = PROBE_BYTES

    def walk(self, start: int, stop: int) -> Iterator[tuple[int, int, _Frame | Damage]]:
        """Yield (offset, end, frame or damage) for everything that begins in [start, stop)."""
        offset = start
        while offset < min(stop, self._source.size):
            item: _Frame | Damage
            try:
                end, item = self._decode(offset)
            except FrameError as error:
                end = self._next_frame(offset)
                torn = error.torn and end == self._source.size
                item = Damage(offset, end, torn, str(error).partition(" at byte ")[0])
            yield offset, end, item
            offset = end

    def first_frame(self, start: int, stop: int) -> int | None:
        """Return where the first whole frame at or after `start` begins, None if there is none before `stop`."""
        if start == 0:
            return 0
        found = self._scan(start, stop)
        return found if found < stop else None

    @abstractmethod
    def _read(self, buffer: bytes, offset: int) -> tuple[int, _Frame]:
        """Read the frame at an offset of a buffer."""

    @abstractmethod
    def _claimed_length(self, header: bytes) -> int:
        """Return how long a frame says it is; any positive number for a header that says nothing."""

    @abstractmethod
    def _check_at(self, offset: int, header: bytes) -> None:
        """Raise FrameError unless a frame begins here."""

    def _decode(self, offset: int) -> tuple[int, _Frame]:
        while True:
            try:
                end, item = self._read(self._buffer, offset - self._base)
            except FrameError as error:
                if not error.torn or not self._fill(offset):
                    raise
            else:
                return self._base + end, item

    def _fill(self, offset: int) -> bool:
        """Read (more) from `offset` on; False if there is no more, or more than a frame can be."""
        held = len(self._buffer) if self._base == offset else 0
        if held and (offset + held >= self._source.size or held >= self.max_bytes):
            return False
        self._base = offset
        self._buffer = self._source.read(offset, min(max(WINDOW_BYTES, 2 * held), self.max_bytes))
        return len(self._buffer) > held

    def _next_frame(self, offset: int) -> int:
        """Return where to go on behind a damaged frame: where it says it ends, or at the next whole frame."""
        header = self._source.read(offset, self.header_size)
        if len(header) == self.header_size and header.startswith(self.magic):
            claimed = offset + self._claimed_length(header)
            if claimed == self._source.size or self._is_frame(claimed):
                return claimed
        return self._scan(offset + 1, self._source.size)

    def _scan(self, offset: int, stop: int) -> int:
        """Return where the next whole frame begins, the end of the file if there is none (before `stop`).

        None begins in a hole: no byte of a magic number is zero.
        """
        while (offset := self._source.data_from(offset)) < stop and self._probes_left > 0:
            window = self._source.read(offset, WINDOW_BYTES)
            at = window.find(self.magic)
            while at >= 0:
                if self._is_frame(offset + at):
                    return offset + at
                at = window.find(self.magic, at + 1)
            if len(window) < WINDOW_BYTES:
                break
            offset += len(window) - len(self.magic) + 1
        return self._source.size

    def _is_frame(self, offset: int) -> bool:
        header = self._source.read(offset, self.header_size)
        if self._probes_left <= 0 or len(header) < self.header_size or not header.startswith(self.magic):
            return False
        if self._claimed_length(header) > min(self.max_bytes, self._source.size - offset):
            return False
        try:
            self._check_at(offset, header)
        except FrameError:
            self._probes_left -= self._claimed_length(header)
            return False
        return True


class BodyWalker(Walker[BodyFrame]):
    """Reads body frames; a whole header is enough to go on at, since its checksum covers the lengths."""

    magic = frame.BODY_MAGIC
    header_size = frame.BODY_HEADER_SIZE
    max_bytes = 8 * 1024 * 1024  # three sections of at most 32 KiB, and an emitter's evidence

    def _read(self, buffer: bytes, offset: int) -> tuple[int, BodyFrame]:
        return frame.read_body(buffer, offset)

    def _claimed_length(self, header: bytes) -> int:
        try:
            return frame.read_body_header(header, 0).end
        except FrameError:
            return len(header)

    def _check_at(self, _offset: int, header: bytes) -> None:
        frame.read_body_header(header, 0)


class BlobWalker(Walker[BlobFrame]):
    """Reads record frames; their content is under the checksum, so all of it must be whole."""

    magic = frame.BLOB_MAGIC
    header_size = frame.BLOB_HEADER_SIZE
    max_bytes = frame.MAX_PART_BYTES + frame.BLOB_HEADER_SIZE

    def _read(self, buffer: bytes, offset: int) -> tuple[int, BlobFrame]:
        return frame.read_blob(buffer, offset)

    def _claimed_length(self, header: bytes) -> int:
        return self.header_size + int.from_bytes(header[_BLOB_LENGTH])

    def _check_at(self, offset: int, header: bytes) -> None:
        frame.read_blob(self._source.read(offset, self._claimed_length(header)), 0)
