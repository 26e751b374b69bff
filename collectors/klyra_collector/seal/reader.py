"""Read committed records in order: what every follower sees of a ledger, from another process, without locks."""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Final

import orjson

from klyra_audit.format import canonical, frame
from klyra_audit.format.errors import FormatError, FrameError
from klyra_audit.format.leaf import LEAF_SIZE, Kind, Leaf
from klyra_audit.timestamps import day_of
from klyra_collector.data_directory import FRAMES, DataDirectory, ShardDirectory
from klyra_collector.errors import LedgerDamaged
from klyra_collector.seal.consent import read_consent
from klyra_collector.seal.expiry_controls import ControlLog
from klyra_collector.seal.files import COMMITTED
from klyra_collector.seal.quarantined import QuarantinedBytes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.frame import BodyFrame
    from klyra_collector.seal.expiry_facts import RetentionFacts

_REMEDY = "See what is wrong with: klyra-audit verify; then restore the file from a copy."

MARK_BYTES: Final = 65_536  # between places in a file of bodies that a reader goes back to


@dataclass(frozen=True, slots=True)
class SealedRecord:
    """One committed record.

    Attributes:
        origin, index: where it stands; what a cursor holds.
        leaf_bytes, leaf: its 112 bytes, packed and unpacked.
        body: of an EVENT or QUARANTINE; None once its day's file is gone.
        control: the document of any other kind.
    """

    origin: str
    index: int
    leaf_bytes: bytes
    leaf: Leaf
    body: BodyFrame | None
    control: JsonObject | None


class LedgerReader:
    """Reads all shards of one collector's ledger. Not thread-safe: each follower has its own.

    Raises from every method:
        LedgerDamaged: a committed record cannot be read; nothing behind it is handed out.
    """

    def __init__(self, ledger: Path, readable: Mapping[str, int] | None = None) -> None:
        """Prepare to read.

        Args:
            ledger: the folder of shards.
            readable: how many records of a shard to read, whatever its `state/committed` says, by origin.
        """
        self._ledger = ledger
        self._shards: dict[str, _ShardReader] = {}
        self._readable: dict[str, int | None] = dict(readable or {})
        self._retention = ControlLog(self)
        self._quarantined = QuarantinedBytes(DataDirectory(ledger.parent))

    def origins(self) -> list[str]:
        """Return the origins of all shards, oldest first; none before the first start."""
        identity = self._ledger / "identity.json"
        if not identity.exists():
            return []
        names = orjson.loads(identity.read_bytes())
        prefix = f"{names['ledger_name']}/{names['collector_id']}"
        folders = sorted((path for path in self._ledger.iterdir() if path.name[0].isdigit()), key=shard_order)
        origins = {f"{prefix}/{path.name}": ShardDirectory(path) for path in folders}
        for before, following in pairwise(origins):
            self._look_for_consent(before, origins[following])
        return [origin for origin in origins if self.left_behind(origin) or origins[origin].committed.exists()]

    def left_behind(self, origin: str) -> bool:
        """Say whether an operator went on after a disaster in this shard: what is lost of it is lost."""
        return self._readable.get(origin) is not None

    def committed(self, origin: str) -> int:
        """Return how many records of a shard may be read; of one left behind, as many as could be read then."""
        return self._shard(origin).committed()

    def read(self, origin: str, start: int, limit: int) -> list[SealedRecord]:
        """Return up to `limit` committed records from index `start` on."""
        shard = self._shard(origin)
        for other in self._shards.values():
            if other is not shard:
                other.close()  # or a closed shard's last files would stay on disk after their time
        return shard.read(start, limit)

    def leaves(self, origin: str, indexes: Collection[int]) -> dict[int, bytes]:
        """Return the bytes of leaves by index, of those that are committed; none of a shard that is not here."""
        if origin not in self._shards and origin not in self.origins():
            return {}
        return self._shard(origin).leaves(indexes)

    def retention(self) -> RetentionFacts:
        """Return what all committed control records say about how long bodies are kept."""
        return self._retention.catch_up()

    def first_of_day(self, origin: str, day: int) -> int:
        """Return the index of the first record of a shard sealed on a UTC day (since 1970) or later."""
        return self._shard(origin).first_of_day(day)

    def controls(self, origin: str, start: int, limit: int) -> list[tuple[int, bytes]]:
        """Return up to `limit` committed control documents from index `start` on, as (index, canonical bytes)."""
        return self._shard(origin).controls(start, limit)

    def quarantined(self, record: SealedRecord) -> bytes | None:
        """Return the bytes kept of a QUARANTINE record, unchecked; None if they are gone or damaged."""
        return self._quarantined.find(record.origin, record.index, record.leaf.expire_day)

    def close(self) -> None:
        """Close all files."""
        for shard in self._shards.values():
            shard.close()
        self._shards.clear()

    def _shard(self, origin: str) -> _ShardReader:
        shard = self._shards.get(origin)
        if shard is None:
            self.origins()
            directory = ShardDirectory(self._ledger / origin.rpartition("/")[2])
            shard = self._shards[origin] = _ShardReader(origin, directory, self._retention)
        shard.readable = self._readable.get(origin)
        return shard

    def _look_for_consent(self, origin: str, following: ShardDirectory) -> None:
        """Read once why a shard was followed by another; a folder without records yet may still get a consent."""
        if origin not in self._readable:
            consent = read_consent(following)
            if consent is not None or following.committed.exists():
                self._readable[origin] = None if consent is None else consent.readable


def shard_order(path: Path) -> tuple[int, int]:
    """Sort key of shard folders: by year, then by number (`2026`, `2026-2`, `2027`)."""
    year, _, number = path.name.partition("-")
    return int(year), int(number or 1)


class _ShardReader:
    def __init__(self, origin: str, directory: ShardDirectory, retention: ControlLog) -> None:
        self._origin = origin
        self._directory = directory
        self._retention = retention
        self._bodies: dict[str, _BodyFile] = {}
        self._controls = _ControlFile(directory.control)
        self._scan = _ControlScan(directory.control)
        self._is_fresh = False
        self.readable: int | None = None

    def close(self) -> None:
        for bodies in self._bodies.values():
            bodies.close()
        self._bodies.clear()

    def committed(self) -> int:
        if self.readable is not None:
            return self.readable
        encoded = self._directory.committed.read_bytes()
        return int(COMMITTED.unpack(encoded)[0]) if len(encoded) == COMMITTED.size else 0

    def controls(self, start: int, limit: int) -> list[tuple[int, bytes]]:
        try:
            return self._scan.read(start, limit, self.committed())
        except FormatError as error:
            raise LedgerDamaged(f"{self._directory.control} is damaged: {error}.", remedy=_REMEDY) from error

    def read(self, start: int, limit: int) -> list[SealedRecord]:
        count = min(limit, self.committed() - start)
        if count <= 0:
            return []
        self._is_fresh = False
        self._drop_deleted()
        with self._directory.leaves.open("rb") as file:
            block = os.pread(file.fileno(), count * LEAF_SIZE, start * LEAF_SIZE)
        if len(block) != count * LEAF_SIZE:
            raise LedgerDamaged(
                f"{self._directory.leaves} is shorter than its {start + count} committed leaves.", remedy=_REMEDY
            )
        records = [
            self._record(start + position, block[position * LEAF_SIZE : (position + 1) * LEAF_SIZE])
            for position in range(count)
        ]
        self._drop_idle(records)
        return records

    def leaves(self, indexes: Collection[int]) -> dict[int, bytes]:
        committed = self.committed()
        wanted = [index for index in indexes if 0 <= index < committed]
        if not wanted:
            return {}  # of a shard that was left behind there may be no file
        with self._directory.leaves.open("rb") as file:
            found = {index: os.pread(file.fileno(), LEAF_SIZE, index * LEAF_SIZE) for index in wanted}
        if any(len(leaf) != LEAF_SIZE for leaf in found.values()):
            raise LedgerDamaged(
                f"{self._directory.leaves} is shorter than its {committed} committed leaves.", remedy=_REMEDY
            )
        return found

    def first_of_day(self, day: int) -> int:
        committed = self.committed()
        if not committed:
            return 0
        with self._directory.leaves.open("rb") as file:

            def day_at(index: int) -> int:
                return day_of(Leaf.unpack(os.pread(file.fileno(), LEAF_SIZE, index * LEAF_SIZE)).ingest_us)

            try:
                return bisect_left(range(committed), day, key=day_at)  # ingest times never decrease
            except FormatError as error:
                raise LedgerDamaged(f"{self._directory.leaves} is damaged: {error}.", remedy=_REMEDY) from error

    def _record(self, index: int, encoded: bytes) -> SealedRecord:
        try:
            leaf = Leaf.unpack(encoded)
            if Kind(leaf.kind).has_body:
                return SealedRecord(self._origin, index, encoded, leaf, self._body(index, leaf), None)
            return SealedRecord(self._origin, index, encoded, leaf, None, self._controls.find(index))
        except (FormatError, KeyError) as error:
            raise LedgerDamaged(f"Record {index} of {self._origin} cannot be read: {error}.", remedy=_REMEDY) from error

    def _body(self, index: int, leaf: Leaf) -> BodyFrame | None:
        body = self._body_in(str(leaf.expire_day), index)
        return self._moved(index, leaf) if body is None else body

    def _moved(self, index: int, leaf: Leaf) -> BodyFrame | None:
        """Look for a body whose day's file is gone where expiry puts what is extended or held."""
        if not self._is_fresh:
            self._retention.catch_up()
            self._is_fresh = True
        for folder in self._retention.facts.folders(self._origin, leaf):
            try:
                body = self._body_in(folder, index)
            except BodyMissing:
                continue
            if body is not None:
                return body
        return None

    def _body_in(self, folder: str, index: int) -> BodyFrame | None:
        bodies = self._bodies.get(folder)
        if bodies is None:
            bodies = self._bodies[folder] = _BodyFile(self._directory.bodies / folder / FRAMES)
        return bodies.find(index)

    def _drop_deleted(self) -> None:
        """Close files that expiry has deleted: what is gone must not be read from where it was mapped."""
        for folder in [folder for folder, bodies in self._bodies.items() if bodies.is_gone]:
            self._bodies.pop(folder).close()

    def _drop_idle(self, records: list[SealedRecord]) -> None:
        """Close files of days that this read did not touch; a follower at the end needs a handful."""
        used = {str(record.leaf.expire_day) for record in records}
        for folder in [folder for folder in self._bodies if folder not in used]:
            self._bodies.pop(folder).close()


class BodyMissing(FormatError):  # noqa: N818 - read as what it found
    """A file of bodies that has not the one asked for."""


class _BodyFile:
    """One day's bodies, read forward. Asking for an earlier index goes back to the nearest mark before it.

    Offsets never change: sections are overwritten in place, and files only grow. What expiry appended because it is
    extended or held may stand behind greater indexes; it is looked up.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mapped: mmap.mmap | None = None
        self._offset = 0
        self._last = -1
        self._marks: list[tuple[int, int]] = [(-1, 0)]  # index and offset of a frame, both ascending
        self._appended: tuple[int, dict[int, int]] = (0, {})

    def close(self) -> None:
        if self._mapped is not None:
            self._mapped.close()
            self._mapped = None

    @property
    def is_gone(self) -> bool:
        """Whether the file was deleted."""
        return not self._path.exists()

    def find(self, index: int) -> BodyFrame | None:
        """Return the body of a leaf; None if the file is gone; BodyMissing if the body is not in it."""
        first, mark = self._marks[bisect_right(self._marks, index, key=itemgetter(0)) - 1]
        if index <= self._last or mark > self._offset:
            self._offset, self._last = mark, first - 1
        try:
            self._map(grown=False)
            return self._forward(index)
        except FileNotFoundError:
            return None
        except BodyMissing:
            offset = self._find_appended(index)
            if offset is None:
                raise
            return frame.read_body(self._buffer(), offset)[1]

    def _find_appended(self, index: int) -> int | None:
        """Return where a frame stands that is behind one of a greater index; None if there is no such frame."""
        self._offset, self._last = 0, -1
        self._map(grown=True)
        buffer = self._buffer()
        length, found = self._appended
        if length != len(buffer):
            found = {}
            offset, highest = 0, -1
            while offset < len(buffer):
                header = frame.read_body_header(buffer, offset)
                if header.index < highest:
                    found[header.index] = offset
                highest = max(highest, header.index)
                offset = header.end
            self._appended = len(buffer), found
        return found.get(index)

    def _buffer(self) -> frame.Buffer:
        assert self._mapped is not None  # noqa: S101 - _map either maps or raises
        return self._mapped  # type: ignore[return-value] # an mmap slices to bytes

    def _forward(self, index: int) -> BodyFrame:
        while True:
            if self._mapped is None or self._offset >= len(self._mapped):
                self._map(grown=True)
            buffer = self._buffer()
            header = frame.read_body_header(buffer, self._offset)
            if header.index > index:
                raise BodyMissing(f"its body is missing in {self._path}")
            if self._offset >= self._marks[-1][1] + MARK_BYTES and header.index > self._marks[-1][0]:
                self._marks.append((header.index, self._offset))
            if header.index == index:
                self._offset, body = frame.read_body(buffer, self._offset)
                self._last = index
                return body
            self._offset = header.end

    def _map(self, *, grown: bool) -> None:
        if self._mapped is not None and not grown:
            return
        with self._path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            if length <= self._offset:
                raise BodyMissing(f"its body is missing at the end of {self._path}")
            self.close()
            self._mapped = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ)


class _ControlFile:
    """Control documents, read forward and kept: they are few and small."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._documents: dict[int, JsonObject] = {}

    def find(self, index: int) -> JsonObject:
        """Return a control document; KeyError if it is not there."""
        if index not in self._documents:
            self._read_on()
        return self._documents[index]

    def _read_on(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            buffer = file.read()
        try:
            for _, _, blob in frame.read_blob_frames(buffer):
                self._documents[blob.index] = canonical.parse_canonical(blob.payload)
        except FrameError as error:
            if not error.torn:  # a torn tail is a commit being written right now
                raise
            read = error.offset
        else:
            read = len(buffer)
        self._offset += read


class _ControlScan:
    """Control documents as they were sealed, read on from where the last reading ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next = 0
        self._offset = 0

    def read(self, start: int, limit: int, committed: int) -> list[tuple[int, bytes]]:
        """Return up to `limit` documents from index `start` on, below `committed`; FrameError if one is damaged."""
        if start < self._next:
            self._next, self._offset = 0, 0
        found: list[tuple[int, bytes]] = []
        if self._path.stat().st_size <= self._offset:
            return found
        with self._path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            buffer: frame.Buffer = mapped  # type: ignore[assignment] # an mmap slices to bytes
            try:
                for _, end, blob in frame.read_blob_frames(buffer, self._offset):
                    if blob.index >= committed or len(found) == limit:
                        break
                    if blob.index >= start:
                        found.append((blob.index, blob.payload))
                    self._next, self._offset = blob.index + 1, end
            except FrameError as error:
                if not error.torn:  # a torn tail is a commit being written right now
                    raise
        return found
