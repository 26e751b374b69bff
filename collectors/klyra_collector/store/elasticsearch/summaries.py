"""Counts over the entries of a search in Elasticsearch, exact and equal to those of the embedded store.

Aggregations compute with floating-point numbers, in which nanoseconds since 1970 are not exact: times are looked up by
sorting, buckets are ranges of the query language, and a list of frequent values that shards could only estimate is
counted through. Conditions leave each record one document (`duplicates`). Pure: nothing is sent here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from klyra_collector.store import addresses
from klyra_collector.store.elasticsearch.queries import FIELDS, Json, altered
from klyra_collector.store.rows import HIGHEST_NS, LOWEST_NS
from klyra_collector.store.summarizing import TOP_NAMES, Frequent, spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from klyra_collector.store.searching import Order
    from klyra_collector.store.summarizing import Bucket

_SHARD_VALUES: Final = 5000
_PAGE: Final = 5000
_TIME: Final = "klyra.timestamp_ns"
_TOP_FIELDS: Final = {**FIELDS, "client_ip": "metadata.client_ip"}


def edge_body(where: Sequence[Json], order: Order) -> Json:
    """Return the body of a search for the first entry by time in an order."""
    return {
        "size": 1,
        "track_total_hits": False,
        "_source": [_TIME],
        "sort": [{_TIME: {"order": order}}],
        "query": {"bool": {"filter": [*where]}},
    }


def edge_of(answer: Mapping[str, Any]) -> int | None:
    """Return the time of that entry, None without any; `StoreAltered` if it has none."""
    for hit in answer["hits"]["hits"]:
        moment = hit["_source"].get("klyra", {}).get("timestamp_ns")
        if type(moment) is not int:
            raise altered(hit)
        return moment
    return None


def counts_body(where: Sequence[Json], first_ns: int, last_ns: int, interval_ns: int, top: int) -> Json:
    """Return the body of a search for entries by bucket and status, and for the most frequent values."""
    start = first_ns // interval_ns
    ranges = {
        str(number): {"range": {_TIME: _span((start + number) * interval_ns, interval_ns)}}
        for number in range(last_ns // interval_ns - start + 1)
    }
    statuses = {"statuses": {"terms": {"field": "status", "size": 10}}}
    aggregations: Json = {"over_time": {"filters": {"filters": ranges}, "aggs": statuses}}
    if top:
        aggregations |= {f"top_{name}": {"terms": _most_frequent(name, top)} for name in TOP_NAMES}
    return {
        "size": 0,
        "track_total_hits": True,
        "query": {"bool": {"filter": [*where]}},
        "aggs": aggregations,
    }


def total_of(answer: Mapping[str, Any]) -> int:
    """Return how many entries there are, from an answer to `counts_body`."""
    return int(answer["hits"]["total"]["value"])


def buckets_of(answer: Mapping[str, Any], first_ns: int, last_ns: int, interval_ns: int) -> tuple[Bucket, ...]:
    """Return the buckets of an answer to `counts_body`."""
    found = answer["aggregations"]["over_time"]["buckets"]
    counts = {
        (int(number), status["key"]): int(status["doc_count"])
        for number, bucket in found.items()
        for status in bucket["statuses"]["buckets"]
    }
    return spread(counts, first_ns, last_ns, interval_ns)


def top_of(answer: Mapping[str, Any], name: str) -> tuple[Frequent, ...] | None:
    """Return the most frequent values of one kind; None if the shards could only estimate them."""
    found = answer["aggregations"][f"top_{name}"]
    if found["doc_count_error_upper_bound"]:
        return None
    return tuple(Frequent(_text(name, bucket["key"]), int(bucket["doc_count"])) for bucket in found["buckets"])


def every_value_body(where: Sequence[Json], name: str, after: Mapping[str, Any] | None) -> Json:
    """Return the body of a search for the next values of one kind with their counts, of which none is left out."""
    values: Json = {"size": _PAGE, "sources": [{"value": {"terms": {"field": _TOP_FIELDS[name]}}}]}
    if after is not None:
        values["after"] = dict(after)
    return {
        "size": 0,
        "track_total_hits": False,
        "query": {"bool": {"filter": [*where]}},
        "aggs": {"every": {"composite": values}},
    }


def every_value_of(answer: Mapping[str, Any], name: str) -> tuple[list[Frequent], Mapping[str, Any] | None]:
    """Return the values of a page, in ascending order, and where the next one begins; None behind the last."""
    found = answer["aggregations"]["every"]
    values = [Frequent(_text(name, bucket["key"]["value"]), int(bucket["doc_count"])) for bucket in found["buckets"]]
    return values, found.get("after_key") if values else None


def most_frequent(values: Sequence[Frequent], top: int) -> tuple[Frequent, ...]:
    """Return the most frequent of all values, which come in ascending order."""
    return tuple(sorted(values, key=lambda one: -one.entries)[:top])


def _span(start_ns: int, interval_ns: int) -> dict[str, int]:
    """Return the bounds of a bucket, both included, as far as a 64-bit number goes."""
    return {"gte": max(start_ns, LOWEST_NS), "lte": min(start_ns + interval_ns - 1, HIGHEST_NS)}


def _most_frequent(name: str, top: int) -> Json:
    return {
        "field": _TOP_FIELDS[name],
        "size": top,
        "shard_size": max(top, _SHARD_VALUES),
        "order": [{"_count": "desc"}, {"_key": "asc"}],
    }


def _text(name: str, key: str) -> str:
    return addresses.text_of(addresses.range_of(key)) if name == "client_ip" else key
