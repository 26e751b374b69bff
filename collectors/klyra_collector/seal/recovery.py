"""Bring a shard back to a state from which it can be continued: the same function at start and after a failed write.

What was signed must be there (else the shard was rolled back: refuse). What came after it is kept as far as this
collector committed it (`own_commits.py`), it is whole, continues the chains and has its content. The rest was never
acknowledged and is cut, on record: nothing that others wrote behind the end is ever signed.
"""

from __future__ import annotations

import copy
import mmap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import orjson

from klyra_audit.format import canonical, frame, note, sections
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.errors import CheckpointError, ControlError, FormatError, FrameError
from klyra_audit.format.leaf import LEAF_SIZE, Kind, Leaf
from klyra_audit.format.merkle import leaf_hash
from klyra_collector.data_directory import FRAMES, DataDirectory, ShardDirectory
from klyra_collector.errors import LedgerDamaged, LedgerRolledBack
from klyra_collector.seal.hash_files import HashFiles
from klyra_collector.seal.own_commits import OwnCommits
from klyra_collector.seal.state import BrokenChain, LedgerState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from klyra_audit.format.note import VerifyingKey
    from klyra_collector.seal.durable import Disk

_Frame = TypeVar("_Frame", frame.BodyFrame, frame.BlobFrame)

TAIL_UNVOUCHED: Final = "tail_unvouched"  # code of the refusal to sign what nothing says was committed here

_LEAVES_PER_READ = 8192
_CHOICES = (
    "Restore the missing files. What is there, what was signed, and how to go on if they are lost for good is said by: "
    "klyra-audit ledger explain"
)


@dataclass(frozen=True, slots=True)
class Cut:
    """What recovery removed: leaves from `size` on, and why the first of them could not stay."""

    size: int
    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """A shard ready to be continued; `cut` is None when nothing had to go, `own` vouches for what is committed next."""

    state: LedgerState
    cut: Cut | None
    own: OwnCommits


@dataclass(slots=True)
class _FrameFile:
    """One frame file's tail: where each frame from `start` on ends, and the frames themselves by index."""

    path: Path
    start: int
    ends: list[tuple[int, int]] = field(default_factory=list)
    damage: FrameError | None = None

    def end_of(self, size: int) -> int:
        """Return the offset behind the last frame of an index below `size`."""
        return max((end for index, end in self.ends if index < size), default=self.start)


@dataclass(frozen=True, slots=True)
class _Offsets:
    """Where every frame file ended when the shard had `size` leaves; unknown files are read from their beginning."""

    size: int
    lengths: dict[str, int]

    @classmethod
    def read(cls, shard: ShardDirectory, signed_size: int) -> _Offsets:
        """Read the file; without it, or if it is of another time, everything is read, which is slow but right."""
        try:
            stored = orjson.loads(shard.offsets.read_bytes())
            if stored["size"] <= signed_size:
                return cls(stored["size"], stored["lengths"])
        except (FileNotFoundError, orjson.JSONDecodeError, KeyError, TypeError):
            pass
        return cls(0, {})

    def start(self, data: DataDirectory, path: Path) -> int:
        """Return where to begin reading a file."""
        return int(self.lengths.get(str(path.relative_to(data.root)), 0))


@dataclass(slots=True)
class _Tail:
    """Everything readable in the frame files behind the offsets of the last checkpoint."""

    files: list[_FrameFile] = field(default_factory=list)
    bodies: dict[int, tuple[int | None, frame.BodyFrame]] = field(default_factory=dict)
    quarantined: set[int] = field(default_factory=set)

    def add(self, path: Path, start: int) -> _FrameFile:
        """Note a file whose tail is going to be read."""
        file = _FrameFile(path, start)
        self.files.append(file)
        return file


def recover(
    data: DataDirectory,
    shard: ShardDirectory,
    keys: Sequence[VerifyingKey],
    disk: Disk,
    *,
    now: str,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Recovered:
    """Return the state of a shard after cutting what cannot stay.

    Args:
        data: the data directory.
        shard: the shard to continue; may be empty.
        keys: the collector's own, under one of which `last-signed` must verify.
        disk: to cut with.
        now: names the folder that keeps what was cut.
        on_progress: called with leaves read and leaves in all.

    Raises:
        LedgerRolledBack: fewer leaves than were signed, or other ones.
        LedgerDamaged: a control document, or content that was signed for, cannot be read; or nothing is left that says
            which of the records behind the signed ones this collector committed (`tail_unvouched`).
    """
    hash_files = HashFiles(shard, disk)
    scan, tail = _scan(data, shard, keys, hash_files, on_progress)
    own = OwnCommits.read(data, shard, keys[-1].name)
    reason = scan.read_unsigned(tail, own)
    # Before the cut: were it behind it, a crash between the two would leave a state that nothing vouches for.
    own.settle(scan.state.size, scan.state.frontier.root(), disk)
    cut = _cut(data, shard, disk, tail, scan.state.size, now, reason)
    _make_durable(data, shard, disk, tail)
    hash_files.write(scan.state.frontier.take_tile_hashes())
    hash_files.finish()
    return Recovered(scan.state, cut, own)


def refuse_damaged(data: DataDirectory, shard: ShardDirectory, keys: Sequence[VerifyingKey]) -> None:
    """Raise what `recover` would refuse a shard with; write nothing."""
    scan, tail = _scan(data, shard, keys, _NoHashFiles(), lambda _done, _total: None)
    scan.read_unsigned(tail, OwnCommits.read(data, shard, keys[-1].name))


def _scan(
    data: DataDirectory,
    shard: ShardDirectory,
    keys: Sequence[VerifyingKey],
    hash_files: _TileHashes,
    on_progress: Callable[[int, int], None],
) -> tuple[_Scan, _Tail]:
    """Read what was signed, and what stands behind it; everything that refuses a shard is found in here."""
    signed = read_last_signed(shard, keys)
    signed_size = signed.size if signed else 0
    offsets = _Offsets.read(shard, signed_size)
    controls = _read_controls(shard, signed_size)
    scan = _Scan(shard, signed, offsets.size, controls, hash_files, on_progress)
    scan.read_signed()
    tail = _read_tail(data, shard, offsets, signed_size)
    _refuse_unreadable(tail, scan.expected)
    return scan, tail


class _TileHashes(Protocol):
    def write(self, tile_hashes: Mapping[int, bytes]) -> None:
        """See `HashFiles`."""
        ...


class _NoHashFiles:
    def write(self, tile_hashes: Mapping[int, bytes]) -> None:
        """Write nothing."""


def read_last_signed(shard: ShardDirectory, keys: Sequence[VerifyingKey]) -> Checkpoint | None:
    """Return the newest checkpoint ever signed, None if there is none.

    Raises:
        LedgerDamaged: it is there but does not verify.
    """
    try:
        encoded = shard.last_signed.read_bytes()
    except FileNotFoundError:
        if shard.checkpoint.exists():
            raise LedgerRolledBack(
                f"{shard.last_signed} is missing although a checkpoint was published.", remedy=_CHOICES
            ) from None
        return None
    try:
        return open_signed(encoded, keys)
    except FormatError as error:
        raise LedgerDamaged(
            f"{shard.last_signed} does not verify under this collector's key: {error}.",
            remedy="Restore the file, or the key it was signed with, or name that in ledger.outgoing_signer.",
        ) from error


def open_signed(encoded: bytes, keys: Sequence[VerifyingKey]) -> Checkpoint:
    """Return a checkpoint that one of a collector's keys has signed; `FormatError` if none has."""
    opened = note.open_note(encoded, keys)
    head = Checkpoint.parse(opened.text)
    if head.origin != opened.signed_by[0].name:
        raise CheckpointError(f"it is the head of {head.origin}")
    return head


class _Scan:
    """One pass over the leaves, building the state."""

    def __init__(
        self,
        shard: ShardDirectory,
        signed: Checkpoint | None,
        content_from: int,
        controls: dict[int, bytes],
        hash_files: _TileHashes,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self.state = LedgerState()
        self.expected: dict[int, int] = {}
        self.hash_files = hash_files
        self._content_from = content_from
        self._shard = shard
        self._signed = signed
        self._controls = controls
        self._on_progress = on_progress
        self._length = shard.leaves.stat().st_size if shard.leaves.exists() else 0

    def read_signed(self) -> None:
        """Read what was signed and check its root; `LedgerRolledBack` if it is not what was signed."""
        if self._signed is None:
            return
        if self._length < self._signed.size * LEAF_SIZE:
            raise LedgerRolledBack(
                f"{self._shard.leaves} holds {self._length // LEAF_SIZE} leaves, but {self._signed.size} were signed.",
                remedy=_CHOICES,
            )
        for encoded in self._leaves(0, self._signed.size):
            self._apply_signed(encoded)
        if self.state.frontier.root() != self._signed.root:
            raise LedgerRolledBack(
                f"The {self._signed.size} signed leaves in {self._shard.leaves} are not those that were signed.",
                remedy=_CHOICES,
            )

    def _apply_signed(self, encoded: bytes) -> None:
        index = self.state.size
        try:
            leaf = Leaf.unpack(encoded)
            self.state.apply_leaf(encoded, leaf)
        except (FormatError, BrokenChain) as error:
            raise LedgerRolledBack(f"Leaf {index}, which was signed, is damaged: {error}.", remedy=_CHOICES) from error
        if not Kind(leaf.kind).has_body:
            self._apply_control(index, leaf)
        elif index >= self._content_from:
            self.expected[index] = leaf.expire_day

    def _apply_control(self, index: int, leaf: Leaf) -> None:
        encoded = self._controls.get(index)
        if encoded is None or sections.control_commit(encoded) != leaf.commit:
            raise LedgerDamaged(
                f"The control document of leaf {index}, which was signed, is missing or altered.",
                remedy="Restore control/frames of this shard from a copy; see: klyra-audit ledger explain",
            )
        self._apply_document(index, leaf, canonical.parse_canonical(encoded))

    def _apply_document(self, index: int, leaf: Leaf, document: canonical.JsonObject) -> None:
        try:
            self.state.apply_control(leaf.kind, document, index)
        except ControlError as error:
            raise LedgerDamaged(
                f"The control document of leaf {index} has a form that is not known: {error}.",
                remedy="Run the version of klyra-audit that wrote it, or a newer one.",
                code="control_unknown",
            ) from error

    def read_unsigned(self, tail: _Tail, own: OwnCommits) -> str:
        """Read on as far as leaves were committed here, are whole and have their content; return why it stopped there.

        Raises:
            LedgerDamaged: `tail_unvouched`.
        """
        whole = self._length // LEAF_SIZE
        committed = whole if own.is_new else self._committed(own, whole)
        for encoded in self._leaves(self.state.size, whole):
            index = self.state.size
            try:
                leaf = Leaf.unpack(encoded)
                document = self._content(index, leaf, tail)
                self.state.check_leaf(leaf)
                if committed is None:
                    raise self._unvouched(whole)
                if index >= committed:
                    return f"leaf {index}: {_not_committed(index, own)}"
            except (FormatError, BrokenChain) as error:
                return f"leaf {index}: {error}"
            self.state.apply_leaf(encoded, leaf)
            if document is not None:
                self._apply_document(index, leaf, document)
        return "the last leaf is torn"

    def _committed(self, own: OwnCommits, whole: int) -> int | None:
        """Return how many leaves this collector committed, as far as they are here; None if nothing says so.

        Their content is not looked at: what of it a failing disk has lost is no reason to doubt the rest.
        """
        frontier = copy.deepcopy(self.state.frontier)
        sizes = own.sizes
        committed = frontier.size if own.has(frontier.size, frontier.root()) else None
        for encoded in self._read_leaves(self.state.size, whole):
            frontier.append(leaf_hash(encoded))
            if frontier.size in sizes and own.has(frontier.size, frontier.root()):
                committed = frontier.size
        return committed

    def _unvouched(self, whole: int) -> LedgerDamaged:
        return LedgerDamaged(
            f"{self._shard.leaves} holds {whole - self.state.size} records behind the {self.state.size} that were "
            f"signed, and {self._shard.own_commits} does not say that this collector committed any of them.",
            remedy="Restore that file, or keys/commit.key, from a copy; see: klyra-audit ledger explain",
            code=TAIL_UNVOUCHED,
        )

    def _content(self, index: int, leaf: Leaf, tail: _Tail) -> canonical.JsonObject | None:
        """Return the control document behind a leaf (None for a body), or raise if its content is not whole."""
        if not Kind(leaf.kind).has_body:
            encoded = self._controls.get(index)
            if encoded is None or sections.control_commit(encoded) != leaf.commit:
                raise BrokenChain("its control document is not durable")
            return canonical.parse_canonical(encoded)
        day, body = tail.bodies.get(index, (None, None))
        if body is None or day != leaf.expire_day or not _is_whole(body, leaf):
            raise BrokenChain("its body is not durable")
        if leaf.kind == Kind.QUARANTINE and index not in tail.quarantined:
            raise BrokenChain("its quarantined bytes are not durable")
        return None

    def _leaves(self, start: int, end: int) -> Iterator[bytes]:
        for number, encoded in enumerate(self._read_leaves(start, end), start + 1):
            yield encoded
            if number == end or (number - start) % _LEAVES_PER_READ == 0:
                self.hash_files.write(self.state.frontier.take_tile_hashes())
                self._on_progress(number, end)

    def _read_leaves(self, start: int, end: int) -> Iterator[bytes]:
        if start >= end:
            return
        with self._shard.leaves.open("rb") as file:
            file.seek(start * LEAF_SIZE)
            for position in range(start, end, _LEAVES_PER_READ):
                block = file.read(min(_LEAVES_PER_READ, end - position) * LEAF_SIZE)
                for offset in range(0, len(block), LEAF_SIZE):
                    yield block[offset : offset + LEAF_SIZE]


def _not_committed(index: int, own: OwnCommits) -> str:
    """Return why a leaf that has everything goes: part of a commit that was not finished, or written by another."""
    if index < max(own.sizes, default=0):
        return "its commit was not finished"
    return "this collector did not commit it"


def _is_whole(body: frame.BodyFrame, leaf: Leaf) -> bool:
    proofs = sections.commitments(body.sections, body.salts)
    return proofs == body.commitments and proofs.event_commit() == leaf.commit


def _read_controls(shard: ShardDirectory, signed_size: int) -> dict[int, bytes]:
    if not shard.control.exists():
        return {}
    controls: dict[int, bytes] = {}
    try:
        for _, _, blob in frame.read_blob_frames(shard.control.read_bytes()):
            controls[blob.index] = blob.payload
    except FrameError as error:
        if not error.torn and max(controls, default=-1) + 1 < signed_size:
            raise LedgerDamaged(
                f"{shard.control} is damaged: {error}.",
                remedy="Restore control/frames of this shard from a copy; see: klyra-audit ledger explain",
            ) from error
    return controls


def _read_tail(data: DataDirectory, shard: ShardDirectory, offsets: _Offsets, signed_size: int) -> _Tail:
    """Read every frame file from where it ended at the last checkpoint; all of it where that is not known."""
    tail = _Tail()
    for path in sorted(shard.bodies.glob(f"*/{FRAMES}")):
        file = tail.add(path, offsets.start(data, path))
        day = int(path.parent.name) if path.parent.name.isdigit() else None  # `held` takes no new records
        for index, end, body in _frames(file, frame.read_body_frames):
            file.ends.append((index, end))
            if index >= signed_size:
                tail.bodies[index] = (day, body)
    for path in sorted(data.quarantine.glob(f"*/{shard.quarantine_name}")):
        file = tail.add(path, offsets.start(data, path))
        file.ends += [(index, end) for index, end, _ in _frames(file, frame.read_blob_frames)]
        tail.quarantined.update(index for index, _ in file.ends)
    if shard.control.exists():
        file = tail.add(shard.control, offsets.start(data, shard.control))
        file.ends += [(index, end) for index, end, _ in _frames(file, frame.read_blob_frames)]
    return tail


def _frames(
    file: _FrameFile, read: Callable[[frame.Buffer], Iterator[tuple[int, int, _Frame]]]
) -> Iterator[tuple[int, int, _Frame]]:
    length = file.path.stat().st_size
    if length <= file.start:
        return
    with file.path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        try:
            with memoryview(mapped) as whole, whole[file.start :] as buffer:
                for _, end, item in read(buffer):
                    yield item.index, file.start + end, item
        except FrameError as error:
            file.damage = error


def _refuse_unreadable(tail: _Tail, expected: dict[int, int]) -> None:
    """Refuse to cut a damaged file in which content that was signed for would go with the rest."""
    for file in tail.files:
        if file.damage is None or file.path.name != FRAMES or not file.path.parent.name.isdigit():
            continue
        seen = {index for index, _ in file.ends}
        day = int(file.path.parent.name)
        lost = [index for index, expire_day in expected.items() if expire_day == day and index not in seen]
        if lost:
            raise LedgerDamaged(
                f"{file.path} is damaged before the body of leaf {lost[0]}, which was signed: {file.damage}.",
                remedy="Restore the file from a copy; see: klyra-audit ledger explain",
            )


def _cut(
    data: DataDirectory, shard: ShardDirectory, disk: Disk, tail: _Tail, size: int, now: str, reason: str
) -> Cut | None:
    """Cut leaves and frames behind `size`; keep a copy when leaves are among them.

    A crash in here leaves some files cut and some not: the next start finds the same size and goes on.
    """
    length = shard.leaves.stat().st_size if shard.leaves.exists() else 0
    ends = {file.path: file.end_of(size) for file in tail.files}
    if length > size * LEAF_SIZE:
        ends[shard.leaves] = size * LEAF_SIZE
    longer = {path: end for path, end in ends.items() if path.stat().st_size > end}
    if shard.leaves in longer:
        _keep(data, shard, disk, longer, now)
    for path, end in longer.items():
        disk.truncate(path, end)
    if shard.leaves not in longer:
        return None
    return Cut(size, -(-(length - size * LEAF_SIZE) // LEAF_SIZE), reason)


def _make_durable(data: DataDirectory, shard: ShardDirectory, disk: Disk, tail: _Tail) -> None:
    """Sync what is kept: a killed writer may have left it in memory alone, and nothing like that is ever signed."""
    for path in (shard.leaves, *(file.path for file in tail.files)):
        if path.exists():
            disk.sync_file(path)
            disk.sync_new_file(path, data.root)


def _keep(data: DataDirectory, shard: ShardDirectory, disk: Disk, ends: dict[Path, int], now: str) -> None:
    folder = shard.state / f"cut-{now}"
    for path, end in ends.items():
        with path.open("rb") as file:
            file.seek(end)
            disk.replace(folder / "-".join(path.relative_to(data.root).parts), file.read())
