"""Delivery: in order, for ever, past what is refused, and never past what is not acknowledged."""

from __future__ import annotations

import base64
import time

import pytest

from klyra_audit.delivery import Delivery
from klyra_audit.errors import InvalidEvent, Paused, RetryLater
from klyra_audit.format.leaf import Kind, Leaf
from klyra_audit.outcomes import Outcomes
from klyra_audit.receipt import Receipt, ReceiptMismatch
from klyra_audit.signing import Unsigned
from klyra_audit.transports.refusal import BatchRefused, RefusedRecord, RefusedWhole, TooLarge, kept_in_quarantine
from support.spooling import prepared, spool


def receipt_of(spooled) -> Receipt:
    """Return the receipt a collector would give."""
    event = spooled.event
    leaf = Leaf(Kind.EVENT, 0, 1, bytes(16), 0, 0, 1, spooled.sequence, bytes(32), event.commit)
    return Receipt(event.record_id, "log", spooled.sequence, leaf.pack())


class Collector:
    """A transport to a collector that does as it is told.

    Attributes:
        answers: for the next batches, one each: an error to raise, or a function from the batch to receipts.
    """

    batch_events = 512
    lacks_receipts = ""

    def __init__(self, *answers) -> None:
        self.answers = list(answers)
        self.sent: list[list[int]] = []
        self.quarantined: list[int] = []

    def send(self, batch):
        """See `Transport`."""
        self.sent.append([spooled.sequence for spooled in batch.events])
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return [receipt_of(spooled) for spooled in batch.events] if answer is None else answer(batch)

    def quarantine(self, batch) -> None:
        """See `Transport`."""
        self.quarantined += [spooled.sequence for spooled in batch.events]

    def close(self) -> None:
        """See `Transport`."""

    def after_fork(self) -> None:
        """See `Transport`."""


@pytest.fixture
def opened(tmp_path):
    """A spool with four events."""
    made = spool(tmp_path / "s")
    for _ in range(4):
        made.append(prepared())
    yield made
    made.close()


def delivering(opened, collector: Collector, outcomes: Outcomes | None = None) -> Delivery:
    """Return a delivery that moves only when it is told to."""
    return Delivery(
        opened,
        collector,
        Unsigned(),
        lambda receipt, spooled: receipt.check(spooled.event, spooled.sequence),
        outcomes or Outcomes(),
    )


def left(opened) -> list[int]:
    """Return which events are still to be delivered."""
    (boot,) = opened.own()
    return [spooled.sequence for spooled in boot.reader.read(100, 1 << 20, boot.writer.durable)]


def refusing(*positions: int) -> BatchRefused:
    """Return the refusal of a batch because of some of its events."""
    return BatchRefused("No.", [RefusedRecord(position, "/id", "is wrong") for position in positions])


def test_acknowledged_events_leave_the_spool(opened) -> None:
    """All in one batch, in order."""
    collector = Collector()
    assert delivering(opened, collector).flush(5) is True
    assert (collector.sent, left(opened)) == ([[0, 1, 2, 3]], [])


@pytest.mark.parametrize("error", [RetryLater("busy", retry_after=0), Paused("the key is refused")])
def test_what_is_not_acknowledged_stays(opened, error) -> None:
    """And the reason can be read."""
    collector = Collector(error, error, error)
    delivery = delivering(opened, collector)
    assert delivery.flush(0) is False
    assert left(opened) == [0, 1, 2, 3]
    assert delivery.progress.last_error is error
    assert delivery.progress.state == ("paused" if isinstance(error, Paused) else "retrying")


def test_a_refused_event_is_quarantined_and_the_rest_goes_on(opened) -> None:
    """Once; who waits for it is told why."""
    collector, outcomes = Collector(refusing(1, 3)), Outcomes()
    (boot,) = opened.own()
    refused = boot.reader.read(100, 1 << 20, boot.writer.durable)[1]
    answer = outcomes.expect(refused.event.record_id)
    delivery = delivering(opened, collector, outcomes)
    assert delivery.flush(5) is True
    assert (collector.sent, collector.quarantined, left(opened)) == ([[0, 1, 2, 3], [0, 2]], [1, 3], [])
    assert (delivery.progress.delivered, delivery.progress.refused) == (4, 2)
    with pytest.raises(InvalidEvent, match="quarantine") as caught:
        answer.result(0)
    assert caught.value.pointer == "/id"


@pytest.mark.parametrize("positions", [(), (9,)])
def test_a_refusal_that_names_no_event_pauses(opened, positions) -> None:
    """Sending the rest would be a guess."""
    delivery = delivering(opened, Collector(refusing(*positions)))
    assert delivery.flush(5) is False
    error = delivery.progress.last_error
    assert isinstance(error, Paused)
    assert (error.code, bool(error.remedy), left(opened)) == ("refused_without_reason", True, [0, 1, 2, 3])


def test_a_batch_that_is_too_large_is_halved(opened) -> None:
    """Until it passes."""
    collector = Collector(TooLarge("413"), TooLarge("413"))
    assert delivering(opened, collector).flush(5) is True
    assert (collector.sent, left(opened)) == ([[0, 1, 2, 3], [0, 1], [0], [1], [2, 3]], [])


@pytest.mark.parametrize("error", [TooLarge("413"), RefusedWhole("no", remedy="Ask.")])
def test_an_event_that_nobody_keeps_pauses(opened, error) -> None:
    """It cannot be left out, so somebody has to act; everything stays, and goes on once that was done."""
    delivery = delivering(opened, Collector(*[error] * 3))
    assert delivery.flush(5) is False
    assert (delivery.progress.state, left(opened)) == ("paused", [0, 1, 2, 3])
    assert isinstance(delivery.progress.last_error, Paused)
    assert (delivery.progress.last_error.code, bool(delivery.progress.last_error.remedy)) == (error.code, True)
    assert delivery.flush(5) is True


def test_a_way_may_tell_of_quarantine_beside_receipts(opened) -> None:
    """The event is delivered, and refused; the others have their receipts."""
    kept = kept_in_quarantine("/id", "is wrong")
    collector = Collector(lambda batch: [kept, *(receipt_of(spooled) for spooled in batch.events[1:])])
    outcomes = Outcomes()
    (boot,) = opened.own()
    answer = outcomes.expect(boot.reader.read(1, 1 << 20, boot.writer.durable)[0].event.record_id)
    delivery = delivering(opened, collector, outcomes)
    assert delivery.flush(5) is True
    assert (delivery.progress.delivered, delivery.progress.refused, left(opened)) == (4, 1, [])
    assert answer.exception(0) is kept


def test_the_same_batch_is_tried_again(opened) -> None:
    """What came since is sent behind it: a pipeline in between may know the first by its bytes."""
    collector = Collector(RetryLater("busy", retry_after=0))
    delivery = delivering(opened, collector)
    assert delivery.flush(0) is False
    opened.append(prepared())
    assert delivery.flush(5) is True
    assert collector.sent == [[0, 1, 2, 3], [0, 1, 2, 3], [4]]


def test_a_way_says_how_many_to_send_at_once(opened) -> None:
    """As Forward does, where each entry carries what was signed of all."""
    collector = Collector()
    collector.batch_events = 3
    assert delivering(opened, collector).flush(5) is True
    assert collector.sent == [[0, 1, 2], [3]]


@pytest.mark.parametrize(
    "lie",
    [
        lambda batch: [receipt_of(batch.events[0])] * len(batch.events),
        lambda batch: [receipt_of(spooled) for spooled in batch.events[:-1]],
        lambda _: [],
    ],
    ids=["another event's", "one too few", "none"],
)
def test_what_is_acknowledged_otherwise_than_it_was_sent_halts(opened, lie) -> None:
    """Nothing leaves the spool on the word of such a collector, now or later."""
    collector = Collector(lie)
    delivery = delivering(opened, collector)
    assert delivery.flush(5) is False
    assert isinstance(delivery.progress.last_error, ReceiptMismatch)
    assert delivery.flush(5) is False
    assert (len(collector.sent), left(opened)) == (1, [0, 1, 2, 3])


def test_a_way_without_receipts_is_believed(opened) -> None:
    """None stands for: durable, by an acknowledgement of another kind."""
    assert delivering(opened, Collector(lambda _: None)).flush(5) is True
    assert left(opened) == []


def test_the_thread_delivers_by_itself(opened) -> None:
    """After trouble it tries again, without being told."""
    collector = Collector(RetryLater("busy", retry_after=0), RetryLater("busy", retry_after=0))
    delivery = delivering(opened, collector)
    delivery.start()
    deadline = time.monotonic() + 20
    while left(opened) and time.monotonic() < deadline:
        time.sleep(0.01)
    delivery.stop()
    assert (len(collector.sent), left(opened)) == (3, [])


class TestOutcomes:
    """What repeated calls are told."""

    def test_an_outcome_reaches_who_asked_before_and_after(self) -> None:
        """The same future for both."""
        outcomes, receipt = Outcomes(), Receipt("log_1", "log", 0, base64.b64decode("AA=="))
        before = outcomes.expect("log_1")
        outcomes.settle("log_1", receipt)
        assert before.result(0) is receipt
        assert outcomes.expect("log_1").result(0) is receipt

    def test_nothing_is_kept_that_nobody_asked_about(self) -> None:
        """A long run does not grow."""
        outcomes = Outcomes()
        outcomes.settle("log_1", ValueError())
        assert not outcomes.expect("log_1").done()

    def test_the_oldest_are_forgotten_unless_somebody_waits(self) -> None:
        """Memory is bounded by what is waited for."""
        outcomes = Outcomes(remembered=2)
        waiting = outcomes.expect("log_0")
        for number in range(1, 10):
            answer = outcomes.expect(f"log_{number}")
            outcomes.settle(f"log_{number}", ValueError())
            assert answer.done()
        outcomes.settle("log_0", ValueError("here"))
        with pytest.raises(ValueError, match="here"):
            waiting.result(0)
        assert len(outcomes._emitted) <= 2
