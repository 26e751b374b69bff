"""Roots of 256-leaf tiles: what a tree is compared by, range for range. Pure functions on bytes (RFC 6962).

A shard's tree is known from several accounts: computed from `leaves`, or read from `hashes/<L>`. Whichever leads to
the signed root is authentic, and shows where the others lie.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Final

from klyra_audit.format.leaf import LEAF_SIZE
from klyra_audit.format.merkle import HASH_SIZE, fold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

TILE_LEAVES: Final = 256
TILE_BYTES: Final = TILE_LEAVES * HASH_SIZE
UNKNOWN: Final = bytes(HASH_SIZE)  # no tile has this root

_sha256 = hashlib.sha256
_NODE = 2 * HASH_SIZE


def leaf_hashes(leaves: bytes) -> bytes:
    """Return the concatenated leaf hashes of whole leaves."""
    return b"".join(
        _sha256(b"\x00" + leaves[offset : offset + LEAF_SIZE]).digest() for offset in range(0, len(leaves), LEAF_SIZE)
    )


def tile_root(hashes: bytes) -> bytes:
    """Return the root over 256 concatenated hashes; `UNKNOWN` if there are not so many."""
    if len(hashes) != TILE_BYTES:
        return UNKNOWN
    while len(hashes) > HASH_SIZE:
        nodes = (_sha256(b"\x01" + hashes[at : at + _NODE]).digest() for at in range(0, len(hashes), _NODE))
        hashes = b"".join(nodes)
    return hashes


def split_hashes(hashes: bytes) -> list[bytes]:
    """Return the single hashes of a concatenation."""
    return [hashes[at : at + HASH_SIZE] for at in range(0, len(hashes), HASH_SIZE)]


class Subtrees:
    """The roots of the perfect subtrees over a growing list of nodes of one height, largest first."""

    def __init__(self, nodes: Iterable[bytes] = ()) -> None:
        self.roots: list[bytes] = []
        self.count = 0
        for node in nodes:
            self.append(node)

    def append(self, node: bytes) -> None:
        """Add a node at the end."""
        remaining = self.count
        while remaining & 1:
            node = _sha256(b"\x01" + self.roots.pop() + node).digest()
            remaining >>= 1
        self.roots.append(node)
        self.count += 1


def roots_at(sizes: Sequence[int], tiles: bytes, partial: Callable[[int], bytes]) -> Iterator[bytes | None]:
    """Yield the root of the tree at each of several sizes.

    Args:
        sizes: ascending.
        tiles: concatenated roots of the full tiles.
        partial: returns the concatenated leaf hashes of the tile of a number, as far as there are any.

    Yields:
        The root, or None for a size that the tiles do not reach.
    """
    whole = Subtrees()
    for size in sizes:
        number, rest = divmod(size, TILE_LEAVES)
        last = partial(number)[: rest * HASH_SIZE] if rest else b""
        if len(tiles) < number * HASH_SIZE or len(last) < rest * HASH_SIZE:
            yield None
            continue
        for tile in range(whole.count, number):
            whole.append(tiles[tile * HASH_SIZE : (tile + 1) * HASH_SIZE])
        yield fold([*whole.roots, *Subtrees(split_hashes(last)).roots])


@dataclass(frozen=True, slots=True)
class Account:
    """One account of a tree: roots of its full tiles, leaf hashes of the tile it ends in."""

    tiles: bytes
    partial: bytes

    def root(self, size: int) -> bytes | None:
        """Return the root at a size, None if the account does not reach it."""
        (root,) = roots_at([size], self.tiles, lambda _: self.partial)
        return root


def find_authentic(root: bytes, size: int, tiles: Iterable[bytes], partials: Sequence[bytes]) -> Account | None:
    """Return the combination of accounts that leads to the signed root, None if none does."""
    for some_tiles, partial in product(tiles, partials):
        account = Account(some_tiles, partial)
        if account.root(size) == root:
            return account
    return None


def majority(first: bytes, second: bytes, third: bytes) -> bytes:
    """Return, tile for tile, the root on which two of three accounts agree, else the first one's."""
    chosen = bytearray(first)
    for at in range(0, len(first), HASH_SIZE):
        if second[at : at + HASH_SIZE] == third[at : at + HASH_SIZE] and len(second) >= at + HASH_SIZE:
            chosen[at : at + HASH_SIZE] = second[at : at + HASH_SIZE]
    return bytes(chosen)


def differing(first: bytes, second: bytes, width: int = HASH_SIZE) -> Iterator[int]:
    """Yield the positions, in units of `width` bytes, at which two concatenations differ."""
    for at in range(0, max(len(first), len(second)), width):
        if first[at : at + width] != second[at : at + width]:
            yield at // width
