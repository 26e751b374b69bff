"""The entries in Elasticsearch as a copy: every document of every entry stream, at one point in time."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Self

from klyra_collector.verify.elasticsearch_documents import document_of, fields_of, justifies, members, order_of
from klyra_collector.verify.elasticsearch_ledger import LEDGER_INDEX, MAX_INDEX, LedgerIndex

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.sections import SectionName
    from klyra_collector.verify.copies import CopyDocument, Fields
    from klyra_collector.verify.elasticsearch_client import ElasticsearchClient, Hit, PointInTime

ENTRY_STREAMS: Final = "klyra-audit-*,-klyra-audit-ledger*,-klyra-audit-health*,-klyra-audit-quarantine*"
QUARANTINE_STREAMS: Final = "klyra-audit-quarantine*"
REFRESH_SECONDS: Final = 6.0  # the streams' refresh_interval is 5 s

_LOG: Final = "klyra.log"
_INDEX: Final = "klyra.index"


class ElasticsearchCopy:
    """A `CopyReader`, to be closed. What the ledger's copy says was stored is looked up first, the entries later.

    Args:
        client: to ask with.

    Attributes:
        address: of the cluster, without credentials.
    """

    personal: Mapping[SectionName, tuple[str, ...]] = {}
    name = "elasticsearch"

    def __init__(self, client: ElasticsearchClient) -> None:
        self.address = str(client.address)
        self._client = client
        self._stack = ExitStack()
        self._entries: PointInTime | None = None
        self._quarantine: PointInTime | None = None
        self.ledger = LedgerIndex(self._stack.enter_context(client.point_in_time(LEDGER_INDEX)))
        self._looked = client.clock()
        self._cursors: dict[str, int] | None = None

    def close(self) -> None:
        """Let go of the points in time, and of the connection."""
        self._stack.close()
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cursors(self) -> Mapping[str, int]:
        """See `CopyReader`: a bundle is written once its entries are."""
        if self._cursors is None:
            self._cursors = self.ledger.sizes()
        return self._cursors

    def expect(self, sizes: Mapping[str, int]) -> None:
        """Take in what the writer itself has noted elsewhere of how far it is: whoever cuts off the copy cannot."""
        known = self.cursors()
        self._cursors = {log: max(known.get(log, 0), sizes.get(log, 0)) for log in known.keys() | sizes.keys()}

    def documents(self, log: str) -> Iterator[CopyDocument]:
        """See `CopyReader`."""
        for hit in self.hits(log):
            document = document_of(hit, log, hit.order[0])
            day = members(hit.source.get("klyra")).get("shown_from")
            yield document if day is None else replace(document, hidden_until=self._hidden_until(hit, log, day))

    def hits(self, log: str) -> Iterator[Hit]:
        """Yield the entry documents of a shard as they are, by ascending index.

        Raises:
            CannotVerify: the cluster cannot be read.
        """
        return self._view().documents(_sealed([log]), _INDEX)

    def _hidden_until(self, hit: Hit, log: str, day: object) -> int:
        """Return 0 for a document that an earlier one of its id hides."""
        if type(day) is not int:
            return MAX_INDEX
        whose, id_ = hit.source.get("organization_id"), hit.source.get("id")
        if not isinstance(whose, str) or not isinstance(id_, str):
            return day
        query: JsonObject = {"bool": {"filter": [{"term": {"organization_id": whose}}, {"term": {"id": id_}}]}}
        place = order_of(log), hit.order[0]
        return 0 if any(justifies(twin, day, place) for twin in self._view().documents(query)) else day

    def quarantined(self, log: str) -> Iterator[Hit]:
        """Yield the documents of a shard's quarantined input as they are, by ascending index; raises as `hits`."""
        if self._quarantine is None:
            self._quarantine = self._stack.enter_context(self._client.point_in_time(QUARANTINE_STREAMS))
        return self._quarantine.documents(_sealed([log]), _INDEX)

    def strays(self) -> Iterator[str]:
        """See `CopyReader`."""
        query: JsonObject = {"bool": {"must_not": [_sealed(sorted(self.cursors()))]}}
        for hit in self._view().documents(query):
            yield f"the document {hit.id} in {hit.backing_index} is of no shard that klyra-audit-ledger knows"
        yield from self.ledger.strays()

    def fields_of(self, entry: JsonObject) -> Fields:
        """See `CopyReader`."""
        return fields_of(entry)

    def _view(self) -> PointInTime:
        """Return the entries as they stand a moment after the ledger's copy: by then a search finds what it names."""
        if self._entries is None:
            self._client.sleep(max(0.0, REFRESH_SECONDS - (self._client.clock() - self._looked)))
            self._entries = self._stack.enter_context(self._client.point_in_time(ENTRY_STREAMS))
        return self._entries


def _sealed(logs: list[str]) -> JsonObject:
    """Return the query for documents that claim a place in one of some shards."""
    return {"bool": {"filter": [{"terms": {_LOG: logs}}, {"range": {_INDEX: {"gte": 0, "lte": MAX_INDEX}}}]}}
