"""Signed heads: by whom, which is the newest, and whether they can all be true."""

from __future__ import annotations

import os
import shutil

import pytest

from klyra_audit.format import checkpoint, note, policy
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.merkle import EMPTY_ROOT
from klyra_audit.format.note import ALGORITHM_COSIGNATURE, SigningKey
from klyra_collector.verify import CannotVerify, Verdict
from support.ledgers import (
    ACME,
    ORG_SALT,
    ORIGIN,
    UMBRELLA,
    LedgerBuilder,
    put,
    shards_in_a_row,
    signing_key,
    small_ledger,
)
from support.tampering import at, found

V = Verdict
OTHER_SEED = bytes(32)
SIGNED_FILES = ("checkpoint", "state/last-signed")


@pytest.fixture
def data(small, tmp_path):
    """The small ledger on disk."""
    return small.write(tmp_path / "data")


@pytest.fixture
def shard(data):
    """Its shard."""
    return data / "ledger/2026"


def sign_again(shard, encoded: bytes) -> None:
    """Put a head in place of both newest ones."""
    for name in SIGNED_FILES:
        (shard / name).write_bytes(encoded)


def files_of(report) -> set[tuple[str, str]]:
    """Return (verdict, file) of every finding."""
    return {(finding.verdict.value, finding.file) for finding in report.shards[0].findings}


class TestKeys:
    """Which key must have signed."""

    def test_without_a_policy_the_ledgers_own_key_is_taken(self, data, verify, small) -> None:
        """Consistent, and not pinned."""
        report = verify(data)
        assert (report.exit_status, report.pinned, report.shards[0].key) == (0, False, small.vkey)

    def test_unpinned_is_not_enough_where_a_pin_is_required(self, data, verify, small) -> None:
        """Exit 2; a broken ledger is broken all the same."""
        assert verify(data, require_pinned=True).exit_status == 2
        assert verify(data, small, require_pinned=True).exit_status == 0
        (data / "ledger/2026/control/frames").unlink()
        assert verify(data, require_pinned=True).exit_status == 1

    @pytest.mark.parametrize("pinned", [True, False])
    def test_a_head_signed_with_another_key(self, data, shard, verify, small, pinned) -> None:
        """Of the same name; the KEY record in the ledger names the right one."""
        sign_again(shard, small.checkpoint(key=signing_key(OTHER_SEED)))
        report = verify(data, small if pinned else None)
        assert report.verdict is V.BAD_SIGNATURE
        assert report.shards[0].counts[V.OK] == 0

    def test_a_key_put_beside_the_ledger_is_not_the_one_in_it(self, data, shard, verify, small) -> None:
        """keys/collector.vkey is compared with the KEY record."""
        key = signing_key(OTHER_SEED)
        sign_again(shard, small.checkpoint(key=key))
        (data / "keys/collector.vkey").write_text(f"{key.vkey}\n")
        assert ("BAD_SIGNATURE", "keys/collector.vkey") in files_of(verify(data))

    def test_a_key_file_that_is_no_key(self, data, verify) -> None:
        """It is named; the KEY record serves instead."""
        (data / "keys/collector.vkey").write_text("not a key\n")
        report = verify(data)
        assert files_of(report) == {("BAD_SIGNATURE", "keys/collector.vkey")}
        assert report.shards[0].size is not None

    def test_the_key_file_serves_where_the_record_is_lost(self, data, shard, verify) -> None:
        """Without control documents the ledger is broken, but its head still verifies."""
        (shard / "control/frames").unlink()
        assert verify(data).shards[0].size is not None

    def test_without_any_key_nothing_can_be_checked(self, data, shard, verify) -> None:
        """No policy, no KEY record, no key file: unverifiable, whatever else is found."""
        (shard / "control/frames").unlink()
        (data / "keys/collector.vkey").unlink()
        report = verify(data)
        assert ("UNVERIFIABLE", "ledger/2026/checkpoint") in files_of(report)
        assert report.shards[0].counts[V.OK] == 0

    def test_a_policy_of_another_log(self, data, verify) -> None:
        """A valid signature by a key that is not listed is no signature."""
        pinned = policy.parse(f"log {signing_key(origin='elsewhere/x/2026').vkey}\nquorum none\n".encode())
        assert verify(data, policy=pinned).verdict is V.BAD_SIGNATURE

    def test_a_listed_key_signs_for_its_own_log_only(self, data, shard, verify, small) -> None:
        """The key's name is the origin; another listed log's key cannot sign this ledger's head."""
        other = signing_key(OTHER_SEED, origin="elsewhere/x/2026")
        sign_again(shard, small.checkpoint(key=other))
        pinned = policy.parse(f"log {other.vkey}\nlog {small.vkey}\nquorum none\n".encode())
        assert verify(data, policy=pinned).verdict is V.BAD_SIGNATURE

    def test_signatures_of_others_are_passed_over(self, data, shard, verify, small) -> None:
        """A witness's line changes nothing."""
        text = small.checkpoint().decode().partition("\n\n")[0] + "\n"
        sign_again(shard, note.sign(text, [signing_key(OTHER_SEED, origin="a-witness"), signing_key()]))
        assert verify(data, small).exit_status == 0

    def test_a_policy_that_asks_for_witnesses_is_not_satisfied(self, data, verify, small) -> None:
        """No witness has cosigned anything."""
        witness = SigningKey.from_seed("a-witness", OTHER_SEED, ALGORITHM_COSIGNATURE).vkey
        pinned = policy.parse(f"log {small.vkey}\nwitness w {witness}\nquorum w\n".encode())
        assert files_of(verify(data, policy=pinned)) == {("STALE_WITNESS", "ledger/2026/checkpoint")}


class TestRollback:
    """A newer head was signed than the one that is shown."""

    def test_an_older_checkpoint(self, data, shard, verify, small) -> None:
        """The records it leaves out are named; they are verified by the newer head."""
        (shard / "checkpoint").write_bytes(small.checkpoint(10))
        report = verify(data, small)
        assert found(report) == {at(V.ROLLBACK, 10, len(small.leaves) - 1)}
        assert report.shards[0].counts[V.OK] == len(small.leaves)

    def test_an_older_checkpoint_with_older_leaves(self, tmp_path, verify, small) -> None:
        """A consistent older state, but for what was signed last."""
        data = small.write(tmp_path / "data", signed=10)
        leaves = data / "ledger/2026/leaves"
        leaves.write_bytes(b"".join(small.leaves[:10]))
        (data / "ledger/2026/state/last-signed").write_bytes(small.checkpoint())
        report = verify(data, small)
        assert report.verdict is V.ROLLBACK
        assert at(V.TRUNCATED, 10, len(small.leaves) - 1) in found(report)

    def test_an_older_last_signed(self, data, shard, verify, small) -> None:
        """It is always written first, so it cannot be older than the checkpoint."""
        (shard / "state/last-signed").write_bytes(small.checkpoint(10))
        assert files_of(verify(data, small)) == {("ROLLBACK", "ledger/2026/state/last-signed")}

    def test_a_kept_head_that_is_newer_than_the_newest(self, tmp_path, verify, small) -> None:
        """Both newest heads were put back, a kept one was not."""
        small.keep()
        data = small.write(tmp_path / "data", signed=10)
        assert at(V.ROLLBACK, 10, len(small.leaves) - 1) in found(verify(data, small))

    def test_a_crash_between_signing_and_publishing_is_no_rollback(self, data, shard, verify, small) -> None:
        """The checkpoint is the older file; everything is verified by what was signed last."""
        (shard / "checkpoint").write_bytes(small.checkpoint(10))
        os.utime(shard / "checkpoint", ns=(1, 1))
        report = verify(data, small)
        assert (report.exit_status, report.shards[0].size) == (0, len(small.leaves))
        assert "not published yet" in report.shards[0].notes[0]

    def test_signed_records_that_are_gone_are_a_rollback_whatever_the_files_times(
        self, data, shard, verify, small
    ) -> None:
        """An older state with its own times, but for what was signed last."""
        (shard / "checkpoint").write_bytes(small.checkpoint(10))
        (shard / "leaves").write_bytes(b"".join(small.leaves[:10]))
        os.utime(shard / "checkpoint", ns=(1, 1))
        assert verify(data, small).verdict is V.ROLLBACK

    def test_a_running_collector_is_given_time_to_publish(self, data, shard, verify, small) -> None:
        """The checkpoint appears while the verification waits."""
        (shard / "checkpoint").write_bytes(small.checkpoint(10))

        def publish(_seconds: float) -> None:
            (shard / "checkpoint").write_bytes(small.checkpoint())

        assert verify(data, small, patience=5.0, sleep=publish).exit_status == 0


class TestFork:
    """Two signed heads that cannot both be true."""

    def rewritten(self) -> LedgerBuilder:
        """Return the small ledger with another last event."""
        builder = small_ledger()
        other = LedgerBuilder()
        other.__dict__.update(builder.__dict__)
        other.leaves = [*builder.leaves[:-1], builder.leaves[-1][:40] + b"\x01" + builder.leaves[-1][41:]]
        return other

    def test_two_heads_of_one_size(self, data, shard, verify, small) -> None:
        """Published and last signed."""
        (shard / "state/last-signed").write_bytes(self.rewritten().checkpoint())
        assert found(verify(data, small)) == {(V.FORK, None, None)}

    def test_a_kept_head_of_another_history(self, data, shard, verify, small) -> None:
        """The ledger was rewritten and signed again, and an older head was kept."""
        put(shard / "checkpoints/2026-02-11", self.rewritten().checkpoint())
        assert files_of(verify(data, small)) == {("FORK", "ledger/2026/checkpoints/2026-02-11")}

    def test_a_kept_head_of_another_log(self, data, shard, verify, small) -> None:
        """Signed by a listed key, for its own log."""
        other = signing_key(OTHER_SEED, origin="elsewhere/x/2026")
        put(
            shard / "checkpoints/2026-02-11",
            checkpoint.sign(Checkpoint(other.verifying_key.name, 0, EMPTY_ROOT), other),
        )
        pinned = policy.parse(f"log {other.vkey}\nlog {small.vkey}\nquorum none\n".encode())
        assert files_of(verify(data, policy=pinned)) == {("BAD_SIGNATURE", "ledger/2026/checkpoints/2026-02-11")}


class TestAbsence:
    """Heads that are not there."""

    def test_a_missing_checkpoint(self, data, shard, verify, small) -> None:
        """What was signed last serves instead."""
        (shard / "checkpoint").unlink()
        report = verify(data, small)
        assert files_of(report) == {("MISSING", "ledger/2026/checkpoint")}
        assert report.shards[0].counts[V.OK] == len(small.leaves)

    @pytest.mark.parametrize("gone", ["state/last-signed", "state"])
    def test_a_missing_last_signed_could_hide_a_rollback(self, data, shard, verify, small, gone) -> None:
        """Taking away what would show a rollback is no way around it."""
        shutil.rmtree(shard / gone) if (shard / gone).is_dir() else (shard / gone).unlink()
        assert files_of(verify(data, small)) == {("ROLLBACK", "ledger/2026/state/last-signed")}

    def test_a_ledger_that_was_never_signed(self, data, shard, verify, small) -> None:
        """Nothing vouches for it."""
        (shard / "checkpoint").unlink()
        shutil.rmtree(shard / "state")
        report = verify(data, small)
        assert (report.exit_status, report.shards[0].counts[V.OK]) == (2, 0)

    def test_the_head_of_an_empty_ledger(self, tmp_path, verify) -> None:
        """Nothing is never OK."""
        empty = LedgerBuilder()
        report = verify(empty.write(tmp_path / "data"), empty)
        assert (report.exit_status, report.verdict) == (2, V.UNVERIFIABLE)

    def test_an_empty_head_with_a_root_of_something(self, data, shard, verify, small) -> None:
        """Signed or not, that is wrong."""
        sign_again(shard, checkpoint.sign(Checkpoint(ORIGIN, 0, bytes(32)), signing_key()))
        assert V.ROOT_MISMATCH in verify(data, small).shards[0].counts

    def test_a_head_of_more_records_than_any_file_has(self, data, shard, verify, small) -> None:
        """An absurd size is a cut, and costs no memory."""
        sign_again(shard, checkpoint.sign(Checkpoint(ORIGIN, 10**18, bytes(32)), signing_key()))
        assert found(verify(data, small)) >= {at(V.TRUNCATED, len(small.leaves), 10**18 - 1)}


class TestShards:
    """Several shards, and shards that are not what they are called."""

    def test_shards_are_verified_one_after_another(self, tmp_path, verify) -> None:
        """Oldest first; each has its own part of the report."""
        builders = shards_in_a_row("2025", "2026-2", "2026-10")
        for builder in builders:
            builder.write(tmp_path / "data")
        lines = [f"log {builder.vkey}\n" for builder in builders]
        pinned = policy.parse("".join([*lines[:1], "quorum none\n"]).encode())
        report = verify(tmp_path / "data", policy=pinned)
        assert [shard.directory for shard in report.shards] == ["ledger/2025", "ledger/2026-2", "ledger/2026-10"]
        assert report.exit_status == 0
        (tmp_path / "data/ledger/2026-2/leaves").unlink()
        unled = V.UNVERIFIABLE  # only the first shard's key is pinned, and what led to the last one's is gone
        assert [shard.verdict for shard in verify(tmp_path / "data", policy=pinned).shards] == [
            V.OK,
            V.TRUNCATED,
            unled,
        ]

    def test_a_shard_under_anothers_name(self, data, shard, verify, small) -> None:
        """Last year's ledger is not this year's."""
        shard.rename(shard.with_name("2027"))
        assert verify(data, small).verdict is V.BAD_SIGNATURE

    def test_a_copy_of_a_shard_may_have_any_name(self, data, shard, tmp_path, verify, small) -> None:
        """It stands alone."""
        shutil.copytree(shard, tmp_path / "evidence")
        assert verify(tmp_path / "evidence", small, org_salt=ORG_SALT).exit_status == 0

    @pytest.mark.parametrize("name", ["", "nothing", "file"])
    def test_a_target_without_a_ledger_cannot_be_verified(self, tmp_path, verify, name) -> None:
        """Empty, missing, or no directory at all: never OK."""
        (tmp_path / "file").write_text("x")
        with pytest.raises(CannotVerify, match=r"no ledger|no directory") as caught:
            verify(tmp_path / name if name else tmp_path)
        assert caught.value.code == "no_ledger"
        assert "data directory" in caught.value.remedy

    def test_an_empty_ledger_directory_cannot_be_verified(self, tmp_path, verify) -> None:
        """As on a first start."""
        (tmp_path / "ledger").mkdir()
        with pytest.raises(CannotVerify):
            verify(tmp_path)

    def test_organizations_of_one_ledger_share_nothing_else(self, data, verify, small) -> None:
        """A ledger of two organizations is one ledger."""
        assert verify(data, small).shards[0].counts[V.OK] == len(small.leaves)
        assert UMBRELLA != ACME
