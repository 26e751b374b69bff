"""Measure and print; nothing here passes or fails: `make bench`.

The collector runs as its own process. "Per core" divides events by the processor time that process used, so that
the client beside it does not count; wall-clock figures include both.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil

from bench.destinations import to_destinations
from bench.elasticsearch import into_elasticsearch
from bench.emitting import emitting
from bench.published import published
from bench.side_by_side import all_at_once, one_is_down
from klyra_audit import ids
from klyra_audit.mapping.table import MappingTable
from klyra_audit.timestamps import day_of
from klyra_collector.data_directory import DataDirectory
from klyra_collector.receive.opening import RequestOpener
from klyra_collector.receive.senders import Sender
from klyra_collector.receive.wire import decode_protobuf
from klyra_collector.seal.clock import SystemClock
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.ledger import Ledger
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.stages import Submission, Tenancy
from klyra_collector.store.follower import Follower
from klyra_collector.store.searching import Filters, Search
from klyra_collector.store.sqlite import SqliteStore
from klyra_collector.validate.judge import judge
from klyra_collector.verify import Options, verify_target
from support import collector, otlp
from support.records import STARTUP, record, submission
from support.sealing import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = 512
MICROSECONDS = 1e6
ACME = Tenancy("org_acme", "startup", "startup", 30)


def main() -> None:
    """Run every measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=200, help="batches of 512 to send (default 200)")
    parser.add_argument("--clients", type=int, default=2, help="concurrent connections (default 2)")
    parser.add_argument("--emitted", type=int, default=20_000, help="events to emit each way (default 20000)")
    parser.add_argument("--published", type=int, default=1_000_000, help="leaves to prove from (default 1000000)")
    parser.add_argument("--stored", type=int, default=100_000, help="events to Elasticsearch (default 100000)")
    parser.add_argument("--delivered", type=int, default=20_480, help="events to each destination (default 20480)")
    parser.add_argument("--rate", type=int, default=5_000, help="events/s to all destinations (default 5000)")
    options = parser.parse_args()
    say(f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    say(f"load average before: {os.getloadavg()[0]:.1f} (figures of a busy machine are worse)")
    with tempfile.TemporaryDirectory() as folder:
        intake(Path(folder) / "intake", options.batches, options.clients)
    with tempfile.TemporaryDirectory() as folder:
        emitting(Path(folder), options.emitted, say)
    with tempfile.TemporaryDirectory() as folder:
        stages(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        follower_and_page(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        into_elasticsearch(Path(folder), options.stored, say)
    with tempfile.TemporaryDirectory() as folder:
        to_destinations(Path(folder) / "data", options.delivered, say)
    with tempfile.TemporaryDirectory() as folder:
        all_at_once(Path(folder) / "data", options.rate, 10, say)
    with tempfile.TemporaryDirectory() as folder:
        one_is_down(Path(folder) / "data", options.stored, say)
    with tempfile.TemporaryDirectory() as folder:
        verification(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        published(Path(folder), options.published, say)


def intake(root: Path, batches: int, clients: int) -> None:
    """Send our own form over OTLP/HTTP, durable and acknowledged."""
    bodies = _bodies(batches + clients)
    started = collector.start(root, collector.make_keys(root))
    process = psutil.Process(started.process.pid)
    headers = {
        "Authorization": f"Bearer {started.keys['org_acme']}",
        "Content-Type": "application/x-protobuf",
    }
    try:
        with httpx.Client(base_url=started.url, headers=headers, timeout=60) as client:
            for body in bodies[:clients]:
                client.post("/v1/logs", content=body).raise_for_status()
            before, began = process.cpu_times(), time.perf_counter()
            with ThreadPoolExecutor(clients) as threads:
                latencies = sorted(threads.map(lambda body: _post(client, body), bodies[clients:]))
            seconds, after = time.perf_counter() - began, process.cpu_times()
            resident = process.memory_info().rss >> 20
    finally:
        started.terminate()
    events = batches * BATCH
    used = after.user + after.system - before.user - before.system
    say(f"\nintake: {batches} batches of {BATCH} in our own form, {len(bodies[0]) // BATCH} bytes an event")
    say(f"  {events / used:10,.0f} events/s per core  ({used / events * MICROSECONDS:.1f} us of processor an event)")
    say(f"  {events / seconds:10,.0f} events/s by the clock, {clients} clients on the same machine")
    say(f"  p50 {_quantile(latencies, 0.5) * 1e3:.1f} ms, p99 {_quantile(latencies, 0.99) * 1e3:.1f} ms a batch")
    say(f"  {resident} MiB resident at the end")


def stages(root: Path) -> None:
    """Time each stage of the path alone, in this process."""
    body = _bodies(1)[0]
    sender = Sender("key_bench", "org_acme", ())
    wire = decode_protobuf(body)
    opener = RequestOpener(sender, body, time.time_ns() // 1000, MappingTable(otlp.CATALOG))
    candidates = [opener.open(item, number) for number, item in enumerate(wire)]
    now_us = opener.received_us
    say(f"\nstages, us an event in batches of {BATCH}")
    _timed("receive: decode protobuf", lambda: decode_protobuf(body))
    _timed("receive: open, check canonical, split", lambda: [opener.open(item, 0) for item in wire])
    _timed(
        "validate and commit to sections", lambda: [judge(item, ACME, otlp.VALIDATOR, now_us) for item in candidates]
    )
    _seal_stage(root)


def _seal_stage(root: Path) -> None:
    disk = Disk()
    ledger = Ledger.open(DataDirectory(root), disk, SystemClock(), OPTIONS)
    submissions = [_submission() for _ in range(60)]
    began = time.perf_counter()
    for item in submissions:
        ledger.commit([item])
    sealing = time.perf_counter() - began
    began = time.perf_counter()
    ledger.sign()
    signing = time.perf_counter() - began
    events = 60 * BATCH
    say(f"  {sealing / events * MICROSECONDS:8.2f}  seal: leaves, frames, two fdatasync a batch")
    say(f"  {signing / events * MICROSECONDS:8.2f}  checkpoint and recent ids")
    ledger.close()
    disk.close()


def follower_and_page(root: Path) -> None:
    """Follow a ledger into the SQLite store, then read filtered pages of it."""
    data, disk = DataDirectory(root), Disk()
    ledger = Ledger.open(data, disk, SystemClock(), OPTIONS)
    for _ in range(100):
        ledger.commit([_submission()])
    ledger.close()
    disk.close()
    reader = LedgerReader(data.ledger)
    store = SqliteStore.open(data.store)
    follower = Follower(reader, store)
    began, rows = time.perf_counter(), 0
    while moved := follower.step():
        rows += moved
    seconds = time.perf_counter() - began
    say(f"\nSQLite follower: {rows / seconds:10,.0f} rows/s ({rows:,} rows)")
    _page(store)
    store.close()
    reader.close()


def verification(root: Path) -> None:
    """Verify a ledger in one process: whole, and only its leaves, chains and tree."""
    disk = Disk()
    ledger = Ledger.open(DataDirectory(root), disk, SystemClock(), OPTIONS)
    for _ in range(200):
        ledger.commit([_submission()])
    ledger.close()
    disk.close()
    seconds, records = _verified(root)
    say(f"\nverify: {records / seconds:10,.0f} records/s per core, with bodies ({records:,} records)")
    shutil.rmtree(next((root / "ledger").glob("*/bodies")))
    bare, _ = _verified(root)
    say(f"        {records / bare:10,.0f} records/s per core, leaves, chains and tree")


def _verified(root: Path) -> tuple[float, int]:
    """Return seconds of processor time that a verification takes, and how many records there are."""
    began = time.process_time()
    (shard,) = verify_target(root, Options(limit_findings=0)).shards
    return time.process_time() - began, shard.size or 0


def _page(store: SqliteStore) -> None:
    """Time a filtered page of 100, newest first, as the API asks the store for it."""
    filters = Filters(event_types=("moderation.created",), actor_ids=("key_1",), status=("success",))
    today = day_of(SystemClock().wall_us())
    search = Search(organization_id=STARTUP.organization_id, filters=filters, today=today)
    times = []
    for _ in range(50):
        began = time.perf_counter()
        found = store.search(search, 100)
        times.append(time.perf_counter() - began)
    median = statistics.median(times)
    say(f"page of {len(found)} with three filters: p50 {median * 1e3:.2f} ms, max {max(times) * 1e3:.2f} ms")


def _submission() -> Submission:
    return submission(*[record(STARTUP) for _ in range(BATCH)])


def _bodies(count: int) -> list[bytes]:
    boot = str(ids.new_uuid7())
    return [
        otlp.own_form(*[otlp.prepared() for _ in range(BATCH)], first=number * BATCH, boot=boot)
        for number in range(count)
    ]


def _post(client: httpx.Client, body: bytes) -> float:
    began = time.perf_counter()
    client.post("/v1/logs", content=body).raise_for_status()
    return time.perf_counter() - began


def _timed(name: str, work: Callable[[], Any], rounds: int = 20) -> None:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    say(f"  {statistics.median(times) / BATCH * MICROSECONDS:8.2f}  {name}")


def _quantile(ascending: list[float], share: float) -> float:
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]


def say(text: str) -> None:
    """Print one line."""
    print(text, flush=True)  # noqa: T201 - a report is what this program is for


if __name__ == "__main__":
    main()
