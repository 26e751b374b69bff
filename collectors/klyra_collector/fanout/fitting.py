"""What a destination takes of a batch: entries that are too large or too old for it are told apart first. Pure.

A vendor that does not take an entry for its age says so, or does not: some answer that all is well and store nothing
(Datadog after 18 hours, Google after the bucket's retention), or another time. So it is decided here, by
`destination.when_too_old`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from klyra_siem.destination import Limits, SealedEntry

TOO_LARGE: Final = "too_large"
TOO_OLD: Final = "too_old"
TOO_NEW: Final = "too_new"

_NS_PER_US: Final = 1000
_NS_PER_SECOND: Final = 1_000_000_000


class WhenTooOld(StrEnum):
    """What becomes of an entry whose time the destination would not take."""

    PRESERVE = "preserve"
    RESTAMP = "restamp"
    DEAD_LETTER = "dead_letter"


class Misfit(NamedTuple):
    """An entry that is not sent, and why."""

    entry: SealedEntry
    status: str


@dataclass(frozen=True, slots=True)
class Fitted:
    """A batch, sorted.

    Attributes:
        entries: to send, in order.
        misfits: dead letters.
    """

    entries: list[SealedEntry]
    misfits: list[Misfit]


@dataclass(frozen=True, slots=True)
class Fitting:
    """Judges entries for one destination.

    Attributes:
        limits: of the destination.
        policy: for what is outside its window of time.
        measure: bytes that an entry adds to a request.
    """

    limits: Limits
    policy: WhenTooOld
    measure: Callable[[SealedEntry], int]

    def fit(self, entries: Iterable[SealedEntry], begun_us: int) -> Fitted:
        """Sort a batch; the same entries and the same beginning give the same.

        Args:
            entries: of one batch.
            begun_us: when it was begun, microseconds since 1970: ages count from then, and restamped entries are filed
                under it.
        """
        fitted = Fitted([], [])
        for entry in entries:
            status = self._status(entry, begun_us)
            if not status:
                fitted.entries.append(entry)
            elif status == TOO_LARGE or self.policy is WhenTooOld.DEAD_LETTER:
                fitted.misfits.append(Misfit(entry, status))
            else:
                fitted.entries.append(self.filed(entry, begun_us))
        return fitted

    def filed(self, entry: SealedEntry, begun_us: int) -> SealedEntry:
        """Return the entry under the time that the destination is told."""
        if self.policy is WhenTooOld.RESTAMP and self._age_status(entry, begun_us):
            return replace(entry, filed_ns=begun_us * _NS_PER_US)
        return entry

    def is_stale(self, begun_us: int, now_us: int) -> bool:
        """Say whether a batch was begun so long ago that what was restamped then will soon be too old itself."""
        oldest = self.limits.oldest_seconds
        return oldest is not None and (now_us - begun_us) * _NS_PER_US > oldest * _NS_PER_SECOND // 2

    def _status(self, entry: SealedEntry, begun_us: int) -> str:
        most = self.limits.entry_bytes
        if most is not None and self.measure(entry) > most:
            return TOO_LARGE
        return self._age_status(entry, begun_us)

    def _age_status(self, entry: SealedEntry, begun_us: int) -> str:
        age_ns = begun_us * _NS_PER_US - entry.filed_ns
        oldest, newest = self.limits.oldest_seconds, self.limits.newest_seconds
        if oldest is not None and age_ns > oldest * _NS_PER_SECOND:
            return TOO_OLD
        return TOO_NEW if newest is not None and -age_ns > newest * _NS_PER_SECOND else ""
