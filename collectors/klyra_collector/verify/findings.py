"""Gather findings: all are counted, the first ones are kept, and every record that one is about is marked."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klyra_audit.format.sections import SectionName
    from klyra_collector.verify.verdicts import Finding, Verdict

_SEEN: Final = 1
_FLAGGED: Final = 2
_ERASED: Final = {"actor": 4, "target": 8}
_ONLY_SEEN: Final = bytes(mark & _SEEN for mark in range(256))
_ONLY_ERASED: Final = bytes(mark & sum(_ERASED.values()) for mark in range(256))
_SECTIONS: Final[tuple[SectionName, ...]] = ("actor", "target")
_EVERY_MARK: Final = range(16)


class Findings:
    """What was found in one shard.

    Attributes:
        counts: records by verdict; what is about no record counts as one.
        kept: the first `limit` findings.
        total: how many there were.
    """

    def __init__(self, limit: int) -> None:
        self.counts: Counter[Verdict] = Counter()
        self.kept: list[Finding] = []
        self.total = 0
        self._limit = limit

    def add(self, finding: Finding) -> None:
        """Take in a finding."""
        self.counts[finding.verdict] += finding.count
        self.total += 1
        if len(self.kept) < self._limit:
            self.kept.append(finding)

    def count(self, verdict: Verdict, count: int) -> None:
        """Count records of a verdict that are not described one by one."""
        self.counts[verdict] += count
        self.total += 0 if verdict.is_good else count


class Marks:
    """One byte for each record: whether its content was seen, what of it is erased, whether a finding is about it."""

    def __init__(self, size: int) -> None:
        self._marks = bytearray(size)
        self.size = size

    def see(self, index: int) -> bool:
        """Note that the content of a record was seen; return whether it had been before."""
        before = self._marks[index]
        self._marks[index] = before | _SEEN
        return bool(before & _SEEN)

    def is_seen(self, index: int) -> bool:
        """Say whether the content of a record was seen."""
        return index < self.size and bool(self._marks[index] & _SEEN)

    def seen_from(self, first: int, count: int) -> bytearray:
        """Return one byte for each of `count` records: whether its content was seen."""
        return self._marks[first : first + count].translate(_ONLY_SEEN)

    def all_seen(self) -> bool:
        """Say whether every record's content was seen."""
        return not any(self._marks.count(value) for value in _EVERY_MARK if not value & _SEEN)

    def erase(self, index: int, sections: Iterable[SectionName]) -> None:
        """Note that sections of a record are erased."""
        for section in sections:
            self._marks[index] |= _ERASED[section]

    def erased(self, index: int) -> tuple[SectionName, ...]:
        """Return the sections of a record that are erased."""
        mark = self._marks[index]
        return tuple(section for section in _SECTIONS if mark & _ERASED[section])

    def any_erased(self) -> bool:
        """Say whether a section of any record is erased."""
        return any(self._marks.count(value) for value in _EVERY_MARK if value & ~(_SEEN | _FLAGGED))

    def erased_from(self, first: int, count: int) -> bytearray:
        """Return one byte for each of `count` records: not zero where a section is erased."""
        return self._marks[first : first + count].translate(_ONLY_ERASED)

    def flag(self, first: int, last: int) -> None:
        """Note that a finding is about a range of records."""
        for index in range(max(first, 0), min(last + 1, self.size)):
            self._marks[index] |= _FLAGGED

    def flag_unseen(self, first: int, last: int) -> None:
        """Note that a finding is about those records of a range whose content was not seen."""
        self.flag_each(index for index in range(first, last + 1) if not self._marks[index] & _SEEN)

    def flag_each(self, indexes: Iterable[int]) -> None:
        """Note that a finding is about each of several records."""
        for index in indexes:
            self._marks[index] |= _FLAGGED

    def unflagged(self, size: int) -> int:
        """Return how many of the first `size` records no finding is about."""
        covered = min(size, self.size)
        return covered - sum(self._marks.count(value, 0, covered) for value in _EVERY_MARK if value & _FLAGGED)
