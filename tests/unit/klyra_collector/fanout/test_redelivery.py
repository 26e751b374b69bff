"""Dead letters that are sent again when an operator orders it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from klyra_collector.destination_status import State
from klyra_collector.fanout.source import Wanted
from klyra_siem.destination import Limits
from support import sink as sinks
from support.delivering import bench
from support.records import STARTUP, record, submission
from support.sealing import SetClock, open_ledger
from support.sink import Answer, Sink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    from support.delivering import Bench


@pytest.fixture
def sealed(data_directory: Path) -> list[str]:
    """Twenty entries; their ids in order."""
    items = [record(STARTUP) for _ in range(20)]
    ledger = open_ledger(data_directory, SetClock())
    ledger.commit([submission(*items)])
    ledger.close()
    return [item.record_id for item in items]


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A receiver."""
    with sinks.listening() as made:
        yield made


def refusing(*poison: str):
    """Return a receiver's rule: whatever holds one of some entries is refused."""

    def decide(request: ExportLogsServiceRequest) -> Answer:
        ids = {item["audit.record.id"] for item in sinks.records_of(request)}
        return Answer(400) if ids & set(poison) else sinks.TAKEN

    return decide


@pytest.fixture
def dead(data_directory: Path, sink: Sink, sealed: list[str]) -> Iterator[tuple[Bench, list[str]]]:
    """A delivery with five dead letters, everything else delivered; and the entries they name."""
    poison = sealed[3:8]
    sink.decide = refusing(*poison)
    with bench(data_directory, sink.url) as delivering:
        delivering.deliver()
        assert len(delivering.dead_letters) == len(poison)
        yield delivering, poison


def letters(delivering: Bench) -> list[str]:
    """Return the entries that dead letters name."""
    return [letter.entry_id for letter in delivering.dead_letters.read()]


def test_what_is_taken_now_is_no_dead_letter_any_more(sink, dead, sealed) -> None:
    """The cursor stays; the order is forgotten; each has a receipt."""
    delivering, poison = dead
    before = delivering.cursor_file.load()
    receipts = len(list(delivering.receipts.read()))
    sink.decide = lambda _: sinks.TAKEN
    delivering.orders.redeliver()
    delivering.deliver()
    assert (letters(delivering), delivering.orders.wants_letters()) == ([], False)
    assert sorted(sink.ids()) == sorted(sealed)
    assert sink.ids()[-5:] == poison
    assert delivering.cursor_file.load() == before
    assert len(list(delivering.receipts.read())) == receipts + 1
    assert delivering.status().dead_letters == 0


def test_what_is_refused_again_stays_one_and_harms_no_other(sink, dead) -> None:
    """It is found by halving, once; the order ends all the same."""
    delivering, poison = dead
    sink.decide = refusing(poison[2])
    delivering.orders.redeliver()
    delivering.deliver()
    assert (letters(delivering), delivering.orders.wants_letters()) == ([poison[2]], False)
    assert sink.ids()[-4:] == [poison[0], poison[1], poison[3], poison[4]]


@pytest.mark.parametrize(("status", "state", "wait"), [(503, State.RETRYING, 1.0), (401, State.PAUSED, 300.0)])
def test_a_destination_that_does_not_answer_now_is_tried_later(sink, dead, status, state, wait) -> None:
    """No letter is lost, and the order stays."""
    delivering, poison = dead
    sink.decide = lambda _: Answer(status)
    delivering.orders.redeliver()
    assert delivering.delivery.step() == wait
    assert (delivering.status().state, letters(delivering)) == (state, poison)
    sink.decide = lambda _: sinks.TAKEN
    delivering.deliver()
    assert (letters(delivering), delivering.status().state) == ([], State.DELIVERING)


def test_after_a_crash_what_is_left_is_tried(data_directory, sink, dead) -> None:
    """The order is on disk until all letters were tried."""
    delivering, poison = dead
    sink.decide = refusing(poison[4])
    delivering.orders.redeliver()
    delivering.delivery.step()
    sink.decide = lambda _: sinks.TAKEN
    with bench(data_directory, sink.url) as again:
        again.deliver()
        assert (letters(again), again.orders.wants_letters()) == ([], False)


def test_what_has_expired_is_no_letter_any_more(sink, dead) -> None:
    """It is not sent, and its letter goes."""
    delivering, _ = dead
    taken = len(sink.ids())
    delivering.today += STARTUP.retention_days + 1
    delivering.orders.redeliver()
    delivering.deliver()
    assert (letters(delivering), len(sink.ids())) == ([], taken)


def test_what_is_still_too_large_stays_one(data_directory, sink, sealed) -> None:
    """It is not sent; with a higher limit it is."""
    small, large = (Limits(entries=100, encoded_bytes=10**7, entry_bytes=most) for most in (10, 100_000))
    with bench(data_directory, sink.url, limits=small) as delivering:
        delivering.deliver()
        delivering.orders.redeliver()
        delivering.deliver()
        assert (letters(delivering), sink.requests) == (sealed, [])
        delivering.orders.redeliver()
    with bench(data_directory, sink.url, limits=large) as delivering:
        delivering.deliver()
        assert letters(delivering) == []
    assert sink.ids() == sealed


def test_what_is_not_wanted_any_more_is_no_letter(data_directory, sink, sealed) -> None:
    """A filter that leaves it out decides."""
    sink.decide = lambda _: Answer(400)
    with bench(data_directory, sink.url) as delivering:
        delivering.deliver()
        delivering.orders.redeliver()
    with bench(data_directory, sink.url, wanted=Wanted(statuses=frozenset({"failure"}))) as delivering:
        delivering.deliver()
        assert letters(delivering) == []
    assert sink.ids() == []
