"""The window of sealing days that an organization's retention still keeps (DESIGN section 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from klyra_audit import timestamps

if TYPE_CHECKING:
    from klyra_collector.store.searching import Filters, Store

_DAY_NS = timestamps.SECONDS_PER_DAY * timestamps.NANOSECONDS
_MICROSECOND_NS = timestamps.NANOSECONDS // timestamps.MICROSECONDS
_AHEAD_NS = 15 * 60 * timestamps.NANOSECONDS  # a timestamp may be so far in the future (DESIGN section 4)


@dataclass(frozen=True, slots=True)
class Window:
    """What is kept.

    Attributes:
        start_day: earliest UTC day of sealing still kept, since 1970.
        end_us: now, microseconds since 1970.
        retention_days: of the organization's policy.
    """

    start_day: int
    end_us: int
    retention_days: int

    @property
    def start(self) -> str:
        """RFC 3339 text of its first moment."""
        return f"{timestamps.day_to_date(self.start_day)}T00:00:00Z"

    @property
    def end(self) -> str:
        """RFC 3339 text of its last moment."""
        return timestamps.from_microseconds(self.end_us)

    def headers(self) -> dict[str, str]:
        """Return the headers that state it."""
        return {
            "Klyra-Window-Start": self.start,
            "Klyra-Window-End": self.end,
            "Klyra-Retention-Days": str(self.retention_days),
        }

    def is_outside(self, filters: Filters) -> bool:
        """Say whether a search is about times that lie wholly before or behind it."""
        before = filters.end_ns is not None and filters.end_ns <= self.start_day * _DAY_NS
        latest = self.end_us * _MICROSECOND_NS + _AHEAD_NS
        return before or (filters.start_ns is not None and filters.start_ns > latest)

    def warning(self) -> str:
        """Return what to tell someone who searches outside it."""
        return (
            f"The time asked for lies outside what is kept: entries sealed from {self.start} to {self.end} "
            f"({self.retention_days} days of retention)."
        )


def window_of(store: Store, organization_id: str, retention_days: int, now_us: int) -> Window:
    """Return the window of an organization.

    It begins as many days ago as its policy keeps entries, or earlier where an earlier policy still keeps some.
    """
    today = timestamps.day_of(now_us)
    kept = store.earliest_sealing_day(organization_id, today)
    by_policy = today - retention_days
    return Window(by_policy if kept is None else min(kept, by_policy), now_us, retention_days)
