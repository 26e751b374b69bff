"""What is left of a damaged shard, and how an operator goes on without the rest."""

from __future__ import annotations

import contextlib
import shutil

import pytest

from klyra_audit.errors import Rejected
from klyra_audit.format import checkpoint
from klyra_audit.format.leaf import LEAF_SIZE, Kind
from klyra_audit.format.merkle import EMPTY_ROOT
from klyra_audit.format.note import VerifyingKey
from klyra_collector.data_directory import DataDirectory, ShardDirectory
from klyra_collector.errors import LedgerDamaged, LedgerRolledBack
from klyra_collector.seal.cell_file import FileCell
from klyra_collector.seal.cell_guard import CellGuard
from klyra_collector.seal.consent import read_consent
from klyra_collector.seal.disaster import examine, leave_behind
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.identity import load_identity
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.stages import EmitterPosition, Status
from klyra_collector.store.follower import Follower
from klyra_collector.store.sqlite import SqliteStore
from support import records
from support.expiring import ExpiringLedger
from support.handmade import append_event
from support.records import BUSINESS, submission
from support.sealing import Fault, FaultyDisk, Killed, SetClock, crash, open_ledger, read_shard

BOOT = "0192f3c1-7c3e-7d1a-9a55-2f6c1d9e8b10"
REASON = "the disk of host a1 was lost"


@pytest.fixture
def clock():
    """A clock that stands at midsummer."""
    return SetClock()


@pytest.fixture
def events():
    """What was sealed before the disaster."""
    return [
        records.record(position=EmitterPosition("moderator", BOOT, 0)),
        records.record(BUSINESS),
        records.record(position=EmitterPosition("moderator", BOOT, 1)),
    ]


@pytest.fixture
def sealed(tmp_path, clock, events):
    """A cleanly stopped ledger with the events; where each stands."""
    ledger = open_ledger(tmp_path, clock)
    outcomes = [ledger.commit([submission(event)])[0][0].sealed for event in events]
    ledger.close()
    return outcomes


def shard_of(root, name: str = "2026") -> ShardDirectory:
    """Return a shard's folder."""
    return ShardDirectory(DataDirectory(root).ledger / name)


def look(root, clock, cell=None):
    """Examine a data directory."""
    data = DataDirectory(root)
    return examine(data, load_identity(data, Disk()), cell, clock.wall_us())


def leave(root, clock, *, disk=None, reason=REASON, cell=None) -> str:
    """Leave the damaged shard behind; return the name of the one that goes on."""
    data, writer = DataDirectory(root), disk or Disk()
    identity = load_identity(data, writer)
    found = examine(data, identity, cell, clock.wall_us())
    return leave_behind(data, writer, identity, found, reason, clock.wall_us()).root.name


def cut_leaves(root, count: int) -> None:
    """Take whole leaves from the end of the newest shard."""
    path = shard_of(root).leaves
    path.write_bytes(path.read_bytes()[: -count * LEAF_SIZE])


def test_records_that_nothing_vouches_for_are_left_behind(tmp_path, clock, sealed) -> None:
    """Where nobody can say who wrote what stands behind the head, an operator goes on, and none of it is served."""
    signed = sealed[-1].index + 1
    append_event(tmp_path, records.record())
    shard_of(tmp_path).own_commits.unlink()
    found = look(tmp_path, clock)
    assert found.refusal.code == "tail_unvouched"
    assert (found.leaves, found.readable, found.lost) == (signed + 1, signed, 0)
    assert leave(tmp_path, clock) == "2026-2"
    ledger = open_ledger(tmp_path, clock)
    assert ledger.earlier.shards[-1].size == signed
    ledger.close()


def flip(path, position: int) -> None:
    """Change one byte of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def files_of(folder) -> dict:
    """Return every file of a folder with its content and time."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


class TestExamine:
    """What is there, what was signed, what is missing."""

    def test_a_sound_ledger_has_nothing_to_explain(self, tmp_path, clock, sealed) -> None:
        """A ledger that can be continued is said to be whole."""
        found = look(tmp_path, clock)
        assert (found.refusal, found.problem, found.lost) == (None, None, 0)
        assert found.readable == found.leaves == found.signed.head.size

    def test_an_empty_ledger_can_be_examined(self, tmp_path, clock) -> None:
        """Before anything was sealed nothing is missing."""
        found = look(tmp_path, clock)
        assert (found.leaves, found.signed, found.refusal) == (0, None, None)

    def test_missing_leaves_are_counted(self, tmp_path, clock, sealed) -> None:
        """Fewer leaves than were signed: the number lost, and where it is said that they were signed."""
        signed = look(tmp_path, clock).signed.head.size
        cut_leaves(tmp_path, 2)
        found = look(tmp_path, clock)
        assert isinstance(found.refusal, LedgerRolledBack)
        assert (found.leaves, found.readable, found.lost) == (signed - 2, signed - 2, 2)
        assert found.signed.where == "2026/state/last-signed"

    def test_a_lost_memory_leaves_the_other_checkpoints(self, tmp_path, clock, sealed) -> None:
        """Without last-signed the public checkpoint, or one that was kept, is the newest head known."""
        shard = shard_of(tmp_path)
        signed = look(tmp_path, clock).signed.head
        shard.last_signed.unlink()
        assert look(tmp_path, clock).signed.head == signed
        flip(shard.checkpoint, -3)
        found = look(tmp_path, clock)
        assert (found.signed.head, found.signed.where.rpartition("/")[0]) == (signed, "2026/checkpoints")
        assert isinstance(found.refusal, LedgerRolledBack)

    @pytest.mark.parametrize("damage", ["leaf", "body", "control", "body gone"])
    def test_damage_in_the_middle_ends_what_is_readable(self, tmp_path, clock, sealed, damage) -> None:
        """Records count up to the first that is not whole, whatever of it is not."""
        shard = shard_of(tmp_path)
        (business,) = shard.bodies.glob(f"{read_shard(tmp_path, '2026')[sealed[1].index].leaf.expire_day}/frames")
        expected = sealed[1].index
        if damage == "leaf":
            flip(shard.leaves, expected * LEAF_SIZE + 100)
        elif damage == "body":
            flip(business, -3)
        elif damage == "body gone":
            business.unlink()
        else:
            flip(shard.control, -3)
            expected = last_control(tmp_path)
        found = look(tmp_path, clock)
        assert found.readable == expected
        assert found.problem

    def test_a_body_that_has_expired_is_not_missed(self, tmp_path, clock, sealed) -> None:
        """What retention took is no damage."""
        (path,) = shard_of(tmp_path).bodies.glob(f"{read_shard(tmp_path, '2026')[-1].leaf.expire_day}/frames")
        path.unlink()
        clock.pass_seconds(40 * 86_400)
        assert look(tmp_path, clock).problem is None

    def test_nothing_is_written(self, tmp_path, clock, sealed) -> None:
        """Looking changes no file of the shard."""
        cut_leaves(tmp_path, 1)
        before = files_of(shard_of(tmp_path).root)
        look(tmp_path, clock)
        assert files_of(shard_of(tmp_path).root) == before


def last_control(root) -> int:
    """Return the index of the last control record of the first shard, by its leaves alone."""
    leaves = shard_of(root).leaves.read_bytes()
    kinds = [Kind(kind) for kind in leaves[1::LEAF_SIZE]]
    return max(index for index, kind in enumerate(kinds) if not kind.has_body)


class TestGoOn:
    """With consent the ledger goes on in a shard of its own."""

    def test_the_new_shard_says_what_was_left_behind(self, tmp_path, clock, sealed) -> None:
        """SHARD open points at the newest signed head, and START says what is lost and why that was accepted."""
        signed = look(tmp_path, clock).signed.head
        cut_leaves(tmp_path, 2)
        assert leave(tmp_path, clock) == "2026-2"
        ledger = open_ledger(tmp_path, clock)
        assert ledger.origin.endswith("/2026-2")
        ledger.close()
        opened, start = read_shard(tmp_path, "2026-2")[:2]
        assert opened.control == {
            "type": "shard",
            "role": "open",
            "previous_origin": signed.origin,
            "previous_size": signed.size,
            "previous_root": signed.root.hex(),
            "reason": "disaster",
        }
        assert start.control["recovered"] == {"size": signed.size, "cut": 2, "reason": REASON}

    def test_it_has_a_key_of_its_own(self, tmp_path, clock, sealed) -> None:
        """Nothing signed leads to the new shard, so its key is a new one, durable before the shard is."""
        cut_leaves(tmp_path, 1)
        leave(tmp_path, clock)
        ledger = open_ledger(tmp_path, clock)
        key = VerifyingKey.parse(ledger.vkey)
        ledger.close()
        assert checkpoint.open_checkpoint(shard_of(tmp_path, "2026-2").checkpoint.read_bytes(), key).size
        assert (DataDirectory(tmp_path).keys / "2026-2.key").exists()

    def test_the_damaged_shard_stays_as_it_is(self, tmp_path, clock, sealed) -> None:
        """Not one byte of it is written, neither when it is left behind nor at any later start."""
        cut_leaves(tmp_path, 1)
        before = files_of(shard_of(tmp_path).root)
        leave(tmp_path, clock)
        for _ in range(2):
            ledger = open_ledger(tmp_path, clock)
            ledger.commit([submission(records.record())])
            ledger.close()
        assert files_of(shard_of(tmp_path).root) == before

    def test_what_is_lost_is_sealed_when_it_comes_again_and_the_rest_is_recognised(
        self, tmp_path, clock, events, sealed
    ) -> None:
        """An emitter that sends everything again ends with each event in the ledger once."""
        cut_leaves(tmp_path, 1)
        leave(tmp_path, clock)
        ledger = open_ledger(tmp_path, clock)
        outcomes = [ledger.commit([submission(event)])[0][0] for event in events]
        assert [outcome.status for outcome in outcomes] == [Status.DUPLICATE, Status.DUPLICATE, Status.SEALED]
        assert [outcome.sealed for outcome in outcomes[:2]] == sealed[:2]
        ledger.close()
        boots = [record.control for record in read_shard(tmp_path, "2026-2") if (record.control or {}).get("boot")]
        assert [boot["boot"] for boot in boots] == [BOOT]

    def test_what_can_be_read_is_still_served(self, tmp_path, clock, sealed) -> None:
        """A new store gets every record up to the damage, then goes on in the new shard."""
        cut_leaves(tmp_path, 1)
        leave(tmp_path, clock)
        ledger = open_ledger(tmp_path, clock)
        ledger.commit([submission(records.record())])
        new = ledger.origin
        ledger.close()
        with (
            contextlib.closing(LedgerReader(DataDirectory(tmp_path).ledger)) as reader,
            contextlib.closing(SqliteStore.open(tmp_path / "store.sqlite")) as store,
        ):
            follower = Follower(reader, store)
            while follower.step():
                pass
            assert store.cursor(sealed[0].log) == sealed[1].index + 1
            assert store.cursor(new) == len(read_shard(tmp_path, "2026-2"))

    def test_a_store_that_had_more_keeps_it_and_goes_on(self, tmp_path, clock, sealed) -> None:
        """What the store has copied of the lost records stays there, and does not stop the follower."""
        with (
            contextlib.closing(LedgerReader(DataDirectory(tmp_path).ledger)) as reader,
            contextlib.closing(SqliteStore.open(tmp_path / "store.sqlite")) as store,
        ):
            follower = Follower(reader, store)
            while follower.step():
                pass
            cursor = store.cursor(sealed[0].log)
            cut_leaves(tmp_path, 2)
            leave(tmp_path, clock)
            ledger = open_ledger(tmp_path, clock)
            new = ledger.origin
            ledger.close()
            while follower.step():
                pass
            assert store.cursor(sealed[0].log) == cursor
            assert store.cursor(new) > 0

    def test_a_second_disaster_gets_the_next_number(self, tmp_path, clock, sealed) -> None:
        """`-3` follows `-2`, and each points at the one before."""
        cut_leaves(tmp_path, 1)
        leave(tmp_path, clock)
        open_ledger(tmp_path, clock).close()
        second = shard_of(tmp_path, "2026-2")
        second.leaves.write_bytes(second.leaves.read_bytes()[:-LEAF_SIZE])
        assert leave(tmp_path, clock) == "2026-3"
        ledger = open_ledger(tmp_path, clock)
        ledger.commit([submission(records.record())])
        ledger.close()
        assert read_shard(tmp_path, "2026-3")[0].control["previous_origin"].endswith("/2026-2")

    def test_after_a_disaster_the_year_still_ends(self, tmp_path, clock, sealed) -> None:
        """The shard that goes on is closed at the turn of the year like any other."""
        cut_leaves(tmp_path, 1)
        leave(tmp_path, clock)
        clock.is_synchronised = True
        ledger = open_ledger(tmp_path, clock)
        clock.pass_seconds(300 * 86_400)
        ledger.commit([submission(records.record())])
        assert ledger.origin.endswith("/2027")
        ledger.close()
        assert read_shard(tmp_path, "2027")[0].control["reason"] == "year"

    def test_damage_found_in_a_later_year_is_numbered_in_it(self, tmp_path, clock, sealed) -> None:
        """Only a shard opened after a disaster has a number, whatever year it is by then."""
        cut_leaves(tmp_path, 1)
        clock.pass_seconds(300 * 86_400)
        assert leave(tmp_path, clock) == "2027-2"

    def test_without_any_checkpoint_the_new_shard_points_at_nothing(self, tmp_path, clock, sealed) -> None:
        """If no signature of the shard is left, the size before is 0 and the root that of an empty tree."""
        shard = shard_of(tmp_path)
        shutil.rmtree(shard.checkpoints)
        shard.checkpoint.write_bytes(b"not a checkpoint")
        shard.last_signed.unlink()
        leave(tmp_path, clock)
        consent = read_consent(shard_of(tmp_path, "2026-2"))
        assert (consent.opened.previous_size, consent.opened.previous_root) == (0, EMPTY_ROOT)

    def test_a_restored_image_that_the_cell_betrays_is_left_behind(self, tmp_path, clock, sealed) -> None:
        """When the cell knows more than the disk, its head is what the new shard points at."""
        data = DataDirectory(tmp_path)
        identity = load_identity(data, Disk())
        cell_file = tmp_path / "elsewhere"
        cell_file.mkdir()
        url = f"file:{cell_file / 'head'}"
        older = tmp_path / "older"
        shutil.copytree(data.ledger, older)
        ledger = open_ledger(tmp_path, clock)
        ledger.commit([submission(records.record())])
        ledger.close()
        newest = shard_of(tmp_path).last_signed.read_bytes()
        FileCell.at(url).compare_and_swap(None, newest)
        shutil.rmtree(data.ledger)
        shutil.copytree(older, data.ledger)
        guard = CellGuard(FileCell.at(url), url, identity.origin(""), data.ledger, Disk())
        found = look(tmp_path, clock, guard)
        assert (found.refusal.code, found.signed.where) == ("restored_image", "the cell outside this disk")
        assert found.lost == found.signed.head.size - found.readable > 0
        leave(tmp_path, clock, cell=guard)
        assert read_consent(shard_of(tmp_path, "2026-2")).opened.previous_root == found.signed.head.root

    def test_a_later_shard_that_only_the_cell_knows_is_left_behind_too(self, tmp_path, clock, sealed) -> None:
        """When a restored image is a whole year old, the new shard stands behind the year that is lost."""
        data = DataDirectory(tmp_path)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        url = f"file:{elsewhere / 'head'}"
        older = tmp_path / "older"
        shutil.copytree(data.ledger, older)
        clock.is_synchronised = True
        ledger = open_ledger(tmp_path, clock)
        clock.pass_seconds(300 * 86_400)
        ledger.commit([submission(records.record())])
        ledger.close()
        FileCell.at(url).compare_and_swap(None, shard_of(tmp_path, "2027").last_signed.read_bytes())
        shutil.rmtree(data.ledger)
        shutil.copytree(older, data.ledger)

        def guard():
            prefix = load_identity(data, Disk()).origin("")
            return CellGuard(FileCell.at(url), url, prefix, data.ledger, Disk())

        found = look(tmp_path, clock, guard())
        assert (found.refusal.code, found.signed.head.origin.rpartition("/")[2]) == ("restored_image", "2027")
        assert leave(tmp_path, clock, cell=guard()) == "2027-2"
        guard().check((shard_of(tmp_path, "2026"), shard_of(tmp_path, "2027-2")))
        ledger = open_ledger(tmp_path, clock)
        ledger.close()
        opened, start = read_shard(tmp_path, "2027-2")[:2]
        assert opened.control["previous_origin"].endswith("/2027")
        assert start.control["recovered"]["cut"] == found.signed.head.size


class TestConsent:
    """It must be given, and it is durable before anything else."""

    def test_a_sound_ledger_is_not_left_behind(self, tmp_path, clock, sealed) -> None:
        """There is nothing to consent to."""
        with pytest.raises(Rejected, match="can be continued") as caught:
            leave(tmp_path, clock)
        assert (caught.value.code, bool(caught.value.remedy)) == ("not_damaged", True)
        assert not shard_of(tmp_path, "2026-2").root.exists()

    @pytest.mark.parametrize("reason", ["", "  ", "x" * 4097])
    def test_a_reason_must_be_given(self, tmp_path, clock, sealed, reason) -> None:
        """It stands in the ledger for ever, so it says something, and is of bounded length."""
        cut_leaves(tmp_path, 1)
        with pytest.raises(Rejected, match="characters") as caught:
            leave(tmp_path, clock, reason=reason)
        assert (caught.value.code, bool(caught.value.remedy)) == ("bad_reason", True)

    @pytest.mark.parametrize("damaged", [b"", b"[]", b"{}", b'{"opened": {}}'])
    def test_a_damaged_consent_is_refused(self, tmp_path, clock, sealed, damaged) -> None:
        """What cannot be read is not guessed."""
        cut_leaves(tmp_path, 1)
        leave(tmp_path, clock)
        shard_of(tmp_path, "2026-2").consent.write_bytes(damaged)
        with pytest.raises(LedgerDamaged, match="consent") as caught:
            open_ledger(tmp_path, clock)
        assert (caught.value.code, bool(caught.value.remedy)) == ("ledger_damaged", True)

    @pytest.mark.parametrize("moment", ["before", "after"])
    @pytest.mark.parametrize("path", ["keys/2026-2.key", "state/sequences-2026", "state/consent"])
    def test_a_crash_on_the_way_can_be_repeated(self, tmp_path, clock, sealed, path, moment) -> None:
        """Before the consent is durable the damaged shard is refused as before; after it the next start goes on."""
        cut_leaves(tmp_path, 1)
        disk = FaultyDisk()
        disk.fault = Fault("replace", moment, path=path, error=Killed)
        with pytest.raises(Killed):
            leave(tmp_path, clock, disk=disk)
        if not shard_of(tmp_path, "2026-2").consent.exists():
            with pytest.raises(LedgerRolledBack):
                open_ledger(tmp_path, clock)
            assert leave(tmp_path, clock) == "2026-2"
        ledger = open_ledger(tmp_path, clock)
        ledger.close()
        assert [record.leaf.kind for record in read_shard(tmp_path, "2026-2")[:2]] == [Kind.SHARD, Kind.START]

    @pytest.mark.parametrize("kept", range(4))
    def test_a_crash_among_the_first_records_keeps_the_consent(self, tmp_path, clock, sealed, kept) -> None:
        """However few of the first records reached the disk, the START that follows carries what was agreed to."""
        cut_leaves(tmp_path, 1)
        leave(tmp_path, clock)
        disk = FaultyDisk()
        disk.fault = Fault("sync", "before", path="2026-2/leaves", error=Killed)
        with pytest.raises(Killed):
            open_ledger(tmp_path, clock, disk)
        shard = shard_of(tmp_path, "2026-2")
        shard.leaves.write_bytes(shard.leaves.read_bytes()[: kept * LEAF_SIZE + 7])
        ledger = open_ledger(tmp_path, clock)
        crash(ledger)
        opening = read_shard(tmp_path, "2026-2")
        starts = [record.control["recovered"] for record in opening if record.leaf.kind == Kind.START]
        assert starts[0]["reason"] == REASON
        assert [record.leaf.kind for record in opening].count(Kind.SHARD) == 1


def test_bodies_of_a_shard_left_behind_go_on_their_day_all_the_same(tmp_path) -> None:
    """Also those whose leaves were lost: nothing is kept too long because something else was damaged."""
    expiring = ExpiringLedger(tmp_path, confirmed=True)
    for _ in range(3):
        expiring.event()
    expiring.bad()
    expiring.stop()
    cut_leaves(tmp_path, 2)
    leave(tmp_path, expiring.clock)
    expiring.start()
    with expiring:
        kept = expiring.event()
        expiring.pass_days(1)
        expiring.event()
        expiring.pass_days(30)
        expiring.run()
        assert [path.parent.parent.name for path in expiring.data.ledger.glob("*/bodies/*")] == ["2026-2"]
        assert not list(expiring.data.quarantine.glob("*/*"))
        assert kept not in expiring.present()
