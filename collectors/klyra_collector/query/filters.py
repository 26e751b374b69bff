"""Filters in their two other forms: as a store takes them, and written down in one canonical way."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from klyra_collector.query.problems import Problem
from klyra_collector.store import addresses
from klyra_collector.store.searching import Filters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klyra_audit.catalog import Catalog
    from klyra_collector.query.parameters import FilterParameters

# Filters become metadata of the entry that records the search, which has a limit of its own (DESIGN section 4).
MAX_CANONICAL_BYTES = 16 * 1024
_LISTS = ("event_types", "actor_ids", "actor_types", "resource_ids", "resource_types", "actions", "status")


def filters_of(asked: FilterParameters) -> Filters:
    """Return filters as a store takes them."""
    lists: dict[str, tuple[str, ...]] = {name: getattr(asked, name) or () for name in _LISTS}
    return Filters(
        start_ns=None if asked.start_time is None else asked.start_time.start_ns,
        end_ns=None if asked.end_time is None else asked.end_time.end_ns,
        client_ip=asked.client_ip,
        **lists,
    )


def canonical(asked: FilterParameters) -> dict[str, Any]:
    """Return filters as JSON in which the same filters are always the same: sorted, in UTC, nothing empty."""
    written: dict[str, Any] = {name: list(values) for name in _LISTS if (values := getattr(asked, name))}
    if asked.start_time is not None:
        written["start_time"] = asked.start_time.text
    if asked.end_time is not None:
        written["end_time"] = asked.end_time.text
    if asked.client_ip is not None:
        written["client_ip"] = addresses.text_of(asked.client_ip)
    if len(text_of(written)) > MAX_CANONICAL_BYTES:
        raise Problem(
            400,
            "filters_too_long",
            f"The filters together are longer than {MAX_CANONICAL_BYTES} bytes.",
            remedy="Split the search into several with fewer values each.",
        )
    return written


def text_of(written: Mapping[str, Any]) -> str:
    """Return canonical filters as the text of a header: JSON in ASCII."""
    return json.dumps(written, sort_keys=True, separators=(",", ":"))


def warnings_of(asked: FilterParameters, catalog: Catalog) -> list[str]:
    """Return what a caller should know of filters that are valid but cannot match."""
    found = [
        f"The event type {name} is not in the catalog and matches nothing."
        for name in asked.event_types or ()
        if catalog.get(name) is None
    ]
    known = {event_type.resource_type for event_type in catalog.event_types.values()}
    found += [
        f"No event type of the catalog has the resource type {name}."
        for name in asked.resource_types or ()
        if name not in known
    ]
    start, end = asked.start_time, asked.end_time
    if start is not None and end is not None and start.start_ns >= end.end_ns:
        found.append("end_time is before start_time, so nothing can match.")
    return found
