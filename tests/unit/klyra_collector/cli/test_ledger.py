"""`klyra-audit ledger show | explain | continue`."""

from __future__ import annotations

import json

import pytest

from klyra_audit.format.leaf import LEAF_SIZE, Kind
from klyra_collector.cli.ledger import app
from klyra_collector.data_directory import DataDirectory, ShardDirectory
from klyra_collector.seal.clock import SystemClock
from klyra_collector.seal.lock import LedgerLock
from klyra_collector.seal.shards import year_of
from support import records
from support.records import submission
from support.sealing import SetClock, open_ledger, read_shard

YEAR = str(year_of(SystemClock().wall_us()))  # commands ask the real clock


@pytest.fixture
def ledger(data):
    """A stopped ledger of this year with some events."""
    opened = open_ledger(data, SetClock(SystemClock().wall_us()))
    opened.commit([submission(records.record(), records.record())])
    opened.close()
    return opened


@pytest.fixture
def damaged(data, ledger):
    """The same after its last leaf was lost."""
    path = ShardDirectory(DataDirectory(data).ledger / YEAR).leaves
    path.write_bytes(path.read_bytes()[:-LEAF_SIZE])
    return ledger


class TestShow:
    """What the shards' files say."""

    def test_a_table_for_people(self, run, ledger) -> None:
        """Shard, size, key and kept checkpoints are on standard output."""
        status, out, err = run(app, "show")
        assert (status, err) == (0, "")
        assert out.splitlines()[0].split() == ["SHARD", "RECORDS", "SIGNED", "LAST", "SIGNED", "STATE"]
        assert ledger.vkey in out
        assert "checkpoints/" in out

    def test_json_for_programs(self, run, ledger) -> None:
        """One object a shard, with its newest head."""
        status, out, _ = run(app, "show", "--json")
        (shard,) = json.loads(out)
        assert status == 0
        assert shard["head"]["origin"] == ledger.origin
        assert shard["head"]["size"] == shard["committed"] == shard["leaves"] == ledger.size
        assert (shard["closed"], shard["opened"], shard["vkeys"]) == (None, None, [ledger.vkey])
        assert shard["signed_at"].endswith("Z")

    def test_closed_shards_say_where_they_go_on(self, run, data) -> None:
        """After the turn of a year both shards are shown, and how they hang together."""
        clock = SetClock()
        clock.is_synchronised = True
        opened = open_ledger(data, clock)
        clock.pass_seconds(300 * 86_400)
        opened.commit([submission(records.record())])
        opened.close()
        _, out, _ = run(app, "show")
        assert "closed, goes on as 2027" in out
        assert "/2026 (year)" in out

    def test_without_a_ledger_it_could_not(self, run) -> None:
        """The message names the option."""
        status, out, err = run(app, "show")
        assert (status, out) == (2, "")
        assert "--data" in err

    def test_a_shard_before_its_first_checkpoint(self, run, data, ledger) -> None:
        """What is not there yet is shown as such."""
        (DataDirectory(data).ledger / f"{int(YEAR) + 1}").mkdir()
        status, out, _ = run(app, "show")
        assert status == 0
        assert "never" in out


class TestExplain:
    """What is left, what was signed, what is missing."""

    def test_a_sound_ledger(self, run, ledger) -> None:
        """Nothing to explain is exit 0."""
        status, out, _ = run(app, "explain")
        assert (status, "can be continued" in out) == (0, True)

    def test_a_damaged_one_names_facts_and_choices(self, run, damaged) -> None:
        """Refusal, numbers and each choice are on standard output; exit 1."""
        status, out, _ = run(app, "explain")
        assert status == 1
        for words in ("cannot be continued", "were signed", "1 signed records", "Restore", "ledger continue", "verify"):
            assert words in out

    def test_json(self, run, damaged) -> None:
        """The facts for programs."""
        status, out, _ = run(app, "explain", "--json")
        facts = json.loads(out)
        assert status == 1
        assert facts["can_be_continued"] is False
        assert facts["refusal"]["code"] == "ledger_rolled_back"
        assert (facts["lost"], facts["readable"]) == (1, facts["leaves"])
        assert facts["signed"]["size"] == facts["leaves"] + 1

    def test_no_checkpoint_left(self, run, data, damaged) -> None:
        """Without a signature it cannot be told how much is missing."""
        for path in DataDirectory(data).ledger.rglob("*"):
            if path.name in ("last-signed", "checkpoint") or path.parent.name == "checkpoints":
                path.write_bytes(b"")
        _, out, _ = run(app, "explain")
        assert "cannot be told" in out

    def test_as_many_leaves_as_were_signed_are_not_called_missing(self, run, data, ledger) -> None:
        """When the number is right and something else is wrong, the refusal is what counts."""
        ShardDirectory(DataDirectory(data).ledger / YEAR).last_signed.write_bytes(b"no checkpoint")
        status, out, _ = run(app, "explain")
        assert status == 1
        assert "does not verify" in out
        assert "none by number" in out

    def test_a_running_collector_is_left_alone(self, run, data, ledger) -> None:
        """What is being written needs no explanation; exit 2 names the process."""
        with LedgerLock(DataDirectory(data).ledger):
            status, _, err = run(app, "explain")
        assert (status, "is being written" in err) == (2, True)


class TestContinue:
    """Only with explicit consent."""

    def test_consent_opens_the_next_shard(self, run, data, damaged) -> None:
        """The key of the new shard is the answer; its first records say what happened."""
        status, out, err = run(app, "continue", "--after-disaster", "--reason", "disk lost", "--yes")
        opened, start = read_shard(data, f"{YEAR}-2")[:2]
        assert status == 0
        assert out.startswith(f"{damaged.identity.origin(YEAR)}-2+")
        assert f"goes on in {YEAR}-2" in err
        assert (opened.leaf.kind, opened.control["reason"]) == (Kind.SHARD, "disaster")
        assert start.control["recovered"]["reason"] == "disk lost"
        _, shown, _ = run(app, "show")
        assert f"left behind, goes on as {YEAR}-2" in shown

    def test_without_the_word_nothing_happens(self, run, data, damaged) -> None:
        """--after-disaster must be said."""
        status, out, err = run(app, "continue", "--reason", "disk lost", "--yes")
        assert (status, out, "ledger explain" in err) == (2, "", True)
        assert not (DataDirectory(data).ledger / f"{YEAR}-2").exists()

    def test_nobody_to_ask_is_no_consent(self, run, data, damaged) -> None:
        """Without --yes and without a terminal nothing is left behind; the facts are shown all the same."""
        status, out, err = run(app, "continue", "--after-disaster", "--reason", "disk lost")
        assert (status, out) == (2, "")
        assert "1 signed records" in err
        assert not (DataDirectory(data).ledger / f"{YEAR}-2").exists()

    def test_a_sound_ledger_is_refused(self, run, ledger) -> None:
        """There is nothing to leave behind: exit 1."""
        status, _, err = run(app, "continue", "--after-disaster", "--reason", "because", "--yes")
        assert (status, "can be continued" in err) == (1, True)

    def test_an_empty_reason_is_refused(self, run, damaged) -> None:
        """The ledger keeps it for ever, so it must say something."""
        status, _, err = run(app, "continue", "--after-disaster", "--reason", " ", "--yes")
        assert (status, "characters" in err) == (1, True)
