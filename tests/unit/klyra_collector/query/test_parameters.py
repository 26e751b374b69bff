"""Times as callers write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klyra_audit import timestamps
from klyra_collector.query.parameters import parse_moment


@pytest.mark.parametrize(
    ("text", "utc", "covers"),
    [
        ("2026-03-10T11:00:00Z", "2026-03-10T11:00:00Z", 10**9),
        ("2026-03-10t11:00:00z", "2026-03-10T11:00:00Z", 10**9),
        ("2026-03-10T11:00:00.5Z", "2026-03-10T11:00:00.5Z", 10**8),
        ("2026-03-10T11:00:00.000Z", "2026-03-10T11:00:00.000Z", 10**6),
        ("2026-03-10T11:00:00.000001Z", "2026-03-10T11:00:00.000001Z", 10**3),
        ("2026-03-10T11:00:00.000000001Z", "2026-03-10T11:00:00.000000001Z", 1),
        ("2026-03-10T13:30:00.25+02:30", "2026-03-10T11:00:00.25Z", 10**7),
        ("1969-12-31T23:59:59.999Z", "1969-12-31T23:59:59.999Z", 10**6),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z", 10**9),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z", 10**9),
    ],
)
def test_a_time_covers_its_written_precision(text: str, utc: str, covers: int) -> None:
    """A moment starts at its first nanosecond and ends with the unit it was written in, in UTC."""
    moment = parse_moment(text)
    assert moment.start_ns == timestamps.to_nanoseconds(utc)
    assert moment.end_ns - moment.start_ns == covers
    assert moment.text == utc


@given(
    st.integers(timestamps.to_nanoseconds("0001-01-01T00:00:00Z"), timestamps.to_nanoseconds("9999-12-31T23:59:59Z"))
)
def test_any_nanosecond_is_read_exactly(nanoseconds: int) -> None:
    """No rounding at any distance from today."""
    text = timestamps.from_nanoseconds(nanoseconds)
    year = text.partition("-")[0].rjust(4, "0")
    moment = parse_moment(year + text[text.index("-") :])
    assert moment.start_ns == nanoseconds


@pytest.mark.parametrize(
    "value",
    ["", "now", "2026-03-10", "2026-03-10T11:00Z", "2026-03-10 11:00:00Z", "2026-03-10T11:00:00", "١٢", 5, None, []],
)
def test_what_is_no_time_is_refused(value: object) -> None:
    """RFC 3339 and nothing else."""
    with pytest.raises(ValueError, match="is not an RFC 3339 time"):
        parse_moment(value)


@pytest.mark.parametrize("value", ["2026-02-30T11:00:00Z", "2026-03-10T11:00:60Z", "9999-12-31T23:59:59-01:00"])
def test_a_time_that_does_not_exist_is_refused(value: str) -> None:
    """The form alone makes no time."""
    with pytest.raises(ValueError, match="is not a time that exists"):
        parse_moment(value)
