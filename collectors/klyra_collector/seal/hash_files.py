"""Make `hashes/` say what the leaves say: it is only ever a copy that can be made again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from klyra_collector.data_directory import ShardDirectory
    from klyra_collector.seal.durable import Disk


class HashFiles:
    """Compares each level with what recovery computes, block by block, and rewrites it from where it differs."""

    def __init__(self, shard: ShardDirectory, disk: Disk) -> None:
        self._shard = shard
        self._disk = disk
        self._written: dict[int, int] = {}

    def write(self, tile_hashes: Mapping[int, bytes]) -> None:
        """Go on with the next computed hashes of each level."""
        for level, expected in tile_hashes.items():
            path = self._shard.hashes(level)
            position = self._written.get(level, 0)
            if self._read(path, position, len(expected)) != expected:
                self._rewrite(path, position, expected)
            self._written[level] = position + len(expected)

    def finish(self) -> None:
        """Cut what stands behind the last computed hash."""
        folder = self._shard.hashes(0).parent
        for path in folder.glob("*") if folder.exists() else ():
            length = self._written.get(int(path.name), 0) if path.name.isdigit() else 0
            if path.stat().st_size > length:
                self._disk.truncate(path, length)

    @staticmethod
    def _read(path: Path, position: int, length: int) -> bytes:
        if not path.exists():
            return b""
        with path.open("rb") as file:
            file.seek(position)
            return file.read(length)

    def _rewrite(self, path: Path, position: int, expected: bytes) -> None:
        if path.exists():
            self._disk.truncate(path, position)
        descriptor, _ = self._disk.open_append(path)
        try:
            self._disk.append(descriptor, expected)
        finally:
            self._disk.close_file(descriptor)
