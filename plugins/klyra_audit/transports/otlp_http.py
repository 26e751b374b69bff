"""OTLP over HTTP to the collector's strict endpoint, with receipts."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Self

import httpx
import orjson

from klyra_audit.errors import KlyraError, Paused, Rejected, RetryLater
from klyra_audit.receipt import Receipt, ReceiptMismatch

if TYPE_CHECKING:
    from collections.abc import Sequence

AUDIT_PATH = "/v1/audit"
LOGS_PATH = "/v1/logs"

_PROTOBUF = "application/x-protobuf"
_RETRYABLE = frozenset({408, 429, 500, 502, 503, 504})
_UNAUTHORIZED = 401
_FORBIDDEN = 403
_OK = 200


@dataclass(frozen=True, slots=True)
class RefusedRecord:
    """One record the collector refused: its position in the batch, and why."""

    position: int
    pointer: str
    reason: str


class BatchRefused(Rejected):
    """The collector sealed nothing of the batch because of the records named."""

    code = "batch_refused"

    def __init__(self, message: str, refused: Sequence[RefusedRecord]) -> None:
        super().__init__(message)
        self.refused = tuple(refused)


class OtlpHttpTransport:
    """Sends encoded requests to one collector over kept-alive connections. Thread-safe."""

    def __init__(self, endpoint: str, api_key: str, timeout: float) -> None:
        headers = {"Authorization": f"Bearer {api_key}", "Content-Type": _PROTOBUF}
        self._client = httpx.Client(base_url=endpoint, headers=headers, timeout=timeout)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, request: bytes) -> list[Receipt]:
        """Return a receipt for each record of the request, which is sealed as a whole or not at all.

        Raises:
            RetryLater: no answer, or one that asks to send the same again.
            BatchRefused: nothing was sealed, because of the records named.
            Paused: the key is refused.
        """
        response = self._post(AUDIT_PATH, request)
        if response.status_code == _OK:
            return [Receipt.parse(item) for item in _members(response).get("receipts", [])]
        raise _error_of(response)

    def quarantine(self, request: bytes) -> None:
        """Send refused records to the endpoint that keeps what is invalid; raises as `send` does."""
        response = self._post(LOGS_PATH, request)
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


def _error_of(response: httpx.Response) -> KlyraError:
    members = _members(response)
    reason = str(members.get("reason") or f"HTTP {response.status_code}")
    if response.status_code in _RETRYABLE:
        return RetryLater(f"The collector asks to wait: {reason}", retry_after=_retry_after(response))
    if response.status_code in (_UNAUTHORIZED, _FORBIDDEN) and "records" not in members:
        return Paused(f"The collector refuses the key: {reason}", code="key_refused")
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
