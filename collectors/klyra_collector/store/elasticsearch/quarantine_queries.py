"""Lists of quarantined input as Elasticsearch takes them, and what it finds as a store gives it back. Pure.

A document is never changed, so what became of an input stands where it was sealed: in the organization's
`quarantine.replayed` entries.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

import orjson

from klyra_collector.quarantine import REPLAYED
from klyra_collector.store.elasticsearch.queries import SOURCE, altered, below, key_of, place_of, sort_of
from klyra_collector.store.elasticsearch.queries import found_of as entry_found
from klyra_collector.store.quarantine_rows import ERASED
from klyra_collector.store.quarantined import FoundQuarantined, QuarantineRow
from klyra_collector.store.rows import HIGHEST_NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from klyra_collector.store.elasticsearch.asking import Hit
    from klyra_collector.store.elasticsearch.queries import Json
    from klyra_collector.store.quarantined import QuarantineSearch
    from klyra_collector.store.searching import Order, SortKey

# (organization's reference in hex, reference of an input) → id of the entry it became, "" once that was erased.
Replays = dict[tuple[str, str], str]

_SOURCE: Final = ("quarantine", "klyra")
_WITHOUT: Final = ("quarantine.raw", "klyra.sections", "klyra.salts")
_NANOSECONDS: Final = 1000  # of a microsecond
_PAGE: Final = 1000
_PREFIX_CHARACTERS: Final = 200  # a prefix of more than 1,000 bytes is refused: "input automaton is too large"
_PLACE: Final = [{"klyra.log": {"order": "asc"}}, {"klyra.index": {"order": "asc"}}]


def kept(today: int) -> list[Json]:
    """Return what every input fulfils that is still kept."""
    return [{"range": {"klyra.expire_day": {"gt": today}}}]


def conditions(search: QuarantineSearch, org_ref: str) -> list[Json]:
    """Return what every input of a list fulfils, but not all of it: `belongs` says the rest."""
    filters = search.filters
    found = [{"term": {"klyra.org_ref": org_ref}}, *kept(search.today)]
    for name, limit in (("gte", filters.start_us), ("lt", filters.end_us)):
        if limit is not None:
            found.append({"range": {"klyra.timestamp_ns": {name: min(limit * _NANOSECONDS, HIGHEST_NS)}}})
    for name, values in (("key_id", filters.key_ids), ("encoding", filters.encodings)):
        if values:
            found.append({"terms": {f"quarantine.{name}": list(values)}})
    if filters.pointer:
        found.append({"prefix": {"quarantine.pointer": filters.pointer[:_PREFIX_CHARACTERS]}})
    if search.snapshot is not None:
        found.append(below(search.snapshot))
    return found


def belongs(item: FoundQuarantined, search: QuarantineSearch) -> bool:
    """Say whether an input that fulfils `conditions` is one of a list."""
    state, pointer = search.filters.state, search.filters.pointer
    return item.row.pointer.startswith(pointer) and (
        state is None or (item.replayed_as is None) == (state == "waiting")
    )


def list_body(where: Sequence[Json], order: Order, after: SortKey | None, limit: int) -> Json:
    """Return the body of a search for the next `limit` inputs."""
    body: Json = {
        "size": limit,
        "track_total_hits": False,
        "_source": {"includes": list(_SOURCE), "excludes": list(_WITHOUT)},
        "sort": sort_of(order),
        "query": {"bool": {"filter": [*where]}},
    }
    if after is not None:
        body["search_after"] = list(place_of(after))
    return body


def count_body(where: Sequence[Json]) -> Json:
    """Return the body of a search for how many inputs there are."""
    return {"size": 0, "track_total_hits": True, "query": {"bool": {"filter": [*where]}}}


def organization_body(organization_id: str) -> Json:
    """Return the body of a search for the reference by which the ledger knows an organization."""
    where = [{"term": {"organization_id": organization_id}}]
    return {"size": 1, "track_total_hits": False, "_source": ["klyra.org_ref"], "query": {"bool": {"filter": where}}}


def organization_of(hit: Hit) -> str:
    """Return that reference; `StoreAltered` if it is none."""
    org_ref = hit["_source"].get("klyra", {}).get("org_ref")
    if not isinstance(org_ref, str):
        raise altered(hit)
    return org_ref


def replays_body(org_ref: str | None, references: Sequence[str] | None) -> Json:
    """Return the body of a search for entries that tell of replays, in the ledger's order.

    Args:
        org_ref: of the organization; None for all.
        references: of the inputs; None for all.
    """
    where: list[Json] = [{"term": {"event_type": REPLAYED}}, {"term": {"status": "success"}}]
    if org_ref is not None:
        where.append({"term": {"klyra.org_ref": org_ref}})
    if references is not None:
        where.append({"terms": {"resource.id": list(references)}})
    return {
        "size": _PAGE,
        "track_total_hits": False,
        "_source": [*SOURCE, "klyra.org_ref"],
        "sort": [*_PLACE, {"_index": {"order": "asc"}}],
        "query": {"bool": {"filter": where}},
    }


def replays_of(hits: Iterable[Hit]) -> Replays:
    """Return what became of inputs: the first replay counts.

    Raises:
        StoreAltered: an entry's document is none that was written from the ledger.
    """
    found: Replays = {}
    for hit in hits:
        entry = orjson.loads(entry_found(hit).entry)
        reference, entry_id = entry["resource"]["id"], entry["metadata"].get("entry_id", ERASED)
        if reference is not None and isinstance(entry_id, str):
            found.setdefault((hit["_source"]["klyra"]["org_ref"], reference), entry_id)
    return found


def those(pairs: Iterable[tuple[str, str]]) -> Json:
    """Return the condition to be one of some inputs, each of its own organization."""
    of: dict[str, list[str]] = {}
    for org_ref, reference in pairs:
        of.setdefault(org_ref, []).append(reference)
    each = [
        {"bool": {"filter": [{"term": {"klyra.org_ref": org_ref}}, {"terms": {"quarantine.reference": references}}]}}
        for org_ref, references in of.items()
    ]
    return {"bool": {"should": each, "minimum_should_match": 1}}


def reference_of(hit: Hit) -> tuple[str, str]:
    """Return by what an input is found among replays; `StoreAltered` if by nothing."""
    try:
        source = hit["_source"]
        return str(source["klyra"]["org_ref"]), str(source["quarantine"]["reference"])
    except (KeyError, TypeError) as error:
        raise altered(hit) from error


def found_of(hit: Hit, replays: Mapping[tuple[str, str], str]) -> FoundQuarantined:
    """Return a hit as an input, with what became of it; `StoreAltered` if it is none of ours."""
    try:
        return FoundQuarantined(key_of(hit), _row(hit), replays.get(reference_of(hit)))
    except (KeyError, TypeError, ValueError) as error:
        raise altered(hit) from error


def _row(hit: Hit) -> QuarantineRow:
    klyra, quarantine = hit["_source"]["klyra"], hit["_source"]["quarantine"]
    return QuarantineRow(
        klyra["index"],
        bytes.fromhex(klyra["org_ref"]),
        quarantine["reference"],
        klyra["timestamp_ns"] // _NANOSECONDS,
        klyra["expire_day"],
        klyra["sealing_day"],
        klyra["org_seq"],
        quarantine["encoding"],
        quarantine["key_id"],
        quarantine["reason"],
        quarantine["pointer"],
        quarantine["sha256"],
        quarantine["size"],
        base64.b64decode(klyra["leaf"]),
    )
