"""Every 30 s one document about the collector in `klyra-audit-health`: all that dashboards and alerts read of it.

The fields are those of `definitions/health-stream.json`; what is not known is left out.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog

from klyra_audit import timestamps
from klyra_audit.format.leaf import Flag, Kind
from klyra_collector.data_directory import DataDirectory, ShardDirectory
from klyra_collector.store.elasticsearch.bulk import Line
from klyra_collector.store.elasticsearch.condition import kept
from klyra_collector.store.elasticsearch.cursor import load
from klyra_collector.store.elasticsearch.names import HEALTH_STREAM

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from elasticsearch import Elasticsearch

    from klyra_audit.format.frame import BodyFrame
    from klyra_collector.destination_status import DestinationStatus
    from klyra_collector.seal.reader import LedgerReader
    from klyra_collector.store.elasticsearch.bulk import BulkWriter

EVERY_SECONDS: Final = 30.0

_STORE: Final = "store"
_NEWEST: Final = 100  # records whose delay counts

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the figures come from.

    Attributes:
        data: the data directory.
        reader: of the ledger; nobody else uses it.
        client: of a key that may read.
        destinations: status of each destination.
        waiting: how many quarantined inputs nobody has looked after.
        dead_letters: how many entries the store will never take.
        witnessed_s: by when witnesses had cosigned last, seconds since 1970; None without any.
        self_check: what the copy's looking at itself has found.
        wall_us: present time, microseconds since 1970.
    """

    data: DataDirectory
    reader: LedgerReader
    client: Elasticsearch
    destinations: Callable[[], Sequence[DestinationStatus]]
    waiting: Callable[[], int]
    dead_letters: Callable[[], int]
    witnessed_s: Callable[[], int | None]
    wall_us: Callable[[], int]
    self_check: Callable[[], Mapping[str, Any]] = dict


class Health:
    """Writes health documents. Used by one thread."""

    def __init__(self, sources: Sources, bulk: BulkWriter, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._sources = sources
        self._bulk = bulk
        self._monotonic = monotonic
        self._next = 0.0

    def tell(self) -> None:
        """Write a document if one is due. What keeps it from that is logged: entries must not wait for it."""
        if self._monotonic() < self._next:
            return
        self._next = self._monotonic() + EVERY_SECONDS
        try:
            self._write(self.document())
        except Exception as error:  # noqa: BLE001 - a figure that cannot be had must not hold up entries
            _log.warning("elasticsearch.health_not_told", reason=f"{type(error).__name__}: {error}")

    def document(self) -> dict[str, Any]:
        """Return the document of this moment."""
        sources, now_us = self._sources, self._sources.wall_us()
        origins = sources.reader.origins()
        log = origins[-1] if origins else ""
        statuses = sources.destinations()
        found: dict[str, Any] = {
            "@timestamp": now_us // 1000,
            "log": log,
            "collector": log.rpartition("/")[0],
            "size": sources.reader.committed(log) if log else 0,
            "quarantine_waiting": sources.waiting(),
            "dead_letters": sources.dead_letters() + sum(one.dead_letters for one in statuses),
            **_ages(sources, log, now_us),
            **_ingest_delay(sources.reader, log),
            **self._store_lag(origins, now_us),
            **_destinations(statuses),
            **sources.self_check(),
        }
        found["followers"] = _followers(found, statuses)
        found["policies"] = [
            {"policy": one.policy, "oldest_days": one.oldest_days} for one in kept(sources.client, now_us)
        ]
        return found

    def _store_lag(self, origins: Sequence[str], now_us: int) -> dict[str, Any]:
        reader = self._sources.reader
        applied = load(self._sources.data.cursors).applied
        behind, oldest_us = 0, now_us
        for origin in origins:
            waiting = max(0, reader.committed(origin) - applied.get(origin, 0))
            if waiting and not behind:
                oldest_us = reader.read(origin, applied.get(origin, 0), 1)[0].leaf.ingest_us
            behind += waiting
        return {"store_lag_entries": behind, "store_lag_seconds": _seconds(now_us, oldest_us)}

    def _write(self, document: dict[str, Any]) -> None:
        identity = f"{document['collector']}:{document['@timestamp']}"
        line = Line(HEALTH_STREAM, identity, orjson.dumps(document), document["log"], 0)
        for _, why in self._bulk.write([line]):
            _log.warning("elasticsearch.health_not_told", reason=why.reason)


def _ages(sources: Sources, log: str, now_us: int) -> dict[str, int]:
    """Return the ages of the newest checkpoint, as far as its file tells, and of the newest cosigned one."""
    ages: dict[str, int] = {}
    signed = ShardDirectory(sources.data.ledger / log.rpartition("/")[2]).checkpoint
    if log and signed.exists():
        ages["checkpoint_age_seconds"] = max(0, round(now_us / timestamps.MICROSECONDS - signed.stat().st_mtime))
    witnessed_s = sources.witnessed_s()
    if witnessed_s is not None:
        ages["witness_age_seconds"] = max(0, now_us // timestamps.MICROSECONDS - witnessed_s)
    return ages


def _ingest_delay(reader: LedgerReader, log: str) -> dict[str, int]:
    """Return how long the slowest of the newest events took from happening to their sealing.

    What was backfilled is old on purpose and left out; so is a timestamp ahead of our clock. Nothing where none counts.
    """
    newest = reader.read(log, max(0, reader.committed(log) - _NEWEST), _NEWEST) if log else []
    delays = [
        record.leaf.ingest_us // 1000 - timestamps.to_nanoseconds(_timestamp(record.body)) // 1_000_000
        for record in newest
        if record.leaf.kind == Kind.EVENT and record.body and not record.leaf.flags & Flag.BACKFILLED
    ]
    return {"ingest_delay_ms": max(0, *delays)} if delays else {}


def _timestamp(body: BodyFrame) -> str:
    return str(orjson.loads(body.sections.core)["timestamp"])


def _destinations(statuses: Sequence[DestinationStatus]) -> dict[str, Any]:
    if not statuses:
        return {}
    names: dict[str, list[str]] = defaultdict(list)
    for one in statuses:
        names[one.state.value].append(one.name)
    return {
        "destinations": dict(names),
        "destinations_lag_entries": max(one.lag_entries for one in statuses),
        "destinations_lag_seconds": max(one.lag_seconds for one in statuses),
    }


def _followers(found: dict[str, Any], statuses: Sequence[DestinationStatus]) -> list[dict[str, Any]]:
    store = {
        "name": _STORE,
        "kind": "elasticsearch",
        "state": "delivering",
        "lag_entries": found["store_lag_entries"],
        "lag_seconds": found["store_lag_seconds"],
    }
    return [store] + [
        {
            "name": one.name,
            "kind": one.kind,
            "state": one.state.value,
            "lag_entries": one.lag_entries,
            "lag_seconds": one.lag_seconds,
        }
        for one in statuses
    ]


def _seconds(now_us: int, then_us: int) -> float:
    return max(0.0, (now_us - then_us) / timestamps.MICROSECONDS)
