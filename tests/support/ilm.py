"""Index lifecycle management as Elasticsearch does it, in simulated time (ilm-rollover, ilm-index-lifecycle).

Every poll looks at every index once and takes it at most one step on: a rollover shows in the next poll, and phases
count from it. That is what makes deletion late, never early.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MINUTE, HOUR, DAY = 60, 3600, 86400
POLL = 10 * MINUTE  # indices.lifecycle.poll_interval
_UNITS = {"ms": 0.001, "s": 1, "m": MINUTE, "h": HOUR, "d": DAY}


@dataclass
class Index:
    """One backing index.

    Attributes:
        created: when it was made.
        oldest, newest: when its first and its last document were written; None while it is empty.
        wants_rollover: a poll saw that it is due; the next one does it.
        rolled_over: when that was.
        wants_deletion: a poll saw that it is due.
    """

    created: float
    oldest: float | None = None
    newest: float | None = None
    wants_rollover: bool = False
    rolled_over: float | None = None
    wants_deletion: bool = False


@dataclass(frozen=True)
class Deleted:
    """An index that went, with the ages of its documents then, in seconds."""

    youngest: float
    oldest: float


def seconds(text: str) -> float:
    """Return a time value such as `22h` in seconds."""
    number = text.rstrip("smhd")
    return float(number) * _UNITS[text[len(number) :]]


class Stream:
    """A data stream under a policy."""

    def __init__(self, policy: Mapping[str, Any], now: float = 0.0, poll_offset: float = 0.0) -> None:
        phases = policy["policy"]["phases"]
        rollover = phases["hot"]["actions"]["rollover"]
        self._max_age = seconds(rollover["max_age"])
        self._min_docs = rollover["min_docs"]
        self._delete_age = seconds(phases["delete"]["min_age"])
        self._next_poll = now + poll_offset
        self.indexes = [Index(now)]

    def write(self, now: float) -> None:
        """Add a document."""
        index = self.indexes[-1]
        index.oldest = now if index.oldest is None else index.oldest
        index.newest = now

    def run(self, until: float, *, is_running: bool = True) -> Iterator[Deleted]:
        """Poll up to a time; nothing happens while the cluster is not running."""
        while self._next_poll <= until:
            if is_running:
                yield from self._poll(self._next_poll)
            self._next_poll += POLL

    def _poll(self, now: float) -> Iterator[Deleted]:
        for index in list(self.indexes):
            if index.wants_deletion:
                self.indexes.remove(index)
                yield Deleted(now - index.newest, now - index.oldest)
            elif index.rolled_over is not None:
                index.wants_deletion = now - index.rolled_over >= self._delete_age
            elif index.wants_rollover:
                index.rolled_over = now
                self.indexes.append(Index(now))
            else:
                is_due = now - index.created >= self._max_age
                index.wants_rollover = is_due and (index.oldest is not None or self._min_docs == 0)
