"""Finds out what a search finds by now: Elasticsearch shows what it has stored at its next refresh, seconds later.

The writer's key may not ask for a refresh. So the documents of what was applied are counted until they are all found;
each shard is refreshed by itself, and a count over all of them is the only thing that says it of every one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from klyra_collector.store.elasticsearch.endpoint import asked
from klyra_collector.store.elasticsearch.names import ENTRY_STREAMS, QUARANTINE_STREAMS, WHOLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from elasticsearch import Elasticsearch

RECORDS: Final = f"/{ENTRY_STREAMS},{QUARANTINE_STREAMS}"
MOST_HITS: Final = 10_000  # of one search (reference, "index.max_result_window")

_EVERY_SECONDS: Final = 1.0
_PATIENCE_SECONDS: Final = 120.0  # far beyond any refresh of ours; what is not found then has been deleted

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Span:
    """Records applied, and how many documents were made of them."""

    start: int
    end: int
    documents: int
    since: float


class Searchable:
    """Follows what becomes searchable. Used by one thread."""

    def __init__(self, client: Elasticsearch, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Prepare to count.

        Args:
            client: of a key that may read.
            monotonic: seconds.
        """
        self._client = client
        self._monotonic = monotonic
        self._asked: dict[str, _Span] = {}
        self._waiting: dict[str, _Span] = {}
        self._next = 0.0

    def applied(self, origin: str, start: int, end: int, documents: int) -> None:
        """Note records that were applied, and how many documents there must be of them."""
        span = self._waiting.get(origin)
        if span is None:
            self._waiting[origin] = _Span(start, end, documents, self._monotonic())
        else:
            span.end, span.documents = end, span.documents + documents

    def all_found(self) -> dict[str, int]:
        """Note that everything was refreshed; return origin → size of what that has made searchable."""
        sizes = {origin: span.end for spans in (self._asked, self._waiting) for origin, span in spans.items()}
        self._asked, self._waiting = {}, {}
        return sizes

    def look(self) -> dict[str, int]:
        """Ask, at most once a second; return origin → size of what is found now, and was not before."""
        if not (self._asked or self._waiting) or self._monotonic() < self._next:
            return {}
        self._next = self._monotonic() + _EVERY_SECONDS
        for origin in self._waiting.keys() - self._asked.keys():
            self._asked[origin] = self._waiting.pop(origin)
        return {origin: self._asked.pop(origin).end for origin in list(self._asked) if self._is_found(origin)}

    def _is_found(self, origin: str) -> bool:
        span = self._asked[origin]
        if span.documents == 0:
            return True
        answer = asked(
            self._client, "POST", f"{RECORDS}/_count?{WHOLE}", {"query": place(origin, span.start, span.end)}
        )
        if not answer["_shards"]["failed"] and answer["count"] >= span.documents:
            return True
        if self._monotonic() - span.since < _PATIENCE_SECONDS:
            return False
        _log.error(
            "elasticsearch.documents_missing",
            log=origin,
            first=span.start,
            last=span.end - 1,
            stored=span.documents,
            found=answer["count"],
        )
        return True


def place(origin: str, start: int, end: int) -> dict[str, Any]:
    """Return the query for the documents of some records."""
    return {
        "bool": {"filter": [{"term": {"klyra.log": origin}}, {"range": {"klyra.index": {"gte": start, "lt": end}}}]}
    }


class Present:
    """Knows what was written before this process began: around a rollover an `_id` alone does not tell.

    `_id` is unique in one backing index only. After a restart, and when a ledger is followed from its beginning again,
    what is there already is looked up by place before anything is sent.
    """

    def __init__(self, client: Elasticsearch, *, beyond: int) -> None:
        """Prepare to look.

        Args:
            client: of a key that may read.
            beyond: records behind the newest document found that may have been sent and are not searchable yet.
        """
        self._client = client
        self._beyond = beyond
        self._until: dict[str, int] = {}

    def among(self, origin: str, start: int, end: int, applied: int) -> frozenset[int]:
        """Return the indexes of those records that have a document; up to `applied` all should have."""
        if origin not in self._until:
            self._until[origin] = max(self._newest(origin) + 1, applied) + self._beyond
        if start >= self._until[origin]:
            return frozenset()
        return frozenset(self._places(origin, start, end))

    def _newest(self, origin: str) -> int:
        body = {
            "size": 0,
            "query": {"term": {"klyra.log": origin}},
            "aggs": {"newest": {"max": {"field": "klyra.index"}}},
        }
        newest = searched(self._client, body).get("aggregations", {}).get("newest", {}).get("value")
        return -1 if newest is None else int(newest)

    def _places(self, origin: str, start: int, end: int) -> Iterable[int]:
        body = {
            "size": MOST_HITS,
            "track_total_hits": False,
            "_source": False,
            "docvalue_fields": ["klyra.index"],
            "query": place(origin, start, end),
        }
        for hit in searched(self._client, body)["hits"]["hits"]:
            yield int(hit["fields"]["klyra.index"][0])


def searched(client: Elasticsearch, body: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Return the answer of a search over entries and quarantined input, of every shard or of none."""
    return searched_in(client, RECORDS, body)


def searched_in(client: Elasticsearch, path: str, body: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Return the answer of a search over some streams, of every shard or of none."""
    return asked(client, "POST", f"{path}/_search?allow_partial_search_results=false&{WHOLE}", body)
