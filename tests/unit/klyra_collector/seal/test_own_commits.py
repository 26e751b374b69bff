"""What the collector vouches for behind the last signed record, and what becomes of everything else there."""

from __future__ import annotations

import contextlib

import pytest

from klyra_audit.format.leaf import LEAF_SIZE, Kind
from klyra_audit.format.merkle import EMPTY_ROOT
from klyra_collector.data_directory import DataDirectory, ShardDirectory
from klyra_collector.errors import IntakeHalted, LedgerDamaged
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.own_commits import OwnCommits
from klyra_collector.verify import Options, Verdict, verify_target
from support import records
from support.handmade import append_erasure, append_event, leaves_of, shard_of
from support.records import STARTUP, submission
from support.sealing import Fault, FaultyDisk, SetClock, crash, open_ledger, read_all

ORIGIN = "klyra.test/collector/2026"


@pytest.fixture
def clock():
    """A clock that stands at midsummer."""
    return SetClock()


@pytest.fixture
def unsigned(tmp_path, clock):
    """A killed ledger: two events that are signed, then three that were acknowledged and not signed; the latter."""
    ledger = open_ledger(tmp_path, clock)
    ledger.commit([submission(records.record(), records.record())])
    ledger.sign()
    sealed = [ledger.commit([submission(records.record())])[0][0].sealed for _ in range(3)]
    crash(ledger)
    return sealed


@pytest.fixture
def stopped(tmp_path, clock):
    """A ledger that was stopped as it should be; its number of leaves."""
    ledger = open_ledger(tmp_path, clock)
    ledger.commit([submission(records.record(), records.record())])
    ledger.close()
    return len(leaves_of(tmp_path))


def start_record(root):
    """Return the newest START document."""
    return [item.control for item in read_all(root) if item.leaf.kind == Kind.START][-1]


class TestHandmadeRecords:
    """Whole records that somebody else wrote behind the end are never signed."""

    @pytest.mark.parametrize("append", [append_event, append_erasure], ids=["event", "erasure"])
    def test_behind_a_stopped_ledger_they_are_cut_on_record(self, tmp_path, clock, stopped, append) -> None:
        """The next start cuts them, keeps them aside, and says so in its START."""
        handmade = append(tmp_path, records.record() if append is append_event else STARTUP.organization_id)
        assert handmade == stopped
        with_handmade = leaves_of(tmp_path)
        ledger = open_ledger(tmp_path, clock)
        assert (ledger.recovered.cut.size, ledger.recovered.cut.count) == (stopped, 1)
        ledger.close()
        reason = f"leaf {stopped}: this collector did not commit it"
        assert start_record(tmp_path)["recovered"] == {"size": stopped, "cut": 1, "reason": reason}
        (kept,) = shard_of(tmp_path).state.glob("cut-*")
        assert (kept / "ledger-2026-leaves").read_bytes() == with_handmade[-1]
        assert with_handmade[-1] not in leaves_of(tmp_path)
        counts = verify_target(tmp_path, Options()).shards[0].counts
        erased = {Verdict.REDACTED_UNAUTHORISED} if append is append_erasure else set()  # nothing authorises it
        assert {verdict for verdict in counts if not verdict.is_good} == erased

    def test_behind_acknowledged_records_of_a_crash_they_go_alone(self, tmp_path, clock, unsigned) -> None:
        """What was acknowledged and not yet signed is kept up to the last of it."""
        before = leaves_of(tmp_path)
        for _ in range(3):
            append_event(tmp_path, records.record())
        ledger = open_ledger(tmp_path, clock)
        assert (ledger.recovered.cut.size, ledger.recovered.cut.count) == (unsigned[-1].index + 1, 3)
        ledger.close()
        assert leaves_of(tmp_path)[: len(before)] == before

    def test_in_place_of_the_last_acknowledged_one(self, tmp_path, clock, unsigned) -> None:
        """A record that takes another's place is not taken for it."""
        leaves = shard_of(tmp_path).leaves
        leaves.write_bytes(leaves.read_bytes()[:-LEAF_SIZE])
        (bodies,) = shard_of(tmp_path).bodies.glob("*/frames")
        append_event(tmp_path, records.record(), int(bodies.parent.name) - 1 - clock.wall // (86_400 * 10**6))
        ledger = open_ledger(tmp_path, clock)
        assert ledger.recovered.cut.size == unsigned[-1].index
        ledger.close()

    def test_without_what_vouches_nothing_is_signed_and_nothing_is_cut(self, tmp_path, clock, unsigned) -> None:
        """Where nothing says what was acknowledged, an operator has to."""
        shard_of(tmp_path).own_commits.unlink()
        before = leaves_of(tmp_path)
        with pytest.raises(LedgerDamaged) as refused:
            open_ledger(tmp_path, clock)
        assert refused.value.code == "tail_unvouched"
        assert "klyra-audit ledger explain" in refused.value.remedy
        assert leaves_of(tmp_path) == before
        assert not shard_of(tmp_path).own_commits.exists()

    def test_a_whole_shard_without_a_head_is_refused(self, tmp_path, clock, stopped) -> None:
        """Deleting every head, and what vouches, does not make the next start sign what is left as if it were new."""
        shard = shard_of(tmp_path)
        append_event(tmp_path, records.record())
        for path in (shard.checkpoint, shard.last_signed, shard.own_commits, shard.offsets):
            path.unlink()
        with pytest.raises(LedgerDamaged) as refused:
            open_ledger(tmp_path, clock)
        assert refused.value.code == "tail_unvouched"

    def test_what_vouches_in_another_ledger_does_not_vouch_here(self, tmp_path, clock, unsigned) -> None:
        """The file is worth nothing under another key."""
        other = open_ledger(tmp_path / "other", clock)
        other.close()
        own = shard_of(tmp_path).own_commits
        own.write_bytes(shard_of(tmp_path / "other").own_commits.read_bytes())
        with pytest.raises(LedgerDamaged, match="does not say"):
            open_ledger(tmp_path, clock)

    def test_without_a_tail_it_is_made_again(self, tmp_path, clock, stopped) -> None:
        """A ledger that was stopped cleanly needs nothing but its head to go on."""
        shard_of(tmp_path).own_commits.write_bytes(b"nothing of use")
        ledger = open_ledger(tmp_path, clock)
        assert ledger.recovered.cut is None
        sealed = ledger.commit([submission(records.record())])[0][0].sealed
        crash(ledger)
        ledger = open_ledger(tmp_path, clock)
        assert read_all(tmp_path)[sealed.index].leaf_bytes == sealed.leaf
        ledger.close()


class TestOwnRecords:
    """What was acknowledged is never taken for somebody else's."""

    def test_a_ledger_of_a_version_before_is_taken_up_as_it_is(self, tmp_path, clock, unsigned) -> None:
        """Without a key there is nothing that could vouch: its tail is kept, and from then on the key is there."""
        (tmp_path / "keys/commit.key").unlink()
        shard_of(tmp_path).own_commits.unlink()
        before = leaves_of(tmp_path)
        ledger = open_ledger(tmp_path, clock)
        assert ledger.recovered.cut is None
        ledger.close()
        assert leaves_of(tmp_path)[: len(before)] == before
        assert (tmp_path / "keys/commit.key").stat().st_mode & 0o777 == 0o600
        append_event(tmp_path, records.record())
        ledger = open_ledger(tmp_path, clock)
        assert ledger.recovered.cut.count == 1
        ledger.close()

    @pytest.mark.parametrize("kept", [1, 2])
    def test_a_commit_of_several_that_was_not_finished_goes_whole(self, tmp_path, clock, unsigned, kept) -> None:
        """Power loss in the middle of the leaves of a commit: nobody was told of any of them."""
        ledger = open_ledger(tmp_path, clock)
        begun = len(leaves_of(tmp_path))
        ledger.commit([submission(*[records.record() for _ in range(3)])])
        crash(ledger)
        leaves = shard_of(tmp_path).leaves
        leaves.write_bytes(leaves.read_bytes()[: (begun + kept) * LEAF_SIZE])
        ledger = open_ledger(tmp_path, clock)
        cut = ledger.recovered.cut
        assert (cut.size, cut.count, cut.reason) == (begun, kept, f"leaf {begun}: its commit was not finished")
        ledger.close()

    def test_commits_that_fail_for_long_leave_the_last_good_one_vouched_for(self, tmp_path, clock) -> None:
        """A disk that stays full for more attempts than the file has places costs nothing that was acknowledged."""
        disk = FaultyDisk()
        ledger = open_ledger(tmp_path, clock, disk)
        ledger.sign()
        sealed = ledger.commit([submission(records.record())])[0][0].sealed
        for _ in range(70):
            disk.fault = Fault("append", "before")
            with pytest.raises(IntakeHalted):
                ledger.commit([submission(records.record())])
            ledger.resume()
        crash(ledger)
        ledger = open_ledger(tmp_path, clock)
        assert ledger.recovered.cut is None
        assert read_all(tmp_path)[sealed.index].leaf_bytes == sealed.leaf
        ledger.close()

    def test_more_commits_than_places_without_a_signature(self, tmp_path, clock) -> None:
        """The newest vouches for all before it."""
        ledger = open_ledger(tmp_path, clock)
        ledger.sign()
        sealed = [ledger.commit([submission(records.record())])[0][0].sealed for _ in range(70)]
        crash(ledger)
        ledger = open_ledger(tmp_path, clock)
        assert ledger.recovered.cut is None
        assert [item.leaf_bytes for item in read_all(tmp_path)[sealed[0].index :]][:70] == [
            each.leaf for each in sealed
        ]
        ledger.close()

    @pytest.mark.parametrize("page", [0, 1])
    def test_a_page_that_a_torn_write_destroys_costs_at_most_the_commit_it_was_for(
        self, tmp_path, clock, unsigned, page
    ) -> None:
        """Neighbouring commits stand on different pages."""
        own = shard_of(tmp_path).own_commits
        content = bytearray(own.read_bytes())
        content[page * 4096 : (page + 1) * 4096] = bytes(4096)
        own.write_bytes(content)
        ledger = open_ledger(tmp_path, clock)
        assert ledger.recovered.state.size >= unsigned[-1].index
        ledger.close()


class TestFile:
    """The file by itself."""

    def opened(self, root) -> OwnCommits:
        """Read the file of a shard."""
        data = DataDirectory(root)
        return OwnCommits.read(data, ShardDirectory(data.ledger / "2026"), ORIGIN)

    def test_it_remembers_sixty_four_commits(self, tmp_path) -> None:
        """An older one is forgotten; each is known by its size and its root together."""
        (tmp_path / "keys").mkdir(mode=0o700)
        with contextlib.closing(Disk()) as disk:
            own = self.opened(tmp_path)
            assert own.is_new
            own.settle(0, EMPTY_ROOT, disk)
            for size in range(1, 101):
                own.write(size, size.to_bytes(32))
            own.close()
            again = self.opened(tmp_path)
            assert not again.is_new
            assert again.sizes == frozenset(range(37, 101))
            assert again.has(100, (100).to_bytes(32))
            assert not again.has(100, (99).to_bytes(32))
            again.settle(90, (90).to_bytes(32), disk)
            again.write(91, bytes(32))
            again.close()
        assert self.opened(tmp_path).has(91, bytes(32))
        assert not self.opened(tmp_path).has(91, (91).to_bytes(32))

    def test_a_key_that_others_may_read_is_refused(self, tmp_path, clock, stopped) -> None:
        """Whoever has it could vouch for anything."""
        (tmp_path / "keys/commit.key").chmod(0o640)
        with pytest.raises(LedgerDamaged) as refused:
            open_ledger(tmp_path, clock)
        assert refused.value.code == "secret_exposed"
        assert "chmod 600" in refused.value.remedy
