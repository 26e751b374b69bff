"""Searches of the cluster that are answered whole or not at all."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import structlog

from klyra_audit.errors import Halted, KlyraError, RetryLater
from klyra_collector.store.elasticsearch import duplicates
from klyra_collector.store.elasticsearch.connection import IndexClosed, NotFound, request
from klyra_collector.store.elasticsearch.names import CLOSED_TOO, WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from elasticsearch import Elasticsearch

    from klyra_collector.store.elasticsearch.queries import Json

Hit = dict[str, Any]

_KEEP_ALIVE: Final = "2m"
_WHOLE: Final = "allow_partial_search_results=false"

_log = structlog.get_logger(__name__)


class StoreUnavailable(RetryLater):
    """The cluster does not answer a search now."""

    code = "store_unavailable"


class SearchRefused(Halted):
    """The cluster will not answer: our key, our query or its version is not what it must be."""

    code = "search_refused"


class AnswerIncomplete(RetryLater):
    """Some shards did not answer, so documents may be missing."""

    code = "answer_incomplete"


class Asking:
    """Asks about the documents of some streams. Any thread may call it.

    Args:
        client: with a key that may read them.
        streams: their names or patterns, between commas.

    Raises:
        StoreUnavailable, AnswerIncomplete, SearchRefused: (every method) as they say. Whoever searches may be anybody's
            customer: what the cluster said of itself is logged, and not in the message.
    """

    def __init__(self, client: Elasticsearch, streams: str) -> None:
        self._client = client
        self._streams = streams

    def answer(self, body: Json) -> dict[str, Any]:
        """Return the whole answer to a search."""
        return _whole(_asked(self._client, "POST", f"/{self._streams}/_search?{_WHOLE}&{WHOLE}", body))

    def hits(self, body: Json) -> list[Hit]:
        """Return the documents that a search finds."""
        found: list[Hit] = self.answer(body)["hits"]["hits"]
        return found

    def pages(self, body: Json) -> Iterator[list[Hit]]:
        """Yield everything that a search finds, in pages of its `size`; its sort must tell all documents apart."""
        while True:
            hits = self.hits(body)
            if hits:
                yield hits
            if len(hits) < body["size"]:
                return
            body = body | {"search_after": hits[-1]["sort"]}

    def duplicates(self, where: Sequence[Json]) -> list[Json]:
        """Return further conditions under which each record that fulfils some has one document."""
        body = {"size": 0, "track_total_hits": False, "query": {"bool": {"filter": [*where]}}, "aggs": duplicates.SPANS}
        found: dict[tuple[str, str], list[int]] = {}
        for span in duplicates.overlaps_of(self.answer(body)):
            pages = self.pages(duplicates.documents_body(where, span))
            for key, numbers in duplicates.further_ones(span, chain.from_iterable(pages)).items():
                found.setdefault(key, []).extend(numbers)
        return list(duplicates.without(found))

    def freeze(self) -> PointInTime:
        """Return all documents as they are now; somebody must close it."""
        path = f"/{self._streams}/_pit?keep_alive={_KEEP_ALIVE}&{CLOSED_TOO}"
        return PointInTime(self._client, str(_asked(self._client, "POST", path)["id"]))


class PointInTime:
    """The documents as they were at one moment. One thread at a time uses it."""

    def __init__(self, client: Elasticsearch, identity: str) -> None:
        self._client = client
        self._identity = identity

    def hits(self, body: Json) -> list[Hit]:
        """Return the documents that a search finds; `AnswerIncomplete` if the cluster has let go of them."""
        asked = body | {"pit": {"id": self._identity, "keep_alive": _KEEP_ALIVE}}
        answer = _whole(_asked(self._client, "POST", f"/_search?{_WHOLE}", asked))
        self._identity = answer.get("pit_id", self._identity)
        found: list[Hit] = answer["hits"]["hits"]
        return found

    def close(self) -> None:
        """Let go of them."""
        try:
            request(self._client, "DELETE", "/_pit", {"id": self._identity})
        except (NotFound, RetryLater):
            return  # it is gone, or goes by itself when nobody asks for it any more


def _asked(client: Elasticsearch, method: str, path: str, body: Json | None = None) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = request(client, method, path, body)
    except KlyraError as error:
        _log.warning("elasticsearch.search_failed", code=error.code, reason=str(error))
        raise _told(error) from error
    return answer


def _told(error: KlyraError) -> KlyraError:
    """Return an error that says nothing of the cluster."""
    if isinstance(error, NotFound | IndexClosed):
        return _incomplete()
    if isinstance(error, RetryLater):
        return StoreUnavailable("The store does not answer now.", remedy="Try again in a moment.")
    return SearchRefused(
        "The store refuses to be searched.",
        remedy="Operator: the log says why (elasticsearch.search_failed); check the key of store.url.",
    )


def _whole(answer: dict[str, Any]) -> dict[str, Any]:
    if answer.get("timed_out") or answer.get("_shards", {}).get("failed") or "hits" not in answer:
        raise _incomplete()
    return answer


def _incomplete() -> AnswerIncomplete:
    return AnswerIncomplete(
        "Not all of the store answered: documents may be missing.",
        remedy="Ask again; if it stays so, look at the health of the Elasticsearch cluster.",
    )
