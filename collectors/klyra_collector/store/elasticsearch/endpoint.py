"""Requests of the writing side: every failure becomes an answer of the table of `results`, or an error of ours."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any, Final

import orjson
from elasticsearch import ApiError, SerializationError, TransportError, UnsupportedProductError

from klyra_audit.errors import Paused, Rejected
from klyra_collector.store.elasticsearch.bulk import BulkAnswer, RequestNotUnderstood, WriterRefused
from klyra_collector.store.elasticsearch.connection import NotFound, request, translated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from elasticsearch import Elasticsearch

    from klyra_collector.store.elasticsearch.bulk import Line

# What is left out is what was sent, and would be half of the answer.
_BULK: Final = (
    "/_bulk?include_source_on_error=false"
    "&filter_path=items.*.status,items.*.error,items.*.failure_store,items.*._index,items.*.result"
)
# Said to be JSON, a body of bytes is sent as it is; of lines of JSON the library would make another last line.
_HEADERS: Final = {"accept": "application/json", "content-type": "application/json", "content-encoding": "gzip"}
_LEVEL: Final = 1  # the library's own, 9, takes more time than all the rest
_PLACE: Final = ["klyra.log", "klyra.index"]
_OK: Final = 200


class BulkClient:
    """Satisfies `BulkEndpoint`.

    Its client must not try again by itself, since it would do so at once, and must not compress (`connect`): that is
    done here.
    """

    def __init__(self, client: Elasticsearch) -> None:
        self._client = client

    def send(self, body: bytes) -> BulkAnswer:
        """See `BulkEndpoint`.

        Raises:
            ClusterRefuses: the server's certificate is not trusted.
            ClusterUnsuitable: what answers is no Elasticsearch.
        """
        try:
            answer = self._client.perform_request(
                "PUT", _BULK, headers=_HEADERS, body=gzip.compress(body, _LEVEL, mtime=0)
            ).body
        except UnsupportedProductError as error:
            raise translated(error) from error
        except ApiError as error:
            return BulkAnswer(error.status_code, *_explained(error), retry_after=_retry_after(error))
        except (TransportError, SerializationError) as error:
            return _unanswered(error)
        if not isinstance(answer, dict):
            return BulkAnswer(0, reason="something else answers in the cluster's place")
        return BulkAnswer(_OK, items=answer.get("items", ()))


class ExistingDocuments:
    """Satisfies `Existing` with a key that may read: a GET by id sees what a search does not find yet."""

    def __init__(self, client: Elasticsearch) -> None:
        self._client = client

    def are_ours(self, lines: Sequence[tuple[str, Line]]) -> list[bool]:
        """See `Existing`; what no stream holds must be the same in every byte."""
        wanted = [
            {"_index": index, "_id": line.id, "_source": True if line.is_plain else _PLACE} for index, line in lines
        ]
        found = asked(self._client, "POST", "/_mget", {"docs": wanted})["docs"]
        return [_is_of(one.get("_source") or {}, line) for one, (_, line) in zip(found, lines, strict=True)]


def asked(client: Elasticsearch, method: str, path: str, body: Any = None) -> Any:  # noqa: ANN401 - JSON
    """Send a request without which the follower cannot go on; return the JSON of its answer.

    Raises:
        ClusterUnreachable, ClusterRefuses, ClusterUnsuitable, IndexClosed: see `connection.request`.
        WriterRefused: what is asked about is not there.
        RequestNotUnderstood: the cluster understood, and will not.
    """
    try:
        return request(client, method, path, body)
    except NotFound as error:
        raise WriterRefused(str(error), remedy="Run klyra-audit setup elasticsearch; nothing was skipped.") from error
    except Rejected as error:
        raise RequestNotUnderstood(
            str(error), remedy="Check that store.url leads to Elasticsearch 8.19 or 9.x and to nothing in between."
        ) from error


def _is_of(source: Mapping[str, Any], line: Line) -> bool:
    if line.is_plain:
        return bool(source == orjson.loads(line.source))
    klyra = source.get("klyra") or {}
    return (klyra.get("log"), klyra.get("index")) == (line.origin, line.number)


def _unanswered(error: TransportError | SerializationError) -> BulkAnswer:
    meaning = translated(error)
    if isinstance(meaning, Paused):
        raise meaning from error
    return BulkAnswer(0, type(error).__name__, error.message)


def _explained(error: ApiError) -> tuple[str, str]:
    """Return type and words of an error answer, as far as it has them; a proxy's answer has none."""
    body: Any = error.body
    told = body.get("error") if isinstance(body, dict) else None
    if isinstance(told, dict):
        return str(told.get("type", "")), " ".join(str(told.get("reason", "")).split())
    return "", " ".join(str(error).split())


def _retry_after(error: ApiError) -> float | None:
    text = error.meta.headers.get("retry-after") or ""
    return float(text) if text.isascii() and text.isdigit() else None
