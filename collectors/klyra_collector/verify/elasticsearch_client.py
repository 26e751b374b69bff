"""Ask an Elasticsearch server, which may be hostile: bounded in bytes and time, never redirected, every answer checked.

Nothing is written there. A search is of one point in time, and whole or refused: `allow_partial_search_results=false`,
no failed shard, no time-out, an order that goes forward, and no more documents than were counted at its beginning.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
import time
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn
from urllib.parse import quote

import orjson

from klyra_collector.verify.errors import CannotVerify
from klyra_collector.verify.remote_client import TIMEOUT_SECONDS, HurriedAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from klyra_audit.format.canonical import JsonObject
    from klyra_collector.verify.elasticsearch_address import ElasticsearchAddress, Host

ANSWER_BYTES: Final = 64 * 1024 * 1024
ANSWER_SECONDS: Final = 120.0  # of one answer, attempts and pauses included
ATTEMPTS: Final = 5
FIRST_PAUSE_SECONDS: Final = 0.5
KEEP_ALIVE: Final = "5m"
PAGE: Final = 1000
MOST_DOCUMENTS: Final = 1 << 40

_BUSY: Final = frozenset({429, 502, 503, 504})
_REFUSED: Final = frozenset({401, 403})
_NO_CREDENTIALS: Final = "Give a key that may read klyra-audit-*: ?api_key=env:NAME."


class Hit(NamedTuple):
    """One document of an answer.

    Attributes:
        backing_index: the index that it stands in.
        id: its `_id`.
        source: its members, as stored.
        order: values that it was sorted by.
        ignored: names of the fields that it has and is not found by, since their values could not be indexed.
    """

    backing_index: str
    id: str
    source: JsonObject
    order: list[int]
    ignored: tuple[str, ...] = ()


class NotFound(Exception):  # noqa: N818 - read as what it says
    """What was asked for is not there."""


class _TooLong(Exception):  # noqa: N818 - never leaves this module
    """An answer is longer than it may be."""


class ElasticsearchClient:
    """Asks one cluster over one connection. Not thread-safe.

    Args:
        address: of the cluster.
        authorization: header to sign in with; None for none.
        sleep: to wait with before asking a busy server again.
        clock: seconds, from any beginning.

    Raises:
        CannotVerify: `key_in_clear`: others could read what it signs in with. `bad_ca`: the certificates of the
            URL cannot be read.
    """

    def __init__(
        self,
        address: ElasticsearchAddress,
        authorization: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if authorization is not None and not address.keeps_secrets:
            raise CannotVerify(
                "A key or password is not sent over a connection that others can read.",
                code="key_in_clear",
                remedy="Give the elasticsearch+https:// address.",
            )
        self.address = address
        self._authorization = authorization
        self.sleep = sleep
        self.clock = clock
        self._context = _context(address)
        self._hosts = cycle(address.hosts)
        self._host: Host = next(self._hosts)
        self._connection: http.client.HTTPConnection | None = None
        self._deadline = 0.0

    def ask(self, method: str, path: str, body: JsonObject | None = None) -> JsonObject:
        """Return the JSON object that the server answers.

        Raises:
            NotFound: HTTP 404.
            CannotVerify: `unreachable`, `refused`, `index_closed`, `too_slow`, `bad_answer`.
        """
        try:
            return self._ask(method, path, body)
        except _TooLong as error:
            raise self._bad_answer(path, f"longer than {ANSWER_BYTES} bytes") from error

    @contextlib.contextmanager
    def point_in_time(self, pattern: str) -> Iterator[PointInTime]:
        """Give what the indexes and streams of a pattern hold now, whatever becomes of them meanwhile.

        Raises:
            CannotVerify: as `ask`.
        """
        # An index that somebody has closed must not be left out without a word: only one of a plain name may be absent.
        absent = "expand_wildcards=open,closed" if "*" in pattern else "ignore_unavailable=true"
        path = f"/{quote(pattern, safe=',*-')}/_pit?keep_alive={KEEP_ALIVE}&{absent}"
        try:
            view = PointInTime(self, self.ask("POST", path).get("id"))
        except NotFound as error:
            raise self._bad_answer(path, "HTTP 404") from error
        try:
            yield view
        finally:
            with contextlib.suppress(CannotVerify, NotFound):  # it goes by itself after five minutes
                self.ask("DELETE", "/_pit", {"id": view.id})

    def mappings(self, pattern: str) -> dict[str, JsonObject]:
        """Return what the indexes of a pattern do with the members of documents, by the name of the index.

        Raises:
            CannotVerify: as `ask`; `refused` for a key that may read documents only.
        """
        path = f"/{quote(pattern, safe=',*-')}/_mapping?expand_wildcards=open,closed"
        try:
            answer = self.ask("GET", path)
        except NotFound:
            return {}
        found = {index: _at(told, "mappings") for index, told in answer.items()}
        if not all(isinstance(mapping, dict) for mapping in found.values()):
            raise self._bad_answer(path, "no mappings")
        return found

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def search(self, body: JsonObject) -> JsonObject:
        """Return the answer to one search of a point in time, checked to be whole; `_TooLong` for one too long."""
        path = "/_search?allow_partial_search_results=false"
        try:
            answer = self._ask("POST", path, body)
        except NotFound as error:
            raise CannotVerify(
                "Elasticsearch does not keep the point in time that is being read.",
                code="bad_answer",
                remedy="Try again; an index was deleted, or the server restarted, meanwhile.",
            ) from error
        shards = answer.get("_shards")
        if answer.get("timed_out") is not False or not isinstance(shards, dict) or shards.get("failed") != 0:
            raise self._bad_answer(path, "incomplete: shards failed or it timed out")
        return answer

    def _ask(self, method: str, path: str, body: JsonObject | None) -> JsonObject:
        pause = FIRST_PAUSE_SECONDS
        self._deadline = self.clock() + ANSWER_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            try:
                status, content = self._exchange(method, path, body)
            except (OSError, http.client.HTTPException) as error:
                self._go_on(error)
                if attempt == ATTEMPTS:
                    raise self._unreachable(str(error) or type(error).__name__) from error
            else:
                if status not in _BUSY:
                    return self._read(path, status, content)
                if attempt == ATTEMPTS:
                    raise self._unreachable(f"HTTP {status}")
            self.sleep(pause)
            self._check_time(path)
            pause *= 2
        raise AssertionError  # the last attempt returns or raises

    def _exchange(self, method: str, path: str, body: JsonObject | None) -> tuple[int, bytes]:
        connection = self._connection = self._connection or self._connect()
        headers = {"User-Agent": "klyra-audit verify", "Accept": "application/json", "Accept-Encoding": "identity"}
        if self._authorization is not None:
            headers["Authorization"] = self._authorization
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, path, body=None if body is None else orjson.dumps(body), headers=headers)
        response = connection.getresponse()
        content = response.read(ANSWER_BYTES + 1)
        if not response.isclosed():  # there is more, which nobody wants: the connection cannot be used again
            self.close()
        if len(content) > ANSWER_BYTES:
            raise _TooLong
        return response.status, content

    def _read(self, path: str, status: int, content: bytes) -> JsonObject:
        if status == http.HTTPStatus.NOT_FOUND:
            raise NotFound(path)
        if status in _REFUSED:
            raise CannotVerify(
                f"{self._host} refuses what it is asked (HTTP {status}).", code="refused", remedy=_NO_CREDENTIALS
            )
        if status == http.HTTPStatus.BAD_REQUEST and b'"index_closed_exception"' in content:
            raise CannotVerify(
                f"Somebody has closed an index of {self._host}.",
                code="index_closed",
                remedy="Open it again (POST /INDEX/_open), and try again; nothing was verified.",
            )
        if not http.HTTPStatus.OK <= status < http.HTTPStatus.MULTIPLE_CHOICES:
            raise self._bad_answer(path, f"HTTP {status}")
        try:
            answer = orjson.loads(content)
        except ValueError as error:
            raise self._bad_answer(path, "no JSON") from error
        if not isinstance(answer, dict):
            raise self._bad_answer(path, "no JSON object")
        return answer

    def _connect(self) -> http.client.HTTPConnection:
        name, port = self._host.name, self._host.port
        connection = http.client.HTTPConnection(name, port, timeout=TIMEOUT_SECONDS)
        if self._context is not None:
            connection = http.client.HTTPSConnection(name, port, timeout=TIMEOUT_SECONDS, context=self._context)
        answer = partial(HurriedAnswer, seconds_left=lambda: self._deadline - self.clock())
        connection.response_class = answer  # type: ignore[assignment] # it is only called
        return connection

    def _go_on(self, error: Exception) -> None:
        """Leave a host that does not answer for the next one; not one whose certificate nobody vouches for."""
        self.close()
        if isinstance(error, ssl.SSLCertVerificationError):
            raise CannotVerify(
                f"The certificate of {self._host} cannot be verified: {error.verify_message}.",
                code="bad_certificate",
                remedy="Name the cluster's certificate authority with ca=FILE in the URL.",
            ) from error
        self._host = next(self._hosts)

    def _check_time(self, path: str) -> None:
        if self.clock() < self._deadline:
            return
        raise CannotVerify(
            f"{self._host} is too slow: {path.partition('?')[0]} takes longer than {ANSWER_SECONDS:.0f} s.",
            code="too_slow",
            remedy="Try again when the cluster is less busy; nothing was verified.",
        )

    def _unreachable(self, reason: str) -> CannotVerify:
        return CannotVerify(
            f"{self._host} does not answer: {reason}.",
            code="unreachable",
            remedy="Check the address and the cluster, and try again; nothing was verified.",
        )

    def _bad_answer(self, path: str, what: str) -> CannotVerify:
        return CannotVerify(
            f"{self._host} answers {path.partition('?')[0]} with {what}.",
            code="bad_answer",
            remedy="Give the address of an Elasticsearch 8.19 or 9 server itself; redirections are not followed.",
        )


class PointInTime:
    """What a cluster held at one moment.

    Attributes:
        id: by which the server knows it; every answer may bring a newer one.
    """

    def __init__(self, client: ElasticsearchClient, id_: object) -> None:
        self._client = client
        self.id = self._text(id_)
        self._page = PAGE

    def documents(
        self, query: JsonObject, order_by: str | None = None, *, excludes: Sequence[str] = ()
    ) -> Iterator[Hit]:
        """Yield every document that a query finds, by a number that all of them have, ascending.

        Args:
            query: of the query DSL; must let through only documents with that number.
            order_by: name of the field; None for any order.
            excludes: members that are not asked for.

        Raises:
            CannotVerify: as `ElasticsearchClient.ask`; the answers are not those of one search.
        """
        sort: list[JsonObject] = [{"_shard_doc": "asc"}]
        if order_by is not None:
            sort.insert(0, {order_by: {"order": "asc", "unmapped_type": "long"}})
        left, after = self._count(query), list[int]()
        while True:
            hits = self._next(query, sort, after, excludes)
            left -= len(hits)
            if left < 0:
                self._refuse("more documents than it counted")
            for hit in hits:
                if hit.order <= after:
                    self._refuse("documents in another order than it was asked for")
                after = hit.order
                yield hit
            if not hits:
                break
        if left:
            self._refuse(f"{left} documents less than it counted")

    def highest(self, query: JsonObject, field: str) -> int | None:
        """Return the largest number that documents have in a field, None without any; raises as `documents`."""
        # A search of a point in time is sorted by `_shard_doc` as well, whether that is asked for or not.
        order: list[JsonObject] = [{field: {"order": "desc", "unmapped_type": "long"}}, {"_shard_doc": "desc"}]
        answer = self._search({"size": 1, "track_total_hits": False, "query": query, "sort": order})
        return next((hit.order[0] for hit in self._hits(answer, len(order))), None)

    def keep(self) -> None:
        """Ask for nothing, so that the server goes on keeping it; raises as `documents`."""
        self._search({"size": 0, "track_total_hits": False, "query": {"match_none": {}}})

    def _count(self, query: JsonObject) -> int:
        answer = self._search({"size": 0, "track_total_hits": True, "query": query})
        total = _at(answer, "hits", "total", "value")
        if type(total) is not int or not 0 <= total <= MOST_DOCUMENTS:
            self._refuse("no number of documents")
        return total

    def _next(self, query: JsonObject, sort: list[JsonObject], after: list[int], excludes: Sequence[str]) -> list[Hit]:
        while True:
            body: JsonObject = {
                "size": self._page,
                "track_total_hits": False,
                "query": query,
                "sort": sort,
                "_source": {"excludes": list(excludes)},
            }
            if after:
                body["search_after"] = after
            try:
                return self._hits(self._search(body), len(sort))
            except _TooLong:
                if self._page == 1:
                    self._refuse(f"a document of more than {ANSWER_BYTES} bytes")
                self._page //= 2

    def _search(self, body: JsonObject) -> JsonObject:
        answer = self._client.search(body | {"pit": {"id": self.id, "keep_alive": KEEP_ALIVE}})
        self.id = self._text(answer.get("pit_id", self.id))
        return answer

    def _hits(self, answer: JsonObject, keys: int) -> list[Hit]:
        hits = _at(answer, "hits", "hits")
        if not isinstance(hits, list) or len(hits) > self._page:
            self._refuse("no list of documents")
        return [self._hit(hit, keys) for hit in hits]

    def _hit(self, hit: Any, keys: int) -> Hit:  # noqa: ANN401 - whatever the server says
        index, id_, source, order = (_at(hit, name) for name in ("_index", "_id", "_source", "sort"))
        ignored = _at(hit, "_ignored")
        if not (isinstance(index, str) and isinstance(id_, str) and isinstance(source, dict)):
            self._refuse("no document")
        if not isinstance(order, list) or len(order) != keys or any(type(number) is not int for number in order):
            self._refuse("a document without its place in the order")
        return Hit(index, id_, source, order, tuple(map(str, ignored)) if isinstance(ignored, list) else ())

    def _text(self, id_: object) -> str:
        if not isinstance(id_, str):
            self._refuse("no point in time")
        return id_

    def _refuse(self, what: str) -> NoReturn:
        raise CannotVerify(
            f"{self._client.address} answers a search with {what}.",
            code="bad_answer",
            remedy="Give the address of an Elasticsearch 8.19 or 9 server itself, and try again.",
        )


def _at(answer: Any, *path: str) -> Any:  # noqa: ANN401 - whatever the server says
    """Return a member of members, None where there is none."""
    for name in path:
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer


def _context(address: ElasticsearchAddress) -> ssl.SSLContext | None:
    if not address.secure:
        return None
    try:
        return ssl.create_default_context(cafile=address.authority)
    except (OSError, ValueError) as error:
        raise CannotVerify(
            f"The certificates in {address.authority} cannot be read: {error}.",
            code="bad_ca",
            remedy="Name a PEM file with ca=FILE.",
        ) from error
