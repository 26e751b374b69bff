"""Bulk requests over the official client: every failure becomes an answer of the table, or an error of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from elastic_transport import TlsError
from elasticsearch import ApiError, SerializationError, TransportError, UnsupportedProductError

from klyra_audit.errors import Halted, Paused
from klyra_collector.store.elasticsearch.bulk import BulkAnswer, ElasticsearchBusy, RequestNotUnderstood, WriterRefused
from klyra_collector.store.elasticsearch.results import Result, of_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from elastic_transport import ObjectApiResponse
    from elasticsearch import Elasticsearch

    from klyra_collector.store.elasticsearch.bulk import Line

# What is left out is what was sent, and would be half of the answer.
_FILTER: Final = "items.*.status,items.*.error,items.*.failure_store,items.*._index"
_PLACE: Final = ["klyra.log", "klyra.index", "log", "first"]
_OK: Final = 200


class CertificateRefused(Paused):
    """The server's certificate is not trusted."""

    code = "elasticsearch_certificate_refused"


class NotElasticsearch(Halted):
    """What answers is no Elasticsearch."""

    code = "not_elasticsearch"


class BulkClient:
    """Satisfies `BulkEndpoint`. Its client must not try again by itself: it would do so at once, and without an end."""

    def __init__(self, client: Elasticsearch) -> None:
        self._client = client

    def send(self, body: bytes) -> BulkAnswer:
        """See `BulkEndpoint`.

        Raises:
            Paused: the server's certificate is not trusted.
            Halted: what answers is no Elasticsearch.
        """
        try:
            answer = self._client.bulk(
                operations=body,  # type: ignore[arg-type]  # bytes are sent as they are
                filter_path=_FILTER,
                include_source_on_error=False,
            )
        except ApiError as error:
            return _answered(error)
        except (TransportError, SerializationError) as error:
            return _unanswered(error)
        return BulkAnswer(_OK, items=answer.get("items", ()))


class ExistingDocuments:
    """Satisfies `Existing` with a key that may read: a GET by id sees what a search does not find yet."""

    def __init__(self, client: Elasticsearch) -> None:
        self._client = client

    def are_ours(self, lines: Sequence[tuple[str, Line]]) -> list[bool]:
        """See `Existing`."""
        wanted = [{"_index": index, "_id": line.id, "_source": _PLACE} for index, line in lines]
        answer = requested(lambda: self._client.mget(docs=wanted))
        return [
            _is_of(found.get("_source") or {}, line) for found, (_, line) in zip(answer["docs"], lines, strict=True)
        ]


def _is_of(source: Mapping[str, Any], line: Line) -> bool:
    klyra = source.get("klyra")
    if klyra is None:
        return (source.get("log"), source.get("first")) == (line.origin, line.number)
    return (klyra.get("log"), klyra.get("index")) == (line.origin, line.number)


def _answered(error: ApiError) -> BulkAnswer:
    if isinstance(error, UnsupportedProductError):
        raise NotElasticsearch(
            f"What answers at store.url is no Elasticsearch: {error}.", remedy="Check store.url and what lies between."
        ) from error
    kind, reason = _explained(error)
    return BulkAnswer(error.status_code, kind, reason, retry_after=_retry_after(error))


def _unanswered(error: TransportError | SerializationError) -> BulkAnswer:
    if isinstance(error, TlsError):
        raise CertificateRefused(
            f"The certificate of Elasticsearch is not trusted: {error}.",
            remedy="Name its authority with ca= in store.url, or renew the certificate.",
        ) from error
    return BulkAnswer(0, type(error).__name__, str(error))


def requested(call: Callable[[], ObjectApiResponse[Any]]) -> ObjectApiResponse[Any]:
    """Return the answer of any other request.

    Raises:
        ElasticsearchBusy: it was not answered, or the server has too much to do.
        WriterRefused: a key may not do that, or what is asked about is not there.
        CertificateRefused, NotElasticsearch, RequestNotUnderstood: as they say.
    """
    try:
        return call()
    except ApiError as error:
        answer = _answered(error)
    except (TransportError, SerializationError) as error:
        answer = _unanswered(error)
    result = of_request(answer.status, answer.kind)
    told = f"{answer.kind}: {answer.reason}".strip(": ")
    if result is Result.RETRY:
        raise ElasticsearchBusy(f"Elasticsearch does not answer: {told}.", retry_after=answer.retry_after or 1.0)
    if result is Result.PAUSE:
        raise WriterRefused(
            f"Elasticsearch refuses a request ({answer.status}): {told}.",
            remedy="Check the keys of store.url and store.elasticsearch, and run klyra-audit setup elasticsearch.",
        )
    raise RequestNotUnderstood(
        f"Elasticsearch answers a request with {answer.status}: {told}.",
        remedy="Check that store.url leads to Elasticsearch 8.19 or 9.x and to nothing in between.",
    )


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
