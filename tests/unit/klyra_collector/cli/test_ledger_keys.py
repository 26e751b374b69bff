"""`klyra-audit ledger rotate-key|revoke-key|encrypt-key|decrypt-key` on a data directory without a collector."""

from __future__ import annotations

import pytest

from klyra_audit.event import Actor
from klyra_audit.format import note
from klyra_audit.format.note import VerifyingKey
from klyra_collector.cli import ledger_keys
from klyra_collector.cli.ledger import app
from klyra_collector.seal import key_files
from klyra_collector.supervise.offline import drain_if_stopped


@pytest.fixture(autouse=True)
def ledger(data, registry_of, monkeypatch):
    """A ledger that was signed, and encryption that costs nothing."""
    monkeypatch.setattr(key_files, "_SCRYPT_N", 2)
    data.mkdir()
    registry_of().create_organization("org_acme", "business", by=Actor.user("usr_admin"))
    drain_if_stopped(data)


@pytest.fixture
def passphrase(tmp_path):
    """A reference to a passphrase."""
    (tmp_path / "passphrase").write_text("open sesame\n")
    return f"file:{tmp_path}/passphrase"


def vkey(data) -> str:
    """Return the key that people pin."""
    return (data / "keys" / "collector.vkey").read_text().strip()


def signers(data, *vkeys) -> list[str]:
    """Return which keys signed the public checkpoint."""
    (checkpoint,) = data.glob("ledger/*/checkpoint")
    return [str(key) for key in note.open_note(checkpoint.read_bytes(), list(map(VerifyingKey.parse, vkeys))).signed_by]


def test_rotate_and_revoke(run, data) -> None:
    """The new key is printed and signs with the old one, until that is revoked."""
    old = vkey(data)
    status, out, err = run(app, "rotate-key")
    new = vkey(data)
    assert (status, out, new == old) == (0, f"{new}\n", False)
    assert old in err  # how to revoke it
    assert signers(data, old, new) == [old, new]
    status, out, _ = run(app, "revoke-key", old)
    assert (status, out) == (0, f"{old}\n")
    assert signers(data, old, new) == [new]


def test_the_last_key_is_not_revoked(run, data) -> None:
    """Exit 1 with the reason; the key signs on."""
    status, out, err = run(app, "revoke-key", vkey(data))
    assert (status, out) == (1, "")
    assert "rotate-key" in err
    assert run(app, "rotate-key")[0] == 0


def test_a_directory_without_a_ledger(run, tmp_path, monkeypatch) -> None:
    """Says how one is made."""
    monkeypatch.setenv("KLYRA_DATA", str(tmp_path / "nothing"))
    status, out, err = run(app, "rotate-key")
    assert (status, out) == (2, "")
    assert "klyra-audit serve" in err


def test_a_collector_that_does_not_come(run, data, monkeypatch) -> None:
    """The command stays in the outbox, and the exit status says that it is not done."""
    monkeypatch.setattr(ledger_keys, "_WAIT_SECONDS", 0.2)
    monkeypatch.setattr("klyra_collector.supervise.offline.drain_if_stopped", lambda _data: False)
    status, out, err = run(app, "rotate-key")
    assert (status, out) == (2, "")
    assert "outbox" in err


def test_encrypt_and_decrypt(run, data, passphrase, monkeypatch) -> None:
    """The signing keys and nothing else; the ledger then needs the passphrase, and a wrong one stops it."""
    plain = {path.name: path.read_bytes() for path in (data / "keys").iterdir()}
    status, out, _ = run(app, "encrypt-key", "--passphrase", passphrase)
    assert (status, out.split()) == (0, ["collector.key", "collector.mldsa"])
    for name, content in plain.items():
        assert ((data / "keys" / name).read_bytes() == content) == (name not in out.split())
    assert run(app, "encrypt-key", "--passphrase", passphrase)[:2] == (0, "")
    status, _, err = run(app, "rotate-key")
    assert status == 2
    assert "ledger.key_passphrase" in err
    monkeypatch.setenv("KLYRA_LEDGER__KEY_PASSPHRASE", passphrase)
    assert run(app, "rotate-key")[0] == 0
    status, out, _ = run(app, "decrypt-key")
    assert (status, out.split()) == (0, ["collector.2.key", "collector.key", "collector.mldsa"])
    assert (data / "keys" / "collector.key").read_bytes() == plain["collector.key"]


def test_a_wrong_passphrase(run, data, passphrase, monkeypatch) -> None:
    """Exit 2, and the files are as they were."""
    run(app, "encrypt-key", "--passphrase", passphrase)
    before = (data / "keys" / "collector.key").read_bytes()
    monkeypatch.setenv("WRONG", "sesame, open")
    status, out, err = run(app, "decrypt-key", "--passphrase", "env:WRONG")
    assert (status, out, "passphrase" in err) == (2, "", True)
    assert (data / "keys" / "collector.key").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 1, "--passphrase"),
        (["--passphrase", "open sesame"], 1, "env:NAME"),
        (["--passphrase", "env:NOT_SET_ANYWHERE"], 2, "NOT_SET_ANYWHERE"),
    ],
)
def test_a_passphrase_that_is_not_there(run, arguments, status, said) -> None:
    """None, one as a value, which is not repeated, and a reference to nothing."""
    found, out, err = run(app, "encrypt-key", *arguments)
    assert (found, out, said in err, "sesame" in err) == (status, "", True, False)
