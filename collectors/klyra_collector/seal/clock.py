"""The collector's clock and when not to believe it (DESIGN section 5, commit protocol)."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from typing import Protocol

from klyra_collector.errors import IntakeHalted

MAX_GAIN_US = 60 * 1_000_000
MAX_BEHIND_US = 15 * 60 * 1_000_000

_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES = 512  # more than any architecture's struct timex
_RETRY_AFTER = 5.0


class Clock(Protocol):
    """What the seal asks of a clock."""

    def wall_us(self) -> int:
        """Microseconds since 1970 by the wall clock."""
        ...

    def boottime_us(self) -> int:
        """Microseconds since the machine started, sleep included; never set by anyone."""
        ...

    def synchronised(self) -> bool:
        """Whether the kernel says that the wall clock follows a time source."""
        ...


class SystemClock:
    """The kernel's clocks."""

    def wall_us(self) -> int:
        """See `Clock`."""
        return time.time_ns() // 1000

    def boottime_us(self) -> int:
        """See `Clock`."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000

    def synchronised(self) -> bool:
        """See `Clock`; a kernel that cannot be asked counts as not synchronised."""
        try:
            library = ctypes.CDLL(None, use_errno=True)
            state: int = library.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
        except (OSError, AttributeError):
            return False
        return state not in (-1, _TIME_ERROR)


@dataclass(slots=True)
class ClockGuard:
    """Gives the ingest time of each commit, or halts intake while the clock is not to be believed.

    Attributes:
        clock: where time comes from.
        last_us: ingest time of the last leaf; ingest times never decrease.
        confirmed: an operator vouched for the clock at this start.
    """

    clock: Clock
    last_us: int
    confirmed: bool = False
    _wall_us: int = 0
    _boottime_us: int = 0

    def __post_init__(self) -> None:
        self._wall_us = self.clock.wall_us()
        self._boottime_us = self.clock.boottime_us()

    def ingest_us(self) -> int:
        """Return max(last, wall clock) for a new commit.

        Raises:
            IntakeHalted: the wall clock leapt ahead unsynchronised, or is far behind the last leaf.
        """
        wall, boottime = self.clock.wall_us(), self.clock.boottime_us()
        if not self.confirmed:
            self._refuse_leap(wall, boottime)
            self._refuse_lag(wall)
        return max(self.last_us, wall)

    def sealed(self, ingest_us: int) -> None:
        """Note that a commit with this time is durable: the next comparison starts from here."""
        self.last_us = ingest_us
        self._wall_us, self._boottime_us = self.clock.wall_us(), self.clock.boottime_us()

    def _refuse_leap(self, wall: int, boottime: int) -> None:
        gained = (wall - self._wall_us) - (boottime - self._boottime_us)
        if gained > MAX_GAIN_US and not self.clock.synchronised():
            raise IntakeHalted(
                f"The wall clock gained {gained // 1_000_000} s on the machine's own since the last seal, "
                "and the kernel does not call it synchronised.",
                remedy="Synchronise the clock, or restart with --confirm-clock if it is right now.",
                retry_after=_RETRY_AFTER,
                code="clock_leapt",
            )

    def _refuse_lag(self, wall: int) -> None:
        behind = self.last_us - wall
        if behind > MAX_BEHIND_US:
            raise IntakeHalted(
                f"The wall clock is {behind // 1_000_000} s behind the last sealed record.",
                remedy="Set the clock, or restart with --confirm-clock if it is right now.",
                retry_after=_RETRY_AFTER,
                code="clock_behind",
            )
