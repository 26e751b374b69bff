"""A store follows EXPIRY records where they stand, and can be built again when bodies are gone."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from klyra_audit.format import control
from klyra_audit.format.leaf import Kind
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.store.follower import Follower
from klyra_collector.store.rows import RecordUnusable
from klyra_collector.store.schema import StoreBusy
from klyra_collector.store.searching import Filters, Search
from klyra_collector.store.sqlite import SqliteStore
from support.entries import ACME, ORIGIN, RETENTION_DAYS, TODAY, MemoryLedger, document, organization_reference
from support.expiring import ExpiringLedger
from support.records import STARTUP

GONE = TODAY + RETENTION_DAYS + 1


def expiry(count: int, cutoff_day: int = GONE, held: control.Ranges = (), log: str | None = None) -> dict:
    """Return an EXPIRY document of Acme."""
    digest = control.seq_digest(range(count))
    return control.Expiry(organization_reference(ACME), cutoff_day, count, digest, held, log).document()


def rows(folder: Path) -> int:
    """Return how many entries the store's file holds, shown or not."""
    with closing(sqlite3.connect(folder / "store.sqlite")) as connection:
        return int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])


class TestFollowing:
    """The cursor reaches an EXPIRY."""

    def test_what_it_names_is_deleted_there(self, store, ledger, tmp_path) -> None:
        """Entries stay until the cursor reaches the record; the same step that moves behind it finds them gone."""
        for number in range(3):
            ledger.seal(document(number))
        ledger.seal(document(9), retention_days=90)
        ledger.control(Kind.EXPIRY, expiry(3))
        ledger.seal(document(10), ingest_us=GONE * 86_400_000_000)
        follower = Follower(ledger, store)
        assert follower.step() == 4
        assert rows(tmp_path) == 4
        assert follower.step() == 4
        assert (rows(tmp_path), store.cursor(ORIGIN)) == (1, 5)
        assert follower.step() == 1
        assert rows(tmp_path) == 2

    def test_it_takes_small_steps_and_the_cursor_moves_last(self, store, ledger, tmp_path, monkeypatch) -> None:
        """Each step deletes some; a follower that dies in between goes on with the rest."""
        monkeypatch.setattr("klyra_collector.store.follower._EXPIRE", 2)
        for number in range(5):
            ledger.seal(document(number))
        ledger.control(Kind.EXPIRY, expiry(5))
        Follower(ledger, store).step()
        assert Follower(ledger, store).step() > 0
        assert (rows(tmp_path), store.cursor(ORIGIN)) == (3, 5)
        follower = Follower(ledger, store)
        while follower.step():
            pass
        assert (rows(tmp_path), store.cursor(ORIGIN)) == (0, 6)

    def test_held_and_extended_entries_stay(self, store, ledger, tmp_path) -> None:
        """What the record calls held stays, and what an EXTEND before it keeps is not due."""
        for number in range(4):
            ledger.seal(document(number))
        extend = control.Extend(organization_reference(ACME), 1, 1, 90)
        ledger.control(Kind.EXTEND, extend.document())
        ledger.control(Kind.EXPIRY, expiry(2, held=((0, 0),)))
        follower = Follower(ledger, store)
        while follower.step():
            pass
        search = Search(organization_id=ACME, filters=Filters(), today=0, order="asc")
        assert [orjson.loads(found.entry)["id"] for found in store.search(search, 10)] == [
            document(number)["id"] for number in range(2)
        ]

    def test_another_shard_is_named_by_log(self, tmp_path) -> None:
        """An EXPIRY sealed in the next shard deletes entries of the one it names, and none of its own."""
        ledger = MemoryLedger("l/c/2025", "l/c/2026")
        ledger.seal(document(0), origin="l/c/2025")
        ledger.seal(document(1), origin="l/c/2026")
        ledger.control(Kind.EXPIRY, expiry(1, log="l/c/2025"), origin="l/c/2026")
        with closing(SqliteStore.open(tmp_path / "store.sqlite")) as store:
            follower = Follower(ledger, store)
            while follower.step():
                pass
            search = Search(organization_id=ACME, filters=Filters(), today=0)
            (found,) = store.search(search, 10)
            assert found.key.origin == "l/c/2026"

    def test_a_busy_store_leaves_everything_as_it_was(self, store, ledger, tmp_path, monkeypatch) -> None:
        """If a batch cannot be deleted, the cursor stands before the record and the next step tries again."""
        ledger.seal(document(0))
        ledger.control(Kind.EXPIRY, expiry(1))
        follower = Follower(ledger, store)
        follower.step()
        with monkeypatch.context() as patched:
            patched.setattr(store, "expire", _busy)
            with pytest.raises(StoreBusy):
                follower.step()
        assert (rows(tmp_path), store.cursor(ORIGIN)) == (1, 1)
        follower.step()
        assert (rows(tmp_path), store.cursor(ORIGIN)) == (0, 2)


def _busy(*_: object) -> int:
    raise StoreBusy("The disk is full.")


class TestBuildingAgain:
    """`store.sqlite` was deleted."""

    def test_a_body_that_a_later_expiry_names_is_passed_over(self, store, ledger, tmp_path) -> None:
        """Bodies that are gone are no fault where an EXPIRY, however much later, names them."""
        first = ledger.seal(document(0))
        ledger.seal(document(1), retention_days=90)
        ledger.control(Kind.EXPIRY, expiry(1))
        ledger.change(first, body=None)
        follower = Follower(ledger, store)
        while follower.step():
            pass
        assert (rows(tmp_path), store.cursor(ORIGIN)) == (1, 3)

    @pytest.mark.parametrize(
        "document_of",
        [
            lambda: expiry(1, cutoff_day=GONE - 1),
            lambda: expiry(1, held=((0, 0),)),
            lambda: expiry(1, log="another/log/2025"),
            lambda: control.Extend(organization_reference(ACME), 0, 0, 90).document(),
        ],
        ids=["too early", "held", "another shard", "extended"],
    )
    def test_a_body_that_is_missing_otherwise_stops_the_follower(self, store, ledger, document_of) -> None:
        """A body that no EXPIRY names is lost, whatever the day is."""
        record = ledger.seal(document(0))
        content = document_of()
        ledger.control(Kind[content["type"].upper()], content)
        ledger.change(record, body=None)
        with pytest.raises(RecordUnusable, match="no EXPIRY record names it") as refused:
            Follower(ledger, store).step()
        assert refused.value.code == "record_unusable"
        assert store.cursor(ORIGIN) == 0

    def test_over_files_it_has_what_is_left(self, tmp_path) -> None:
        """Over a real ledger with expired, held and extended bodies it ends as a store that followed all along."""
        with ExpiringLedger(tmp_path) as ledger, closing(SqliteStore.open(tmp_path / "first.sqlite")) as first:
            with closing(LedgerReader(ledger.data.ledger)) as reader:
                follower = Follower(reader, first)
                _live_through(ledger, lambda: _follow(follower))
            with (
                closing(LedgerReader(ledger.data.ledger)) as reader,
                closing(SqliteStore.open(tmp_path / "second.sqlite")) as second,
            ):
                _follow(Follower(reader, second))
                search = Search(organization_id=STARTUP.organization_id, filters=Filters(), today=0)
                assert [found.key.index for found in second.search(search, 100)]
                assert second.search(search, 100) == first.search(search, 100)
                assert second.snapshot() == first.snapshot()


def _follow(follower: Follower) -> None:
    while follower.step():
        pass


def _live_through(ledger: ExpiringLedger, follow) -> None:
    """Have events expire, held, extended, released and kept in turn, following each day."""
    ledger.event()
    ledger.hold("hold_1", to_us=ledger.clock.wall)
    ledger.clock.pass_seconds(60)
    for _ in range(3):
        ledger.event()
    ledger.bad()
    ledger.extend(3, 3, 90)
    follow()
    for _ in range(5):
        ledger.pass_days(10)
        ledger.event()
        ledger.run()
        follow()
    ledger.hold("hold_2", from_us=ledger.clock.wall)
    ledger.release("hold_1")
    ledger.event()
    ledger.run()
    follow()
    ledger.pass_days(31)
    ledger.run()
    follow()
