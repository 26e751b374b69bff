"""A new shard each year: what is sealed at its turn, what is recognised across it, what a crash leaves of it."""

from __future__ import annotations

import contextlib

import pytest

from klyra_audit.format import canonical, checkpoint
from klyra_audit.format.leaf import LEAF_SIZE, Kind
from klyra_audit.format.note import VerifyingKey
from klyra_audit.timestamps import day_of
from klyra_collector.data_directory import DataDirectory, ShardDirectory
from klyra_collector.errors import IntakeHalted, LedgerDamaged, LedgerRolledBack, SignerFailed
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.seal.shards import find_shards, year_of
from klyra_collector.stages import ControlRecord, EmitterPosition, Status
from klyra_collector.store.follower import Follower
from klyra_collector.store.sqlite import SqliteStore
from klyra_collector.verify import Options, verify_target
from support import records
from support.records import BUSINESS, STARTUP, submission
from support.sealing import (
    Fault,
    FaultyDisk,
    Killed,
    SetClock,
    crash,
    open_ledger,
    read_shard,
)

NEW_YEAR_US = 1_798_761_600 * 1_000_000  # 2027-01-01
BOOT = "0192f3c1-7c3e-7d1a-9a55-2f6c1d9e8b10"


@pytest.fixture
def clock():
    """A clock that stands a minute before the end of a year, and is kept right."""
    kept = SetClock(NEW_YEAR_US - 60_000_000)
    kept.is_synchronised = True
    return kept


def shard_of(root, name: str) -> ShardDirectory:
    """Return a shard's folder."""
    return ShardDirectory(DataDirectory(root).ledger / name)


def kinds(root, shard: str) -> list[Kind]:
    """Return the kinds of a shard's records in order."""
    return [Kind(record.leaf.kind) for record in read_shard(root, shard)]


def at(sequence: int, boot: str = BOOT) -> EmitterPosition:
    """Return a place in an emitter's sequence."""
    return EmitterPosition("moderator", boot, sequence)


def turn(ledger, clock, *items) -> list:
    """Let the new year come and seal a submission in it."""
    clock.pass_seconds(120)
    (outcomes,) = ledger.commit([submission(*(items or (records.record(),)))])
    return outcomes


class TestTurnOfTheYear:
    """The end of one shard and the beginning of the next."""

    def test_the_last_record_names_the_next_shard_and_its_key(self, tmp_path, clock) -> None:
        """HEADS and SHARD close end the year; the key that is named signs the next shard."""
        ledger = open_ledger(tmp_path, clock)
        ledger.commit([submission(records.record())])
        turn(ledger, clock)
        heads, close = read_shard(tmp_path, "2026")[-2:]
        assert heads.leaf.kind == Kind.HEADS
        prefix = f"klyra-audit.local/{ledger.identity.collector_id}"
        assert close.control == {
            "type": "shard",
            "role": "close",
            "next_origin": f"{prefix}/2027",
            "next_vkey": ledger.vkey,
        }
        ledger.close()
        assert ledger.origin == f"{prefix}/2027"
        checkpoint.open_checkpoint(
            shard_of(tmp_path, "2027").checkpoint.read_bytes(), VerifyingKey.parse(close.control["next_vkey"])
        )

    def test_the_final_checkpoint_is_kept(self, tmp_path, clock) -> None:
        """The checkpoint over the close record is kept for good, and covers every leaf."""
        ledger = open_ledger(tmp_path, clock)
        key = VerifyingKey.parse(ledger.vkey)
        turn(ledger, clock)
        ledger.close()
        kept = checkpoint.open_checkpoint((shard_of(tmp_path, "2026").checkpoints / "close").read_bytes(), key)
        assert kept.size == len(read_shard(tmp_path, "2026"))

    def test_the_first_record_points_back(self, tmp_path, clock) -> None:
        """SHARD open carries origin, size and root of the shard before, and START follows it."""
        ledger = open_ledger(tmp_path, clock)
        before, key = ledger.origin, VerifyingKey.parse(ledger.vkey)
        turn(ledger, clock)
        ledger.close()
        kept = checkpoint.open_checkpoint((shard_of(tmp_path, "2026").checkpoints / "close").read_bytes(), key)
        opened, start = read_shard(tmp_path, "2027")[:2]
        assert opened.control == {
            "type": "shard",
            "role": "open",
            "previous_origin": before,
            "previous_size": kept.size,
            "previous_root": kept.root.hex(),
            "reason": "year",
        }
        assert (start.leaf.kind, start.control["recovered"]) == (Kind.START, None)

    def test_everything_in_force_is_repeated_with_its_ordinals(self, tmp_path, clock) -> None:
        """Keys, policies, schemas and holds stand in the new shard before its first event; what ended does not."""
        ledger = open_ledger(tmp_path, clock)
        ledger.commit([submission(records.record(STARTUP), records.record(BUSINESS))])
        org_ref = read_shard(tmp_path, "2026")[-1].leaf.org_ref.hex()
        held = {"org_ref": org_ref, "from_us": 0, "to_us": None, "selection_c": None}
        registered = {"boot": None, "org_ref": org_ref, "revoked_after_seq": None}
        documents = [
            (Kind.HOLD, {"type": "hold", "hold_id": "hold_1", **held}),
            (Kind.HOLD, {"type": "hold", "hold_id": "hold_2", **held}),
            (Kind.RELEASE, {"type": "release", "hold_id": "hold_2"}),
            (Kind.KEY, {"type": "key", "ordinal": 7, "emitter_id": "em_1", "vkey": "em_1+1+AA", **registered}),
            (Kind.KEY, {"type": "key", "ordinal": 8, "emitter_id": "em_2", "vkey": "em_2+1+AA", **registered}),
            (
                Kind.KEY,
                {
                    "type": "key",
                    "ordinal": 8,
                    "emitter_id": "em_2",
                    "vkey": "em_2+1+AA",
                    **registered,
                    "revoked_after_seq": 3,
                },
            ),
        ]
        ledger.commit_controls([ControlRecord(kind, document, "org_business") for kind, document in documents])
        turn(ledger, clock)
        ledger.close()
        opening = read_shard(tmp_path, "2027")
        first_event = next(record.index for record in opening if record.leaf.kind == Kind.EVENT)
        old = {canonical.encode(record.control) for record in read_shard(tmp_path, "2026") if record.control}
        repeated = [record.control for record in opening[2:first_event] if canonical.encode(record.control) in old]
        assert [(document["type"], document.get("ordinal"), document.get("hold_id")) for document in repeated] == [
            ("key", 1, None),
            ("key", 7, None),
            ("policy", None, None),
            ("policy", None, None),
            ("schema", None, None),
            ("hold", None, "hold_1"),
        ]
        own = [record.control for record in opening[:first_event] if record.control.get("vkey") == ledger.vkey]
        assert [key["ordinal"] for key in own] == [9]
        by_org = {record.leaf.org_ref.hex() for record in opening if record.control and "org_ref" in record.control}
        assert org_ref in by_org  # a repeated document stands in its organization's own chain

    def test_a_collector_that_slept_over_years_opens_the_present_one(self, tmp_path, clock) -> None:
        """The next shard is that of the commit's year, whether or not a year lies between."""
        open_ledger(tmp_path, clock).close()
        clock.pass_seconds(800 * 86_400)
        ledger = open_ledger(tmp_path, clock)
        ledger.commit([submission(records.record())])
        assert ledger.origin.endswith("/2029")
        assert kinds(tmp_path, "2026")[-3:] == [Kind.START, Kind.HEADS, Kind.SHARD]
        ledger.close()

    def test_a_year_without_records_is_not_turned(self, tmp_path, clock) -> None:
        """A quiet ledger is closed by the first commit of the year, and not by its clock."""
        ledger = open_ledger(tmp_path, clock)
        clock.pass_seconds(3600)
        ledger.sign()
        ledger.close()
        assert not shard_of(tmp_path, "2027").root.exists()

    def test_the_next_start_goes_on_in_the_new_shard(self, tmp_path, clock) -> None:
        """A restart announces only itself, repeats nothing, and leaves the closed shard as it is."""
        ledger = open_ledger(tmp_path, clock)
        turn(ledger, clock)
        ledger.close()
        closed, opened = read_shard(tmp_path, "2026"), read_shard(tmp_path, "2027")
        open_ledger(tmp_path, clock).close()
        assert read_shard(tmp_path, "2026") == closed
        assert kinds(tmp_path, "2027")[len(opened) :] == [Kind.START]

    def test_both_shards_verify(self, tmp_path, clock) -> None:
        """Everything of both shards is intact."""
        ledger = open_ledger(tmp_path, clock)
        ledger.commit([submission(records.record(position=at(0)), records.bad())])
        turn(ledger, clock, records.record(position=at(1)), records.record())
        ledger.close()
        report = verify_target(tmp_path, Options())
        assert (report.exit_status, len(report.shards)) == (0, 2)

    def test_a_third_shard_repeats_what_the_second_changed(self, tmp_path, clock) -> None:
        """A policy changed in the second year is the one that the third repeats."""
        ledger = open_ledger(tmp_path, clock)
        ledger.commit([submission(records.record(STARTUP))])
        turn(ledger, clock)
        ledger.commit_policy(records.Tenancy(STARTUP.organization_id, "business", "business", 90))
        clock.pass_seconds(366 * 86_400)
        ledger.commit([submission(records.record(BUSINESS))])
        ledger.close()
        policies = [record.control for record in read_shard(tmp_path, "2028") if record.leaf.kind == Kind.POLICY]
        assert [policy["retention_days"] for policy in policies] == [90, 90]


class TestRecognised:
    """Repeats and emitters across the turn."""

    def test_a_repeat_gets_the_receipt_of_the_closed_shard(self, tmp_path, clock) -> None:
        """An id sealed minutes ago, last year, is answered with its first sealing: origin, index and leaf."""
        ledger = open_ledger(tmp_path, clock)
        event = records.record()
        ((first,),) = ledger.commit([submission(event)])
        (again, other) = turn(ledger, clock, event, records.record())
        assert (again.status, again.sealed) == (Status.DUPLICATE, first.sealed)
        assert other.status is Status.SEALED
        ledger.close()

    @pytest.mark.parametrize("lost", [(), ("sequences",), ("sequences", "recent.sqlite")])
    def test_repeats_are_recognised_after_a_restart_whatever_is_lost(self, tmp_path, clock, lost) -> None:
        """What the writer notes for itself follows from the ledger, so that losing it changes nothing."""
        ledger = open_ledger(tmp_path, clock)
        by_id, by_place = records.record(), records.record(position=at(5))
        ((first, second),) = ledger.commit([submission(by_id, by_place)])
        turn(ledger, clock)
        ledger.close()
        for path in [path for name in lost for path in DataDirectory(tmp_path).ledger.rglob(f"{name}*")]:
            path.unlink()
        ledger = open_ledger(tmp_path, clock)
        ((again, place_again),) = ledger.commit([submission(by_id, by_place)])
        assert (again.sealed, place_again.sealed) == (first.sealed, second.sealed)
        assert {again.status, place_again.status} == {Status.DUPLICATE}
        ledger.close()

    def test_a_sequenced_event_is_recognised_for_ever(self, tmp_path, clock) -> None:
        """Long after its id is forgotten, its place in its boot's sequence tells, years and shards later."""
        ledger = open_ledger(tmp_path, clock)
        event = records.record(position=at(3))
        ((first,),) = ledger.commit([submission(event)])
        for _ in range(2):
            clock.pass_seconds(366 * 86_400)
            ledger.commit([submission(records.record())])
        ledger.close()
        ledger = open_ledger(tmp_path, clock)
        assert ledger.origin.endswith("/2029")
        ((again,),) = ledger.commit([submission(event)])
        assert (again.status, again.sealed) == (Status.DUPLICATE, first.sealed)
        ledger.close()

    def test_a_taken_place_with_other_content_is_quarantined(self, tmp_path, clock) -> None:
        """A sequence number used again in another year is a conflict, as in the same."""
        ledger = open_ledger(tmp_path, clock)
        ledger.commit([submission(records.record(position=at(3)))])
        (outcome,) = turn(ledger, clock, records.record(position=at(3)))
        assert outcome.status is Status.QUARANTINED
        ledger.close()

    def test_a_boot_is_announced_again_with_its_ordinal_when_it_sends(self, tmp_path, clock) -> None:
        """Only the boot that goes on is announced in the new shard; a new one gets an ordinal never used."""
        ledger = open_ledger(tmp_path, clock)
        silent = "0192f3c1-7c3e-7d1a-9a55-2f6c1d9e8b11"
        ledger.commit([submission(records.record(position=at(0)), records.record(position=at(0, silent)))])
        fresh = "0192f3c1-7c3e-7d1a-9a55-2f6c1d9e8b12"
        turn(ledger, clock, records.record(position=at(1)), records.record(position=at(0, fresh)))
        ledger.close()
        old = {record.control["boot"]: record.control["ordinal"] for record in boots(tmp_path, "2026")}
        new = {record.control["boot"]: record.control["ordinal"] for record in boots(tmp_path, "2027")}
        assert set(new) == {BOOT, fresh}
        assert new[BOOT] == old[BOOT]
        assert new[fresh] > max(old.values())
        events = [record.leaf for record in read_shard(tmp_path, "2027") if record.leaf.kind == Kind.EVENT]
        assert [(leaf.emitter, leaf.emitter_seq) for leaf in events] == [(new[BOOT], 1), (new[fresh], 0)]

    def test_a_closed_shard_that_decays_keeps_nobody_out(self, tmp_path, clock) -> None:
        """With its notes lost and its leaves damaged, a closed shard is known up to the damage."""
        ledger = open_ledger(tmp_path, clock)
        events = [records.record(position=at(number)) for number in range(3)]
        ((first, *_),) = ledger.commit([submission(*events)])
        turn(ledger, clock)
        ledger.close()
        shard = shard_of(tmp_path, "2026")
        shard.sequences.unlink()
        DataDirectory(tmp_path).recent.unlink()
        damaged = bytearray(shard.leaves.read_bytes())
        damaged[(first.sealed.index + 1) * LEAF_SIZE] = 9
        shard.leaves.write_bytes(damaged)
        ledger = open_ledger(tmp_path, clock)
        (outcomes,) = ledger.commit([submission(*events)])
        assert [outcome.status for outcome in outcomes] == [Status.DUPLICATE, Status.SEALED, Status.SEALED]
        ledger.close()


def boots(root, shard: str) -> list:
    """Return the KEY records of a shard that announce a boot."""
    return [record for record in read_shard(root, shard) if record.leaf.kind == Kind.KEY and record.control["boot"]]


class TestReading:
    """Followers read one shard after the other."""

    def test_a_store_follows_across_the_turn(self, tmp_path, clock) -> None:
        """Every event of both shards is stored once, and an erasure sealed in the new shard reaches the old one."""
        ledger = open_ledger(tmp_path, clock)
        ledger.commit([submission(*[records.record() for _ in range(3)])])
        old = ledger.origin
        erased = next(record for record in read_shard(tmp_path, "2026") if record.leaf.kind == Kind.EVENT)
        turn(ledger, clock, records.record(), records.record())
        erasure = {
            "type": "erasure",
            "org_ref": erased.leaf.org_ref.hex(),
            "actor": [[erased.leaf.org_seq, erased.leaf.org_seq]],
            "target": [],
            "basis": "art17",
            "requested_day": day_of(clock.wall),
            "log": old,
        }
        ledger.commit_controls([ControlRecord(Kind.ERASURE, erasure, STARTUP.organization_id)])
        new = ledger.origin
        ledger.close()
        with (
            contextlib.closing(LedgerReader(DataDirectory(tmp_path).ledger)) as reader,
            contextlib.closing(SqliteStore.open(tmp_path / "store.sqlite")) as store,
        ):
            follower = Follower(reader, store)
            while follower.step():
                pass
            assert store.cursor(old) == len(read_shard(tmp_path, "2026"))
            assert store.cursor(new) == len(read_shard(tmp_path, "2027"))
            sequences = ((0, 100),)
            assert len(store.indexes(old, erased.leaf.org_ref, sequences)) == 3
            assert len(store.indexes(new, erased.leaf.org_ref, sequences)) == 2

    def test_an_empty_folder_is_no_shard_yet(self, tmp_path, clock) -> None:
        """A folder without leaves, as a crash leaves it, does not become the one that is written."""
        open_ledger(tmp_path, clock).close()
        shard_of(tmp_path, "2027").leaves.parent.mkdir()
        data = DataDirectory(tmp_path)
        assert find_shards(data, clock.wall_us()).current.root.name == "2026"

    def test_an_empty_ledger_begins_with_the_present_year(self, tmp_path) -> None:
        """Without any shard the year decides; a folder that is there already is used."""
        data = DataDirectory(tmp_path)
        assert find_shards(data, NEW_YEAR_US).current.root.name == "2027"
        (data.ledger / "2026").mkdir(parents=True)
        assert find_shards(data, NEW_YEAR_US).current.root.name == "2026"
        assert year_of(NEW_YEAR_US - 1) == 2026


class TestNothingFollowsAClose:
    """A closed shard stays as it is."""

    def test_unsigned_leaves_behind_a_close_are_cut(self, tmp_path, clock) -> None:
        """A leaf behind the close record that nothing signed goes at the next start."""
        ledger = open_ledger(tmp_path, clock)
        turn(ledger, clock)
        crash(ledger)
        closed, opened = shard_of(tmp_path, "2026"), shard_of(tmp_path, "2027")
        size = closed.leaves.stat().st_size
        remove_folder(opened.root)
        with closed.leaves.open("ab") as file:
            file.write(closed.leaves.read_bytes()[:LEAF_SIZE])
        ledger = open_ledger(tmp_path, clock)
        ledger.close()
        assert closed.leaves.stat().st_size == size
        assert kinds(tmp_path, "2027")[:2] == [Kind.SHARD, Kind.START]

    def test_a_shard_that_was_begun_is_never_opened_anew(self, tmp_path, clock) -> None:
        """When the leaves of the newest shard are gone but not its signature, the start is refused."""
        ledger = open_ledger(tmp_path, clock)
        turn(ledger, clock)
        ledger.close()
        shard_of(tmp_path, "2027").leaves.unlink()
        with pytest.raises(LedgerRolledBack, match="were signed") as caught:
            open_ledger(tmp_path, clock)
        assert (caught.value.code, "ledger explain" in caught.value.remedy) == ("ledger_rolled_back", True)

    def test_the_next_shard_is_opened_with_the_key_that_was_named_or_not_at_all(self, tmp_path, clock) -> None:
        """When the key that the close record names is lost before the shard is opened, the start says so."""
        disk = FaultyDisk()
        ledger = open_ledger(tmp_path, clock, disk)
        disk.fault = Fault("replace", "after", path="2026/checkpoints/close", error=Killed)
        with pytest.raises(Killed):
            turn(ledger, clock)
        crash(ledger)
        key = DataDirectory(tmp_path).keys / "2027.key"
        kept = key.read_bytes()
        key.unlink()
        with pytest.raises(LedgerDamaged, match="not at hand") as caught:
            open_ledger(tmp_path, clock)
        assert (caught.value.code, "keys/2027.key" in caught.value.remedy) == ("secret_missing", True)
        key.write_bytes(kept)
        key.chmod(0o600)
        open_ledger(tmp_path, clock).close()
        assert kinds(tmp_path, "2027")[0] == Kind.SHARD

    def test_a_signature_that_does_not_come_at_the_turn_is_waited_for(self, tmp_path, clock, monkeypatch) -> None:
        """Once the shard is closed, nothing is acknowledged until its end is signed; then intake goes on."""
        ledger = open_ledger(tmp_path, clock)
        with monkeypatch.context() as hanging:

            def fail(_unsigned) -> None:
                raise SignerFailed("The signer hangs.", code="signer_hangs")

            hanging.setattr(ledger.signer, "sign", fail)
            with pytest.raises(IntakeHalted, match="not signed yet") as caught:
                turn(ledger, clock)
            assert (caught.value.code, bool(caught.value.remedy)) == ("signer_hangs", True)
        turn(ledger, clock)
        ledger.close()
        check_turned(tmp_path)

    def test_a_consent_that_cannot_be_read_refuses(self, tmp_path, clock) -> None:
        """What an operator agreed to is not guessed."""
        ledger = open_ledger(tmp_path, clock)
        turn(ledger, clock)
        ledger.close()
        shard_of(tmp_path, "2027").consent.write_bytes(b"{}")
        with pytest.raises(LedgerDamaged, match="cannot be read") as caught:
            open_ledger(tmp_path, clock)
        assert (caught.value.code, bool(caught.value.remedy)) == ("ledger_damaged", True)


def remove_folder(folder) -> None:
    """Delete a folder with everything in it."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


# Every durable write between the last commit of a year and the first of the next, in the order of `seal/shards.py`,
# with what it leaves when the process ends right after it.
TURN = [
    ("replace", "keys/2027.key"),
    ("append", "2026/control/frames"),
    ("sync", "2026/control/frames"),
    ("append", "2026/leaves"),
    ("sync", "2026/leaves"),
    ("replace", "2026/state/last-signed"),
    ("replace", "2026/checkpoint"),
    ("replace", "2026/checkpoints/close"),
    ("replace", "2026/state/sequences"),
    ("append", "2027/control/frames"),
    ("sync", "2027/control/frames"),
    ("sync_new_file", "2027/control/frames"),
    ("append", "2027/leaves"),
    ("sync", "2027/leaves"),
    ("sync_new_file", "2027/leaves"),
]


CRASHES = [
    (*write, moment)
    for write in TURN
    for moment in ("before", "torn", "after")
    if moment != "torn" or write[0] == "append"
]


class TestCrashAtTheTurn:
    """The process is killed around each durable write of the turn."""

    @pytest.mark.parametrize(("step", "path", "moment"), CRASHES)
    def test_the_next_start_goes_on_with_the_turn(self, tmp_path, clock, step, path, moment) -> None:
        """Wherever it stopped, the next start ends with one close, one complete opening, and nothing lost."""
        disk = FaultyDisk()
        ledger = open_ledger(tmp_path, clock, disk)
        event = records.record(position=at(0))
        ((first, _),) = ledger.commit([submission(event, records.record(BUSINESS))])
        disk.fault = Fault(step, moment, path=path, error=Killed)
        with pytest.raises(Killed):
            turn(ledger, clock)
        crash(ledger)
        ledger = open_ledger(tmp_path, clock)
        ((again, new),) = ledger.commit([submission(event, records.record())])
        assert (again.status, again.sealed) == (Status.DUPLICATE, first.sealed)
        assert new.sealed.log.endswith("/2027")
        ledger.close()
        check_turned(tmp_path)

    @pytest.mark.parametrize("kept", range(6))
    def test_some_first_records_without_the_others_are_completed(self, tmp_path, clock, kept) -> None:
        """However many of them reached the disk, the next start seals all of them, and says in START what it cut."""
        ledger = open_ledger(tmp_path, clock)
        ledger.commit([submission(records.record(), records.record(BUSINESS))])
        clock.pass_seconds(120)
        ledger.commit_controls([])
        crash(ledger)
        shard = shard_of(tmp_path, "2027")
        shard.leaves.write_bytes(shard.leaves.read_bytes()[: kept * LEAF_SIZE + 5])
        ledger = open_ledger(tmp_path, clock)
        ledger.commit([submission(records.record())])
        ledger.close()
        check_turned(tmp_path)
        start = next(item.control for item in read_shard(tmp_path, "2027") if item.leaf.kind == Kind.START)
        assert (start["recovered"]["size"], start["recovered"]["cut"]) == (0, kept + 1)


class TestFailingAtTheTurn:
    """The disk fails around each durable write of the turn, and is well again afterwards."""

    @pytest.mark.parametrize("moment", ["before", "after"])
    @pytest.mark.parametrize(("step", "path"), TURN)
    def test_intake_halts_and_goes_on(self, tmp_path, clock, step, path, moment) -> None:
        """Nothing is acknowledged while the disk fails; after that the turn is completed and intake goes on."""
        disk = FaultyDisk()
        ledger = open_ledger(tmp_path, clock, disk)
        ((first, _),) = ledger.commit([submission(event := records.record(), records.record(BUSINESS))])
        disk.fault = Fault(step, moment, path=path)
        with pytest.raises(IntakeHalted) as caught:
            turn(ledger, clock)
        assert (caught.value.code, bool(caught.value.remedy)) == ("disk_failed", True)
        ledger.resume()
        ((again, new),) = ledger.commit([submission(event, records.record())])
        assert (again.sealed, new.sealed.log[-4:]) == (first.sealed, "2027")
        ledger.close()
        check_turned(tmp_path)


def check_turned(root) -> None:
    """Assert that 2026 ends with its only close, 2027 begins complete, and both verify."""
    old, new = kinds(root, "2026"), kinds(root, "2027")
    assert (old.count(Kind.SHARD), old[-1]) == (1, Kind.SHARD)
    assert (new.count(Kind.SHARD), new[0]) == (1, Kind.SHARD)
    repeated = [canonical.encode(record.control) for record in read_shard(root, "2027") if record.control]
    for record in read_shard(root, "2026"):
        lasting = record.leaf.kind in (Kind.POLICY, Kind.SCHEMA) or (
            record.leaf.kind == Kind.KEY and record.control["boot"] is None
        )
        if lasting:
            assert repeated.count(canonical.encode(record.control)) == 1
    own = [record.control for record in read_shard(root, "2027") if record.leaf.kind == Kind.KEY]
    assert sum(str(key["vkey"]).partition("+")[0].endswith("/2027") for key in own) == 1
    assert verify_target(root, Options()).exit_status == 0
