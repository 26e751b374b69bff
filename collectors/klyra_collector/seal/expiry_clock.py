"""Until which day expiry may believe the clock (DESIGN section 5, commit protocol, last paragraph).

A wrong clock that only stamps records is a nuisance; one that deletes them is a loss. So expiry believes it less than
intake does: after a leap of over a day it waits an hour, in which the operator sees the alarm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from klyra_audit.errors import RetryLater
from klyra_audit.timestamps import MICROSECONDS, SECONDS_PER_DAY, day_of, day_to_date

if TYPE_CHECKING:
    from klyra_collector.seal.clock import Clock

MAX_LEAP_US: Final = SECONDS_PER_DAY * MICROSECONDS
DISTRUST_US: Final = 3600 * MICROSECONDS


class ExpiryRefused(RetryLater):
    """Nothing is deleted now, because the time is in doubt. Codes: `clock_in_doubt`, `no_witness_time`."""

    code = "clock_in_doubt"


@dataclass(slots=True)
class ExpiryClock:
    """Compares the wall clock with what it should be by the machine's own clock.

    Attributes:
        clock: where time comes from.
        last_us: ingest time of the last leaf that the start found; 0 in a new ledger.
        confirmed: an operator vouched for the clock at this start.
    """

    clock: Clock
    last_us: int
    confirmed: bool = False
    _wall_us: int = 0
    _boottime_us: int = 0
    _doubted_until_us: int | None = None

    def __post_init__(self) -> None:
        """Expect the wall clock to go on where the last leaf left it."""
        self._wall_us = self.last_us or self.clock.wall_us()
        self._boottime_us = self.clock.boottime_us()

    def cutoff_day(self, witness_seconds: int | None, *, has_witnesses: bool) -> int:
        """Return the last UTC day (since 1970) that has certainly begun.

        Args:
            witness_seconds: the newest time by which a quorum of witnesses had cosigned, since 1970.
            has_witnesses: whether witnesses are configured; then nothing is due that is not due by their clocks.

        Raises:
            ExpiryRefused: not now.
        """
        wall = self.clock.wall_us()
        witness_us = None if witness_seconds is None else witness_seconds * MICROSECONDS
        vouched = self.confirmed or (witness_us is not None and abs(wall - witness_us) <= MAX_LEAP_US)
        self._look(wall, vouched=vouched)
        if not has_witnesses:
            return day_of(wall)
        if witness_us is None:
            raise ExpiryRefused(
                "No witness has cosigned a checkpoint yet, and what has expired is only deleted by a witness's time.",
                remedy="See the witnesses' state: klyra-audit status; nothing is lost by waiting.",
                code="no_witness_time",
            )
        return min(day_of(wall), day_of(witness_us))

    def _look(self, wall: int, *, vouched: bool) -> None:
        """Note a leap over a day, and refuse for an hour after it unless someone vouches for the clock."""
        boottime = self.clock.boottime_us()
        leap = wall - (self._wall_us + boottime - self._boottime_us)
        if leap > MAX_LEAP_US:
            self._wall_us, self._boottime_us = wall, boottime
            self._doubted_until_us = boottime + DISTRUST_US
        if self._doubted_until_us is None or boottime >= self._doubted_until_us or vouched:
            return
        minutes = -(-(self._doubted_until_us - boottime) // (60 * MICROSECONDS))
        raise ExpiryRefused(
            f"The clock says {day_to_date(day_of(wall))}, over a day later than expected, so nothing is deleted for "
            f"another {minutes} minutes.",
            remedy="If it is wrong, stop the collector and set it. If it is right, wait, or restart with "
            "--confirm-clock.",
        )
