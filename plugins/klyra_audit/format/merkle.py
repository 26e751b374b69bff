"""The Merkle tree of RFC 6962 section 2.1, with proofs verified as in RFC 9162 section 2.1.3.2."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from klyra_audit.format.errors import ProofError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    # (tile level L, first, count) -> count * 32 bytes: the roots of perfect subtrees of height 8 L, by number.
    ReadHashes = Callable[[int, int, int], bytes]

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


def root_from(read: ReadHashes, size: int) -> bytes:
    """Return the root of the first `size` leaves, out of the hashes of tile levels."""
    return fold([_subtree(read, height, number) for height, number in _perfect_subtrees(0, size)])


def inclusion_proof_from(read: ReadHashes, index: int, size: int) -> list[bytes]:
    """Return the audit path of leaf `index` in the tree of `size` leaves, out of the hashes of tile levels.

    Reads O(log n) ranges of at most 256 hashes.
    """
    if not 0 <= index < size:
        raise ProofError(f"there is no leaf {index} in a tree of {size}")
    path: list[bytes] = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _split_at(end - begin)
        if index < middle:
            path.append(_range_root(read, middle, end))
            end = middle
        else:
            path.append(_range_root(read, begin, middle))
            begin = middle
    path.reverse()
    return path


def consistency_proof_from(read: ReadHashes, old_size: int, new_size: int) -> list[bytes]:
    """Return the proof that the tree of `old_size` leaves is a prefix of that of `new_size` (RFC 9162 2.1.4.1).

    Empty for equal sizes, and for an old size of 0, which needs no proof and which `verify_consistency` refuses.
    """
    if not 0 <= old_size <= new_size:
        raise ProofError(f"a tree of {old_size} leaves is no prefix of one of {new_size}")
    proof: list[bytes] = []
    begin, end, is_whole = 0, new_size, True
    if old_size in (0, new_size):
        return proof
    while end != old_size:
        middle = begin + _split_at(end - begin)
        if old_size <= middle:
            proof.append(_range_root(read, middle, end))
            end = middle
        else:
            proof.append(_range_root(read, begin, middle))
            begin, is_whole = middle, False
    if not is_whole:
        proof.append(_range_root(read, begin, end))
    proof.reverse()
    return proof


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of `old_size` leaves is a prefix of that of `new_size` (RFC 9162 section 2.1.4.2).

    Raises:
        ProofError: an old size of 0 or beyond the new one, a wrong length of the proof or of a hash, or another root.
    """
    if not 0 < old_size <= new_size:
        raise ProofError(f"no proof leads from a tree of {old_size} leaves to one of {new_size}")
    if any(len(part) != HASH_SIZE for part in (old_root, new_root, *proof)):
        raise ProofError("a hash is not 32 bytes long")
    if old_size == new_size:
        if proof or old_root != new_root:
            raise ProofError("two trees of one size have different roots, or a proof where none is needed")
        return
    is_perfect = old_size & (old_size - 1) == 0
    path = [old_root, *proof] if is_perfect else list(proof)
    if not path:
        raise ProofError("the proof is too short for the trees")
    _check_consistency_path(old_size, old_root, new_size, new_root, path)


def _check_consistency_path(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: Sequence[bytes]
) -> None:
    position, last = old_size - 1, new_size - 1
    while position & 1:
        position >>= 1
        last >>= 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofError("the proof is too long for the trees")
        if position & 1 or position == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        position >>= 1
        last >>= 1
    if last:
        raise ProofError("the proof is too short for the trees")
    if old != old_root or new != new_root:
        raise ProofError("the proof leads to another root")


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


def _split_at(count: int) -> int:
    """Return the largest power of two below `count`, where RFC 6962 splits a tree of `count` leaves."""
    return 1 << (count - 1).bit_length() - 1


def _perfect_subtrees(begin: int, end: int) -> Iterable[tuple[int, int]]:
    """Yield (height, number) of the perfect subtrees over leaves [begin, end), from the largest to the smallest.

    `begin` is a multiple of the largest one's size, as it is wherever RFC 6962 splits.
    """
    while begin < end:
        height = (end - begin).bit_length() - 1
        yield height, begin >> height
        begin += 1 << height


def _range_root(read: ReadHashes, begin: int, end: int) -> bytes:
    return fold([_subtree(read, height, number) for height, number in _perfect_subtrees(begin, end)])


def _subtree(read: ReadHashes, height: int, number: int) -> bytes:
    """Return the root of a perfect subtree, out of at most 128 hashes of the tile level below it."""
    level, above = divmod(height, TILE_HEIGHT)
    count = 1 << above
    hashes = read(level, number * count, count)
    if len(hashes) != count * HASH_SIZE:
        raise ProofError(f"{count} hashes of level {level} from number {number * count} on are not there")
    nodes = [hashes[offset : offset + HASH_SIZE] for offset in range(0, len(hashes), HASH_SIZE)]
    while len(nodes) > 1:
        nodes = [node_hash(nodes[place], nodes[place + 1]) for place in range(0, len(nodes), 2)]
    return nodes[0]
