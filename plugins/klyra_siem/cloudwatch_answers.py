"""What CloudWatch Logs' answers mean (CloudWatch Logs API Reference, "PutLogEvents", "Common Errors").

AWS says what is wrong in `__type`, not in the status: being throttled is a 400.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from klyra_siem.outcome import Action, Outcome, of_http

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NO_SUCH_RESOURCE: Final = "ResourceNotFoundException"
ALREADY_THERE: Final = "ResourceAlreadyExistsException"
# The same keys may be right again once they have been read anew.
OLD_CREDENTIALS: Final = frozenset({"ExpiredTokenException", "ExpiredToken", "UnrecognizedClientException"})

_CONTENT_TYPE = "application/x-amz-json"
_NOT_AWS = "CloudWatch Logs does not answer like this"
_RETRY = frozenset(
    {
        "BandwidthLimitExceeded",
        "InternalFailure",
        "InternalServerError",
        "LimitExceededException",
        "OperationAbortedException",
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "SlowDown",
        "Throttling",
        "ThrottledException",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)
_BISECT = frozenset({"InvalidParameterException", "SerializationException", "ValidationException", "ValidationError"})
_PAUSE = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "OptInRequired",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnknownOperationException",
        NO_SUCH_RESOURCE,
        *OLD_CREDENTIALS,
    }
)
_OF_TYPE = (
    dict.fromkeys(_RETRY, Action.RETRY) | dict.fromkeys(_BISECT, Action.BISECT) | dict.fromkeys(_PAUSE, Action.PAUSE)
)


def of_refusal(status: int, headers: Mapping[str, str], content: bytes, now: float) -> Outcome:
    """Return what an answer other than a 200 means: by its type, by its status where nobody knows the type.

    AWS gives no other success: another 2xx is somebody else's, and confirms nothing.
    """
    members = _object(content)
    kind = _type(headers, members)
    reason = str(members.get("message") or members.get("Message") or "")
    by_status = of_http(status, headers, reason, now)
    action = _OF_TYPE.get(kind, by_status.action)
    if action is Action.DELIVERED:
        return Outcome(action=Action.PAUSE, status=str(status), reason=_NOT_AWS)
    as_if = 503 if action is Action.RETRY else status  # so that `Retry-After` is heard with a 400 too
    wait = of_http(as_if, headers, reason, now).retry_after
    return Outcome(action=action, status=kind or str(status), reason=reason, retry_after=wait)


def of_success(headers: Mapping[str, str], content: bytes, order: Sequence[int]) -> Outcome:
    """Return what a 200 of PutLogEvents means: everything was taken but what `rejectedLogEventsInfo` tells.

    Args:
        headers: of the answer.
        content: its body.
        order: for each event of the request, in its order, its position in the batch.
    """
    members = _object(content)
    if not headers.get("content-type", "").startswith(_CONTENT_TYPE) or (content and not members and content != b"{}"):
        return Outcome(action=Action.PAUSE, status="200", reason=_NOT_AWS)
    rejected = members.get("rejectedLogEventsInfo") or {}
    try:
        found = rejected_positions(rejected, len(order))
    except (TypeError, AttributeError):
        return Outcome(action=Action.PAUSE, status="200", reason="rejectedLogEventsInfo cannot be read")
    refused = tuple(sorted(order[position] for position in found))
    told = ", ".join(f"{name} {rejected[name]}" for name in sorted(rejected) if rejected[name] is not None)
    return Outcome(action=Action.DELIVERED, status="rejected" if refused else "200", reason=told, refused=refused)


def rejected_positions(rejected: Mapping[str, Any], count: int) -> frozenset[int]:
    """Return which of `count` events were rejected; `TypeError` if an index is no number.

    `tooNewLogEventStartIndex` is the first one that is too new; `tooOldLogEventEndIndex` and `expiredLogEventEndIndex`
    are behind the last one that is too old (CloudWatch Logs API Reference, "RejectedLogEventsInfo").
    """
    ends = (rejected.get("tooOldLogEventEndIndex"), rejected.get("expiredLogEventEndIndex"))
    old = max((_index(end, count) for end in ends if end is not None), default=0)
    start = rejected.get("tooNewLogEventStartIndex")
    new = count if start is None else _index(start, count)
    return frozenset(range(old)) | frozenset(range(new, count))


def _index(value: object, count: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return min(max(value, 0), count)


def _type(headers: Mapping[str, str], members: Mapping[str, Any]) -> str:
    """Return the name of an error without namespace and address (Smithy, "AWS JSON 1.1", "Operation error")."""
    told = headers.get("x-amzn-errortype") or members.get("__type") or members.get("code") or ""
    return str(told).partition(":")[0].rpartition("#")[2]


def _object(content: bytes) -> dict[str, Any]:
    """Return a JSON object; an empty one for anything else."""
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
