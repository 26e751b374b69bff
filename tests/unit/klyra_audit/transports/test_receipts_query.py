"""Asking for receipts: what is believed of the answers, and what the caller does next."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from contextlib import contextmanager

import pytest

from klyra_audit.batch import Batch
from klyra_audit.errors import InvalidEvent, Paused, RetryLater
from klyra_audit.format.leaf import Kind, Leaf
from klyra_audit.otlp import EmitterIdentity
from klyra_audit.receipt import Receipt, ReceiptMismatch
from klyra_audit.spool.segment import SpooledEvent
from klyra_audit.transports.receipts_query import ReceiptsQuery
from support.spooling import prepared

IDENTITY = EmitterIdentity("s", "e", "b", "org_acme")


def batch(*sequences: int) -> Batch:
    """Return a batch of events at these places."""
    return Batch(IDENTITY, tuple(SpooledEvent(sequence, prepared()) for sequence in sequences))


def sealed(spooled: SpooledEvent, **members: object) -> dict:
    """Return the receipt of an event."""
    leaf = Leaf(Kind.EVENT, 0, 1, bytes(16), 0, 0, 1, spooled.sequence, bytes(32), spooled.event.commit)
    return {
        "emitter_seq": spooled.sequence,
        "status": "sealed",
        "record_id": spooled.event.record_id,
        "log": "log",
        "index": 7,
        "leaf": base64.b64encode(leaf.pack()).decode(),
    } | members


@contextmanager
def answering(*answers: object):
    """Yield what asks a server that gives these answers, the last one again and again, and the questions."""
    asked: list[str] = []
    left = list(answers)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            answer = left.pop(0) if len(left) > 1 else left[0]
            status, content = answer if isinstance(answer, tuple) else (200, json.dumps(answer).encode())
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    query = ReceiptsQuery(f"http://127.0.0.1:{server.server_port}", "k", 0.4)
    try:
        yield query, asked
    finally:
        query.close()
        server.shutdown()
        thread.join()
        server.server_close()


def test_each_event_has_its_own() -> None:
    """Where places are left out, theirs are not taken for another's."""
    sent = batch(3, 5)
    first, last = sent.events
    listed = [sealed(first), {"emitter_seq": 4, "status": "missing"}, sealed(last, record_id=None)]
    with answering({"receipts": listed}) as (query, asked):
        found = query.of(sent, was_warned=False)
    assert [receipt.record_id for receipt in found] == [first.event.record_id, last.event.record_id]
    for receipt, spooled in zip(found, sent.events, strict=True):
        receipt.check(spooled.event, spooled.sequence)
    assert asked == ["/v1/receipts?emitter=e&boot=b&first_seq=3&count=3"]


def test_places_that_are_far_apart_are_asked_for_apart() -> None:
    """A damaged disk leaves such batches."""
    sent = batch(0, 5000)
    answers = [{"receipts": [sealed(spooled)]} for spooled in sent.events]
    with answering(*answers) as (query, asked):
        assert len(query.of(sent, was_warned=False)) == 2
    assert [question.partition("first_seq=")[2] for question in asked] == ["0&count=1", "5000&count=1"]


def test_what_is_not_there_yet_is_waited_for() -> None:
    """A pipeline on the way takes its time."""
    sent = batch(0)
    missing = {"receipts": [{"emitter_seq": 0, "status": "missing"}]}
    with answering(missing, missing, {"receipts": [sealed(sent.events[0])]}) as (query, asked):
        assert len(query.of(sent, was_warned=False)) == 1
    assert len(asked) == 3


def test_what_does_not_come_is_sent_again() -> None:
    """It stays in the spool."""
    with (
        answering({"receipts": [{"emitter_seq": 0, "status": "missing"}]}) as (query, _),
        pytest.raises(RetryLater) as caught,
    ):
        query.of(batch(0), was_warned=False)
    assert (caught.value.code, bool(caught.value.remedy)) == ("not_sealed_yet", True)


def test_what_was_quarantined_says_why() -> None:
    """With pointer and reason."""
    kept = {"emitter_seq": 0, "status": "quarantined", "pointer": "/id", "reason": "is wrong"}
    with answering({"receipts": [kept]}) as (query, _):
        (found,) = query.of(batch(0), was_warned=True)
    assert isinstance(found, InvalidEvent)
    assert (found.pointer, found.reason) == ("/id", "is wrong (kept in the collector's quarantine)")


@pytest.mark.parametrize("was_warned", [True, False])
def test_another_events_receipt_is_believed_only_after_a_warning(was_warned) -> None:
    """Then it says that the place was taken; otherwise the check of receipts sees that something lies."""
    (sent,), (other,) = batch(0).events, batch(0).events
    with answering({"receipts": [sealed(other)]}) as (query, _):
        (found,) = query.of(Batch(IDENTITY, (sent,)), was_warned=was_warned)
    assert isinstance(found, InvalidEvent if was_warned else Receipt)


@pytest.mark.parametrize(
    ("answer", "error", "code"),
    [
        ((200, b"<html>"), ReceiptMismatch, "receipt_mismatch"),
        ({}, ReceiptMismatch, "receipt_mismatch"),
        ({"receipts": []}, ReceiptMismatch, "receipt_mismatch"),
        ({"receipts": ["x"]}, ReceiptMismatch, "receipt_mismatch"),
        ({"receipts": [{"emitter_seq": 1, "status": "sealed"}]}, ReceiptMismatch, "receipt_mismatch"),
        ({"receipts": [{"emitter_seq": 0, "status": "sealed"}]}, ReceiptMismatch, "receipt_mismatch"),
        ((503, b'{"reason": "busy"}'), RetryLater, "retry_later"),
        ((401, b'{"reason": "no"}'), Paused, "key_refused"),
        ((404, b""), Paused, "no_receipts_there"),
    ],
)
def test_other_answers(answer, error, code) -> None:
    """Each says what to do next."""
    with answering(answer) as (query, _), pytest.raises(error) as caught:
        query.of(batch(0), was_warned=False)
    assert caught.value.code == code


def test_nobody_there() -> None:
    """It is tried again."""
    query = ReceiptsQuery("http://127.0.0.1:9", "k", 0.4)
    with pytest.raises(RetryLater) as caught:
        query.of(batch(0), was_warned=False)
    query.close()
    assert (caught.value.code, bool(caught.value.remedy)) == ("no_answer", True)
