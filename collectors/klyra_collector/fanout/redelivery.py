"""Sends dead letters again when an operator orders it: after a limit was raised, a format or a filter changed.

What is taken now is no dead letter any more; nor is what has expired, was erased with its organization's leave, or is
not wanted any more. What is refused again stays one. The cursor does not move, and the order is forgotten at the end:
after a crash what is left of the letters is tried from the beginning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from klyra_collector.fanout.batching import Gathering
from klyra_siem.outcome import Action, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klyra_collector.dead_letters import DeadLetter
    from klyra_collector.fanout.files import Files
    from klyra_collector.fanout.fitting import Fitting
    from klyra_collector.fanout.lanes import Lanes
    from klyra_collector.fanout.source import EntrySource
    from klyra_siem.destination import SealedEntry

_KEY: Final = -1  # of the batch under way: no index
_MOST: Final = 100  # letters looked at for one request
_DONE: Final = Outcome(action=Action.DELIVERED, status="")

_log = structlog.get_logger(__name__)


class Redelivery:
    """Works through the dead letters of one destination while nothing else is under way. One thread uses it."""

    def __init__(
        self, lanes: Lanes, source: EntrySource, fitting: Fitting, files: Files, wall_us: Callable[[], int]
    ) -> None:
        self._lanes = lanes
        self._source = source
        self._fitting = fitting
        self._files = files
        self._wall_us = wall_us
        self._refused_again: set[tuple[str, int]] = set()
        self._most = _MOST

    def step(self) -> Outcome:
        """Send some letters and wait for the answer; forget the order when none is left that was not tried.

        Returns:
            What the destination said: RETRY and PAUSE change nothing; anything else is done.
        """
        letters = [one for one in self._files.dead_letters.read() if _place(one) not in self._refused_again]
        if not letters:
            self._files.orders.redelivery_done()
            self._refused_again.clear()
            return _DONE
        entries = self._gathered(letters)
        if not entries:
            return _DONE
        self._lanes.send(_KEY, entries)
        sent = self._lanes.next(None)
        if sent is None or sent.outcome is None:
            raise (sent and sent.error) or AssertionError
        self._settle(entries, sent.outcome)
        return sent.outcome

    def _gathered(self, letters: Sequence[DeadLetter]) -> list[SealedEntry]:
        """Return what of the first letters goes into one request; those without an entry are letters no more."""
        gathered = Gathering(self._fitting.limits, 0, begun_us=self._wall_us())
        gone = []
        for letter in letters[: self._most]:
            if letter.origin != letters[0].origin:
                break
            (found,) = self._source.read(letter.origin, letter.index, 1) or (None,)
            if found is None or found.entry is None:
                gone.append(_place(letter))
            elif not gathered.add(found, self._fitting.measure(found.entry)):
                break
        if gone:
            self._files.dead_letters.remove(gone)
            _log.info("destination_dead_letters_gone", entries=len(gone))
        fitted = self._fitting.fit(gathered.entries, gathered.begun_us)
        self._refused_again |= {(misfit.entry.origin, misfit.entry.index) for misfit in fitted.misfits}
        return fitted.entries

    def _settle(self, entries: Sequence[SealedEntry], outcome: Outcome) -> None:
        match outcome.action:
            case Action.DELIVERED:
                self._taken(entries, outcome)
            case Action.BISECT if len(entries) > 1:
                self._most = len(entries) // 2
            case Action.BISECT:
                self._refused_again.add((entries[0].origin, entries[0].index))
                self._most = _MOST

    def _taken(self, entries: Sequence[SealedEntry], outcome: Outcome) -> None:
        refused = set(outcome.refused)
        taken = [entry for position, entry in enumerate(entries) if position not in refused]
        self._refused_again |= {(entries[position].origin, entries[position].index) for position in refused}
        self._files.receipts.add(taken)
        self._files.dead_letters.remove({(entry.origin, entry.index) for entry in taken})
        self._most = _MOST


def _place(letter: DeadLetter) -> tuple[str, int]:
    return letter.origin, letter.index
