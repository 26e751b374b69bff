"""One shard as an export packet needs it: one organization's leaves, their bodies, and what proves them.

Everything is read under one signed head, so a packet is of one moment however much is sealed meanwhile.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from typing import TYPE_CHECKING, Final, Self

from klyra_audit.format import frame, merkle
from klyra_audit.format.errors import FrameError, ProofError
from klyra_audit.format.heads import Head, HeadProof, head_proof
from klyra_audit.format.leaf import LEAF_SIZE, VERSION, Kind, Leaf
from klyra_audit.format.merkle import leaf_hash
from klyra_audit.format.proof import TlogProof
from klyra_audit.format.sections import OPERATOR_REFERENCE
from klyra_collector.errors import LedgerDamaged
from klyra_collector.publish.packet_bodies import PacketBodies

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from klyra_audit.format.checkpoint import Checkpoint
    from klyra_audit.format.frame import BlobFrame
    from klyra_collector.publish.published import PublishedShard

_REMEDY: Final = "See what is wrong with: klyra-audit verify; then restore the file from a copy."
_REFERENCE_AT: Final = 8
_EMITTER_AT: Final = 40
_SEQUENCE_AT: Final = slice(24, 32)
_INGEST_AT: Final = slice(32, 40)
_BLOCK_LEAVES: Final = 16 * 1024
# A HEADS leaf from its first byte: version, kind, no flags, no expiry, the operator's reference.
_HEADS_LEAF: Final = bytes((VERSION, Kind.HEADS, 0, 0, 255, 255, 255, 255)) + OPERATOR_REFERENCE


class PacketShard:
    """A shard under the head that a packet is proved by. Close it; used by one thread at a time.

    Attributes:
        origin: the shard's.
        size: leaves under the head.
        bodies: finds bodies, fastest in ascending order.
    """

    def __init__(self, shard: PublishedShard) -> None:
        self._shard = shard
        self._checkpoint = _proving(shard)
        head: Checkpoint = shard.parse(self._checkpoint)
        self.origin = head.origin
        self.size = head.size
        self.bodies = PacketBodies(shard.directory)
        self._file = shard.directory.leaves.open("rb")
        try:
            self._leaves = mmap.mmap(self._file.fileno(), head.size * LEAF_SIZE, access=mmap.ACCESS_READ)
        except ValueError as error:
            self._file.close()
            reason = f"{shard.directory.leaves} is shorter than its checkpoint says."
            raise LedgerDamaged(reason, remedy=_REMEDY) from error

    def close(self) -> None:
        """Close all files."""
        self.bodies.close()
        self._leaves.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The last part of its origin."""
        return self._shard.name

    @property
    def kept(self) -> Path:
        """The folder of checkpoints that are kept for good."""
        return self._shard.directory.checkpoints

    def leaf(self, index: int) -> bytes:
        """Return the 112 bytes of a leaf under the head."""
        return self._leaves[index * LEAF_SIZE : (index + 1) * LEAF_SIZE]

    def kind(self, index: int) -> int:
        """Return the kind of a leaf."""
        return self._leaves[index * LEAF_SIZE + 1]

    def emitter(self, index: int) -> bytes:
        """Return the four bytes that name the emitter's boot."""
        begin = index * LEAF_SIZE + _EMITTER_AT
        return self._leaves[begin : begin + 4]

    def org_seq(self, index: int) -> int:
        """Return a leaf's place in its organization's chain."""
        return int.from_bytes(self.leaf(index)[_SEQUENCE_AT])

    def ingest_us(self, index: int) -> int:
        """Return a leaf's ingest time, microseconds since 1970."""
        return int.from_bytes(self.leaf(index)[_INGEST_AT])

    def first_from(self, ingest_us: int) -> int:
        """Return the index of the first leaf ingested then or later, the size if there is none."""
        return bisect_left(range(self.size), ingest_us, key=self.ingest_us)

    def indexes(self, org_ref: bytes, begin: int, end: int) -> Iterator[int]:
        """Yield the indexes of an organization's leaves in [begin, end), ascending, without unpacking any leaf."""
        limit = end * LEAF_SIZE
        find = self._leaves.find
        offset = find(org_ref, begin * LEAF_SIZE, limit)
        while offset >= 0:
            index, place = divmod(offset, LEAF_SIZE)
            if place == _REFERENCE_AT:
                yield index
            # Another leaf's reference cannot begin before its own eighth byte.
            index += place >= _REFERENCE_AT
            offset = find(org_ref, index * LEAF_SIZE + _REFERENCE_AT, limit)

    def last_before(self, org_ref: bytes, end: int) -> int | None:
        """Return the index of an organization's last leaf below `end`, None if it has none there."""
        return self._last(org_ref, _REFERENCE_AT, end)

    def newest_heads(self) -> int | None:
        """Return the index of the newest HEADS record, None if there is none."""
        return self._last(_HEADS_LEAF, 0, self.size)

    def heads_proof(self, org_ref: bytes, index: int, count: int, root: bytes) -> HeadProof:
        """Return which leaf of an organization the HEADS record at `index` says is the newest.

        Raises:
            LedgerDamaged: the record does not say what the leaves before it do.
        """
        proof = head_proof(self._heads_before(index, count), org_ref)
        try:
            proof.verify(root, count)
        except ProofError as error:
            reason = f"The HEADS record {index} of {self.origin} is not what the leaves before it say."
            raise LedgerDamaged(reason, remedy=_REMEDY) from error
        return proof

    def proof(self, index: int, checkpoint: bytes | None = None) -> bytes:
        """Return a leaf's tlog-proof file under the head, or under another checkpoint of the shard."""
        encoded = self._checkpoint if checkpoint is None else checkpoint
        size = self._shard.parse(encoded).size
        path = merkle.inclusion_proof_from(self._shard.hashes, index, size)
        return TlogProof(index, tuple(path), encoded).encode()

    def controls(self, *, heads: bool) -> Iterator[BlobFrame]:
        """Yield the control documents under the head, in order of index; HEADS, of which there are many, if asked."""
        path = self._shard.directory.control
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            offset = 0
            buffer: frame.Buffer = mapped  # type: ignore[assignment] # an mmap slices to bytes
            try:
                while offset < len(mapped):
                    offset, blob = frame.read_blob(buffer, offset)
                    if blob.index >= self.size:
                        return
                    if heads or self.kind(blob.index) != Kind.HEADS:
                        yield blob
            except FrameError as error:
                if not error.torn:  # a torn tail is a commit being written right now
                    raise LedgerDamaged(f"{path} cannot be read: {error}.", remedy=_REMEDY) from error

    def control(self, index: int) -> bytes:
        """Return the canonical bytes of one control document; `LedgerDamaged` if it is not there."""
        path = self._shard.directory.control
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            buffer: frame.Buffer = mapped  # type: ignore[assignment] # an mmap slices to bytes
            offset = mapped.rfind(frame.BLOB_MAGIC + index.to_bytes(8))
            try:
                if offset >= 0:
                    return frame.read_blob(buffer, offset)[1].payload
            except FrameError as error:
                raise LedgerDamaged(f"{path} cannot be read: {error}.", remedy=_REMEDY) from error
        raise LedgerDamaged(f"{path} has no document of record {index}.", remedy=_REMEDY)

    def unpack(self, index: int) -> Leaf:
        """Return a leaf, unpacked."""
        return Leaf.unpack(self.leaf(index))

    def _last(self, needle: bytes, place: int, end: int) -> int | None:
        limit = end * LEAF_SIZE
        while (offset := self._leaves.rfind(needle, 0, limit)) >= 0:
            index, found = divmod(offset, LEAF_SIZE)
            if found == place:
                return index
            # The next that can be the right one begins at `place` of this leaf, or of the one before it.
            index -= found < place
            limit = index * LEAF_SIZE + place + len(needle)
        return None

    def _heads_before(self, end: int, count: int) -> list[Head]:
        """Return the newest leaf of each of `count` organizations below `end`: back until all are found."""
        found: dict[bytes, Head] = {}
        while end > 0 and len(found) < count:
            begin = max(0, end - _BLOCK_LEAVES)
            block = self._leaves[begin * LEAF_SIZE : end * LEAF_SIZE]
            newest = {block[at + 8 : at + 24]: at for at in range(0, len(block), LEAF_SIZE)}  # later ones win
            for org_ref, at in newest.items():
                if org_ref not in found:
                    encoded = block[at : at + LEAF_SIZE]
                    sequence = int.from_bytes(encoded[_SEQUENCE_AT])
                    found[org_ref] = Head(org_ref, sequence, leaf_hash(encoded), begin + at // LEAF_SIZE)
            end = begin
        return list(found.values())


def _proving(shard: PublishedShard) -> bytes:
    """Return the checkpoint to prove by: where witnesses cosign, the newest that a quorum of them has."""
    try:
        return shard.directory.witnessed.read_bytes()
    except FileNotFoundError:
        return shard.checkpoint()
