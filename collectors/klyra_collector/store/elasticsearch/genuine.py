"""Which of the documents that a search finds are the ledger's: somebody else's are told of, and not shown.

A key that may add documents can add one that agrees with itself, for an entry that nobody sealed. So each hit is
compared with the leaf at the place that it names. Where it differs, the entry that was sealed there must be elsewhere
in the store: then the hit is one too many, and is left out. Where it is not, the hit was put in its place, and the
search fails rather than leave an entry out in silence. A ledger that lost its end in a disaster has no leaf for what
was followed before; such a hit is shown if it agrees with itself, as without a ledger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import orjson
import structlog

from klyra_audit import timestamps
from klyra_collector.store.elasticsearch import queries
from klyra_collector.store.elasticsearch.queries import StoreAltered
from klyra_collector.store.rows import clamped

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from klyra_collector.store.elasticsearch.asking import Asking, Hit
    from klyra_collector.store.searching import Found, SortKey

_MOST_OF_ONE_PLACE: Final = 200  # more documents of one entry than anything but an attack makes
_MOST_TOLD: Final = 1000

_log = structlog.get_logger(__name__)


class Leaves(Protocol):
    """Where leaves are looked up; any thread may."""

    def at(self, origin: str, indexes: Collection[int]) -> Mapping[int, bytes]:
        """Return the leaves of a shard that are committed, by index."""


class Genuine:
    """Takes the ledger's documents out of those that were found. Any thread may call it.

    Args:
        entries: finds documents.
        leaves: of the ledger that was followed; None where there is only the copy, whose documents are then shown if
            they agree with themselves.
    """

    def __init__(self, entries: Asking, leaves: Leaves | None) -> None:
        self._entries = entries
        self._leaves = leaves
        self._told: set[str] = set()

    def found(self, organization_id: str, hits: Sequence[Hit], before: SortKey | None = None) -> list[Found]:
        """Return the entries among documents, each once.

        Args:
            organization_id: whose entries were searched.
            hits: in the order of the search.
            before: the sort key of the last entry that was shown already.

        Raises:
            StoreAltered: a document stands in the place of another.
            LedgerDamaged: a leaf cannot be read.
        """
        if self._leaves is None:
            return [queries.found_of(hit) for hit in queries.once(hits, before)]
        leaves = self._leaves_of(hits)
        found: list[Found] = []
        for hit in hits:
            one = _genuine(organization_id, hit, leaves)
            if one is None:
                self._look_for_the_genuine(hit, leaves)
            elif one.key != before:
                found.append(one)
                before = one.key
        return found

    def _leaves_of(self, hits: Iterable[Hit]) -> dict[tuple[str, int], bytes]:
        assert self._leaves is not None  # noqa: S101 - the caller has looked
        wanted: dict[str, set[int]] = {}
        for hit in hits:
            if place := _place_of(hit):
                wanted.setdefault(place[0], set()).add(place[1])
        return {
            (origin, index): leaf
            for origin, indexes in wanted.items()
            for index, leaf in self._leaves.at(origin, indexes).items()
        }

    def _look_for_the_genuine(self, hit: Hit, leaves: Mapping[tuple[str, int], bytes]) -> None:
        place = _place_of(hit)
        # One that names no place is in nobody's: what it may have replaced is as gone as if it was deleted.
        if place is not None:
            others = self._entries.hits(queries.place_body(*place, _MOST_OF_ONE_PLACE))
            if not any(_genuine(None, other, leaves) for other in others):
                raise queries.altered(hit)
        self._tell(hit)

    def _tell(self, hit: Hit) -> None:
        """Tell of each document once; an attacker's number of them must not fill our memory."""
        identity = f"{hit['_index']}/{hit['_id']}"
        if identity in self._told or len(self._told) >= _MOST_TOLD:
            return
        self._told.add(identity)
        _log.error(
            "elasticsearch.foreign_document",
            index=hit["_index"],
            id=hit["_id"],
            remedy="Somebody else wrote it: change the writer's key, see what klyra-audit verify says, and delete it.",
        )


def _place_of(hit: Hit) -> tuple[str, int] | None:
    try:
        key = queries.key_of(hit)
    except StoreAltered:
        return None
    return key.origin, key.index


def _genuine(organization_id: str | None, hit: Hit, leaves: Mapping[tuple[str, int], bytes]) -> Found | None:
    """Return the entry of a document that agrees with itself, and with the ledger's leaf if that is known; else None.

    What its leaf commits to says whose it is and of when: a document may say otherwise where searches look.
    """
    try:
        found = queries.found_of(hit)
    except StoreAltered:
        return None
    if leaves.get((found.key.origin, found.key.index), found.leaf) != found.leaf:
        return None
    core = orjson.loads(hit["_source"]["klyra"]["sections"]["core"])
    if organization_id is not None and core.get("organization_id") != organization_id:
        return None
    moment = clamped(timestamps.to_nanoseconds(core["timestamp"]))
    return found if moment == found.key.timestamp_ns else None
