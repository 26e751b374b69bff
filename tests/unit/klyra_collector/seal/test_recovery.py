"""What a crash, a failing disk and an attacker leave behind, and what the next start makes of it."""

from __future__ import annotations

import shutil

import pytest

from klyra_audit.format import frame, merkle
from klyra_audit.format.leaf import LEAF_SIZE, Kind, Leaf
from klyra_audit.format.merkle import leaf_hash
from klyra_collector.data_directory import DataDirectory, ShardDirectory
from klyra_collector.errors import IntakeHalted, LedgerDamaged, LedgerRolledBack
from klyra_collector.stages import Status
from support import records
from support.records import BUSINESS, STARTUP, submission
from support.sealing import Fault, FaultyDisk, SetClock, crash, open_ledger, read_all


@pytest.fixture
def clock():
    """A clock that stands at midsummer."""
    return SetClock()


def shard_of(root) -> ShardDirectory:
    """Return the only shard."""
    return ShardDirectory(DataDirectory(root).ledger / "2026")


def check(root, acknowledged) -> None:
    """Assert that the ledger is whole and holds everything acknowledged where it was said to be."""
    committed = read_all(root)
    by_index = {record.index: record.leaf_bytes for record in committed}
    for sealed in acknowledged:
        assert by_index[sealed.index] == sealed.leaf
    chains, last = {}, 0
    for record in committed:
        sequence, previous = chains.get(record.leaf.org_ref, (0, bytes(32)))
        assert (record.leaf.org_seq, record.leaf.org_prev) == (sequence, previous)
        chains[record.leaf.org_ref] = (sequence + 1, leaf_hash(record.leaf_bytes))
        assert record.leaf.ingest_us >= last
        last = record.leaf.ingest_us
        assert record.body is not None or record.control is not None
    hashes = shard_of(root).hashes(0).read_bytes()
    assert hashes == b"".join(leaf_hash(record.leaf_bytes) for record in committed)[: len(hashes)]


def sealed_of(answers):
    """Return where the records of all submissions stand."""
    return [outcome.sealed for outcomes in answers for outcome in outcomes]


STEPS = [
    ("overwrite", "before"),
    ("overwrite", "torn"),
    ("overwrite", "after"),
    ("append", "before"),
    ("append", "torn"),
    ("append", "after"),
    ("sync", "before"),
    ("sync", "after"),
    ("replace", "before"),
    ("replace", "after"),
    ("sync_new_file", "before"),
    ("sync_new_file", "after"),
]


class TestFailingDisk:
    """Every write of a commit and of a checkpoint fails once, before, after and in the middle."""

    @pytest.mark.parametrize("at", range(4))
    @pytest.mark.parametrize(("step", "moment"), STEPS)
    def test_a_failed_write_loses_nothing_acknowledged(self, tmp_path, clock, step, moment, at) -> None:
        """Intake halts, resumes by itself when the disk is well, and everything acknowledged stands."""
        disk = FaultyDisk()
        ledger = open_ledger(tmp_path, clock, disk)
        acknowledged = sealed_of(ledger.commit([submission(records.record(), records.bad())]))
        disk.fault = Fault(step, moment, at)
        events = [records.record(STARTUP if number % 2 else BUSINESS) for number in range(6)]
        for event in events:
            try:
                acknowledged += sealed_of(ledger.commit([submission(event)]))
                ledger.sign()
            except IntakeHalted as error:
                assert (error.code, bool(error.remedy)) == ("disk_failed", True)
                assert ledger.halted
                with pytest.raises(IntakeHalted):
                    ledger.commit([submission(event)])
                ledger.resume()
                assert ledger.halted is None
        check(tmp_path, acknowledged)
        outcomes = [outcome for answer in ledger.commit([submission(*events)]) for outcome in answer]
        acknowledged += [outcome.sealed for outcome in outcomes]
        ledger.sign()
        check(tmp_path, acknowledged)
        ledger.close()
        ledger = open_ledger(tmp_path, clock)
        assert ledger.recovered.cut is None
        check(tmp_path, acknowledged)
        ledger.close()

    @pytest.mark.parametrize("at", range(4))
    @pytest.mark.parametrize(("step", "moment"), STEPS)
    def test_a_crash_at_any_write_loses_nothing_acknowledged(self, tmp_path, clock, step, moment, at) -> None:
        """A kill at any step leaves a directory that the next start continues, with all that was acknowledged."""
        disk = FaultyDisk()
        ledger = open_ledger(tmp_path, clock, disk)
        acknowledged = sealed_of(ledger.commit([submission(records.record(), records.bad())]))
        disk.fault = Fault(step, moment, at)
        try:
            for number in range(6):
                acknowledged += sealed_of(ledger.commit([submission(records.record(BUSINESS if number else STARTUP))]))
                ledger.sign()
        except IntakeHalted:
            pass
        crash(ledger)
        ledger = open_ledger(tmp_path, clock)
        check(tmp_path, acknowledged)
        acknowledged += sealed_of(ledger.commit([submission(records.record())]))
        ledger.close()
        check(tmp_path, acknowledged)

    def test_a_disk_that_stays_full_keeps_intake_halted(self, tmp_path, clock) -> None:
        """Resuming on a disk that still fails raises again, and works when it is well."""

        class Full(FaultyDisk):
            full = False

            def append(self, descriptor, content) -> None:
                if self.full:
                    raise OSError(28, "No space left on device")
                super().append(descriptor, content)

            def truncate(self, path, size) -> None:
                if self.full:
                    raise OSError(28, "No space left on device")
                super().truncate(path, size)

        disk = Full()
        ledger = open_ledger(tmp_path, clock, disk)
        disk.full = True
        with pytest.raises(IntakeHalted):
            ledger.commit([submission(records.record())])
        with pytest.raises(IntakeHalted):
            ledger.resume()
        with pytest.raises(IntakeHalted):
            ledger.sign()
        disk.full = False
        ledger.resume()
        check(tmp_path, sealed_of(ledger.commit([submission(records.record())])))
        ledger.close()


class TestTornTails:
    """Power loss leaves pieces."""

    @pytest.fixture
    def unsigned(self, tmp_path, clock):
        """A crashed ledger: one signed event, then three that were committed but not signed."""
        ledger = open_ledger(tmp_path, clock)
        sealed = sealed_of(ledger.commit([submission(records.record())]))
        ledger.sign()
        for _ in range(3):
            sealed += sealed_of(ledger.commit([submission(records.record())]))
        crash(ledger)
        return sealed

    def test_unsigned_leaves_that_are_whole_are_kept(self, tmp_path, clock, unsigned) -> None:
        """What was committed after the last checkpoint is there after a crash."""
        ledger = open_ledger(tmp_path, clock)
        assert ledger.recovered.cut is None
        check(tmp_path, unsigned)
        ledger.close()

    @pytest.mark.parametrize("lost", [1, 50, LEAF_SIZE, LEAF_SIZE + 1])
    def test_a_torn_leaf_is_cut_and_kept_aside(self, tmp_path, clock, unsigned, lost) -> None:
        """A torn last leaf goes, with its body; START says so and the cut bytes are kept."""
        leaves = shard_of(tmp_path).leaves
        torn = leaves.read_bytes()[:-lost]
        leaves.write_bytes(torn)
        ledger = open_ledger(tmp_path, clock)
        whole = len(torn) // LEAF_SIZE
        check(tmp_path, [sealed for sealed in unsigned if sealed.index < whole])
        if len(torn) % LEAF_SIZE:
            cut = ledger.recovered.cut
            assert (cut.size, cut.count, cut.reason) == (whole, 1, "the last leaf is torn")
            start = [item.control for item in read_all(tmp_path) if item.leaf.kind == Kind.START][-1]
            assert start["recovered"] == {"size": whole, "cut": 1, "reason": "the last leaf is torn"}
            (kept,) = shard_of(tmp_path).state.glob("cut-*")
            assert (kept / "ledger-2026-leaves").read_bytes() == torn[whole * LEAF_SIZE :]
        ledger.close()

    def test_a_leaf_without_its_body_is_cut(self, tmp_path, clock, unsigned) -> None:
        """A body that never reached the disk takes its leaf, and every later one, with it."""
        (bodies,) = shard_of(tmp_path).bodies.glob("*/frames")
        frames = list(frame.read_body_frames(bodies.read_bytes()))
        offset = frames[2][0]
        damaged = bytearray(bodies.read_bytes())
        damaged[offset:] = bytes(len(damaged) - offset)  # what power loss leaves of unwritten pages
        bodies.write_bytes(damaged)
        ledger = open_ledger(tmp_path, clock)
        assert ledger.recovered.cut.size == unsigned[2].index
        assert "its body is not durable" in ledger.recovered.cut.reason
        check(tmp_path, unsigned[:2])
        ledger.close()

    def test_a_body_with_a_flipped_byte_is_cut_with_its_leaf(self, tmp_path, clock, unsigned) -> None:
        """A body that does not hash to its commit is not durable."""
        (bodies,) = shard_of(tmp_path).bodies.glob("*/frames")
        damaged = bytearray(bodies.read_bytes())
        damaged[-3] ^= 1
        bodies.write_bytes(damaged)
        ledger = open_ledger(tmp_path, clock)
        assert ledger.recovered.cut.size == unsigned[3].index
        ledger.close()

    def test_a_broken_chain_is_cut(self, tmp_path, clock, unsigned) -> None:
        """A leaf that does not continue its organization's chain is cut."""
        leaves = shard_of(tmp_path).leaves
        encoded = leaves.read_bytes()
        last = Leaf.unpack(encoded[-LEAF_SIZE:])
        leaves.write_bytes(encoded[:-LEAF_SIZE] + last._replace(org_seq=last.org_seq + 1).pack())
        ledger = open_ledger(tmp_path, clock)
        assert "chain" in ledger.recovered.cut.reason
        ledger.close()

    def test_frames_without_leaves_are_removed(self, tmp_path, clock, unsigned) -> None:
        """A crash between content and leaves leaves frames that nobody was told of: they go."""
        (bodies,) = shard_of(tmp_path).bodies.glob("*/frames")
        length = bodies.stat().st_size
        orphan = frame.BodyFrame(99, records.record().sections, records.record().salts, records.record().commitments)
        with bodies.open("ab") as file:
            file.write(frame.encode_body(orphan))
        ledger = open_ledger(tmp_path, clock)
        assert bodies.stat().st_size == length
        assert ledger.recovered.cut is None
        ledger.close()

    def test_recovery_without_offsets_reads_everything_and_agrees(self, tmp_path, clock, unsigned) -> None:
        """The offsets are a short cut; without them the result is the same."""
        shard_of(tmp_path).offsets.unlink()
        ledger = open_ledger(tmp_path, clock)
        assert ledger.recovered.cut is None
        check(tmp_path, unsigned)
        ledger.close()

    def test_hashes_are_written_again(self, tmp_path, clock, unsigned) -> None:
        """Damaged or missing hash files follow from the leaves."""
        hashes = shard_of(tmp_path).hashes(0)
        hashes.write_bytes(bytes(32) + hashes.read_bytes()[32:] + b"more")
        ledger = open_ledger(tmp_path, clock)
        check(tmp_path, unsigned)
        leaves = [record.leaf_bytes for record in read_all(tmp_path)]
        ledger.close()
        assert hashes.read_bytes() == b"".join(map(merkle.leaf_hash, leaves))


class TestRollback:
    """What was signed must be there."""

    @pytest.fixture
    def signed(self, tmp_path, clock):
        """A cleanly stopped ledger of some events."""
        ledger = open_ledger(tmp_path, clock)
        ledger.commit([submission(*[records.record() for _ in range(5)])])
        ledger.close()

    def refused(self, tmp_path, clock, kind, match) -> None:
        """Assert that the ledger refuses to start, with a remedy, and stays as it is."""
        before = shard_of(tmp_path).leaves.read_bytes()
        with pytest.raises(kind, match=match) as caught:
            open_ledger(tmp_path, clock)
        assert caught.value.remedy
        assert shard_of(tmp_path).leaves.read_bytes() == before

    def test_fewer_leaves_than_signed_refuse_to_start(self, tmp_path, clock, signed) -> None:
        """A truncated ledger is never continued."""
        leaves = shard_of(tmp_path).leaves
        leaves.write_bytes(leaves.read_bytes()[:-LEAF_SIZE])
        self.refused(tmp_path, clock, LedgerRolledBack, "were signed")

    def test_other_leaves_than_signed_refuse_to_start(self, tmp_path, clock, signed) -> None:
        """A rewritten leaf is never continued."""
        leaves = shard_of(tmp_path).leaves
        encoded = bytearray(leaves.read_bytes())
        encoded[-1] ^= 1
        leaves.write_bytes(encoded)
        self.refused(tmp_path, clock, LedgerRolledBack, "not those that were signed")

    def test_a_damaged_signed_leaf_refuses_to_start(self, tmp_path, clock, signed) -> None:
        """A leaf that breaks the chain below the signed size is a rollback, not a tail to cut."""
        leaves = shard_of(tmp_path).leaves
        encoded = bytearray(leaves.read_bytes())
        encoded[0] = 9
        leaves.write_bytes(encoded)
        self.refused(tmp_path, clock, LedgerRolledBack, "Leaf 0")

    def test_an_older_copy_of_the_leaves_refuses_to_start(self, tmp_path, clock, signed) -> None:
        """Restoring everything but the memory of what was signed is noticed."""
        shard = shard_of(tmp_path)
        older = tmp_path / "older"
        shutil.copytree(shard.root, older)
        ledger = open_ledger(tmp_path, clock)
        ledger.commit([submission(records.record())])
        ledger.close()
        newest = shard.last_signed.read_bytes()
        shutil.rmtree(shard.root)
        shutil.copytree(older, shard.root)
        shard.last_signed.write_bytes(newest)
        self.refused(tmp_path, clock, LedgerRolledBack, "were signed")

    def test_a_missing_memory_of_what_was_signed_refuses_to_start(self, tmp_path, clock, signed) -> None:
        """Deleting last-signed does not hide a rollback."""
        shard_of(tmp_path).last_signed.unlink()
        self.refused(tmp_path, clock, LedgerRolledBack, "missing")

    def test_a_forged_memory_of_what_was_signed_refuses_to_start(self, tmp_path, clock, signed) -> None:
        """last-signed must verify under the collector's key."""
        path = shard_of(tmp_path).last_signed
        path.write_bytes(path.read_bytes().replace(b"\n8\n", b"\n7\n").replace(b"\n9\n", b"\n8\n"))
        self.refused(tmp_path, clock, LedgerDamaged, "does not verify")

    def test_a_damaged_signed_control_document_refuses_to_start(self, tmp_path, clock, signed) -> None:
        """Without its control documents a ledger cannot be continued."""
        control = shard_of(tmp_path).control
        encoded = bytearray(control.read_bytes())
        encoded[40] ^= 1
        control.write_bytes(encoded)
        self.refused(tmp_path, clock, LedgerDamaged, "control")

    def test_a_damaged_signed_body_is_not_cut_away(self, tmp_path, clock, signed) -> None:
        """When offsets are lost, a file damaged before signed content is refused rather than cut."""
        shard = shard_of(tmp_path)
        shard.offsets.unlink()
        (bodies,) = shard.bodies.glob("*/frames")
        before = bytearray(bodies.read_bytes())
        before[5] ^= 1
        bodies.write_bytes(before)
        self.refused(tmp_path, clock, LedgerDamaged, "damaged before the body")
        assert bodies.read_bytes() == before


def test_statuses_are_stable_words() -> None:
    """Outcomes have the three words that metrics count by."""
    assert {status.value for status in Status} == {"sealed", "duplicate", "quarantined"}
