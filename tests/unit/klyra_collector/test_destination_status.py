"""Status files, and the lag that is measured with them."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from klyra_collector.data_directory import DataDirectory
from klyra_collector.destination_status import (
    DestinationMeter,
    DestinationStatus,
    State,
    read_statuses,
    write_status,
)
from klyra_collector.query.metrics import Followers, QueryMetrics
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.store.lag import Lag
from support.entries import ORIGIN, TODAY_US, MemoryLedger, document
from support.records import record, submission
from support.sealing import MIDSUMMER_US, SetClock, open_ledger

STATUS = DestinationStatus(name="back", kind="otlp", endpoint="http://h/", skipped={"control": 1})
NEXT = ORIGIN.replace("2026", "2027")


def test_it_comes_back_as_it_was(tmp_path) -> None:
    """Whoever reads the files sees what was written."""
    write_status(tmp_path, STATUS)
    write_status(tmp_path, replace(STATUS, name="a", state=State.PAUSED))
    assert read_statuses(tmp_path) == [replace(STATUS, name="a", state=State.PAUSED), STATUS]


def test_a_file_that_cannot_be_read_is_left_out(tmp_path) -> None:
    """A status is a hint: one of another version or in pieces stops nobody."""
    write_status(tmp_path, STATUS)
    for name, content in (("b", "{}"), ("c", '{"state":"unheard of"}'), ("d", "")):
        (tmp_path / f"{name}.status.json").write_text(content)
    assert read_statuses(tmp_path) == [STATUS]


def test_lag_over_shards(tmp_path) -> None:
    """What is behind counts over all shards from the cursor's on, and its age is that of the oldest of it."""
    ledger = MemoryLedger(ORIGIN, NEXT)
    for number, origin in enumerate((ORIGIN, ORIGIN, ORIGIN, NEXT, NEXT)):
        ledger.seal(document(number), origin=origin, ingest_us=TODAY_US + number * 1_000_000)
    meter = DestinationMeter(tmp_path, ["back"], ledger, lambda: TODAY_US + 10_000_000)
    for origin, index, entries, seconds in (
        ("", 0, 5, 10),
        (ORIGIN, 2, 3, 8),
        (ORIGIN, 3, 2, 7),
        (NEXT, 1, 1, 6),
        (NEXT, 2, 0, 0),
    ):
        write_status(tmp_path, replace(STATUS, origin=origin, index=index))
        [measured] = meter.measure()
        assert (measured.lag_entries, measured.lag_seconds) == (entries, seconds)


def test_what_organizations_have_set_up_is_measured_too(tmp_path) -> None:
    """The operator sees it beside the configured ones, not what a former one of these left behind."""
    ledger = open_ledger(tmp_path, SetClock())
    ledger.commit([submission(record())])
    ledger.close()
    data = DataDirectory(tmp_path)
    data.cursors.mkdir()
    for name in ("back", "former", "dst-abcdefghijkl"):
        write_status(data.cursors, replace(STATUS, name=name))
    with contextlib.closing(LedgerReader(data.ledger)) as reader:
        measured = DestinationMeter(data.cursors, ["back"], reader, lambda: MIDSUMMER_US).measure()
    assert [one.name for one in measured] == ["back", "dst-abcdefghijkl"]


def test_metrics(tmp_path) -> None:
    """Lag, counts and alarms of every configured destination."""
    ledger = open_ledger(tmp_path, SetClock())
    ledger.commit([submission(record())])
    ledger.close()
    data = DataDirectory(tmp_path)
    data.cursors.mkdir()
    write_status(data.cursors, replace(STATUS, state=State.PAUSED, entries=7, retried=2, dead_letters=1))
    with contextlib.closing(LedgerReader(data.ledger)) as reader:
        meter = DestinationMeter(data.cursors, ["back"], reader, lambda: MIDSUMMER_US)
        metrics = QueryMetrics()
        metrics.watch(Followers(lambda: Lag(0, 0.0), meter.measure))
        lines = metrics.render()[0].decode().splitlines()
        behind = reader.committed(reader.origins()[0])
    for line in (
        f'klyra_follower_lag_entries{{follower="back"}} {float(behind)}',
        'klyra_destination_entries{destination="back"} 7.0',
        'klyra_destination_failures{destination="back"} 2.0',
        'klyra_destination_dead_letters{destination="back"} 1.0',
        'klyra_destination_paused{destination="back"} 1.0',
        'klyra_destination_halted{destination="back"} 0.0',
        'klyra_destination_circuit_open{destination="back"} 0.0',
        'klyra_destination_window_left_seconds{destination="back"} +Inf',
    ):
        assert line in lines
