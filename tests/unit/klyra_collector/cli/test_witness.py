"""`klyra-audit witness` and what `klyra-audit status` says of witnesses, without a process running."""

from __future__ import annotations

import json

import pytest

from klyra_audit.format import note
from klyra_collector.cli import status
from klyra_collector.cli.witness import app
from klyra_collector.data_directory import DataDirectory, ShardDirectory
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.lock import LedgerLock
from klyra_collector.witness import book
from klyra_collector.witness.keys import load_keys
from klyra_collector.witness.memory import LastAnswer, keep
from support.sealing import SetClock, open_ledger
from support.witnesses import NAME, NOW, ORIGIN, Log, cosigning_key, make_cosigner, policy_text

VKEY = Log().key.vkey


@pytest.fixture
def witness(tmp_path, data):
    """The folder of a witness with its key, which nothing runs."""
    folder = tmp_path / "klyra-witness"
    book.begin(Disk(), folder / "witness.toml", name=NAME, listen="127.0.0.1:0", ml_dsa=True)
    load_keys(Disk(), folder, NAME, ml_dsa=True, may_make=True)
    return folder


def test_show_key_prints_a_line_for_each_key(run, witness) -> None:
    """What goes into the policies of others, and nothing else; the directory is found by its default name."""
    answered, out, _ = run(app, "show-key")
    assert answered == 0
    assert [line.partition("+")[0] for line in out.splitlines()] == [NAME, NAME]


def test_add_log_prints_the_origin(run, witness) -> None:
    """Added once, however often and whichever way the directory is named."""
    for arguments in (("add-log", VKEY), ("--data", str(witness), "add-log", VKEY)):
        assert run(app, *arguments)[:2] == (0, f"{ORIGIN}\n")
    assert [str(key) for key in book.read_settings(witness / "witness.toml").logs] == [VKEY]


def test_list_shows_what_was_cosigned(run, witness) -> None:
    """A table for people, JSON for programs; a ledger that never came is shown too."""
    keys = load_keys(Disk(), witness, NAME, ml_dsa=True, may_make=False)
    cosigner = make_cosigner(witness, VKEY, Log("b/c/2026", b"b" * 32).key.vkey, keys=keys)
    cosigner.add_checkpoint(Log().grow(4).request(0))
    answered, out, _ = run(app, "list")
    assert answered == 0
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [[ORIGIN, "4"], ["b/c/2026", "0"]]
    rows = json.loads(run(app, "list", "--json")[1])
    assert rows[0] == {"origin": ORIGIN, "size": 4, "cosigned": "2026-06-21T00:00:00.000Z"}
    assert rows[1]["cosigned"] is None


@pytest.mark.parametrize("command", [("list",), ("show-key",), ("add-log", VKEY)])
def test_only_a_start_makes_a_witness(run, data, tmp_path, command) -> None:
    """The other commands say where they looked and make nothing."""
    answered, out, err = run(app, *command, "--data", str(tmp_path / "nowhere"))
    assert (answered, out) == (2, "")
    assert "nowhere" in err
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("vkey", ["x", cosigning_key().vkey])
def test_what_is_no_key_of_a_log_is_refused(run, witness, vkey) -> None:
    """Exit 2 with what is wrong."""
    answered, _, err = run(app, "add-log", vkey)
    assert answered == 2
    assert "Error: " in err


def test_a_witness_keeps_its_name(run, witness) -> None:
    """Another --name for one that exists is refused before anything runs."""
    answered, _, err = run(app, "--name", "other")
    assert answered == 2
    assert f"is called {NAME}" in err


def test_a_bad_address_is_refused(run, witness) -> None:
    """--listen is host:port."""
    assert run(app, "--listen", "nowhere")[0] == 2


def test_one_process_runs_a_witness(run, witness) -> None:
    """A second one is kept out."""
    with LedgerLock(witness):
        answered, _, err = run(app)
    assert answered == 2
    assert "Another process runs the witness" in err


def test_a_lost_key_is_not_drawn_anew(run, witness) -> None:
    """Once checkpoints were cosigned, a start without the key is refused."""
    (witness / "checkpoints").mkdir()
    (witness / "witness.key").unlink()
    answered, _, err = run(app)
    assert answered == 2
    assert "witness.key cannot be read" in err


def test_status_says_by_when_a_quorum_had_cosigned(run, data) -> None:
    """UNWITNESSED until then; troubles are named; an alarm makes the exit status 1."""
    ledger = open_ledger(data, SetClock())
    vkey, shard = ledger.vkey, ShardDirectory(data / "ledger" / "2026")
    ledger.close()
    answered, out, _ = run(status.app, "--data", str(data))
    assert answered == 0
    assert "witness    UNWITNESSED: " in out

    key = cosigning_key()
    named = policy_text(vkey, ("other", key.vkey, "http://other"))
    Disk().replace(DataDirectory(data).witness_policy, named.encode())
    keep(Disk(), shard, {"other": LastAnswer().troubled("log_unknown", "It does not know this log.")})
    answered, out, _ = run(status.app, "--data", str(data))
    assert answered == 0
    assert "witness    UNWITNESSED: " in out
    assert "witness    other: It does not know this log." in out

    encoded = shard.checkpoint.read_bytes()
    size = int(encoded.split(b"\n")[1])
    text = encoded.decode().rpartition("\n\n")[0] + "\n"
    Disk().replace(shard.witnessed, note.append_lines(encoded, [key.signature_line(text, NOW)]))
    keep(Disk(), shard, {"other": LastAnswer(size, NOW).troubled("fork", "It has seen another history.")})
    answered, out, _ = run(status.app, "--data", str(data))
    assert answered == 1
    assert f"witness    {size} records of 2026 were cosigned by 2026-06-21T00:00:00.000Z" in out
    assert "ALARM      other: It has seen another history." in out
    report = json.loads(run(status.app, "--json", "--data", str(data))[1])
    assert report["witness"] == "WITNESSED"
    assert report["witnessed"] == {"shard": "2026", "size": size, "at": "2026-06-21T00:00:00.000Z"}
    assert report["witnesses"]["other"]["trouble"] == "fork"
