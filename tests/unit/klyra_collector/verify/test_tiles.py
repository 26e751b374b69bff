"""Roots of tiles, and of trees at any size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klyra_audit.format import merkle
from klyra_collector.verify import tiles
from klyra_collector.verify.tiles import TILE_LEAVES, UNKNOWN, Account

LEAVES = [number.to_bytes(112) for number in range(1200)]
HASHES = [merkle.leaf_hash(leaf) for leaf in LEAVES]
TILES = b"".join(merkle.root_of(HASHES[at : at + TILE_LEAVES]) for at in range(0, 1200 - TILE_LEAVES + 1, TILE_LEAVES))


def partial(number: int) -> bytes:
    """Return the leaf hashes of a tile."""
    return b"".join(HASHES[number * TILE_LEAVES : (number + 1) * TILE_LEAVES])


def test_leaf_hashes_and_tile_roots_are_those_of_rfc_6962() -> None:
    """Compared with the format's own functions, leaf by leaf."""
    hashes = tiles.leaf_hashes(b"".join(LEAVES[:TILE_LEAVES]))
    assert tiles.split_hashes(hashes) == HASHES[:TILE_LEAVES]
    assert tiles.tile_root(hashes) == TILES[:32]
    assert tiles.tile_root(hashes[:-32]) == UNKNOWN


@given(st.lists(st.integers(0, 1200), max_size=8))
def test_roots_at_several_sizes(sizes) -> None:
    """The same as the tree of that size has."""
    sizes.sort()
    assert list(tiles.roots_at(sizes, TILES, partial)) == [merkle.root_of(HASHES[:size]) for size in sizes]


def test_a_size_that_the_account_does_not_reach_has_no_root() -> None:
    """Neither beyond its tiles nor beyond the leaves of its last one."""
    assert list(tiles.roots_at([5, 300, 2000], TILES[:32], lambda _: b"")) == [None, None, None]


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 1200])
def test_the_authentic_account_is_found(size) -> None:
    """Among several, by the signed root."""
    number = size // TILE_LEAVES
    root = merkle.root_of(HASHES[:size])
    wrong = bytes(len(TILES))
    found = tiles.find_authentic(root, size, (wrong, TILES), (b"\x01" * 8160, partial(number)))
    assert found is not None
    assert found.root(size) == root
    assert tiles.find_authentic(b"x" * 32, size, (wrong, TILES), (partial(number),)) is None


def test_an_account_without_enough_hashes_has_no_root() -> None:
    """It is not taken for another size."""
    assert Account(TILES[:32], b"").root(600) is None


def test_the_majority_of_three_accounts() -> None:
    """Each may be wrong in places of its own."""
    one, two, three = (bytearray(TILES) for _ in range(3))
    one[0] ^= 1
    two[40] ^= 1
    three[70] ^= 1
    assert tiles.majority(bytes(one), bytes(two), bytes(three)) == TILES
    assert tiles.majority(TILES, b"", b"") == TILES


def test_differing_places() -> None:
    """By position, also where one is shorter."""
    assert list(tiles.differing(b"aabbcc", b"aaxxcc", 2)) == [1]
    assert list(tiles.differing(b"aabb", b"aa", 2)) == [1]
