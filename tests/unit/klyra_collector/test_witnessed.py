"""Whom a policy names as witnesses, and by when they had cosigned."""

from __future__ import annotations

import pytest

from klyra_audit.format import note
from klyra_collector.data_directory import ShardDirectory
from klyra_collector.seal.durable import Disk
from klyra_collector.witnessed import BadWitnessPolicy, Witnessed, load_policy, newest_time, newest_witnessed, witnessed
from support.witnesses import NOW, Log, cosigning_key, policy_text

LOG = Log().grow(5)
ONE, TWO = cosigning_key("one", b"1" * 32), cosigning_key("two", b"2" * 32)


def written(folder, text):
    """Write a policy file."""
    path = folder / "policy"
    path.write_text(text)
    return path


def both(quorum):
    """Return a policy of two witnesses."""
    named = (("one", ONE.vkey, "http://one"), ("two", TWO.vkey, "http://two"))
    return policy_text(LOG.key.vkey, *named, quorum=quorum)


def test_the_quorum_decides_the_time(tmp_path):
    """Any: the first of two; all: the second; without the quorum there is nothing."""
    shard = ShardDirectory(tmp_path / "2026")
    text = LOG.checkpoint().text()
    wanted = load_policy(written(tmp_path, both("all")))
    assert witnessed(shard, wanted) is None
    Disk().replace(shard.witnessed, note.append_lines(LOG.signed(), [ONE.signature_line(text, NOW)]))
    assert witnessed(shard, wanted) is None
    lines = [ONE.signature_line(text, NOW), TWO.signature_line(text, NOW + 9)]
    Disk().replace(shard.witnessed, note.append_lines(LOG.signed(), lines))
    assert witnessed(shard, wanted) == Witnessed(5, NOW + 9)
    assert witnessed(shard, load_policy(written(tmp_path, both("any")))) == Witnessed(5, NOW)


@pytest.mark.parametrize("content", [b"", LOG.signed(), b"x\n\n\xe2\x80\x94 one AAAAAAAA\n"])
def test_a_file_that_does_not_satisfy_the_policy_is_none(tmp_path, content):
    """Damaged, uncosigned or false: nothing is believed."""
    shard = ShardDirectory(tmp_path / "2026")
    Disk().replace(shard.witnessed, content)
    assert witnessed(shard, load_policy(written(tmp_path, both("any")))) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no witness policy"),
        ("log x\n", "no witness policy"),
        (f"log {LOG.key.vkey}\nquorum none\n", "cannot be had"),
        (f"log {LOG.key.vkey}\nwitness one {ONE.vkey}\nquorum one\n", "cannot be had"),
        (f"log {LOG.key.vkey}\nwitness one {Log('one').key.vkey} http://one\nquorum one\n", "cannot be had"),
        (both("all").replace(" http://two", ""), "cannot be had"),
    ],
)
def test_a_policy_whose_quorum_cannot_be_asked_for_is_refused(tmp_path, text, message):
    """A quorum needs cosigners' keys with addresses, or the setting would promise what never comes."""
    with pytest.raises(BadWitnessPolicy, match=message) as caught:
        load_policy(written(tmp_path, text))
    assert (caught.value.code, bool(caught.value.remedy)) == ("bad_witness_policy", True)


def test_a_policy_that_is_not_there_is_named(tmp_path):
    """The message names the file, the remedy the setting."""
    with pytest.raises(BadWitnessPolicy, match="cannot be read") as caught:
        load_policy(tmp_path / "policy")
    assert "witness.policy" in caught.value.remedy


def test_the_newest_time_over_all_shards(tmp_path):
    """A new shard that nobody has cosigned yet leaves the time of the one before; nothing at all is UNWITNESSED."""
    wanted = load_policy(written(tmp_path, both("any")))
    ledger = tmp_path / "ledger"
    (ledger / "2027").mkdir(parents=True)
    (ledger / "lock").touch()
    assert newest_witnessed(ledger, wanted) is None
    assert newest_time(ledger, wanted) is None
    line = ONE.signature_line(LOG.checkpoint().text(), NOW)
    Disk().replace(ShardDirectory(ledger / "2026").witnessed, note.append_lines(LOG.signed(), [line]))
    assert newest_witnessed(ledger, wanted) == ("2026", Witnessed(5, NOW))
    assert newest_time(ledger, wanted) == NOW
