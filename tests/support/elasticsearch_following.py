"""A store in a real Elasticsearch that follows a ledger in memory, with the three keys that set-up makes."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from klyra_collector.dead_letters import DeadLetters
from klyra_collector.registry.policies import Policies
from klyra_collector.seal.durable import Disk
from klyra_collector.store.elasticsearch.assembly import metadata_fields
from klyra_collector.store.elasticsearch.bulk import BulkWriter
from klyra_collector.store.elasticsearch.connection import connect, parse, request
from klyra_collector.store.elasticsearch.cursor import load
from klyra_collector.store.elasticsearch.definitions import Retained, definitions
from klyra_collector.store.elasticsearch.effective import make_ready
from klyra_collector.store.elasticsearch.endpoint import BulkClient, ExistingDocuments
from klyra_collector.store.elasticsearch.following import ElasticsearchStore, Parts
from klyra_collector.store.elasticsearch.ledger_index import LedgerCopy
from klyra_collector.store.elasticsearch.lines import DocumentLines
from klyra_collector.store.elasticsearch.operations import Operations
from klyra_collector.store.elasticsearch.repeats import Repeats
from klyra_collector.store.elasticsearch.searchable import Present, Searchable
from klyra_collector.store.elasticsearch.setup import plan
from klyra_collector.store.elasticsearch.streams import Streams
from klyra_collector.store.elasticsearch.sweep import Sweep
from klyra_collector.store.follower import Follower
from support.entries import TODAY_US

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from elasticsearch import Elasticsearch

    from support.elasticsearch import Node
    from support.entries import MemoryLedger

POLICIES = [
    Retained("startup", 30),
    Retained("business", 90),
    Retained("enterprise", 365),
    Retained("enterprise-730d", 730),
]
RECORDS = "klyra-audit-*,-klyra-audit-ledger,-klyra-audit-health"


@dataclass(frozen=True)
class Keys:
    """Clients of an administrator and of each key."""

    administrator: Elasticsearch
    writer: Elasticsearch
    reader: Elasticsearch
    sweeper: Elasticsearch

    def refresh(self) -> None:
        """Have searches find everything now."""
        request(self.administrator, "POST", "/klyra-audit-*/_refresh")

    def documents(self, log: str, index: str = RECORDS) -> list[dict[str, Any]]:
        """Return the hits of all documents of a shard, by place."""
        self.refresh()
        body = {"size": 5000, "query": {"term": {"klyra.log": log}}, "sort": ["klyra.index", "klyra.expire_day"]}
        hits: list[dict[str, Any]] = request(self.administrator, "POST", f"/{index}/_search", body)["hits"]["hits"]
        return hits

    def copy(self, log: str) -> list[dict[str, Any]]:
        """Return the hits of the ledger's copy of a shard."""
        self.refresh()
        body = {"size": 1000, "query": {"term": {"log": log}}, "sort": ["kind", "first", "size"]}
        hits: list[dict[str, Any]] = request(self.administrator, "POST", "/klyra-audit-ledger/_search", body)["hits"][
            "hits"
        ]
        return hits


@contextlib.contextmanager
def prepared(cluster: Node, folder: Path, dedicated: Sequence[str] = ()) -> Iterator[Keys]:
    """Set the cluster up, make keys of our own, and yield clients of all of them."""
    (folder / "password").write_text(cluster.password)
    with contextlib.ExitStack() as opened:
        administrator = opened.enter_context(
            connect(parse(f"{cluster.store_url}?user=elastic&password=file:{folder / 'password'}"))
        )
        make_ready(
            administrator,
            plan(administrator, definitions(POLICIES, dedicated=dedicated)),
            lambda _: None,
            lambda _: None,
        )
        clients = [
            opened.enter_context(connect(parse(url), compress=False))
            for url in keyed_urls(administrator, cluster, folder)
        ]
        yield Keys(administrator, *clients)


def keyed_urls(administrator: Elasticsearch, cluster: Node, folder: Path) -> list[str]:
    """Return URLs with a new key each for the writer, the reader and the sweeper."""
    from klyra_collector.store.elasticsearch.definitions import keys

    urls = []
    for purpose in ("writer", "reader", "sweeper"):
        made = request(administrator, "POST", "/_security/api_key", keys()[purpose] | {"name": f"tests {purpose}"})
        (folder / purpose).write_text(made["encoded"])
        urls.append(f"{cluster.store_url}?api_key=file:{folder / purpose}")
    return urls


@dataclass
class Following:
    """A store and its follower."""

    store: ElasticsearchStore
    follower: Follower
    ledger: MemoryLedger
    bulk: BulkWriter
    cursors: Path

    def follow(self) -> None:
        """Apply all there is."""
        while self.follower.step():
            pass


@contextlib.contextmanager
def following(
    keys: Keys,
    ledger: MemoryLedger,
    folder: Path,
    *,
    batch: int = 5000,
    sleep: Callable[[float], None] = time.sleep,
    wall_us: int = TODAY_US,
    dedicated: Sequence[str] = (),
) -> Iterator[Following]:
    """Yield a store that follows a ledger, with its cursor in a folder; `sleep` waits before lines go again."""
    with contextlib.ExitStack() as opened:
        disk = opened.enter_context(contextlib.closing(Disk()))
        folder.mkdir(exist_ok=True)
        bulk = opened.enter_context(
            contextlib.closing(BulkWriter(BulkClient(keys.writer), ExistingDocuments(keys.reader), sleep=sleep))
        )
        moving = opened.enter_context(
            contextlib.closing(BulkWriter(BulkClient(keys.sweeper), ExistingDocuments(keys.sweeper)))
        )
        streams, fields, repeats = Streams.of(Policies.load(), dedicated), metadata_fields(), Repeats(keys.reader)
        operations = Operations(keys.sweeper, moving, BulkClient(keys.sweeper), streams, fields)
        parts = Parts(
            bulk=bulk,
            lines=DocumentLines(streams, fields, ledger.retention, repeats),
            ledger_copy=LedgerCopy(ledger, folder / "ledger", load(folder).applied),  # type: ignore[arg-type]
            searchable=Searchable(keys.reader),
            present=Present(keys.reader, beyond=batch),
            operations=operations,
            sweep=Sweep(keys.sweeper, operations),
            facts=ledger.retention,
            on_searchable=repeats.forget,
        )
        store = ElasticsearchStore(
            parts, folder, disk, DeadLetters(folder, "elasticsearch", disk), wall_us=lambda: wall_us
        )
        yield Following(store, Follower(ledger, store, batch=batch), ledger, bulk, folder)  # type: ignore[arg-type]
