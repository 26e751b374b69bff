"""The daily sweep: what ILM keeps too long, because it was written late or kept longer, goes by its own day.

It deletes only what an EXPIRY record of the ledger has named, by the leaf in the document: a clock that is wrong here,
or a document that somebody has edited, deletes nothing. It runs when the store has applied all of the ledger.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final

from klyra_audit.format.errors import FormatError
from klyra_audit.format.leaf import Leaf
from klyra_collector.store.elasticsearch.endpoint import asked
from klyra_collector.store.elasticsearch.names import LEDGER_INDEX
from klyra_collector.store.elasticsearch.operations import Stored
from klyra_collector.store.elasticsearch.searchable import searched

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from elasticsearch import Elasticsearch

    from klyra_collector.seal.expiry_facts import RetentionFacts
    from klyra_collector.store.elasticsearch.operations import Operations

_PAGE: Final = 1000


class Sweep:
    """Deletes what is over. Used by one thread."""

    def __init__(self, client: Elasticsearch, operations: Operations) -> None:
        """Prepare; both with the sweeper's key."""
        self._client = client
        self._operations = operations

    def run(self, origins: Mapping[str, int], facts: RetentionFacts) -> int:
        """Delete what is over, and what of the ledger's copy a later document has replaced; return how many.

        Args:
            origins: size of each shard that the store follows.
            facts: what the ledger says about retention up to now.
        """
        deleted = 0
        self._operations.refresh()
        for origin, size in origins.items():
            for page in self._due(origin, facts):
                deleted += self._operations.delete(page)
            deleted += self._operations.delete(self._replaced(origin, size))
        if deleted:
            self._operations.refresh()
        return deleted

    def _due(self, origin: str, facts: RetentionFacts) -> Iterator[list[Stored]]:
        newest = facts.newest_expiry(origin)
        if newest is None:
            return
        due = {"range": {"klyra.expire_day": {"lte": newest[2]}}}
        query = {"bool": {"filter": [{"term": {"klyra.log": origin}}, due]}}
        after: list[Any] | None = None
        while hits := self._page(query, after):
            after = hits[-1]["sort"]
            yield [
                Stored(hit["_index"], hit["_id"], {})
                for hit in hits
                if _is_over(origin, hit["_source"].get("klyra", {}), facts)
            ]

    def _page(self, query: Mapping[str, Any], after: list[Any] | None) -> list[dict[str, Any]]:
        body: dict[str, Any] = {
            "size": _PAGE,
            "track_total_hits": False,
            "_source": ["klyra.leaf"],
            "sort": [{"klyra.index": "asc"}, {"klyra.expire_day": "asc"}],
            "query": query,
        }
        hits: list[dict[str, Any]] = searched(self._client, body if after is None else body | {"search_after": after})[
            "hits"
        ]["hits"]
        return hits

    def _replaced(self, origin: str, size: int) -> list[Stored]:
        """Return partial bundles that a larger one, or the full one, has replaced."""
        smaller = [{"term": {"log": origin}}, {"term": {"kind": "partial"}}, {"range": {"size": {"lt": size}}}]
        body = {
            "size": _PAGE,
            "_source": ["first", "size"],
            "sort": [{"size": "desc"}],
            "query": {"bool": {"filter": smaller}},
        }
        hits = asked(self._client, "POST", f"/{LEDGER_INDEX}/_search", body)["hits"]["hits"]
        return [Stored(hit["_index"], hit["_id"], {}) for hit in hits[1:]]  # the largest stays, whatever follows


def _is_over(origin: str, klyra: Mapping[str, Any], facts: RetentionFacts) -> bool:
    try:
        leaf = Leaf.unpack(base64.b64decode(klyra["leaf"], validate=True))
    except (KeyError, TypeError, binascii.Error, FormatError):
        return False  # none of ours: what it is, verification says
    return facts.is_named(origin, leaf)
