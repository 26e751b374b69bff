"""Where a batch ends. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from klyra_collector.fanout.source import Found
    from klyra_siem.destination import Limits, SealedEntry


@dataclass(slots=True)
class Gathering:
    """A batch that is being put together.

    Attributes:
        limits: of a request.
        entries: in ledger order.
        end: the index behind the last record that belongs to the batch, delivered or not.
        skipped: why records among them are not delivered, and how many.
        is_full: nothing more fits.
    """

    limits: Limits
    end: int
    entries: list[SealedEntry] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    is_full: bool = False
    _bytes: int = 0

    def add(self, found: Found, size: int) -> bool:
        """Take the next record, which adds some bytes to the request; say whether it was taken.

        An entry that is too long by itself makes a batch alone: only the destination can say whether it takes it.
        """
        entry = found.entry
        if entry is None:
            self.skipped[found.reason] += 1
        else:
            too_many = len(self.entries) >= self.limits.entries
            if self.entries and (too_many or self._bytes + size > self.limits.encoded_bytes):
                self.is_full = True
                return False
            self.entries.append(entry)
            self._bytes += size
        self.end = found.index + 1
        return True
