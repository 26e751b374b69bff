"""Delivers the ledger to one destination: in order, at least once, never past what was not confirmed.

    cursor ──▶ gather a batch ──▶ write its span down ──▶ send ──▶ taken: the cursor moves
                                          ▲               ├─ no answer: the same span, after a wait
                                          └─ two halves ◀─┼─ refused: halves; alone: dead letter, the cursor moves
                                                          └─ not let in: alarm, the same span, rarely

Every attempt reads its span from the ledger again: what has expired or was erased since the last one is not sent.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from klyra_audit.errors import KlyraError, Rejected, RetryLater
from klyra_collector.dead_letters import DeadLetter
from klyra_collector.destination_status import State
from klyra_collector.fanout.batching import Gathering
from klyra_collector.fanout.cursor import Cursor, Span
from klyra_siem.outcome import Action, Outcome

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from klyra_collector.backoff import Backoff
    from klyra_collector.dead_letters import DeadLetters
    from klyra_collector.fanout.cursor import CursorFile
    from klyra_collector.fanout.ledger_position import LedgerPosition
    from klyra_collector.fanout.report import Report
    from klyra_collector.fanout.source import EntrySource
    from klyra_siem.destination import Destination, Limits, SealedEntry

IDLE_SECONDS: Final = 0.1
LEAST_READ: Final = 64
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
        destination: Destination,
        source: EntrySource,
        ledger: LedgerPosition,
        cursor_file: CursorFile,
        dead_letters: DeadLetters,
        report: Report,
        backoff: Backoff,
        wall_us: Callable[[], int],
    ) -> None:
        self._terms = terms
        self._destination = destination
        self._source = source
        self._ledger = ledger
        self._file = cursor_file
        self._dead_letters = dead_letters
        self._report = report
        self._backoff = backoff
        self._wall_us = wall_us
        self._cursor: Cursor | None = None
        self._saved: Cursor | None = None
        self._failures = 0
        self._refused_in_a_row = 0
        self._lingering_since: float | None = None

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop` is set. Nothing that happens here ends it: other destinations share the process."""
        self._report.publish()
        while not stop.is_set():
            wait = self._guarded_step()
            self._report.publish_before(wait)
            if wait > 0:
                stop.wait(wait)
        self._destination.close()
        self._report.change(State.STOPPED)

    def step(self) -> float:
        """Do the next thing; return the seconds to wait before the one after it, 0 for none.

        Raises:
            RetryLater: the ledger or the registry cannot be read now.
            Halted: the ledger or the cursor is not as it must be; nothing was sent.
        """
        cursor = self._begin()
        if cursor is None:
            return IDLE_SECONDS
        if cursor.pending:
            return self._attempt(cursor, self._entries(cursor.origin, cursor.pending[0]))
        gathered = self._gather(cursor)
        if gathered.entries:
            return self._send_or_linger(cursor, gathered)
        if gathered.end > cursor.index:
            self._report.skipped(gathered.skipped)
            self._skip(cursor.moved(gathered.end))
            return 0.0
        return self._next_shard(cursor)

    # What is next

    def _begin(self) -> Cursor | None:
        """Return the cursor; None while the ledger has no records."""
        if self._cursor is None:
            self._cursor = self._saved = self._file.load()
        if self._cursor is None:
            first = self._ledger.first()
            if first is not None:
                self._save(first)  # at once: where the end of the ledger is now will not be known later
        if self._cursor is not None:
            self._cursor = self._ledger.checked(self._cursor)
            self._report.stand(self._cursor.origin, self._cursor.index)
        return self._cursor

    def _gather(self, cursor: Cursor) -> Gathering:
        gathered = Gathering(self._terms.limits, cursor.index)
        while gathered.end - cursor.index < GATHERED_RECORDS:
            limit = max(LEAST_READ, self._terms.limits.entries + 1 - len(gathered.entries))
            records = self._source.read_on(cursor.origin, gathered.end, limit)
            for found in records:
                size = 0 if found.entry is None else self._destination.measure(found.entry)
                if not gathered.add(found, size):
                    return gathered
            if len(records) < limit:
                return gathered
        gathered.is_full = True
        return gathered

    def _send_or_linger(self, cursor: Cursor, gathered: Gathering) -> float:
        if not gathered.is_full:
            now = time.monotonic()
            if self._lingering_since is None:
                self._lingering_since = now
            left = self._lingering_since + self._terms.linger_seconds - now
            if left > 0:
                return left
        self._lingering_since = None
        begun = cursor.begun(Span(cursor.index, gathered.end))
        self._save(begun)
        self._report.skipped(gathered.skipped)
        return self._attempt(begun, gathered.entries)

    def _skip(self, cursor: Cursor) -> None:
        """Go on behind records that are not delivered; after a crash they are looked at again."""
        self._cursor = cursor
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

    def _attempt(self, cursor: Cursor, entries: Sequence[SealedEntry]) -> float:
        if not entries:
            self._save(cursor.completed())
            return 0.0
        outcome = self._sent(entries)
        match outcome.action:
            case Action.DELIVERED:
                return self._delivered(cursor, entries, outcome)
            case Action.BISECT:
                return self._refused(cursor, entries, outcome)
            case Action.RETRY:
                return self._retry(outcome)
        return self._pause(outcome)

    def _sent(self, entries: Sequence[SealedEntry]) -> Outcome:
        try:
            payload = self._destination.encode(entries)
        except Rejected as error:  # an entry that this destination's format cannot hold: it is refused by ourselves
            return Outcome(action=Action.BISECT, status=error.code, reason=str(error))
        return self._destination.send(payload)

    def _delivered(self, cursor: Cursor, entries: Sequence[SealedEntry], outcome: Outcome) -> float:
        refused = [entries[position] for position in outcome.refused]
        self._bury(refused, outcome.status)
        self._failures = self._refused_in_a_row = 0
        self._save(cursor.completed())
        self._report.delivered(len(entries) - len(refused), outcome.reason)
        if outcome.reason:
            _log.warning("destination_warned", destination=self._terms.name, reason=outcome.reason)
        return 0.0

    def _refused(self, cursor: Cursor, entries: Sequence[SealedEntry], outcome: Outcome) -> float:
        self._report.failed(outcome)
        if len(entries) > 1:
            self._save(cursor.bisected(entries[len(entries) // 2].index))
            return 0.0
        if self._refused_in_a_row >= REFUSED_IN_A_ROW:
            return self._pause(outcome)
        self._refused_in_a_row += 1
        # In this order: a crash in between writes the same letter again, never loses it.
        self._bury(entries, outcome.status)
        self._save(cursor.completed())
        return 0.0

    def _bury(self, entries: Sequence[SealedEntry], status: str) -> None:
        if not entries:
            return
        now = self._wall_us()
        self._dead_letters.add(
            [
                DeadLetter(
                    origin=entry.origin,
                    index=entry.index,
                    entry_id=entry.entry_id,
                    organization_id=entry.organization_id,
                    status=status,
                    refused_us=now,
                )
                for entry in entries
            ]
        )
        self._report.buried(len(self._dead_letters))
        _log.error("destination_dead_letter", destination=self._terms.name, entries=len(entries), status=status)

    def _retry(self, outcome: Outcome) -> float:
        self._failures += 1
        wait = self._backoff.seconds(self._failures, outcome.retry_after)
        self._report.failed(outcome)
        self._report.change(State.RETRYING)
        _log.warning(
            "destination_waiting",
            destination=self._terms.name,
            status=outcome.status,
            reason=outcome.reason,
            seconds=round(wait, 1),
        )
        return wait

    def _pause(self, outcome: Outcome) -> float:
        self._report.failed(outcome)
        self._report.change(State.PAUSED)
        _log.error("destination_paused", destination=self._terms.name, status=outcome.status, reason=outcome.reason)
        return self._terms.paused_seconds

    def _save(self, cursor: Cursor) -> None:
        self._file.save(cursor)
        self._cursor = self._saved = cursor
        self._report.stand(cursor.origin, cursor.index)

    # What must not happen, and does

    def _guarded_step(self) -> float:
        try:
            wait = self.step()
        except RetryLater as error:
            return self._retry(Outcome(action=Action.RETRY, status=error.code, reason=str(error)))
        except (KlyraError, OSError) as error:
            return self._halt(error.code if isinstance(error, KlyraError) else "disk", str(error))
        except Exception as error:  # noqa: BLE001 - a mistake of ours here must not end the store beside it
            _log.exception("destination_failed", destination=self._terms.name)
            return self._halt("internal", type(error).__name__)
        return wait

    def _halt(self, status: str, reason: str) -> float:
        """Try again rarely, from what is on disk: the store and other destinations go on in the same process."""
        self._cursor = self._saved = None
        self._report.failed(Outcome(action=Action.PAUSE, status=status, reason=reason))
        self._report.change(State.HALTED)
        _log.error("destination_halted", destination=self._terms.name, status=status, reason=reason)
        return self._terms.paused_seconds
