"""Builds the store that follows into Elasticsearch out of the configuration, and takes it apart again."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from klyra_audit.timestamps import day_of
from klyra_collector.dead_letters import DeadLetters
from klyra_collector.destination_status import DestinationMeter
from klyra_collector.registry.policies import Policies
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.store.elasticsearch.bulk import BulkWriter
from klyra_collector.store.elasticsearch.connection import connect, parse, probe
from klyra_collector.store.elasticsearch.counting import Counts
from klyra_collector.store.elasticsearch.cursor import load
from klyra_collector.store.elasticsearch.definitions import Retained, definitions
from klyra_collector.store.elasticsearch.documents import MetadataFields
from klyra_collector.store.elasticsearch.endpoint import BulkClient, ExistingDocuments
from klyra_collector.store.elasticsearch.following import ElasticsearchStore, Parts
from klyra_collector.store.elasticsearch.health import Health, Sources
from klyra_collector.store.elasticsearch.ledger_index import LedgerCopy
from klyra_collector.store.elasticsearch.lines import DocumentLines
from klyra_collector.store.elasticsearch.names import FOLLOWER
from klyra_collector.store.elasticsearch.operations import Operations
from klyra_collector.store.elasticsearch.pace import Pace
from klyra_collector.store.elasticsearch.privileges import check_sweeper, check_writer
from klyra_collector.store.elasticsearch.quarantine_reader import ElasticsearchQuarantine
from klyra_collector.store.elasticsearch.repeats import Repeats
from klyra_collector.store.elasticsearch.searchable import Present, Searchable
from klyra_collector.store.elasticsearch.streams import Streams
from klyra_collector.store.elasticsearch.sweep import Sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from elasticsearch import Elasticsearch

    from klyra_collector.data_directory import DataDirectory
    from klyra_collector.elasticsearch_settings import ElasticsearchSettings
    from klyra_collector.store.elasticsearch.bulk import BulkObserver

MOST_RECORDS: Final = 5000  # of one batch, as the follower takes them


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the store is run in.

    Attributes:
        data: the data directory.
        destinations: names of the configured ones, for health documents.
        witnessed_s: by when witnesses had cosigned last, seconds since 1970; None without any.
        self_check: what health documents say of the copy's looking at itself.
        wall_us: present time, microseconds since 1970.
    """

    data: DataDirectory
    destinations: Sequence[str]
    witnessed_s: Callable[[], int | None]
    wall_us: Callable[[], int]
    self_check: Callable[[], Mapping[str, Any]] = dict


def metadata_fields() -> MetadataFields:
    """Return which metadata has a field, from the mapping that set-up makes."""
    (entries,) = (one for one in definitions([Retained("any", 1)]) if one.name == "klyra-audit-entries")
    assert entries.body is not None  # noqa: S101 - a component template has a body
    return MetadataFields(entries.body["template"]["mappings"]["properties"]["metadata"]["properties"])


@contextlib.contextmanager
def following(url: str, settings: ElasticsearchSettings, around: Surroundings) -> Iterator[ElasticsearchStore]:
    """Yield the store; everything is closed afterwards.

    Args:
        url: `store.url`, whose key reads.
        settings: the rest.
        around: see there.

    Raises:
        Rejected, SecretUnavailable: a URL or a credential cannot be used.
        ClusterUnreachable, ClusterRefuses, ClusterUnsuitable: the cluster cannot be used, now or at all.
        KeyTooPowerful, KeyTooWeak: the writer's key could change what it writes, or may not write.
        StoreCursorDamaged: the cursor cannot be read.
    """
    with contextlib.ExitStack() as opened:
        streams = Streams.of(Policies.load(), settings.dedicated_streams)
        reading, writing, sweeping = _clients(opened, url, settings, streams)
        disk = opened.enter_context(contextlib.closing(Disk()))
        reader = opened.enter_context(contextlib.closing(LedgerReader(around.data.ledger)))  # readers are of one thread
        around.data.cursors.mkdir(mode=0o700, parents=True, exist_ok=True)
        dead_letters = DeadLetters(around.data.cursors, FOLLOWER, disk)
        counts = Counts(around.data.cursors)
        bulk = _bulk(opened, writing, reading, settings, counts)
        health = Health(_sources(opened, around, reading, dead_letters), bulk)
        fields, repeats = metadata_fields(), Repeats(reading)
        moving = _bulk(opened, sweeping, sweeping, settings)
        operations = Operations(sweeping, moving, BulkClient(sweeping), streams, fields)
        parts = Parts(
            bulk=bulk,
            lines=DocumentLines(streams, fields, reader.retention, repeats),
            ledger_copy=LedgerCopy(reader, around.data.ledger, load(around.data.cursors).applied),
            searchable=Searchable(reading),
            present=Present(reading, beyond=MOST_RECORDS),
            operations=operations,
            sweep=Sweep(sweeping, operations),
            facts=reader.retention,
            on_searchable=repeats.forget,
            on_idle=lambda: _tell(health, counts),
        )
        yield ElasticsearchStore(parts, around.data.cursors, disk, dead_letters, wall_us=around.wall_us)


@dataclass(frozen=True, slots=True)
class _Access:
    client: Elasticsearch
    has_credentials: bool


def _clients(
    opened: contextlib.ExitStack, url: str, settings: ElasticsearchSettings, streams: Streams
) -> tuple[Elasticsearch, Elasticsearch, Elasticsearch]:
    """Return the clients that read, write and sweep, whose keys may do that and the writer's nothing else.

    Without a key of its own each has the one before it, which then has too little or too much to be accepted; only a
    cluster without security is written to with one URL. What is wrong here is found before the cluster is asked.
    """
    reading = _access(opened, url, "store.url")
    writing = sweeping = reading
    if settings.write_url is not None:
        writing = sweeping = _access(opened, settings.write_url, "store.elasticsearch.write_url")
    if settings.sweep_url is not None:
        sweeping = _access(opened, settings.sweep_url, "store.elasticsearch.sweep_url")
    flavor = probe(reading.client).flavor
    if writing.has_credentials:
        check_writer(writing.client, streams.of_plans(), flavor)
    if sweeping.has_credentials:
        check_sweeper(sweeping.client)
    return reading.client, writing.client, sweeping.client


def _access(opened: contextlib.ExitStack, url: str, setting: str) -> _Access:
    cluster = parse(url, setting)
    client = opened.enter_context(contextlib.closing(connect(cluster, setting, compress=False)))
    return _Access(client, cluster.has_credentials)


def _bulk(
    opened: contextlib.ExitStack,
    writing: Elasticsearch,
    reading: Elasticsearch,
    settings: ElasticsearchSettings,
    observer: BulkObserver | None = None,
) -> BulkWriter:
    pace = Pace(most_bytes=settings.request_bytes, most_in_flight=settings.requests)
    writer = BulkWriter(BulkClient(writing), ExistingDocuments(reading), pace=pace, observer=observer)
    return opened.enter_context(contextlib.closing(writer))


def _tell(health: Health, counts: Counts) -> None:
    health.tell()
    with contextlib.suppress(OSError):  # figures that a full disk does not take must not hold up entries
        counts.publish()


def _sources(
    opened: contextlib.ExitStack, around: Surroundings, reading: Elasticsearch, dead_letters: DeadLetters
) -> Sources:
    reader = opened.enter_context(contextlib.closing(LedgerReader(around.data.ledger)))
    meter = DestinationMeter(around.data.cursors, around.destinations, reader, around.wall_us)
    quarantine = ElasticsearchQuarantine(reading)
    return Sources(
        data=around.data,
        reader=reader,
        client=reading,
        destinations=meter.measure,
        waiting=lambda: quarantine.quarantine_backlog(day_of(around.wall_us())).waiting,
        dead_letters=lambda: len(dead_letters),
        witnessed_s=around.witnessed_s,
        self_check=around.self_check,
        wall_us=around.wall_us,
    )
