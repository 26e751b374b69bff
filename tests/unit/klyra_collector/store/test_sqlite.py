"""The embedded store: what is found, in which order, for how long, and what a failure leaves behind."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from klyra_audit import timestamps
from klyra_audit.errors import Halted, RetryLater
from klyra_collector.store import schema, statements
from klyra_collector.store.addresses import range_of
from klyra_collector.store.changes import Batch, Expiration, Extension, Ranges
from klyra_collector.store.follower import Follower
from klyra_collector.store.schema import StoreBusy, StoreDamaged
from klyra_collector.store.searching import Filters, Search, SortKey
from klyra_collector.store.sqlite import SqliteStore
from klyra_collector.store.statements import Conditions
from support.entries import (
    ACME,
    ORIGIN,
    RETENTION_DAYS,
    TODAY,
    TODAY_US,
    MemoryLedger,
    document,
    entry_of,
    organization_reference,
)

if TYPE_CHECKING:
    from pathlib import Path

Follow = "Callable[[], None]"
DAY_US = 86_400 * 1_000_000


def search(**members: Any) -> Search:
    """Return a search of Acme's entries today."""
    given: dict[str, Any] = {"organization_id": ACME, "filters": Filters(), "today": TODAY}
    return Search(**given | members)


def ids_found(store: SqliteStore, limit: int = 1000, **members: Any) -> list[str]:
    """Return the ids a search finds, in its order."""
    return [orjson.loads(found.entry)["id"] for found in store.search(search(**members), limit)]


def expiration(cutoff_day: int, held: Ranges = ()) -> Expiration:
    """Return an EXPIRY of Acme's entries."""
    return Expiration(ORIGIN, organization_reference(ACME), cutoff_day, held)


def pages(folder: Path) -> int:
    """Return the pages of the store's file, as a reader of the journal sees it."""
    with closing(sqlite3.connect(folder / "store.sqlite")) as connection:
        return int(connection.execute("PRAGMA page_count").fetchone()[0])


class TestSearch:
    """What a search returns."""

    def test_the_entry_is_the_document_without_organization_and_schema(
        self, store: SqliteStore, ledger: MemoryLedger, follow: Follow
    ) -> None:
        """An entry has the product page's eight members in its order, and says where it was sealed."""
        event = document(1)
        record = ledger.seal(event)
        follow()
        (found,) = store.search(search(), 10)
        assert orjson.loads(found.entry) == entry_of(event)
        assert list(orjson.loads(found.entry)) == list(entry_of(event))
        assert list(orjson.loads(found.entry)["actor"]) == ["type", "id", "name"]
        assert found.leaf == record.leaf_bytes
        assert found.key == SortKey(timestamps.to_nanoseconds(event["timestamp"]), ORIGIN, 0)

    def test_newest_first_unless_asked_otherwise(
        self, store: SqliteStore, ledger: MemoryLedger, follow: Follow
    ) -> None:
        """The order is that of timestamps, not of arrival."""
        events = [document(number) for number in (3, 1, 2)]
        for event in events:
            ledger.seal(event)
        follow()
        ascending = [document(number)["id"] for number in (1, 2, 3)]
        assert ids_found(store, order="asc") == ascending
        assert ids_found(store) == ascending[::-1]
        assert ids_found(store, limit=2) == ascending[:0:-1]

    def test_equal_timestamps_are_ordered_by_origin_then_index(self, store: SqliteStore) -> None:
        """Origins order as texts, whichever was met first, also one that lies between two others."""
        origins = ["log/b/2026", "log/a/2026", "log/a/2026-2", "log/c/2026"]
        ledger = MemoryLedger(*origins)
        follower = Follower(ledger, store)
        for number, origin in enumerate(origins * 2):
            ledger.seal(document(number, timestamp="2026-03-10T11:00:00Z"), origin=origin)
            while follower.step():
                pass
        keys = [found.key for found in store.search(search(order="asc"), 10)]
        assert keys == sorted(keys)
        assert [(key.origin, key.index) for key in keys] == [
            (origin, index) for origin in sorted(origins) for index in (0, 1)
        ]

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            (Filters(event_types=("user.added",)), [1]),
            (Filters(event_types=("moderation.created", "user.added")), [0, 1, 2, 3]),
            (Filters(event_types=("never.heard_of",)), []),
            (Filters(event_types=("never.heard_of", "user.added")), [1]),
            (Filters(actor_ids=("usr_1",)), [2]),
            (Filters(actor_types=("user",)), [2]),
            (Filters(resource_ids=("mod_3", "mod_0")), [0, 3]),
            (Filters(resource_types=("user",)), [1]),
            (Filters(actions=("delete",)), [3]),
            (Filters(status=("failure",)), [3]),
            (Filters(status=("success",), actor_types=("api_key",)), [0, 1]),
            (Filters(client_ip=range_of("203.0.113.7")), [1]),
            (Filters(client_ip=range_of("198.51.100.0/24")), [0, 3]),
            (Filters(client_ip=range_of("2001:db8::/32")), [2]),
            (Filters(client_ip=range_of("198.51.100.0/24"), status=("failure",)), [3]),
        ],
    )
    def test_filters(
        self, store: SqliteStore, ledger: MemoryLedger, follow: Follow, filters: Filters, expected: list[int]
    ) -> None:
        """Values of one filter are OR, filters are AND, an unknown word matches nothing."""
        user = {"type": "user", "id": "usr_1", "name": "Ada"}
        ledger.seal(document(0))
        ledger.seal(
            document(
                1,
                event_type="user.added",
                resource={"type": "user", "id": "usr_9", "name": None},
                metadata={"client_ip": "203.0.113.7"},
            )
        )
        ledger.seal(document(2, actor=user, metadata={"client_ip": "2001:db8::5"}))
        ledger.seal(document(3, action="delete", status="failure"))
        follow()
        assert ids_found(store, filters=filters, order="asc") == [document(n)["id"] for n in expected]

    def test_times_are_compared_by_nanosecond(self, store: SqliteStore, ledger: MemoryLedger, follow: Follow) -> None:
        """The start is included and the end excluded, to the nanosecond."""
        moments = [f"2026-03-10T11:00:00.{nanoseconds:09d}Z" for nanoseconds in (0, 1, 2, 3)]
        for number, moment in enumerate(moments):
            ledger.seal(document(number, timestamp=moment))
        follow()
        start = timestamps.to_nanoseconds(moments[1])
        filters = Filters(start_ns=start, end_ns=start + 2)
        assert ids_found(store, filters=filters, order="asc") == [document(1)["id"], document(2)["id"]]

    def test_timestamps_of_other_centuries(self, store: SqliteStore, ledger: MemoryLedger, follow: Follow) -> None:
        """An old timestamp is accepted, so it is stored, ordered and found like any other."""
        ledger.seal(document(0, timestamp="0001-01-01T00:00:00Z"))
        ledger.seal(document(1, timestamp="1900-01-01T00:00:00Z"))
        follow()
        assert ids_found(store, order="asc") == [document(0)["id"], document(1)["id"]]
        before = timestamps.to_nanoseconds("1800-01-01T00:00:00Z")
        assert ids_found(store, filters=Filters(end_ns=before)) == [document(0)["id"]]
        assert ids_found(store, filters=Filters(start_ns=before)) == [document(1)["id"]]

    def test_another_organization_sees_nothing(self, store: SqliteStore, ledger: MemoryLedger, follow: Follow) -> None:
        """No search, export or look at one entry crosses organizations."""
        ledger.seal(document(0))
        ledger.seal(document(1, organization_id="org_other"))
        follow()
        assert ids_found(store, organization_id="org_other") == [document(1)["id"]]
        assert ids_found(store, organization_id="org_none") == []
        assert store.get("org_other", document(0)["id"], TODAY) is None
        assert store.get(ACME, document(0)["id"], TODAY) is not None
        with store.export(search(organization_id="org_other")) as found:
            assert [entry.key.index for entry in found] == [1]

    def test_pages_neither_shift_nor_repeat_while_entries_arrive(
        self, store: SqliteStore, ledger: MemoryLedger, follow: Follow
    ) -> None:
        """Behind a snapshot, late arrivals with older and newer timestamps change no page."""
        for number in range(10, 40):
            ledger.seal(document(number))
        follow()
        before = ids_found(store)
        snapshot = store.snapshot()
        paged: list[str] = []
        after = None
        for arrival in range(100, 110):
            page = store.search(search(after=after, snapshot=snapshot), 3)
            paged += [orjson.loads(found.entry)["id"] for found in page]
            after = page[-1].key
            ledger.seal(document(arrival, timestamp=f"2026-03-10T11:00:{arrival - 90:02d}.500Z"))
            ledger.seal(document(arrival + 100, timestamp="2026-03-10T11:59:59Z"))
            follow()
        assert paged == before

    def test_pages_inside_one_timestamp(self, store: SqliteStore, ledger: MemoryLedger, follow: Follow) -> None:
        """Many entries of the same nanosecond are paged like any others, in both orders."""
        for number in range(20):
            ledger.seal(document(number, timestamp="2026-03-10T11:00:00Z"))
        follow()
        for order in ("asc", "desc"):
            whole = store.search(search(order=order), 100)
            paged: list[Any] = []
            while page := store.search(search(order=order, after=paged[-1].key if paged else None), 7):
                paged += page
            assert paged == whole

    def test_a_key_of_an_unknown_origin_stands_where_it_would(
        self, store: SqliteStore, ledger: MemoryLedger, follow: Follow
    ) -> None:
        """A cursor of a ledger this store has not met continues at the right place."""
        for number in range(2):
            ledger.seal(document(number, timestamp="2026-03-10T11:00:00Z"))
        follow()
        moment = timestamps.to_nanoseconds("2026-03-10T11:00:00Z")
        above, below = SortKey(moment, "zzz/1/2026", 5), SortKey(moment, "aaa/1/2026", 5)
        assert len(ids_found(store, after=above)) == 2
        assert ids_found(store, after=below) == []
        assert len(ids_found(store, after=below, order="asc")) == 2

    @pytest.mark.parametrize("driver", [None, *statements.DRIVERS])
    @pytest.mark.parametrize("order", ["asc", "desc"])
    def test_an_index_yields_the_order(
        self, store: SqliteStore, ledger: MemoryLedger, follow: Follow, driver: str | None, order: Any
    ) -> None:
        """No filter makes SQLite sort: each walks its own index, bounded by organization, value and sort key."""
        ledger.seal(document(0))
        follow()
        conditions = Conditions(
            organization=1,
            today=TODAY,
            order=order,
            columns={} if driver in (None, "client_ip") else {driver: ["x"]},
            client_ip=range_of("198.51.100.7") if driver == "client_ip" else None,
            low=1,
            high=9,
            after=(5, 7),
            below=[(0, 9)],
        )
        connection = store._writing()._connection
        steps = [
            row[3]
            for statement in statements.selects(conditions, driver, 10)
            for row in connection.execute(f"EXPLAIN QUERY PLAN {statement.sql}", statement.parameters)
        ]
        walked = f"SEARCH entries USING INDEX entries_by_{driver or 'timestamp'} (organization=?"
        walked += "" if driver is None else f" AND {driver}=?"
        sign = "<" if order == "desc" else ">"
        assert steps == [
            f"{walked} AND timestamp=? AND rowid{sign}?)",
            f"{walked} AND timestamp>? AND timestamp<?)",
        ]


class TestRetention:
    """How long an entry is there."""

    def test_an_expired_entry_is_gone_from_every_read_at_once(
        self, store: SqliteStore, ledger: MemoryLedger, follow: Follow
    ) -> None:
        """On its expiry day an entry is in no list, export, page or window, though its row is still there."""
        ledger.seal(document(0))
        follow()
        last, gone = TODAY + RETENTION_DAYS, TODAY + RETENTION_DAYS + 1
        assert ids_found(store, today=last)
        assert store.get(ACME, document(0)["id"], last)
        assert store.earliest_sealing_day(ACME, last) == TODAY
        assert ids_found(store, today=gone) == []
        assert store.get(ACME, document(0)["id"], gone) is None
        assert store.earliest_sealing_day(ACME, gone) is None
        with store.export(search(today=gone)) as found:
            assert list(found) == []

    def test_expired_entries_are_deleted_in_small_batches(
        self, store: SqliteStore, ledger: MemoryLedger, follow: Follow
    ) -> None:
        """At most as many go as asked, all of the organization named, and nothing that is still in force."""
        for number in range(5):
            ledger.seal(document(number))
            ledger.seal(document(number, organization_id="org_other"))
            ledger.seal(document(number, organization_id=ACME, id=f"log_long{number:022d}"), retention_days=365)
        follow()
        gone = TODAY + RETENTION_DAYS + 1
        assert store.expire(expiration(gone - 1), 100) == 0
        assert [store.expire(expiration(gone), 2) for _ in range(4)] == [2, 2, 1, 0]
        assert len(ids_found(store, organization_id=ACME, today=gone - 1)) == 5
        assert len(ids_found(store, organization_id="org_other")) == 5

    def test_held_entries_stay(self, store: SqliteStore, ledger: MemoryLedger, follow: Follow) -> None:
        """What an EXPIRY calls held is kept, unseen, however the deletion is cut into batches."""
        for number in range(7):
            ledger.seal(document(number))
        follow()
        gone = TODAY + RETENTION_DAYS + 1
        named = expiration(gone, held=((0, 1), (3, 3), (6, 900)))
        assert [store.expire(named, 1) for _ in range(4)] == [1, 1, 1, 0]
        assert ids_found(store, today=gone) == []
        assert [found.key.index for found in store.search(search(today=gone - 1, order="asc"), 10)] == [0, 1, 3, 6]
        assert store.expire(expiration(gone), 100) == 4

    def test_nothing_of_strangers_goes(self, store: SqliteStore, ledger: MemoryLedger, follow: Follow) -> None:
        """An EXPIRY of an unknown organization, or about another shard, deletes nothing."""
        ledger.seal(document(0))
        follow()
        gone = TODAY + RETENTION_DAYS + 1
        assert store.expire(replace(expiration(gone), org_ref=bytes(16)), 100) == 0
        assert store.expire(replace(expiration(gone), origin="another/log/2026"), 100) == 0
        assert len(ids_found(store)) == 1

    def test_the_file_shrinks(self, store: SqliteStore, ledger: MemoryLedger, follow: Follow, tmp_path: Path) -> None:
        """After a deletion the space goes back to the system, step by step."""
        for number in range(3000):
            ledger.seal(document(number))
        follow()
        assert store.shrink() is False
        before = pages(tmp_path)
        while store.expire(expiration(TODAY + RETENTION_DAYS + 1), 1000):
            pass
        steps = 1
        while store.shrink():
            steps += 1
        assert steps > 1
        assert pages(tmp_path) < before // 5

    def test_a_file_of_an_earlier_version_shrinks_too(
        self, ledger: MemoryLedger, follow: Follow, store: SqliteStore, tmp_path: Path
    ) -> None:
        """A file made without the ability to shrink is written anew once it has free pages, and loses nothing."""
        for number in range(1500):
            ledger.seal(document(number, id=f"log_{number:022d}"), retention_days=30 if number else 365)
        follow()
        store.close()
        plain = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)
        plain.execute("PRAGMA auto_vacuum = NONE")
        plain.execute("VACUUM")
        assert plain.execute("PRAGMA auto_vacuum").fetchone() == (0,)
        plain.close()
        again = SqliteStore.open(tmp_path / "store.sqlite")
        before = pages(tmp_path)
        gone = TODAY + RETENTION_DAYS + 1
        while again.expire(expiration(gone), 1000):
            pass
        assert again.shrink() is False
        assert pages(tmp_path) < before // 5
        assert len(ids_found(again, today=gone)) == 1
        again.close()

    def test_what_is_deleted_is_overwritten(
        self, store: SqliteStore, ledger: MemoryLedger, follow: Follow, tmp_path: Path
    ) -> None:
        """After its deletion the file holds no trace of an entry."""
        secret = "nobody.may.read.this"
        ledger.seal(document(0, metadata={"note": secret}))
        follow()
        store.expire(expiration(TODAY + RETENTION_DAYS + 1), 100)
        store.close()
        connection = sqlite3.connect(tmp_path / "store.sqlite")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        assert secret.encode() not in (tmp_path / "store.sqlite").read_bytes()

    def test_the_window_begins_at_the_earliest_sealing_day_kept(
        self, store: SqliteStore, ledger: MemoryLedger, follow: Follow
    ) -> None:
        """It is the day of sealing that counts, of entries of any retention."""
        ledger.seal(document(0), ingest_us=TODAY_US - 20 * DAY_US)
        ledger.seal(document(1), ingest_us=TODAY_US - 10 * DAY_US, retention_days=365)
        follow()
        assert store.earliest_sealing_day(ACME, TODAY) == TODAY - 20
        assert store.earliest_sealing_day(ACME, TODAY + 100) == TODAY - 10

    def test_an_extension_keeps_entries_longer(self, store: SqliteStore, ledger: MemoryLedger, follow: Follow) -> None:
        """An extension moves the expiry of the entries it names, counted from sealing, and never brings it forward."""
        for number in range(3):
            ledger.seal(document(number))
        follow()
        org_ref = organization_reference(ACME)
        shorter = Extension(ORIGIN, org_ref, 0, 2, 1)
        longer = Extension(ORIGIN, org_ref, 1, 1, 90)
        foreign = Extension(ORIGIN, organization_reference("org_none"), 0, 2, 90)
        store.apply(Batch(ORIGIN, 3, 4, (), (shorter, longer, foreign)))
        assert len(ids_found(store, today=TODAY + RETENTION_DAYS)) == 3
        assert ids_found(store, today=TODAY + 90) == [document(1)["id"]]
        assert store.earliest_sealing_day(ACME, TODAY + 90) == TODAY
        assert ids_found(store, today=TODAY + 91) == []


class TestRepeats:
    """An id that was sealed twice."""

    def test_one_is_shown(self, store: SqliteStore, ledger: MemoryLedger, follow: Follow) -> None:
        """The first sealing is the entry; the organization sees it once, another one's same id is its own."""
        ledger.seal(document(0))
        ledger.seal(document(0))
        ledger.seal(document(0, organization_id="org_other"))
        follow()
        (found,) = store.search(search(), 10)
        assert found.key.index == 0
        assert store.get(ACME, document(0)["id"], TODAY) == found
        assert len(ids_found(store, organization_id="org_other")) == 1

    def test_the_next_one_is_shown_once_the_first_has_gone(
        self, store: SqliteStore, ledger: MemoryLedger, follow: Follow
    ) -> None:
        """A later sealing that is still kept takes the place of the one that expired."""
        ledger.seal(document(0))
        ledger.seal(document(0), ingest_us=TODAY_US + 5 * DAY_US)
        follow()
        gone = TODAY + RETENTION_DAYS + 1
        assert store.expire(expiration(gone), 100) == 1
        (found,) = store.search(search(today=gone), 10)
        assert found.key.index == 1
        assert store.get(ACME, document(0)["id"], gone) == found


class TestApplying:
    """Rows and cursor move together."""

    def test_the_cursor_survives_a_restart(
        self, store: SqliteStore, ledger: MemoryLedger, follow: Follow, tmp_path: Path
    ) -> None:
        """A store opened again goes on where it was."""
        ledger.seal(document(0))
        follow()
        store.close()
        again = SqliteStore.open(tmp_path / "store.sqlite")
        assert again.cursor(ORIGIN) == 1
        assert again.snapshot() == {ORIGIN: 1}
        assert len(again.search(search(), 10)) == 1
        again.close()

    def test_a_batch_applied_again_changes_nothing(
        self, store: SqliteStore, ledger: MemoryLedger, follow: Follow
    ) -> None:
        """A batch that does not start at the cursor is ignored, whether it lies before or behind."""
        ledger.seal(document(0))
        follow()
        rows = Follower(ledger, store)._batch_of(ledger.read(ORIGIN, 0, 1)).rows
        for start in (0, 5):
            store.apply(Batch(ORIGIN, start, start + 1, rows))
        assert store.cursor(ORIGIN) == 1
        assert len(ids_found(store)) == 1

    def test_a_failed_batch_leaves_nothing(self, store: SqliteStore, ledger: MemoryLedger, follow: Follow) -> None:
        """When a batch cannot be finished, none of its rows and words stay, and the cursor stands."""
        ledger.seal(document(0))
        follow()
        event = document(1, event_type="brand.new", organization_id="org_new")
        ledger.seal(event)
        follower = Follower(ledger, store)
        batch = follower._batch_of(ledger.read(ORIGIN, 1, 1))
        broken = Batch(ORIGIN, 1, 2, [*batch.rows, batch.rows[0]._replace(leaf_index=2, leaf=None)])
        with pytest.raises(StoreDamaged):
            store.apply(broken)
        assert store.cursor(ORIGIN) == 1
        follow()
        assert store.cursor(ORIGIN) == 2
        assert len(ids_found(store, organization_id="org_new")) == 1

    def test_a_locked_file_is_retried_later(
        self, store: SqliteStore, ledger: MemoryLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While another process writes, applying raises RetryLater and moves nothing; readers go on."""
        monkeypatch.setattr(schema, "_BUSY_SECONDS", 0.01)
        ledger.seal(document(0))
        follower = Follower(ledger, store)
        other = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RetryLater) as refused:
            follower.step()
        assert isinstance(refused.value, StoreBusy)
        assert refused.value.code == "store_busy"
        assert "disk" in refused.value.remedy
        assert ids_found(store) == []
        other.execute("ROLLBACK")
        other.close()
        assert follower.step() == 1

    def test_a_full_disk_is_retried_later(self, store: SqliteStore, ledger: MemoryLedger) -> None:
        """When the disk is full nothing is applied; when there is room again everything is."""
        for number in range(200):
            ledger.seal(document(number))
        follower = Follower(ledger, store)
        connection = store._writing()._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 5}")
        with pytest.raises(StoreBusy, match="full"):
            follower.step()
        assert store.cursor(ORIGIN) == 0
        connection.execute("PRAGMA max_page_count = 1000000")
        assert follower.step() == 200
        assert len(ids_found(store)) == 200

    def test_indexes_are_found_by_sequence(self, store: SqliteStore, ledger: MemoryLedger, follow: Follow) -> None:
        """Entries named by ranges of org_seq are found by organization and shard."""
        for number in range(6):
            ledger.seal(document(number, organization_id=ACME if number % 2 else "org_other"))
        follow()
        ranges = ((0, 0), (2, 9))
        assert store.indexes(ORIGIN, organization_reference(ACME), ranges) == [1, 5]
        assert store.indexes("log/unknown/2026", organization_reference(ACME), ranges) == []
        assert store.indexes(ORIGIN, organization_reference("org_none"), ranges) == []


class TestExport:
    """Everything a search finds, as it was at one moment."""

    def test_an_export_is_a_snapshot(self, store: SqliteStore, ledger: MemoryLedger, follow: Follow) -> None:
        """What arrives, expires or is deleted during an export does not change it."""
        for number in range(50):
            ledger.seal(document(number))
        follow()
        with store.export(search(order="asc")) as found:
            first = next(found)
            for number in range(50, 60):
                ledger.seal(document(number))
            follow()
            store.expire(expiration(TODAY + RETENTION_DAYS + 1), 1000)
            rest = list(found)
        keys = [entry.key.index for entry in (first, *rest)]
        assert keys == list(range(50))

    def test_an_abandoned_export_lets_go(self, store: SqliteStore, ledger: MemoryLedger, follow: Follow) -> None:
        """Leaving an export early ends its read transaction, which holds the journal while it lasts."""
        for number in range(2):
            ledger.seal(document(number))
        follow()
        writer = store._writing()._connection
        with store.export(search()) as found:
            next(found)
            ledger.seal(document(2))
            follow()
            assert writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0] == 1
        assert writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0] == 0
        assert list(found) == []

    def test_a_search_that_is_cut_short_does_not_hold_its_thread_back(
        self, store: SqliteStore, ledger: MemoryLedger, follow: Follow
    ) -> None:
        """After a page that left entries behind, the same thread sees what was stored since."""
        for number in range(10):
            ledger.seal(document(number))
        follow()
        assert len(ids_found(store, limit=1)) == 1
        ledger.seal(document(20))
        follow()
        assert ids_found(store, limit=1) == [document(20)["id"]]


class TestFile:
    """A file that is not as it must be."""

    def test_what_is_no_database_is_damage(self, tmp_path: Path) -> None:
        """A foreign file stops the store with what to do about it."""
        path = tmp_path / "store.sqlite"
        path.write_bytes(os.urandom(8192))
        with pytest.raises(Halted) as refused:
            SqliteStore.open(path)
        assert refused.value.code == "store_damaged"
        assert "delete store.sqlite" in refused.value.remedy

    def test_another_version_is_not_touched(self, tmp_path: Path) -> None:
        """A store of another version stops instead of being misread."""
        path = tmp_path / "store.sqlite"
        SqliteStore.open(path).close()
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
        with pytest.raises(StoreDamaged, match="version 99"):
            SqliteStore.open(path)

    def test_a_folder_that_does_not_exist_is_retried(self, tmp_path: Path) -> None:
        """A disk that is not mounted yet is no damage."""
        with pytest.raises(StoreBusy):
            SqliteStore.open(tmp_path / "missing" / "store.sqlite")

    def test_check_answers_for_a_store_that_can_be_searched(self, store: SqliteStore) -> None:
        """An empty store is ready."""
        store.check()


def test_many_values_are_merged_in_order(store: SqliteStore, ledger: MemoryLedger, follow: Follow) -> None:
    """A filter of many values yields one ordered list, each entry once."""
    for number in range(120):
        ledger.seal(document(number, resource={"type": "moderation", "id": f"mod_{number % 40}", "name": None}))
    follow()
    filters = Filters(resource_ids=tuple(f"mod_{number}" for number in range(40)), actions=("create",))
    found = store.search(search(filters=filters), 1000)
    assert len(found) == 120
    assert all(left.key > right.key for left, right in pairwise(found))


def test_a_wide_block_of_addresses_does_not_sort(
    store: SqliteStore, ledger: MemoryLedger, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a block holds more than is worth sorting, the timestamps are walked instead, with the same result."""
    for number in range(30):
        ledger.seal(document(number, metadata={"client_ip": f"10.0.0.{number}"}))
    follow()
    filters = Filters(client_ip=range_of("10.0.0.0/28"))
    narrow = ids_found(store, filters=filters)
    monkeypatch.setattr("klyra_collector.store.reading._PROBE", 5)
    assert ids_found(store, filters=filters) == narrow
    assert len(narrow) == 16
