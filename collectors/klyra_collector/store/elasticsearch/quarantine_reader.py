"""Quarantined input in Elasticsearch: listed and counted as in the embedded store.

Whether an input waits is found out when somebody asks, by looking for the entry that tells of its replay.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID, OPERATOR_REFERENCE
from klyra_collector.store.elasticsearch import quarantine_queries as queries
from klyra_collector.store.elasticsearch.asking import Asking
from klyra_collector.store.elasticsearch.names import ENTRY_STREAMS, QUARANTINE_STREAMS
from klyra_collector.store.elasticsearch.queries import key_of, once
from klyra_collector.store.quarantined import QuarantineBacklog, QuarantineSummary, ReasonCount, SourceCount

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from elasticsearch import Elasticsearch

    from klyra_collector.store.elasticsearch.queries import Json
    from klyra_collector.store.quarantined import FoundQuarantined, QuarantineSearch
    from klyra_collector.store.searching import Order, SortKey

_PAGE: Final = 1000
_THOSE: Final = 10_000


class ElasticsearchQuarantine:
    """Satisfies `QuarantineStore` with a key that may read. Any thread may call it."""

    def __init__(self, client: Elasticsearch) -> None:
        self._inputs = Asking(client, QUARANTINE_STREAMS)
        self._entries = Asking(client, ENTRY_STREAMS)
        self._references = {OPERATOR_ORGANIZATION_ID: OPERATOR_REFERENCE.hex()}  # they never change

    def quarantined(self, search: QuarantineSearch, limit: int) -> list[FoundQuarantined]:
        """Return the first `limit` records of a list, in its order."""
        found: list[FoundQuarantined] = []
        for item in self._each(search, _PAGE if search.filters.state else limit):
            found.append(item)
            if len(found) == limit:
                break
        return found

    def quarantined_one(self, organization_id: str, reference: str, today: int) -> FoundQuarantined | None:
        """Return one record of an organization, None if it has no such record."""
        org_ref = self._reference(organization_id)
        if org_ref is None:
            return None
        where = [*queries.kept(today), queries.those([(org_ref, reference)])]
        return next(self._found(where, "asc", None, 1, org_ref), None)

    def quarantine_summary(self, search: QuarantineSearch, limit: int) -> QuarantineSummary:
        """Return counts over a list, up to `limit` sources and as many reasons."""
        sources: dict[tuple[str | None, str], _Count] = defaultdict(_Count)
        reasons: dict[tuple[str, str], _Count] = defaultdict(_Count)
        for item in self._each(search, _PAGE):
            sources[item.row.key_id, item.row.encoding].add(item)
            reasons[item.row.pointer, item.row.reason].add(item)
        by_source = sorted(sources.items(), key=_by_source)
        by_reason = sorted(reasons.items(), key=lambda one: (-one[1].records, one[0]))
        return QuarantineSummary(
            tuple(SourceCount(*key, one.records, one.waiting, one.newest_us) for key, one in by_source[:limit]),
            tuple(ReasonCount(*key, one.records, one.waiting) for key, one in by_reason[:limit]),
        )

    def quarantine_backlog(self, today: int) -> QuarantineBacklog:
        """Return what waits of all organizations."""
        where = queries.kept(today)
        where += self._inputs.duplicates(where)
        replayed = sorted(self._replays(None, None))
        waiting = self._count(where)
        for start in range(0, len(replayed), _THOSE):
            waiting -= self._count([*where, queries.those(replayed[start : start + _THOSE])])
        if not waiting:
            return QuarantineBacklog(0, None)
        waits = (item for item in self._found(where, "asc", None, _PAGE, None) if item.replayed_as is None)
        oldest = next(waits, None)
        return QuarantineBacklog(waiting, None if oldest is None else oldest.row.sealed_us)

    def _each(self, search: QuarantineSearch, page: int) -> Iterator[FoundQuarantined]:
        """Yield every record of a list, asking for so many at once."""
        org_ref = self._reference(search.organization_id)
        if org_ref is None:
            return
        where = queries.conditions(search, org_ref)
        for item in self._found(where, search.order, search.after, page, org_ref):
            if queries.belongs(item, search):
                yield item

    def _found(
        self, where: Sequence[Json], order: Order, after: SortKey | None, page: int, org_ref: str | None
    ) -> Iterator[FoundQuarantined]:
        """Yield what fulfils conditions, with what became of it."""
        while True:
            hits = self._inputs.hits(queries.list_body(where, order, after, page))
            replays = self._replays(org_ref, [queries.reference_of(hit)[1] for hit in hits]) if hits else {}
            for hit in once(hits, after):
                yield queries.found_of(hit, replays)
            if len(hits) < page:
                return
            after = key_of(hits[-1])

    def _replays(self, org_ref: str | None, references: Sequence[str] | None) -> queries.Replays:
        return queries.replays_of(chain.from_iterable(self._entries.pages(queries.replays_body(org_ref, references))))

    def _count(self, where: Sequence[Json]) -> int:
        return int(self._inputs.answer(queries.count_body(where))["hits"]["total"]["value"])

    def _reference(self, organization_id: str) -> str | None:
        """Return by what the ledger knows an organization, as soon as it has an entry."""
        known = self._references.get(organization_id)
        if known is None:
            for hit in self._entries.hits(queries.organization_body(organization_id)):
                known = self._references[organization_id] = queries.organization_of(hit)
        return known


@dataclass(slots=True)
class _Count:
    records: int = 0
    waiting: int = 0
    newest_us: int = 0

    def add(self, item: FoundQuarantined) -> None:
        self.records += 1
        self.waiting += item.replayed_as is None
        self.newest_us = max(self.newest_us, item.row.sealed_us)


def _by_source(one: tuple[tuple[str | None, str], _Count]) -> tuple[int, bool, str, str]:
    """Return the order of sources: the largest first, then those without a key."""
    (key_id, encoding), count = one
    return -count.records, key_id is not None, key_id or "", encoding
