"""Counts over the entries of a search: how many over time, and which values are most frequent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from klyra_audit.timestamps import NANOSECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping

# Names of filters, so that whoever sees a frequent value knows how to ask for it.
TOP_NAMES: Final = (
    *("event_types", "actor_ids", "actor_types", "resource_ids", "resource_types", "actions", "status", "client_ip"),
)

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400
_STEPS_SECONDS: Final = (
    *(1, 5, 15, 30, _MINUTE, 5 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE),
    *(_HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR, _DAY, 7 * _DAY, 30 * _DAY, 90 * _DAY),
    *(_YEAR * years for years in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """How much of a summary is wanted.

    Attributes:
        buckets: spans of time at most, 2 or more: no round span covers both sides of 1970.
        top: values of each kind at most; 0 for none.
    """

    buckets: int
    top: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """Entries of one span of time, by status."""

    start_ns: int
    success: int
    failure: int


@dataclass(frozen=True, slots=True)
class Frequent:
    """A value and how many entries have it."""

    value: str
    entries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a search would find, in numbers.

    Attributes:
        total: entries.
        first_ns, last_ns: earliest and latest timestamp among them; None without any.
        interval_ns: of the buckets; 0 without entries.
        buckets: from the one with the first entry to the one with the last, empty ones too, ascending.
        top: name of a filter → its most frequent values, most frequent first, equal ones by their code points.
    """

    total: int
    first_ns: int | None
    last_ns: int | None
    interval_ns: int
    buckets: tuple[Bucket, ...]
    top: Mapping[str, tuple[Frequent, ...]]


def interval_for(first_ns: int, last_ns: int, buckets: int) -> int:
    """Return the shortest round interval, in nanoseconds, of which so many cover both times.

    Intervals begin at whole multiples since 1970, so that two summaries of one interval have the same bounds.
    """
    for seconds in _STEPS_SECONDS:
        interval = seconds * NANOSECONDS
        if last_ns // interval - first_ns // interval < buckets:
            return interval
    raise AssertionError("the longest interval covers everything a timestamp can be")


def spread(counts: Mapping[tuple[int, str], int], first_ns: int, last_ns: int, interval_ns: int) -> tuple[Bucket, ...]:
    """Return buckets without gaps.

    Args:
        counts: (number of the bucket from the first on, status) → entries.
        first_ns: earliest timestamp.
        last_ns: latest timestamp.
        interval_ns: of a bucket.
    """
    start = first_ns // interval_ns
    return tuple(
        Bucket((start + number) * interval_ns, counts.get((number, "success"), 0), counts.get((number, "failure"), 0))
        for number in range(last_ns // interval_ns - start + 1)
    )


NOTHING: Final = Summary(
    total=0, first_ns=None, last_ns=None, interval_ns=0, buckets=(), top=dict.fromkeys(TOP_NAMES, ())
)
