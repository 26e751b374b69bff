"""Records that have several documents: counted once all the same.

A document that is sent again after a rollover is accepted again, and one that moves to another stream is in both for a
while. They are in different indexes, and only where the spans of ledger indexes overlap that two of those have: of one
organization's entries mostly nowhere, so that looking costs one small aggregation. Pure: nothing is sent here.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from klyra_collector.store.elasticsearch.asking import Hit
    from klyra_collector.store.elasticsearch.queries import Json

_INDEXES: Final = 10_000  # more than there are: two years of a rollover a day, of several plans
_SHARDS: Final = 1000  # of the ledger, more than there are
_PAGE: Final = 10_000
_TERMS: Final = 50_000  # of 65,536 that a query may have

SPANS: Final = {
    "indexes": {
        "terms": {"field": "_index", "size": _INDEXES},
        "aggs": {
            "logs": {
                "terms": {"field": "klyra.log", "size": _SHARDS},
                "aggs": {"first": {"min": {"field": "klyra.index"}}, "last": {"max": {"field": "klyra.index"}}},
            }
        },
    }
}


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Records of one shard, both ends included."""

    log: str
    first: int
    last: int


def overlaps_of(answer: Mapping[str, Any]) -> list[Span]:
    """Return where records may have several documents, from an answer with the aggregations `SPANS`.

    Without any index there are no aggregations in an answer, and a document without a place in the ledger has none.
    """
    found = sorted(
        Span(log["key"], int(log["first"]["value"]), int(log["last"]["value"]))
        for index in answer.get("aggregations", {}).get("indexes", {}).get("buckets", ())
        for log in index["logs"]["buckets"]
        if log["first"]["value"] is not None
    )
    return [span for _, spans in groupby(found, key=lambda span: span.log) for span in _overlaps(list(spans))]


def documents_body(where: Sequence[Json], span: Span) -> Json:
    """Return the body of a search for the documents of a span, of which only the places are wanted."""
    within = [{"term": {"klyra.log": span.log}}, {"range": {"klyra.index": {"gte": span.first, "lte": span.last}}}]
    return {
        "size": _PAGE,
        "track_total_hits": False,
        "_source": False,
        "sort": [{"klyra.index": {"order": "asc"}}, {"_index": {"order": "asc"}}],
        "query": {"bool": {"filter": [*where, *within]}},
    }


def further_ones(span: Span, hits: Iterable[Hit]) -> dict[tuple[str, str], list[int]]:
    """Return (Elasticsearch's index, shard) → records whose first document stands elsewhere.

    Args:
        span: that was asked about.
        hits: all that a search by `documents_body` found, in its order.
    """
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    before: int | None = None
    for hit in hits:
        number = int(hit["sort"][0])
        if number == before:
            found[hit["_index"], span.log].append(number)
        before = number
    return dict(found)


def without(further: Mapping[tuple[str, str], Sequence[int]]) -> Iterator[Json]:
    """Yield conditions that leave each record one document."""
    for (index, log), numbers in further.items():
        for start in range(0, len(numbers), _TERMS):
            some = list(numbers[start : start + _TERMS])
            those = [{"term": {"_index": index}}, {"term": {"klyra.log": log}}, {"terms": {"klyra.index": some}}]
            yield {"bool": {"must_not": [{"bool": {"filter": those}}]}}


def _overlaps(spans: Sequence[Span]) -> Iterator[Span]:
    """Yield what more than one of some spans covers, which are of one shard and ascending."""
    highest = covered = -1
    for span in spans:
        first, last = max(span.first, covered + 1), min(span.last, highest)
        if first <= last:
            yield Span(span.log, first, last)
            covered = last
        highest = max(highest, span.last)
