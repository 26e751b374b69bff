"""The entries in Elasticsearch as a copy: every document of every entry stream, at one point in time.

Moments, in this order: what the ledger's copy claims, which is what searches must find; the entries and quarantined
input, a moment later, when a search finds all of that; the ledger itself, or what is kept of it, last of all, so that
no document is newer than what it is compared with.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Final, Self

from klyra_collector.verify.elasticsearch_documents import (
    document_of,
    fields_of,
    justifies,
    members,
    order_of,
    quarantined_of,
)
from klyra_collector.verify.elasticsearch_ledger import LEDGER_INDEX, MAX_INDEX, LedgerIndex
from klyra_collector.verify.elasticsearch_mappings import ENTRY, QUARANTINED, judge_mapping
from klyra_collector.verify.errors import CannotVerify
from klyra_collector.verify.verdicts import Problem, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.sections import SectionName
    from klyra_collector.verify.copies import CopyDocument, Fields
    from klyra_collector.verify.elasticsearch_client import ElasticsearchClient, Hit, PointInTime

ENTRY_STREAMS: Final = "klyra-audit-*,-klyra-audit-ledger*,-klyra-audit-health*,-klyra-audit-quarantine*"
QUARANTINE_STREAMS: Final = "klyra-audit-quarantine*"
REFRESH_SECONDS: Final = 6.0  # the streams' refresh_interval is 5 s
COPY_SECONDS: Final = 45  # a collector copies its newest records every 30 s, and those are refreshed too

_LOOK_SECONDS: Final = 2
_KEEP_SECONDS: Final = 60.0
_LOG: Final = "klyra.log"
_INDEX: Final = "klyra.index"


@dataclass(slots=True)
class _Views:
    """What was there at one moment."""

    entries: PointInTime
    quarantined: PointInTime
    ledger: PointInTime
    looked: float


class ElasticsearchCopy:
    """A `CopyReader`, to be closed. What the ledger's copy says was stored is looked up first, the entries later.

    Args:
        client: to ask with.

    Attributes:
        address: of the cluster, without credentials.
        ledger: what the ledger's copy said at first.
    """

    personal: Mapping[SectionName, tuple[str, ...]] = {}
    name = "elasticsearch"

    def __init__(self, client: ElasticsearchClient) -> None:
        self.address = str(client.address)
        self._client = client
        self._stack = ExitStack()
        self._views: _Views | None = None
        self.ledger = LedgerIndex(self._stack.enter_context(client.point_in_time(LEDGER_INDEX)))
        self._began = client.clock()
        self._noted: Mapping[str, int] = {}
        self._claims: dict[str, int] | None = None

    def close(self) -> None:
        """Let go of the points in time, and of the connection."""
        self._stack.close()
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cursors(self) -> Mapping[str, int]:
        """See `CopyReader`: what the writer itself has noted elsewhere; whoever cuts off the copy cannot."""
        return self._noted

    def expect(self, sizes: Mapping[str, int]) -> None:
        """Take in what the writer has noted of how far it is."""
        self._noted = sizes

    def claims(self) -> Mapping[str, int]:
        """Return how far the ledger's copy says that it is: a bundle is written once its entries are.

        Raises:
            CannotVerify: the cluster cannot be read.
        """
        if self._claims is None:
            self._claims = self.ledger.sizes()
        return self._claims

    def freeze(self, progress: Callable[[int, int], None] = lambda _done, _total: None) -> None:
        """Hold on to what is there once a search finds everything claimed; the first call counts.

        Args:
            progress: called with seconds waited, and how many there are to wait.

        Raises:
            CannotVerify: the cluster cannot be read.
        """
        if self._views is not None:
            return
        self.claims()
        left = REFRESH_SECONDS - (self._client.clock() - self._began)
        for waited in range(ceil(left)):
            progress(waited, ceil(left))
            self._client.sleep(min(1.0, left - waited))
        entries, quarantined, ledger = (
            self._stack.enter_context(self._client.point_in_time(pattern))
            for pattern in (ENTRY_STREAMS, QUARANTINE_STREAMS, LEDGER_INDEX)
        )
        self._views = _Views(entries, quarantined, ledger, self._client.clock())

    def catch_up(self, progress: Callable[[int, int], None] = lambda _done, _total: None) -> LedgerIndex:
        """Return what is kept of the ledger once it covers the entries, or after the time that this can take.

        Args:
            progress: see `freeze`.

        Raises:
            CannotVerify: the cluster cannot be read.
        """
        views = self._frozen()
        for waited in range(0, COPY_SECONDS, _LOOK_SECONDS):
            if self._is_covered(views):
                break
            progress(waited, COPY_SECONDS)
            self._client.sleep(_LOOK_SECONDS)
            views.ledger = self._stack.enter_context(self._client.point_in_time(LEDGER_INDEX))
            self.keep()
        return self.ledger_now

    @property
    def ledger_now(self) -> LedgerIndex:
        """What is kept of the ledger, no earlier than the entries."""
        return LedgerIndex(self._frozen().ledger)

    def keep(self) -> None:
        """Have the server keep what is held on to, if it is long since that was asked for.

        Raises:
            CannotVerify: the cluster cannot be read.
        """
        views = self._views
        if views is None or self._client.clock() - views.looked < _KEEP_SECONDS:
            return
        for view in (views.entries, views.quarantined, views.ledger):
            view.keep()
        views.looked = self._client.clock()

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
        return self._frozen().entries.documents(_sealed([log]), _INDEX)

    def quarantined(self, log: str) -> Iterator[CopyDocument]:
        """See `CopyReader`."""
        for hit in self.quarantined_hits(log):
            yield quarantined_of(hit, log, hit.order[0])

    def quarantined_hits(self, log: str) -> Iterator[Hit]:
        """Yield the documents of a shard's quarantined input as they are, by ascending index; raises as `hits`."""
        return self._frozen().quarantined.documents(_sealed([log]), _INDEX)

    def strays(self, known: Collection[str]) -> Iterator[Problem]:
        """See `CopyReader`."""
        views = self._frozen()
        query: JsonObject = {"bool": {"must_not": [_sealed(sorted(known))]}}
        for view in (views.entries, views.quarantined):
            for hit in view.documents(query):
                reason = f"the document {hit.id} in {hit.backing_index} is of no shard that is known"
                yield Problem(Verdict.EXTRA, reason)
        for stray in LedgerIndex(views.ledger).strays():
            yield Problem(Verdict.EXTRA, stray)
        yield from self._mapped_wrongly()

    def fields_of(self, entry: JsonObject) -> Fields:
        """See `CopyReader`."""
        return fields_of(entry)

    def _mapped_wrongly(self) -> Iterator[Problem]:
        for pattern, searched in ((ENTRY_STREAMS, ENTRY), (QUARANTINE_STREAMS, QUARANTINED)):
            try:
                mappings = self._client.mappings(pattern)
            except CannotVerify as error:
                if error.code != "refused":
                    raise
                reason = "its mappings may not be read with this key, so that nobody can say whether searches find it"
                yield Problem(Verdict.UNVERIFIABLE, f"{pattern}: {reason}")
                continue
            for index, mapping in sorted(mappings.items()):
                for what in judge_mapping(mapping, searched):
                    yield Problem(Verdict.ALTERED, f"the mapping of {index} was changed: {what}")

    def _hidden_until(self, hit: Hit, log: str, day: object) -> int:
        """Return 0 for a document that an earlier one of its id hides."""
        if type(day) is not int:
            return MAX_INDEX
        whose, id_ = hit.source.get("organization_id"), hit.source.get("id")
        if not isinstance(whose, str) or not isinstance(id_, str):
            return day
        query: JsonObject = {"bool": {"filter": [{"term": {"organization_id": whose}}, {"term": {"id": id_}}]}}
        place = order_of(log), hit.order[0]
        return 0 if any(justifies(twin, day, place) for twin in self._frozen().entries.documents(query)) else day

    def _is_covered(self, views: _Views) -> bool:
        """Say whether the ledger's copy reaches to the newest document of every shard that it knows."""
        for log in self.claims():
            newest = [view.highest(_sealed([log]), _INDEX) for view in (views.entries, views.quarantined)]
            if max((index for index in newest if index is not None), default=-1) >= LedgerIndex(views.ledger).size(log):
                return False
        return True

    def _frozen(self) -> _Views:
        self.freeze()
        assert self._views is not None  # noqa: S101 - as that does
        return self._views


def _sealed(logs: list[str]) -> JsonObject:
    """Return the query for documents that claim a place in one of some shards."""
    return {"bool": {"filter": [{"terms": {_LOG: logs}}, {"range": {_INDEX: {"gte": 0, "lte": MAX_INDEX}}}]}}
