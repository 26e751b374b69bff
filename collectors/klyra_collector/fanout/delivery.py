"""Delivers the ledger to one destination: in order, at least once, never past what was not confirmed.

    cursor ──▶ gather a batch ──▶ write its span down ──▶ send ──▶ taken: receipt, the cursor moves
                                          ▲               ├─ no answer: the same span, after a wait
                                          └─ two halves ◀─┼─ refused: halves; alone: dead letter, the cursor moves
                                                          └─ not let in: alarm, the same span, rarely

As many batches are under way as there are lanes. After a failure nothing new is sent until those under way have come
back and the wait is over; then one batch goes alone, and all lanes again once it was taken. The cursor never passes a
batch that was not confirmed: after a crash those behind it go again as well, so that there are never more than lanes.

Every attempt reads its span from the ledger again: what has expired or was erased since the last one is not sent.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import structlog

from klyra_audit import timestamps
from klyra_audit.errors import KlyraError, RetryLater
from klyra_collector.dead_letters import DeadLetter
from klyra_collector.destination_status import State
from klyra_collector.fanout.batching import Gathering
from klyra_collector.fanout.cursor import Cursor, Span
from klyra_collector.fanout.fitting import Misfit
from klyra_collector.fanout.mistakes import places_of
from klyra_collector.fanout.redelivery import Redelivery
from klyra_siem.outcome import Action, Outcome

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from klyra_collector.backoff import Backoff
    from klyra_collector.fanout.files import Files
    from klyra_collector.fanout.fitting import Fitted, Fitting
    from klyra_collector.fanout.lanes import Lanes, Sent
    from klyra_collector.fanout.ledger_position import LedgerPosition
    from klyra_collector.fanout.orders import Pause
    from klyra_collector.fanout.report import Report
    from klyra_collector.fanout.source import EntrySource, Found
    from klyra_siem.destination import Limits, SealedEntry

IDLE_SECONDS: Final = 0.1
ORDER_SECONDS: Final = 1.0  # how long an operator's word may wait
LEAST_READ: Final = 16
MOST_READ: Final = 256  # for a batch at once: what does not fit into it was read in vain
READ_RECORDS: Final = 1000
GATHERED_RECORDS: Final = 50_000  # looked at for one batch at most
REFUSED_IN_A_ROW: Final = 100  # then it is not the entries

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryTerms:
    """How a destination is delivered to.

    Attributes:
        name: as configured.
        limits: of one request.
        linger_seconds: how long a batch that is not full waits for more.
        paused_seconds: between attempts while an operator must act, and after what must not happen.
    """

    name: str
    limits: Limits
    linger_seconds: float = 1.0
    paused_seconds: float = 300.0


class Delivery:
    """Moves one destination along the ledger. One thread runs it; it shares nothing with others."""

    def __init__(
        self,
        terms: DeliveryTerms,
        *,
        lanes: Lanes,
        fitting: Fitting,
        source: EntrySource,
        ledger: LedgerPosition,
        files: Files,
        report: Report,
        backoff: Backoff,
        wall_us: Callable[[], int],
    ) -> None:
        self._terms = terms
        self._lanes = lanes
        self._fitting = fitting
        self._source = source
        self._ledger = ledger
        self._files = files
        self._report = report
        self._backoff = backoff
        self._wall_us = wall_us
        self._redelivery = Redelivery(lanes, source, fitting, files, wall_us)
        self._cursor: Cursor | None = None
        self._saved: Cursor | None = None
        self._under_way: dict[int, Fitted] = {}  # by the index that a batch begins with
        self._confirmed: set[int] = set()  # such indexes, of batches behind one that is still under way
        self._failures = 0
        self._refused_in_a_row = 0
        self._back_off = 0.0
        self._lingering_since: float | None = None

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop` is set. Nothing that happens here ends it: other destinations share the process."""
        self._report.publish()
        while not stop.is_set():
            wait = self._guarded(self.step)
            self._report.publish_before(wait)
            self._wait(stop, wait)
        self._guarded(self._finish)
        self._lanes.close()
        self._report.change(State.STOPPED)

    def step(self) -> float:
        """Do the next thing; return the seconds to wait before the one after it, 0 for none.

        Raises:
            RetryLater: the ledger or the registry cannot be read now.
            Halted: the ledger or the cursor is not as it must be; nothing was sent.
        """
        pause = self._files.orders.paused()
        wait = self._launch() if pause is None else self._stand_still(pause)
        if not self._under_way:
            return wait
        sent = self._lanes.next(min(wait or ORDER_SECONDS, ORDER_SECONDS))
        if sent is not None:
            self._settle(sent)
        if self._under_way:
            return 0.0
        wait, self._back_off = self._back_off, 0.0
        return wait

    # What an operator wants

    def _wait(self, stop: threading.Event, seconds: float) -> None:
        """Wait, but no longer than until an operator has ordered something."""
        until = time.monotonic() + seconds
        before = self._files.orders.stamps()
        while (left := until - time.monotonic()) > 0 and self._files.orders.stamps() == before:
            if stop.wait(min(left, ORDER_SECONDS)):
                return

    def _stand_still(self, pause: Pause) -> float:
        self._failures = 0
        self._report.stands_still(pause.reason)
        return self._terms.paused_seconds

    def _finish(self) -> float:
        """Wait for what is under way: what is confirmed now is not sent again after the next start."""
        while (sent := self._lanes.next(None)) is not None:
            self._settle(sent)
        return 0.0

    def _begin_redelivery(self) -> float:
        outcome = self._redelivery.step()
        self._report.buried(len(self._files.dead_letters))
        match outcome.action:
            case Action.RETRY:
                self._retry(outcome)
            case Action.PAUSE:
                self._pause(outcome)
            case _:
                self._failures = 0
        wait, self._back_off = self._back_off, 0.0
        return wait

    # What is next

    def _launch(self) -> float:
        """Send as much as may be under way; return the seconds to wait for more of it."""
        if not self._under_way and self._files.orders.wants_letters():
            return self._begin_redelivery()
        for _ in range(len(self._lanes)):
            if not self._has_room():
                return 0.0
            cursor = self._begin()
            wait = IDLE_SECONDS if cursor is None else self._launch_next(cursor)
            if wait:
                return wait
        return 0.0

    def _has_room(self) -> bool:
        """Say whether another batch may go: all of them while all is well, one alone after a failure."""
        if self._back_off or (self._under_way and self._files.orders.has_any()):
            return False
        return len(self._under_way) < (1 if self._failures else len(self._lanes))

    def _begin(self) -> Cursor | None:
        """Return the cursor; None while the ledger has no records."""
        if self._cursor is None:
            self._cursor = self._saved = self._files.cursor.load()
        replay = self._files.orders.replay_from()
        if replay is not None:
            self._save(self._ledger.checked(replay))  # before the order is forgotten
            self._confirmed.clear()
            self._files.orders.replay_done()
            _log.info("destination_replays", destination=self._terms.name, log=replay.origin, index=replay.index)
        if self._cursor is None:
            first = self._ledger.first()
            if first is not None:
                self._save(first)  # at once: where the end of the ledger is now will not be known later
        if self._cursor is not None:
            self._cursor = self._ledger.checked(self._cursor)
            self._report.stand(self._cursor.origin, self._cursor.index)
        return self._cursor

    def _launch_next(self, cursor: Cursor) -> float:
        """Send the next batch, or pass over what is not delivered; return the seconds to wait if there is nothing."""
        again = next((span for span in cursor.pending if self._is_waiting(span)), None)
        if again is not None:
            self._attempt(cursor, again, self._entries(cursor.origin, again))
            return 0.0
        if len(self._under_way) + len(self._confirmed) >= len(self._lanes):
            return ORDER_SECONDS  # what is confirmed behind a slow batch goes again after a crash as well
        gathered = self._gather(cursor)
        if gathered.entries:
            return self._send_or_linger(cursor, gathered)
        if gathered.end > cursor.tail:
            self._report.skipped(gathered.skipped)
            self._skip(cursor, gathered)
            return 0.0
        return IDLE_SECONDS if cursor.pending else self._next_shard(cursor)

    def _is_waiting(self, span: Span) -> bool:
        return span.start not in self._under_way and span.start not in self._confirmed

    def _gather(self, cursor: Cursor) -> Gathering:
        gathered = Gathering(self._terms.limits, cursor.tail, begun_us=self._wall_us())
        while gathered.end - cursor.tail < GATHERED_RECORDS:
            limit = min(MOST_READ, max(LEAST_READ, gathered.room + 1))
            records = self._source.read_on(cursor.origin, gathered.end, limit)
            for found in records:
                if not self._add(gathered, found):
                    return gathered
            if len(records) < limit:
                return gathered
        gathered.is_full = True
        return gathered

    def _add(self, gathered: Gathering, found: Found) -> bool:
        if found.entry is None:
            return gathered.add(found, 0)
        filed = replace(found, entry=self._fitting.filed(found.entry, gathered.begun_us))
        return gathered.add(filed, self._fitting.measure(found.entry))

    def _send_or_linger(self, cursor: Cursor, gathered: Gathering) -> float:
        if not gathered.is_full:
            now = time.monotonic()
            if self._lingering_since is None:
                self._lingering_since = now
            left = self._lingering_since + self._terms.linger_seconds - now
            if left > 0:
                return left
        self._lingering_since = None
        span = Span(cursor.tail, gathered.end, gathered.begun_us)
        begun = cursor.begun(span)
        self._save(begun)
        self._report.skipped(gathered.skipped)
        self._attempt(begun, span, gathered.entries)
        return 0.0

    def _skip(self, cursor: Cursor, gathered: Gathering) -> None:
        """Go on behind records that are not delivered; after a crash they are looked at again."""
        if cursor.pending:
            self._cursor = cursor.begun(Span(cursor.tail, gathered.end, gathered.begun_us))
            self._confirmed.add(cursor.tail)
            return
        self._cursor = cursor = cursor.moved(gathered.end)
        saved = self._saved
        if saved is None or saved.origin != cursor.origin or cursor.index - saved.index >= READ_RECORDS:
            self._save(cursor)

    def _next_shard(self, cursor: Cursor) -> float:
        following = self._ledger.after(cursor)
        if following is None:
            self._failures = 0
            self._report.change(State.DELIVERING)
            return IDLE_SECONDS
        self._save(following)
        return 0.0

    # One attempt

    def _entries(self, origin: str, span: Span) -> list[SealedEntry]:
        found = []
        for first in range(span.start, span.end, READ_RECORDS):
            read = self._source.read(origin, first, min(READ_RECORDS, span.end - first))
            found += [one.entry for one in read if one.entry is not None]
        return found

    def _attempt(self, cursor: Cursor, span: Span, entries: Sequence[SealedEntry]) -> None:
        begun_us = span.begun_us
        if self._fitting.is_stale(begun_us, now_us := self._wall_us()):
            self._save(cursor.begun_again(span.start, begun_us := now_us))
        fitted = self._fitting.fit(entries, begun_us)
        if not fitted.entries:
            self._complete(span.start, fitted.misfits)
            return
        occurred_ns = timestamps.to_nanoseconds(str(entries[0].document["timestamp"]))
        self._report.attempts(occurred_ns, is_trial=bool(self._failures))
        self._under_way[span.start] = fitted
        self._lanes.send(span.start, fitted.entries)

    def _settle(self, sent: Sent) -> None:
        fitted = self._under_way.pop(sent.start)
        if sent.outcome is None:
            raise sent.error or AssertionError
        match sent.outcome.action:
            case Action.DELIVERED:
                self._delivered(sent.start, fitted, sent.outcome)
            case Action.BISECT:
                self._refused(sent.start, fitted, sent.outcome)
            case Action.RETRY:
                self._retry(sent.outcome)
            case Action.PAUSE:
                self._pause(sent.outcome)

    def _delivered(self, start: int, fitted: Fitted, outcome: Outcome) -> None:
        refused = [Misfit(fitted.entries[position], outcome.status) for position in outcome.refused]
        taken = [entry for position, entry in enumerate(fitted.entries) if position not in set(outcome.refused)]
        self._failures = self._refused_in_a_row = 0
        self._files.receipts.add(taken)
        self._complete(start, [*fitted.misfits, *refused])
        self._report.delivered(len(taken), outcome.reason)
        if outcome.reason:
            _log.warning("destination_warned", destination=self._terms.name, reason=outcome.reason)

    def _refused(self, start: int, fitted: Fitted, outcome: Outcome) -> None:
        self._report.failed(outcome)
        entries = fitted.entries
        if len(entries) > 1:
            assert self._cursor is not None  # noqa: S101 - a batch is under way in it
            self._save(self._cursor.bisected(start, entries[len(entries) // 2].index))
        elif self._refused_in_a_row >= REFUSED_IN_A_ROW:
            self._pause(outcome)
        else:
            self._refused_in_a_row += 1
            self._complete(start, [*fitted.misfits, Misfit(entries[0], outcome.status)])

    def _complete(self, start: int, misfits: Sequence[Misfit]) -> None:
        """Write down what was not taken, then move on: a crash in between writes the same letters again."""
        assert self._cursor is not None  # noqa: S101 - a batch is under way in it
        self._bury(misfits)
        self._confirmed.add(start)
        moved = self._cursor.completed(self._confirmed)
        if moved == self._cursor:
            return  # an earlier batch is still under way: after a crash this one goes again
        self._confirmed = {one for one in self._confirmed if one >= moved.index}
        self._report.waits_no_more()
        self._save(moved)

    def _bury(self, misfits: Sequence[Misfit]) -> None:
        if not misfits:
            return
        now = self._wall_us()
        self._files.dead_letters.add([_letter(misfit, now) for misfit in misfits])
        self._report.buried(len(self._files.dead_letters))
        for status, count in Counter(misfit.status for misfit in misfits).items():
            _log.error("destination_dead_letter", destination=self._terms.name, entries=count, status=status)

    def _retry(self, outcome: Outcome) -> None:
        self._failures += 1
        wait = self._backoff.seconds(self._failures, outcome.retry_after)
        self._back_off = max(wait, self._back_off)
        self._report.failed(outcome)
        self._report.change(State.RETRYING)
        _log.warning(
            "destination_waiting",
            destination=self._terms.name,
            status=outcome.status,
            reason=outcome.reason,
            seconds=round(wait, 1),
        )
        self._warn_of_window()

    def _warn_of_window(self) -> None:
        if self._report.is_window_closing():
            _log.error("destination_window_closing", destination=self._terms.name)

    def _pause(self, outcome: Outcome) -> None:
        self._failures = max(1, self._failures)
        self._back_off = self._terms.paused_seconds
        self._report.failed(outcome)
        self._report.change(State.PAUSED)
        _log.error("destination_paused", destination=self._terms.name, status=outcome.status, reason=outcome.reason)
        self._warn_of_window()

    def _save(self, cursor: Cursor) -> None:
        self._files.cursor.save(cursor)
        self._cursor = self._saved = cursor
        self._report.stand(cursor.origin, cursor.index)

    # What must not happen, and does

    def _guarded(self, step: Callable[[], float]) -> float:
        try:
            return step()
        except RetryLater as error:
            self._retry(Outcome(action=Action.RETRY, status=error.code, reason=str(error)))
            wait, self._back_off = self._back_off, 0.0
            return wait
        except (KlyraError, OSError) as error:
            return self._halt(error.code if isinstance(error, KlyraError) else "disk", str(error))
        except Exception as error:  # noqa: BLE001 - a mistake of ours here must not end the store beside it
            name, places = type(error).__name__, places_of(error)
            _log.error("destination_failed", destination=self._terms.name, error=name, at=places)
            return self._halt("internal", name)

    def _halt(self, status: str, reason: str) -> float:
        """Try again rarely, from what is on disk: the store and other destinations go on in the same process."""
        self._lanes.forget()
        self._back_off = 0.0
        self._under_way.clear()
        self._confirmed.clear()
        self._cursor = self._saved = None
        self._report.failed(Outcome(action=Action.PAUSE, status=status, reason=reason))
        self._report.change(State.HALTED)
        _log.error("destination_halted", destination=self._terms.name, status=status, reason=reason)
        return self._terms.paused_seconds


def _letter(misfit: Misfit, now_us: int) -> DeadLetter:
    entry = misfit.entry
    return DeadLetter(
        origin=entry.origin,
        index=entry.index,
        entry_id=entry.entry_id,
        organization_id=entry.organization_id,
        status=misfit.status,
        refused_us=now_us,
    )
