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
from support.baseline import BUSINESS, ENTERPRISE, STARTUP, Baseline, baseline
from support.forge import SECOND_US, Forge
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
    """Write a ledger and verify it with the keys and witnesses of the honest one."""
    forge.write(root)
    return verify_target(root, Options(policy=trusted.policy(quorum="both"), **options))


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
