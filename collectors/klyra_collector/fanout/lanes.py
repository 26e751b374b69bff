"""Sends the batches of one destination side by side, each on a connection and a thread of its own."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from klyra_audit.errors import Rejected
from klyra_siem.outcome import Action, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klyra_siem.destination import Destination, SealedEntry


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a batch.

    Attributes:
        start: the index that the batch begins with.
        outcome: what the destination said; None if a mistake of ours kept it from saying anything.
        error: that mistake.
    """

    start: int
    outcome: Outcome | None
    error: Exception | None = None


class Lanes:
    """Hands batches to the connections of a destination, and their outcomes back. One thread uses it.

    Threads are begun when they are first needed, and go with their process: what is under way then is sent again.
    """

    def __init__(self, name: str, destinations: Sequence[Destination]) -> None:
        """Prepare to send.

        Args:
            name: of the destination, for its threads.
            destinations: the same one several times, each with connections of its own; closed with `close`.
        """
        self._name = name
        self._destinations = destinations
        self._tasks: queue.SimpleQueue[tuple[int, Sequence[SealedEntry]] | None] = queue.SimpleQueue()
        self._sent: queue.SimpleQueue[Sent] = queue.SimpleQueue()
        self._threads = 0
        self._under_way = 0

    def __len__(self) -> int:
        """How many batches can be under way at once."""
        return len(self._destinations)

    def send(self, start: int, entries: Sequence[SealedEntry]) -> None:
        """Have a batch sent; `next` gives its outcome."""
        self._under_way += 1
        if self._threads < min(self._under_way, len(self)):
            target, self._threads = self._destinations[self._threads], self._threads + 1
            threading.Thread(target=self._work, args=(target,), name=f"lane {self._name}", daemon=True).start()
        self._tasks.put((start, entries))

    def next(self, seconds: float | None) -> Sent | None:
        """Return the outcome of a batch under way; None if there is none within some seconds, or none is under way."""
        if not self._under_way:
            return None
        try:
            sent = self._sent.get(timeout=seconds)
        except queue.Empty:
            return None
        self._under_way -= 1
        return sent

    def forget(self) -> None:
        """Wait until nothing is under way, and forget what became of it."""
        while self.next(None) is not None:
            pass

    def close(self) -> None:
        """Close every connection; nothing may be under way."""
        for _ in range(self._threads):
            self._tasks.put(None)
        for destination in self._destinations:
            destination.close()

    def _work(self, destination: Destination) -> None:
        while (task := self._tasks.get()) is not None:
            start, entries = task
            try:
                sent = Sent(start, _send(destination, entries))
            except Exception as error:  # noqa: BLE001 - handed to whoever decides what a mistake means
                sent = Sent(start, None, error)
            self._sent.put(sent)


def _send(destination: Destination, entries: Sequence[SealedEntry]) -> Outcome:
    try:
        payload = destination.encode(entries)
    except Rejected as error:  # an entry that this destination's format cannot hold: it is refused by ourselves
        return Outcome(action=Action.BISECT, status=error.code, reason=str(error))
    return destination.send(payload)
