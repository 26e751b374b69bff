"""From the ledger into Elasticsearch: into one that takes everything and keeps nothing, and into a real one.

"Per core" divides by the processor time of this process, which reads, checks, makes documents, compresses and sends;
the far side is a process of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from klyra_audit import timestamps
from klyra_collector.data_directory import DataDirectory
from klyra_collector.elasticsearch_settings import ElasticsearchSettings
from klyra_collector.seal.clock import SystemClock
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.ledger import Ledger
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.store.addresses import range_of
from klyra_collector.store.elasticsearch.assembly import Surroundings, following
from klyra_collector.store.elasticsearch.reader import ElasticsearchReader
from klyra_collector.store.follower import Follower
from klyra_collector.store.searching import Filters, Search
from klyra_collector.supervise.roles import collect_rarely
from support import elasticsearch
from support.elasticsearch_following import keyed_urls, prepared
from support.records import STARTUP, record, submission
from support.sealing import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from klyra_collector.stages import Record

_BATCH = 512
_ACTORS = 997
_PAGES = 200
_EXPORTED = 100_000
_OUTAGE_EVENTS = 3600 * 2000  # of one hour at 2,000 events/s


def into_elasticsearch(root: Path, events: int, say: Callable[[str], None]) -> None:
    """Seal events, then follow them into both."""
    collect_rarely()  # as the follower's process does
    data = DataDirectory(root / "data")
    _seal(data, events)
    with _nothing() as url:
        say(f"\nledger to Elasticsearch, {events} events")
        _follow(data, f"elasticsearch+{url}", ElasticsearchSettings(), events, "one that keeps nothing", say)
    if elasticsearch.front() is None:
        say("  no real Elasticsearch here: make peers")
        return
    with elasticsearch.guarded() as node, prepared(node, root) as keys:
        write, read, sweep = keyed_urls(keys.administrator, node, root)
        settings = ElasticsearchSettings(write_url=write, sweep_url=sweep)
        _follow(data, read, settings, events, "a real one, on the same machine", say)
        keys.refresh()
        _read(ElasticsearchReader(keys.reader, data.cursors), LedgerReader(data.ledger), say)


def _follow(
    data: DataDirectory, url: str, settings: ElasticsearchSettings, events: int, whom: str, say: Callable[[str], None]
) -> None:
    """Follow the whole ledger from the start."""
    (data.cursors / "store.json").unlink(missing_ok=True)
    around = Surroundings(data=data, destinations=(), witnessed_s=lambda: None, wall_us=SystemClock().wall_us)
    with (
        contextlib.closing(LedgerReader(data.ledger)) as reader,
        following(url, settings, around) as store,
    ):
        follower = Follower(reader, store)
        used, began = time.process_time(), time.perf_counter()
        while follower.step():
            pass
        used, seconds = time.process_time() - used, time.perf_counter() - began
    say(f"  {events / used:10,.0f} events/s per core into {whom}, {events / seconds:,.0f} by the clock")
    say(f"             an outage of an hour at 2,000 events/s is caught up with in {_caught_up(events / seconds)}")


def _read(reader: ElasticsearchReader, ledger: LedgerReader, say: Callable[[str], None]) -> None:
    """Time filtered pages of 100, newest first, each with other filters, and an export of all entries."""
    snapshot = {origin: ledger.committed(origin) for origin in ledger.origins()}
    chance = random.Random(3)  # noqa: S311 - the same pages on every run
    times, found = [], 0
    for _ in range(_PAGES):
        search = _search(_filters(chance), snapshot)
        began = time.perf_counter()
        found += len(reader.search(search, 100))
        times.append(time.perf_counter() - began)
    times.sort()
    say(f"  filtered page of 100 at most ({found / _PAGES:.0f} on average), {_PAGES} of them, each other filters:")
    say(f"             p50 {times[_PAGES // 2] * 1e3:.1f} ms, p95 {times[_PAGES * 95 // 100] * 1e3:.1f} ms")
    began = time.perf_counter()
    with reader.export(_search(Filters(), snapshot)) as entries:
        exported = sum(1 for _ in itertools.islice(entries, _EXPORTED))
    seconds = time.perf_counter() - began
    say(f"  {exported / seconds:10,.0f} entries/s exported ({exported:,} entries)")
    ledger.close()


def _search(filters: Filters, snapshot: Mapping[str, int]) -> Search:
    today = timestamps.day_of(SystemClock().wall_us())
    return Search(organization_id=STARTUP.organization_id, filters=filters, today=today, snapshot=snapshot)


def _filters(chance: random.Random) -> Filters:
    """Draw two or three filters, as somebody who looks for something sets them."""
    return Filters(
        event_types=chance.choice((("moderation.created",), ())),
        actor_ids=(f"key_{chance.randrange(_ACTORS)}",),
        status=chance.choice((("success",), ("failure",))),
        client_ip=chance.choice((None, range_of("198.51.100.0/25"))),
    )


def _caught_up(rate: float) -> str:
    """Return how long it takes while as many come on."""
    if rate <= 2000:
        return "never"
    return f"{_OUTAGE_EVENTS / (rate - 2000) / 60:.0f} min"


def _seal(data: DataDirectory, events: int) -> None:
    disk = Disk()
    with contextlib.closing(disk), contextlib.closing(Ledger.open(data, disk, SystemClock(), OPTIONS)) as ledger:
        for first in range(0, events - events % _BATCH, _BATCH):
            ledger.commit([submission(*(_event(first + number) for number in range(_BATCH)))])


def _event(number: int) -> Record:
    """Return one of many actors' events, from many addresses."""
    return record(
        STARTUP,
        timestamp=timestamps.from_microseconds(time.time_ns() // 1000),
        actor={"type": "api_key", "id": f"key_{number % _ACTORS}", "name": None},
        status="failure" if number % 10 == 0 else "success",
        metadata={"content_type": "text", "client_ip": f"198.51.100.{number % 251}"},
    )


@contextlib.contextmanager
def _nothing() -> Iterator[str]:
    """Run an Elasticsearch that takes everything and keeps nothing."""
    command = [sys.executable, str(Path(__file__).with_name("null_elasticsearch.py"))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()
