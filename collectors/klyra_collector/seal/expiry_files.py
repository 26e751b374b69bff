"""The files that expiry reads, moves and deletes: bodies and quarantined bytes of one shard, by expiry day.

Everything here can be repeated: a frame that stands in its new file already is not appended again.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import orjson

from klyra_audit.format import frame
from klyra_audit.format.errors import FrameError
from klyra_audit.format.frame import BLOB_MAGIC
from klyra_audit.format.leaf import LEAF_SIZE
from klyra_collector.data_directory import FRAMES
from klyra_collector.errors import LedgerDamaged
from klyra_collector.seal.expiry_facts import HELD
from klyra_collector.seal.expiry_plan import Leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from klyra_audit.format.frame import Buffer
    from klyra_collector.data_directory import DataDirectory, ShardDirectory
    from klyra_collector.seal.durable import Disk

FRAMES_AT_ONCE: Final = 4096  # some 10 ms of work
_BYTES_AT_ONCE = 4 * 1024 * 1024


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[Buffer]:
    """Give a file's bytes; empty for a file that is empty or missing."""
    if not path.exists() or path.stat().st_size == 0:
        yield b""
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as bytes_:
        yield bytes_  # type: ignore[misc] # an mmap slices to bytes


@contextlib.contextmanager
def leaves_of(shard: ShardDirectory, committed: int) -> Iterator[Leaves]:
    """Give the committed leaves of a shard."""
    with mapped(shard.leaves) as buffer:
        yield Leaves(buffer, min(committed, len(buffer) // LEAF_SIZE))


def spans(buffer: Buffer) -> Iterator[tuple[int, int, int]]:
    """Yield (index, offset, end) of each whole frame of a file of bodies, or of quarantined bytes.

    Raises:
        FrameError: as `read_body_header` and `read_blob`; torn for a last frame that is not whole.
    """
    offset = 0
    is_blobs = bytes(buffer[: len(BLOB_MAGIC)]) == BLOB_MAGIC
    while offset < len(buffer):
        if is_blobs:
            end, blob = frame.read_blob(buffer, offset)
            index = blob.index
        else:
            header = frame.read_body_header(buffer, offset)
            index, end = header.index, header.end
        if end > len(buffer):
            raise FrameError("a body frame is torn", offset, torn=True)
        yield index, offset, end
        offset = end


@dataclass(frozen=True, slots=True)
class DayFile:
    """One file of frames under an expiry day, or under `held`."""

    path: Path

    @property
    def folder(self) -> str:
        """The day's number, or `held`."""
        return self.path.parent.name

    @property
    def day(self) -> int | None:
        """The day; None for what is held."""
        return int(self.folder) if self.folder.isdigit() else None

    def filed_under(self, folder: str) -> Path:
        """Return the file of the same kind under another day, or under `held`."""
        return self.path.parent.parent / folder / self.path.name


def frame_files(data: DataDirectory, shard: ShardDirectory) -> list[DayFile]:
    """Return a shard's files of bodies and of quarantined bytes, by day, and those of what is held."""
    paths = [*shard.bodies.glob(f"*/{FRAMES}"), *data.quarantine.glob(f"*/{shard.quarantine_name}")]
    found = [DayFile(path) for path in sorted(paths)]
    return [file for file in found if file.day is not None or file.folder == HELD]


@dataclass(slots=True)
class ShardBodies:
    """The frame files of one shard.

    Attributes:
        data, shard: where they are.
        disk: to write with.
        forget: closes a file that the ledger's writer may have open.
    """

    data: DataDirectory
    shard: ShardDirectory
    disk: Disk
    forget: Callable[[Path], None]
    _present: dict[Path, set[int]] = field(default_factory=dict)

    def files(self) -> list[DayFile]:
        """Return all files of frames, by day."""
        return frame_files(self.data, self.shard)

    def due(self, day: int) -> list[DayFile]:
        """Return the files of days up to one."""
        return [file for file in self.files() if file.day is not None and file.day <= day]

    def held(self) -> list[DayFile]:
        """Return the files of what is held."""
        return [file for file in self.files() if file.day is None]

    def move(self, file: DayFile, destination: Callable[[int], str | None]) -> Generator[None, None, None]:
        """Append the frames that are kept on to the files they belong to, durably. Yields after each piece.

        A crash in here leaves frames in both files, perhaps a torn one at the end of the new file: they are found
        there and not appended again, a torn end is cut first.

        Raises:
            LedgerDamaged: a frame cannot be read, so that nobody can say what would go with the file.
        """
        parts: dict[Path, bytearray] = {}
        touched: set[Path] = set()
        with mapped(file.path) as buffer:
            for number, (index, offset, end) in enumerate(_spans(file.path, buffer), 1):
                folder = destination(index)
                if folder is not None and folder != file.folder:
                    path = file.filed_under(folder)
                    if index not in self._indexes(path):
                        self._indexes(path).add(index)
                        parts.setdefault(path, bytearray()).extend(buffer[offset:end])
                        touched.add(path)
                if number % FRAMES_AT_ONCE == 0 or sum(map(len, parts.values())) > _BYTES_AT_ONCE:
                    self._append(parts)
                    yield
        self._append(parts)
        for path in sorted(touched):
            self.disk.sync_file(path)
            self.disk.sync_new_file(path, self.data.root)
        self._present.clear()

    def remove(self, file: DayFile) -> None:
        """Delete a file, and its folder if nothing else is in it.

        A crash in here leaves an empty folder at most, which the next removal in it, or nobody, misses.
        """
        self.forget(file.path)
        file.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another shard's quarantined bytes lie in the same folder
            file.path.parent.rmdir()
        self.disk.sync_directory(file.path.parent.parent)

    def sift(self, file: DayFile, stays: Callable[[int], bool]) -> Generator[None, None, None]:
        """Leave in a file only the frames that stay; delete it if none does. Yields after each piece.

        The new file is made beside the old one and takes its name: a crash before that leaves the old one whole.
        """
        beside = file.path.with_name(f"{file.path.name}.new")
        kept = 0
        with beside.open("wb") as target, mapped(file.path) as buffer:
            for number, (index, offset, end) in enumerate(_spans(file.path, buffer), 1):
                if stays(index):
                    kept += 1
                    target.write(buffer[offset:end])
                if number % FRAMES_AT_ONCE == 0:
                    yield
            target.flush()
            os.fsync(target.fileno())
        if kept:
            self.forget(file.path)
            beside.replace(file.path)
            self.disk.sync_directory(file.path.parent)
        else:
            beside.unlink()
            self.remove(file)

    def _indexes(self, path: Path) -> set[int]:
        """Return which frames stand in a file already, after cutting a torn end that a crash left in it."""
        present = self._present.get(path)
        if present is None:
            present = self._present[path] = set()
            try:
                with mapped(path) as buffer:
                    present.update(index for index, _, _ in spans(buffer))
            except FrameError as error:
                if not error.torn:
                    raise _unreadable(path, error) from error
                self.disk.truncate(path, error.offset)
        return present

    def _append(self, parts: dict[Path, bytearray]) -> None:
        for path, content in parts.items():
            descriptor, _ = self.disk.open_append(path)
            length = os.fstat(descriptor).st_size
            try:
                self.disk.append(descriptor, content)
            except OSError:
                # The writer may append to the same file next: half a frame must not stand before its own.
                self.disk.truncate(path, length)
                raise
            finally:
                self.disk.close_file(descriptor)
        parts.clear()


@dataclass(frozen=True, slots=True)
class ExpiredState:
    """How far a shard's bodies were named: `state/expired`. Derived; without it everything is looked at again.

    Attributes:
        day: every body that was due up to this UTC day is named by an EXPIRY, or held.
    """

    day: int

    @classmethod
    def read(cls, shard: ShardDirectory) -> ExpiredState | None:
        """Return what a shard's file says; None if there is none that can be read."""
        try:
            return cls(int(orjson.loads((shard.state / "expired").read_bytes())["day"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, shard: ShardDirectory, disk: Disk) -> None:
        """Replace the file, durably."""
        disk.replace(shard.state / "expired", orjson.dumps({"day": self.day}))


def _spans(path: Path, buffer: Buffer) -> Iterator[tuple[int, int, int]]:
    try:
        yield from spans(buffer)
    except FrameError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: FrameError) -> LedgerDamaged:
    return LedgerDamaged(
        f"{path} cannot be expired: {error}; a legal hold or an extension may need what is in it.",
        remedy="See what is wrong with: klyra-audit verify; then restore the file from a copy.",
    )
