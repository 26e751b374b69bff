"""Read quarantined bytes where the seal filed them: by expiry day, beside the ledger's shards (DESIGN section 10)."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from klyra_audit.format import frame
from klyra_audit.format.errors import FrameError
from klyra_audit.format.frame import BLOB_HEADER_SIZE
from klyra_collector.data_directory import DataDirectory, ShardDirectory
from klyra_collector.seal.expiry_facts import HELD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class QuarantinedBytes:
    """The quarantined bytes of all shards. Not thread-safe: each reader has its own.

    It remembers how far it has read each file, so that asking in index order reads each file once.
    """

    def __init__(self, data: DataDirectory) -> None:
        self._data = data
        self._read: dict[Path, tuple[int, int]] = {}  # the last index found, and the offset behind it

    def find(self, origin: str, index: int, expire_day: int) -> bytes | None:
        """Return the bytes kept of the record at `index`, whose leaf has `expire_day`; None if gone or damaged."""
        name = ShardDirectory(self._data.ledger / origin.rpartition("/")[2]).quarantine_name
        for folder in self._folders(expire_day):
            try:
                found = self._find_in(folder / name, index)
            except (FileNotFoundError, FrameError):
                continue
            if found is not None:
                return found
        return None

    def _folders(self, expire_day: int) -> Iterator[Path]:
        """Yield where the bytes may be: their own day, then what is held, then later days (an extension moved them)."""
        root = self._data.quarantine
        yield root / str(expire_day)
        yield root / HELD
        if root.is_dir():
            days = sorted(int(path.name) for path in root.iterdir() if path.name.isdecimal())
            yield from (root / str(day) for day in days if day > expire_day)

    def _find_in(self, path: Path, index: int) -> bytes | None:
        last, offset = self._read.get(path, (-1, 0))
        with path.open("rb") as file:
            found = _scan(file, offset, index) if index > last else None
            if found is None:  # moved frames stand out of order, so look through all of it
                found = _scan(file, 0, index)
        if found is None:
            return None
        payload, end = found
        self._read[path] = index, end
        return payload


def _scan(file: BinaryIO, offset: int, index: int) -> tuple[bytes, int] | None:
    """Return the payload of a frame from `offset` on, and the offset behind it; None if there is no such frame."""
    while True:
        file.seek(offset)
        header = file.read(BLOB_HEADER_SIZE)
        if len(header) < BLOB_HEADER_SIZE:
            return None
        found, length = frame.read_blob_header(header)
        end = offset + BLOB_HEADER_SIZE + length
        if found == index:
            whole = header + file.read(length)
            return frame.read_blob(whole, 0)[1].payload, end
        offset = end
