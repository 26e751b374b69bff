"""What the collector's answers over HTTP mean for an emitter."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import orjson

from klyra_audit.errors import KlyraError, Paused, RetryLater
from klyra_audit.receipt import ReceiptMismatch
from klyra_audit.transports.refusal import BatchRefused, RefusedRecord, TooLarge

if TYPE_CHECKING:
    import httpx

OK = 200

_RETRYABLE = frozenset({408, 429, 500, 502, 503, 504})
_UNAUTHORIZED = 401
_FORBIDDEN = 403
_TOO_LARGE = 413


def members_of(response: httpx.Response) -> dict[str, Any]:
    """Return the members of an answer; none if it has no such.

    Raises:
        ReceiptMismatch: it says OK, and is no JSON.
    """
    try:
        members = orjson.loads(response.content)
    except orjson.JSONDecodeError as error:
        if response.status_code == OK:
            raise ReceiptMismatch(
                "The answer to the batch is not JSON.", remedy="Check that the endpoint is a klyra-audit collector."
            ) from error
        members = {}
    return members if isinstance(members, dict) else {}


def error_of(response: httpx.Response) -> KlyraError:
    """Return what the caller does after an answer that is not OK."""
    members = members_of(response)
    reason = str(members.get("reason") or f"HTTP {response.status_code}")
    if response.status_code in _RETRYABLE:
        return RetryLater(f"The collector asks to wait: {reason}", retry_after=retry_after(response))
    if response.status_code in (_UNAUTHORIZED, _FORBIDDEN) and "records" not in members:
        return Paused(f"The collector refuses the key: {reason}", code="key_refused")
    if response.status_code == _TOO_LARGE:
        return TooLarge(f"The collector refuses the batch: {reason}")
    refused = [
        RefusedRecord(int(item.get("position", 0)), str(item.get("pointer", "")), str(item.get("reason", "")))
        for item in members.get("records", [])
    ]
    return BatchRefused(f"The collector refused the batch: {reason}", refused)


def retry_after(response: httpx.Response) -> float:
    """Read Retry-After, which is a number of seconds or a date (RFC 9110 section 10.2.3)."""
    text = response.headers.get("retry-after", "1")
    if text.isdecimal():
        return float(text)
    try:
        wait = parsedate_to_datetime(text).timestamp() - parsedate_to_datetime(response.headers["date"]).timestamp()
    except (ValueError, KeyError):
        return 1.0
    return max(0.0, wait)


def no_answer(where: str, error: Exception) -> RetryLater:
    """Return the error for a connection that broke, or never was."""
    return RetryLater(
        f"The collector at {where} does not answer: {str(error) or type(error).__name__}.",
        remedy="Check that it runs and that the endpoint is right; the same event may be emitted again.",
        code="no_answer",
    )
