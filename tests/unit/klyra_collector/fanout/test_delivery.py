"""Delivery of a real ledger over real HTTP: order, confirmation, refusals, waits, and what a crash leaves behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import structlog

from klyra_collector.destination_status import State, read_statuses
from klyra_collector.fanout.cursor import Cursor, Span
from klyra_collector.fanout.delivery import IDLE_SECONDS, REFUSED_IN_A_ROW
from klyra_collector.fanout.fitting import WhenTooOld
from klyra_collector.fanout.source import Wanted
from klyra_siem.destination import Limits
from support import sink as sinks
from support.delivering import bench
from support.records import BUSINESS, STARTUP, bad, record, submission
from support.sealing import MIDSUMMER_US, SetClock, open_ledger
from support.sink import Answer, Sink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

COUNT = 40
OTHER_ACTOR = {"type": "user", "id": "usr_2", "name": None}


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A receiver."""
    with sinks.listening() as made:
        yield made


@pytest.fixture
def sealed(data_directory: Path) -> list[str]:
    """A ledger with entries of two organizations, a quarantined input in their midst; their ids in order."""
    items = [record(STARTUP if number % 3 else BUSINESS) for number in range(COUNT)]
    seal(data_directory, *items[:10], bad(), *items[10:])
    return [item.record_id for item in items]


def seal(root: Path, *items) -> None:
    """Seal records as one commit."""
    ledger = open_ledger(root, SetClock())
    ledger.commit([submission(*items)])
    ledger.close()


def refusing(*poison: str, status: int = 400):
    """Return a receiver's rule: whatever holds one of some entries is refused."""

    def decide(request: ExportLogsServiceRequest) -> Answer:
        ids = {item["audit.record.id"] for item in sinks.records_of(request)}
        return Answer(status) if ids & set(poison) else sinks.TAKEN

    return decide


def by_organization(sink: Sink) -> dict[str, list[str]]:
    """Return the ids that were taken, in order, by organization."""
    found: dict[str, list[str]] = {}
    for item in sink.records():
        found.setdefault(json.loads(item["body"])["organization_id"], []).append(item["audit.record.id"])
    return found


def test_everything_arrives_once_and_in_order(data_directory, sink, sealed) -> None:
    """Each organization's entries arrive in ledger order; control records and quarantine are left out, and counted."""
    with bench(data_directory, sink.url) as delivering:
        delivering.deliver()
        committed = delivering.reader.committed(delivering.reader.origins()[0])
        cursor = delivering.cursor_file.load()
        assert sorted(sink.ids()) == sorted(sealed)
        assert by_organization(sink)[STARTUP.organization_id] == [name for n, name in enumerate(sealed) if n % 3]
        assert delivering.status().skipped["quarantine"] == 1
        assert delivering.status().skipped["control"] > 0
        assert delivering.delivery.step() == IDLE_SECONDS
    assert (cursor.index <= committed, cursor.pending) == (True, ())


def test_what_is_sealed_later_follows(data_directory, sink, sealed) -> None:
    """The cursor goes on where it was; nothing is sent twice."""
    with bench(data_directory, sink.url) as delivering:
        delivering.deliver()
    more = [record(STARTUP) for _ in range(3)]
    seal(data_directory, *more)
    with bench(data_directory, sink.url) as delivering:
        delivering.deliver()
    assert sink.ids()[COUNT:] == [item.record_id for item in more]


def test_batches_end_at_the_limits(data_directory, sink, sealed) -> None:
    """No request holds more entries than the limits say."""
    with bench(data_directory, sink.url, limits=Limits(entries=7, encoded_bytes=10**6)) as delivering:
        delivering.deliver()
    assert [len(sinks.records_of(request)) for request in sink.taken] == [7, 7, 7, 7, 7, 5]


def test_a_long_entry_goes_alone(data_directory, sink, sealed) -> None:
    """An entry that is longer than a batch may be is not held back."""
    with bench(data_directory, sink.url, limits=Limits(entries=100, encoded_bytes=10)) as delivering:
        delivering.deliver()
    assert len(sink.taken) == COUNT


def test_a_destination_may_begin_at_the_end(data_directory, sink, sealed) -> None:
    """Only what is sealed after the destination was added arrives, also when that was while it was down."""
    with bench(data_directory, sink.url, from_end=True) as delivering:
        delivering.deliver()
    more = record(STARTUP)
    seal(data_directory, more)
    with bench(data_directory, sink.url, from_end=True) as delivering:
        delivering.deliver()
    assert sink.ids() == [more.record_id]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_the_same_bytes_go_again(data_directory, sink, sealed, status) -> None:
    """A destination that is overloaded gets the same batch again, and nothing behind it before it was taken."""
    sink.planned.extend([Answer(status), Answer(status)])
    with bench(data_directory, sink.url) as delivering:
        assert [delivering.delivery.step() for _ in range(2)] == [1.0, 2.0]
        status_file = delivering.status()
        assert (status_file.state, status_file.retried) == (State.RETRYING, 2)
        delivering.deliver()
        assert delivering.status().state is State.DELIVERING
    assert sink.requests[0] == sink.requests[1] == sink.requests[2]
    assert len(sink.ids()) == COUNT


def test_the_destination_says_how_long(data_directory, sink, sealed) -> None:
    """Retry-After is waited for, when it is longer than our own wait."""
    sink.planned.append(Answer(503, {"Retry-After": "17"}))
    with bench(data_directory, sink.url) as delivering:
        assert delivering.delivery.step() == 17.0


def test_the_cursor_does_not_move_without_confirmation(data_directory, sink, sealed) -> None:
    """A batch under way is on file before it is sent; the cursor stands before it until it is taken."""
    sink.planned.append(Answer(503))
    with bench(data_directory, sink.url) as delivering:
        delivering.delivery.step()
        cursor = delivering.cursor_file.load()
    assert cursor.index == cursor.pending[0].start == 0
    assert cursor.pending[0].end > 8


def test_after_a_crash_the_same_batch_goes_again(data_directory, sink, sealed) -> None:
    """A process that died before it wrote the cursor sends the same entries, though more could be sent by now."""
    with bench(data_directory, sink.url) as delivering:
        delivering.cursor_file.save(Cursor(delivering.reader.origins()[0], 0, (Span(0, 12),)))
    seal(data_directory, record(STARTUP))
    for _ in range(2):
        with bench(data_directory, sink.url, limits=Limits(entries=100, encoded_bytes=10**7)) as delivering:
            delivering.cursor_file.save(Cursor(delivering.reader.origins()[0], 0, (Span(0, 12),)))
            delivering.delivery.step()
            assert delivering.cursor_file.load() == Cursor(delivering.reader.origins()[0], 12)
    assert sink.requests[0] == sink.requests[1]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_one_poisonous_entry_harms_no_other(data_directory, sink, sealed, status) -> None:
    """An entry that is refused is found by halving, becomes a dead letter, and everything else arrives, in order."""
    poison = sealed[5]
    sink.decide = refusing(poison, status=status)
    with bench(data_directory, sink.url) as delivering:
        delivering.deliver()
        (letter,) = delivering.dead_letters.read()
        assert (letter.entry_id, letter.status) == (poison, str(status))
        assert delivering.status().dead_letters == 1
    assert sorted(sink.ids()) == sorted(set(sealed) - {poison})
    assert len(sink.requests) < len(sink.taken) + 6


def test_a_dead_letter_is_on_file_before_the_cursor_moves(data_directory, sink, sealed, monkeypatch) -> None:
    """A crash between the two writes the same letter again, and it counts once."""
    sink.decide = refusing(sealed[0])
    one = Limits(entries=1, encoded_bytes=10**6)
    with bench(data_directory, sink.url, limits=one) as delivering:
        monkeypatch.setattr(delivering.cursor_file, "save", fail_after(1, delivering.cursor_file.save))
        with pytest.raises(OSError, match="crash"):
            delivering.deliver()
        assert [letter.entry_id for letter in delivering.dead_letters.read()] == [sealed[0]]
    with bench(data_directory, sink.url, limits=one) as delivering:
        delivering.deliver()
        assert [letter.entry_id for letter in delivering.dead_letters.read()] == [sealed[0]]
    assert sorted(sink.ids()) == sorted(sealed[1:])


def fail_after(count: int, save):
    """Return a function that saves a cursor with a batch under way a few times, then dies."""
    left = [count + 1]

    def failing(cursor: Cursor) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError("crash")
        save(cursor)

    return failing


def test_a_destination_that_refuses_everything_is_not_given_up(data_directory, sink) -> None:
    """After many refusals in a row it is not the entries: the destination is paused, no more letters are written."""
    items = [record(STARTUP) for _ in range(REFUSED_IN_A_ROW + 20)]
    seal(data_directory, *items)
    sink.decide = lambda _: Answer(400)
    with bench(data_directory, sink.url) as delivering:
        wait = 0.0
        while wait == 0:
            wait = delivering.delivery.step()
        assert wait == 300.0
        assert len(delivering.dead_letters) == REFUSED_IN_A_ROW
        sink.decide = lambda _: sinks.TAKEN
        delivering.deliver()
    assert sink.ids() == [item.record_id for item in items[REFUSED_IN_A_ROW:]]


@pytest.mark.parametrize("status", [301, 401, 403, 404])
def test_a_refused_key_pauses_and_loses_nothing(data_directory, sink, sealed, status) -> None:
    """Not let in is a matter for an operator: the alarm is on, the batch stays, and it goes once the key is mended."""
    sink.decide = lambda _: Answer(status)
    with bench(data_directory, sink.url) as delivering:
        assert delivering.delivery.step() == 300.0
        (paused,) = read_statuses(delivering.data.cursors)
        assert (paused.state, paused.error.partition(":")[0]) == (State.PAUSED, str(status))
        sink.decide = lambda _: sinks.TAKEN
        delivering.deliver()
        assert delivering.status().state is State.DELIVERING
        assert len(delivering.dead_letters) == 0
    assert sorted(sink.ids()) == sorted(sealed)


def test_a_partial_success_is_taken_apart(data_directory, sink, sealed) -> None:
    """Records refused without saying which are looked for; only they are not delivered."""
    poison = sealed[3]

    def decide(request: ExportLogsServiceRequest) -> Answer:
        ids = [item["audit.record.id"] for item in sinks.records_of(request)]
        return Answer.partial(1, "one is bad") if poison in ids else sinks.TAKEN

    sink.decide = decide
    with bench(data_directory, sink.url) as delivering:
        delivering.deliver()
        assert [letter.entry_id for letter in delivering.dead_letters.read()] == [poison]
    assert sorted(sink.ids()) == sorted(set(sealed) - {poison})


def test_a_warning_is_counted(data_directory, sink, sealed) -> None:
    """A success with a message took everything."""
    sink.planned.append(Answer.partial(0, "some attributes are long"))
    with bench(data_directory, sink.url) as delivering:
        delivering.delivery.step()
        status = delivering.status()
    assert (status.warned, status.entries) == (1, 8)


def test_whose_plan_has_no_destinations_is_left_out(data_directory, sink, sealed) -> None:
    """Entries of other organizations are passed over."""
    with bench(data_directory, sink.url) as delivering:
        delivering.organizations = {BUSINESS.organization_id}
        delivering.deliver()
        assert delivering.status().skipped["organization"] == COUNT - len(sink.ids())
    assert set(by_organization(sink)) == {BUSINESS.organization_id}


def test_nothing_past_its_expiry_is_delivered(data_directory, sink, sealed) -> None:
    """What has expired while the destination was down is not sent, also if it was under way before."""
    sink.planned.append(Answer(503))
    with bench(data_directory, sink.url) as delivering:
        delivering.delivery.step()
        delivering.today += STARTUP.retention_days + 1
        delivering.deliver()
        assert delivering.status().skipped["expired"] > 0
    assert set(by_organization(sink)) == {BUSINESS.organization_id}


def test_a_mistake_of_ours_halts_this_destination_alone(data_directory, sink, sealed, monkeypatch) -> None:
    """What must not happen is shown and tried again rarely; the thread goes on."""
    with bench(data_directory, sink.url) as delivering:
        monkeypatch.setattr(delivering.source, "read_on", lambda *_: 1 / 0)
        assert delivering.delivery._guarded(delivering.delivery.step) == 300.0
        (status,) = read_statuses(delivering.data.cursors)
        assert (status.state, status.error) == (State.HALTED, "internal: ZeroDivisionError")
        monkeypatch.undo()
        delivering.deliver()
    assert len(sink.ids()) == COUNT


def test_what_a_mistake_says_is_not_logged(data_directory, sink, sealed, monkeypatch) -> None:
    """A library's error may quote a header: the log says where it happened, and of which type it is."""

    def fail(*_: object) -> None:
        raise RuntimeError("Bearer a-token-that-nobody-may-see")

    with bench(data_directory, sink.url) as delivering, structlog.testing.capture_logs() as logged:
        monkeypatch.setattr(delivering.source, "read_on", fail)
        delivering.delivery._guarded(delivering.delivery.step)
    (failed,) = [line for line in logged if line["event"] == "destination_failed"]
    assert (failed["error"], failed["destination"]) == ("RuntimeError", "back")
    assert failed["at"][-1].endswith(" fail")
    assert "a-token" not in repr(logged)


def test_a_damaged_cursor_is_not_guessed(data_directory, sink, sealed) -> None:
    """A cursor that cannot be read halts the destination with a word on what to do."""
    with bench(data_directory, sink.url) as delivering:
        (delivering.data.cursors / "back.cursor.json").write_text("{}")
        assert delivering.delivery._guarded(delivering.delivery.step) == 300.0
        (status,) = read_statuses(delivering.data.cursors)
    assert status.error.startswith("cursor_damaged: ")
    assert sink.requests == []


def test_an_empty_ledger_is_waited_for(tmp_path, sink) -> None:
    """A destination may be configured before anything was ever sealed."""
    with bench(tmp_path, sink.url) as delivering:
        assert delivering.delivery.step() == IDLE_SECONDS


class TestWindow:
    """A destination that takes nothing older than ten minutes, from a ledger whose entries are a week old."""

    LIMITS = Limits(entries=100, encoded_bytes=10**7, oldest_seconds=600, newest_seconds=600)

    @pytest.mark.parametrize("policy", list(WhenTooOld))
    def test_what_is_too_old(self, data_directory, sink, sealed, policy) -> None:
        """It is sent as it is, under the time of sending, or named as a dead letter: nothing is left out in silence."""
        with bench(data_directory, sink.url, limits=self.LIMITS, when_too_old=policy) as delivering:
            delivering.deliver()
            letters = delivering.dead_letters.read()
        taken = [] if policy is WhenTooOld.DEAD_LETTER else sealed
        assert sorted(sink.ids()) == sorted(taken)
        assert sorted(one.entry_id for one in letters) == sorted(set(sealed) - set(taken))
        assert {one.status for one in letters} <= {"too_old"}

    def test_what_was_restamped_goes_again_with_the_same_time(self, data_directory, sink, sealed) -> None:
        """Otherwise the vendor could not know it for the same; until its new time is too old as well."""
        moments: list[int] = []

        def watch(entries) -> None:
            moments.append(entries[0].filed_ns // 10**9)

        sink.planned.extend([Answer(503)] * 3)
        with bench(data_directory, sink.url, limits=self.LIMITS, when_too_old=WhenTooOld.RESTAMP) as delivering:
            delivering.watch_encoded(watch)
            for seconds in (0, 60, 301):
                delivering.now_us = MIDSUMMER_US + seconds * 1_000_000
                delivering.delivery.step()
        began = MIDSUMMER_US // 1_000_000
        assert moments == [began, began, began + 301]


def test_what_is_too_large_is_named_and_not_sent(data_directory, sink, sealed) -> None:
    """A vendor that would cut it is not given it; the others go on."""
    large = record(STARTUP, metadata={"content_type": "x" * 4000})
    seal(data_directory, large)
    limits = Limits(entries=100, encoded_bytes=10**7, entry_bytes=6000)
    with bench(data_directory, sink.url, limits=limits) as delivering:
        delivering.deliver()
        (letter,) = delivering.dead_letters.read()
    assert (letter.entry_id, letter.status) == (large.record_id, "too_large")
    assert sorted(sink.ids()) == sorted(sealed)


def test_only_what_is_wanted_goes(data_directory, sink) -> None:
    """By event type, status and actor, each of which must fit; the rest is counted."""
    fits = {"status": "failure", "actor": {"type": "user", "id": "usr_1", "name": None}}
    items = [record(STARTUP, **(fits | change)) for change in ({}, {"status": "success"}, {"actor": OTHER_ACTOR})]
    seal(data_directory, *items)
    wanted = Wanted(frozenset({"moderation.created"}), frozenset({"failure"}), frozenset({"usr_1"}))
    with bench(data_directory, sink.url, wanted=wanted) as delivering:
        delivering.deliver()
        assert delivering.status().skipped["filter"] == 2
    assert sink.ids() == [items[0].record_id]
