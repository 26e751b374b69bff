"""What lies behind the newest head: records on their way, what a crash left, and what somebody added."""

from __future__ import annotations

import pytest

from klyra_audit.format import frame
from klyra_audit.format.frame import BlobFrame
from klyra_audit.format.leaf import LEAF_SIZE, Leaf
from klyra_collector.verify import Verdict
from support.ledgers import ACME, LedgerBuilder, put, small_ledger, tile_hashes
from support.tampering import at, flip, found, split_frames

V = Verdict
SHARD = "ledger/2026"
SIGNED = 12


@pytest.fixture
def busy(tmp_path, small):
    """A ledger of which the newest records are committed and not signed yet."""
    return small.write(tmp_path / "data", signed=SIGNED)


@pytest.fixture
def stopped(tmp_path, small):
    """A ledger of which every record is signed."""
    return small.write(tmp_path / "data")


class TestUnsignedRecords:
    """Records behind the head are checked like signed ones, but for the signature."""

    def test_they_are_counted_apart(self, busy, small, verify) -> None:
        """Only signed records are OK."""
        report = verify(busy, small)
        tail = report.shards[0].unsigned_tail
        assert (report.exit_status, report.shards[0].notes) == (0, [])
        assert report.shards[0].counts == {V.OK: SIGNED}
        assert (tail.records, tail.checked) == (len(small.leaves) - SIGNED,) * 2

    @pytest.mark.parametrize("committed", [True, False], ids=["committed", "no word of it"])
    def test_records_unsigned_for_long_cannot_be_checked(self, tmp_path, small, verify, committed) -> None:
        """A collector signs every second: both newest heads may have been put back."""
        small.kept.clear()
        data = small.write(tmp_path / "data", signed=7)
        if not committed:
            (data / SHARD / "state/committed").unlink()
        report = verify(data, small)
        assert (report.exit_status, report.verdict) == (2, V.UNVERIFIABLE)
        (finding,) = report.shards[0].findings
        assert (finding.first, finding.last, finding.count) == (7, len(small.leaves) - 1, len(small.leaves) - 7)
        assert "older heads" in finding.reason
        assert "signer has failed" in finding.reason
        assert "--expect-checkpoint" in finding.meaning

    @pytest.mark.parametrize(("seconds", "expected"), [(60, set()), (61, {V.UNVERIFIABLE})])
    def test_for_how_long_records_may_be_unsigned(self, tmp_path, verify, seconds, expected) -> None:
        """A minute: that a signature comes late is nothing."""
        builder = LedgerBuilder().begin(ACME)
        builder.event(ACME)
        signed = len(builder.leaves)
        builder.event(ACME)
        builder.now_us = Leaf.unpack(builder.leaves[-1]).ingest_us + seconds * 1_000_000
        builder.event(ACME)
        report = verify(builder.write(tmp_path / "data", signed=signed), builder)
        assert {finding.verdict for finding in report.shards[0].findings} == expected

    @pytest.mark.parametrize(("unsigned", "expected"), [(65_536, set()), (65_537, {V.UNVERIFIABLE})])
    def test_how_many_records_may_be_unsigned(self, tmp_path, verify, unsigned, expected) -> None:
        """As many as one commit has, whatever times they show: nobody signed those either."""
        builder = LedgerBuilder().begin(ACME)
        builder.event(ACME)
        data = builder.write(tmp_path / "data")
        (data / SHARD / "state/committed").unlink()
        with (data / SHARD / "leaves").open("ab") as file:
            file.write(builder.leaves[-1] * unsigned)
        report = verify(data, builder)
        assert {finding.verdict for finding in report.shards[0].findings} == expected

    def test_a_body_among_them_is_checked(self, busy, small, verify) -> None:
        """A flipped byte of an unsigned record's body."""
        day = small.day_of(len(small.leaves) - 1)
        path = busy / SHARD / "bodies" / str(day) / "frames"
        flip(path, len(path.read_bytes()) - 1)
        assert found(verify(busy, small)) == {at(V.ALTERED, len(small.leaves) - 1)}

    def test_a_chain_among_them_is_checked(self, busy, small, verify) -> None:
        """A flipped byte of an unsigned leaf, which no root covers."""
        flip(busy / SHARD / "leaves", SIGNED * LEAF_SIZE + 60)
        assert at(V.ORG_CHAIN, SIGNED) in found(verify(busy, small))

    def test_acknowledged_records_that_are_gone(self, busy, small, verify) -> None:
        """state/committed speaks of more leaves than there are."""
        leaves = busy / SHARD / "leaves"
        leaves.write_bytes(leaves.read_bytes()[: -2 * LEAF_SIZE])
        assert at(V.TRUNCATED, len(small.leaves) - 2, len(small.leaves) - 1) in found(verify(busy, small))

    def test_without_state_committed_nothing_behind_the_head_is_judged(self, busy, small, verify) -> None:
        """A copy of a running ledger may end anywhere behind its head."""
        (busy / SHARD / "state/committed").unlink()
        with (busy / SHARD / "leaves").open("ab") as file:
            file.write(b"torn")
        report = verify(busy, small)
        assert report.exit_status == 0
        assert report.shards[0].unsigned_tail.records == len(small.leaves) - SIGNED


class TestLeftovers:
    """Bytes behind the committed records: a crash leaves them, a start removes them, anybody can add them."""

    def leave(self, root, name, content) -> None:
        """Append bytes to a file of the shard."""
        with (root / SHARD / name).open("ab") as file:
            file.write(content)

    @pytest.fixture
    def later(self):
        """The ledger as it is after the next commit."""
        builder = small_ledger()
        builder.event(ACME, days=90)
        builder.policy(ACME, 365)
        return builder

    @pytest.fixture(params=["leaf", "part of a leaf", "body", "part of a body", "document", "part of a document"])
    def leftover(self, request, stopped, small, later):
        """One part of the next commit, appended: (file, bytes)."""
        index = len(small.leaves)
        bodies = f"bodies/{later.day_of(index)}/frames"
        body = frame.encode_body(later.bodies[later.day_of(index)][-1])
        document = frame.encode_blob(later.controls[-1])
        added = {
            "leaf": ("leaves", later.leaves[index]),
            "part of a leaf": ("leaves", later.leaves[index][:50]),
            "body": (bodies, body),
            "part of a body": (bodies, body[:200]),
            "document": ("control/frames", document),
            "part of a document": ("control/frames", document[:30]),
        }
        self.leave(stopped, *added[request.param])
        return added[request.param]

    def test_in_a_ledger_that_was_stopped_cleanly_it_was_added(self, leftover, stopped, small, verify) -> None:
        """Named with file and byte; the records are OK."""
        report = verify(stopped, small)
        (finding,) = report.shards[0].findings
        name, content = leftover
        assert (finding.verdict, finding.file) == (V.EXTRA, f"{SHARD}/{name}")
        assert finding.offset == len((stopped / SHARD / name).read_bytes()) - len(content)
        assert report.shards[0].counts[V.OK] == len(small.leaves)

    def test_in_a_ledger_that_was_not_a_crash_left_it(self, leftover, stopped, small, verify) -> None:
        """run.json is still there: nothing that was sealed is concerned."""
        put(stopped / "run.json", b"{}")
        report = verify(stopped, small)
        assert report.exit_status == 0
        assert report.shards[0].unsigned_tail.unfinished == 1

    @pytest.mark.usefixtures("leftover")
    def test_a_running_collector_is_given_time_to_commit(self, stopped, small, later, verify) -> None:
        """What is on its way is committed while the verification waits."""
        report = verify(stopped, small, patience=5.0, sleep=lambda _seconds: later.write(stopped))
        assert report.exit_status == 0

    def test_what_a_start_removes_meanwhile_is_gone(self, stopped, small, verify) -> None:
        """Recovery cuts a torn frame that was never committed."""
        self.leave(stopped, "control/frames", b"KLR1\0\0")
        report = verify(stopped, small, patience=5.0, sleep=lambda _seconds: small.write(stopped))
        assert report.exit_status == 0

    def test_junk_is_nobodys_commit(self, stopped, small, verify) -> None:
        """It stays junk, however long one waits."""
        self.leave(stopped, "control/frames", b"junk")
        assert found(verify(stopped, small, patience=0.01)) == {(V.EXTRA, None, None)}

    def test_an_impossible_index_is_no_crash(self, stopped, small, verify) -> None:
        """No commit is that large."""
        put(stopped / "run.json", b"{}")
        self.leave(stopped, "control/frames", frame.encode_blob(BlobFrame(10**9, b"{}")))
        assert found(verify(stopped, small)) == {at(V.EXTRA, 10**9)}

    def test_hashes_of_no_leaves_are_extra(self, stopped, small, verify) -> None:
        """On any level, also in parts."""
        put(stopped / SHARD / "hashes/1", bytes(32))
        self.leave(stopped, "hashes/0", bytes(33))
        assert found(verify(stopped, small)) == {(V.EXTRA, None, None)}
        assert len(verify(stopped, small).shards[0].findings) == 2

    def test_hashes_ahead_of_the_head_are_a_running_collectors(self, busy, small, verify) -> None:
        """It writes hashes before it signs."""
        put(busy / SHARD / "hashes/0", tile_hashes(small.leaves)[0])
        assert verify(busy, small).exit_status == 0

    def test_hashes_that_are_not_there(self, stopped, small, verify) -> None:
        """Cut or gone, they are named; the records are OK."""
        path = stopped / SHARD / "hashes/0"
        path.write_bytes(path.read_bytes()[:64])
        report = verify(stopped, small)
        assert [finding.verdict for finding in report.shards[0].findings] == [V.TRUNCATED]
        path.unlink()
        report = verify(stopped, small)
        assert [finding.verdict for finding in report.shards[0].findings] == [V.MISSING]
        assert report.shards[0].counts[V.OK] == len(small.leaves)

    def test_frames_are_split_as_they_were_written(self, stopped) -> None:
        """The helpers of these tests read what the builder wrote."""
        path = stopped / SHARD / "control/frames"
        assert b"".join(split_frames(path)) == path.read_bytes()
