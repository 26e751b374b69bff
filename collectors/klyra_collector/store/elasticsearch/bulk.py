"""Writes lines with the bulk API until each is stored or refused: several requests under way, none forgotten.

A line is built once, from the sealed bytes, and sent again as it is. Nothing here moves a cursor: when `write`
returns, every line is durable in Elasticsearch or named as refused; when it raises, nobody knows which lines are
stored, so the same lines must come again, and what is there already is recognised.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import orjson
import structlog

from klyra_audit.errors import Halted, Paused, RetryLater
from klyra_collector.backoff import Backoff
from klyra_collector.store.elasticsearch.pace import Pace
from klyra_collector.store.elasticsearch.results import CLOSED, ItemResult, Result, blames_mapping, of_item, of_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

_ATTEMPTS: Final = 6  # of the same lines, before the follower's own waiting takes over
_FIRST_WAIT_SECONDS: Final = 0.2
_LONGEST_WAIT_SECONDS: Final = 5.0
_SETUP: Final = "Run klyra-audit setup elasticsearch; nothing was skipped, the follower goes on by itself."

_CREATE: Final = b'{"create":{"_index":%b,"_id":%b,"require_data_stream":true}}\n%b\n'
_CREATE_PLAIN: Final = b'{"create":{"_index":%b,"_id":%b}}\n%b\n'

_log = structlog.get_logger(__name__)


class ElasticsearchBusy(RetryLater):
    """Elasticsearch cannot take the documents now; the same ones go again."""

    code = "elasticsearch_busy"


class WriterRefused(Paused):
    """Elasticsearch refuses this writer, or has no place for its documents."""

    code = "elasticsearch_writer_refused"


class MappingRefuses(Paused):
    """The mapping in force is not the one this version writes for."""

    code = "elasticsearch_mapping_refuses"


class RequestNotUnderstood(Halted):
    """What answers does not understand bulk requests."""

    code = "elasticsearch_request_not_understood"


class Line(NamedTuple):
    """One document to create.

    Attributes:
        stream: data stream, or index, it goes to.
        id: its `_id`.
        source: its JSON text.
        origin, number: the record it is of: its shard, and its index there.
        is_plain: it goes to an index that is no data stream.
    """

    stream: str
    id: str
    source: bytes
    origin: str
    number: int
    is_plain: bool = False

    @property
    def size(self) -> int:
        """About how many bytes it takes in a request."""
        return len(self.source) + len(self.id) + len(self.stream) + 64


class BulkAnswer(NamedTuple):
    """What came back for one request.

    Attributes:
        status: 200, the status of an error, or 0 for no answer.
        kind, reason: type and words of an error.
        items: answers for single documents, in order; none for an error.
        retry_after: seconds the server asks to wait, None if it does not.
    """

    status: int
    kind: str = ""
    reason: str = ""
    items: Sequence[Mapping[str, Any]] = ()
    retry_after: float | None = None


class BulkEndpoint(Protocol):
    """Where requests go. Any thread may call it."""

    def send(self, body: bytes) -> BulkAnswer:
        """Send one request and return what was answered; `Paused` or `Halted` if no request can be sent there."""
        ...


class Existing(Protocol):
    """Finds out who has an `_id` already."""

    def are_ours(self, lines: Sequence[tuple[str, Line]]) -> list[bool]:
        """Say for each (concrete index, line) whether the document there is of the same record.

        Raises:
            RetryLater, Paused: it cannot be found out now.
        """
        ...


class BulkObserver(Protocol):
    """Counts what happens."""

    def stored(self, documents: int, sent_bytes: int, seconds: float) -> None:
        """Note a request that was taken."""
        ...

    def happened(self, result: Result, documents: int) -> None:
        """Note documents, or one request, that were not simply stored."""
        ...


class Silent:
    """Counts nothing."""

    def stored(self, documents: int, sent_bytes: int, seconds: float) -> None:
        """See `BulkObserver`."""

    def happened(self, result: Result, documents: int) -> None:
        """See `BulkObserver`."""


class RefusedLine(NamedTuple):
    """A line that Elasticsearch will never take, and why."""

    line: Line
    why: ItemResult


@dataclass(slots=True)
class _Request:
    """Lines that go together.

    Attributes:
        lines: to send.
        failures: how often they were tried in vain.
        not_before: monotonic time before which they are not sent.
    """

    lines: list[Line]
    failures: int = 0
    not_before: float = 0.0


@dataclass(slots=True)
class _Work:
    """What one call of `write` still has to do and has found out."""

    lines: Iterator[Line]
    again: deque[_Request] = field(default_factory=deque)
    existing: list[tuple[str, Line]] = field(default_factory=list)
    refused: list[RefusedLine] = field(default_factory=list)


class BulkWriter:
    """Writes lines. One thread calls it."""

    def __init__(
        self,
        endpoint: BulkEndpoint,
        existing: Existing,
        *,
        pace: Pace | None = None,
        observer: BulkObserver | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare to write.

        Args:
            endpoint: where requests go.
            existing: asked about an `_id` that is taken.
            pace: how much is sent at once.
            observer: counts what happens.
            sleep: waits some seconds.
        """
        self._endpoint = endpoint
        self._existing = existing
        self._pace = pace or Pace()
        self._observer = observer or Silent()
        self._sleep = sleep
        self._backoff = Backoff(_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS)
        self._threads = ThreadPoolExecutor(self._pace.most_in_flight, thread_name_prefix="elasticsearch bulk")

    def close(self) -> None:
        """Let the threads go, once their requests are answered."""
        self._threads.shutdown()

    def write(self, lines: Iterable[Line], *, repeated: Callable[[Line], Line] | None = None) -> list[RefusedLine]:
        """Write all lines; return those that are refused for good.

        Args:
            lines: to write, each built when its turn comes.
            repeated: makes of a line whose `_id` another record has the line under an `_id` of its own; None if no
                two records can have one `_id`.

        Raises:
            ElasticsearchBusy, WriterRefused, MappingRefuses, RequestNotUnderstood: not all lines are stored.
        """
        work = _Work(iter(lines))
        self._send_all(work)
        if work.existing:
            self._settle(work, repeated)
        return work.refused

    def _settle(self, work: _Work, repeated: Callable[[Line], Line] | None) -> None:
        """Decide about lines whose `_id` is taken: by the same record they are stored; a repeat is written beside."""
        ours = self._existing.are_ours(work.existing)
        foreign = [taken for taken, is_ours in zip(work.existing, ours, strict=True) if not is_ours]
        self._observer.happened(Result.EXISTS, len(work.existing) - len(foreign))
        if not foreign:
            return
        if repeated is None:
            work.refused += [RefusedLine(line, _taken(index)) for index, line in foreign]
            return
        work.refused += self.write([repeated(line) for _, line in foreign])

    def _send_all(self, work: _Work) -> None:
        under_way: dict[Future[tuple[BulkAnswer, float]], _Request] = {}
        try:
            while True:
                while len(under_way) < self._pace.in_flight and (request := self._next(work)):
                    under_way[self._threads.submit(self._send, request)] = request
                if not under_way:
                    return
                done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    request = under_way.pop(future)
                    self._answered(work, request, *future.result())
        finally:
            wait(under_way)  # nothing is under way any more when the caller is told that this failed

    def _next(self, work: _Work) -> _Request | None:
        """Return what goes next: lines that go again before new ones."""
        if work.again:
            return work.again.popleft()
        lines: list[Line] = []
        size = 0
        for line in work.lines:
            lines.append(line)
            size += line.size
            if size >= self._pace.request_bytes:
                break
        return _Request(lines) if lines else None

    def _send(self, request: _Request) -> tuple[BulkAnswer, float]:
        """Send a request when its time has come; return the answer and how many seconds it took."""
        self._sleep(max(0.0, request.not_before - time.monotonic()))
        body = b"".join(map(_encoded, request.lines))
        started = time.monotonic()
        answer = self._endpoint.send(body)
        return answer, time.monotonic() - started

    def _answered(self, work: _Work, request: _Request, answer: BulkAnswer, seconds: float) -> None:
        result = Result.STORED if answer.status == 200 else of_request(answer.status, answer.kind)  # noqa: PLR2004 - OK
        size = sum(line.size for line in request.lines)
        if result is Result.STORED:
            self._sort(work, request, answer, size, seconds)
            return
        self._observer.happened(result, len(request.lines))
        if result is Result.RETRY:
            self._again(work, request.lines, request, answer.reason, answer.retry_after)
        elif result is Result.SPLIT:
            self._pace.too_large(size)
            _split(work, request, answer)
        elif result is Result.PAUSE:
            raise _not_let_in(answer.status, answer.reason)
        else:
            raise RequestNotUnderstood(
                f"Elasticsearch answers a bulk request with {answer.status}: {answer.reason}.",
                remedy="Check that store.url leads to Elasticsearch 8.19 or 9.x and to nothing in between.",
            )

    def _sort(self, work: _Work, request: _Request, answer: BulkAnswer, size: int, seconds: float) -> None:
        """Look at the answer for each document."""
        if len(answer.items) != len(request.lines):
            self._again(work, request.lines, request, "the answer is not of as many documents as were sent", None)
            return
        results = [of_item(item) for item in answer.items]
        troubled = [pair for pair in zip(request.lines, results, strict=True) if pair[1].result is not Result.STORED]
        if not troubled:
            self._pace.taken(size, seconds)
            self._observer.stored(len(results), size, seconds)
            return
        self._observer.stored(len(results) - len(troubled), size, seconds)
        blamed = blames_mapping(results)
        if blamed is not None:
            raise MappingRefuses(
                f"Elasticsearch refuses most documents of a request: {blamed}.",
                remedy=f"The mapping in force is of another version. {_SETUP}",
            )
        self._trouble(work, request, troubled)

    def _trouble(self, work: _Work, request: _Request, troubled: Sequence[tuple[Line, ItemResult]]) -> None:
        again: list[Line] = []
        for line, found in troubled:
            if found.result is Result.RETRY:
                again.append(line)
            elif found.result is Result.EXISTS:
                work.existing.append((found.index, line))
            elif found.result is Result.REFUSED:
                work.refused.append(RefusedLine(line, found))
                self._observer.happened(Result.REFUSED, 1)
            else:
                self._observer.happened(Result.PAUSE, 1)
                raise _not_let_in(found.status, f"{line.stream}: {found.reason}")
        if again:
            self._observer.happened(Result.RETRY, len(again))
            reason = next(found.reason for _, found in troubled if found.result is Result.RETRY)
            self._again(work, again, request, reason, None)

    def _again(self, work: _Work, lines: list[Line], request: _Request, reason: str, retry_after: float | None) -> None:
        """Let lines go again after a random wait; `ElasticsearchBusy` once that was in vain often enough."""
        self._pace.pushed_back()
        failures = request.failures + 1
        if failures >= _ATTEMPTS:
            raise ElasticsearchBusy(f"Elasticsearch does not take documents: {reason}.")
        seconds = self._backoff.seconds(failures, retry_after)
        _log.warning("elasticsearch.again", documents=len(lines), reason=reason, seconds=round(seconds, 2))
        work.again.append(_Request(lines, failures, time.monotonic() + seconds))


def _encoded(line: Line) -> bytes:
    """Return action and document."""
    action = _CREATE_PLAIN if line.is_plain else _CREATE
    return action % (orjson.dumps(line.stream), orjson.dumps(line.id), line.source)


def _split(work: _Work, request: _Request, answer: BulkAnswer) -> None:
    lines = request.lines
    if len(lines) == 1:
        work.refused.append(RefusedLine(lines[0], ItemResult(Result.REFUSED, "", answer.status, answer.reason)))
        return
    middle = len(lines) // 2
    work.again += (_Request(lines[:middle], request.failures), _Request(lines[middle:], request.failures))


def _taken(index: str) -> ItemResult:
    return ItemResult(Result.REFUSED, index, 409, "its _id is another document's")


def _not_let_in(status: int, reason: str) -> WriterRefused:
    if status == 404:  # noqa: PLR2004 - HTTP status
        return WriterRefused(f"Elasticsearch has no such stream: {reason}.", remedy=_SETUP)
    if CLOSED in reason:
        return WriterRefused(
            f"Somebody has closed the index behind {reason}.",
            remedy="Open it again: POST /INDEX/_open; nothing was skipped, the follower goes on by itself.",
        )
    return WriterRefused(
        f"Elasticsearch refuses the writer ({status}): {reason}.",
        remedy="Check the API key of store.elasticsearch.write_url (create_doc on klyra-audit-*) and its expiry, "
        "and that klyra-audit setup elasticsearch has made the streams.",
    )
