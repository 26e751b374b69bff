"""The ledger's writer: what is committed, signed, recognised as a repeat, and refused."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from klyra_audit.errors import Rejected
from klyra_audit.format import canonical, checkpoint, merkle, note, sections
from klyra_audit.format.leaf import NEVER, NO_PREVIOUS, Kind
from klyra_audit.timestamps import day_of
from klyra_collector.data_directory import DataDirectory, ShardDirectory
from klyra_collector.errors import Conflict, IdentityChanged, IntakeHalted, LedgerDamaged, LedgerLocked
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.ledger import Ledger, LedgerOptions
from klyra_collector.stages import EmitterPosition, Status
from support import records
from support.records import BUSINESS, STARTUP, submission
from support.sealing import MIDSUMMER_US, SetClock, open_ledger, read_all

BOOT = "0192f3c1-7c3e-7d1a-9a55-2f6c1d9e8b10"


@pytest.fixture
def clock():
    """A clock that stands at midsummer."""
    return SetClock()


@pytest.fixture
def ledger(tmp_path, clock):
    """An open ledger."""
    opened = open_ledger(tmp_path, clock)
    yield opened
    opened.close()


def shard_of(ledger: Ledger, root) -> ShardDirectory:
    """Return the open shard's folder."""
    return ShardDirectory(DataDirectory(root).ledger / ledger.origin.rpartition("/")[2])


def only(answers):
    """Return the outcomes of the only submission."""
    (outcomes,) = answers
    return outcomes


class TestOpening:
    """The first and later starts."""

    def test_a_new_ledger_announces_start_key_and_schemas(self, ledger, tmp_path) -> None:
        """START, the collector's KEY and each SCHEMA are the first records, the operator's."""
        opening = read_all(tmp_path)
        assert [record.leaf.kind for record in opening] == [Kind.START, Kind.KEY, Kind.SCHEMA]
        start, key, schema = (record.control for record in opening)
        assert start["org_salt_sha256"] == hashlib.sha256(ledger.identity.org_salt).hexdigest()
        assert start["recovered"] is None
        assert (key["vkey"], key["ordinal"]) == (ledger.vkey, 1)
        assert schema == {"type": "schema", "id": "klyra.audit/1#moderation.created", "sha256": "ab" * 32}
        assert all(record.leaf.org_ref == bytes(16) for record in opening)

    def test_a_second_start_announces_only_itself(self, tmp_path, clock) -> None:
        """What the ledger says already is not said again."""
        open_ledger(tmp_path, clock).close()
        open_ledger(tmp_path, clock).close()
        assert [record.leaf.kind for record in read_all(tmp_path)] == [Kind.START, Kind.KEY, Kind.SCHEMA, Kind.START]

    def test_the_shard_is_the_year(self, ledger) -> None:
        """The origin ends with the year of the first record."""
        assert ledger.origin == f"klyra-audit.local/{ledger.identity.collector_id}/2026"

    def test_a_second_writer_is_refused(self, ledger, tmp_path, clock) -> None:
        """One writer per ledger, and the message names the process that holds it."""
        with pytest.raises(LedgerLocked, match=str(os.getpid())) as caught:
            open_ledger(tmp_path, clock)
        assert caught.value.code == "ledger_locked"
        assert "data directory of its own" in caught.value.remedy

    @pytest.mark.parametrize("setting", ["ledger_name", "collector_id"])
    def test_names_are_fixed_at_first_start(self, tmp_path, clock, setting) -> None:
        """A different configured name refuses to start."""
        open_ledger(tmp_path, clock).close()
        options = LedgerOptions(software="t", schemas={}, **{setting: "another"})
        with pytest.raises(IdentityChanged, match="another") as caught:
            Ledger.open(DataDirectory(tmp_path), Disk(), clock, options)
        assert caught.value.code == "identity_changed"
        assert caught.value.remedy
        open_ledger(tmp_path, clock).close()

    def test_a_name_that_cannot_stand_in_an_origin_is_rejected(self, tmp_path, clock) -> None:
        """A name with a space is no origin."""
        options = LedgerOptions(software="t", schemas={}, ledger_name="two words")
        with pytest.raises(Rejected, match="two words") as caught:
            Ledger.open(DataDirectory(tmp_path), Disk(), clock, options)
        assert (caught.value.code, bool(caught.value.remedy)) == ("bad_name", True)

    def test_secrets_are_private(self, ledger, tmp_path) -> None:
        """Nobody else can read the keys."""
        keys = DataDirectory(tmp_path).keys
        assert keys.stat().st_mode & 0o777 == 0o700
        assert all((keys / name).stat().st_mode & 0o077 == 0 for name in ("collector.key", "org-salt", "tag.key"))

    @pytest.mark.parametrize(
        ("spoil", "code"),
        [
            (lambda path: path.chmod(0o644), "secret_exposed"),
            (lambda path: path.unlink(), "secret_missing"),
            (lambda path: path.write_bytes(b"short"), "secret_damaged"),
        ],
    )
    def test_a_spoilt_secret_refuses_to_start(self, tmp_path, clock, spoil, code) -> None:
        """A key that others can read, that is gone or cut refuses to start and says what to do."""
        open_ledger(tmp_path, clock).close()
        spoil(DataDirectory(tmp_path).keys / "collector.key")
        with pytest.raises(LedgerDamaged) as caught:
            open_ledger(tmp_path, clock)
        assert (caught.value.code, bool(caught.value.remedy)) == (code, True)


class TestCommit:
    """Leaves and bodies of a group commit."""

    def test_an_event_is_sealed_as_the_format_says(self, ledger, tmp_path) -> None:
        """Leaf, body and chain of an event are what KL1 fixes, and its POLICY stands before it."""
        event = records.record(STARTUP)
        (outcome,) = only(ledger.commit([submission(event)]))
        assert outcome.status is Status.SEALED
        policy, sealed = read_all(tmp_path)[-2:]
        assert policy.control == {
            "type": "policy",
            "org_ref": sealed.leaf.org_ref.hex(),
            "plan": "startup",
            "policy": "startup",
            "retention_days": 30,
        }
        org_ref = sections.organization_reference(ledger.identity.org_salt, STARTUP.organization_id)
        assert (policy.leaf.org_ref, policy.leaf.org_seq, policy.leaf.org_prev) == (org_ref, 0, NO_PREVIOUS)
        assert (sealed.leaf.org_ref, sealed.leaf.org_seq) == (org_ref, 1)
        assert sealed.leaf.org_prev == merkle.leaf_hash(policy.leaf_bytes)
        assert sealed.leaf.expire_day == day_of(MIDSUMMER_US) + 1 + 30
        assert sealed.leaf.commit == event.commitments.event_commit()
        assert canonical.encode(sections.join(sealed.body.sections)) == event.content
        assert policy.leaf.expire_day == NEVER
        assert (outcome.sealed.index, outcome.sealed.leaf) == (sealed.index, sealed.leaf_bytes)

    def test_bodies_are_filed_by_expiry_day(self, ledger, tmp_path) -> None:
        """Each plan's bodies stand in the folder of the day they may go."""
        ledger.commit([submission(records.record(STARTUP), records.record(BUSINESS))])
        days = {int(path.name) for path in shard_of(ledger, tmp_path).bodies.iterdir()}
        today = day_of(MIDSUMMER_US)
        assert days == {today + 31, today + 91}

    def test_chains_of_organizations_are_apart(self, ledger, tmp_path) -> None:
        """Records of two organizations interleave, and each counts its own without gaps."""
        for _ in range(3):
            ledger.commit([submission(records.record(STARTUP), records.record(BUSINESS))])
        chains = {}
        for record in read_all(tmp_path):
            chains.setdefault(record.leaf.org_ref, []).append(record.leaf.org_seq)
        assert len(chains) == 3
        assert all(sequence == list(range(len(sequence))) for sequence in chains.values())

    def test_several_submissions_share_one_commit(self, ledger) -> None:
        """A group commit answers each submission in order."""
        first, second = records.record(), records.record()
        answers = ledger.commit([submission(first), submission(second)])
        assert [outcome.sealed.index for (outcome,) in answers] == [4, 5]

    def test_an_emitters_boot_is_announced_once(self, ledger, tmp_path) -> None:
        """KEY names the boot when it is first seen; leaves carry its ordinal and the sequence."""
        events = [records.record(position=EmitterPosition("api-1", BOOT, number)) for number in range(3)]
        ledger.commit([submission(*events)])
        key, *sealed = read_all(tmp_path)[-4:]
        assert (key.control["emitter_id"], key.control["boot"], key.control["ordinal"]) == ("api-1", BOOT, 2)
        assert [(item.leaf.emitter, item.leaf.emitter_seq) for item in sealed] == [(2, 0), (2, 1), (2, 2)]
        ledger.commit([submission(records.record(position=EmitterPosition("api-1", BOOT, 3)))])
        assert read_all(tmp_path)[-1].leaf.emitter == 2

    def test_boots_of_two_organizations_are_apart(self, ledger, tmp_path) -> None:
        """The same emitter id and boot of another organization is another boot."""
        position = EmitterPosition("api-1", BOOT, 0)
        ledger.commit([submission(records.record(STARTUP, position=position))])
        (outcome,) = only(ledger.commit([submission(records.record(BUSINESS, position=position))]))
        assert outcome.status is Status.SEALED
        assert read_all(tmp_path)[-1].leaf.emitter == 3

    def test_quarantined_bytes_lie_beside_their_record(self, ledger, tmp_path) -> None:
        """An invalid input is committed, and its bytes are filed by the same day."""
        (outcome,) = only(ledger.commit([submission(records.bad(STARTUP, b"raw bytes"))]))
        assert outcome.status is Status.QUARANTINED
        record = read_all(tmp_path)[-1]
        assert record.leaf.kind == Kind.QUARANTINE
        core = json.loads(record.body.sections.core)
        assert (core["sha256"], core["size"]) == (hashlib.sha256(b"raw bytes").hexdigest(), 9)
        path = DataDirectory(tmp_path).quarantine / str(record.leaf.expire_day) / "2026.frames"
        assert b"raw bytes" in path.read_bytes()

    def test_a_policy_change_holds_from_its_record_on(self, ledger, tmp_path) -> None:
        """A new policy lengthens what is sealed after it; one in force already is not sealed twice."""
        ledger.commit([submission(records.record(STARTUP))])
        longer = records.Tenancy(STARTUP.organization_id, "business", "business", 90)
        changed = ledger.commit_policy(longer)
        assert ledger.commit_policy(longer).sealed == changed.sealed
        ledger.commit([submission(records.record(STARTUP))])
        days = [item.leaf.expire_day for item in read_all(tmp_path) if item.leaf.kind == Kind.EVENT]
        assert days == [day_of(MIDSUMMER_US) + 31, day_of(MIDSUMMER_US) + 91]


class TestRepeats:
    """Duplicates and conflicts."""

    def test_the_same_event_again_gets_the_first_receipt(self, ledger) -> None:
        """A repeat is acknowledged with the position it was sealed at, and not sealed again."""
        event = records.record()
        (first,) = only(ledger.commit([submission(event)]))
        size = ledger.size
        (again,) = only(ledger.commit([submission(event)]))
        assert (again.status, again.sealed, ledger.size) == (Status.DUPLICATE, first.sealed, size)

    def test_twice_in_one_batch_is_a_repeat(self, ledger) -> None:
        """The second of two equal events in a batch is a repeat of the first."""
        event = records.record()
        first, second = only(ledger.commit([submission(event, event, strict=True)]))
        assert (second.status, second.sealed) == (Status.DUPLICATE, first.sealed)

    def test_a_strict_batch_with_a_conflict_is_left_out_whole(self, ledger) -> None:
        """The same id with other content refuses the strict batch, names the position and seals nothing."""
        event = records.record()
        ledger.commit([submission(event)])
        size = ledger.size
        other = records.record(id=event.record_id, status="failure")
        (answer,) = ledger.commit([submission(records.record(), other, strict=True)])
        assert isinstance(answer, Conflict)
        assert (answer.positions, answer.code, ledger.size) == ((1,), "id_conflict", size)
        assert answer.remedy

    def test_a_conflict_within_a_strict_batch_refuses_it(self, ledger) -> None:
        """Two contents under one id in the same batch conflict."""
        event = records.record()
        other = records.record(id=event.record_id, status="failure")
        (answer,) = ledger.commit([submission(event, other, strict=True)])
        assert isinstance(answer, Conflict)

    def test_a_lenient_conflict_is_quarantined_and_the_rest_sealed(self, ledger, tmp_path) -> None:
        """Otherwise the conflicting event is kept in quarantine, once, and what stands beside it is sealed."""
        event = records.record()
        ledger.commit([submission(event)])
        other = records.record(id=event.record_id, status="failure")
        beside = records.record()
        outcomes = only(ledger.commit([submission(other, beside)]))
        assert [outcome.status for outcome in outcomes] == [Status.QUARANTINED, Status.SEALED]
        assert json.loads(read_all(tmp_path)[-2].body.sections.core)["pointer"] == "/id"
        (again,) = only(ledger.commit([submission(other)]))
        assert (again.status, again.sealed) == (Status.DUPLICATE, outcomes[0].sealed)

    def test_one_id_in_two_organizations_is_no_repeat(self, ledger) -> None:
        """Ids are unique per organization only."""
        event = records.record(STARTUP)
        ledger.commit([submission(event)])
        (outcome,) = only(ledger.commit([submission(records.record(BUSINESS, id=event.record_id))]))
        assert outcome.status is Status.SEALED

    def test_repeats_are_recognised_after_a_restart(self, tmp_path, clock) -> None:
        """Recent ids survive, whether they were written to their file or not."""
        ledger = open_ledger(tmp_path, clock)
        signed, unsigned, bad = records.record(), records.record(), records.bad()
        ledger.commit([submission(signed)])
        ledger.sign()
        ledger.commit([submission(unsigned, bad)])
        size = ledger.size
        ledger._recent.close()
        ledger._files.close()
        ledger._lock.release()  # a crash: nothing is flushed
        ledger = open_ledger(tmp_path, clock)
        outcomes = only(ledger.commit([submission(signed, unsigned, bad)]))
        assert {outcome.status for outcome in outcomes} == {Status.DUPLICATE}
        assert ledger.size == size + 1  # START
        ledger.close()

    @pytest.mark.parametrize(("days", "status"), [(2, Status.SEALED), (5, Status.DUPLICATE)])
    def test_an_event_without_sequence_is_recognised_as_long_as_configured(self, tmp_path, clock, days, status) -> None:
        """Three days later its id is forgotten by default, and still known where more days are kept."""
        options = LedgerOptions(software="t", schemas={}, recognised_days=days)
        ledger = Ledger.open(DataDirectory(tmp_path), Disk(), clock, options)
        event = records.record()
        ledger.commit([submission(event)])
        for _ in range(3):
            ledger.sign()
            clock.pass_seconds(86_400)
            ledger.commit([submission(records.record())])
        ledger.sign()
        (again,) = only(ledger.commit([submission(event)]))
        assert again.status is status
        ledger.close()

    def test_a_sequenced_event_is_recognised_for_ever(self, ledger, clock) -> None:
        """After days, an emitter's repeat is known by its place in the sequence; a changed one conflicts."""
        position = EmitterPosition("api-1", BOOT, 7)
        event = records.record(position=position)
        (first,) = only(ledger.commit([submission(event)]))
        for _ in range(3):
            clock.pass_seconds(86_400)
            ledger.commit([submission(records.record())])
            ledger.sign()
        (again,) = only(ledger.commit([submission(event)]))
        assert (again.status, again.sealed) == (Status.DUPLICATE, first.sealed)
        (answer,) = ledger.commit([submission(records.record(position=position), strict=True)])
        assert isinstance(answer, Conflict)

    def test_a_taken_place_in_the_sequence_is_quarantined_outside_it(self, ledger, tmp_path) -> None:
        """A second event at one place is kept, without the place."""
        position = EmitterPosition("api-1", BOOT, 7)
        ledger.commit([submission(records.record(position=position))])
        (outcome,) = only(ledger.commit([submission(records.record(position=position))]))
        assert outcome.status is Status.QUARANTINED
        assert read_all(tmp_path)[-1].leaf.emitter == 0


class TestSigning:
    """Checkpoints."""

    def test_a_checkpoint_covers_every_committed_leaf(self, ledger, tmp_path) -> None:
        """The published checkpoint verifies and has the root over all leaves."""
        ledger.commit([submission(*[records.record() for _ in range(300)])])
        ledger.sign()
        shard = shard_of(ledger, tmp_path)
        key = note.VerifyingKey.parse((DataDirectory(tmp_path).keys / "collector.vkey").read_text().strip())
        head = checkpoint.open_checkpoint(shard.checkpoint.read_bytes(), key)
        hashes = [merkle.leaf_hash(record.leaf_bytes) for record in read_all(tmp_path)]
        assert (head.size, head.root) == (len(hashes), merkle.root_of(hashes))
        assert shard.last_signed.read_bytes() == shard.checkpoint.read_bytes()
        assert shard.hashes(0).read_bytes() == b"".join(hashes)
        assert shard.hashes(1).read_bytes() == merkle.root_of(hashes[:256])

    def test_nothing_new_is_not_signed_again(self, ledger, tmp_path) -> None:
        """The checkpoint is left alone while nothing is committed."""
        ledger.sign()
        before = shard_of(ledger, tmp_path).checkpoint.stat().st_mtime_ns
        ledger.sign()
        assert shard_of(ledger, tmp_path).checkpoint.stat().st_mtime_ns == before

    def test_a_clean_stop_keeps_the_checkpoint_of_the_day(self, tmp_path, clock) -> None:
        """The last checkpoint of a run is kept under its date."""
        ledger = open_ledger(tmp_path, clock)
        shard = shard_of(ledger, tmp_path)
        ledger.commit([submission(records.record())])
        ledger.close()
        assert [path.read_bytes() for path in shard.checkpoints.iterdir()] == [shard.checkpoint.read_bytes()]


class TestClock:
    """When the clock is not believed."""

    def test_ingest_time_never_goes_back(self, ledger, tmp_path, clock) -> None:
        """A clock set back a little seals with the last time."""
        clock.pass_seconds(10)
        ledger.commit([submission(records.record())])
        clock.set_forward(-5)
        ledger.commit([submission(records.record())])
        times = [record.leaf.ingest_us for record in read_all(tmp_path)]
        assert times == sorted(times)
        assert times[-1] == times[-2]

    def test_a_leap_halts_intake_until_the_kernel_vouches(self, ledger, clock) -> None:
        """Over a minute gained on the machine's own clock halts intake, retryable, unless synchronised."""
        clock.set_forward(61)
        with pytest.raises(IntakeHalted, match="gained 61 s") as caught:
            ledger.commit([submission(records.record())])
        assert (caught.value.code, bool(caught.value.remedy)) == ("clock_leapt", True)
        assert caught.value.retry_after > 0
        clock.is_synchronised = True
        assert only(ledger.commit([submission(records.record())]))[0].status is Status.SEALED

    def test_time_that_passes_on_both_clocks_is_no_leap(self, ledger, clock) -> None:
        """A quiet week does not halt intake."""
        clock.pass_seconds(7 * 86_400)
        assert only(ledger.commit([submission(records.record())]))

    def test_a_clock_far_behind_halts_intake(self, ledger, clock) -> None:
        """More than 15 minutes behind the last leaf halts intake."""
        clock.set_forward(-16 * 60)
        with pytest.raises(IntakeHalted, match="behind") as caught:
            ledger.commit([submission(records.record())])
        assert (caught.value.code, bool(caught.value.remedy)) == ("clock_behind", True)

    def test_an_operator_can_confirm_the_clock(self, tmp_path, clock) -> None:
        """A confirmed clock is believed, and START says so."""
        open_ledger(tmp_path, clock).close()
        clock.set_forward(-3600)
        options = LedgerOptions(software="t", schemas={}, confirm_clock=True)
        ledger = Ledger.open(DataDirectory(tmp_path), Disk(), clock, options)
        assert only(ledger.commit([submission(records.record())]))
        ledger.close()
        starts = [record.control for record in read_all(tmp_path) if record.leaf.kind == Kind.START]
        assert "confirmed" in starts[-1]["clock_source"]
