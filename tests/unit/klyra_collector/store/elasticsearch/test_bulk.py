"""Bulk writing: every line is stored or named as refused, whatever the server answers on the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import orjson
import pytest
from elasticsearch import Elasticsearch

from klyra_audit.errors import Halted, KlyraError, Paused, RetryLater
from klyra_collector.store.elasticsearch import bulk
from klyra_collector.store.elasticsearch.bulk import (
    BulkWriter,
    ElasticsearchBusy,
    Line,
    MappingRefuses,
    RequestNotUnderstood,
    WriterRefused,
)
from klyra_collector.store.elasticsearch.connection import ClusterUnsuitable
from klyra_collector.store.elasticsearch.endpoint import BulkClient, ExistingDocuments
from klyra_collector.store.elasticsearch.pace import LEAST_BYTES, Pace
from klyra_collector.store.elasticsearch.results import Result
from support.elasticsearch_bulk import BulkElasticsearch, serving

STREAM = "klyra-audit-startup"
ORIGIN = "l/c/2026"


@pytest.fixture
def server() -> Iterator[BulkElasticsearch]:
    """A server."""
    with serving() as running:
        yield running


class Counting:
    """Counts what happens."""

    def __init__(self) -> None:
        self.documents = 0
        self.results: dict[Result, int] = {}

    def stored(self, documents: int, sent_bytes: int, seconds: float) -> None:
        """See `BulkObserver`."""
        self.documents += documents

    def happened(self, result: Result, documents: int) -> None:
        """See `BulkObserver`."""
        self.results[result] = self.results.get(result, 0) + documents


@pytest.fixture
def counting() -> Counting:
    """What the writer says that happened."""
    return Counting()


@pytest.fixture
def waits() -> list[float]:
    """How long the writer would have waited."""
    return []


@pytest.fixture
def pace() -> Pace:
    """Small requests, two at once."""
    return Pace(request_bytes=1000)


@pytest.fixture
def writer(server: BulkElasticsearch, counting: Counting, waits: list[float], pace: Pace) -> Iterator[BulkWriter]:
    """A writer to the server that does not really wait."""
    client = Elasticsearch(server.url, max_retries=0, retry_on_timeout=False, request_timeout=10)
    made = BulkWriter(BulkClient(client), ExistingDocuments(client), pace=pace, observer=counting, sleep=waits.append)
    with closing(client), closing(made):
        yield made


def line(number: int, **members: Any) -> Line:
    """Return a line of about 200 bytes."""
    source = {"klyra": {"log": ORIGIN, "index": number}, "text": "x" * 100}
    return Line(STREAM, f"org_a:log_{number:08}", orjson.dumps(source), ORIGIN, number)._replace(**members)


def refusal(kind: str, status: int = 400) -> dict[str, Any]:
    """Return the answer for a document."""
    return {"status": status, "error": {"type": kind, "reason": "because"}}


def numbers(server: BulkElasticsearch) -> list[int]:
    """Return the numbers of the documents the server has."""
    return sorted(source["klyra"]["index"] for source in server.documents.values())


def repeated(taken: Line) -> Line:
    """Return a repeat's own line."""
    return taken._replace(id=f"{taken.id}:{taken.origin}:{taken.number}")


class TestStoring:
    """What goes right."""

    def test_every_line_is_stored_once(self, server: BulkElasticsearch, writer: BulkWriter, counting: Counting) -> None:
        """Requests are of bounded size, and each line is in exactly one."""
        assert writer.write(map(line, range(50))) == []
        assert numbers(server) == list(range(50))
        assert sum(map(len, server.requests)) == 50
        assert counting.documents == 50
        assert len(server.requests) > 3

    def test_only_create_is_asked_for_and_only_on_streams(self, server: BulkElasticsearch, writer: BulkWriter) -> None:
        """A missing stream is never made into an index; what is no stream is not asked to be one."""
        writer.write([line(0), line(1, is_plain=True)])
        first, second = (action for request in server.requests for action, _ in request)
        assert first == {"_index": STREAM, "_id": "org_a:log_00000000", "require_data_stream": True}
        assert "require_data_stream" not in second
        assert all("refresh" not in path for path in server.paths)

    def test_several_requests_are_under_way(self, server: BulkElasticsearch, writer: BulkWriter) -> None:
        """As many as allowed, never more."""
        server.delay = 0.02
        writer.write(map(line, range(100)))
        assert server.busiest == 2

    def test_nothing_to_write(self, server: BulkElasticsearch, writer: BulkWriter) -> None:
        """Nothing is asked."""
        assert writer.write([]) == []
        assert server.requests == []

    def test_ids_may_hold_anything(self, server: BulkElasticsearch, writer: BulkWriter) -> None:
        """What JSON must escape is escaped."""
        writer.write([line(0, id='a"\\\u00e9')])
        assert list(server.documents) == [(STREAM, 'a"\\\u00e9')]


class TestAgain:
    """What goes right later."""

    @pytest.mark.parametrize(
        "answer",
        [
            refusal("es_rejected_execution_exception", 429),
            refusal("circuit_breaking_exception", 429),
            refusal("cluster_block_exception", 403),
            refusal("unavailable_shards_exception", 503),
        ],
    )
    def test_only_the_document_that_was_pushed_back_goes_again(
        self, server: BulkElasticsearch, writer: BulkWriter, waits: list[float], answer: dict[str, Any]
    ) -> None:
        """The others are stored; it follows after a wait."""
        server.items.extend([None, answer, None])
        assert writer.write(map(line, range(3))) == []
        assert [len(request) for request in server.requests] == [3, 1]
        assert numbers(server) == [0, 1, 2]
        assert max(waits) <= 0.2

    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
    def test_a_request_that_was_pushed_back_goes_again(
        self, server: BulkElasticsearch, writer: BulkWriter, counting: Counting, status: int
    ) -> None:
        """The very same lines."""
        server.script.append((status, {"error": {"type": "busy", "reason": "busy"}}))
        assert writer.write(map(line, range(3))) == []
        assert server.requests[0] == server.requests[1]
        assert counting.results == {Result.RETRY: 3}

    def test_an_unknown_outcome_is_settled_by_sending_again(
        self, server: BulkElasticsearch, writer: BulkWriter, counting: Counting
    ) -> None:
        """What was stored before the connection broke is recognised as ours by its place."""

        def stores_and_breaks(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> tuple[int, Any]:
            for action, source in pairs[:2]:
                server.documents[STREAM, action["_id"]] = source
            return 0, None

        server.script.append(stores_and_breaks)
        assert writer.write(map(line, range(3))) == []
        assert numbers(server) == [0, 1, 2]
        assert counting.results[Result.EXISTS] == 2

    def test_waits_grow_and_end(self, server: BulkElasticsearch, writer: BulkWriter, waits: list[float]) -> None:
        """After some attempts the caller is told that nothing is certain."""
        server.script.extend([(503, {})] * 6)
        with pytest.raises(ElasticsearchBusy) as caught:
            writer.write([line(0)])
        assert isinstance(caught.value, RetryLater)
        assert caught.value.code == "elasticsearch_busy"
        assert len(server.requests) == 6
        assert max(waits) <= 3.2

    def test_an_answer_of_other_length_counts_as_none(self, server: BulkElasticsearch, writer: BulkWriter) -> None:
        """Documents without an answer are not taken for stored."""
        server.script.append((200, {"items": [{"create": {"status": 201}}]}))
        writer.write(map(line, range(3)))
        assert numbers(server) == [0, 1, 2]

    def test_an_answer_that_is_not_json_counts_as_none(self, server: BulkElasticsearch, writer: BulkWriter) -> None:
        """A page of something in between is no answer."""
        server.script.append((200, b"<html>"))
        writer.write(map(line, range(3)))
        assert numbers(server) == [0, 1, 2]

    def test_what_is_too_large_goes_in_halves(self, server: BulkElasticsearch, writer: BulkWriter, pace: Pace) -> None:
        """A 413 splits the request, and the next are smaller."""
        server.script.append((413, b""))
        assert writer.write(map(line, range(4))) == []
        assert [len(request) for request in server.requests] == [4, 2, 2]
        assert pace.most_bytes == LEAST_BYTES

    def test_one_document_that_is_too_large_is_refused(self, server: BulkElasticsearch, writer: BulkWriter) -> None:
        """It is named; the others are stored."""

        def too_large(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> tuple[int, Any] | None:
            return (413, b"") if any(source["klyra"]["index"] == 0 for _, source in pairs) else None

        server.script.extend([too_large] * 3)
        (refused,) = writer.write(map(line, range(2)))
        assert refused.line.number == 0
        assert refused.why.status == 413
        assert numbers(server) == [1]


class TestTaken:
    """An `_id` that somebody has."""

    def test_by_the_same_record(self, server: BulkElasticsearch, writer: BulkWriter, counting: Counting) -> None:
        """It is stored already."""
        writer.write([line(0)])
        assert writer.write([line(0), line(1)], repeated=repeated) == []
        assert len(server.documents) == 2
        assert counting.results == {Result.EXISTS: 1}

    def test_by_another_record(self, server: BulkElasticsearch, writer: BulkWriter) -> None:
        """A second sealing of an id has a document of its own, and is recognised again."""
        second = line(7, id=line(0).id)
        writer.write([line(0)])
        for _ in range(2):
            assert writer.write([second], repeated=repeated) == []
        assert list(server.documents) == [(STREAM, line(0).id), (STREAM, f"{line(0).id}:{ORIGIN}:7")]

    def test_by_a_stranger_under_an_id_that_only_we_give(self, server: BulkElasticsearch, writer: BulkWriter) -> None:
        """It is refused by name, and what is there stays."""
        server.documents[STREAM, line(0).id] = {"foreign": True}
        (refused,) = writer.write([line(0)])
        assert refused.why == bulk.ItemResult(Result.REFUSED, STREAM, 409, "its _id is another document's")


class TestRefused:
    """What does not go right."""

    def test_a_poison_document_is_named(self, server: BulkElasticsearch, writer: BulkWriter) -> None:
        """The others are stored."""
        server.items.extend([None, refusal("document_parsing_exception"), None])
        (refused,) = writer.write(map(line, range(3)))
        assert (refused.line.number, refused.why.status) == (1, 400)
        assert refused.why.reason == "document_parsing_exception: because"
        assert numbers(server) == [0, 2]

    def test_the_failure_store_is_no_store(self, server: BulkElasticsearch, writer: BulkWriter) -> None:
        """A 201 from it is a refusal."""
        server.items.append({"status": 201, "failure_store": "used"})
        (refused,) = writer.write([line(0)])
        assert "failure store" in refused.why.reason

    def test_a_mapping_that_refuses_everything(self, server: BulkElasticsearch, writer: BulkWriter) -> None:
        """It pauses instead of making a dead letter of every entry."""
        server.items.extend([refusal("document_parsing_exception")] * 20)
        pace = Pace(request_bytes=100_000)
        writer._pace = pace
        with pytest.raises(MappingRefuses) as caught:
            writer.write(map(line, range(20)))
        assert isinstance(caught.value, Paused)
        assert caught.value.code == "elasticsearch_mapping_refuses"
        assert "setup elasticsearch" in caught.value.remedy

    @pytest.mark.parametrize("status", [401, 403, 404])
    def test_a_writer_who_is_not_let_in(self, server: BulkElasticsearch, writer: BulkWriter, status: int) -> None:
        """It pauses until an operator has acted."""
        server.script.append((status, {"error": {"type": "security_exception", "reason": "no"}}))
        with pytest.raises(WriterRefused) as caught:
            writer.write([line(0)])
        assert isinstance(caught.value, Paused)
        assert caught.value.code == "elasticsearch_writer_refused"
        assert "setup elasticsearch" in caught.value.remedy

    @pytest.mark.parametrize(
        "answer",
        [
            refusal("security_exception", 403),
            refusal("index_not_found_exception", 404),
        ],
    )
    def test_a_document_that_is_not_let_in(
        self, server: BulkElasticsearch, writer: BulkWriter, answer: dict[str, Any]
    ) -> None:
        """It pauses too: nothing is wrong with the document."""
        server.items.append(answer)
        with pytest.raises(WriterRefused):
            writer.write([line(0)])

    def test_a_closed_index(self, server: BulkElasticsearch, writer: BulkWriter) -> None:
        """It is named, and so is how to open it."""
        server.items.append(refusal("index_closed_exception"))
        with pytest.raises(WriterRefused, match="closed the index behind") as caught:
            writer.write([line(0)])
        assert (caught.value.code, "_open" in caught.value.remedy) == ("elasticsearch_writer_refused", True)

    def test_somebody_who_does_not_understand(self, server: BulkElasticsearch, writer: BulkWriter) -> None:
        """Another version, or another program, halts the follower."""
        server.script.append((400, {"error": {"type": "media_type_header_exception", "reason": "no"}}))
        with pytest.raises(RequestNotUnderstood) as caught:
            writer.write([line(0)])
        assert isinstance(caught.value, Halted)
        assert caught.value.code == "elasticsearch_request_not_understood"
        assert "store.url" in caught.value.remedy

    def test_somebody_who_is_no_elasticsearch(self, server: BulkElasticsearch, writer: BulkWriter) -> None:
        """The client's product check halts the follower."""
        server.product = False
        with pytest.raises(ClusterUnsuitable) as caught:
            writer.write([line(0)])
        assert isinstance(caught.value, Halted)
        assert caught.value.code == "no_product"
        assert "Check the URL" in caught.value.remedy

    def test_nothing_is_under_way_after_an_error(self, server: BulkElasticsearch, writer: BulkWriter) -> None:
        """Whoever writes next finds no request of before still running."""
        server.delay = 0.05
        server.items.extend([refusal("security_exception", 403)])
        with pytest.raises(KlyraError):
            writer.write(map(line, range(100)))
        assert server.busy == 0


class TestPace:
    """How much is sent at once."""

    def test_it_grows_while_all_is_well(self) -> None:
        """Up to its bound."""
        pace = Pace(request_bytes=1000, most_bytes=2000, in_flight=1)
        pace.taken(1000, 0.1)
        assert (pace.request_bytes, pace.in_flight) == (1500, 2)
        pace.taken(1500, 0.1)
        assert (pace.request_bytes, pace.in_flight) == (2000, 2)

    def test_a_small_request_says_nothing(self) -> None:
        """It grows by what it tried."""
        pace = Pace(request_bytes=1_000_000)
        pace.taken(10, 0.1)
        assert pace.request_bytes == 1_000_000

    def test_it_shrinks_when_pushed_back(self) -> None:
        """Never below its least."""
        pace = Pace()
        for _ in range(20):
            pace.pushed_back()
        assert (pace.request_bytes, pace.in_flight) == (LEAST_BYTES, 1)

    def test_a_slow_answer_makes_it_smaller(self) -> None:
        """To what takes about a second."""
        pace = Pace()
        pace.taken(1_000_000, 4.0)
        assert pace.request_bytes == 250_000
