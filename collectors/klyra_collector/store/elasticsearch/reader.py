"""The reading side of the store in Elasticsearch: the same answers, byte for byte, as of the embedded store.

What a search may see is what the follower has seen a search find (`cursor.StoreCursor.searchable`); what came later
changes no page. An answer that misses a shard is no answer: `allow_partial_search_results` is false everywhere, and an
export that loses its point in time fails instead of ending short.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from klyra_audit.errors import RetryLater
from klyra_collector.store.elasticsearch import queries, summaries
from klyra_collector.store.elasticsearch.connection import NotFound, probe, request
from klyra_collector.store.elasticsearch.cursor import load
from klyra_collector.store.elasticsearch.names import ENTRY_STREAMS
from klyra_collector.store.summarizing import NOTHING, TOP_NAMES, Summary, interval_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from elasticsearch import Elasticsearch

    from klyra_collector.store.searching import Found, Search, SortKey
    from klyra_collector.store.summarizing import Frequent, Shape

_PAGE: Final = 1000  # documents of one request of an export
_KEEP_ALIVE: Final = "2m"
_WHOLE: Final = "allow_partial_search_results=false&ignore_unavailable=true&allow_no_indices=true"


class AnswerIncomplete(RetryLater):
    """Some shards did not answer, so entries may be missing."""

    code = "answer_incomplete"


class ElasticsearchReader:
    """Searches with a key that may read. Any thread may call it.

    Args:
        client: of the reader.
        cursors: folder of the follower's cursor, which says what a search finds.
    """

    def __init__(self, client: Elasticsearch, cursors: Path) -> None:
        self._client = client
        self._cursors = cursors

    def snapshot(self) -> Mapping[str, int]:
        """Return origin → size of what a search finds by now."""
        return load(self._cursors).searchable

    def search(self, search: Search, limit: int) -> list[Found]:
        """Return the first `limit` entries of a search, in its order."""
        found: list[Found] = []
        # A document that was sent twice around a rollover is there twice, in two backing indexes.
        while len(found) < limit:
            wanted = limit - len(found)
            body = queries.search_body(search, wanted)
            hits = self._hits(body)
            found += _once(hits, found[-1].key if found else search.after)
            if len(hits) < wanted:
                break
            search = replace(search, after=queries.key_of(hits[-1]))
        return found

    def get(self, organization_id: str, entry_id: str, today: int) -> Found | None:
        """Return one entry of an organization, None if it has no such entry."""
        hits = self._hits(queries.one_body(organization_id, entry_id, today))
        return queries.found_of(hits[0]) if hits else None

    @contextmanager
    def export(self, search: Search) -> Iterator[Iterator[Found]]:
        """Yield every entry of a search out of one point in time."""
        path = f"/{ENTRY_STREAMS}/_pit?keep_alive={_KEEP_ALIVE}&ignore_unavailable=true"
        point = _PointInTime(str(request(self._client, "POST", path)["id"]))
        try:
            whole = replace(search, snapshot=self.snapshot() if search.snapshot is None else search.snapshot)
            yield self._all(whole, point)
        finally:
            self._close(point)

    def earliest_sealing_day(self, organization_id: str, today: int) -> int | None:
        """Return the earliest UTC day on which an entry that is still visible was sealed."""
        answer = self._answer(queries.earliest_day_body(organization_id, today))
        day = answer.get("aggregations", {}).get("earliest", {}).get("value")
        return None if day is None else int(day)

    def summarize(self, search: Search, shape: Shape) -> Summary:
        """Return counts over the entries of a search, all of one snapshot."""
        search = replace(search, after=None, snapshot=self.snapshot() if search.snapshot is None else search.snapshot)
        total, first = summaries.edge_of(self._answer(summaries.edge_body(search, "asc")))
        _, last = summaries.edge_of(self._answer(summaries.edge_body(search, "desc")))
        if first is None or last is None:
            return NOTHING
        interval = interval_for(first, last, shape.buckets)
        answer = self._answer(summaries.counts_body(search, first, last, interval, shape.top))
        return Summary(
            total=total,
            first_ns=first,
            last_ns=last,
            interval_ns=interval,
            buckets=summaries.buckets_of(answer, first, last, interval),
            top={name: self._top(search, name, shape.top, answer) for name in TOP_NAMES},
        )

    def check(self) -> None:
        """Return if a search would be answered now."""
        probe(self._client)
        self.snapshot()

    def _all(self, search: Search, point: _PointInTime) -> Iterator[Found]:
        last: SortKey | None = search.after
        while True:
            body = queries.search_body(replace(search, after=last), _PAGE)
            body["pit"] = {"id": point.id, "keep_alive": _KEEP_ALIVE}
            answer = self._whole(request(self._client, "POST", "/_search?allow_partial_search_results=false", body))
            point.id = answer.get("pit_id", point.id)
            hits = answer["hits"]["hits"]
            if not hits:
                return
            yield from _once(hits, last)
            last = queries.key_of(hits[-1])

    def _top(self, search: Search, name: str, top: int, answer: dict[str, Any]) -> tuple[Frequent, ...]:
        if not top:
            return ()
        found = summaries.top_of(answer, name)
        if found is not None:
            return found
        every: list[Frequent] = []
        after: Mapping[str, Any] | None = None
        while True:
            values, after = summaries.every_value_of(
                self._answer(summaries.every_value_body(search, name, after)), name
            )
            every += values
            if after is None:
                return summaries.most_frequent(every, top)

    def _hits(self, body: queries.Json) -> list[dict[str, Any]]:
        hits: list[dict[str, Any]] = self._answer(body)["hits"]["hits"]
        return hits

    def _answer(self, body: queries.Json) -> dict[str, Any]:
        return self._whole(request(self._client, "POST", f"/{ENTRY_STREAMS}/_search?{_WHOLE}", body))

    def _whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        if answer.get("timed_out") or answer.get("_shards", {}).get("failed"):
            raise AnswerIncomplete(
                "Not every shard of Elasticsearch answered: entries may be missing.",
                remedy="Ask again; if it stays so, look at the health of the cluster.",
            )
        return answer

    def _close(self, point: _PointInTime) -> None:
        try:
            request(self._client, "DELETE", "/_pit", {"id": point.id})
        except (NotFound, RetryLater):
            return  # it is gone, or goes by itself when nobody asks for it any more


class _PointInTime:
    """What an export reads; its id may change with every answer."""

    def __init__(self, first: str) -> None:
        self.id = first


def _once(hits: list[dict[str, Any]], before: SortKey | None) -> Iterator[Found]:
    """Yield hits as entries; two documents of one record stand side by side, since they have one sort key."""
    for hit in hits:
        key = queries.key_of(hit)
        if key != before:
            yield queries.found_of(hit)
        before = key
