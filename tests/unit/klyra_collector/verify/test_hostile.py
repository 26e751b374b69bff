"""Files made by somebody hostile: a verdict or an error of verification, never a crash, a hang or a full memory."""

from __future__ import annotations

import os
import shutil
import struct
import tracemalloc
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klyra_audit.format import checkpoint, frame
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.leaf import LEAF_SIZE
from klyra_audit.format.merkle import HASH_SIZE
from klyra_collector.verify import CannotVerify, Verdict
from klyra_collector.verify.files import RegularFile, Unreadable, entries, open_if_readable, read_small
from support.ledgers import ORIGIN, put, signing_key, small_ledger
from support.tampering import found

V = Verdict
FILES = ["leaves", "hashes/0", "control/frames", "checkpoint", "state/last-signed", "checkpoints/2026-02-10"]


@pytest.fixture
def data(small, tmp_path):
    """The small ledger on disk."""
    return small.write(tmp_path / "data")


@pytest.fixture
def shard(data):
    """Its shard."""
    return data / "ledger/2026"


class TestNoRegularFile:
    """Links, pipes and folders in place of files."""

    @pytest.mark.parametrize("name", FILES)
    def test_a_link_is_not_followed(self, data, shard, tmp_path, verify, small, name) -> None:
        """Not even to the very same content: what it leads to may change behind the verifier's back."""
        (shard / name).rename(tmp_path / "elsewhere")
        (shard / name).symlink_to(tmp_path / "elsewhere")
        report = verify(data, small)
        assert report.exit_status == 2
        reasons = {finding.file: finding.reason for finding in report.shards[0].findings}
        assert "symbolic link" in reasons[f"ledger/2026/{name}"]

    @pytest.mark.parametrize("name", FILES)
    def test_a_pipe_does_not_block(self, data, shard, verify, small, name) -> None:
        """A FIFO that nobody writes to."""
        (shard / name).unlink()
        os.mkfifo(shard / name)
        report = verify(data, small)
        assert report.exit_status in (1, 2)
        assert f"ledger/2026/{name}" in {finding.file for finding in report.shards[0].findings}

    @pytest.mark.parametrize("name", [*FILES, "bodies", "hashes", "checkpoints"])
    def test_a_folder_for_a_file_and_a_file_for_a_folder(self, data, shard, verify, small, name) -> None:
        """Whatever stands there, it is said."""
        if (shard / name).is_dir():
            shutil.rmtree(shard / name)
            (shard / name).write_bytes(b"x")
        else:
            (shard / name).unlink()
            (shard / name).mkdir()
        assert verify(data, small).exit_status in (1, 2)

    def test_a_linked_folder_of_bodies_is_not_entered(self, data, shard, tmp_path, verify, small) -> None:
        """Folders inside a shard are real ones."""
        shutil.move(shard / "bodies", tmp_path / "bodies")
        (shard / "bodies").symlink_to(tmp_path / "bodies")
        report = verify(data, small)
        assert "ledger/2026/bodies" in {finding.file for finding in report.shards[0].findings}

    def test_links_beside_the_ledger_are_not_followed_either(self, data, tmp_path, verify) -> None:
        """Keys and quarantined bytes."""
        for name in ("keys/org-salt", "keys/collector.vkey"):
            (data / name).rename(tmp_path / "elsewhere")
            (data / name).symlink_to(tmp_path / "elsewhere")
        shutil.move(data / "quarantine", tmp_path / "quarantine")
        (data / "quarantine").symlink_to(tmp_path / "quarantine")
        assert verify(data).exit_status in (1, 2)

    @pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to this user")
    def test_a_file_that_may_not_be_read(self, data, shard, verify, small) -> None:
        """Not to be allowed to look is not to have seen."""
        (shard / "leaves").chmod(0)
        assert verify(data, small).exit_status == 2

    def test_a_path_that_is_no_path(self, verify, tmp_path) -> None:
        """A name with a zero byte, or one that is too long."""
        for name in ("a\0b", "x" * 5000):
            with pytest.raises(CannotVerify):
                verify(tmp_path / name)


class TestAnyBytes:
    """Any bytes in any file lead to a report."""

    @settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.sampled_from([*FILES, "body", "quarantine", "state/committed", "vkey", "salt"]), st.binary(max_size=400))
    def test_garbage_is_judged(self, tmp_path, verify, name, content) -> None:
        """Never OK where the file is a part of what was sealed."""
        builder = small_ledger()
        root = builder.write(tmp_path / "data")
        shard = root / "ledger/2026"
        paths = {
            "body": min((shard / "bodies").glob("*/frames")),
            "quarantine": min((root / "quarantine").glob("*/2026.frames")),
            "vkey": root / "keys/collector.vkey",
            "salt": root / "keys/org-salt",
        }
        paths.get(name, shard / name).write_bytes(content)
        report = verify(root)
        assert report.exit_status in ((0, 1) if name == "state/committed" else (1, 2))
        assert report.as_json()["exit"] == report.exit_status

    def test_hostile_frames_cost_little(self, data, shard, verify, small) -> None:
        """Thousands of headers that promise a long frame, and lie."""
        header = struct.pack(">4sQI", frame.BLOB_MAGIC, 5, 60_000) + bytes(4)
        put(shard / "control/frames", header * 20_000)
        day = small.day_of(len(small.leaves) - 1)
        put(shard / f"bodies/{day}/frames", frame.BODY_MAGIC * 100_000)
        assert verify(data, small).exit_status == 1

    def test_a_frame_larger_than_any_body_is_not_loaded(self, data, shard, verify, small) -> None:
        """A whole header that promises 64 MiB is passed over, and what follows is read."""
        day = small.day_of(len(small.leaves) - 1)
        path = shard / f"bodies/{day}/frames"
        header = struct.pack(
            ">4sQIIII32s32s32sI", frame.BODY_MAGIC, 5, 64 << 20, 0, 0, 0, b"c" * 32, *(bytes(32),) * 2, 0
        )
        header += zlib.crc32(header).to_bytes(4)
        path.write_bytes(header + path.read_bytes())
        with path.open("r+b") as file:
            file.truncate(65 << 20)  # sparse
        report = verify(data, small)
        assert report.exit_status == 1
        assert report.shards[0].counts[V.OK] >= len(small.leaves) - len(small.bodies[day])

    def test_many_findings_are_counted_and_not_all_kept(self, data, shard, verify, small) -> None:
        """The report stays small."""
        shutil.rmtree(shard / "bodies")
        report = verify(data, small, limit_findings=2)
        assert (len(report.shards[0].findings), report.shards[0].findings_total) == (2, 5)
        assert verify(data, small, limit_findings=0).exit_status == 1

    def test_names_are_printable_in_the_report(self, data, shard, verify, small) -> None:
        """A name that is no text still gives a report that is."""
        (shard / "bodies").joinpath(os.fsdecode(b"\xff\x1b[2J")).mkdir()
        report = verify(data, small)
        assert (V.EXTRA, None, None) in found(report)
        assert "\\xff" in report.shards[0].findings[0].file


class TestClaims:
    """What is claimed takes no memory: only what is there does."""

    @pytest.fixture
    def peak(self):
        """Return how much memory a verification takes, at its most, in MiB."""

        def measure(run):
            tracemalloc.start()
            try:
                report = run()
                return report, tracemalloc.get_traced_memory()[1] / 2**20
            finally:
                tracemalloc.stop()

        return measure

    @pytest.fixture
    def stretch(self, tmp_path):
        """Make a file sparse, and as large as so many bytes."""
        (tmp_path / "sparse").write_bytes(b"x")
        os.truncate(tmp_path / "sparse", 2**20)
        with RegularFile(tmp_path / "sparse") as file:
            if file.dense_size == file.size:
                pytest.skip("this file system has no holes, or does not tell of them")
        return os.truncate

    def claim(self, shard, size) -> None:
        """Put a head of so many records in the place of the genuine ones, signed by the ledger's own key."""
        head = checkpoint.sign(Checkpoint(ORIGIN, size, b"\x01" * 32), signing_key())
        for path in (shard / "checkpoints").iterdir():
            path.unlink()
        for name in ("checkpoint", "state/last-signed"):
            put(shard / name, head)

    @pytest.mark.parametrize("size", [2**32, 2**62])
    def test_a_head_of_many_records_over_small_files(self, data, shard, verify, peak, size) -> None:
        """Signed or not, they are not there."""
        self.claim(shard, size)
        report, mebibytes = peak(lambda: verify(data))
        assert report.exit_status == 1
        assert report.shards[0].counts[V.TRUNCATED]
        assert mebibytes < 16

    @pytest.mark.parametrize("has_heads", [True, False])
    def test_sparse_leaves(self, data, shard, verify, peak, stretch, has_heads) -> None:
        """448 GB of holes are read as the few leaves in front of them."""
        if not has_heads:
            for path in [*(shard / "checkpoints").iterdir(), shard / "checkpoint", shard / "state/last-signed"]:
                path.unlink()
        stretch(shard / "leaves", LEAF_SIZE * 4_000_000_000)
        report, mebibytes = peak(lambda: verify(data))
        assert report.exit_status in (1, 2)
        assert any("it is sparse" in finding.reason for finding in report.shards[0].findings)
        assert mebibytes < 16

    def test_sparse_hashes_under_a_head_of_as_many_records(self, data, shard, verify, peak, stretch) -> None:
        """Hashes are another account of the leaves only where there are any."""
        self.claim(shard, 4_000_000_000)
        stretch(shard / "hashes/0", HASH_SIZE * 4_000_000_000)
        report, mebibytes = peak(lambda: verify(data))
        assert report.exit_status == 1
        assert mebibytes < 16

    def test_a_sparse_file_of_bodies(self, data, shard, verify, small, peak, stretch) -> None:
        """What stands in a hole is no frame; the search for one ends."""
        day = small.day_of(len(small.leaves) - 1)
        stretch(shard / f"bodies/{day}/frames", 10**12)
        report, mebibytes = peak(lambda: verify(data, small))
        assert report.exit_status == 1
        assert mebibytes < 16


class TestFiles:
    """Reading by position, without maps."""

    def test_a_file_is_as_long_as_when_it_was_opened(self, tmp_path) -> None:
        """What is appended meanwhile is not looked at."""
        (tmp_path / "a").write_bytes(b"1234")
        with RegularFile(tmp_path / "a") as file:
            (tmp_path / "a").write_bytes(b"12345678")
            assert (file.read(2, 100), file.read(9, 1)) == (b"34", b"")

    def test_a_file_cut_meanwhile_reads_short(self, tmp_path) -> None:
        """With a memory map, this would end the process."""
        (tmp_path / "a").write_bytes(bytes(10_000))
        with RegularFile(tmp_path / "a") as file:
            os.truncate(tmp_path / "a", 100)
            assert len(file.read(0, 10_000)) == 100

    def test_of_a_long_file_only_the_beginning_is_read(self, tmp_path) -> None:
        """Enough to see that it is too long."""
        (tmp_path / "a").write_bytes(bytes(100))
        assert len(read_small(tmp_path / "a", 10)) == 11

    def test_what_is_no_folder_has_no_entries(self, tmp_path) -> None:
        """Nothing for nothing; an error for a file."""
        assert list(entries(tmp_path / "nothing")) == []
        (tmp_path / "a").write_bytes(b"")
        with pytest.raises(Unreadable, match="no folder"):
            list(entries(tmp_path / "a"))

    def test_what_cannot_be_read_reads_as_nothing_where_that_is_said_elsewhere(self, tmp_path) -> None:
        """A folder is no file."""
        with open_if_readable(tmp_path) as file:
            assert (file.size, file.read(0, 5)) == (0, b"")
