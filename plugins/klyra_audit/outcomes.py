"""What became of the events emitted lately: who waits for it, and what a repeated `emit` is told."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from klyra_audit.receipt import Receipt

if TYPE_CHECKING:
    from klyra_audit.event import AuditEvent
    from klyra_audit.spool.spool import Spooled

REMEMBERED = 1000

Outcome = Receipt | Exception


@dataclass(slots=True)
class _Emitted:
    event: AuditEvent | None = None
    spooled: Spooled | None = None
    outcome: Outcome | None = None
    answer: Future[Receipt] | None = None


class Outcomes:
    """Remembers the last events, and all that somebody waits for. Thread-safe."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._emitted: OrderedDict[str, _Emitted] = OrderedDict()
        self._lock = threading.Lock()

    def spooled(self, event: AuditEvent) -> Spooled | None:
        """Return where an event went that was emitted before, None for a new one or one of other content."""
        with self._lock:
            emitted = self._emitted.get(str(event.id))
            return emitted.spooled if emitted is not None and emitted.event == event else None

    def note_spooled(self, event: AuditEvent, spooled: Spooled) -> None:
        """Remember an event that is durable on this machine."""
        with self._lock:
            emitted = self._entry(spooled.record_id)
            emitted.event, emitted.spooled = event, spooled

    def expect(self, record_id: str) -> Future[Receipt]:
        """Return where the receipt of an event will be, or already is, or why there is none."""
        with self._lock:
            emitted = self._entry(record_id)
            if emitted.answer is None:
                emitted.answer = Future()
                if emitted.outcome is not None:
                    _answer(emitted.answer, emitted.outcome)
            return emitted.answer

    def settle(self, record_id: str, outcome: Outcome) -> None:
        """Note what the collector said of an event; nothing is kept of events that nobody asks about any more."""
        with self._lock:
            emitted = self._emitted.get(record_id)
            if emitted is None:
                return
            emitted.outcome = outcome
            if emitted.answer is not None and not emitted.answer.done():
                _answer(emitted.answer, outcome)

    def _entry(self, record_id: str) -> _Emitted:
        emitted = self._emitted.setdefault(record_id, _Emitted())
        self._emitted.move_to_end(record_id)
        if len(self._emitted) > self._remembered:
            self._forget_one()
        return emitted

    def _forget_one(self) -> None:
        """Forget the oldest event that nobody waits for."""
        for record_id, emitted in self._emitted.items():
            if emitted.answer is None or emitted.answer.done():
                del self._emitted[record_id]
                return


def _answer(answer: Future[Receipt], outcome: Outcome) -> None:
    if isinstance(outcome, Receipt):
        answer.set_result(outcome)
    else:
        answer.set_exception(outcome)
