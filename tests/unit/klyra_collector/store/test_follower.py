"""The follower: every record in order, none skipped, none twice, and nothing that was tampered with."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from structlog.testing import capture_logs

from klyra_audit.errors import Halted, Paused, RetryLater
from klyra_audit.format import canonical
from klyra_audit.format.leaf import Kind
from klyra_audit.format.sections import Sections, commitments
from klyra_collector.store.follower import Follower, LedgerBehindStore
from klyra_collector.store.lag import Lag, LagMeter
from klyra_collector.store.rows import RecordUnusable
from klyra_collector.store.schema import StoreBusy
from klyra_collector.store.searching import Filters, Search
from klyra_collector.store.sqlite import SqliteStore
from support.entries import (
    ACME,
    ORIGIN,
    TODAY,
    TODAY_US,
    MemoryLedger,
    document,
    organization_reference,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from klyra_audit.errors import KlyraError
    from klyra_collector.seal.reader import SealedRecord
    from klyra_collector.store.changes import Batch

DAY_US = 86_400 * 1_000_000
REFERENCE = organization_reference(ACME).hex()


def entries_of(store: SqliteStore, today: int = TODAY, **filters: Any) -> list[dict[str, Any]]:
    """Return Acme's entries, oldest first."""
    search = Search(organization_id=ACME, filters=Filters(**filters), today=today, order="asc")
    return [orjson.loads(found.entry) for found in store.search(search, 1000)]


def follower_of(ledger: MemoryLedger, store: Any, **members: Any) -> Follower:
    """Return a follower."""
    return Follower(ledger, store, **members)


class TestFollowing:
    """From records to rows."""

    def test_only_events_become_entries(self, store: SqliteStore, ledger: MemoryLedger) -> None:
        """Quarantined input and control records move the cursor and are no entries."""
        ledger.control(Kind.POLICY, {"type": "policy", "org_ref": REFERENCE, "plan": "startup"})
        ledger.seal(document(0))
        ledger.quarantine()
        ledger.control(Kind.HEADS, {"type": "heads", "size": 3, "count": 1, "root": "00"})
        follower = follower_of(ledger, store)
        assert follower.step() == 4
        assert follower.step() == 0
        assert store.cursor(ORIGIN) == 4
        assert [entry["id"] for entry in entries_of(store)] == [document(0)["id"]]

    def test_batches_are_small_and_in_order(self, store: SqliteStore, ledger: MemoryLedger) -> None:
        """A long backlog is applied batch by batch."""
        for number in range(7):
            ledger.seal(document(number))
        follower = follower_of(ledger, store, batch=3)
        assert [follower.step() for _ in range(4)] == [3, 3, 1, 0]
        assert len(entries_of(store)) == 7

    def test_shards_are_followed_oldest_first(self, store: SqliteStore) -> None:
        """A shard is followed to its end before the next begins."""
        ledger = MemoryLedger("l/c/2025", "l/c/2026")
        ledger.seal(document(1), origin="l/c/2026")
        ledger.seal(document(0), origin="l/c/2025")
        follower = follower_of(ledger, store)
        follower.step()
        assert store.snapshot() == {"l/c/2025": 1}
        follower.step()
        assert store.snapshot() == {"l/c/2025": 1, "l/c/2026": 1}

    def test_a_crash_between_batches_repeats_nothing(
        self, store: SqliteStore, ledger: MemoryLedger, tmp_path: Path
    ) -> None:
        """A second follower goes on behind what the first one had committed."""
        for number in range(6):
            ledger.seal(document(number))
        follower_of(ledger, store, batch=4).step()
        store.close()
        again = SqliteStore.open(tmp_path / "store.sqlite")
        follower_of(ledger, again).step()
        assert [entry["id"] for entry in entries_of(again)] == [document(number)["id"] for number in range(6)]
        again.close()

    def test_lag_is_in_entries_and_seconds(self, store: SqliteStore, ledger: MemoryLedger) -> None:
        """What is not applied yet is counted, and the age of its oldest record told; nothing behind is zero."""
        meter = LagMeter(ledger, store, lambda: TODAY_US)
        assert meter.measure() == Lag(0, 0.0)
        for number in range(5):
            ledger.seal(document(number), ingest_us=TODAY_US - 60_000_000 + number * 10_000_000)
        assert meter.measure() == Lag(5, 60.0)
        follower = follower_of(ledger, store, batch=2)
        follower.step()
        assert meter.measure() == Lag(3, 40.0)
        follower.step()
        follower.step()
        assert meter.measure() == Lag(0, 0.0)

    def test_an_extension_is_applied_where_it_stands(self, store: SqliteStore, ledger: MemoryLedger) -> None:
        """An EXTEND record keeps the entries it names longer."""
        ledger.seal(document(0))
        ledger.seal(document(1))
        extend = {"type": "extend", "org_ref": REFERENCE, "first_seq": 1, "last_seq": 1, "retention_days": 90}
        ledger.control(Kind.EXTEND, extend)
        follower_of(ledger, store).step()
        assert [entry["id"] for entry in entries_of(store, today=TODAY + 90)] == [document(1)["id"]]


class TestErasure:
    """What a person is entitled to."""

    ERASURE = {  # noqa: RUF012 - read only
        "type": "erasure",
        "org_ref": REFERENCE,
        "actor": [[0, 0]],
        "target": [[0, 1]],
        "basis": "request",
        "requested_day": TODAY,
    }

    def events(self) -> list[dict[str, Any]]:
        """Return two events about users."""
        resource = {"type": "user", "id": "usr_9", "name": "Grace"}
        return [document(number, event_type="user.added", resource=resource) for number in range(2)]

    def assert_erased(self, store: SqliteStore) -> None:
        """Check that what the record names is gone, and nothing else."""
        first, second = entries_of(store)
        assert first["actor"] == {"type": "api_key", "id": None, "name": None}
        assert first["metadata"].keys() == {"content_type", "content_hash", "categories"}
        assert second["actor"]["id"] == "key_9z8y7x6w5v4u"
        for entry in (first, second):
            assert entry["resource"] == {"type": "user", "id": None, "name": None}
        assert len(entries_of(store, actor_ids=("key_9z8y7x6w5v4u",))) == 1
        assert entries_of(store, resource_ids=("usr_9",)) == []

    def test_erased_sections_leave_the_store(self, store: SqliteStore, ledger: MemoryLedger) -> None:
        """When the cursor reaches an ERASURE, its sections are gone from entries and filters."""
        for event in self.events():
            ledger.seal(event)
        ledger.control(Kind.ERASURE, self.ERASURE)
        ledger.seal(document(5, organization_id="org_other"))
        follower = follower_of(ledger, store)
        assert [follower.step() for _ in range(4)] == [2, 1, 1, 0]
        self.assert_erased(store)

    def test_a_store_built_after_the_erasure_is_the_same(self, store: SqliteStore, ledger: MemoryLedger) -> None:
        """Overwritten sections are accepted where an ERASURE record, however much later, names them."""
        first, second = (ledger.seal(event) for event in self.events())
        ledger.control(Kind.ERASURE, self.ERASURE)
        ledger.erase(first, "actor", "target")
        ledger.erase(second, "target")
        follower = follower_of(ledger, store)
        while follower.step():
            pass
        self.assert_erased(store)

    def test_an_erased_body_may_have_expired_since(self, store: SqliteStore, ledger: MemoryLedger) -> None:
        """An ERASURE of entries whose bodies are gone needs nothing more."""
        records = [ledger.seal(event) for event in self.events()]
        follower = follower_of(ledger, store)
        follower.step()
        for record in records:
            ledger.change(record, body=None)
        ledger.control(Kind.ERASURE, self.ERASURE)
        assert follower.step() == 1

    def test_an_overwritten_section_without_erasure_stops_the_follower(
        self, store: SqliteStore, ledger: MemoryLedger
    ) -> None:
        """Zeros that no ERASURE record names are tampering."""
        first, second = (ledger.seal(event) for event in self.events())
        ledger.control(Kind.ERASURE, self.ERASURE)
        ledger.erase(first, "target")
        ledger.erase(second, "actor")
        with pytest.raises(RecordUnusable, match=rf"Record 1 of {ORIGIN} .*no ERASURE record"):
            follower_of(ledger, store).step()


def another_core(record: SealedRecord) -> dict[str, Any]:
    """Change the content, with its own valid commitments."""
    assert record.body is not None
    parts = replace(record.body.sections, core=canonical.encode(document(9)))
    return {"body": replace(record.body, sections=parts, commitments=commitments(parts, record.body.salts))}


def altered_core(record: SealedRecord) -> dict[str, Any]:
    """Change one byte of the content."""
    assert record.body is not None
    core = record.body.sections.core.replace(b"success", b"failure")
    return {"body": replace(record.body, sections=replace(record.body.sections, core=core))}


def altered_actor(record: SealedRecord) -> dict[str, Any]:
    """Name another actor."""
    assert record.body is not None
    actor = (record.body.sections.actor or b"").replace(b"key_9", b"key_8")
    return {"body": replace(record.body, sections=replace(record.body.sections, actor=actor))}


def removed_actor(record: SealedRecord) -> dict[str, Any]:
    """Take a section away."""
    assert record.body is not None
    return {"body": replace(record.body, sections=replace(record.body.sections, actor=None))}


def altered_salt(record: SealedRecord) -> dict[str, Any]:
    """Change a salt."""
    assert record.body is not None
    return {"body": replace(record.body, salts=replace(record.body.salts, core=bytes(16)))}


def missing_body(_: SealedRecord) -> dict[str, Any]:
    """Delete a body that is still due."""
    return {"body": None}


def other_index(_: SealedRecord) -> dict[str, Any]:
    """Hand out a record in another's place."""
    return {"index": 7}


class TestTampering:
    """What must not be stored."""

    @pytest.mark.parametrize(
        "tamper",
        [another_core, altered_core, altered_actor, removed_actor, altered_salt, missing_body, other_index],
        ids=lambda function: function.__name__,
    )
    def test_the_follower_stops_at_the_record(
        self, store: SqliteStore, ledger: MemoryLedger, tamper: Callable[[SealedRecord], dict[str, Any]]
    ) -> None:
        """A record that is not what was sealed halts with origin and index, and nothing behind it is stored."""
        for number in range(3):
            ledger.seal(document(number))
        ledger.change(ledger.read(ORIGIN, 1, 1)[0], **tamper(ledger.read(ORIGIN, 1, 1)[0]))
        follower = follower_of(ledger, store, batch=1)
        assert follower.step() == 1
        for _ in range(2):
            with pytest.raises(Halted, match=ORIGIN) as refused:
                follower.step()
        assert isinstance(refused.value, RecordUnusable)
        assert refused.value.code == "record_unusable"
        assert "klyra-audit verify" in refused.value.remedy
        assert store.cursor(ORIGIN) == 1
        assert len(entries_of(store)) == 1

    def test_the_error_names_the_record(self, store: SqliteStore, ledger: MemoryLedger) -> None:
        """Origin and index stand in the message."""
        record = ledger.seal(document(0))
        ledger.change(record, **altered_core(record))
        with pytest.raises(RecordUnusable, match=f"Record 0 of {ORIGIN} cannot be stored"):
            follower_of(ledger, store).step()

    def test_an_altered_control_document_stops_the_follower(self, store: SqliteStore, ledger: MemoryLedger) -> None:
        """Control documents are checked against their leaves like bodies."""
        record = ledger.control(Kind.POLICY, {"type": "policy", "plan": "startup"})
        ledger.change(record, control={"type": "policy", "plan": "enterprise"})
        with pytest.raises(RecordUnusable, match="control document"):
            follower_of(ledger, store).step()

    def test_a_missing_control_document_stops_the_follower(self, store: SqliteStore, ledger: MemoryLedger) -> None:
        """A record that changes entries cannot be passed over for want of its content."""
        record = ledger.control(Kind.EXTEND, {"type": "extend"})
        ledger.change(record, control=None)
        with pytest.raises(RecordUnusable, match="control document is missing"):
            follower_of(ledger, store).step()

    def test_a_document_that_is_no_entry_stops_the_follower(self, store: SqliteStore, ledger: MemoryLedger) -> None:
        """What joins but has no entry's members is named, not guessed at."""
        event = document(0)
        del event["status"]
        ledger.seal(event)
        with pytest.raises(RecordUnusable, match="do not join to an entry"):
            follower_of(ledger, store).step()

    def test_a_shorter_ledger_stops_the_follower(self, store: SqliteStore, ledger: MemoryLedger) -> None:
        """A ledger that has less than was applied was replaced."""
        ledger.seal(document(0))
        follower_of(ledger, store).step()
        with pytest.raises(LedgerBehindStore, match="replaced") as refused:
            follower_of(MemoryLedger(), store).step()
        assert refused.value.code == "ledger_behind_store"
        assert "store.sqlite" in refused.value.remedy


class BusyStore:
    """A real store that cannot be written for the first `failures` times."""

    makes_documents = False

    def __init__(
        self, store: SqliteStore, failures: int, stop: threading.Event, error: KlyraError | None = None
    ) -> None:
        self._store = store
        self._error = error or StoreBusy("The disk is full.")
        self._stop = stop
        self.failures = failures
        self.attempts: list[int] = []

    def cursor(self, origin: str) -> int:
        """See `FollowingStore`."""
        return self._store.cursor(origin)

    def apply(self, batch: Batch) -> None:
        """Fail, or apply and stop the follower."""
        self.attempts.append(self._store.cursor(batch.origin))
        if len(self.attempts) <= self.failures:
            raise self._error
        self._store.apply(batch)
        self._stop.set()

    def shrink(self) -> bool:
        """See `FollowingStore`."""
        return self._store.shrink()


class TestRunning:
    """The loop."""

    def test_it_waits_and_tries_again(
        self, store: SqliteStore, ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While the store cannot be written the cursor stands; then everything is applied once."""
        monkeypatch.setattr("klyra_collector.store.follower._FIRST_WAIT_SECONDS", 0.001)
        ledger.seal(document(0))
        stop = threading.Event()
        busy = BusyStore(store, 3, stop)
        follower_of(ledger, busy).run(stop)
        assert busy.attempts == [0, 0, 0, 0]
        assert store.cursor(ORIGIN) == 1
        assert len(entries_of(store)) == 1

    def test_it_waits_for_an_operator(
        self, store: SqliteStore, ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While an operator must act the cursor stands, with an alarm; then everything is applied once."""
        monkeypatch.setattr("klyra_collector.store.follower._PAUSED_SECONDS", 0.001)
        ledger.seal(document(0))
        stop = threading.Event()
        busy = BusyStore(store, 2, stop, Paused("The key was revoked."))
        with capture_logs() as logged:
            follower_of(ledger, busy).run(stop)
        assert [entry["log_level"] for entry in logged if entry["event"] == "store.paused"] == ["error", "error"]
        assert store.cursor(ORIGIN) == 1

    def test_a_hold_that_is_none_stops_the_follower(self, store: SqliteStore, ledger: MemoryLedger) -> None:
        """A HOLD record without its members cannot be applied and is not skipped."""
        ledger.control(Kind.HOLD, {"type": "hold", "hold_id": "hold_1"})
        with pytest.raises(RecordUnusable, match="no HOLD") as caught:
            follower_of(ledger, store).step()
        assert "klyra-audit verify" in caught.value.remedy

    def test_it_follows_what_arrives_and_stops_when_told(self, store: SqliteStore, ledger: MemoryLedger) -> None:
        """A record sealed while it is idle is applied soon; afterwards the thread ends."""
        stop = threading.Event()
        thread = threading.Thread(target=follower_of(ledger, store).run, args=(stop,))
        thread.start()
        try:
            ledger.seal(document(0))
            waiting = threading.Event()
            for _ in range(200):
                if store.snapshot().get(ORIGIN) == 1:
                    break
                waiting.wait(0.02)
            assert len(entries_of(store)) == 1
        finally:
            stop.set()
            thread.join(5)
        assert not thread.is_alive()

    def test_it_ends_at_what_it_must_not_skip(self, store: SqliteStore, ledger: MemoryLedger) -> None:
        """Halted leaves the loop for whoever runs it to report."""
        record = ledger.seal(document(0))
        ledger.change(record, body=None)
        with pytest.raises(RecordUnusable):
            follower_of(ledger, store).run(threading.Event())

    def test_errors_of_the_store_leave_a_step(self, ledger: MemoryLedger, store: SqliteStore) -> None:
        """A single step tells its caller to try later."""
        ledger.seal(document(0))
        with pytest.raises(RetryLater):
            follower_of(ledger, BusyStore(store, 1, threading.Event())).step()


def test_sections_are_joined_by_any_pointer(store: SqliteStore, ledger: MemoryLedger) -> None:
    """Marked metadata, nested and escaped, comes back where it was."""
    from klyra_audit.format.sections import Marks

    event = document(0, metadata={"a/b": {"c~d": "secret"}, "plain": 1})
    ledger.seal(event, marks=Marks(target=("/metadata/a~1b/c~0d",)))
    follower_of(ledger, store).step()
    (entry,) = entries_of(store)
    assert entry["metadata"] == event["metadata"]
    assert isinstance(ledger.read(ORIGIN, 0, 1)[0].body.sections, Sections)
