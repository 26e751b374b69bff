"""Where a batch ends. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from klyra_collector.fanout.source import Found
    from klyra_siem.destination import Limits, SealedEntry

_NS_PER_SECOND: Final = 1_000_000_000


@dataclass(slots=True)
class Gathering:
    """A batch that is being put together.

    Attributes:
        limits: of a request.
        begun_us: when it was begun, microseconds since 1970.
        entries: in ledger order.
        end: the index behind the last record that belongs to the batch, delivered or not.
        skipped: why records among them are not delivered, and how many.
        is_full: nothing more fits.
    """

    limits: Limits
    end: int
    begun_us: int = 0
    entries: list[SealedEntry] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    is_full: bool = False
    _bytes: int = 0
    _earliest_ns: int = 0
    _latest_ns: int = 0

    def add(self, found: Found, size: int) -> bool:
        """Take the next record, which adds some bytes to the request; say whether it was taken.

        An entry that is too long by itself makes a batch alone.
        """
        entry = found.entry
        if entry is None:
            self.skipped[found.reason] += 1
        else:
            if self.entries and self._is_too_much(entry, size):
                self.is_full = True
                return False
            self._earliest_ns = min(entry.filed_ns, self._earliest_ns) if self.entries else entry.filed_ns
            self._latest_ns = max(entry.filed_ns, self._latest_ns) if self.entries else entry.filed_ns
            self.entries.append(entry)
            self._bytes += size
        self.end = found.index + 1
        return True

    @property
    def room(self) -> int:
        """How many further entries probably fit, by the average so far; at least 1."""
        by_count = self.limits.entries - len(self.entries)
        if not self._bytes:
            return max(1, by_count)
        by_bytes = (self.limits.encoded_bytes - self._bytes) * len(self.entries) // self._bytes
        return max(1, min(by_count, by_bytes))

    def _is_too_much(self, entry: SealedEntry, size: int) -> bool:
        too_many = len(self.entries) >= self.limits.entries
        too_long = self._bytes + size > self.limits.encoded_bytes
        span_ns = max(entry.filed_ns, self._latest_ns) - min(entry.filed_ns, self._earliest_ns)
        span = self.limits.span_seconds
        return too_many or too_long or (span is not None and span_ns > span * _NS_PER_SECOND)
