"""A program that emits until it is stopped: `python -m support.emitting URL KEY ORGANIZATION SPOOL THREADS [RATE]`.

It writes a line to stdout for each event of which `emit` has returned: the entry's id.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from klyra_audit import Actor, AuditEmitter, events


def main(url: str, key: str, organization_id: str, spool: str, threads: int, rate: float) -> None:
    """Emit until SIGTERM, then leave what is not delivered to the next process."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    emitter = AuditEmitter(url, api_key=key, organization_id=organization_id, emitter_id="emitting", spool=spool)
    workers = [threading.Thread(target=emit, args=(emitter, stop, threads / rate)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    while not stop.is_set():
        stop.wait(0.1)
    for worker in workers:
        worker.join()
    emitter.close(timeout=0)


def emit(emitter: AuditEmitter, stop: threading.Event, pause: float) -> None:
    """Emit at a steady rate, and say so after each event."""
    due = time.monotonic()
    while not stop.is_set():
        event = events.moderation_created(actor=Actor.user("usr_1"), moderation_id="mod_1", content_type="text")
        spooled = emitter.emit(event)
        os.write(1, f"{spooled.record_id}\n".encode())
        due += pause
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main(*sys.argv[1:5], int(sys.argv[5]), float(sys.argv[6]))
