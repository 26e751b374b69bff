"""Several batches under way to one destination at once: what arrives, what a crash repeats, and who waits for whom."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from klyra_audit import timestamps
from klyra_collector.destination_status import Circuit, State
from klyra_collector.fanout.cursor import Cursor
from klyra_collector.fanout.orders import Pause
from klyra_siem.destination import Limits
from support import sink as sinks
from support.delivering import Bench, bench, options
from support.records import STARTUP, bad, record, submission
from support.sealing import SetClock, open_ledger
from support.sink import Answer, Sink

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    from klyra_siem.destination import Payload
    from klyra_siem.outcome import Outcome

LANES = 4
EVENT_US = timestamps.to_nanoseconds("2026-06-15T14:30:45Z") // 1000
LIMITS = Limits(entries=5, encoded_bytes=10**6)


@pytest.fixture
def sealed(data_directory: Path) -> list[str]:
    """Sixty entries with quarantined input between them; their ids in order."""
    items = [record(STARTUP) for _ in range(60)]
    ledger = open_ledger(data_directory, SetClock())
    ledger.commit([submission(*items[:30], *[bad() for _ in range(9)], *items[30:])])
    ledger.close()
    return [item.record_id for item in items]


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A receiver."""
    with sinks.listening() as made:
        yield made


class Gate:
    """A receiver's rule that lets nobody go on before somebody opens it."""

    def __init__(self, *held: str) -> None:
        """Hold requests with one of some entries; all, without any."""
        self.held = set(held)
        self.opened = threading.Event()
        self.arrived = threading.Semaphore(0)

    def __call__(self, request: ExportLogsServiceRequest) -> Answer:
        """Take a request, once that may be."""
        ids = {item["audit.record.id"] for item in sinks.records_of(request)}
        if not self.held or ids & self.held:
            self.arrived.release()
            assert self.opened.wait(10)
        return sinks.TAKEN


def test_several_batches_are_under_way_at_once(data_directory, sink, sealed) -> None:
    """Each on a connection of its own; everything arrives, and nothing twice."""
    gate = sink.decide = Gate()
    with bench(data_directory, sink.url, lanes=LANES, limits=LIMITS) as delivering:
        delivering.delivery.step()
        assert all(gate.arrived.acquire(timeout=10) for _ in range(LANES))
        assert not gate.arrived.acquire(timeout=0.05)
        assert len(delivering.cursor_file.load().pending) == LANES
        gate.opened.set()
        delivering.deliver()
        cursor = delivering.cursor_file.load()
    assert (sorted(sink.ids()), cursor.pending) == (sorted(sealed), ())


def test_the_cursor_never_passes_a_batch_that_was_not_confirmed(data_directory, sink, sealed) -> None:
    """Later batches that were taken stay under way behind it, and no further ones begin for ever."""
    gate = sink.decide = Gate(sealed[0])
    with bench(data_directory, sink.url, lanes=LANES, limits=LIMITS) as delivering:
        while len(sink.taken) < LANES - 1:
            delivering.delivery.step()
        for _ in range(3):
            delivering.delivery.step()
        cursor = delivering.cursor_file.load()
        assert cursor.index == cursor.pending[0].start <= 4
        gate.opened.set()
        delivering.deliver()
    assert sorted(sink.ids()) == sorted(sealed)


def test_a_crash_repeats_no_more_than_was_under_way(data_directory, sink, sealed) -> None:
    """Batches that were confirmed behind one that was not are sent again, the same ones."""
    sink.decide = Gate(sealed[0])
    with bench(data_directory, sink.url, lanes=LANES, limits=LIMITS) as delivering:
        while len(sink.taken) < LANES - 1:
            delivering.delivery.step()
        left = delivering.cursor_file.load()
        sink.decide.opened.set()
    sink.decide = lambda _: sinks.TAKEN
    with bench(data_directory, sink.url, lanes=LANES, limits=LIMITS) as delivering:
        delivering.cursor_file.save(left)
        delivering.deliver()
    arrived = sink.ids()
    assert set(arrived) == set(sealed)
    assert len(arrived) - len(sealed) <= LANES * LIMITS.entries


def test_after_a_failure_one_batch_goes_alone(data_directory, sink, sealed) -> None:
    """What is under way comes back first; then the circuit is half open; and once a batch was taken all lanes are."""
    sink.decide = lambda _: Answer(503)
    with bench(data_directory, sink.url, lanes=LANES, limits=LIMITS) as delivering:
        wait = 0.0
        while not wait:
            wait = delivering.delivery.step()
        assert (wait >= 1.0, len(sink.requests)) == (True, LANES)
        assert (delivering.status().state, delivering.status().circuit) == (State.RETRYING, Circuit.OPEN)
        gate = sink.decide = Gate()
        trying = threading.Thread(target=delivering.delivery.step)
        trying.start()
        assert gate.arrived.acquire(timeout=10)
        assert not gate.arrived.acquire(timeout=0.05)
        assert delivering.status().circuit is Circuit.HALF_OPEN
        gate.opened.set()
        trying.join()
        assert delivering.status().circuit is Circuit.CLOSED
        delivering.deliver()
    assert sorted(sink.ids()) == sorted(sealed)


def test_a_poisonous_entry_holds_nothing_back(data_directory, sink, sealed) -> None:
    """Its batch is halved in place while others are under way; it alone is a dead letter."""
    poison = sealed[7]

    def decide(request: ExportLogsServiceRequest) -> Answer:
        ids = {item["audit.record.id"] for item in sinks.records_of(request)}
        return Answer(400) if poison in ids else sinks.TAKEN

    sink.decide = decide
    with bench(data_directory, sink.url, lanes=LANES, limits=LIMITS) as delivering:
        delivering.deliver()
        assert [letter.entry_id for letter in delivering.dead_letters.read()] == [poison]
        assert delivering.cursor_file.load().pending == ()
    assert sorted([*sink.ids(), poison]) == sorted(sealed)


def test_a_replay_waits_until_nothing_is_under_way(data_directory, sink, sealed) -> None:
    """Otherwise what is confirmed later would move the cursor behind the place to begin again from."""
    gate = sink.decide = Gate(sealed[0])
    with bench(data_directory, sink.url, lanes=LANES, limits=LIMITS) as delivering:
        delivering.delivery.step()
        delivering.orders.replay(Cursor(delivering.reader.origins()[0], 0))
        delivering.delivery.step()
        assert delivering.orders.replay_from() is not None
        gate.opened.set()
        delivering.deliver()
        assert delivering.orders.replay_from() is None
    assert all(sink.ids().count(name) <= 2 for name in sealed)
    assert set(sink.ids()) == set(sealed)


def test_a_pause_lets_what_is_under_way_come_back(data_directory, sink, sealed) -> None:
    """Nothing new is sent; what was confirmed is not sent again."""
    gate = sink.decide = Gate()
    with bench(data_directory, sink.url, lanes=LANES, limits=LIMITS) as delivering:
        delivering.delivery.step()
        delivering.orders.pause(Pause("for a moment", delivering.now_us))
        gate.opened.set()
        while delivering.delivery.step() == 0:
            pass
        assert (len(sink.requests), delivering.status().state) == (LANES, State.PAUSED)
        assert delivering.cursor_file.load().pending == ()
        delivering.orders.resume()
        delivering.deliver()
    assert sorted(sink.ids()) == sorted(sealed)


def test_a_stop_waits_for_what_is_under_way(data_directory, sink, sealed) -> None:
    """What is confirmed then is not sent again after the next start."""
    gate = sink.decide = Gate()
    stop = threading.Event()
    with bench(data_directory, sink.url, lanes=LANES, limits=LIMITS) as delivering:
        running = threading.Thread(target=delivering.delivery.run, args=(stop,))
        running.start()
        assert all(gate.arrived.acquire(timeout=10) for _ in range(LANES))
        stop.set()
        gate.opened.set()
        running.join(10)
        assert not running.is_alive()
        assert delivering.status().state is State.STOPPED
        cursor = delivering.cursor_file.load()
    assert (len(sink.requests), cursor.pending) == (LANES, ())


class Mistaken:
    """A destination whose module fails as none may."""

    limits = LIMITS

    def measure(self, _: object) -> int:
        """Return anything."""
        return 1

    def encode(self, entries: Sequence[object]) -> Payload:
        """Fail."""
        raise ZeroDivisionError(len(entries))

    def send(self, payload: Payload) -> Outcome:
        """Do nothing."""
        raise NotImplementedError(payload)

    def close(self) -> None:
        """Do nothing."""


def test_a_mistake_in_a_module_halts_its_destination_and_frees_its_lanes(data_directory, sink, sealed) -> None:
    """It is shown, tried again rarely, and nothing is lost once the module is mended."""
    made = Bench(data_directory, Mistaken(), Mistaken(), limits=LIMITS)
    assert made.delivery._guarded(made.delivery.step) == 300.0
    assert (made.status().state, made.status().error) == (State.HALTED, "internal: ZeroDivisionError")
    made.close()
    with bench(data_directory, sink.url, lanes=LANES, limits=LIMITS) as delivering:
        delivering.deliver()
    assert sorted(sink.ids()) == sorted(sealed)
    assert options(sink.url).name == made.status().name


class TestWindow:
    """A destination that would take nothing older than ten days."""

    LIMITS = Limits(entries=100, encoded_bytes=10**7, oldest_seconds=864_000)

    @pytest.mark.parametrize(("days", "is_closing"), [(1, False), (7, False), (9, True), (11, True)])
    def test_an_alarm_before_the_window_closes(self, data_directory, sink, sealed, days, is_closing) -> None:
        """While the destination is away: from three quarters of the window on, until what waits was taken."""
        sink.planned.append(Answer(503))
        with bench(data_directory, sink.url, limits=self.LIMITS) as delivering:
            delivering.now_us = EVENT_US + days * 86_400 * 10**6
            delivering.delivery.step()
            status = delivering.status()
            assert status.is_window_closing(delivering.now_us) is is_closing
            assert status.window_left(delivering.now_us) == pytest.approx((10 - days) * 86_400, abs=2)
            delivering.deliver()
            assert delivering.status().window_left(delivering.now_us) is None
