"""The embedded store behind a real ledger, and behind a follower that is killed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import orjson
import pytest

from klyra_audit import timestamps
from klyra_collector.data_directory import DataDirectory
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.store.follower import Follower
from klyra_collector.store.searching import Filters, Search
from klyra_collector.store.sqlite import SqliteStore
from support.records import BUSINESS, STARTUP, bad, record, submission
from support.sealing import MIDSUMMER_US, SetClock, open_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COUNT = 2000
FOLLOW = """
import sys, threading
from pathlib import Path
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.store.follower import Follower
from klyra_collector.store.sqlite import SqliteStore

Follower(LedgerReader(Path(sys.argv[1])), SqliteStore.open(Path(sys.argv[2])), batch=25).run(threading.Event())
"""


@pytest.fixture
def data(data_directory: Path) -> DataDirectory:
    """A data directory whose ledger holds events of two organizations, and one input that is none."""
    ledger = open_ledger(data_directory, SetClock())
    for first in range(0, COUNT, 500):
        numbers = range(first, first + 500)
        items = [record(STARTUP if number % 2 else BUSINESS, resource=resource(number)) for number in numbers]
        ledger.commit([submission(*items, bad(raw=b"%d is no event" % first))])
    ledger.close()
    return DataDirectory(data_directory)


@pytest.fixture
def store(data: DataDirectory) -> Iterator[SqliteStore]:
    """The data directory's store."""
    with contextlib.closing(SqliteStore.open(data.store)) as opened:
        yield opened


def resource(number: int) -> dict[str, object]:
    """Return a resource that tells an event's number."""
    return {"type": "moderation", "id": f"mod_{number}", "name": None}


def stored(store: SqliteStore) -> list[int]:
    """Return the numbers of all events in the store, in ledger order."""
    found = [
        item
        for tenancy in (STARTUP, BUSINESS)
        for item in store.search(
            Search(
                organization_id=tenancy.organization_id,
                filters=Filters(),
                today=timestamps.day_of(MIDSUMMER_US),
            ),
            COUNT,
        )
    ]
    found.sort(key=lambda item: item.key.index)
    return [int(orjson.loads(item.entry)["resource"]["id"].removeprefix("mod_")) for item in found]


def follow(data: DataDirectory, store: SqliteStore) -> None:
    """Follow to the end."""
    with contextlib.closing(LedgerReader(data.ledger)) as reader:
        follower = Follower(reader, store)
        while follower.step():
            pass


def test_a_store_holds_what_the_ledger_has(data: DataDirectory, store: SqliteStore) -> None:
    """Every event that was sealed is found once, in order; control records and quarantine are not entries."""
    follow(data, store)
    assert stored(store) == list(range(COUNT))
    with contextlib.closing(LedgerReader(data.ledger)) as reader:
        (origin,) = reader.origins()
        assert store.snapshot() == {origin: reader.committed(origin)}
        assert reader.committed(origin) > COUNT


def test_a_follower_killed_at_any_moment_loses_and_repeats_nothing(data: DataDirectory, store: SqliteStore) -> None:
    """After each kill the rows are exactly those before the cursor, and the next follower goes on from there."""
    for _ in range(3):
        before = sum(store.snapshot().values())
        command = [sys.executable, "-c", FOLLOW, str(data.ledger), str(data.store)]
        with subprocess.Popen(command) as process:
            while sum(store.snapshot().values()) == before and process.poll() is None:
                time.sleep(0.001)
            process.kill()
        found = stored(store)
        assert found == list(range(len(found)))
        assert before < sum(store.snapshot().values())
    follow(data, store)
    assert stored(store) == list(range(COUNT))
