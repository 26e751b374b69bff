"""The store and its ledger together: how far the store has got, and what it has that the ledger has not."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pytest
from typer.testing import CliRunner

from klyra_audit.format import policy
from klyra_audit.format.leaf import Kind, Leaf
from klyra_collector.cli import verify as command
from klyra_collector.verify import CannotVerify, Options, Verdict
from klyra_collector.verify.copies_store import verify_store
from support.baseline import baseline
from support.copies import change_entry, change_store, follow
from support.forge import SECOND_US
from support.records import BUSINESS, record, submission
from support.records import bad as bad_input
from support.sealing import SetClock, open_ledger

V = Verdict
GOOD = {V.OK, V.EXPIRED_OK, V.REDACTED_OK}


@pytest.fixture(scope="module")
def forge():
    """The baseline in memory; not to be changed."""
    return baseline()


@pytest.fixture(scope="module")
def pristine(forge, tmp_path_factory):
    """The baseline on disk with its store; not to be changed."""
    data = forge.write(tmp_path_factory.mktemp("pristine") / "data")
    follow(data, forge.newest.now_us)
    return data


@pytest.fixture
def data(pristine, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(pristine, tmp_path / "data")


@pytest.fixture
def verify(forge):
    """Verify the store of a data directory, pinned, at the baseline's own time."""

    def run(data, **options):
        own = {"policy": forge.policy(), "patience": 0.0, "now_us": forge.newest.now_us + SECOND_US}
        return verify_store(data / "store.sqlite", data, Options(**(own | options)))

    return run


def bad(report) -> dict[Verdict, int]:
    """Return what is wrong in all shards."""
    return {v: n for shard in report.shards for v, n in shard.counts.items() if n and v not in GOOD}


def rewind(data, log: str, cursor: int) -> None:
    """Make the store what it was when it had applied so many records, as far as entries go."""
    store = data / "store.sqlite"
    with closing(sqlite3.connect(store)) as connection, connection:
        ((number,),) = connection.execute("SELECT number FROM origins WHERE origin = ?", (log,)).fetchall()
        low, high = int(number) << 40 | cursor, (int(number) + 1) << 40
        connection.execute("DELETE FROM entries WHERE position >= ? AND position < ?", (low, high))
        connection.execute("UPDATE origins SET next_index = ? WHERE origin = ?", (cursor, log))


def index_of(forge, kind: Kind) -> int:
    """Return the first record of a kind in the newest shard."""
    return next(i for i, leaf in enumerate(forge.newest.leaves) if Leaf.unpack(leaf).kind == kind)


def test_ledger_and_store_are_reported_together(data, forge, verify) -> None:
    """The ledger's shards first, then the store's, each with its own counts; nothing is wrong."""
    report = verify(data)
    assert (report.exit_status, report.pinned, report.is_witnessed) == (0, True, True)
    names = [shard.directory for shard in report.shards]
    assert names == ["ledger/2025", "ledger/2026", "store.sqlite 2025", "store.sqlite 2026"]
    copied = report.shards[3]
    assert (copied.origin, copied.size, copied.is_copy) == (forge.newest.origin, forge.newest.size, True)
    assert copied.key == report.shards[1].key
    assert 0 < copied.counts[V.OK] < report.shards[1].counts[V.OK]  # control records have no entry
    assert copied.counts[V.REDACTED_OK] == report.shards[1].counts[V.REDACTED_OK]


def test_progress_ends_at_the_end(data, forge, verify) -> None:
    """The reader sees how far it is, shard by shard."""
    seen = {}
    verify(data, progress=lambda shard, step, done, total: seen.update({(shard, step): (done, total)}))
    assert seen["store.sqlite 2026", "entries"] == (forge.newest.size, forge.newest.size)


def test_a_store_that_is_behind_is_verified_as_far_as_it_got(data, forge, verify) -> None:
    """The lag is told, and is nothing wrong."""
    rewind(data, forge.newest.origin, forge.newest.size - 4)
    report = verify(data)
    assert not bad(report)
    (note,) = report.shards[3].notes
    assert note.startswith("it has not applied the last 4 records yet, the first of them sealed at 20")


def test_a_store_that_is_ahead_of_the_ledger(data, forge, verify) -> None:
    """The ledger was shortened, or replaced by an older one."""
    change_store(data / "store.sqlite", "UPDATE origins SET next_index = 5000 WHERE origin = ?", forge.newest.origin)
    assert bad(verify(data)) == {V.ROLLBACK: 1}


def test_a_store_that_left_a_shard_unfinished(data, forge, verify) -> None:
    """The follower never goes on to a shard before it has applied the one before."""
    rewind(data, forge.shards[0].origin, forge.shards[0].size - 5)
    assert bad(verify(data)) == {V.TRUNCATED: 1}


def test_entries_of_a_shard_that_is_not_in_the_ledger(data, forge, verify) -> None:
    """Nothing vouches for them."""
    statement = "UPDATE origins SET origin = 'other/collector-1/2025' WHERE origin = ?"
    change_store(data / "store.sqlite", statement, forge.shards[0].origin)
    report = verify(data)
    assert report.shards[-1].directory == "store.sqlite"
    assert report.shards[-1].counts[V.EXTRA] > 10
    assert report.shards[2].counts[V.TRUNCATED] == 1


def test_a_store_behind_an_erasure_cannot_be_compared(data, forge, verify) -> None:
    """What the ledger has erased and the store not yet is neither right nor wrong."""
    with closing(sqlite3.connect(data / "store.sqlite")) as connection:
        query = (
            "SELECT position FROM entries WHERE actor_id IS NULL AND position < (SELECT max(number) FROM origins) << 40"
        )
        (at,) = connection.execute(query).fetchone()
    change_entry(data / "store.sqlite", at, lambda entry: entry["actor"].update(id="usr_0", name="Grace"))
    change_store(data / "store.sqlite", "UPDATE entries SET actor_id = 'usr_0' WHERE position = ?", at)
    assert bad(verify(data)) == {V.NOT_ERASED: 1}
    rewind(data, forge.newest.origin, index_of(forge, Kind.ERASURE))
    assert V.UNVERIFIABLE in bad(verify(data))
    assert V.NOT_ERASED not in bad(verify(data))


def test_a_damaged_ledger_is_blamed_itself(data, forge, verify) -> None:
    """A store beside a damaged body cannot be compared with it, and is not called altered."""
    days = sorted((data / "ledger" / "2026" / "bodies").glob("2*/frames"))
    content = bytearray(days[-1].read_bytes())
    content[len(content) // 2] ^= 1
    days[-1].write_bytes(content)
    report = verify(data)
    assert report.shards[1].counts[V.ALTERED] == 1
    assert {v for v in report.shards[3].counts if v not in GOOD} == {V.UNVERIFIABLE}


def test_an_empty_store_is_never_ok(data, forge, verify, tmp_path) -> None:
    """A store that has applied nothing leaves nothing to say."""
    for shard in forge.shards:
        rewind(data, shard.origin, 0)
    report = verify(data)
    assert (report.exit_status, report.shards[3].verdict) == (2, V.UNVERIFIABLE)


def test_without_a_store(data, verify) -> None:
    """Nothing is made, and the reader is told what to name."""
    (data / "store.sqlite").unlink()
    with pytest.raises(CannotVerify) as caught:
        verify(data)
    assert caught.value.code == "no_store"
    assert not (data / "store.sqlite").exists()


def test_without_a_ledger(data, verify) -> None:
    """A store alone proves nothing."""
    shutil.rmtree(data / "ledger")
    with pytest.raises(CannotVerify) as caught:
        verify(data)
    assert caught.value.code == "no_ledger"


def test_a_real_ledger_and_its_store(tmp_path) -> None:
    """What the collector sealed and its follower stored, without anything forged."""
    clock = SetClock()
    ledger = open_ledger(tmp_path, clock)
    user = {"type": "user", "id": "usr_1", "name": None}
    for number in range(20):
        address = {"client_ip": f"2001:db8::{number}", "note": "caf\u00e9"}
        ledger.commit([submission(record(), record(BUSINESS, resource=user, metadata=address), bad_input())])
        clock.pass_seconds(1)
    ledger.close()
    store = follow(tmp_path, clock.wall_us())
    report = verify_store(store, tmp_path, Options(patience=0.0, now_us=clock.wall_us()))
    assert report.exit_status == 0
    assert report.shards[-1].counts == {V.OK: 40}


class TestCommand:
    """`klyra-audit verify DATA --store FILE`."""

    @pytest.fixture
    def run(self, data, forge, tmp_path):
        """Run the command with the baseline's policy."""
        (tmp_path / "policy").write_text(policy.render(forge.policy()))

        def run(target, *arguments):
            given = [str(target), "--policy", str(tmp_path / "policy"), "--now", "2026-04-01T00:00:00Z"]
            given += map(str, arguments)
            return CliRunner().invoke(command.app, given)

        return run

    def test_an_intact_store(self, data, forge, run) -> None:
        """The copy is told apart from the ledger, and the outcome is of both."""
        result = run(data, "--store", data / "store.sqlite")
        assert result.exit_code == 0, result.output
        assert f"copy      store.sqlite 2026  {forge.newest.origin}" in result.stdout
        assert f"applied   {forge.newest.size} records" in result.stdout
        assert result.stdout.splitlines()[-1] == "INTACT"

    def test_a_changed_store(self, data, run) -> None:
        """Exit 1, with the entry and whose it is."""
        largest = "(SELECT max(position) FROM entries)"
        change_store(data / "store.sqlite", f"UPDATE entries SET resource_id = 'mod_2' WHERE position = {largest}")  # noqa: S608 - ours
        result = run(data, "--store", data / "store.sqlite")
        assert result.exit_code == 1
        assert "of org_enterprise" in result.stdout
        assert "it shows another resource_id than was sealed" in result.stdout

    def test_a_store_needs_its_ledger(self, data, run) -> None:
        """A URL or a packet does not say what a store must hold."""
        result = run("https://audit.example/log", "--store", data / "store.sqlite")
        assert result.exit_code == 2
        assert "Only a ledger on disk" in result.stderr
