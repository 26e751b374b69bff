"""OTLP over HTTP to the collector's strict endpoint, with receipts."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import httpx
import orjson

from klyra_audit import otlp
from klyra_audit.errors import KlyraError, Paused, RetryLater
from klyra_audit.receipt import Receipt, ReceiptMismatch
from klyra_audit.transports.refusal import BatchRefused, RefusedRecord, TooLarge

if TYPE_CHECKING:
    from klyra_audit.batch import Batch

AUDIT_PATH = "/v1/audit"
LOGS_PATH = "/v1/logs"

_PROTOBUF = "application/x-protobuf"
_RETRYABLE = frozenset({408, 429, 500, 502, 503, 504})
_UNAUTHORIZED = 401
_FORBIDDEN = 403
_TOO_LARGE = 413
_OK = 200


class OtlpHttpTransport:
    """Sends encoded requests to one collector over kept-alive connections. Thread-safe."""

    def __init__(self, endpoint: str, api_key: str, timeout: float) -> None:
        headers = {"Authorization": f"Bearer {api_key}", "Content-Type": _PROTOBUF}
        self._open = partial(httpx.Client, base_url=endpoint, headers=headers, timeout=timeout)
        self._client = self._open()
        self._of_parents: list[httpx.Client] = []

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def after_fork(self) -> None:
        """In a forked child: use connections of its own; those of the parent are not touched.

        They are kept: to close them takes locks that a thread of the parent may have held, and to drop them leaves
        unclosed sockets to the interpreter, which says so.
        """
        self._of_parents.append(self._client)
        self._client = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, batch: Batch) -> list[Receipt]:
        """Return a receipt for each event of the batch, which is sealed as a whole or not at all.

        Raises:
            RetryLater: no answer, or one that asks to send the same again.
            BatchRefused: nothing was sealed, because of the records named.
            TooLarge: the collector takes no request of this size.
            Paused: the key is refused.
        """
        response = self._post(AUDIT_PATH, encode_batch(batch))
        if response.status_code == _OK:
            return [Receipt.parse(item) for item in _members(response).get("receipts", [])]
        raise _error_of(response)

    def quarantine(self, batch: Batch) -> None:
        """Send refused events to the endpoint that keeps what is invalid; raises as `send` does."""
        response = self._post(LOGS_PATH, encode_batch(batch))
        if response.status_code != _OK:
            raise _error_of(response)

    def _post(self, path: str, request: bytes) -> httpx.Response:
        try:
            return self._client.post(path, content=request)
        except httpx.TransportError as error:
            raise RetryLater(
                f"The collector at {self._client.base_url} does not answer: {str(error) or type(error).__name__}.",
                remedy="Check that it runs and that the endpoint is right; the same event may be emitted again.",
                code="no_answer",
            ) from error


def encode_batch(batch: Batch) -> bytes:
    """Return the protobuf request of a batch."""
    events = [(spooled.event, spooled.sequence) for spooled in batch.events]
    return otlp.encode(batch.identity, events, batch.signed)


def _error_of(response: httpx.Response) -> KlyraError:
    members = _members(response)
    reason = str(members.get("reason") or f"HTTP {response.status_code}")
    if response.status_code in _RETRYABLE:
        return RetryLater(f"The collector asks to wait: {reason}", retry_after=_retry_after(response))
    if response.status_code in (_UNAUTHORIZED, _FORBIDDEN) and "records" not in members:
        return Paused(f"The collector refuses the key: {reason}", code="key_refused")
    if response.status_code == _TOO_LARGE:
        return TooLarge(f"The collector refuses the batch: {reason}")
    refused = [
        RefusedRecord(int(item.get("position", 0)), str(item.get("pointer", "")), str(item.get("reason", "")))
        for item in members.get("records", [])
    ]
    return BatchRefused(f"The collector refused the batch: {reason}", refused)


def _members(response: httpx.Response) -> dict[str, Any]:
    try:
        members = orjson.loads(response.content)
    except orjson.JSONDecodeError as error:
        if response.status_code == _OK:
            raise ReceiptMismatch(
                "The answer to the batch is not JSON.", remedy="Check that the endpoint is a klyra-audit collector."
            ) from error
        members = {}
    return members if isinstance(members, dict) else {}


def _retry_after(response: httpx.Response) -> float:
    """Read Retry-After, which is a number of seconds or a date (RFC 9110 section 10.2.3)."""
    text = response.headers.get("retry-after", "1")
    if text.isdecimal():
        return float(text)
    try:
        wait = parsedate_to_datetime(text).timestamp() - parsedate_to_datetime(response.headers["date"]).timestamp()
    except (ValueError, KeyError):
        return 1.0
    return max(0.0, wait)
