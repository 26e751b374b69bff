"""What a search asks of a store and what it gets back: the edge every kind of store is written to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from klyra_collector.store.summarizing import Shape, Summary

Order = Literal["asc", "desc"]


@dataclass(frozen=True, slots=True, order=True)
class SortKey:
    """Where an entry stands among all others; ties of time are broken by the place in the ledger.

    Attributes:
        timestamp_ns: the entry's own timestamp in nanoseconds since 1970.
        origin: name of the shard.
        index: of the leaf in it.
    """

    timestamp_ns: int
    origin: str
    index: int


@dataclass(frozen=True, slots=True)
class AddressRange:
    """IP addresses from `low` to `high`, both included: 16 bytes each, IPv4 as IPv4-mapped IPv6 (RFC 4291)."""

    low: bytes
    high: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which entries a search is about: the values of one filter are OR, filters are AND, an empty one is none.

    Attributes:
        start_ns: earliest timestamp, nanoseconds since 1970, included; None for no bound.
        end_ns: the first timestamp behind the range, excluded; None for no bound.
        event_types, actor_ids, actor_types, resource_ids, resource_types, actions, status: sorted, no repeats.
        client_ip: addresses that `metadata.client_ip` must lie in.
    """

    start_ns: int | None = None
    end_ns: int | None = None
    event_types: tuple[str, ...] = ()
    actor_ids: tuple[str, ...] = ()
    actor_types: tuple[str, ...] = ()
    resource_ids: tuple[str, ...] = ()
    resource_types: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    client_ip: AddressRange | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One search of one organization.

    Attributes:
        organization_id: whose entries; no other organization's are ever looked at.
        filters: which of them.
        today: present UTC day since 1970; entries whose effective expiry day is not after it do not exist.
        order: of the sort key.
        after: only entries behind this key in that order.
        snapshot: origin → size: only entries below these sizes; None for all there are.
    """

    organization_id: str
    filters: Filters
    today: int
    order: Order = "desc"
    after: SortKey | None = None
    snapshot: Mapping[str, int] | None = field(default=None)


@dataclass(frozen=True, slots=True)
class Found:
    """An entry as a store gives it back.

    Attributes:
        key: its sort key.
        leaf: its 112 bytes in the ledger.
        entry: JSON text of the eight members, in the product page's order.
    """

    key: SortKey
    leaf: bytes
    entry: bytes


class Store(Protocol):
    """Where entries are searched. Every method may be called from any thread, and blocks.

    Two stores that followed the same ledger as far give byte-identical answers.

    Raises:
        RetryLater: (every method) the store cannot answer now; the same call may succeed later.
        Halted: (every method) the store is damaged; build it again from the ledger.
    """

    def snapshot(self) -> Mapping[str, int]:
        """Return origin → size of what has been applied: later arrivals lie beyond it."""
        ...

    def search(self, search: Search, limit: int) -> list[Found]:
        """Return the first `limit` entries of a search, in its order."""
        ...

    def get(self, organization_id: str, entry_id: str, today: int) -> Found | None:
        """Return one entry of an organization, None if it has no such entry."""
        ...

    def export(self, search: Search) -> AbstractContextManager[Iterator[Found]]:
        """Yield every entry of a search as they all are at this moment, in constant memory.

        Entering takes the snapshot. What is entered is iterated and left by one thread at a time.
        """
        ...

    def summarize(self, search: Search, shape: Shape) -> Summary:
        """Return counts over all entries of a search, whatever its order and the key to begin behind."""
        ...

    def earliest_sealing_day(self, organization_id: str, today: int) -> int | None:
        """Return the earliest UTC day on which an entry that is still visible was sealed; None without any."""
        ...

    def check(self) -> None:
        """Return if a search would be answered now."""
        ...
