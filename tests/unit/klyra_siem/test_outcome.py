"""The classification table, row by row."""

from __future__ import annotations

import pytest

from klyra_siem.outcome import (
    LONGEST_RETRY_AFTER_SECONDS,
    Action,
    action_of_http,
    of_grpc,
    of_http,
    of_lost_connection,
    retry_after,
    shortened,
)

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT

HTTP = {
    Action.DELIVERED: (200, 202, 204),
    Action.RETRY: (408, 425, 429, 500, 502, 503, 504, 599),
    Action.BISECT: (400, 409, 413, 414, 422, 431),
    Action.PAUSE: (301, 307, 401, 402, 403, 404, 405, 407, 410, 415, 451),
}
GRPC = {
    Action.RETRY: ("CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"),
    Action.BISECT: ("INVALID_ARGUMENT", "ALREADY_EXISTS", "RESOURCE_EXHAUSTED"),
    Action.PAUSE: ("UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND", "UNIMPLEMENTED", "FAILED_PRECONDITION"),
}


@pytest.mark.parametrize(("action", "status"), [(action, one) for action, listed in HTTP.items() for one in listed])
def test_http(action, status) -> None:
    """Every status leads to one action; one that nobody thought of never loses an entry."""
    outcome = of_http(status, {"retry-after": "5"}, "said", NOW)
    assert (outcome.action, outcome.status, action_of_http(status)) == (action, str(status), action)
    assert outcome.retry_after == (5.0 if action is Action.RETRY else None)


@pytest.mark.parametrize(("action", "code"), [(action, one) for action, listed in GRPC.items() for one in listed])
def test_grpc(action, code) -> None:
    """Every code leads to one action, as OTLP tells its clients."""
    assert of_grpc(code, "said", None).action is action


@pytest.mark.parametrize("code", ["INTERNAL", "UNKNOWN"])
def test_a_servers_mistake_is_tried_again(code) -> None:
    """Like a 500: it may be over in a moment."""
    assert of_grpc(code, "", None).action is Action.RETRY


def test_exhausted_with_a_delay_is_a_matter_of_time() -> None:
    """RESOURCE_EXHAUSTED with RetryInfo is waited for, without it the request is too large."""
    waiting = of_grpc("RESOURCE_EXHAUSTED", "quota", 2.5)
    assert (waiting.action, waiting.retry_after) == (Action.RETRY, 2.5)


def test_no_answer_is_tried_again() -> None:
    """Nobody knows what was taken."""
    outcome = of_lost_connection(ConnectionError("refused"))
    assert (outcome.action, outcome.status, outcome.reason) == (Action.RETRY, "no_answer", "ConnectionError: refused")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("99999999999999999999", LONGEST_RETRY_AFTER_SECONDS),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        ("Tue, 14 Nov 2023 22:13:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("²", None),
    ],
)
def test_retry_after(value, seconds) -> None:
    """Seconds or a date, never longer than an hour, and nonsense is as none."""
    assert retry_after(value, NOW) == seconds


def test_what_a_destination_says_cannot_break_a_line() -> None:
    """Reasons go into logs and tables: one line, printable, of bounded length."""
    assert shortened("a\r\nb\x1b[31m" + "x" * 500) == ("a b[31m" + "x" * 500)[:200]
