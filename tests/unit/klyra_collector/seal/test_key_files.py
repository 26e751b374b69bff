"""Private keys on the disk: who may use them, how they are encrypted, what a crash leaves."""

from __future__ import annotations

import os

import pytest

from klyra_audit.errors import Halted
from klyra_collector.errors import KeyLocked, LedgerDamaged
from klyra_collector.seal import key_files
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.key_files import KeyFiles
from support.sealing import DiskFullError, Fault, FaultyDisk

NAME = "collector.key"


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    """A scrypt that costs nothing: what it costs is no matter here."""
    monkeypatch.setattr(key_files, "_SCRYPT_N", 2)


def files(folder, passphrase=None, disk=None) -> KeyFiles:
    """Return the key files of a folder."""
    return KeyFiles(folder / "keys", disk or Disk(), passphrase)


def test_a_drawn_key_is_private_and_stays(tmp_path) -> None:
    """The folder is 0700, the file 0600, and a second draw gives the same key."""
    drawn = files(tmp_path).draw(NAME)
    path = tmp_path / "keys" / NAME
    assert (path.parent.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)
    assert files(tmp_path).draw(NAME) == drawn == path.read_bytes()


def test_an_encrypted_key_needs_its_passphrase(tmp_path) -> None:
    """The file does not hold the seed; the right passphrase opens it, none and another do not."""
    drawn = files(tmp_path, "open sesame").draw(NAME)
    assert drawn not in (tmp_path / "keys" / NAME).read_bytes()
    assert files(tmp_path, "open sesame").read(NAME) == drawn
    for passphrase, code in ((None, "passphrase_missing"), ("open sesam", "passphrase_wrong")):
        with pytest.raises(KeyLocked) as caught:
            files(tmp_path, passphrase).read(NAME)
        assert (caught.value.code, bool(caught.value.remedy)) == (code, True)
        assert isinstance(caught.value, Halted)


def test_two_encryptions_of_one_key_differ(tmp_path) -> None:
    """Salt and nonce are drawn for each."""
    keys = files(tmp_path, "p")
    drawn = keys.draw(NAME)
    first = (tmp_path / "keys" / NAME).read_bytes()
    keys.rewrite(NAME, encrypted=True)
    assert (tmp_path / "keys" / NAME).read_bytes() != first
    assert keys.read(NAME) == drawn


def test_one_encrypted_key_cannot_stand_in_for_another(tmp_path) -> None:
    """The name is authenticated with the seed."""
    keys = files(tmp_path, "p")
    keys.draw(NAME)
    (tmp_path / "keys" / NAME).rename(tmp_path / "keys" / "2027.key")
    with pytest.raises(KeyLocked) as caught:
        keys.read("2027.key")
    assert caught.value.code == "passphrase_wrong"


@pytest.mark.parametrize("position", [12, 30, 45, -1])
def test_an_altered_envelope_does_not_open(tmp_path, position) -> None:
    """Salt, nonce, seed and tag: a changed bit anywhere is noticed."""
    keys = files(tmp_path, "p")
    keys.draw(NAME)
    path = tmp_path / "keys" / NAME
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(KeyLocked):
        keys.read(NAME)


@pytest.mark.parametrize("content", [b"", bytes(31), bytes(33), b"klyra-key/1\n" + bytes(75)])
def test_a_file_of_another_length_is_damaged(tmp_path, content) -> None:
    """Neither a seed nor an envelope."""
    keys = files(tmp_path, "p")
    keys.draw(NAME)
    (tmp_path / "keys" / NAME).write_bytes(content)
    with pytest.raises(LedgerDamaged) as caught:
        keys.read(NAME)
    assert (caught.value.code, "backup" in caught.value.remedy) == ("secret_damaged", True)


@pytest.mark.parametrize(("target", "mode"), [(NAME, 0o640), (NAME, 0o604), ("", 0o750), ("", 0o701)])
def test_what_others_may_use_is_refused(tmp_path, target, mode) -> None:
    """The file and the folder, read or replaced: both are named with the command that mends it."""
    keys = files(tmp_path)
    keys.draw(NAME)
    (tmp_path / "keys" / target).chmod(mode)
    with pytest.raises(LedgerDamaged) as caught:
        keys.read(NAME)
    assert (caught.value.code, "chmod" in caught.value.remedy) == ("secret_exposed", True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("target", [NAME, ""])
def test_another_users_key_is_refused(tmp_path, target) -> None:
    """Whoever owns the file or its folder could replace the key."""
    keys = files(tmp_path)
    keys.draw(NAME)
    os.chown(tmp_path / "keys" / target, 12345, -1)
    with pytest.raises(LedgerDamaged) as caught:
        keys.read(NAME)
    assert (caught.value.code, "12345" in str(caught.value), bool(caught.value.remedy)) == (
        "secret_foreign",
        True,
        True,
    )


def test_a_missing_key_is_not_drawn_by_reading(tmp_path) -> None:
    """A lost key must be restored, not replaced in silence."""
    keys = files(tmp_path)
    keys.draw("other.key")
    with pytest.raises(LedgerDamaged) as caught:
        keys.read(NAME)
    assert (caught.value.code, "backup" in caught.value.remedy) == ("secret_missing", True)


@pytest.mark.parametrize("encrypted", [True, False])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_while_a_key_is_replaced_leaves_a_usable_one(tmp_path, encrypted, moment) -> None:
    """The old file or the new one, and the same key in either."""
    drawn = files(tmp_path, None if encrypted else "p").draw(NAME)
    disk = FaultyDisk()
    disk.fault = Fault("replace", moment)
    with pytest.raises(DiskFullError):
        files(tmp_path, "p", disk).rewrite(NAME, encrypted=encrypted)
    assert files(tmp_path, "p").read(NAME) == drawn
    assert files(tmp_path, "p").is_encrypted(NAME) is (encrypted if moment == "after" else not encrypted)


def test_a_removed_key_is_gone(tmp_path) -> None:
    """And removing it again does nothing."""
    keys = files(tmp_path)
    keys.draw(NAME)
    keys.remove(NAME)
    keys.remove(NAME)
    assert not keys.exists(NAME)
