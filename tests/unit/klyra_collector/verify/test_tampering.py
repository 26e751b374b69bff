"""Whatever is changed in the files of a ledger, verify says which verdict, where, and of which record."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.ledgers import ACME, ORIGIN, SEED, UMBRELLA, LedgerBuilder, put, signing_key, small_ledger
from support.tampering import at, change_frames, change_leaves, flip, found, indexes, split_frames, swap

from klyra_audit.format import frame, merkle, sections
from klyra_audit.format.frame import BlobFrame
from klyra_audit.format.leaf import LEAF_SIZE, Kind, Leaf
from klyra_collector.verify import Verdict

V = Verdict
SHARD = "ledger/2026"
LEAVES_DIFFER = (V.ROOT_MISMATCH.value, None, None)


@pytest.fixture
def data(small, tmp_path):
    """The small ledger on disk."""
    return small.write(tmp_path / "data")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """The small ledger on disk, and its builder; whoever changes it puts it back."""
    builder = small_ledger()
    return builder, builder.write(tmp_path_factory.mktemp("pristine") / "data")


@pytest.fixture
def three_tiles(large, tmp_path):
    """The large ledger on disk."""
    return large.write(tmp_path / "data")


class TestUntouched:
    """A ledger as it was sealed is intact, however it is named."""

    @pytest.mark.parametrize("folder", ["", "ledger", SHARD])
    def test_a_sealed_ledger_is_intact(self, data, small, verify, folder) -> None:
        """Every record is OK, for a data directory, a ledger directory and a shard alike."""
        report = verify(data / folder, small)
        assert (report.exit_status, report.verdict, found(report)) == (0, V.OK, set())
        assert report.shards[0].counts == {V.OK: len(small.leaves)}

    def test_a_ledger_of_several_tiles_is_intact(self, three_tiles, large, verify) -> None:
        """Full tiles, a partial one and a second level of hashes."""
        assert verify(three_tiles, large).shards[0].counts == {V.OK: len(large.leaves)}

    def test_the_head_is_reported(self, data, small, verify) -> None:
        """Origin, size, root, times, key and the signed note itself."""
        shard = verify(data, small).shards[0]
        assert (shard.origin, shard.size, shard.key) == (ORIGIN, len(small.leaves), small.vkey)
        assert shard.checkpoint == small.checkpoint().decode()
        assert shard.root == merkle.root_of(map(merkle.leaf_hash, small.leaves))
        assert shard.first_us < shard.last_us


class TestEveryByte:
    """No byte of a ledger can be changed unnoticed."""

    @settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_a_flipped_bit_is_named_with_its_file(self, pristine, verify, draw) -> None:
        """Any bit of leaves, hashes, bodies, control, quarantine and signed heads: exit 1, and the file is named."""
        builder, root = pristine
        paths = [path for path in sorted(root.rglob("*")) if path.is_file() and path.parent.name != "keys"]
        path = draw.draw(st.sampled_from(paths))
        original = path.read_bytes()
        offset = draw.draw(st.integers(0, len(original) - 1))
        flip(path, offset, draw.draw(st.integers(0, 7)))
        try:
            report = verify(root, builder)
        finally:
            path.write_bytes(original)
        named = {finding.file for finding in report.shards[0].findings}
        if path.name == "committed":
            named.add(str(path.relative_to(root)))  # speaks of leaves that are not there, or of fewer than signed
        else:
            assert report.exit_status == 1
        assert str(path.relative_to(root)) in named

    @pytest.mark.parametrize("offset", range(0, LEAF_SIZE, 3))
    def test_a_changed_leaf_is_named(self, data, small, verify, offset) -> None:
        """Whatever field it is, exactly that record is altered, and no other one suffers."""
        for index in (0, 3, 7, len(small.leaves) - 1):
            flip(data / SHARD / "leaves", index * LEAF_SIZE + offset)
            report = verify(data, small)
            assert found(report) == {LEAVES_DIFFER, at(V.ALTERED, index)}
            assert report.shards[0].counts[V.OK] == len(small.leaves) - 1
            flip(data / SHARD / "leaves", index * LEAF_SIZE + offset)

    def test_a_changed_body_is_named(self, data, small, verify) -> None:
        """Header, salt or section: exactly that record, at the byte where its frame begins."""
        for path in sorted((data / SHARD / "bodies").glob("*/frames")):
            start = 0
            for index, encoded in zip(indexes(path), split_frames(path), strict=True):
                for offset in range(0, len(encoded), 41):
                    flip(path, start + offset)
                    report = verify(data, small)
                    assert found(report) == {at(V.ALTERED, index)}, (path, offset)
                    assert report.shards[0].findings[0].offset == start
                    flip(path, start + offset)
                start += len(encoded)

    def test_a_changed_control_document_is_named(self, data, small, verify) -> None:
        """Any part of its frame but a length that reaches beyond the end, which looks like a cut."""
        path = data / SHARD / "control" / "frames"
        start = 0
        for index, encoded in zip(indexes(path), split_frames(path), strict=True):
            for offset in (0, 6, 17, 22, len(encoded) - 1):
                flip(path, start + offset)
                report = verify(data, small)
                verdicts = {item for item in found(report) if item[0] != V.UNVERIFIABLE}
                assert verdicts == {at(V.CONTROL_ALTERED, index)}, (index, offset)
                flip(path, start + offset)
            start += len(encoded)

    def test_a_changed_hash_is_named(self, three_tiles, large, verify) -> None:
        """The leaves stay OK; the file and the byte of the hash are named, on every level."""
        for name, place in (("0", 0), ("0", 300), ("0", len(large.leaves) - 1), ("1", 0), ("1", 1)):
            flip(three_tiles / SHARD / "hashes" / name, place * 32 + 5)
            report = verify(three_tiles, large)
            (finding,) = report.shards[0].findings
            assert (finding.verdict, finding.file) == (V.ROOT_MISMATCH, f"{SHARD}/hashes/{name}")
            assert finding.offset == place * 32
            assert report.shards[0].counts[V.OK] == len(large.leaves)
            flip(three_tiles / SHARD / "hashes" / name, place * 32 + 5)

    @pytest.mark.parametrize("name", ["checkpoint", "state/last-signed", "checkpoints/2026-02-10"])
    def test_a_changed_head_is_named(self, data, small, verify, name) -> None:
        """Any byte of a signed head breaks its signature; the ledger is still verified by the other one."""
        for offset in range(0, len((data / SHARD / name).read_bytes()), 7):
            flip(data / SHARD / name, offset)
            report = verify(data, small)
            assert {finding.file for finding in report.shards[0].findings} == {f"{SHARD}/{name}"}
            assert report.verdict is V.BAD_SIGNATURE
            assert report.shards[0].counts[V.OK] == len(small.leaves)
            flip(data / SHARD / name, offset)


class TestLeaves:
    """Leaves left out, put in, moved and replaced; the bodies of all others stay OK."""

    def check(self, report, builder, *expected, sound: int) -> None:
        """Assert findings and the number of records that are still OK."""
        assert found(report) == set(expected)
        assert report.exit_status == 1
        assert report.shards[0].counts[V.OK] == sound

    @pytest.mark.parametrize("index", [0, 1, 255, 256, 400, 690])
    def test_a_leaf_left_out_is_missing(self, three_tiles, large, verify, index) -> None:
        """Exactly that one; those behind it are recognised although they moved up."""
        change_leaves(three_tiles / SHARD / "leaves", lambda leaves: leaves.pop(index))
        report = verify(three_tiles, large)
        cut = (V.TRUNCATED.value, len(large.leaves) - 1, len(large.leaves) - 1)
        assert at(V.MISSING, index) in found(report)
        self.check(report, large, LEAVES_DIFFER, at(V.MISSING, index), cut, sound=len(large.leaves) - 2) if cut in found(
            report
        ) else self.check(report, large, LEAVES_DIFFER, at(V.MISSING, index), sound=len(large.leaves) - 1)
