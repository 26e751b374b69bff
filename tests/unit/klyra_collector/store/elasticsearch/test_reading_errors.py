"""What whoever reads the store is told when the cluster does not answer as it should: type, code and remedy."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from structlog.testing import capture_logs

from klyra_audit.errors import Halted, KlyraError, Paused, RetryLater
from klyra_collector.store.elasticsearch.asking import Asking, StoreUnavailable
from klyra_collector.store.elasticsearch.assembly import metadata_fields
from klyra_collector.store.elasticsearch.connection import connect, parse
from klyra_collector.store.elasticsearch.cursor import FILE, StoreCursor, save
from klyra_collector.store.elasticsearch.documents import Placing, document_id, entry_document, quarantine_document
from klyra_collector.store.elasticsearch.duplicates import overlaps_of
from klyra_collector.store.elasticsearch.names import ENTRY_STREAMS
from klyra_collector.store.elasticsearch.quarantine_reader import ElasticsearchQuarantine
from klyra_collector.store.elasticsearch.reader import ElasticsearchReader
from klyra_collector.store.elasticsearch.searchable import Present, Searchable
from klyra_collector.store.quarantine_rows import quarantine_row_of
from klyra_collector.store.quarantined import QuarantineFilters, QuarantineSearch
from klyra_collector.store.searching import Filters, Search
from klyra_collector.store.summarizing import NOTHING, Shape
from support.elasticsearch_answers import EMPTY, answering
from support.entries import ACME, ORIGIN, TODAY, MemoryLedger, document
from support.sealing import Disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from elasticsearch import Elasticsearch

    from support.elasticsearch_answers import Answers

SEARCH = Search(organization_id=ACME, filters=Filters(), today=TODAY, snapshot={ORIGIN: 9})
INPUTS = QuarantineSearch(organization_id=ACME, filters=QuarantineFilters(), today=TODAY)
PLACING = Placing(policy="startup", expire_day=TODAY + 30)
SECRET = "node-17.internal"


@pytest.fixture
def server() -> Iterator[Answers]:
    """A server that finds nothing."""
    with answering() as made:
        yield made


@pytest.fixture
def client(server: Answers) -> Iterator[Elasticsearch]:
    """A client of it."""
    with connect(parse(server.url)) as made:
        yield made


@pytest.fixture
def reader(client: Elasticsearch, tmp_path: Path) -> ElasticsearchReader:
    """Reads entries there."""
    return ElasticsearchReader(client, tmp_path)


@pytest.fixture
def quarantine(client: Elasticsearch) -> ElasticsearchQuarantine:
    """Reads quarantined input there."""
    return ElasticsearchQuarantine(client)


def exported(reader: ElasticsearchReader) -> list[Any]:
    """Export everything."""
    with reader.export(SEARCH) as found:
        return list(found)


READS: dict[str, Callable[[ElasticsearchReader], object]] = {
    "search": lambda reader: reader.search(SEARCH, 10),
    "get": lambda reader: reader.get(ACME, "log_1", TODAY),
    "export": exported,
    "summarize": lambda reader: reader.summarize(SEARCH, Shape(10, 3)),
    "earliest_sealing_day": lambda reader: reader.earliest_sealing_day(ACME, TODAY),
}
LISTS: dict[str, Callable[[ElasticsearchQuarantine], object]] = {
    "quarantined": lambda quarantine: quarantine.quarantined(INPUTS, 10),
    "quarantined_one": lambda quarantine: quarantine.quarantined_one(ACME, "qtn_1", TODAY),
    "quarantine_summary": lambda quarantine: quarantine.quarantine_summary(INPUTS, 10),
    "quarantine_backlog": lambda quarantine: quarantine.quarantine_backlog(TODAY),
}
Case = tuple[int, str, type[KlyraError], str, str]  # status and type of an answer; type, code and remedy of the error
ANSWERS: list[Case] = [
    (503, "unavailable_shards_exception", RetryLater, "store_unavailable", "Try again"),
    (429, "es_rejected_execution_exception", RetryLater, "store_unavailable", "Try again"),
    (403, "cluster_block_exception", RetryLater, "store_unavailable", "Try again"),
    (401, "security_exception", Halted, "search_refused", "key of store.url"),
    (403, "security_exception", Halted, "search_refused", "key of store.url"),
    (400, "parsing_exception", Halted, "search_refused", "the log says why"),
    (400, "index_closed_exception", RetryLater, "answer_incomplete", "health of the Elasticsearch cluster"),
    (404, "index_not_found_exception", RetryLater, "answer_incomplete", "health of the Elasticsearch cluster"),
]


class TestEveryQuestion:
    """Whatever is asked, the same trouble is the same error."""

    @pytest.mark.parametrize("name", READS)
    @pytest.mark.parametrize("case", ANSWERS, ids=lambda case: f"{case[0]} {case[1]}")
    def test_entries(self, server: Answers, reader: ElasticsearchReader, name: str, case: Case) -> None:
        """Come again, or have the operator look; the log says what the cluster said, and the message does not."""
        status, kind, *expected = case
        server.fails(status, kind, SECRET)
        with capture_logs() as logs:
            self.expect(lambda: READS[name](reader), *expected)
        (told,) = (line for line in logs if line["event"] == "elasticsearch.search_failed")
        assert kind in told["reason"]

    @pytest.mark.parametrize("name", LISTS)
    @pytest.mark.parametrize("case", ANSWERS, ids=lambda case: f"{case[0]} {case[1]}")
    def test_quarantined_input(
        self, server: Answers, quarantine: ElasticsearchQuarantine, name: str, case: Case
    ) -> None:
        """As for entries."""
        status, kind, *expected = case
        server.fails(status, kind, SECRET)
        self.expect(lambda: LISTS[name](quarantine), *expected)

    @pytest.mark.parametrize(
        "answer",
        [
            EMPTY | {"timed_out": True},
            EMPTY | {"_shards": {"total": 3, "successful": 2, "failed": 1}},
            {"acknowledged": True},
        ],
    )
    def test_half_an_answer(
        self, server: Answers, reader: ElasticsearchReader, quarantine: ElasticsearchQuarantine, answer: dict[str, Any]
    ) -> None:
        """It is none, with status 200 or not."""
        server.body = answer | {"id": "pit"}
        remedy = "health of the Elasticsearch cluster"
        for read in READS.values():
            self.expect(lambda read=read: read(reader), RetryLater, "answer_incomplete", remedy)
        for listed in LISTS.values():
            self.expect(lambda listed=listed: listed(quarantine), RetryLater, "answer_incomplete", remedy)

    def test_somebody_else_answers(self, server: Answers, reader: ElasticsearchReader) -> None:
        """A product that is none is not believed; a page in the cluster's place is no answer."""
        server.body = "<html>"
        self.expect(lambda: reader.search(SEARCH, 1), RetryLater, "store_unavailable", "Try again")

    def test_another_product(self, server: Answers, reader: ElasticsearchReader) -> None:
        """What does not say that it is Elasticsearch is not asked again."""
        server.headers.clear()
        self.expect(lambda: reader.search(SEARCH, 1), Halted, "search_refused", "the log says why")

    def expect(self, ask: Callable[[], object], type_: type[KlyraError], code: str, remedy: str) -> None:
        """See that a question fails in this way."""
        with pytest.raises(type_) as caught:
            ask()
        assert (caught.value.code, remedy in caught.value.remedy) == (code, True), caught.value
        assert SECRET not in str(caught.value)


def test_nobody_there(tmp_path: Path) -> None:
    """Come again."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with connect(parse(f"elasticsearch+http://127.0.0.1:{unused.getsockname()[1]}")) as client:
            reader = ElasticsearchReader(client, tmp_path)
            with pytest.raises(StoreUnavailable) as caught:
                reader.search(SEARCH, 1)
            assert (caught.value.code, bool(caught.value.remedy)) == ("store_unavailable", True)
            with pytest.raises(RetryLater):
                reader.check()


class TestExport:
    """An export fails loudly rather than short."""

    def test_a_point_in_time_that_is_gone(self, server: Answers, reader: ElasticsearchReader) -> None:
        """What was read so far is not passed off as all; the point in time is let go of all the same."""
        pages = EMPTY | {"pit_id": "pit", "hits": {"hits": [hit(MemoryLedger().seal(document()))]}}
        missing = {"error": {"type": "search_context_missing_exception", "reason": "gone"}}
        server.script += [(200, {"id": "pit"}), (200, pages), (404, missing), (404, missing)]
        read = []
        with pytest.raises(RetryLater) as caught, reader.export(SEARCH) as found:  # noqa: PT012 - it fails while read
            read += [next(found)]
            read += found
        assert (len(read), caught.value.code) == (1, "answer_incomplete")
        assert server.asked[-1][:2] == ("DELETE", "/_pit")

    @pytest.mark.parametrize(("status", "kind"), [(404, "resource_not_found_exception"), (503, "busy")])
    def test_a_point_in_time_that_cannot_be_let_go(
        self, server: Answers, client: Elasticsearch, status: int, kind: str
    ) -> None:
        """It goes by itself."""
        server.body = {"id": "pit"}
        point = Asking(client, ENTRY_STREAMS).freeze()
        server.fails(status, kind)
        point.close()


def hit(record: Any, **changes: Any) -> dict[str, Any]:
    """Return the document of an entry as a search finds it, with other members."""
    source = orjson.loads(orjson.dumps(entry_document(record, PLACING, metadata_fields())))
    klyra = source["klyra"] | changes.pop("klyra", {})
    source |= {"klyra": {name: value for name, value in klyra.items() if value is not None}} | changes
    return {"_index": "i", "_id": document_id(ACME, source["id"]), "_source": source, "sort": [1, ORIGIN, 0]}


class TestAltered:
    """A document that was not written from the ledger: leaving it out would make an answer short in silence."""

    @pytest.mark.parametrize(
        "klyra",
        [
            {"timestamp_ns": None},
            {"timestamp_ns": [1, 2]},
            {"log": None},
            {"index": "x"},
            {"leaf": None},
            {"leaf": "AAAA"},
            {"sections": None},
            {"sections": {"core": "[]"}},
            {"salts": {"core": "!"}},
        ],
    )
    @pytest.mark.parametrize("name", ["search", "get", "export"])
    def test_an_entry(self, server: Answers, reader: ElasticsearchReader, name: str, klyra: dict[str, Any]) -> None:
        """It is named, and the remedy says how to find all there are."""
        server.finds(hit(MemoryLedger().seal(document()), klyra=klyra))
        with pytest.raises(Halted) as caught:
            READS[name](reader)
        assert (caught.value.code, "klyra-audit verify" in caught.value.remedy) == ("store_altered", True)
        assert ACME in str(caught.value)

    def test_a_count_that_begins_with_one(self, server: Answers, reader: ElasticsearchReader) -> None:
        """Counts do not pass it over either."""
        server.finds(hit(MemoryLedger().seal(document()), klyra={"timestamp_ns": None}))
        with pytest.raises(Halted) as caught:
            reader.summarize(SEARCH, Shape(10, 3))
        assert (caught.value.code, bool(caught.value.remedy)) == ("store_altered", True)

    @pytest.mark.parametrize("change", [{"klyra": {}}, {"quarantine": {}}, {"quarantine": None}, {"quarantine": "x"}])
    def test_a_quarantined_input(
        self, server: Answers, quarantine: ElasticsearchQuarantine, change: dict[str, Any]
    ) -> None:
        """The same."""
        record = MemoryLedger().quarantine()
        source = quarantine_document(record, PLACING, quarantine_row_of(record, b"not"), b"not")
        found = {"_index": "i", "_id": "x", "_source": source | change, "sort": [1, ORIGIN, 0]}
        organization = {"_index": "i", "_id": "y", "_source": {"klyra": {"org_ref": "ab" * 16}}}
        server.script.append((200, EMPTY | {"hits": {"hits": [organization]}}))
        server.script += [(200, EMPTY | {"hits": {"hits": [found]}}), (200, EMPTY)]
        with pytest.raises(Halted) as caught:
            quarantine.quarantined(INPUTS, 10)
        assert (caught.value.code, bool(caught.value.remedy)) == ("store_altered", True)

    def test_an_entry_that_knows_no_organization(self, server: Answers, quarantine: ElasticsearchQuarantine) -> None:
        """By what the ledger knows it cannot be guessed."""
        server.finds({"_index": "i", "_id": "y", "_source": {}})
        with pytest.raises(Halted) as caught:
            quarantine.quarantined(INPUTS, 10)
        assert caught.value.code == "store_altered"


class TestNothingThere:
    """Before anybody has written anything there is no index, and an answer has no aggregations."""

    def test_no_overlaps(self) -> None:
        """Records have no second documents."""
        assert overlaps_of(EMPTY) == []
        assert overlaps_of({"aggregations": {}}) == []

    def test_documents_without_a_place(self) -> None:
        """Somebody else's documents overlap with nothing."""
        log = {"key": "log", "first": {"value": None}, "last": {"value": None}}
        assert overlaps_of({"aggregations": {"indexes": {"buckets": [{"logs": {"buckets": [log]}}] * 2}}}) == []

    def test_answers(self, server: Answers, reader: ElasticsearchReader, quarantine: ElasticsearchQuarantine) -> None:
        """They are empty."""
        server.body = EMPTY | {"id": "pit", "hits": {"total": {"value": 0}, "hits": []}}
        assert reader.search(SEARCH, 10) == exported(reader) == []
        assert reader.get(ACME, "log_1", TODAY) is reader.earliest_sealing_day(ACME, TODAY) is None
        assert reader.summarize(SEARCH, Shape(10, 3)) == NOTHING
        assert quarantine.quarantined(INPUTS, 10) == []
        assert quarantine.quarantine_backlog(TODAY).waiting == 0


class TestWhatASearchMaySee:
    """How far the follower is: by its cursor, and by asking."""

    def test_a_cursor_that_cannot_be_read(self, reader: ElasticsearchReader, tmp_path: Path) -> None:
        """Nobody knows what to show."""
        (tmp_path / FILE).write_bytes(b"{")
        with pytest.raises(Halted) as caught:
            reader.snapshot()
        assert (caught.value.code, "Delete it" in caught.value.remedy) == ("store_cursor_damaged", True)

    def test_the_snapshot_is_what_the_follower_has_found(self, reader: ElasticsearchReader, tmp_path: Path) -> None:
        """What is only stored is not promised."""
        disk = Disk()
        save(tmp_path, StoreCursor({ORIGIN: 9}, {ORIGIN: 7}), disk)
        disk.close()
        assert reader.snapshot() == {ORIGIN: 7}

    @pytest.mark.parametrize(
        "case",
        [
            (503, "unavailable_shards_exception", RetryLater, "cluster_unreachable", ""),
            (403, "security_exception", Paused, "cluster_refuses", "credentials"),
            (400, "index_closed_exception", Paused, "index_closed", "_open"),
            (404, "index_not_found_exception", Paused, "elasticsearch_writer_refused", "setup elasticsearch"),
            (400, "parsing_exception", Halted, "elasticsearch_request_not_understood", "store.url"),
        ],
    )
    def test_asking_how_far_it_is(self, server: Answers, client: Elasticsearch, case: Case) -> None:
        """The follower waits, or somebody has to act; the cursor stays."""
        status, kind, type_, code, remedy = case
        server.fails(status, kind)
        searchable, present = Searchable(client), Present(client, beyond=10)
        searchable.applied(ORIGIN, 0, 3, 3)
        for ask in (searchable.look, lambda: present.among(ORIGIN, 0, 3, 0)):
            with pytest.raises(type_) as caught:
                ask()
            assert (caught.value.code, remedy in caught.value.remedy) == (code, True)

    def test_half_a_count_is_none(self, server: Answers, client: Elasticsearch) -> None:
        """It is not yet found, however many the other shards have."""
        server.body = {"count": 3, "_shards": {"total": 2, "failed": 1}}
        searchable = Searchable(client)
        searchable.applied(ORIGIN, 0, 3, 3)
        assert searchable.look() == {}
