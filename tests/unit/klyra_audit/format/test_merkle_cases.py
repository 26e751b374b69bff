"""Proofs wrong in one way each: the classes of transparency-dev/merkle's test data, made anew from our own trees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from klyra_audit.format import merkle
from klyra_audit.format.errors import ProofError

HASHES = [merkle.leaf_hash(number.to_bytes(8)) for number in range(70)]
STRANGER = merkle.leaf_hash(b"in no tree")


def root(size: int) -> bytes:
    """Return the root over the first leaves."""
    return merkle.root_of(HASHES[:size])


@dataclass(frozen=True)
class Inclusion:
    """What is claimed of a leaf."""

    leaf: bytes
    index: int
    size: int
    path: tuple[bytes, ...]
    root: bytes

    def verify(self) -> None:
        """Raise unless it is true."""
        merkle.verify_inclusion(self.leaf, self.index, self.size, self.path, self.root)


@dataclass(frozen=True)
class Consistency:
    """What is claimed of two sizes of a tree."""

    old_size: int
    old_root: bytes
    size: int
    root: bytes
    path: tuple[bytes, ...]

    def verify(self) -> None:
        """Raise unless it is true."""
        merkle.verify_consistency(self.old_size, self.old_root, self.size, self.root, self.path)


Claim = Inclusion | Consistency

# (index, size) and (old size, size): of one leaf, perfect trees, ragged ones, first, last, and beyond a tile of levels.
PLACES = [(0, 1), (0, 2), (1, 2), (0, 8), (5, 8), (2, 3), (1, 5), (4, 5), (63, 64), (64, 65), (33, 70), (69, 70)]
GROWTHS = [(1, 1), (1, 8), (6, 8), (2, 5), (7, 8), (4, 8), (8, 8), (3, 7), (64, 65), (33, 70), (69, 70), (64, 70)]


def inclusion(index: int, size: int) -> Inclusion:
    """Return a true claim."""
    return Inclusion(HASHES[index], index, size, tuple(merkle.inclusion_proof(HASHES[:size], index)), root(size))


def consistency(old: int, size: int) -> Consistency:
    """Return a true claim; the proof is that of RFC 6962 section 2.1.2."""
    return Consistency(old, root(old), size, root(size), tuple(_subproof(old, HASHES[:size], whole=True)))


def _subproof(old: int, hashes: list[bytes], *, whole: bool) -> Iterator[bytes]:
    size = len(hashes)
    if old == size:
        yield from () if whole else (merkle.root_of(hashes),)
        return
    middle = 1 << (size - 1).bit_length() - 1
    if old <= middle:
        yield from _subproof(old, hashes[:middle], whole=whole)
        yield merkle.root_of(hashes[middle:])
    else:
        yield from _subproof(old - middle, hashes[middle:], whole=False)
        yield merkle.root_of(hashes[:middle])


def wrong_paths(claim: Claim) -> Iterator[tuple[str, Claim]]:
    """Yield a claim with one thing wrong in its proof."""
    path = claim.path
    changes: dict[str, tuple[bytes, ...]] = {
        "a hash more at the end": (*path, STRANGER),
        "a hash more at the beginning": (STRANGER, *path),
        "the root at the end": (*path, claim.root),
        "an empty hash at the end": (*path, b""),
    }
    if path:
        changes |= {
            "the last hash missing": path[:-1],
            "the first hash missing": path[1:],
            "no hash at all": (),
            "the first hash of 31 bytes": (path[0][:31], *path[1:]),
            "the last hash of 33 bytes": (*path[:-1], path[-1] + b"\0"),
            "the first hash of a stranger": (STRANGER, *path[1:]),
            "the last hash of a stranger": (*path[:-1], STRANGER),
        }
    if len(set(path)) > 1:
        changes["the hashes backwards"] = path[::-1]
    for name, changed in changes.items():
        yield name, replace(claim, path=changed)


def wrong_inclusions(claim: Inclusion) -> Iterator[tuple[str, Claim]]:
    """Yield a claim with one thing wrong."""
    index, size = claim.index, claim.size
    for other in {index - 1, index + 1, index ^ 2, index + size, -index - 1, 2**63} - {index}:
        yield f"index {other}", replace(claim, index=other)
    for other in {size - 1, size + 1, 2 * size, size // 2, 0, -1, 2**64} - {size}:
        # A size that gives this leaf's path the same shape would still lead to the old root: it is bound by the signed
        # checkpoint, not by the path. Only sizes whose path differs in length or turns are refused here.
        if _shape(index, other) != _shape(index, size):
            yield f"size {other}", replace(claim, size=other)
    yield "the leaf of a stranger", replace(claim, leaf=STRANGER)
    yield "a leaf hash of 31 bytes", replace(claim, leaf=claim.leaf[:31])
    yield "the root of a stranger", replace(claim, root=STRANGER)
    yield "the empty root", replace(claim, root=merkle.EMPTY_ROOT)
    yield "a root of 31 bytes", replace(claim, root=claim.root[:31])
    yield from wrong_paths(claim)


def _shape(index: int, size: int) -> list[bool] | None:
    """Return on which side each step of a leaf's path stands, None where there is no such leaf."""
    if not 0 <= index < size or size > 2**63:
        return None
    turns = []
    low, high = 0, size
    while high - low > 1:
        middle = low + (1 << (high - low - 1).bit_length() - 1)
        turns.append(index < middle)
        low, high = (low, middle) if index < middle else (middle, high)
    return turns


def wrong_growths(claim: Consistency) -> Iterator[tuple[str, Claim]]:
    """Yield a claim with one thing wrong."""
    old, size = claim.old_size, claim.size
    yield "the roots exchanged", replace(claim, old_root=claim.root, root=claim.old_root)
    yield "the old root of a stranger", replace(claim, old_root=STRANGER)
    yield "the new root of a stranger", replace(claim, root=STRANGER)
    yield "the empty root", replace(claim, old_root=merkle.EMPTY_ROOT)
    yield "an old root of 31 bytes", replace(claim, old_root=claim.old_root[:31])
    yield "a new root of 31 bytes", replace(claim, root=claim.root[:31])
    yield "the sizes exchanged", replace(claim, old_size=size, size=old)
    for other in {0, -1, old - 1, old + 1, 2 * old, size + 1} - {old}:
        yield f"old size {other}", replace(claim, old_size=other)
    for other in {0, size // 2, size - 1, 2 * size, size + 1, old - 1} - {size}:
        if _growth_shape(old, other) != _growth_shape(old, size):
            yield f"size {other}", replace(claim, size=other)
    yield from wrong_paths(claim)


def _growth_shape(old: int, size: int) -> list[str] | None:
    """Return how a consistency proof is put together, None where there is none."""
    if not 0 < old <= size:
        return None
    parts: list[str] = []
    low, high, whole = 0, size, True
    while old - low != high - low:
        middle = low + (1 << (high - low - 1).bit_length() - 1)
        if old <= middle:
            parts.append("right")
            high = middle
        else:
            parts.append("left")
            low, whole = middle, False
    return [*parts, "whole" if whole else "part"]


def every(claims: list[Claim], wrongs: Callable[..., Iterator[tuple[str, Claim]]]) -> list[tuple[str, Claim]]:
    """Return all wrong claims with their names, leaving out what exchanged nothing."""
    return [(name, wrong) for claim in claims for name, wrong in wrongs(claim) if wrong != claim]


INCLUSIONS = [inclusion(*place) for place in PLACES]
CONSISTENCIES = [consistency(*growth) for growth in GROWTHS]


@pytest.mark.parametrize("claim", [*INCLUSIONS, *CONSISTENCIES])
def test_a_true_claim_is_believed(claim) -> None:
    """The baseline of every case below."""
    claim.verify()


def test_no_wrong_inclusion_is_believed() -> None:
    """Index, size, leaf, root and path, each wrong by itself."""
    wrongs = every(INCLUSIONS, wrong_inclusions)
    assert len(wrongs) > 98
    believed = [name for name, claim in wrongs if is_believed(claim)]
    assert not believed


def test_no_wrong_consistency_is_believed() -> None:
    """Sizes, roots and path, each wrong by itself."""
    wrongs = every(CONSISTENCIES, wrong_growths)
    assert len(wrongs) > 98
    believed = [(name, claim.old_size, claim.size) for name, claim in wrongs if is_believed(claim)]
    assert not believed


def is_believed(claim: Claim) -> bool:
    """Say whether a claim passes; anything but `ProofError` is a fault."""
    try:
        claim.verify()
    except ProofError:
        return False
    return True
