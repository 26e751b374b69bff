"""Bytes held in memory for organizations: bounded for all together, shared fairly where there is not enough."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from klyra_collector.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ACTIVE_SECONDS = 5.0  # who asked so recently counts among those that share the budget


@dataclass(slots=True)
class _Holder:
    held: int = 0
    requests: int = 0
    asked_at: float = 0.0


class FairBudget:
    """Bytes held in memory by all requests together, in one place on their way.

    While half of it is free, whoever comes gets it. Beyond that nobody gets more than an equal share of those that
    hold something or asked within `ACTIVE_SECONDS`; only a holder's single request may be larger than its share.
    So one that floods us cannot keep the others out: their first refusal already makes its share smaller.

    Args:
        limit: bytes.
        clock: seconds, never decreasing.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._holders: dict[str, _Holder] = {}
        self.held = 0

    @contextmanager
    def reservation(self, holder: str = "") -> Iterator[Reservation]:
        """Hold bytes for one request of `holder` until the block ends."""
        mine = self._holders.setdefault(holder, _Holder())
        mine.requests += 1
        reservation = Reservation(self, mine)
        try:
            yield reservation
        finally:
            mine.requests -= 1
            mine.held -= reservation.held
            self.held -= reservation.held

    def hold(self, holder: _Holder, count: int) -> None:
        """Take `count` bytes; `Overloaded` if that is more than is left, or than this holder's share."""
        holder.asked_at = self._clock()
        wanted = self.held + count
        if wanted > self._limit // 2 and (wanted > self._limit or self._takes_too_much(holder, count)):
            raise Overloaded(
                f"Requests of {self.held} bytes are being worked on.", remedy="Send the same request again shortly."
            )
        self.held = wanted
        holder.held += count

    def _takes_too_much(self, holder: _Holder, count: int) -> bool:
        return holder.requests > 1 and holder.held + count > self._limit // self._count_active()

    def _count_active(self) -> int:
        """Return how many share the budget now; those long gone are forgotten on the way."""
        since = self._clock() - ACTIVE_SECONDS
        self._holders = {
            name: holder for name, holder in self._holders.items() if holder.requests or holder.asked_at > since
        }
        return len(self._holders)


class Reservation:
    """The bytes one request holds."""

    def __init__(self, budget: FairBudget, holder: _Holder) -> None:
        self._budget = budget
        self._holder = holder
        self.held = 0

    def hold(self, count: int) -> None:
        """Hold `count` bytes more; `Overloaded` leaves what is held as it was."""
        self._budget.hold(self._holder, count)
        self.held += count
