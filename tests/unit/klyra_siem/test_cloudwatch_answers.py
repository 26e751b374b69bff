"""What AWS's answers mean, error by error."""

from __future__ import annotations

import json

import pytest

from klyra_siem.cloudwatch_answers import of_refusal, of_success, rejected_positions
from klyra_siem.outcome import Action

NOW = 1_700_000_000.0
HEADERS = {"content-type": "application/x-amz-json-1.1"}
ERRORS = {
    Action.RETRY: (
        "ThrottlingException",
        "Throttling",
        "TooManyRequestsException",
        "ServiceUnavailableException",
        "InternalFailure",
        "RequestTimeoutException",
        "LimitExceededException",
    ),
    Action.BISECT: ("InvalidParameterException", "SerializationException", "ValidationException"),
    Action.PAUSE: (
        "UnrecognizedClientException",
        "AccessDeniedException",
        "ExpiredTokenException",
        "InvalidSignatureException",
        "ResourceNotFoundException",
    ),
}


def refusal(kind: str, message: str = "said", prefix: str = "") -> bytes:
    """Return the body of an error."""
    return json.dumps({"__type": prefix + kind, "message": message}).encode()


@pytest.mark.parametrize("prefix", ["", "com.amazonaws.logs.v20140328#"])
@pytest.mark.parametrize(("action", "kind"), [(action, kind) for action, listed in ERRORS.items() for kind in listed])
def test_the_type_decides(action, kind, prefix) -> None:
    """All of these are a 400: what to do stands in the body, with or without a namespace."""
    outcome = of_refusal(400, HEADERS, refusal(kind, prefix=prefix), NOW)
    assert (outcome.action, outcome.status, outcome.reason) == (action, kind, "said")


def test_the_type_in_a_header() -> None:
    """An answer whose body was lost on the way still says in its header what it is."""
    headers = HEADERS | {"x-amzn-errortype": "ThrottlingException:http://internal.amazon.com/coral/"}
    assert of_refusal(400, headers, b"", NOW).status == "ThrottlingException"


@pytest.mark.parametrize("status", [201, 202, 204])
def test_another_success_confirms_nothing(status) -> None:
    """AWS answers with 200 alone: any other 2xx is that of a proxy, and what was sent is still to be delivered."""
    outcome = of_refusal(status, {"content-type": "text/html"}, b"<h1>Sign in</h1>", NOW)
    assert (outcome.action, outcome.status) == (Action.PAUSE, str(status))


def test_throttling_says_how_long() -> None:
    """`Retry-After` counts although the status is a 400."""
    outcome = of_refusal(400, HEADERS | {"retry-after": "7"}, refusal("ThrottlingException"), NOW)
    assert (outcome.action, outcome.retry_after) == (Action.RETRY, 7.0)
    assert of_refusal(400, HEADERS | {"retry-after": "7"}, refusal("ValidationException"), NOW).retry_after is None


@pytest.mark.parametrize(
    ("status", "action"), [(400, Action.BISECT), (413, Action.BISECT), (403, Action.PAUSE), (502, Action.RETRY)]
)
@pytest.mark.parametrize("content", [b"", b"<html>", b'["x"]', b'{"__type": "SomethingNewException"}'])
def test_an_unknown_type_is_decided_by_its_status(status, action, content) -> None:
    """What nobody has heard of is treated as any destination's answer with this status."""
    assert of_refusal(status, HEADERS, content, NOW).action is action


@pytest.mark.parametrize(
    ("rejected", "positions"),
    [
        ({}, set()),
        ({"tooOldLogEventEndIndex": 1}, {0}),
        ({"tooNewLogEventStartIndex": 4}, {4}),
        ({"expiredLogEventEndIndex": 2}, {0, 1}),
        ({"tooOldLogEventEndIndex": 1, "expiredLogEventEndIndex": 3, "tooNewLogEventStartIndex": 4}, {0, 1, 2, 4}),
        ({"tooOldLogEventEndIndex": 0}, set()),
        ({"tooOldLogEventEndIndex": 99}, {0, 1, 2, 3, 4}),
        ({"tooNewLogEventStartIndex": -1}, {0, 1, 2, 3, 4}),
        ({"tooNewLogEventStartIndex": None}, set()),
    ],
)
def test_rejected_ranges(rejected, positions) -> None:
    """The end of what is too old is exclusive, the start of what is too new is inclusive."""
    assert rejected_positions(rejected, 5) == positions


def test_rejected_events_are_found_in_the_batch() -> None:
    """Events are sent in chronological order: their indices are translated back to positions in the batch."""
    content = b'{"rejectedLogEventsInfo": {"tooOldLogEventEndIndex": 1, "tooNewLogEventStartIndex": 2}}'
    outcome = of_success(HEADERS, content, (2, 0, 1))
    assert (outcome.action, outcome.refused) == (Action.DELIVERED, (1, 2))
    assert outcome.reason == "tooNewLogEventStartIndex 2, tooOldLogEventEndIndex 1"


def test_a_rejected_entity_loses_no_event() -> None:
    """`rejectedEntityInfo` is about metadata that we do not send; the events were taken."""
    outcome = of_success(HEADERS, b'{"rejectedEntityInfo": {"errorType": "InvalidEntity"}}', (0,))
    assert (outcome.action, outcome.refused) == (Action.DELIVERED, ())


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"content-type": "text/html"}, b"<h1>Sign in</h1>"),
        ({"content-type": "application/json"}, b"{}"),
        (HEADERS, b"nonsense"),
        (HEADERS, b"[]"),
        (HEADERS, b'{"rejectedLogEventsInfo": []}' * 2),
        (HEADERS, b'{"rejectedLogEventsInfo": ["x"]}'),
        (HEADERS, b'{"rejectedLogEventsInfo": {"tooOldLogEventEndIndex": "1"}}'),
        (HEADERS, b'{"rejectedLogEventsInfo": {"tooOldLogEventEndIndex": true}}'),
    ],
)
def test_a_200_of_something_else_confirms_nothing(headers, content) -> None:
    """A proxy's page, or an answer nobody can read, does not move the cursor."""
    assert of_success(headers, content, (0,)).action is Action.PAUSE


@pytest.mark.parametrize("content", [b"{}", b"", b'{"nextSequenceToken": "49590302"}'])
def test_taken(content) -> None:
    """A 200 without rejections has taken everything."""
    outcome = of_success(HEADERS, content, (0, 1))
    assert (outcome.action, outcome.status, outcome.refused) == (Action.DELIVERED, "200", ())
