"""HEADS: the newest record of every organization under one root, so that each can prove that nothing follows.

Entries are ordered by org_ref; the root is that of RFC 6962 over 64 bytes each (DESIGN section 5, HEADS).
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from klyra_audit.format.errors import ProofError
from klyra_audit.format.merkle import EMPTY_ROOT, HASH_SIZE, inclusion_proof, leaf_hash, node_hash, verify_inclusion

if TYPE_CHECKING:
    from collections.abc import Iterable

_STRUCT = struct.Struct(">16sQ32sQ")
HEAD_SIZE: Final = _STRUCT.size
ORG_REF_SIZE: Final = 16


@dataclass(frozen=True, slots=True, order=True)
class Head:
    """The newest record of one organization in a shard.

    Attributes:
        org_ref: whose.
        org_seq: its sequence number in the organization's chain.
        leaf_hash: SHA-256(0x00 ‖ leaf).
        index: of the leaf in the shard.
    """

    org_ref: bytes
    org_seq: int
    leaf_hash: bytes
    index: int

    def encode(self) -> bytes:
        """Return the 64 bytes that the tree is made of."""
        return _STRUCT.pack(self.org_ref, self.org_seq, self.leaf_hash, self.index)

    @classmethod
    def parse(cls, encoded: bytes) -> Head:
        """Read 64 bytes; `ProofError` if they are not so many."""
        if len(encoded) != HEAD_SIZE:
            raise ProofError(f"a head is {len(encoded)} bytes long, not {HEAD_SIZE}")
        return cls(*_STRUCT.unpack(encoded))


class HeadsTree:
    """The heads of a growing shard, with the tree over them kept from one root to the next."""

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}
        self._order: list[bytes] = []
        self._levels: list[list[bytes]] = []
        self._changed: set[bytes] = set()
        self._grown = False

    @property
    def count(self) -> int:
        """How many organizations, the operator included."""
        return len(self._heads)

    def put(self, head: Head) -> None:
        """Make a record the newest of its organization."""
        if head.org_ref not in self._heads:
            self._grown = True
        self._heads[head.org_ref] = head
        self._changed.add(head.org_ref)

    def heads(self) -> list[Head]:
        """Return the heads in the order of the tree."""
        return [self._heads[org_ref] for org_ref in sorted(self._heads)]

    def root(self) -> bytes:
        """Return the root; costs O(changed · log n), and O(n) after a new organization."""
        if self._grown:
            self._order = sorted(self._heads)
            self._levels = _levels([leaf_hash(self._heads[org_ref].encode()) for org_ref in self._order])
        else:
            for org_ref in self._changed:
                self._renew(bisect_left(self._order, org_ref))
        self._grown = False
        self._changed.clear()
        return self._levels[-1][0] if self._levels else EMPTY_ROOT

    def _renew(self, place: int) -> None:
        self._levels[0][place] = leaf_hash(self._heads[self._order[place]].encode())
        for below, level in zip(self._levels, self._levels[1:], strict=False):
            place >>= 1
            level[place] = _parent(below, place)


def _levels(hashes: list[bytes]) -> list[list[bytes]]:
    """Return all levels of a tree; a node without a sibling moves up unchanged, which is what RFC 6962 comes to."""
    if not hashes:
        return []
    levels = [hashes]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([_parent(below, place) for place in range((len(below) + 1) // 2)])
    return levels


def _parent(below: list[bytes], place: int) -> bytes:
    left = below[2 * place]
    return node_hash(left, below[2 * place + 1]) if 2 * place + 1 < len(below) else left


@dataclass(frozen=True, slots=True)
class PlacedHead:
    """A head with its place in the tree and its audit path."""

    head: Head
    place: int
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class HeadProof:
    """Shows which record of an organization is its newest, or that it has none.

    Attributes:
        org_ref: whose.
        present: its own head; None when it has no record.
        before, after: for one without a record, the neighbours in the tree; None at an end of it.
    """

    org_ref: bytes
    present: PlacedHead | None = None
    before: PlacedHead | None = None
    after: PlacedHead | None = None

    def verify(self, root: bytes, count: int) -> Head | None:
        """Return the organization's newest record as of a HEADS record, None when it has none.

        Raises:
            ProofError: the proof does not show that.
        """
        for placed in (self.present, self.before, self.after):
            if placed is not None:
                _check_placed(placed, root, count)
        if self.present is not None:
            if self.present.head.org_ref != self.org_ref or self.before or self.after:
                raise ProofError("the head is another organization's")
            return self.present.head
        self._check_neighbours(root, count)
        return None

    def _check_neighbours(self, root: bytes, count: int) -> None:
        if len(self.org_ref) != ORG_REF_SIZE:
            raise ProofError("an org_ref is not 16 bytes long")
        if count == 0 and root == EMPTY_ROOT and self.before is None and self.after is None:
            return
        before, after = self.before, self.after
        place = -1 if before is None else before.place
        next_place = count if after is None else after.place
        if next_place != place + 1 or (before is None and after is None):
            raise ProofError("the neighbours do not stand side by side")
        if before is not None and before.head.org_ref >= self.org_ref:
            raise ProofError("the organization would not stand behind its neighbour")
        if after is not None and after.head.org_ref <= self.org_ref:
            raise ProofError("the organization would not stand before its neighbour")


def _check_placed(placed: PlacedHead, root: bytes, count: int) -> None:
    head = placed.head
    if len(head.org_ref) != ORG_REF_SIZE or len(head.leaf_hash) != HASH_SIZE:
        raise ProofError("a head's org_ref or leaf hash has a wrong length")
    try:
        encoded = head.encode()
    except struct.error as error:
        raise ProofError("a head's numbers are out of range") from error
    verify_inclusion(leaf_hash(encoded), placed.place, count, placed.path, root)


def head_proof(heads: Iterable[Head], org_ref: bytes) -> HeadProof:
    """Return the proof of an organization's newest record, or that it has none, among all heads of a HEADS record."""
    ordered = sorted(heads)
    hashes = [leaf_hash(head.encode()) for head in ordered]

    def placed(place: int) -> PlacedHead | None:
        if not 0 <= place < len(ordered):
            return None
        return PlacedHead(ordered[place], place, tuple(inclusion_proof(hashes, place)))

    place = bisect_left([head.org_ref for head in ordered], org_ref)
    if place < len(ordered) and ordered[place].org_ref == org_ref:
        return HeadProof(org_ref, present=placed(place))
    return HeadProof(org_ref, before=placed(place - 1), after=placed(place))
