"""What an answer means for the batch that was sent: the one table for every destination.

| answer | what happens next |
|--|--|
| taken | the cursor moves |
| 408, 425, 429, 5xx, no answer; gRPC's transient codes | RETRY: the same again after `Retry-After` or a random wait |
| 400, 409, 413, 414, 422, 431; gRPC's INVALID_ARGUMENT | BISECT: halves; an entry refused alone is a dead letter |
| 401, 403, 404, other 3xx and 4xx; gRPC's UNAUTHENTICATED | PAUSE: alarm, the cursor stays, tried again rarely |

A vendor whose answer says more than its status looks inside first and uses the table for the rest.
"""

from __future__ import annotations

import email.utils
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_SUCCESS = range(200, 300)
_SERVER_ERRORS = range(500, 600)
_RETRY: Final = frozenset({408, 425, 429})
_BISECT: Final = frozenset({400, 409, 413, 414, 422, 431})
_GRPC_RETRY: Final = frozenset(
    {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS", "INTERNAL", "UNKNOWN"}
)
_GRPC_BISECT: Final = frozenset({"INVALID_ARGUMENT", "ALREADY_EXISTS", "RESOURCE_EXHAUSTED"})

LONGEST_RETRY_AFTER_SECONDS: Final = 3600.0
REASON_CHARACTERS: Final = 200


class Action(StrEnum):
    """What the engine does with the batch."""

    DELIVERED = "delivered"
    RETRY = "retry"
    BISECT = "bisect"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a batch.

    Attributes:
        action: what to do next.
        status: a short word for it, such as `503` or `UNAVAILABLE`; it is kept with dead letters.
        reason: what the destination said, for people; may quote what was sent, so it is not kept for long.
        retry_after: seconds the destination asks to wait; None if it does not.
        refused: with DELIVERED: positions in the batch that the destination did not take and never will.
    """

    action: Action
    status: str
    reason: str = ""
    retry_after: float | None = None
    refused: tuple[int, ...] = ()


def of_http(status: int, headers: Mapping[str, str], reason: str, now: float) -> Outcome:
    """Return what an HTTP answer means by its status.

    Args:
        status: of the answer.
        headers: its headers, names in any case as `httpx` gives them.
        reason: what the body says.
        now: seconds since 1970, for a `Retry-After` date.
    """
    action = action_of_http(status)
    wait = retry_after(headers.get("retry-after"), now) if action is Action.RETRY else None
    return Outcome(action=action, status=str(status), reason=shortened(reason), retry_after=wait)


def action_of_http(status: int) -> Action:
    """Return what an HTTP status means by itself."""
    if status in _SUCCESS:
        return Action.DELIVERED
    if status in _RETRY or status in _SERVER_ERRORS:
        return Action.RETRY
    return Action.BISECT if status in _BISECT else Action.PAUSE


def of_grpc(code: str, reason: str, asked_seconds: float | None) -> Outcome:
    """Return what a gRPC status means.

    Args:
        code: its name.
        reason: its details.
        asked_seconds: of `google.rpc.RetryInfo`, None without one. RESOURCE_EXHAUSTED without it is no matter of time
            (OTLP specification, "Failures"): the request is too large.
    """
    if code in _GRPC_RETRY or (code == "RESOURCE_EXHAUSTED" and asked_seconds is not None):
        wait = None if asked_seconds is None else _clamped(asked_seconds)
        return Outcome(action=Action.RETRY, status=code, reason=shortened(reason), retry_after=wait)
    action = Action.BISECT if code in _GRPC_BISECT else Action.PAUSE
    return Outcome(action=action, status=code, reason=shortened(reason))


def of_lost_connection(error: Exception) -> Outcome:
    """Return what no answer means: nobody knows what was taken, the same batch goes again."""
    return Outcome(action=Action.RETRY, status="no_answer", reason=shortened(f"{type(error).__name__}: {error}"))


def retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds of a `Retry-After`, in seconds or as an HTTP date; None for none or for nonsense."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return _clamped(float(text[:9]))
    try:
        return _clamped(email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


def shortened(text: str) -> str:
    """Return a reason as one printable line of bounded length."""
    line = " ".join(text.split())
    return "".join(character for character in line if character.isprintable())[:REASON_CHARACTERS]


def _clamped(seconds: float) -> float:
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_SECONDS)
