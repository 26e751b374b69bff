"""What Google Cloud Logging's answers mean (Cloud Logging API, `entries.write`; Google's `google.rpc.Status`)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import orjson

from klyra_siem.outcome import LONGEST_RETRY_AFTER_SECONDS, Action, Outcome, of_http

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PARTIAL: Final = "partial_success"

_PARTIAL_TYPE = "google.logging.v2.WriteLogEntriesPartialErrors"
_RETRY_TYPE = "google.rpc.RetryInfo"
_OK = 200
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")
# What google.rpc.Code says beyond the HTTP status: ABORTED comes as 409, CANCELLED as 499, FAILED_PRECONDITION, such as
# a project without billing, as 400.
_OF_CODE = {
    "ABORTED": Action.RETRY,
    "CANCELLED": Action.RETRY,
    "DEADLINE_EXCEEDED": Action.RETRY,
    "INTERNAL": Action.RETRY,
    "RESOURCE_EXHAUSTED": Action.RETRY,
    "UNAVAILABLE": Action.RETRY,
    "UNKNOWN": Action.RETRY,
    "FAILED_PRECONDITION": Action.PAUSE,
}


def of_answer(status: int, headers: Mapping[str, str], content: bytes, count: int, now: float) -> Outcome:
    """Return what an answer to a request of `count` entries means.

    A refusal that lists entries has written all others: with `partialSuccess` the listed ones are refused for good, and
    nothing is sent again. A refusal without a list has written none.
    """
    answer = _object(content)
    if status == _OK:
        return _of_success(headers, answer)
    error = answer.get("error") if answer is not None else None
    error = error if isinstance(error, dict) else {}
    details = [item for item in error.get("details") or () if isinstance(item, dict)]
    reason = str(error.get("message") or "")
    listed = _listed(details)
    if listed:
        return _of_partial(listed, count, reason)
    by_status = of_http(status, headers, reason, now)
    action = _OF_CODE.get(str(error.get("status")), by_status.action)
    if action is Action.DELIVERED:
        action = Action.PAUSE
    wait = of_http(503, headers, reason, now).retry_after if action is Action.RETRY else None
    asked = _asked_seconds(details) if action is Action.RETRY else None
    return Outcome(
        action=action,
        status=str(error.get("status") or status),
        reason=reason,
        retry_after=asked if asked is not None else wait,
    )


def _of_success(headers: Mapping[str, str], answer: dict[str, Any] | None) -> Outcome:
    if answer is None or not headers.get("content-type", "").startswith("application/json"):
        return Outcome(action=Action.PAUSE, status="200", reason="Cloud Logging does not answer like this")
    return Outcome(action=Action.DELIVERED, status="200")


def _of_partial(listed: Mapping[str, Any], count: int, reason: str) -> Outcome:
    """Return what a list of refused entries means; one that names entries we did not send is not believed."""
    positions = sorted({int(key) for key in listed if key.isascii() and key.isdigit()})
    if len(positions) != len(listed) or positions[-1] >= count:
        return Outcome(action=Action.BISECT, status=PARTIAL, reason="it refuses entries that were not sent")
    told = _messages(listed.values()) or reason
    return Outcome(action=Action.DELIVERED, status=PARTIAL, reason=told, refused=tuple(positions))


def _messages(statuses: Iterable[Any]) -> str:
    found = (str(item.get("message") or "") for item in statuses if isinstance(item, dict))
    return "; ".join(dict.fromkeys(message for message in found if message))


def _listed(details: Iterable[dict[str, Any]]) -> dict[str, Any]:
    for detail in details:
        entries = detail.get("logEntryErrors")
        if str(detail.get("@type")).endswith(_PARTIAL_TYPE) and isinstance(entries, dict):
            return entries
    return {}


def _asked_seconds(details: Iterable[dict[str, Any]]) -> float | None:
    for detail in details:
        match = _DURATION.fullmatch(str(detail.get("retryDelay")))
        if str(detail.get("@type")).endswith(_RETRY_TYPE) and match is not None:
            return min(float(match[1]), LONGEST_RETRY_AFTER_SECONDS)
    return None


def _object(content: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
