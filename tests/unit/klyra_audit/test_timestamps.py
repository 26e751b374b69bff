"""RFC 3339 timestamps of the event profile."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klyra_audit import timestamps

FIRST = timestamps.to_nanoseconds("1000-01-01T00:00:00Z")
LAST = timestamps.to_nanoseconds("9999-12-31T23:59:59.999999999Z")
NANOSECONDS = st.integers(FIRST, LAST)
MICROSECONDS = st.integers(0, LAST // 1000)


@given(NANOSECONDS)
def test_nanoseconds_read_back(moment) -> None:
    """Also before 1970."""
    assert timestamps.to_nanoseconds(timestamps.from_nanoseconds(moment)) == moment


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (1_000, "1970-01-01T00:00:00.000001Z"),
        (120_000_000, "1970-01-01T00:00:00.120Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (1_686_839_445_000_000_000, "2023-06-15T14:30:45Z"),
    ],
)
def test_the_shortest_notation_that_loses_nothing_is_chosen(nanoseconds, text) -> None:
    """Seconds, milliseconds, microseconds or nanoseconds."""
    assert timestamps.from_nanoseconds(nanoseconds) == text
    assert timestamps.to_nanoseconds(text) == nanoseconds


@given(st.datetimes(dt.datetime(1000, 1, 1)), st.integers(0, 9))  # noqa: DTZ001 - hypothesis wants naive bounds
def test_any_number_of_digits_is_read(moment, digits) -> None:
    """0 to 9 of them, as the standard library reads the first six."""
    fraction = f"{moment.microsecond:06d}000"[:digits]
    text = moment.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0") + (f".{fraction}" if digits else "") + "Z"
    whole = int(moment.replace(microsecond=0, tzinfo=dt.UTC).timestamp())
    assert timestamps.to_nanoseconds(text) == whole * 10**9 + int(fraction.ljust(9, "0"))


@given(MICROSECONDS)
def test_microseconds_are_written_in_milliseconds(microseconds) -> None:
    """The precision we produce, never rounded up into the future."""
    text = timestamps.from_microseconds(microseconds)
    assert len(text) == len("2026-06-15T14:30:45.123Z")
    assert timestamps.to_nanoseconds(text) == microseconds // 1000 * 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-06-15",
        "2026-06-15t14:30:45Z",
        "2026-06-15T14:30:45z",
        "2026-06-15T14:30:45",
        "2026-06-15T14:30:45+00:00",
        "2026-06-15T14:30:45.Z",
        "2026-06-15T14:30:45.1234567890Z",
        "2026-06-15T14:30:45Z\n",
        "2026-02-29T14:30:45Z",
        "2026-06-15T14:30:60Z",
        "0000-01-01T00:00:00Z",
        "٢٠٢٦-06-15T14:30:45Z",
    ],
)
def test_anything_else_is_a_value_error(text) -> None:
    """Also a day that does not exist and a leap second."""
    with pytest.raises(ValueError, match=r".+"):
        timestamps.to_nanoseconds(text)


@given(MICROSECONDS)
def test_days_are_utc_days(microseconds) -> None:
    """As the calendar says."""
    day = timestamps.day_of(microseconds)
    assert timestamps.day_to_date(day) == timestamps.from_microseconds(microseconds)[:10]
