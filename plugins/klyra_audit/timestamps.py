"""RFC 3339 timestamps of the event profile: UTC, ``Z``, 0 to 9 fractional digits (DESIGN section 4)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

NANOSECONDS = 1_000_000_000
MICROSECONDS = 1_000_000
SECONDS_PER_DAY = 86_400

_SHAPE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.(\d{1,9}))?Z", re.ASCII)
_SECONDS_LENGTH = len("2026-01-01T00:00:00")


def to_nanoseconds(text: str) -> int:
    """Return nanoseconds since 1970 of an RFC 3339 UTC timestamp; `ValueError` if it is not one."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 timestamp in UTC with Z, such as 2026-01-31T12:00:00.000Z")
    moment = datetime.fromisoformat(text[:_SECONDS_LENGTH] + "+00:00")
    fraction = match.group(1)
    nanoseconds = int(fraction.ljust(9, "0")) if fraction else 0
    return int(moment.timestamp()) * NANOSECONDS + nanoseconds


def from_nanoseconds(nanoseconds: int) -> str:
    """Return the shortest of second, millisecond, microsecond and nanosecond notation that loses nothing."""
    seconds, fraction = divmod(nanoseconds, NANOSECONDS)
    text = _seconds_text(seconds)
    if not fraction:
        return f"{text}Z"
    digits = f"{fraction:09d}"
    while digits.endswith("000"):
        digits = digits[:-3]
    return f"{text}.{digits}Z"


@lru_cache(maxsize=1024)
def _seconds_text(seconds: int) -> str:
    """Return the text of a whole second; events of one second come together."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def from_microseconds(microseconds: int) -> str:
    """Return `microseconds` since 1970 as RFC 3339 with milliseconds, the precision we produce."""
    seconds, fraction = divmod(microseconds, MICROSECONDS)
    return f"{_seconds_text(seconds)}.{fraction // 1000:03d}Z"


def day_of(microseconds: int) -> int:
    """Return the UTC day (since 1970-01-01) in which `microseconds` since 1970 lies."""
    return microseconds // (SECONDS_PER_DAY * MICROSECONDS)


def day_to_date(day: int) -> str:
    """Return a UTC day number as an ISO date."""
    return datetime.fromtimestamp(day * SECONDS_PER_DAY, UTC).strftime("%Y-%m-%d")
