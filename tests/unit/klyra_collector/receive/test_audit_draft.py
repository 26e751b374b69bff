"""Answers of `/v1/audit` to what goes wrong, for the errors that are hard to bring about in a running collector."""

from __future__ import annotations

import orjson
import pytest

from klyra_audit.errors import KlyraError, RetryLater
from klyra_collector.errors import IntakeHalted, Overloaded
from klyra_collector.pipeline import BatchRefused, Refusal
from klyra_collector.receive import audit_draft
from klyra_collector.receive.body import TooLarge, UnsupportedEncoding
from klyra_collector.receive.rates import RateLimited
from klyra_collector.receive.senders import Forbidden
from klyra_collector.receive.wire import MalformedRequest
from klyra_collector.registry.errors import KeyRefused


def refused(*codes: str) -> BatchRefused:
    """Return a refused batch of a record for each code."""
    return BatchRefused([Refusal(n, f"r{n}", "/x", "is wrong", code) for n, code in enumerate(codes)])


@pytest.mark.parametrize(
    ("error", "http_status", "word"),
    [
        (MalformedRequest("x"), 400, "rejected_schema_invalid"),
        (KeyRefused("expired", key_id=None, organization_id=None), 401, "rejected_authz"),
        (Forbidden("x"), 403, "rejected_authz"),
        (refused("foreign_organization"), 403, "rejected_authz"),
        (refused("id_conflict"), 409, "rejected_schema_invalid"),
        (TooLarge("x"), 413, "rejected_schema_invalid"),
        (UnsupportedEncoding("x"), 415, "rejected_schema_invalid"),
        (RateLimited("x"), 429, "failed_internal"),
        (Overloaded("x"), 503, "failed_internal"),
        (IntakeHalted("x"), 503, "failed_internal"),
        (refused("invalid_event"), 400, "rejected_schema_invalid"),
        (refused("invalid_event", "bad_signature"), 400, "rejected_verify_failed"),
        (refused("signature_required"), 400, "rejected_verify_failed"),
    ],
    ids=lambda value: getattr(value, "code", value),
)
def test_errors(error: KlyraError, http_status: int, word: str) -> None:
    """Each error has one of the draft's codes and words, the reason, and when to try again if that helps."""
    answer = audit_draft.failure(error)
    members = orjson.loads(answer.body)
    assert (answer.status_code, members["status"], members["code"]) == (http_status, word, error.code)
    assert members["reason"] == str(error)
    assert ("retry_after" in members) == isinstance(error, RetryLater)
    if isinstance(error, RetryLater):
        assert str(members["retry_after"]) == answer.headers["retry-after"]


def test_waiting_is_told_in_whole_seconds() -> None:
    """Retry-After knows no fractions, and nobody is told to come back at once."""
    assert orjson.loads(audit_draft.failure(RetryLater("x", retry_after=2.1)).body)["retry_after"] == 3
    assert orjson.loads(audit_draft.failure(RetryLater("x", retry_after=0.0)).body)["retry_after"] == 1


def test_a_record_without_an_id_is_named_by_its_position() -> None:
    """The map of record ids holds those that have one; the list holds all."""
    error = BatchRefused([Refusal(3, None, "", "is wrong", "invalid_event")])
    members = orjson.loads(audit_draft.failure(error).body)
    assert [item["position"] for item in members["records"]] == [3]
    assert members["record_status_map"] == {}
