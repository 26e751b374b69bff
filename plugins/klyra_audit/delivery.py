"""Deliver what is in a spool: in order, each boot's events until the collector has acknowledged them, for ever.

Nothing is removed from the spool before its receipt was checked, or before the collector has an invalid event in its
quarantine. An event that is refused is sent alone to where it is quarantined, and the others go on.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from klyra_audit.batch import Batch
from klyra_audit.errors import Halted, InvalidEvent, KlyraError, Paused, RetryLater
from klyra_audit.receipt import AlreadySealed, Receipt, ReceiptMismatch
from klyra_audit.transports.refusal import BatchRefused, RefusedWhole, kept_in_quarantine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klyra_audit.batch import SignedCommits
    from klyra_audit.otlp import EmitterIdentity
    from klyra_audit.outcomes import Outcomes
    from klyra_audit.spool.reader import Lost
    from klyra_audit.spool.segment import SpooledEvent
    from klyra_audit.spool.spool import Boot, Spool

_log = logging.getLogger("klyra_audit")

State = Literal["delivering", "retrying", "paused", "halted", "closed"]

MAX_BATCH_BYTES = 2 * 1024 * 1024

_FIRST_WAIT = 0.2
_LONGEST_WAIT = 30.0
_PAUSED_WAIT = 15.0
_LOOK_AROUND_SECONDS = 10.0  # how often boots of processes that are no more are looked for


class Transport(Protocol):
    """A way to a collector."""

    @property
    def batch_events(self) -> int:
        """How many events to send at once, at most."""
        ...

    @property
    def lacks_receipts(self) -> str:
        """What to do to get receipts, one sentence; empty where this way has them."""
        ...

    def send(self, batch: Batch) -> Sequence[Receipt | InvalidEvent] | None:
        """Return what became of each event in order, None where this way does not tell; all are durable then.

        An event that is kept in quarantine has an `InvalidEvent` instead of a receipt.

        Raises:
            RetryLater: nothing is known to be durable; the same may be sent again.
            BatchRefused: nothing was sealed, because of the events named.
            RefusedWhole: the collector does not take this batch, but may take parts of it.
            Paused: an operator must act first.
        """
        ...

    def quarantine(self, batch: Batch) -> None:
        """Have refused events kept where invalid input is kept; raises as `send` does."""
        ...

    def close(self) -> None:
        """Let connections go."""
        ...

    def after_fork(self) -> None:
        """In a forked child: leave the parent's connections to the parent."""
        ...


class BatchSigner(Protocol):
    """Signs for the events of a batch."""

    def sign(self, identity: EmitterIdentity, events: Sequence[SpooledEvent]) -> SignedCommits | None:
        """Return the signature over contiguous events of one boot, None for an emitter without a key."""
        ...


@dataclass(slots=True)
class Progress:
    """What became of events so far, in this process.

    Attributes:
        state: what the delivery is doing.
        delivered: events of which the collector has acknowledged that they are durable.
        refused: events among them that the collector keeps in its quarantine.
        last_error: why the newest attempt failed; None after a success.
        last_delivery: monotonic time of the newest success.
        lost: what was promised and cannot be read from the disk any more.
    """

    state: State = "delivering"
    delivered: int = 0
    refused: int = 0
    last_error: KlyraError | None = None
    last_delivery: float | None = None
    lost: tuple[Lost, ...] = ()


class Delivery:
    """Sends from a spool on a thread of its own, or in the caller's while it flushes.

    Args:
        spool: where events are taken from.
        transport: the way to the collector.
        signer: signs batches.
        check: called with each receipt and its event; raises `AlreadySealed` or `ReceiptMismatch`.
        outcomes: where to say what became of an event.
    """

    def __init__(
        self,
        spool: Spool,
        transport: Transport,
        signer: BatchSigner,
        check: Callable[[Receipt, SpooledEvent], None],
        outcomes: Outcomes,
    ) -> None:
        self._spool = spool
        self._transport = transport
        self._signer = signer
        self._check = check
        self._outcomes = outcomes
        self._turn = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._adopted: list[Boot] = []
        self._look_around_at = 0.0
        self._tried: tuple[str, int, int] | None = None
        self.progress = Progress()

    def start(self) -> None:
        """Deliver in the background from now on; once is enough."""
        if self._thread is None and not self._stopping:
            self._thread = threading.Thread(target=self._run, name="klyra-audit-delivery", daemon=True)
            self._thread.start()

    def notify(self) -> None:
        """Say that there is something to deliver."""
        if not self._wake.is_set():
            self._wake.set()

    def flush(self, timeout: float) -> bool:
        """Deliver in this thread too; return whether nothing of this process is left to be delivered."""
        deadline = time.monotonic() + timeout
        wait = _FIRST_WAIT
        while True:
            left = deadline - time.monotonic()
            if not self._turn.acquire(timeout=max(0.0, left)):
                return False
            try:
                has_moved = self._attempt()
                is_done = not self._pending()
            finally:
                self._turn.release()
            if is_done or self.progress.state in ("paused", "halted"):  # waiting a moment changes nothing
                return is_done
            if time.monotonic() + (0 if has_moved else wait) > deadline:
                return False
            if not has_moved:
                time.sleep(wait)
                wait = min(wait * 2, 2.0)

    def stop(self) -> None:
        """End the thread after what it is doing; what is left stays in the spool."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._turn:
            for boot in self._adopted:
                boot.end()
            self._adopted = []
            self.progress.state = "closed"

    def after_fork(self, outcomes: Outcomes) -> None:
        """In a forked child: the thread is the parent's."""
        for boot in self._adopted:
            boot.locked.release()
        self._adopted = []
        self._thread = None
        self._turn = threading.Lock()
        self._wake = threading.Event()
        self._outcomes = outcomes
        self.progress = Progress()

    def _run(self) -> None:
        failures = 0
        while not self._stopping:
            self._wake.clear()
            with self._turn:
                has_moved = self._attempt()
            error = self.progress.last_error
            failures = failures + 1 if error is not None else 0
            if not has_moved or error is not None:
                self._wait(error, failures)

    def _wait(self, error: KlyraError | None, failures: int) -> None:
        if error is None:
            self._wake.wait(_LOOK_AROUND_SECONDS)
            return
        until = time.monotonic() + _backoff(error, failures)
        while not self._stopping and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))  # new events do not shorten the wait that the collector asked for

    def _attempt(self) -> bool:
        """Deliver one batch; False if there is none, or it could not be."""
        if self.progress.state == "halted":
            return False
        try:
            has_moved = self._step()
        except RetryLater as error:
            self._note("retrying", error)
        except Paused as error:
            self._note("paused", error)
        except KlyraError as error:
            self._note("halted", error)
        else:
            self._note("delivering", None)
            return has_moved
        return False

    def _note(self, state: State, error: KlyraError | None) -> None:
        self.progress.state, self.progress.last_error = state, error

    def _step(self) -> bool:
        self._look_around()
        for boot in (*self._adopted, *self._spool.own()):
            durable = None if boot.writer is None else boot.writer.durable
            if boot.writer is not None and durable is None:
                continue
            events = self._same_again(boot, boot.reader.read(self._transport.batch_events, MAX_BATCH_BYTES, durable))
            self._report_lost(boot)
            if events:
                self._deliver(Batch(boot.identity, tuple(events), self._signer.sign(boot.identity, events)))
                # A crash before this line: they are sent again, and recognised by boot and sequence.
                boot.reader.note_delivered(events[-1].sequence + 1)
                return True
            self._let_go(boot)
        return False

    def _same_again(self, boot: Boot, events: Sequence[SpooledEvent]) -> Sequence[SpooledEvent]:
        """Return what was tried last, without what came since: pipelines in between know the same batch again."""
        if not events:
            return events
        tried = self._tried
        if tried is not None and tried[:2] == (boot.identity.boot, events[0].sequence):
            return [spooled for spooled in events if spooled.sequence <= tried[2]]
        self._tried = (boot.identity.boot, events[0].sequence, events[-1].sequence)
        return events

    def _report_lost(self, boot: Boot) -> None:
        for lost in boot.reader.lost:
            if lost not in self.progress.lost:
                self.progress.lost += (lost,)
                _log.error("events cannot be read from the spool: boot %s, %s", lost.boot, lost.reason)

    def _pending(self) -> bool:
        """Say whether a boot of this process, or one that it took over, has something left."""
        for boot in (*self._adopted, *self._spool.own()):
            durable = None if boot.writer is None else boot.writer.durable
            if (boot.writer is None or durable is not None) and boot.reader.read(1, 1, durable):
                return True
        return False

    def _look_around(self) -> None:
        if time.monotonic() >= self._look_around_at:
            self._look_around_at = time.monotonic() + _LOOK_AROUND_SECONDS
            self._adopted += self._spool.left_behind()

    def _let_go(self, boot: Boot) -> None:
        """Remove a boot of which everything was delivered, if nothing more can come."""
        if boot in self._adopted:
            self._adopted.remove(boot)
            boot.end()
        else:
            self._spool.forget(boot)

    def _deliver(self, batch: Batch) -> None:
        """Return when every event of the batch is durable at the collector, sealed or quarantined."""
        try:
            self._acknowledged(batch, self._transport.send(batch))
        except RefusedWhole as error:
            if len(batch.events) == 1:
                raise _refused_alone(batch.events[0], error) from error
            middle = len(batch.events) // 2
            self._deliver(batch.only(batch.events[:middle]))
            self._deliver(batch.only(batch.events[middle:]))
        except BatchRefused as error:
            self._deliver_apart(batch, error)

    def _deliver_apart(self, batch: Batch, error: BatchRefused) -> None:
        """Have what was refused quarantined, and go on with the rest."""
        refused = {record.position: record for record in error.refused if record.position < len(batch.events)}
        if not refused:
            raise Paused(str(error), code="refused_without_reason", remedy="Check that the endpoint is a collector.")
        self._transport.quarantine(batch.only(tuple(batch.events[position] for position in sorted(refused))))
        for position, record in refused.items():
            self.progress.delivered += 1
            self.progress.refused += 1
            reason = kept_in_quarantine(record.pointer, record.reason)
            self._outcomes.settle(batch.events[position].event.record_id, reason)
        rest = tuple(event for position, event in enumerate(batch.events) if position not in refused)
        if rest:
            self._deliver(batch.only(rest))

    def _acknowledged(self, batch: Batch, receipts: Sequence[Receipt | InvalidEvent] | None) -> None:
        if receipts is not None and len(receipts) != len(batch.events):
            raise ReceiptMismatch(
                f"The collector answered {len(batch.events)} events with {len(receipts)} receipts.",
                remedy="Check that the endpoint is a klyra-audit collector.",
            )
        for place, spooled in enumerate(batch.events):
            if receipts is not None:
                self._settle(spooled, receipts[place])
            self.progress.delivered += 1
        self.progress.last_delivery = time.monotonic()

    def _settle(self, spooled: SpooledEvent, receipt: Receipt | InvalidEvent) -> None:
        record_id = spooled.event.record_id
        if isinstance(receipt, InvalidEvent):
            self.progress.refused += 1
            self._outcomes.settle(record_id, receipt)
            return
        try:
            self._check(receipt, spooled)
        except AlreadySealed as error:
            self._outcomes.settle(record_id, error)
        except Halted as error:
            self._outcomes.settle(record_id, error)
            raise
        else:
            self._outcomes.settle(record_id, receipt)


def _refused_alone(spooled: SpooledEvent, error: RefusedWhole) -> Paused:
    """Return the error for an event that is not even kept in quarantine: to leave it out would be to lose it."""
    return Paused(
        f"Event {spooled.event.record_id} is refused, and nothing behind it is sent: {error.args[0]}",
        remedy=error.remedy or "Let the collector take requests of this size, or find out what answers there.",
        code=error.code,
    )


def _backoff(error: KlyraError, failures: int) -> float:
    """Return how long to wait: what the collector asks for, else longer each time, with jitter, without end."""
    if isinstance(error, Paused | Halted):
        return _PAUSED_WAIT
    asked = error.retry_after if isinstance(error, RetryLater) else 0.0
    longest: float = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(failures, 10))
    return max(asked, longest * random.uniform(0.5, 1))  # noqa: S311 - jitter
