"""Roots and proofs out of the hashes of tile levels, and the tiles and bundles that a log publishes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klyra_audit.format import merkle, tile
from klyra_audit.format.errors import FormatError, ProofError, TileError
from klyra_audit.format.leaf import LEAF_SIZE
from klyra_audit.format.tile import ENTRIES, Tile

LARGEST = 70_000
HASHES = [merkle.leaf_hash(number.to_bytes(4)) for number in range(LARGEST)]


@pytest.fixture(scope="module")
def read():
    """Return the reader of a large tree's tile levels."""
    frontier = merkle.Frontier()
    for hashed in HASHES:
        frontier.append(hashed)
    levels = frontier.take_tile_hashes()
    return lambda level, first, count: levels.get(level, b"")[first * 32 : (first + count) * 32]


SIZES = st.one_of(st.integers(1, 600), st.integers(65_500, LARGEST))


@given(st.data())
def test_proofs_out_of_files_are_those_out_of_all_leaves(read, data) -> None:
    """Roots and audit paths are the same bytes, and verify."""
    size = data.draw(st.integers(1, 600))
    index = data.draw(st.integers(0, size - 1))
    path = merkle.inclusion_proof_from(read, index, size)
    assert path == merkle.inclusion_proof(HASHES[:size], index)
    merkle.verify_inclusion(HASHES[index], index, size, path, merkle.root_from(read, size))


@given(st.data())
def test_consistency_is_proved_between_any_two_sizes(read, data) -> None:
    """Every smaller tree is shown to be a prefix of the larger one."""
    new = data.draw(SIZES)
    old = data.draw(st.integers(1, new))
    proof = merkle.consistency_proof_from(read, old, new)
    merkle.verify_consistency(old, merkle.root_from(read, old), new, merkle.root_from(read, new), proof)


@given(st.data())
def test_a_wrong_consistency_proof_is_refused(read, data) -> None:
    """A flipped bit, another size, a hash too many, too few or too short: ProofError."""
    new = data.draw(st.integers(2, 600))
    old = data.draw(st.integers(1, new - 1))
    old_root, new_root = merkle.root_from(read, old), merkle.root_from(read, new)
    proof = merkle.consistency_proof_from(read, old, new)
    place = data.draw(st.integers(0, len(proof) - 1))
    flipped = [*proof[:place], bytes([proof[place][0] ^ 1]) + proof[place][1:], *proof[place + 1 :]]
    wrong = data.draw(
        st.sampled_from(
            [
                (old, old_root, new, new_root, flipped),
                (old, old_root, new, new_root, [*proof, bytes(32)]),
                (old, old_root, new, new_root, proof[:-1]),
                (old, old_root, new, new_root, [*proof[:-1], proof[-1][:31]]),
                (old, bytes(32), new, new_root, proof),
                (old, old_root, new, bytes(32), proof),
                (new, old_root, old, new_root, proof),
                (0, merkle.EMPTY_ROOT, new, new_root, proof),
                (new, new_root, new, old_root, []),
                (new, new_root, new, new_root, proof),
            ]
        )
    )
    with pytest.raises(ProofError):
        merkle.verify_consistency(*wrong)


def test_no_proof_is_made_of_what_is_not_there(read) -> None:
    """An index or size beyond the tree, and levels that lack hashes."""
    with pytest.raises(ProofError, match="no leaf 7"):
        merkle.inclusion_proof_from(read, 7, 7)
    with pytest.raises(ProofError, match="no prefix"):
        merkle.consistency_proof_from(read, 8, 7)
    with pytest.raises(ProofError, match="not there"):
        merkle.root_from(read, LARGEST + 5)
    assert merkle.consistency_proof_from(read, 0, 7) == []


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("tile/0/000", Tile(0, 0)),
        ("tile/0/x001/x234/067", Tile(0, 1_234_067)),
        ("tile/2/001.p/7", Tile(2, 1, 7)),
        ("tile/entries/x001/000.p/255", Tile(ENTRIES, 1000, 255)),
    ],
)
def test_a_path_has_one_spelling(path, expected) -> None:
    """Paths read and are written as C2SP tlog-tiles says."""
    assert Tile.parse(path) == expected
    assert expected.path == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0/0",
        "tile/00/000",
        "tile/64/000",
        "tile/0/001/234",
        "tile/0/x000/001",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/007",
        "tile/0/../000",
        "tile/data/000",
        "tile/0/000\n",
        "/tile/0/000",
        "tile/0/\u0660\u0660\u0660",
    ],
)
def test_other_paths_name_no_tile(path) -> None:
    """TileError, never a second spelling."""
    with pytest.raises(TileError):
        Tile.parse(path)


@given(st.text(max_size=40))
def test_any_text_is_a_path_or_a_tile_error(text) -> None:
    """Nothing else is raised."""
    with contextlib.suppress(FormatError):
        assert Tile.parse(text).path == text


@given(st.integers(0, 200_000))
def test_the_tiles_of_a_size_cover_every_hash_once(size) -> None:
    """Each level's tiles are full but the last, and hold all hashes of that level."""
    tiles = list(tile.tiles_of(size))
    for level in {found.level for found in tiles}:
        row = [found for found in tiles if found.level == level]
        assert sum(found.width for found in row) == (size if level == ENTRIES else size >> (8 * level))
        assert [found.number for found in row] == list(range(len(row)))
        assert all(found.is_full for found in row[:-1])
    assert all(found.is_published_at(size) for found in tiles)
    assert not any(Tile(found.level, found.number, found.width + 1).is_published_at(size) for found in tiles[-1:])


def test_a_bundle_gives_its_leaves_back() -> None:
    """Each leaf stands behind its length."""
    leaves = b"".join(bytes([number]) * LEAF_SIZE for number in range(3))
    encoded = tile.bundle(leaves)
    assert encoded[:2] == LEAF_SIZE.to_bytes(2)
    assert b"".join(tile.split_bundle(encoded)) == leaves


@pytest.mark.parametrize("encoded", [b"", b"\0", b"\0\x05ab", b"\0\x01a" * 257])
def test_what_is_no_bundle_is_refused(encoded) -> None:
    """Torn, empty or too many."""
    with pytest.raises(TileError):
        tile.split_bundle(encoded)


def test_a_bundle_is_made_of_whole_leaves() -> None:
    """A torn leaf is refused."""
    with pytest.raises(TileError, match="whole"):
        tile.bundle(bytes(LEAF_SIZE + 1))
