"""The reading side of the store in Elasticsearch: the same answers, byte for byte, as of the embedded store.

What a search may see is what the follower has seen a search find (`cursor.StoreCursor.searchable`); what came later
changes no page. What somebody else added is not shown (`genuine`). An answer that misses a shard is no answer, and an
export that loses its point in time fails instead of ending short.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from klyra_collector.store.elasticsearch import queries, summaries
from klyra_collector.store.elasticsearch.asking import Asking
from klyra_collector.store.elasticsearch.connection import probe
from klyra_collector.store.elasticsearch.cursor import load
from klyra_collector.store.elasticsearch.genuine import Genuine
from klyra_collector.store.elasticsearch.names import ENTRY_STREAMS
from klyra_collector.store.summarizing import NOTHING, TOP_NAMES, Summary, interval_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from elasticsearch import Elasticsearch

    from klyra_collector.store.elasticsearch.asking import PointInTime
    from klyra_collector.store.elasticsearch.genuine import Leaves
    from klyra_collector.store.elasticsearch.queries import Json
    from klyra_collector.store.searching import Found, Search, SortKey
    from klyra_collector.store.summarizing import Frequent, Shape

_PAGE: Final = 1000  # documents of one request of an export


class ElasticsearchReader:
    """Searches with a key that may read. Any thread may call it.

    Args:
        client: of the reader.
        cursors: folder of the follower's cursor, which says what a search finds.
        leaves: of the ledger that was followed; see `Genuine`.
    """

    def __init__(self, client: Elasticsearch, cursors: Path, leaves: Leaves | None = None) -> None:
        self._client = client
        self._entries = Asking(client, ENTRY_STREAMS)
        self._genuine = Genuine(self._entries, leaves)
        self._cursors = cursors

    def snapshot(self) -> Mapping[str, int]:
        """Return origin → size of what a search finds by now."""
        return load(self._cursors).searchable

    def search(self, search: Search, limit: int) -> list[Found]:
        """Return the first `limit` entries of a search, in its order."""
        found: list[Found] = []
        # A record may have several documents, and what is left after that is less than was asked for.
        while len(found) < limit:
            wanted = limit - len(found)
            hits = self._entries.hits(queries.search_body(search, wanted))
            found += self._genuine.found(search.organization_id, hits, search.after)
            if len(hits) < wanted:
                break
            search = replace(search, after=queries.after(hits[-1]))
        return found

    def get(self, organization_id: str, entry_id: str, today: int) -> Found | None:
        """Return one entry of an organization, None if it has no such entry."""
        hits = self._entries.hits(queries.one_body(organization_id, entry_id, today, self.snapshot()))
        found = self._genuine.found(organization_id, hits)
        return found[0] if found else None

    @contextmanager
    def export(self, search: Search) -> Iterator[Iterator[Found]]:
        """Yield every entry of a search out of one point in time."""
        whole = replace(search, snapshot=self.snapshot() if search.snapshot is None else search.snapshot)
        with closing(self._entries.freeze()) as point:
            yield self._all(whole, point)

    def earliest_sealing_day(self, organization_id: str, today: int) -> int | None:
        """Return the earliest UTC day on which an entry that is still visible was sealed."""
        answer = self._entries.answer(queries.earliest_day_body(organization_id, today))
        day = answer.get("aggregations", {}).get("earliest", {}).get("value")
        return None if day is None else int(day)

    def summarize(self, search: Search, shape: Shape) -> Summary:
        """Return counts over the entries of a search, all of one snapshot."""
        snapshot = self.snapshot() if search.snapshot is None else search.snapshot
        where = queries.conditions(replace(search, snapshot=snapshot))
        first = summaries.edge_of(self._entries.answer(summaries.edge_body(where, "asc")))
        last = summaries.edge_of(self._entries.answer(summaries.edge_body(where, "desc")))
        if first is None or last is None:
            return NOTHING
        where += self._entries.duplicates(where)
        interval = interval_for(first, last, shape.buckets)
        answer = self._entries.answer(summaries.counts_body(where, first, last, interval, shape.top))
        return Summary(
            total=summaries.total_of(answer),
            first_ns=first,
            last_ns=last,
            interval_ns=interval,
            buckets=summaries.buckets_of(answer, first, last, interval),
            top={name: self._top(where, name, shape.top, answer) for name in TOP_NAMES},
        )

    def check(self) -> None:
        """Return if a search would be answered now."""
        probe(self._client)
        self.snapshot()

    def _top(self, where: Sequence[Json], name: str, top: int, answer: dict[str, Any]) -> tuple[Frequent, ...]:
        if not top:
            return ()
        found = summaries.top_of(answer, name)
        if found is not None:
            return found
        every: list[Frequent] = []
        after: Mapping[str, Any] | None = None
        while True:
            page = self._entries.answer(summaries.every_value_body(where, name, after))
            values, after = summaries.every_value_of(page, name)
            every += values
            if after is None:
                return summaries.most_frequent(every, top)

    def _all(self, search: Search, point: PointInTime) -> Iterator[Found]:
        last: SortKey | None = search.after
        while hits := point.hits(queries.search_body(replace(search, after=last), _PAGE)):
            yield from self._genuine.found(search.organization_id, hits, last)
            last = queries.after(hits[-1])
