"""Measure the emitter beside the OpenTelemetry SDK's own `BatchLogRecordProcessor`, in the same run.

Both send the same event to the same collector. The SDK's call puts a record into a bounded queue in memory; the
emitter's returns when the event is fsynced on this machine, so what one call waits for is the disk's, shared by all
threads that wait with it. "Processor" is what a call costs the caller's thread; by the clock, the wait is in it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

from klyra_audit import Actor, AuditEmitter, events
from klyra_audit.catalog import Catalog
from klyra_audit.format.keys import SigningKey
from klyra_audit.format.leaf import Kind
from klyra_collector.data_directory import DataDirectory
from klyra_collector.registry import Registry
from support import collector, forward
from support.collector import ACME

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = SigningKey.from_seed("bench", bytes(range(32)))
MICROSECONDS = 1e6
NAME = "bench"


def emitting(root: Path, count: int, say: Callable[[str], None]) -> None:
    """Run every measurement of the emitter; `count` events each."""
    keys = collector.make_keys(root / "data")
    with contextlib.closing(Registry.open(DataDirectory(root / "data").registry_url, Catalog.load())) as registry:
        registry.add_emitter_key(NAME, str(KEY.verifying_key), ACME, by=collector.OPERATOR)
    running = forward.start(root / "data", keys)
    try:
        say(f"\nemit, {count:,} events: by the clock, and processor time of the caller's thread")
        _calls(running, root, count, say)
        say("end to end: signed, until each event is acknowledged by the collector")
        for way in ("http", "grpc", "forward"):
            _end_to_end(running, root, way, count, say)
        say("memory of a process that emits")
        for who in ("nothing", "sdk", "emitter"):
            say(f"  {_resident(running, root, who):8d} MiB  {who}")
    finally:
        running.terminate()


def _calls(running: collector.Running, root: Path, count: int, say: Callable[[str], None]) -> None:
    for threads in (1, 8):
        before = _from_sdk(running)
        provider, emit = _sdk(running)
        clock, processor = _timed(emit, count, threads)
        provider.shutdown()
        lost = count - (_from_sdk(running) - before)
        say(f"  SDK      {threads} threads {clock:8.1f} us  {processor:6.1f} us  and lost {lost:,} of {count:,}")
        with _emitter(running, root / f"calls-{threads}") as emitter:
            clock, processor = _timed(lambda: emitter.emit(_event()), count, threads)
            is_done = emitter.flush(300)
        per_second = MICROSECONDS / clock
        lost = 0 if is_done else emitter.status().waiting
        say(
            f"  emitter  {threads} threads {clock:8.1f} us  {processor:6.1f} us  and lost {lost:,};"
            f" {per_second:,.0f} durable a second"
        )


def _end_to_end(running: collector.Running, root: Path, way: str, count: int, say: Callable[[str], None]) -> None:
    names = {"http": "otlp_http", "grpc": "otlp_grpc", "forward": "forward"}
    address = f"{way}://{running.addresses[names[way]].removeprefix('http://')}"
    options = {"receipts_from": running.url} if way == "grpc" else {}
    with _emitter(running, root / way, address, **options) as emitter:
        began = time.perf_counter()
        _timed(lambda: emitter.emit(_event()), count, 8)
        emitter.flush(300)
        seconds = time.perf_counter() - began
    say(f"  {count / seconds:10,.0f} events/s over {way}")


def _emitter(
    running: collector.Running, spool: Path, address: str | None = None, *, receipts_from: str = ""
) -> AuditEmitter:
    return AuditEmitter(
        address or running.url,
        api_key=running.keys[ACME],
        organization_id=ACME,
        emitter_id=NAME,
        spool=spool,
        signing_key=KEY,
        receipts_from=receipts_from,
    )


def _sdk(running: collector.Running) -> tuple[LoggerProvider, Callable[[], None]]:
    headers = {"Authorization": f"Bearer {running.keys[ACME]}"}
    provider = LoggerProvider()
    provider.add_log_record_processor(
        BatchLogRecordProcessor(OTLPLogExporter(endpoint=f"{running.url}/v1/logs", headers=headers))
    )
    logger = provider.get_logger("bench")
    attributes = {"audit.actor.id": "usr_sdk", "audit.target.id": "mod_1", "klyra.metadata.content_type": "text"}

    def emit() -> None:
        logger.emit(LogRecord(timestamp=time.time_ns(), event_name="moderation.created", attributes=attributes))

    return provider, emit


def _event() -> events.AuditEvent:
    return events.moderation_created(actor=Actor.user("usr_1"), moderation_id="mod_1", content_type="text")


def _from_sdk(running: collector.Running) -> int:
    """Return how many events are sealed that have no place in an emitter's sequence."""
    return sum(record.leaf.kind == Kind.EVENT and record.leaf.emitter == 0 for record in running.sealed())


def _timed(emit: Callable[[], object], count: int, threads: int) -> tuple[float, float]:
    """Return microseconds an event by the clock, and of the callers' processor time."""
    used: list[float] = []

    def some() -> None:
        began = time.thread_time()
        for _ in range(count // threads):
            emit()
        used.append(time.thread_time() - began)

    workers = [threading.Thread(target=some) for _ in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return (time.perf_counter() - began) / count * MICROSECONDS, sum(used) / count * MICROSECONDS


def _resident(running: collector.Running, root: Path, who: str) -> int:
    """Return what a process holds, in MiB, after it has emitted and delivered some thousand events."""
    arguments = [who, running.url, running.keys[ACME], str(root / f"memory-{who}")]
    command = [sys.executable, str(Path(__file__)), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        resident = psutil.Process(process.pid).memory_info().rss >> 20
        process.communicate(b"\n")
    return int(resident)


def _hold(who: str, url: str, key: str, spool: str) -> None:
    """Be the process that is measured."""
    running = collector.Running(Path(), url, {ACME: key}, subprocess.Popen(["true"]))
    running.process.wait()
    if who == "sdk":
        provider, emit = _sdk(running)
        _timed(emit, 4000, 8)
        provider.force_flush()
    elif who == "emitter":
        emitter = _emitter(running, Path(spool))
        _timed(lambda: emitter.emit(_event()), 4000, 8)
        emitter.flush(60)
    sys.stdout.write("done\n")
    sys.stdout.flush()
    sys.stdin.readline()


if __name__ == "__main__":
    _hold(*sys.argv[1:5])
