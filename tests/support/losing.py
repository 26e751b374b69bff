"""A program that emits and then meets its end: `python -m support.losing WHO HOW URL KEY ORGANIZATION SPOOL COUNT`.

WHO is `sdk`, the OpenTelemetry SDK as its documentation shows it, or `emitter`. HOW is one of `ENDINGS`. When all
events are emitted it writes a line to stdout; what happens then is its own doing, or its starter's. In an outage it
goes on when a line comes on stdin.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

from klyra_audit import Actor, AuditEmitter, events

if TYPE_CHECKING:
    from collections.abc import Callable

ENDINGS = ("burst", "outage", "terminated", "killed", "forked")
THREADS = 8


def main(who: str, how: str, url: str, key: str, organization_id: str, spool: str, count: int) -> None:
    """Emit, say so, and end."""
    actor = f"usr_{who}_{how}"
    if who == "sdk":
        emit, flush, finish = of_sdk(url, key, actor)
    else:
        emit, flush, finish = of_emitter(url, key, organization_id, spool, actor)
    if how == "forked":
        child = os.fork()
        if child == 0:  # as multiprocessing ends its processes: without anything that waits for the interpreter's end
            emit_all(emit, count)
            os._exit(0)
        os.waitpid(child, 0)
        finish()
        os.write(1, b"emitted\n")
        return
    emit_all(emit, count)
    if how == "outage":
        flush()
        sys.stdin.readline()
    os.write(1, b"emitted\n")
    if how in ("terminated", "killed"):
        time.sleep(60)
    finish()


def of_sdk(url: str, key: str, actor: str) -> tuple[Callable[[], None], Callable[[], None], Callable[[], None]]:
    """Return what emits one record, what flushes and what ends in good order, with the SDK's defaults."""
    exporter = OTLPLogExporter(endpoint=f"{url}/v1/logs", headers={"Authorization": f"Bearer {key}"})
    provider = LoggerProvider()
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    logger = provider.get_logger("losing")
    attributes = {"audit.actor.id": actor, "audit.target.id": "mod_1", "klyra.metadata.content_type": "text"}

    def emit() -> None:
        logger.emit(LogRecord(timestamp=time.time_ns(), event_name="moderation.created", attributes=attributes))

    return emit, provider.force_flush, provider.shutdown


def of_emitter(
    url: str, key: str, organization_id: str, spool: str, actor: str
) -> tuple[Callable[[], None], Callable[[], None], Callable[[], None]]:
    """Return the same of our emitter."""
    emitter = AuditEmitter(url, api_key=key, organization_id=organization_id, emitter_id="losing", spool=spool)

    def emit() -> None:
        emitter.emit(events.moderation_created(actor=Actor.user(actor), moderation_id="mod_1", content_type="text"))

    return emit, emitter.flush, emitter.close


def emit_all(emit: Callable[[], None], count: int) -> None:
    """Emit from several threads."""

    def some() -> None:
        for _ in range(count // THREADS):
            emit()

    threads = [threading.Thread(target=some) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:7], int(sys.argv[7]))
