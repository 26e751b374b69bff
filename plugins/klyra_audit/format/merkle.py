"""The Merkle tree of RFC 6962 section 2.1, with proofs verified as in RFC 9162 section 2.1.3.2."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from klyra_audit.format.errors import ProofError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HASH_SIZE: Final = 32
TILE_HEIGHT: Final = 8  # C2SP tlog-tiles: a tile holds up to 256 hashes of one level
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()

_sha256 = hashlib.sha256


def leaf_hash(entry: bytes) -> bytes:
    """Return SHA-256(0x00 ‖ entry)."""
    return _sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 ‖ left ‖ right)."""
    return _sha256(b"\x01" + left + right).digest()


class Frontier:
    """A growing tree that keeps the roots of its perfect subtrees: O(log n) memory, 1 to 2 hashes an append."""

    def __init__(self) -> None:
        self.size = 0
        self._subtrees: list[bytes] = []
        self._tiles: dict[int, bytearray] = {0: bytearray()}

    def append(self, hashed_leaf: bytes) -> None:
        """Add one leaf hash at the end."""
        node = hashed_leaf
        self._tiles[0] += node
        remaining, height = self.size, 0
        while remaining & 1:
            node = _sha256(b"\x01" + self._subtrees.pop() + node).digest()
            remaining >>= 1
            height += 1
            if height % TILE_HEIGHT == 0:
                self._tiles.setdefault(height // TILE_HEIGHT, bytearray()).extend(node)
        self._subtrees.append(node)
        self.size += 1

    def root(self) -> bytes:
        """Return the root over all appended leaves."""
        return fold(self._subtrees)

    def take_tile_hashes(self) -> dict[int, bytes]:
        """Return, per tile level, the concatenated hashes completed since the last call, and forget them.

        Level L holds the roots of perfect subtrees of height 8 L: what `hashes/<L>` of a ledger is made of.
        """
        taken = {level: bytes(hashes) for level, hashes in self._tiles.items() if hashes}
        self._tiles = {0: bytearray()}
        return taken


def fold(subtrees: Sequence[bytes]) -> bytes:
    """Return the root over perfect subtrees given from the largest to the smallest."""
    if not subtrees:
        return EMPTY_ROOT
    node = subtrees[-1]
    for left in reversed(subtrees[:-1]):
        node = node_hash(left, node)
    return node


def root_of(hashes: Iterable[bytes]) -> bytes:
    """Return the root over a list of leaf hashes."""
    frontier = Frontier()
    for hashed in hashes:
        frontier.append(hashed)
    return frontier.root()


def inclusion_proof(hashes: Sequence[bytes], index: int) -> list[bytes]:
    """Return the audit path of leaf `index` in the tree over all of `hashes`, leaf to root."""
    size = len(hashes)
    if not 0 <= index < size:
        raise ProofError(f"there is no leaf {index} in a tree of {size}")
    if size == 1:
        return []
    middle = 1 << (size - 1).bit_length() - 1
    if index < middle:
        return [*inclusion_proof(hashes[:middle], index), root_of(hashes[middle:])]
    return [*inclusion_proof(hashes[middle:], index - middle), root_of(hashes[:middle])]


def verify_inclusion(hashed_leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that `hashed_leaf` is leaf `index` of the tree of `size` leaves with `root`.

    Raises:
        ProofError: wrong position, wrong length of the proof or of a hash, or another root.
    """
    if not 0 <= index < size:
        raise ProofError(f"there is no leaf {index} in a tree of {size}")
    if any(len(part) != HASH_SIZE for part in (hashed_leaf, root, *proof)):
        raise ProofError("a hash is not 32 bytes long")
    node, position, last = hashed_leaf, index, size - 1
    for sibling in proof:
        if last == 0:
            raise ProofError("the proof is too long for the tree")
        if position & 1 or position == last:
            node = node_hash(sibling, node)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            node = node_hash(node, sibling)
        position >>= 1
        last >>= 1
    if last:
        raise ProofError("the proof is too short for the tree")
    if node != root:
        raise ProofError("the proof leads to another root")
