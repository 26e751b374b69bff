"""All kinds of destinations at once while events are sealed; and one that is down, in memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from typing import TYPE_CHECKING

import psutil

from bench.destinations import KINDS, nothing, seal, signing_key
from klyra_audit import timestamps
from klyra_collector.data_directory import DataDirectory
from klyra_collector.destination_status import DestinationMeter
from klyra_collector.seal.clock import SystemClock
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.ledger import Ledger
from klyra_collector.seal.reader import LedgerReader
from support.delivering import Bench
from support.ports import free_ports
from support.records import record, submission
from support.sealing import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from klyra_siem.destination import Destination

_BATCH = 100
_WARM_RECORDS = 2048


def all_at_once(root: Path, rate: int, seconds: int, say: Callable[[str], None]) -> None:
    """Seal at a steady rate, deliver to every kind from one process, and say how far behind each is."""
    data = DataDirectory(root)
    seal(data, _WARM_RECORDS)
    key = signing_key(data)
    with nothing() as url, delivering(root, {kind: make(url, "native", key) for kind, make in KINDS.items()}):
        before, began = time.process_time(), time.monotonic()
        sealing = multiprocessing.get_context("spawn").Process(target=seal_steadily, args=(root, rate, seconds))
        sealing.start()
        sealing.join()
        worst = max(measured(data), key=lambda pair: pair[1])
        while any(entries for entries, _ in measured(data)):
            time.sleep(0.2)
        took, used = time.monotonic() - began, time.process_time() - before
    delivered = len(KINDS) * rate * seconds
    say(f"\n{rate:,} events/s sealed for {seconds} s, all {len(KINDS)} kinds delivered to by one process beside it")
    say(f"  {worst[0]:10,} records, {worst[1]:.1f} s behind at the end of sealing (the slowest)")
    say(f"  {delivered / took:10,.0f} entries/s by the clock, {delivered / used:,.0f} per core")


def one_is_down(root: Path, events: int, say: Callable[[str], None]) -> None:
    """Let a ledger grow behind a destination that nobody answers for, and say what that costs in memory."""
    data = DataDirectory(root)
    seal(data, _WARM_RECORDS)
    key = signing_key(data)
    [port] = free_ports(1)
    made = KINDS["splunk"](f"http://127.0.0.1:{port}", "native", key)
    with delivering(root, {"splunk": made}):
        time.sleep(1)
        process = psutil.Process()
        before = process.memory_info().rss
        seal(data, events)
        time.sleep(2)
        [(behind, _)] = measured(data)
        grown = (process.memory_info().rss - before) / 2**20
    say(f"\na destination that is down, {behind:,} records behind (an hour at {behind / 3600:,.0f} events/s)")
    say(f"  {grown:10.1f} MiB more resident, sealing them in the same process included")


@contextlib.contextmanager
def delivering(root: Path, destinations: dict[str, Destination]) -> Iterator[None]:
    """Run deliveries until the block ends."""
    stop = threading.Event()
    benches = [Bench(root, one, limits=one.limits, name=name, linger_seconds=1.0) for name, one in destinations.items()]
    for one in benches:
        one.now_us = time.time_ns() // 1000
        one.today = timestamps.day_of(one.now_us)
    threads = [threading.Thread(target=one.delivery.run, args=(stop,)) for one in benches]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for one in benches:
            one.close()


def measured(data: DataDirectory) -> list[tuple[int, float]]:
    """Return records and seconds that each destination is behind."""
    names = [path.name.partition(".")[0] for path in data.cursors.glob("*.status.json")]
    with contextlib.closing(LedgerReader(data.ledger)) as reader:
        found = DestinationMeter(data.cursors, names, reader, lambda: time.time_ns() // 1000).measure()
    return [(one.lag_entries, one.lag_seconds) for one in found]


def seal_steadily(root: Path, rate: int, seconds: int) -> None:
    """Seal so many events a second, for so long."""
    with (
        contextlib.closing(Disk()) as disk,
        contextlib.closing(Ledger.open(DataDirectory(root), disk, SystemClock(), OPTIONS)) as ledger,
    ):
        began = time.monotonic()
        for number in range(rate * seconds // _BATCH):
            now = timestamps.from_microseconds(time.time_ns() // 1000)
            ledger.commit([submission(*(record(timestamp=now) for _ in range(_BATCH)))])
            time.sleep(max(0.0, began + (number + 1) * _BATCH / rate - time.monotonic()))
