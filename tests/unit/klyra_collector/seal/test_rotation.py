"""The collector's key changes hands inside a shard: the durable order, and what a crash leaves after each step."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from klyra_audit.errors import Rejected
from klyra_audit.format import note
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.leaf import Kind
from klyra_audit.format.note import VerifyingKey
from klyra_collector.data_directory import DataDirectory, ShardDirectory
from klyra_collector.errors import IntakeHalted, LedgerDamaged
from klyra_collector.seal import key_files
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.identity import KeyOptions
from klyra_collector.seal.ledger import Ledger
from klyra_collector.stages import Status
from support import records
from support.records import submission
from support.sealing import OPTIONS, Fault, FaultyDisk, Killed, SetClock, crash, open_ledger, read_all


@pytest.fixture
def clock():
    """A clock that stands at midsummer."""
    return SetClock()


def shard_of(root) -> ShardDirectory:
    """Return the only shard."""
    return ShardDirectory(DataDirectory(root).ledger / "2026")


def signers_of(path, *vkeys: str) -> list[str]:
    """Return which of the keys signed a checkpoint, in the order of its lines."""
    keys = [VerifyingKey.parse(vkey) for vkey in vkeys]
    return [str(key) for key in note.open_note(path.read_bytes(), keys).signed_by]


def announced(root) -> list[dict]:
    """Return the ledger's KEY documents."""
    return [record.control for record in read_all(root) if record.leaf.kind == Kind.KEY]


def rotate(ledger) -> tuple[str, str]:
    """Rotate and sign; return the old and the new verifier key."""
    old = ledger.vkey
    ledger.rotate_key(old)
    ledger.sign()
    return old, ledger.vkey


class TestRotation:
    """KEY sealed, covered by a checkpoint of the outgoing key alone, kept; then both sign."""

    def test_the_old_key_hands_over_to_the_new(self, tmp_path, clock) -> None:
        """Whoever trusts the old key finds the new one under a checkpoint that the old one signed."""
        ledger = open_ledger(tmp_path, clock)
        old, new = rotate(ledger)
        shard = shard_of(tmp_path)
        handover = shard.checkpoints / "key-2"
        assert signers_of(handover, old, new) == [old]
        covered = Checkpoint.parse(note.open_note(handover.read_bytes(), [VerifyingKey.parse(old)]).text).size
        (record,) = [r for r in read_all(tmp_path) if r.leaf.kind == Kind.KEY and r.control["vkey"] == new]
        assert record.index < covered
        assert signers_of(shard.checkpoint, old, new) == signers_of(shard.last_signed, old, new) == [old, new]
        assert (tmp_path / "keys" / "collector.vkey").read_text() == f"{new}\n"
        ledger.close()

    def test_it_lasts(self, tmp_path, clock) -> None:
        """The next start signs with both, and announces nothing again."""
        ledger = open_ledger(tmp_path, clock)
        old, new = rotate(ledger)
        ledger.close()
        again = open_ledger(tmp_path, clock)
        again.close()
        assert signers_of(shard_of(tmp_path).checkpoint, old, new) == [old, new]
        assert [document["ordinal"] for document in announced(tmp_path)] == [1, 2]
        assert again.vkey == new

    def test_the_same_rotation_twice_is_one(self, tmp_path, clock) -> None:
        """A command that is taken again after a crash is recognised, and answered with the first one's record."""
        ledger = open_ledger(tmp_path, clock)
        old = ledger.vkey
        first, second = ledger.rotate_key(old), ledger.rotate_key(old)
        assert (second.status, second.sealed) == (Status.DUPLICATE, first.sealed)
        ledger.close()
        assert len(announced(tmp_path)) == 2

    def test_from_a_key_that_the_ledger_does_not_have(self, tmp_path, clock) -> None:
        """Refused; nothing is drawn, nothing sealed, intake goes on."""
        ledger = open_ledger(tmp_path, clock)
        with pytest.raises(Rejected) as caught:
            ledger.rotate_key(ledger.vkey.replace("2026+", "2025+"))
        assert (caught.value.code, bool(caught.value.remedy)) == ("unknown_key", True)
        assert ledger.commit([submission(records.record())])[0][0].status is Status.SEALED
        assert not (tmp_path / "keys" / "collector.2.key").exists()
        ledger.close()

    def test_several_rotations(self, tmp_path, clock) -> None:
        """Each key is handed over to by all before it."""
        ledger = open_ledger(tmp_path, clock)
        keys = [ledger.vkey, *(rotate(ledger)[1] for _ in range(3))]
        shard = shard_of(tmp_path)
        assert signers_of(shard.checkpoints / "key-4", *keys) == keys[:3]
        assert signers_of(shard.checkpoint, *keys) == keys
        ledger.close()

    def test_the_next_year_begins_with_a_key_of_its_own(self, tmp_path, clock) -> None:
        """Rotation in one shard leaves the next one's first key alone, and that shard's announcement is its own."""
        ledger = open_ledger(tmp_path, clock)
        old, new = rotate(ledger)
        clock.pass_seconds(220 * 86_400)
        ledger.commit([submission(records.record())])
        ledger.sign()
        assert ledger.origin.endswith("/2027")
        following = ledger.vkey
        next_shard = ShardDirectory(DataDirectory(tmp_path).ledger / "2027")
        assert (tmp_path / "keys" / "2027.key").exists()
        assert signers_of(next_shard.checkpoint, following) == [following]
        assert signers_of(shard_of(tmp_path).checkpoints / "close", old, new) == [old, new]
        rotate(ledger)
        assert (tmp_path / "keys" / "2027.2.key").exists()
        ledger.close()
        open_ledger(tmp_path, clock).close()

    def test_with_a_passphrase_a_new_key_is_encrypted(self, tmp_path, clock, monkeypatch) -> None:
        """Every key that is drawn later is like the configuration wants it."""
        monkeypatch.setattr(key_files, "_SCRYPT_N", 2)
        passphrase = tmp_path / "passphrase"
        passphrase.write_text("open sesame\n")
        options = replace(OPTIONS, keys=KeyOptions(passphrase=f"file:{passphrase}"))
        ledger = Ledger.open(DataDirectory(tmp_path / "data"), Disk(), clock, options)
        rotate(ledger)
        ledger.close()
        drawn = (tmp_path / "data" / "keys" / "collector.2.key").read_bytes()
        assert drawn.startswith(b"klyra-key/1\n")
        Ledger.open(DataDirectory(tmp_path / "data"), Disk(), clock, options).close()


CRASHES = {
    "before the new key's file": (Fault("replace", "before", path="collector.2.key", error=Killed), 1),
    "after the new key's file": (Fault("replace", "after", path="collector.2.key", error=Killed), 1),
    "before the KEY record's leaf": (Fault("append", "before", path="/leaves", error=Killed), 1),
    "within the KEY record's leaf": (Fault("append", "torn", path="/leaves", error=Killed), 1),
    "after the KEY record": (Fault("sync", "after", path="/leaves", error=Killed), 2),
    "before the outgoing key's last-signed": (Fault("replace", "before", path="last-signed", error=Killed), 2),
    "after the outgoing key's last-signed": (Fault("replace", "after", path="last-signed", error=Killed), 2),
    "after the outgoing key's checkpoint": (Fault("replace", "after", path="/checkpoint", error=Killed), 2),
    "before the hand-over is kept": (Fault("replace", "before", path="key-2", error=Killed), 2),
    "after the hand-over is kept": (Fault("replace", "after", path="key-2", error=Killed), 2),
    "before both have signed": (Fault("replace", "before", at=1, path="last-signed", error=Killed), 2),
    "after both have signed": (Fault("replace", "after", at=1, path="last-signed", error=Killed), 2),
    "before both are shown": (Fault("replace", "before", at=1, path="/checkpoint", error=Killed), 2),
}


class TestCrash:
    """The process ends at every step of a rotation, and the command is taken again, as the outbox does."""

    @pytest.mark.parametrize("step", CRASHES)
    def test_a_rotation_is_finished_or_never_began(self, tmp_path, clock, step) -> None:
        """The next start serves what stands, and taking the command again leaves exactly one new key, handed over."""
        fault, keys_after_start = CRASHES[step]
        disk = FaultyDisk()
        ledger = open_ledger(tmp_path, clock, disk)
        old = ledger.vkey
        disk.fault = replace(fault)
        with pytest.raises(Killed):
            rotate(ledger)
        crash(ledger)

        again = open_ledger(tmp_path, clock)
        assert len(announced(tmp_path)) == keys_after_start
        again.rotate_key(old)
        again.sign()
        again.close()
        first, second = announced(tmp_path)
        shard = shard_of(tmp_path)
        assert (first["vkey"], again.vkey) == (old, second["vkey"])
        assert signers_of(shard.checkpoints / "key-2", old, again.vkey) == [old]
        assert signers_of(shard.checkpoint, old, again.vkey) == [old, again.vkey]
        assert sorted(path.name for path in (tmp_path / "keys").glob("collector*.key")) == [
            "collector.2.key",
            "collector.key",
        ]

    def test_a_full_disk_while_the_key_is_drawn(self, tmp_path, clock) -> None:
        """The rotation fails, the old key signs on, and the command is taken again."""
        disk = FaultyDisk()
        ledger = open_ledger(tmp_path, clock, disk)
        old = ledger.vkey
        disk.fault = Fault("replace", "before", path="collector.2.key")
        with pytest.raises(IntakeHalted):
            ledger.rotate_key(old)
        ledger.resume()
        ledger.commit([submission(records.record())])
        ledger.sign()
        assert signers_of(shard_of(tmp_path).checkpoint, old) == [old]
        assert rotate(ledger)[0] == old
        ledger.close()

    def test_a_lost_new_key_before_it_signed(self, tmp_path, clock) -> None:
        """Announced, never in force: the old one goes on, and another rotation gives another key."""
        disk = FaultyDisk()
        ledger = open_ledger(tmp_path, clock, disk)
        old = ledger.vkey
        disk.fault = Fault("sync", "after", path="/leaves", error=Killed)
        with pytest.raises(Killed):
            rotate(ledger)
        crash(ledger)
        (tmp_path / "keys" / "collector.2.key").unlink()
        again = open_ledger(tmp_path, clock)
        lost = again.vkey
        assert signers_of(shard_of(tmp_path).checkpoint, old, lost) == [old]
        again.rotate_key(lost)
        again.sign()
        assert signers_of(shard_of(tmp_path).checkpoint, old, again.vkey) == [old, again.vkey]
        again.close()


class TestRevocation:
    """A revoked key signs nothing more, and says up to where it is believed."""

    def test_it_vouches_for_what_was_sealed(self, tmp_path, clock) -> None:
        """`revoked_after_seq` is the operator's newest record before; the line and the private key are gone."""
        ledger = open_ledger(tmp_path, clock)
        old, new = rotate(ledger)
        ledger.commit([submission(records.record())])
        before = [record for record in read_all(tmp_path) if record.leaf.org_ref == bytes(16)][-1]
        ledger.revoke_key(old)
        assert (tmp_path / "keys" / "collector.key").exists()  # until a checkpoint covers the revocation
        ledger.sign()
        revocation = announced(tmp_path)[-1]
        assert revocation["revoked_after_seq"] == before.leaf.org_seq
        assert (revocation["ordinal"], revocation["vkey"]) == (1, old)
        assert signers_of(shard_of(tmp_path).checkpoint, new) == [new]
        assert len(shard_of(tmp_path).checkpoint.read_text().split("\n\n")[1].splitlines()) == 1
        assert not (tmp_path / "keys" / "collector.key").exists()
        ledger.close()
        open_ledger(tmp_path, clock).close()

    def test_the_same_revocation_twice_is_one(self, tmp_path, clock) -> None:
        """As a command taken again after a crash."""
        ledger = open_ledger(tmp_path, clock)
        old, _ = rotate(ledger)
        first = ledger.revoke_key(old)
        ledger.commit([submission(records.record())])
        second = ledger.revoke_key(old)
        assert (second.status, second.sealed) == (Status.DUPLICATE, first.sealed)
        ledger.close()

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_a_crash_before_the_private_key_is_gone(self, tmp_path, clock, moment) -> None:
        """It signs nothing more, and the next start's first checkpoint removes it."""
        disk = FaultyDisk()
        ledger = open_ledger(tmp_path, clock, disk)
        old, new = rotate(ledger)
        ledger.revoke_key(old)
        disk.fault = Fault("replace", moment, path="last-signed", error=Killed)
        with pytest.raises(Killed):
            ledger.sign()
        crash(ledger)
        assert (tmp_path / "keys" / "collector.key").exists()
        open_ledger(tmp_path, clock).close()
        assert not (tmp_path / "keys" / "collector.key").exists()
        assert signers_of(shard_of(tmp_path).checkpoint, old, new) == [new]

    def test_the_only_key_stays(self, tmp_path, clock) -> None:
        """Neither alone, nor while the next one is announced but does not sign yet."""
        ledger = open_ledger(tmp_path, clock)
        old = ledger.vkey
        for _ in range(2):
            with pytest.raises(Rejected) as caught:
                ledger.revoke_key(old)
            assert (caught.value.code, "rotate-key" in caught.value.remedy) == ("last_key", True)
            ledger.rotate_key(old)
        ledger.sign()
        ledger.revoke_key(old)
        ledger.close()

    def test_an_unknown_key(self, tmp_path, clock) -> None:
        """Refused, and named."""
        ledger = open_ledger(tmp_path, clock)
        with pytest.raises(Rejected) as caught:
            ledger.revoke_key("elsewhere/x/2026+00000000+AAAA")
        assert (caught.value.code, bool(caught.value.remedy)) == ("unknown_key", True)
        ledger.close()

    def test_a_stolen_old_key_signs_nothing_that_starts(self, tmp_path, clock) -> None:
        """A checkpoint by the revoked key alone is not what this collector signed last."""
        ledger = open_ledger(tmp_path, clock)
        old, _ = rotate(ledger)
        seed = (tmp_path / "keys" / "collector.key").read_bytes()
        ledger.revoke_key(old)
        ledger.sign()
        ledger.close()
        text = shard_of(tmp_path).last_signed.read_text().split("\n\n")[0] + "\n"
        forged = note.sign(text, [note.SigningKey.from_seed(ledger.origin, seed)])
        shard_of(tmp_path).last_signed.write_bytes(forged)
        with pytest.raises(LedgerDamaged):
            open_ledger(tmp_path, clock)


class TestEmitterKeys:
    """KEY records of emitters, in the chain of the organization they belong to."""

    VKEY = note.SigningKey.from_seed("billing", os.urandom(32)).vkey

    def test_added_and_revoked(self, tmp_path, clock) -> None:
        """One ordinal for both; the organization's chain holds them."""
        ledger = open_ledger(tmp_path, clock)
        ledger.commit_emitter_key("billing", self.VKEY, "org_acme", None)
        ledger.commit_emitter_key("billing", self.VKEY, "org_acme", 17)
        ledger.close()
        added, revoked = [record for record in read_all(tmp_path) if record.leaf.kind == Kind.KEY][1:]
        assert added.leaf.org_ref.hex() == added.control["org_ref"] == revoked.control["org_ref"]
        assert added.leaf.org_ref != bytes(16)
        assert added.control["ordinal"] == revoked.control["ordinal"] == 2
        assert (added.control["boot"], added.control["vkey"]) == (None, self.VKEY)
        assert (added.control["revoked_after_seq"], revoked.control["revoked_after_seq"]) == (None, 17)

    def test_shared(self, tmp_path, clock) -> None:
        """It belongs to no organization, stands in the operator's chain, and never signs a checkpoint."""
        ledger = open_ledger(tmp_path, clock)
        before = ledger.vkey
        ledger.commit_emitter_key("billing", self.VKEY, None, None)
        ledger.sign()
        ledger.close()
        again = open_ledger(tmp_path, clock)
        record = [record for record in read_all(tmp_path) if record.leaf.kind == Kind.KEY][-1]
        assert (record.leaf.org_ref, record.control["org_ref"]) == (bytes(16), None)
        assert again.vkey == before
        again.close()

    def test_the_same_twice_is_one(self, tmp_path, clock) -> None:
        """As a command taken again after a crash, and after a restart."""
        ledger = open_ledger(tmp_path, clock)
        first = ledger.commit_emitter_key("billing", self.VKEY, "org_acme", None)
        ledger.close()
        again = open_ledger(tmp_path, clock)
        second = again.commit_emitter_key("billing", self.VKEY, "org_acme", None)
        assert (second.status, second.sealed) == (Status.DUPLICATE, first.sealed)
        again.close()

    def test_the_collectors_own_name(self, tmp_path, clock) -> None:
        """An emitter cannot pass for the collector."""
        ledger = open_ledger(tmp_path, clock)
        with pytest.raises(Rejected) as caught:
            ledger.commit_emitter_key(ledger.identity.collector_id, self.VKEY, None, None)
        assert (caught.value.code, bool(caught.value.remedy)) == ("bad_emitter_id", True)
        ledger.close()

    def test_no_emitter_is_one_of_the_collectors_logs(self, tmp_path, clock) -> None:
        """Neither by its name nor by its key: both would make it look like a key that signs checkpoints."""
        ledger = open_ledger(tmp_path, clock)
        public = note.VerifyingKey.parse(ledger.vkey).public
        stranger = note.SigningKey.from_seed(ledger.origin, os.urandom(32)).vkey
        for emitter_id, vkey in ((ledger.origin, stranger), ("billing", str(note.VerifyingKey("billing", public)))):
            with pytest.raises(Rejected) as caught:
                ledger.commit_emitter_key(emitter_id, vkey, "org_acme", None)
            assert (caught.value.code, bool(caught.value.remedy)) == ("bad_emitter_id", True)
        ledger.close()
