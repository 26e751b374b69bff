"""A search as Elasticsearch takes it, and its hits as a store gives them back. Pure: nothing is sent here.

Sort key, filters and retention are those of the embedded store, over fields that hold the same values; text filters
are `terms` on keywords, so nothing of what somebody writes is parsed as a query.
"""

from __future__ import annotations

import base64
import ipaddress
from typing import TYPE_CHECKING, Any, Final

from klyra_audit.errors import Halted
from klyra_collector.store.elasticsearch.documents import DocumentUnusable, entry_of
from klyra_collector.store.rows import HIGHEST_NS, LOWEST_NS
from klyra_collector.store.searching import Found, SortKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from klyra_collector.store.elasticsearch.asking import Hit
    from klyra_collector.store.searching import AddressRange, Filters, Order, Search

Json = dict[str, Any]


class StoreAltered(Halted):
    """Somebody else wrote or changed a document of the store."""

    code = "store_altered"


# Everything of a document that is shown or proves it; what only searches look at stays where it is.
SOURCE: Final = (
    *("klyra.timestamp_ns", "klyra.log", "klyra.index", "klyra.leaf"),
    *("klyra.sections", "klyra.salts", "klyra.c", "klyra.evidence"),
)

FIELDS: Final = {
    "event_types": "event_type",
    "actor_ids": "actor.id",
    "actor_types": "actor.type",
    "resource_ids": "resource.id",
    "resource_types": "resource.type",
    "actions": "action",
    "status": "status",
}
_MOST_OF_ONE_ID: Final = 100
_ADDRESS: Final = "metadata.client_ip"
_MAPPED: Final = bytes(10) + b"\xff\xff"


def search_body(search: Search, limit: int) -> Json:
    """Return the body of a search for the next `limit` entries.

    A search that finds nothing at once, such as one with an empty snapshot, is a body like any other.
    """
    body: Json = {
        "size": limit,
        "track_total_hits": False,
        "_source": list(SOURCE),
        "sort": sort_of(search.order),
        "query": {"bool": {"filter": conditions(search)}},
    }
    if search.after is not None:
        body["search_after"] = list(place_of(search.after))
    return body


def shown(today: int) -> Json:
    """Return the condition that no earlier sealing of the same id is shown."""
    return {"bool": {"must_not": [{"range": {"klyra.shown_from": {"gt": today}}}]}}


def sort_of(order: Order) -> list[Json]:
    """Return the sort key of DESIGN section 7."""
    return [{name: {"order": order}} for name in ("klyra.timestamp_ns", "klyra.log", "klyra.index")]


def place_of(key: SortKey) -> tuple[int, str, int]:
    """Return a sort key as `search_after` takes it."""
    return key.timestamp_ns, key.origin, key.index


def conditions(search: Search) -> list[Json]:
    """Return what every entry of a search fulfils."""
    found: list[Json] = [
        {"term": {"organization_id": search.organization_id}},
        {"range": {"klyra.expire_day": {"gt": search.today}}},
        shown(search.today),
    ]
    found += _times(search.filters)
    for name, field in FIELDS.items():
        values: Sequence[str] = getattr(search.filters, name)
        if values:
            found.append({"terms": {field: list(values)}})
    if search.filters.client_ip is not None:
        found.append({"range": {_ADDRESS: _address_bounds(search.filters.client_ip)}})
    if search.snapshot is not None:
        found.append(below(search.snapshot))
    return found


def one_body(organization_id: str, entry_id: str, today: int, snapshot: Mapping[str, int]) -> Json:
    """Return the body of a search for one entry; of several sealings of an id, the earliest that is still kept."""
    return {
        "size": _MOST_OF_ONE_ID,
        "track_total_hits": False,
        "_source": list(SOURCE),
        "sort": [{"klyra.log": {"order": "asc"}}, {"klyra.index": {"order": "asc"}}],
        "query": {
            "bool": {
                "filter": [
                    {"term": {"organization_id": organization_id}},
                    {"term": {"id": entry_id}},
                    {"range": {"klyra.expire_day": {"gt": today}}},
                    shown(today),
                    below(snapshot),
                ]
            }
        },
    }


def place_body(origin: str, index: int, limit: int) -> Json:
    """Return the body of a search for documents that say to be of one record."""
    where = [{"term": {"klyra.log": origin}}, {"term": {"klyra.index": index}}]
    return {"size": limit, "track_total_hits": False, "_source": list(SOURCE), "query": {"bool": {"filter": where}}}


def earliest_day_body(organization_id: str, today: int) -> Json:
    """Return the body of a search for the earliest day of sealing that is still kept."""
    return {
        "size": 0,
        "track_total_hits": False,
        "query": {
            "bool": {
                "filter": [
                    {"term": {"organization_id": organization_id}},
                    {"range": {"klyra.expire_day": {"gt": today}}},
                ]
            }
        },
        "aggs": {"earliest": {"min": {"field": "klyra.sealing_day"}}},
    }


def found_of(hit: Hit) -> Found:
    """Return a hit as an entry; `StoreAltered` if it is no document that was written from the ledger."""
    try:
        source = hit["_source"]
        return Found(key_of(hit), base64.b64decode(source["klyra"]["leaf"]), entry_of(source))
    except (DocumentUnusable, KeyError, TypeError, ValueError) as error:
        raise altered(hit) from error


def once(hits: Iterable[Hit], before: SortKey | None) -> Iterator[Hit]:
    """Yield one of the documents of each record: they stand side by side, since they have one sort key."""
    for hit in hits:
        key = key_of(hit)
        if key != before:
            yield hit
        before = key


def key_of(hit: Hit) -> SortKey:
    """Return the sort key of a hit; `StoreAltered` if it has none."""
    try:
        klyra = hit["_source"]["klyra"]
        return SortKey(int(klyra["timestamp_ns"]), klyra["log"], int(klyra["index"]))
    except (KeyError, TypeError, ValueError) as error:
        raise altered(hit) from error


def after(hit: Hit) -> SortKey:
    """Return where a search goes on behind a hit, whatever that says of itself."""
    timestamp_ns, origin, index = hit["sort"][:3]
    return SortKey(timestamp_ns, origin, index)


def altered(hit: Hit) -> StoreAltered:
    """Return the error for a document that cannot be shown: leaving it out would make an answer short in silence."""
    return StoreAltered(
        f"The document {hit['_id']} of the store is none that was written from the ledger.",
        remedy="Operator: klyra-audit verify elasticsearch+https://HOST:9200 says what else is not; delete what is.",
    )


def _times(filters: Filters) -> list[Json]:
    bounds: dict[str, int] = {}
    if filters.start_ns is not None:
        bounds["gte"] = min(max(filters.start_ns, LOWEST_NS), HIGHEST_NS)
    if filters.end_ns is not None:
        bounds["lt"] = min(max(filters.end_ns, LOWEST_NS), HIGHEST_NS)
    return [{"range": {"klyra.timestamp_ns": bounds}}] if bounds else []


def _address_bounds(addresses: AddressRange) -> dict[str, str]:
    return {"gte": _address(addresses.low), "lte": _address(addresses.high)}


def _address(key: bytes) -> str:
    """Return an address as Elasticsearch takes it: to it, too, IPv4 lies in the mapped block of IPv6."""
    return str(ipaddress.IPv4Address(key[-4:]) if key.startswith(_MAPPED) else ipaddress.IPv6Address(key))


def below(snapshot: Mapping[str, int]) -> Json:
    """Return the condition that a record was there when a snapshot was taken; without shards there was none."""
    shards = [
        {"bool": {"filter": [{"term": {"klyra.log": origin}}, {"range": {"klyra.index": {"lt": size}}}]}}
        for origin, size in snapshot.items()
    ]
    return {"bool": {"should": shards, "minimum_should_match": 1}} if shards else {"match_none": {}}
