"""Streams, the ledger's copy, and what the follower's store does when something goes wrong: without a server."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from elasticsearch import Elasticsearch

from klyra_audit.errors import RetryLater
from klyra_audit.format import leaf
from klyra_audit.format.leaf import Kind
from klyra_collector.dead_letters import DeadLetters
from klyra_collector.registry.policies import Policies
from klyra_collector.seal.durable import Disk
from klyra_collector.store.changes import Batch
from klyra_collector.store.elasticsearch.assembly import metadata_fields
from klyra_collector.store.elasticsearch.bulk import BulkWriter, ElasticsearchBusy, Line, WriterRefused
from klyra_collector.store.elasticsearch.cursor import load
from klyra_collector.store.elasticsearch.documents import Placing
from klyra_collector.store.elasticsearch.endpoint import BulkClient, ExistingDocuments
from klyra_collector.store.elasticsearch.following import ElasticsearchStore, Parts
from klyra_collector.store.elasticsearch.health import Health
from klyra_collector.store.elasticsearch.ledger_index import LedgerCopy
from klyra_collector.store.elasticsearch.lines import DocumentLines
from klyra_collector.store.elasticsearch.operations import NotMoved, Operations, Stored
from klyra_collector.store.elasticsearch.streams import Streams
from klyra_collector.store.follower import Follower
from klyra_collector.store.rows import RecordUnusable
from support.elasticsearch_bulk import BulkElasticsearch, serving
from support.entries import ACME, ORIGIN, TODAY_US, MemoryLedger, document

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STREAMS = Streams.of(Policies.load(), ["org_Own"])


@pytest.fixture
def server() -> Iterator[BulkElasticsearch]:
    """A server that keeps what is created."""
    with serving() as running:
        yield running


@pytest.fixture
def client(server: BulkElasticsearch) -> Iterator[Elasticsearch]:
    """A client of it."""
    with Elasticsearch(server.url, max_retries=0, request_timeout=10) as made:
        yield made


@pytest.fixture
def bulk(client: Elasticsearch) -> Iterator[BulkWriter]:
    """A writer to it that does not wait."""
    with closing(BulkWriter(BulkClient(client), ExistingDocuments(client), sleep=lambda _: None)) as made:
        yield made


class Nothing:
    """Stands in for parts that a test does not use: finds, changes and deletes nothing."""

    def among(self, *_: Any) -> frozenset[int]:
        """See `Present`."""
        return frozenset()

    def applied(self, *_: Any) -> None:
        """See `Searchable`."""

    def look(self) -> dict[str, int]:
        """See `Searchable`."""
        return {}


@pytest.fixture
def ledger() -> MemoryLedger:
    """An empty ledger."""
    return MemoryLedger()


@pytest.fixture
def store(bulk: BulkWriter, ledger: MemoryLedger, tmp_path: Path) -> Iterator[ElasticsearchStore]:
    """A store behind the ledger."""
    nothing: Any = Nothing()
    reader: Any = ledger
    parts = Parts(
        bulk=bulk,
        lines=DocumentLines(STREAMS, metadata_fields(), ledger.retention),
        ledger_copy=LedgerCopy(reader, tmp_path / "ledger", {}),
        searchable=nothing,
        present=nothing,
        operations=nothing,
        sweep=nothing,
        facts=ledger.retention,
    )
    with closing(Disk()) as disk:
        dead_letters = DeadLetters(tmp_path, "elasticsearch", disk)
        yield ElasticsearchStore(parts, tmp_path, disk, dead_letters, wall_us=lambda: TODAY_US)


def follow(ledger: MemoryLedger, store: ElasticsearchStore) -> None:
    """Apply what there is."""
    reader: Any = ledger
    while Follower(reader, store).step():
        pass


class TestStreams:
    """Where a document goes."""

    @pytest.mark.parametrize(
        ("days", "policy"),
        [(30, "startup"), (90, "business"), (365, "enterprise"), (730, "enterprise-730d"), (45, "enterprise-45d")],
    )
    def test_policy(self, days: int, policy: str) -> None:
        """The plan's name for its days; what is kept for others has the name of the plan that sells them."""
        assert STREAMS.policy(days) == policy

    def test_names(self) -> None:
        """By policy, by organization where it has its own, and where nothing is deleted for what is held."""
        placing = Placing(policy="business", expire_day=1)
        held = Placing(policy="business", expire_day=1, held=True)
        assert STREAMS.of_entry(placing, ACME) == "klyra-audit-business"
        assert STREAMS.of_entry(placing, "org_Own") == "klyra-audit-business-at-org_own"
        assert STREAMS.of_entry(held, "org_Own") == "klyra-audit-held"
        assert STREAMS.of_quarantined(placing) == "klyra-audit-quarantine-business"
        assert STREAMS.of_quarantined(held) == "klyra-audit-quarantine-held"

    def test_what_is_kept_for_ever(self, ledger: MemoryLedger) -> None:
        """It goes where the longest retention goes."""
        record = ledger.seal(document(), retention_days=leaf.NEVER - TODAY_US // 86_400_000_000 - 1)
        assert STREAMS.placing(record, ledger.retention()) == Placing(policy="enterprise", expire_day=leaf.NEVER)


class TestFaults:
    """What the store does when it cannot store."""

    def test_a_refused_document_is_a_dead_letter(
        self, server: BulkElasticsearch, ledger: MemoryLedger, store: ElasticsearchStore, tmp_path: Path
    ) -> None:
        """It is written down, durably, before the cursor moves on."""
        records = [ledger.seal(document(number)) for number in range(3)]
        server.items.extend([None, {"status": 400, "error": {"type": "document_parsing_exception", "reason": "no"}}])
        follow(ledger, store)
        with closing(Disk()) as disk:
            (letter,) = DeadLetters(tmp_path, "elasticsearch", disk).read()
        assert (letter.origin, letter.index, letter.status) == (ORIGIN, records[1].index, "400")
        assert (letter.organization_id, letter.entry_id) == (ACME, document(1)["id"])
        assert load(tmp_path).applied == {ORIGIN: 3}
        assert len(server.documents) == 2

    @pytest.mark.parametrize(("status", "error"), [(503, ElasticsearchBusy), (403, WriterRefused)])
    def test_the_cursor_stands_until_all_is_stored(
        self,
        server: BulkElasticsearch,
        ledger: MemoryLedger,
        store: ElasticsearchStore,
        tmp_path: Path,
        status: int,
        error: type[Exception],
    ) -> None:
        """Then the same records go again, and are there once."""
        for number in range(3):
            ledger.seal(document(number))
        server.script.extend([(status, {"error": {"type": "x", "reason": "no"}})] * 6)
        with pytest.raises(error):
            follow(ledger, store)
        assert (store.cursor(ORIGIN), load(tmp_path).applied) == (0, {})
        server.script.clear()
        follow(ledger, store)
        assert load(tmp_path).applied == {ORIGIN: 3}
        assert len(server.documents) == 3

    def test_a_batch_that_is_not_next(self, ledger: MemoryLedger, store: ElasticsearchStore) -> None:
        """It changes nothing."""
        ledger.seal(document())
        store.apply(Batch(ORIGIN, 1, 2, ()))
        assert store.cursor(ORIGIN) == 0

    def test_sections_that_do_not_join(self, ledger: MemoryLedger, store: ElasticsearchStore) -> None:
        """The follower stops at the record and names it."""
        event = document()
        del event["metadata"]
        ledger.seal(event)
        with pytest.raises(RecordUnusable, match=rf"Record 0 of {ORIGIN}") as caught:
            follow(ledger, store)
        assert caught.value.code == "record_unusable"
        assert "klyra-audit verify" in caught.value.remedy

    def test_a_health_document_that_cannot_be_made(self, bulk: BulkWriter) -> None:
        """It is no reason to stop; the next is tried half a minute later."""
        now = [100.0]
        nothing: Any = None
        health = Health(nothing, bulk, monotonic=lambda: now[0])
        health.tell()
        health.tell()
        assert health._next == 130.0


class TestCopy:
    """The lines of the ledger's copy."""

    def test_heads_are_copied_once(self, ledger: MemoryLedger, tmp_path: Path) -> None:
        """Those that are kept, the newest and the newest cosigned; what is none of this shard is left out."""
        reader: Any = ledger
        copy = LedgerCopy(reader, tmp_path, {})
        shard = tmp_path / "2026"
        (shard / "checkpoints").mkdir(parents=True)
        (shard / "checkpoints" / "1").write_text(f"{ORIGIN}\n1\nroot1\n\n— sig\n")
        (shard / "checkpoint").write_text(f"{ORIGIN}\n2\nroot2\n\n— sig\n")
        (shard / "checkpoints" / "foreign").write_text("other/log/2026\n1\nroot\n\n— sig\n")
        (shard / "checkpoints" / "torn").write_bytes(b"\xff")
        record = ledger.control(Kind.HEADS, {"type": "heads"})
        assert list(copy.bundles(Batch(ORIGIN, 0, 1, (), records=[record]))) == []
        lines = copy.rest()
        found = [orjson.loads(line.source) for line in lines]
        assert [(one["kind"], one["size"]) for one in found] == [("partial", 1), ("checkpoint", 1), ("checkpoint", 2)]
        assert found[1]["root"] == "root1"
        copy.written(lines)
        assert copy.rest() == []
        assert not copy.is_due()


class TestOperations:
    """What must not be deleted."""

    def test_nothing_is_deleted_before_the_new_documents_are_there(
        self, server: BulkElasticsearch, client: Elasticsearch, bulk: BulkWriter
    ) -> None:
        """A refused new document leaves the old one."""
        operations = Operations(client, bulk, BulkClient(client), STREAMS, metadata_fields())
        server.items.append({"status": 400, "error": {"type": "document_parsing_exception", "reason": "no"}})
        with pytest.raises(NotMoved) as caught:
            operations._create([Line("klyra-audit-held", "a", b'{"klyra":{}}', ORIGIN, 0)])
        assert isinstance(caught.value, RetryLater)
        assert caught.value.code == "elasticsearch_not_moved"
        assert "setup elasticsearch" in caught.value.remedy

    @pytest.mark.parametrize(
        ("status", "error", "code"),
        [(503, ElasticsearchBusy, "elasticsearch_busy"), (403, WriterRefused, "elasticsearch_writer_refused")],
    )
    def test_a_deletion_that_is_refused(
        self,
        server: BulkElasticsearch,
        client: Elasticsearch,
        bulk: BulkWriter,
        status: int,
        error: type[Exception],
        code: str,
    ) -> None:
        """It is tried again, or waits for an operator."""
        operations = Operations(client, bulk, BulkClient(client), STREAMS, metadata_fields())
        server.deletions.append((status, {"error": {"type": "x", "reason": "no"}}))
        with pytest.raises(error) as caught:
            operations.delete([Stored("i", "a", {})])
        assert getattr(caught.value, "code", "") == code
        server.deletions.append((200, {"items": [{"delete": {"status": status, "error": {"type": "x"}}}]}))
        with pytest.raises(error):
            operations.delete([Stored("i", "a", {})])
        assert operations.delete([]) == 0
