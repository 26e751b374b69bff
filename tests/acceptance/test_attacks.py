"""Attacks on a whole ledger by somebody who can write its files, without its signing keys unless it is said."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from klyra_audit.format import control, merkle
from klyra_audit.format.frame import BlobFrame, encode_blob
from klyra_audit.format.keys import SigningKey
from klyra_audit.format.leaf import Leaf
from klyra_collector.verify import Options, Report, Verdict, verify_target
from support import records, sealing
from support.baseline import BUSINESS, ENTERPRISE, STARTUP, Baseline, baseline
from support.forge import SECOND_US, Forge
from support.handmade import append_erasure, append_event, leaves_of, shard_of
from support.ledgers import DAY_US, put

if TYPE_CHECKING:
    from pathlib import Path

    from support.forge import ForgedShard

ORGANIZATION = "org_attacked"


@pytest.fixture
def honest() -> Forge:
    """The ledger that is attacked."""
    return baseline()


def judge(forge: Forge, root: Path, trusted: Forge, **options: object) -> Report:
    """Write a ledger and verify it with the keys and witnesses of the honest one, at the end of the latter's time."""
    forge.write(root)
    given = {"policy": trusted.policy(quorum="both"), "now_us": trusted.newest.now_us, **options}
    return verify_target(root, Options(**given))


def test_a_rewritten_shard_behind_the_genuine_checkpoint_is_a_fork(
    tmp_path: Path, honest: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that the rewriting announces is not believed because a genuine head covers its place."""
    genuine = honest.newest.files["checkpoint"]
    stranger = SigningKey.from_seed(honest.newest.origin, b"\x66" * 32)
    shard_class = type(honest.newest)
    announce = shard_class.collector_key

    def announce_stranger(shard: ForgedShard, **members: object) -> object:
        return announce(shard, **({**members, "vkey": stranger.vkey} if shard.shard == "2026" else members))

    monkeypatch.setattr(shard_class, "collector_key", announce_stranger)
    forged = Baseline().build()
    newest = forged.newest
    newest.event(STARTUP)
    newest.heads()
    newest.files = {"checkpoint": genuine, "state/last-signed": newest.head(keys=[stranger])}
    forged.shards[0] = honest.shards[0]
    forged.write(tmp_path)
    now = time.time()
    os.utime(tmp_path / "ledger/2026/checkpoint", (now - 5, now - 5))
    report = verify_target(tmp_path, Options(policy=honest.policy(quorum="both"), patience=0))
    assert report.exit_status == 1
    assert report.verdict is Verdict.FORK


class TestUnsignedTail:
    """Records that no signed head covers excuse nothing."""

    def test_an_erasure_there_erases_nothing(self, tmp_path: Path, honest: Forge) -> None:
        """Overwritten sections are not authorised by it."""
        forged = honest.copy()
        newest = forged.newest
        files = dict(newest.files)
        mine = [
            frame.index
            for frames in newest.bodies.values()
            for frame in frames
            if frame.sections.actor and Leaf.unpack(newest.leaves[frame.index]).org_ref == newest.reference(ENTERPRISE)
        ]
        kept = sorted(index for index in mine if newest.frame_of(index).salts.actor != bytes(16))
        newest.erase(ENTERPRISE, actor=kept, into=newest)
        newest.files = files
        report = judge(forged, tmp_path, honest)
        assert (report.exit_status, report.verdict) == (1, Verdict.REDACTED_UNAUTHORISED)

    def test_a_dropped_shard_there_is_missing(self, tmp_path: Path, honest: Forge) -> None:
        """Whoever can delete a shard can also write that it was dropped."""
        forged = honest.copy()
        old, newest = forged.shards
        files = dict(newest.files)
        root = merkle.root_of(map(merkle.leaf_hash, old.leaves))
        newest.seal(control.DroppedShard(old.origin, old.size, root))
        newest.files = files
        forged.shards = [newest]
        report = judge(forged, tmp_path, honest)
        assert (report.exit_status, report.verdict) == (1, Verdict.MISSING)

    def test_a_hold_there_keeps_nothing(self, tmp_path: Path, honest: Forge) -> None:
        """What stays past its day stays too long."""
        forged = honest.copy()
        files = dict(forged.newest.files)
        for organization_id in (STARTUP, BUSINESS, ENTERPRISE):
            forged.hold(f"hold_{organization_id}", organization_id, 0, None)
        forged.newest.files = files
        later = forged.newest.now_us + 400 * DAY_US
        report = judge(forged, tmp_path, honest, now_us=later, max_witness_age=1e12)
        assert report.exit_status == 1
        assert report.shards[-1].counts[Verdict.OVER_RETAINED]

    def test_a_revocation_there_gives_a_revoked_key_nothing_back(self, tmp_path: Path) -> None:
        """The thief of a revoked key is not helped by a later record that revokes it less."""
        forge = Forge.opened("2026", 20_500 * DAY_US, {ORGANIZATION: 365})
        shard = forge.newest
        (old,) = shard.keys
        shard.event(ORGANIZATION)
        shard.now_us += SECOND_US
        new = SigningKey.from_seed(shard.origin, b"\x77" * 32)
        shard.collector_key(vkey=new.vkey)
        shard.files["checkpoints/key-2"] = shard.cosigned(shard.head(keys=[old]))
        shard.now_us += SECOND_US
        last = Leaf.unpack(shard.leaves[shard.size - 1]).org_seq
        shard.collector_key(vkey=old.vkey, revoked_after_seq=last)
        shard.event(ORGANIZATION)
        shard.files["checkpoint"] = shard.files["state/last-signed"] = shard.cosigned(shard.head(keys=[new]))
        assert judge(forge, tmp_path / "honest", forge).exit_status == 0
        for _ in range(5):
            shard.event(ORGANIZATION)
        shard.files["checkpoint"] = shard.files["state/last-signed"] = shard.head(keys=[old])
        shard.collector_key(vkey=old.vkey, revoked_after_seq=10**6)
        report = judge(forge, tmp_path / "forged", forge)
        assert (report.exit_status, report.verdict) == (1, Verdict.BAD_SIGNATURE)


def test_an_invented_run_json_does_not_excuse_a_deleted_shard(tmp_path: Path) -> None:
    """That a collector runs explains a shard that is not there yet for a moment, not for ever."""
    forge = Forge.opened("2025", 20_440 * DAY_US, {ORGANIZATION: 365})
    forge.newest.event(ORGANIZATION)
    following = forge.open_next("2026", 20_454 * DAY_US)
    following.event(ORGANIZATION)
    following.publish()
    assert judge(forge, tmp_path, forge).exit_status == 0
    shutil.rmtree(tmp_path / "ledger/2026")
    put(tmp_path / "run.json", b"{}")
    report = verify_target(tmp_path, Options(policy=forge.policy(quorum="both")))
    assert report.exit_status == 1
    assert Verdict.MISSING in report.shards[0].counts


def test_a_revocation_of_an_impossible_index_costs_nothing(tmp_path: Path, honest: Forge) -> None:
    """Numbers in frames that no leaf vouches for are not counted up to."""
    honest.write(tmp_path)
    revocation = control.Key(99, "collector-1", None, honest.newest.vkey, None, 5)
    with (tmp_path / "ledger/2026/control/frames").open("ab") as file:
        file.write(encode_blob(BlobFrame(2**62, revocation.encode())))
    assert verify_target(tmp_path, Options(policy=honest.policy())).exit_status != 0


class TestHandmadeRecords:
    """The collector signs what it received, not what it finds behind the end of its files."""

    @pytest.fixture
    def stopped(self, tmp_path: Path) -> Path:
        """A data directory whose collector was stopped as it should be, with events that name people."""
        ledger = sealing.open_ledger(tmp_path / "data", sealing.SetClock())
        for _ in range(5):
            ledger.commit([records.submission(records.record(), records.record(records.BUSINESS))])
        ledger.close()
        return tmp_path / "data"

    def start(self, data: Path) -> Report:
        """Let the collector start and stop, and verify with the keys it had before."""
        ledger = sealing.open_ledger(data, sealing.SetClock())
        ledger.close()
        return verify_target(data, Options())

    def test_an_event_that_nobody_sent(self, stopped: Path) -> None:
        """It is cut on record, and everything else stands."""
        index = append_event(stopped, records.record())
        forged = leaves_of(stopped)[index]
        report = self.start(stopped)
        assert report.exit_status == 0
        assert forged not in leaves_of(stopped)
        assert any(shard_of(stopped).state.glob("cut-*/ledger-2026-leaves"))

    def test_an_erasure_that_nobody_asked_for(self, stopped: Path) -> None:
        """What was zeroed under its name was zeroed without a right to."""
        append_erasure(stopped, records.STARTUP.organization_id)
        report = self.start(stopped)
        assert report.exit_status == 1
        assert report.shards[0].counts[Verdict.REDACTED_UNAUTHORISED] == 5
        assert Verdict.REDACTED_OK not in report.shards[0].counts


class TestOldHead:
    """A genuine head of long ago, put back; all that came later is rewritten as records that are not signed yet."""

    def rewritten(self, days: int, *, evil: bool) -> Forge:
        """A ledger of so many days with a head each; an attacker's tells something else from the third day on."""
        forge = Forge.opened("2026", 20_500 * DAY_US, {ORGANIZATION: 365})
        shard = forge.newest
        for day in range(days):
            shard.now_us = (20_500 + day) * DAY_US + 3_600 * SECOND_US
            named = {"actor": {"type": "user", "id": "usr_x", "name": "Mallory"}} if evil and day >= 2 else {}
            for _ in range(3):
                shard.event(ORGANIZATION, **named)
            shard.heads()
            shard.keep_as(f"d{day:03d}")
        shard.publish()
        return forge

    @pytest.mark.parametrize("committed", [True, False], ids=["committed", "no word of it"])
    def test_days_of_unsigned_records_are_not_intact(self, tmp_path: Path, *, committed: bool) -> None:
        """Without witnesses nobody can say more than that it cannot be checked; that is said."""
        honest, forged = self.rewritten(20, evil=False), self.rewritten(20, evil=True)
        pinned = honest.policy(quorum="none")
        head = honest.newest.files["checkpoints/d001"]
        kept = {f"checkpoints/d{day:03d}": honest.newest.files[f"checkpoints/d{day:03d}"] for day in range(2)}
        forged.newest.files = {**kept, "checkpoint": head, "state/last-signed": head, "state/witnessed": head}
        forged.write(tmp_path)
        if not committed:
            (tmp_path / "ledger/2026/state/committed").unlink(missing_ok=True)
        report = verify_target(tmp_path, Options(policy=pinned))
        assert (report.exit_status, report.verdict) == (2, Verdict.UNVERIFIABLE)
        assert "older heads were put in place of newer ones" in report.shards[0].findings[0].reason

    def test_with_witnesses_the_present_tells(self, tmp_path: Path) -> None:
        """However short the tail is made: witnesses have not seen the ledger since the head that was put back."""
        forge = self.rewritten(2, evil=False)
        shard = forge.newest
        head = shard.files["checkpoint"]
        for _ in range(20):
            shard.event(ORGANIZATION)
        shard.files["checkpoint"] = shard.files["state/last-signed"] = head
        forge.write(tmp_path)
        report = verify_target(tmp_path, Options(policy=forge.policy(quorum="both")))
        assert (report.exit_status, report.verdict) == (1, Verdict.STALE_WITNESS)


class TestDroppedShard:
    """A shard may be dropped when nothing in it is in force: not when the key's holder likes."""

    def dropped(self, honest: Forge, after_days: int) -> Forge:
        """The honest ledger without its first shard, which the key's holder dropped after so many days."""
        old, newest = honest.shards
        newest.now_us += after_days * DAY_US
        root = merkle.root_of(map(merkle.leaf_hash, old.leaves))
        newest.seal(control.DroppedShard(old.origin, old.size, root))
        newest.keep_as("dropped")
        newest.publish()
        honest.shards = [newest]
        return honest

    def test_before_its_bodies_are_due(self, tmp_path: Path, honest: Forge) -> None:
        """It is missing, with the reason why the record does not excuse it."""
        trusted = honest.copy()
        forged = self.dropped(honest, 0)
        report = judge(forged, tmp_path, trusted, now_us=forged.newest.now_us)
        assert (report.exit_status, report.verdict) == (1, Verdict.MISSING)
        assert "could be in force" in report.shards[0].findings[0].reason

    def test_under_a_legal_hold(self, tmp_path: Path, honest: Forge) -> None:
        """Ten years later the baseline's hold is in force still."""
        trusted = honest.copy()
        forged = self.dropped(honest, 4_000)
        report = judge(forged, tmp_path, trusted, now_us=forged.newest.now_us)
        assert any("legal hold hold_1" in finding.reason for finding in report.shards[0].findings)

    def test_when_nothing_can_be_in_force(self, tmp_path: Path, honest: Forge) -> None:
        """Ten years later, without a hold, its absence is in order."""
        trusted = honest.copy()
        honest.release("hold_1")
        forged = self.dropped(honest, 4_000)
        report = judge(forged, tmp_path, trusted, now_us=forged.newest.now_us)
        assert Verdict.MISSING not in report.shards[0].counts


def test_a_checkpoint_that_is_exchanged_while_verify_waits_for_it(tmp_path: Path, honest: Forge) -> None:
    """What is read after the wait is trusted no more than what was read before."""
    shard = honest.newest
    pinned = honest.policy(quorum="none")
    stranger = SigningKey.from_seed(shard.origin, b"\x66" * 32)
    forged = honest.copy()
    evil = forged.newest
    evil.event(STARTUP)
    head = evil.head(evil.size, keys=[stranger])
    evil.collector_key(vkey=stranger.vkey)  # an unsigned record announces the stranger's key
    kept = sorted(name for name in shard.files if name.startswith("checkpoints/2026"))
    evil.files = {"checkpoint": shard.files[kept[-2]], "state/last-signed": shard.files["state/last-signed"]}
    forged.write(tmp_path)
    checkpoint = tmp_path / "ledger/2026/checkpoint"

    def exchange(_seconds: float) -> None:
        put(checkpoint.with_name("checkpoint.x"), head)
        checkpoint.with_name("checkpoint.x").replace(checkpoint)

    report = verify_target(tmp_path, Options(policy=pinned, patience=0.5, sleep=exchange))
    assert checkpoint.read_bytes() == head
    assert report.exit_status == 1
    assert report.shards[-1].size == shard.size
    assert {finding.verdict for finding in report.shards[-1].findings} >= {Verdict.ROLLBACK}
