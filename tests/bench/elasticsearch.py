"""From the ledger into Elasticsearch: into one that takes everything and keeps nothing, and into a real one.

"Per core" divides by the processor time of this process, which reads, checks, makes documents, compresses and sends;
the far side is a process of its own.
"""

from __future__ import annotations

import contextlib
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
from klyra_collector.store.elasticsearch.assembly import Surroundings, following
from klyra_collector.store.elasticsearch.connection import connect, parse
from klyra_collector.store.elasticsearch.definitions import Retained, definitions
from klyra_collector.store.elasticsearch.effective import make_ready
from klyra_collector.store.elasticsearch.setup import plan
from klyra_collector.store.follower import Follower
from klyra_collector.supervise.roles import collect_rarely
from support import elasticsearch
from support.records import record, submission
from support.sealing import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BATCH = 512
_OUTAGE_EVENTS = 3600 * 2000  # of one hour at 2,000 events/s


def into_elasticsearch(root: Path, events: int, say: Callable[[str], None]) -> None:
    """Seal events, then follow them into both."""
    collect_rarely()  # as the follower's process does
    data = DataDirectory(root / "data")
    _seal(data, events)
    with _nothing() as url:
        say(f"\nledger to Elasticsearch, {events} events")
        _follow(data, f"elasticsearch+{url}", events, "one that keeps nothing", say)
    if elasticsearch.front() is None:
        say("  no real Elasticsearch here: make peers")
        return
    with elasticsearch.guarded() as node:
        (root / "password").write_text(node.password)
        url = f"{node.store_url}?user=elastic&password=file:{root / 'password'}"
        with connect(parse(url)) as client:
            make_ready(client, plan(client, definitions([Retained("startup", 30)])), lambda _: None, lambda _: None)
        _follow(data, url, events, "a real one, on the same machine", say)


def _follow(data: DataDirectory, url: str, events: int, whom: str, say: Callable[[str], None]) -> None:
    (data.cursors / "store.json").unlink(missing_ok=True)
    around = Surroundings(data=data, destinations=(), witnessed_s=lambda: None, wall_us=SystemClock().wall_us)
    with (
        contextlib.closing(LedgerReader(data.ledger)) as reader,
        following(url, ElasticsearchSettings(), around) as store,
    ):
        follower = Follower(reader, store)
        used, began = time.process_time(), time.perf_counter()
        while follower.step():
            pass
        used, seconds = time.process_time() - used, time.perf_counter() - began
    say(f"  {events / used:10,.0f} events/s per core into {whom}, {events / seconds:,.0f} by the clock")
    say(f"             an outage of an hour at 2,000 events/s is caught up with in {_caught_up(events / seconds)}")


def _caught_up(rate: float) -> str:
    """Return how long it takes while as many come on."""
    if rate <= 2000:
        return "never"
    return f"{_OUTAGE_EVENTS / (rate - 2000) / 60:.0f} min"


def _seal(data: DataDirectory, events: int) -> None:
    now = timestamps.from_microseconds(time.time_ns() // 1000)
    disk = Disk()
    with contextlib.closing(disk), contextlib.closing(Ledger.open(data, disk, SystemClock(), OPTIONS)) as ledger:
        for _ in range(events // _BATCH):
            ledger.commit([submission(*(record(timestamp=now) for _ in range(_BATCH)))])


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
