"""Whatever is changed in the files of a ledger, verify says which verdict, where, and of which record."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klyra_audit.format import frame, merkle, sections
from klyra_audit.format.frame import BlobFrame
from klyra_audit.format.leaf import LEAF_SIZE, Kind, Leaf
from klyra_collector.verify import Verdict
from support.ledgers import ACME, ORIGIN, put, small_ledger, tile_hashes
from support.tampering import at, change_frames, change_leaves, flip, found, indexes, split_frames, swap

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

    @settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
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

    @pytest.mark.parametrize("offset", range(0, LEAF_SIZE, 10))
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
                for offset in range(0, len(encoded), 97):
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
        for offset in range(0, len((data / SHARD / name).read_bytes()), 17):
            flip(data / SHARD / name, offset)
            report = verify(data, small)
            assert {finding.file for finding in report.shards[0].findings} == {f"{SHARD}/{name}"}
            assert report.verdict is V.BAD_SIGNATURE
            assert report.shards[0].counts[V.OK] == len(small.leaves)
            flip(data / SHARD / name, offset)


class TestLeaves:
    """Leaves left out, put in, moved and replaced: exactly they are named, and all others stay OK."""

    @pytest.fixture
    def change(self, three_tiles, large, verify):
        """Change the leaves of the large ledger; return what was found, and how many records are no longer OK."""

        def run(work):
            change_leaves(three_tiles / SHARD / "leaves", work)
            report = verify(three_tiles, large)
            assert report.exit_status == 1
            return found(report), len(large.leaves) - report.shards[0].counts[V.OK]

        return run

    @pytest.mark.parametrize("index", [0, 1, 255, 256, 400, 690])
    def test_a_leaf_left_out_is_missing(self, change, index) -> None:
        """Those behind it are recognised although they moved up."""
        assert change(lambda leaves: leaves.pop(index)) == ({LEAVES_DIFFER, at(V.MISSING, index)}, 1)

    def test_a_run_of_leaves_left_out_is_one_range(self, change) -> None:
        """First and last are named."""
        assert change(lambda leaves: leaves.__delitem__(slice(30, 40))) == ({LEAVES_DIFFER, at(V.MISSING, 30, 39)}, 10)

    @pytest.mark.parametrize("index", [0, 3, 256, 700])
    def test_a_leaf_put_in_is_extra(self, change, index) -> None:
        """It is no record's; all records are OK."""
        assert change(lambda leaves: leaves.insert(index, leaves[9])) == ({LEAVES_DIFFER, (V.EXTRA, None, None)}, 0)

    @pytest.mark.parametrize(("one", "other"), [(5, 6), (5, 300), (0, 704), (255, 256)])
    def test_exchanged_leaves_are_reordered(self, change, one, other) -> None:
        """Both are named; their bodies are still found and checked."""
        reordered = {LEAVES_DIFFER, at(V.REORDERED, one), at(V.REORDERED, other)}
        assert change(lambda leaves: swap(leaves, one, other)) == (reordered, 2)

    @pytest.mark.parametrize(("place", "to"), [(10, 400), (400, 10), (704, 0), (0, 704)])
    def test_a_moved_leaf_is_reordered(self, change, place, to) -> None:
        """Only the one that was moved."""
        moved = {LEAVES_DIFFER, at(V.REORDERED, place)}
        assert change(lambda leaves: leaves.insert(to, leaves.pop(place))) == (moved, 1)

    def test_several_changes_are_told_apart(self, change) -> None:
        """Altered, missing and put in, in one file."""

        def work(leaves):
            leaves[600] = leaves[599]
            leaves.insert(300, bytes(LEAF_SIZE))
            leaves.pop(100)

        expected = {LEAVES_DIFFER, at(V.MISSING, 100), (V.EXTRA, None, None), at(V.ALTERED, 600)}
        assert change(work) == (expected, 2)

    @pytest.mark.parametrize("left", [0, 1, 256, 511, 704])
    def test_leaves_cut_off_are_truncated(self, change, left) -> None:
        """From the first that is gone to the last that was signed."""
        assert change(lambda leaves: leaves.__delitem__(slice(left, None))) == (
            {at(V.TRUNCATED, left, 704)},
            705 - left,
        )

    def test_leaves_of_another_ledger_match_nothing(self, change) -> None:
        """The whole range leads to another root; so many differences are not followed one by one."""
        findings, lost = change(lambda leaves: leaves.__setitem__(slice(0, None), [bytes(LEAF_SIZE)] * 705))
        assert LEAVES_DIFFER in findings
        assert lost == 705

    def test_a_changed_leaf_whose_hash_was_changed_too_is_narrowed_to_its_tile(
        self, three_tiles, large, verify
    ) -> None:
        """hashes/1 still leads to the signed root; within the tile, body and chain name the record."""
        flip(three_tiles / SHARD / "leaves", 300 * LEAF_SIZE + 100)
        flip(three_tiles / SHARD / "hashes/0", 300 * 32)
        report = verify(three_tiles, large)
        follower = next(
            index
            for index in range(301, 705)
            if Leaf.unpack(large.leaves[index]).org_prev == merkle.leaf_hash(large.leaves[300])
        )
        assert found(report) >= {LEAVES_DIFFER, at(V.ROOT_MISMATCH, 256, 511), at(V.ALTERED, 300)}
        assert at(V.ORG_CHAIN, follower) in found(report)

    def test_a_changed_leaf_and_a_changed_hash_elsewhere_are_both_named(self, three_tiles, large, verify) -> None:
        """Neither leaves nor hashes/0 lead to the signed root, but together they do."""
        flip(three_tiles / SHARD / "leaves", 300 * LEAF_SIZE)
        flip(three_tiles / SHARD / "hashes/0", 600 * 32)
        flip(three_tiles / SHARD / "hashes/1", 0)
        report = verify(three_tiles, large)
        assert at(V.ALTERED, 300) in found(report)
        offsets = {(finding.file, finding.offset) for finding in report.shards[0].findings}
        assert {(f"{SHARD}/hashes/0", 600 * 32), (f"{SHARD}/hashes/1", 0)} <= offsets
        assert report.shards[0].counts[V.OK] == 704

    def test_rewritten_leaves_and_hashes_are_narrowed_by_a_kept_head(self, three_tiles, large, verify) -> None:
        """Nothing leads to the signed root; what an older signed head still vouches for stays OK."""
        kept = large.kept[0]
        flip(three_tiles / SHARD / "leaves", (kept + 100) * LEAF_SIZE + 90)
        rewritten = (three_tiles / SHARD / "leaves").read_bytes()
        leaves = [rewritten[at : at + LEAF_SIZE] for at in range(0, len(rewritten), LEAF_SIZE)]
        for level, hashes in tile_hashes(leaves).items():
            put(three_tiles / SHARD / "hashes" / str(level), hashes)
        report = verify(three_tiles, large)
        assert at(V.ROOT_MISMATCH, kept, 704) in found(report)
        assert report.shards[0].counts[V.OK] == kept


class TestBodies:
    """Frames of bodies left out, put in, moved, doubled and damaged."""

    @pytest.fixture
    def day(self, large):
        """An expiry day with many bodies."""
        return max(large.bodies, key=lambda day: len(large.bodies[day]))

    @pytest.fixture
    def path(self, three_tiles, day):
        """That day's file."""
        return three_tiles / SHARD / "bodies" / str(day) / "frames"

    @pytest.fixture
    def order(self, path):
        """The indexes in that file."""
        return indexes(path)

    @pytest.fixture
    def change(self, path, three_tiles, large, verify):
        """Change the frames of the file; return what was found."""

        def run(work):
            change_frames(path, work)
            report = verify(three_tiles, large)
            assert report.exit_status == 1
            return found(report)

        return run

    @pytest.mark.parametrize("place", [0, 7, -1])
    def test_a_body_left_out_is_missing(self, change, order, place) -> None:
        """First, middle or last."""
        assert change(lambda frames: frames.pop(place)) == {at(V.MISSING, order[place])}

    def test_bodies_left_out_are_one_range(self, change, order) -> None:
        """Neighbours in the file are one finding, with the number of records."""
        assert change(lambda frames: frames.__delitem__(slice(3, 9))) == {at(V.MISSING, order[3], order[8])}

    def test_a_whole_file_left_out_is_one_range(self, path, order, three_tiles, large, verify) -> None:
        """All of its records are counted."""
        path.unlink()
        report = verify(three_tiles, large)
        assert found(report) == {at(V.MISSING, order[0], order[-1])}
        assert report.shards[0].counts[V.MISSING] == len(order)
        assert report.shards[0].counts[V.OK] == len(large.leaves) - len(order)

    @pytest.mark.parametrize("to", [0, 20, None])
    def test_a_second_copy_is_a_duplicate(self, change, order, to) -> None:
        """Wherever it is put; in front of the first, that looks moved too."""
        findings = change(lambda frames: frames.insert(len(frames) if to is None else to, frames[10]))
        assert at(V.DUPLICATE, order[10]) in findings
        assert findings <= {at(V.DUPLICATE, order[10]), at(V.REORDERED, order[10])}

    @pytest.mark.parametrize(("one", "other"), [(4, 30), (0, 50)])
    def test_exchanged_bodies_are_reordered(self, change, order, one, other) -> None:
        """Both are named."""
        assert change(lambda frames: swap(frames, one, other)) == {
            at(V.REORDERED, order[one]),
            at(V.REORDERED, order[other]),
        }

    def test_neighbours_exchanged_are_reordered(self, change, order) -> None:
        """One of the two is out of place."""
        assert change(lambda frames: swap(frames, 4, 5)) in ({at(V.REORDERED, order[4])}, {at(V.REORDERED, order[5])})

    def test_a_body_of_another_record_is_altered(self, change, order, path) -> None:
        """Somebody else's content under this record's index."""
        (body,) = [item for _, _, item in frame.read_body_frames(split_frames(path)[8])]
        forged = frame.encode_body(replace(body, index=order[20]))
        assert change(lambda frames: frames.__setitem__(20, forged)) == {at(V.ALTERED, order[20])}

    def test_a_rewritten_body_is_altered_although_it_agrees_with_itself(self, change, order, path) -> None:
        """Commitments made again do not lead to the leaf's."""
        (body,) = [item for _, _, item in frame.read_body_frames(split_frames(path)[8])]
        parts = replace(body.sections, actor=body.sections.actor.replace(b"Production", b"Testing"))
        forged = replace(body, sections=parts, commitments=sections.commitments(parts, body.salts))
        assert change(lambda frames: frames.__setitem__(8, frame.encode_body(forged))) == {at(V.ALTERED, order[8])}

    def test_an_altered_body_names_section_and_organization(self, path, order, three_tiles, large, verify) -> None:
        """The organization is known from its other records."""
        encoded = split_frames(path)[8]
        flip(path, path.read_bytes().index(encoded) + encoded.index(b"Production"))
        (finding,) = verify(three_tiles, large).shards[0].findings
        assert (finding.first, finding.organization_id) == (order[8], ACME)
        assert "section actor" in finding.reason

    def test_a_body_in_another_days_file_is_extra_there_and_missing_here(
        self, change, order, path, three_tiles, large
    ) -> None:
        """It would be deleted on another day."""
        other = next(day for day in large.bodies if str(day) != path.parent.name)
        with (three_tiles / SHARD / "bodies" / str(other) / "frames").open("ab") as file:
            file.write(split_frames(path)[5])
        assert change(lambda frames: frames.pop(5)) == {at(V.MISSING, order[5]), at(V.EXTRA, order[5])}

    def test_a_body_for_a_control_record_is_extra(self, change, path) -> None:
        """The record itself is as it was sealed."""
        (body,) = [item for _, _, item in frame.read_body_frames(split_frames(path)[0])]
        assert change(lambda frames: frames.insert(0, frame.encode_body(replace(body, index=2)))) == {at(V.EXTRA, 2)}

    @pytest.mark.parametrize("beyond", [0, 1, 5_000_000])
    def test_a_body_behind_the_last_leaf_is_extra(self, change, path, large, beyond) -> None:
        """No leaf stands for it."""
        index = len(large.leaves) + beyond
        (body,) = [item for _, _, item in frame.read_body_frames(split_frames(path)[0])]
        assert change(lambda frames: frames.append(frame.encode_body(replace(body, index=index)))) == {
            at(V.EXTRA, index)
        }

    @pytest.mark.parametrize("kept", [0.2, 0.9])
    def test_a_file_cut_within_a_frame_is_truncated(self, path, order, three_tiles, large, verify, kept) -> None:
        """From the torn record to the last one of the file."""
        content = path.read_bytes()
        ends = list(accumulate(map(len, split_frames(path))))
        length = int(len(content) * kept)
        path.write_bytes(content[:length])
        torn = next(place for place, end in enumerate(ends) if end > length)
        assert found(verify(three_tiles, large)) == {at(V.TRUNCATED, order[torn], order[-1])}

    def test_damage_hides_nothing_behind_it(self, path, order, three_tiles, large, verify) -> None:
        """Headers, magic and lengths of several frames: each one is named, the rest is OK."""
        starts = [0, *accumulate(map(len, split_frames(path)))]
        for place, offset in ((0, 0), (3, 14), (4, 17), (40, 147), (60, 5)):
            flip(path, starts[place] + offset)
        report = verify(three_tiles, large)
        assert found(report) == {at(V.ALTERED, order[place]) for place in (0, 3, 40, 60)} - {
            at(V.ALTERED, order[3])
        } | {at(V.ALTERED, order[3], order[4])} or found(report) == {
            at(V.ALTERED, order[place]) for place in (0, 3, 4, 40, 60)
        }

    def test_bytes_between_frames_are_extra(self, change) -> None:
        """They belong to no record."""
        assert change(lambda frames: frames.insert(5, b"x" * 1000)) == {(V.EXTRA, None, None)}

    def test_bytes_behind_the_last_frame_are_extra(self, change) -> None:
        """Of a ledger that was stopped cleanly."""
        assert change(lambda frames: frames.append(b"x" * 1000)) == {(V.EXTRA, None, None)}

    def test_an_emptied_section_is_redacted(self, change, order, path) -> None:
        """As an erasure leaves it, without an ERASURE record."""
        (body,) = [item for _, _, item in frame.read_body_frames(split_frames(path)[8])]
        zeros = replace(body.sections, actor=bytes(len(body.sections.actor)))
        emptied = replace(body, sections=zeros, salts=replace(body.salts, actor=bytes(16)))
        assert change(lambda frames: frames.__setitem__(8, frame.encode_body(emptied))) == {
            at(V.REDACTED_UNAUTHORISED, order[8])
        }

    def test_a_folder_that_is_no_days_is_extra(self, three_tiles, large, verify) -> None:
        """Bodies lie under their expiry day."""
        put(three_tiles / SHARD / "bodies" / "tomorrow" / "frames", b"")
        assert found(verify(three_tiles, large)) == {(V.EXTRA, None, None)}

    def test_bodies_are_not_held_before_they_are_due(self, three_tiles, large, verify) -> None:
        """No EXPIRY has come to their day yet."""
        path = min((three_tiles / SHARD / "bodies").glob("*/frames"))
        encoded = split_frames(path)[0]
        put(three_tiles / SHARD / "bodies" / "held" / "frames", encoded)
        assert found(verify(three_tiles, large)) == {at(V.EXTRA, indexes(path)[0])}


class TestControl:
    """Control documents left out, put in, moved, doubled and replaced."""

    @pytest.fixture
    def change(self, data, small, verify):
        """Change the frames of control documents; return what was found."""

        def run(work):
            change_frames(data / SHARD / "control" / "frames", work)
            report = verify(data, small)
            assert report.exit_status == 1
            return found(report)

        return run

    def test_a_document_left_out_is_missing(self, change) -> None:
        """SCHEMA is record 2."""
        assert change(lambda frames: frames.pop(2)) == {at(V.MISSING, 2)}

    def test_a_rewritten_document_is_altered(self, change) -> None:
        """Its frame is whole, its content is not what the leaf commits to."""
        forged = frame.encode_blob(BlobFrame(2, b'{"id":"klyra.audit/1#x","sha256":"00","type":"schema"}'))
        assert change(lambda frames: frames.__setitem__(2, forged)) == {at(V.CONTROL_ALTERED, 2)}

    def test_a_second_copy_is_a_duplicate(self, change) -> None:
        """At the end of the file."""
        assert change(lambda frames: frames.append(frames[2])) == {at(V.DUPLICATE, 2)}

    def test_exchanged_documents_are_reordered(self, change) -> None:
        """Both are named."""
        assert change(lambda frames: swap(frames, 0, 4)) == {at(V.REORDERED, 0), at(V.REORDERED, 4)}

    def test_a_document_for_an_event_is_extra(self, change, small) -> None:
        """An event's content is a body."""
        event = next(index for index, encoded in enumerate(small.leaves) if Leaf.unpack(encoded).kind == Kind.EVENT)
        added = frame.encode_blob(BlobFrame(event, b"{}"))
        assert change(lambda frames: frames.insert(5, added)) == {at(V.EXTRA, event)}

    def test_without_its_policy_document_no_plan_is_judged(self, change, small) -> None:
        """One thing is missing, and one thing is said."""
        assert change(lambda frames: frames.pop(3)) == {at(V.MISSING, 3)}


class TestQuarantine:
    """The raw bytes of quarantined input."""

    @pytest.fixture
    def path(self, data):
        """The quarantined bytes of the first day."""
        return min((data / "quarantine").glob("*/2026.frames"))

    def test_other_bytes_are_altered(self, path, data, small, verify) -> None:
        """The frame is whole, its content is not what the record's core speaks of."""
        (index,) = indexes(path)
        path.write_bytes(frame.encode_blob(BlobFrame(index, b"not that event")))
        assert found(verify(data, small)) == {at(V.ALTERED, index)}

    def test_bytes_left_out_are_missing(self, path, data, small, verify) -> None:
        """The file, or all quarantined bytes."""
        (index,) = indexes(path)
        path.unlink()
        assert found(verify(data, small)) == {at(V.MISSING, index)}
        shutil.rmtree(data / "quarantine")
        assert len(found(verify(data, small))) == 2

    def test_a_second_copy_is_a_duplicate(self, path, data, small, verify) -> None:
        """Also here."""
        (index,) = indexes(path)
        change_frames(path, lambda frames: frames.append(frames[0]))
        assert found(verify(data, small)) == {at(V.DUPLICATE, index)}

    def test_bytes_of_no_quarantine_record_are_extra(self, path, data, small, verify) -> None:
        """An event has none."""
        added = frame.encode_blob(BlobFrame(5, b"smuggled"))
        change_frames(path, lambda frames: frames.insert(0, added))
        assert found(verify(data, small)) == {at(V.EXTRA, 5)}

    def test_a_file_of_a_day_without_bodies_is_extra(self, data, small, verify) -> None:
        """Every folder of quarantined bytes is looked at."""
        put(data / "quarantine" / "1" / "2026.frames", frame.encode_blob(BlobFrame(5, b"smuggled")))
        assert found(verify(data, small)) == {at(V.EXTRA, 5)}

    def test_a_shard_that_stands_alone_has_none(self, small, tmp_path, verify) -> None:
        """A copy of the shard alone is intact, and says that they were not checked."""
        shutil.copytree(small.write(tmp_path / "data") / SHARD, tmp_path / "2026")
        report = verify(tmp_path / "2026", small, org_salt=small.org_salt)
        assert report.exit_status == 0
        assert "quarantined records" in report.shards[0].notes[0]


class TestCombined:
    """Several changes at once are never OK."""

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_any_mixture_of_changes_is_noticed(self, pristine, verify, tmp_path_factory, draw) -> None:
        """One to five of: flip, cut, delete, double, swap; in any file."""
        builder, root = pristine
        copy = tmp_path_factory.mktemp("copy") / "data"
        shutil.copytree(root, copy)
        before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file() and path.parent.name != "keys"}
        for _ in range(draw.draw(st.integers(1, 5))):
            path = draw.draw(
                st.sampled_from(sorted(path for path in before if path.exists() and path.name != "committed"))
            )
            change_somehow(path, draw)
        after = {path: path.read_bytes() for path in before if path.exists()}
        report = verify(copy, builder)
        shutil.rmtree(copy)
        assert report.exit_status == (0 if after == before else 1)


def change_somehow(path, draw) -> None:
    """Change a file in one of several ways."""
    content = path.read_bytes()
    offset = draw.draw(st.integers(0, max(len(content) - 1, 0)))
    length = draw.draw(st.integers(1, 300))
    changes = {
        "flip": lambda: content[:offset] + bytes([(content[offset] if content else 0) ^ 1]) + content[offset + 1 :],
        "cut": lambda: content[:offset],
        "delete": lambda: content[:offset] + content[offset + length :],
        "double": lambda: content[: offset + length] + content[offset:],
        "insert": lambda: content[:offset] + bytes(length) + content[offset:],
    }
    name = draw.draw(st.sampled_from([*sorted(changes), "unlink"]))
    if name == "unlink":
        path.unlink()
    else:
        path.write_bytes(changes[name]())
