"""The growing files of a shard: leaves, frames by expiry day, control documents, quarantined bytes."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from klyra_audit.format.leaf import LEAF_SIZE
from klyra_collector.data_directory import FRAMES, DataDirectory, ShardDirectory

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from klyra_collector.seal.durable import Disk

COMMITTED = struct.Struct(">Q")
_MAX_OPEN = 64  # a commit touches at most some 20: 8 retention lengths, twice, and the shard's own files


class ShardFiles:
    """Open files of the shard being written. One writer; the sealing thread owns it."""

    def __init__(self, disk: Disk, data: DataDirectory, shard: ShardDirectory) -> None:
        self._disk = disk
        self._data = data
        self.shard = shard
        self._open: dict[Path, int] = {}
        self._found: dict[Path, int] = {}
        self._created: list[Path] = []
        self._committed = os.open(self._made(shard.committed), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def close(self) -> None:
        """Close everything; nothing is synced here."""
        for descriptor in (*self._open.values(), self._committed):
            os.close(descriptor)
        self._open.clear()

    def body_path(self, expire_day: int) -> Path:
        """Return the file of bodies that may go on a day."""
        return self.shard.bodies / str(expire_day) / FRAMES

    def quarantine_path(self, expire_day: int) -> Path:
        """Return the file of quarantined bytes that may go on a day."""
        return self._data.quarantine / str(expire_day) / self.shard.quarantine_name

    def write_content(self, contents: Mapping[Path, bytes | bytearray], vouching: int) -> None:
        """Append bodies and control documents and make them and their names durable.

        A crash here leaves frames without leaves: recovery removes them, nobody was told of them.

        Args:
            contents: what to append to each file.
            vouching: descriptor of what vouches for the leaves that follow (`OwnCommits.write`), synced beside them.
        """
        descriptors = []
        for path, content in contents.items():
            descriptor = self._descriptor(path)
            self._disk.append(descriptor, content)
            descriptors.append(descriptor)
        self._disk.sync([*descriptors, vouching])
        self._sync_names()

    def write_leaves(self, leaves: bytes | bytearray) -> None:
        """Append leaves and make them durable: when this returns, the records are committed.

        A crash before the sync may leave some of them: recovery keeps all, if all are there, which harms nobody, or
        cuts them.
        """
        descriptor = self._descriptor(self.shard.leaves)
        self._disk.append(descriptor, leaves)
        self._disk.sync([descriptor])
        self._sync_names()

    def publish_committed(self, size: int) -> None:
        """Let followers read up to `size`. A crash before this only makes them wait for the next start."""
        os.pwrite(self._committed, COMMITTED.pack(size), 0)

    def append_hashes(self, tile_hashes: Mapping[int, bytes]) -> None:
        """Append tile hashes. Not synced: they follow from the leaves, and recovery writes them again."""
        for level, hashes in tile_hashes.items():
            self._disk.append(self._descriptor(self.shard.hashes(level)), hashes)

    def lengths(self) -> dict[str, int]:
        """Return the present length of every open frame file, by its path below the data directory."""
        root = self._data.root
        return {
            str(path.relative_to(root)): os.fstat(descriptor).st_size
            for path, descriptor in self._open.items()
            if self._holds_frames(path)
        }

    def roll_back(self, size: int, lengths: Mapping[str, int]) -> None:
        """Cut every open file back to what was durable: `size` leaves and frame files of `lengths`.

        A file that is not in `lengths` was opened since, and held by then what was durable in it. Called after a
        failed write, for records that nobody was told of. Raises OSError while the disk still fails.
        """
        for path in list(self._open):
            relative = str(path.relative_to(self._data.root))
            if path == self.shard.leaves:
                self._disk.truncate(path, size * LEAF_SIZE)
            elif self._holds_frames(path) and path.exists():
                self._disk.truncate(path, lengths.get(relative, self._found[path]))

    def forget(self, path: Path) -> None:
        """Close a file whose name is going; what is appended to the name later is another file."""
        descriptor = self._open.pop(path, None)
        self._found.pop(path, None)
        if descriptor is not None:
            os.close(descriptor)

    def _descriptor(self, path: Path) -> int:
        descriptor = self._open.pop(path, None)
        if descriptor is None:
            descriptor, created = self._disk.open_append(path)
            self._found[path] = os.fstat(descriptor).st_size
            if created:
                self._created.append(path)
        self._open[path] = descriptor  # last in order of use
        if len(self._open) > _MAX_OPEN:
            self.forget(next(iter(self._open)))
        return descriptor

    def _sync_names(self) -> None:
        while self._created:
            self._disk.sync_new_file(self._created[-1], self._data.root)
            self._created.pop()

    def _holds_frames(self, path: Path) -> bool:
        return path.name in (FRAMES, self.shard.quarantine_name)

    @staticmethod
    def _made(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
