"""What tests of a follower in trouble have in common."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from typing import TYPE_CHECKING, Any

import orjson
from structlog.testing import capture_logs

from support.entries import ACME, MemoryLedger, document, organization_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from klyra_collector.seal.reader import SealedRecord
    from support.elasticsearch_following import Following, Keys

WAIT_SECONDS = 60
REFERENCE = organization_reference(ACME).hex()


@contextlib.contextmanager
def own_ledger(keys: Keys, log: str) -> Iterator[MemoryLedger]:
    """Yield a ledger of one shard; what it leaves in the cluster is deleted afterwards."""
    yield MemoryLedger(log)
    left = [{"delete": {"_index": hit["_index"], "_id": hit["_id"]}} for hit in keys.documents(log) + keys.copy(log)]
    if left:
        body = b"".join(orjson.dumps(line) + b"\n" for line in left)
        keys.administrator.bulk(operations=body, refresh=True)  # type: ignore[arg-type] # bytes are sent as they are


def seal(ledger: MemoryLedger, log: str, number: int, **members: Any) -> SealedRecord:
    """Seal an entry whose id belongs to one test alone."""
    options = {name: members.pop(name) for name in ("ingest_us", "retention_days") if name in members}
    event = document(number, **members)
    event["id"] = identity(log, number)
    return ledger.seal(event, origin=log, **options)


def identity(log: str, number: int) -> str:
    """Return the id of an entry of one test."""
    return f"log_{hashlib.sha256(log.encode()).hexdigest()[:20]}{number:06}"


def places(keys: Keys, log: str) -> list[int]:
    """Return the indexes of the documents that are there."""
    return [hit["_source"]["klyra"]["index"] for hit in keys.documents(log)]


@contextlib.contextmanager
def running(follow: Following) -> Iterator[list[Any]]:
    """Let a follower run by itself; yield what it logs."""
    stop = threading.Event()
    with capture_logs() as logs:
        thread = threading.Thread(target=follow.follower.run, args=(stop,))
        thread.start()
        try:
            yield logs
        finally:
            stop.set()
            thread.join()


def until(true: Callable[[], object]) -> None:
    """Wait for something."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def told(logs: list[Any], event: str, code: str) -> bool:
    """Say whether a line of the log tells of an error by its code."""
    return any(line["event"] == event and line["code"] == code for line in list(logs))
