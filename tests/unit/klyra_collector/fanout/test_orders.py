"""An operator's word to a delivery: pause, resume, replay, and what a crash leaves of it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from klyra_collector.cli.destinations import app
from klyra_collector.destination_status import State
from klyra_collector.fanout.cursor import Cursor
from klyra_collector.fanout.orders import PAUSED, REPLAY, OrderDamaged, Pause
from klyra_collector.fanout.replaying import NothingToReplay, check_place, place_at
from support import sink as sinks
from support.delivering import NAME, bench
from support.records import STARTUP, record, submission
from support.sealing import MIDSUMMER_US, SetClock, open_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.sink import Sink

CONFIG = '[[destination]]\nname = "back"\nendpoint = "http://127.0.0.1:1/v1/logs"\n'


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A receiver."""
    with sinks.listening() as made:
        yield made


@pytest.fixture
def sealed(data_directory: Path) -> list[str]:
    """Ten entries, a minute apart; their ids."""
    clock = SetClock()
    ledger = open_ledger(data_directory, clock)
    items = [record(STARTUP) for _ in range(10)]
    for item in items:
        ledger.commit([submission(item)])
        clock.pass_seconds(60)
    ledger.close()
    return [item.record_id for item in items]


def told(data: Path, *words: str) -> tuple[int, str]:
    """Run a command on a data directory; return exit status and words."""
    config = data / "klyra-audit.toml"
    config.write_text(CONFIG)
    done = CliRunner().invoke(app, [*words, "--config", str(config), "--data", str(data)])
    return done.exit_code, done.output


def test_a_paused_destination_gets_nothing_until_it_is_resumed(data_directory, sink, sealed) -> None:
    """The list says who paused it and why; what waited is delivered then."""
    with bench(data_directory, sink.url) as delivering:
        assert told(data_directory, "pause", NAME, "--reason", "moving house") == (0, "back is paused.\n")
        assert delivering.delivery.step() == 300.0
        status = delivering.status()
        assert (status.state, status.error) == (State.PAUSED, "operator: moving house")
        assert sink.requests == []
        assert told(data_directory, "resume", NAME) == (0, "back goes on.\n")
        delivering.deliver()
        assert delivering.status().state is State.DELIVERING
    assert sink.ids() == sealed
    assert told(data_directory, "resume", NAME) == (0, "back was not paused.\n")


def test_a_running_delivery_hears_it_soon(data_directory, sink, sealed) -> None:
    """It does not wait for five minutes before it looks."""
    stop = threading.Event()
    with bench(data_directory, sink.url) as delivering:
        delivering.orders.pause(Pause("for a moment", MIDSUMMER_US))
        running = threading.Thread(target=delivering.delivery.run, args=(stop,))
        running.start()
        time.sleep(0.3)
        assert sink.requests == []
        delivering.orders.resume()
        deadline = time.monotonic() + 20
        while len(sink.ids()) < len(sealed) and time.monotonic() < deadline:
            time.sleep(0.05)
        stop.set()
        running.join(20)
    assert sink.ids() == sealed


def test_a_replay_delivers_again(data_directory, sink, sealed) -> None:
    """From the first record that was sealed then, in order, under the same ids; once."""
    with bench(data_directory, sink.url) as delivering:
        delivering.deliver()
        status, said = told(data_directory, "replay", NAME, "--from", "2026-06-21T00:05:00Z")
        assert status == 0
        assert "delivers again from record" in said
        delivering.deliver()
        delivering.deliver()
    again = sink.ids()[len(sealed) :]
    assert again == sealed[-len(again) :]
    assert 0 < len(again) < len(sealed)
    assert not (data_directory / "cursors" / f"{NAME}{REPLAY}").exists()


def test_a_crash_before_the_order_is_forgotten(data_directory, sink, sealed) -> None:
    """The same is delivered once more: nothing is left out."""
    with bench(data_directory, sink.url) as delivering:
        delivering.deliver()
        origin = delivering.reader.origins()[0]
        delivering.orders.replay(Cursor(origin, 0))
        delivering.orders.replay_done = lambda: None  # type: ignore[method-assign] - the process ends here
        delivering.delivery.step()
    with bench(data_directory, sink.url) as delivering:
        delivering.deliver()
    assert sink.ids()[-len(sealed) :] == sealed


@pytest.mark.parametrize("suffix", [PAUSED, REPLAY])
def test_an_order_that_cannot_be_read_stops_the_delivery(data_directory, sink, sealed, suffix) -> None:
    """Nobody knows what was meant: it waits for the operator, and says which file it is."""
    with bench(data_directory, sink.url) as delivering:
        (data_directory / "cursors" / f"{NAME}{suffix}").write_text("{")
        with pytest.raises(OrderDamaged) as caught:
            delivering.delivery.step()
    assert caught.value.code == "order_damaged"
    assert "Delete it" in caught.value.remedy
    assert sink.requests == []


def test_places_that_are_none(data_directory, sink, sealed) -> None:
    """Records that are not there, times after everything, and what is still to come are refused with what to do."""
    with bench(data_directory, sink.url) as delivering:
        reader = delivering.reader
        origin = reader.origins()[0]
        with pytest.raises(NothingToReplay, match="Nothing was sealed since then"):
            place_at(reader, MIDSUMMER_US + 10**12)
        for place in (Cursor("another/1/2026", 0), Cursor(origin, 10**6), Cursor(origin, -1)):
            with pytest.raises(NothingToReplay, match="There is no record") as caught:
                check_place(reader, place, Cursor(origin, 5))
            assert caught.value.code == "nothing_to_replay"
            assert origin in caught.value.remedy
        for stands in (None, Cursor(origin, 3)):
            with pytest.raises(NothingToReplay, match="has not come that far"):
                check_place(reader, Cursor(origin, 4), stands)
        check_place(reader, Cursor(origin, 4), Cursor(origin, 5))


def test_a_replay_must_say_from_where(data_directory, sealed) -> None:
    """And a time must be one; a destination that is not configured is named."""
    assert told(data_directory, "replay", NAME)[0] == 2
    assert "is no time" in told(data_directory, "replay", NAME, "--from", "yesterday")[1]
    status, said = told(data_directory, "pause", "other")
    assert (status, "there is back" in said) == (2, True)
