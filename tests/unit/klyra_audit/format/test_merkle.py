"""The Merkle tree and its proofs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klyra_audit.format import merkle
from klyra_audit.format.errors import ProofError

SIZES = st.integers(1, 70)


def hashes_of(size: int) -> list[bytes]:
    """Return `size` distinct leaf hashes."""
    return [merkle.leaf_hash(str(number).encode()) for number in range(size)]


def recursive_root(hashes: list[bytes]) -> bytes:
    """Return the root by the recursive definition of RFC 6962 section 2.1."""
    if not hashes:
        return merkle.EMPTY_ROOT
    if len(hashes) == 1:
        return hashes[0]
    middle = 1 << (len(hashes) - 1).bit_length() - 1
    return merkle.node_hash(recursive_root(hashes[:middle]), recursive_root(hashes[middle:]))


@given(st.integers(0, 600))
def test_frontier_agrees_with_the_definition(size) -> None:
    """The incremental root is the recursive one for every size."""
    assert merkle.root_of(hashes_of(size)) == recursive_root(hashes_of(size))


def test_tile_hashes_are_the_roots_of_256_leaf_subtrees() -> None:
    """Level 0 holds every leaf hash, level 1 the root of each full 256, handed out once."""
    hashes = hashes_of(600)
    frontier = merkle.Frontier()
    for hashed in hashes:
        frontier.append(hashed)
    taken = frontier.take_tile_hashes()
    assert taken[0] == b"".join(hashes)
    assert taken[1] == recursive_root(hashes[:256]) + recursive_root(hashes[256:512])
    assert frontier.take_tile_hashes() == {}


@given(st.data())
def test_every_proof_verifies(data) -> None:
    """An inclusion proof of any leaf of any tree leads to its root."""
    size = data.draw(SIZES)
    index = data.draw(st.integers(0, size - 1))
    hashes = hashes_of(size)
    proof = merkle.inclusion_proof(hashes, index)
    merkle.verify_inclusion(hashes[index], index, size, proof, recursive_root(hashes))


@given(st.data())
def test_every_single_bit_flip_in_a_proof_fails(data) -> None:
    """A proof, leaf or root with one bit changed never verifies."""
    size = data.draw(st.integers(2, 40))
    index = data.draw(st.integers(0, size - 1))
    hashes = hashes_of(size)
    parts = [hashes[index], recursive_root(hashes), *merkle.inclusion_proof(hashes, index)]
    which = data.draw(st.integers(0, len(parts) - 1))
    bit = data.draw(st.integers(0, 255))
    flipped = int.from_bytes(parts[which], "big") ^ 1 << bit
    parts[which] = flipped.to_bytes(32, "big")
    with pytest.raises(ProofError, match="another root"):
        merkle.verify_inclusion(parts[0], index, size, parts[2:], parts[1])


@given(st.data())
def test_a_proof_is_bound_to_its_position_and_size(data) -> None:
    """The same proof does not verify for another index, and one hash more or less is refused."""
    size = data.draw(st.integers(2, 40))
    index = data.draw(st.integers(0, size - 1))
    hashes = hashes_of(size)
    root, proof = recursive_root(hashes), merkle.inclusion_proof(hashes, index)
    other = data.draw(st.integers(0, size - 1).filter(lambda value: value != index))
    for changed in ((other, size, proof), (index, size, [*proof, root]), (index, size, proof[:-1])):
        with pytest.raises(ProofError):
            merkle.verify_inclusion(hashes[index], *changed, root)


@pytest.mark.parametrize("length", [31, 33, 0])
def test_hashes_have_32_bytes(length) -> None:
    """A hash of another length is refused before any hashing."""
    with pytest.raises(ProofError, match="32 bytes"):
        merkle.verify_inclusion(bytes(32), 0, 2, [bytes(length)], bytes(32))


@pytest.mark.parametrize("index", [-1, 3])
def test_positions_outside_the_tree_are_refused(index) -> None:
    """There is neither a proof nor a verification for a leaf that does not exist."""
    with pytest.raises(ProofError, match="no leaf"):
        merkle.inclusion_proof(hashes_of(3), index)
    with pytest.raises(ProofError, match="no leaf"):
        merkle.verify_inclusion(bytes(32), index, 3, [], bytes(32))


def test_second_preimage_of_a_node_is_no_leaf() -> None:
    """Two node hashes glued together do not pass for a leaf."""
    left, right = hashes_of(2)
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)
