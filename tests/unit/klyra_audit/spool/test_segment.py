"""Segment files: what was promised is read back, what was torn was never promised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klyra_audit.spool import segment
from klyra_audit.spool.segment import Damage, SpooledEvent
from support.spooling import IDENTITY, prepared

HEADER = segment.encode_header(IDENTITY)
EVENTS = [SpooledEvent(number, prepared()) for number in range(3)]
FRAMES = [segment.encode_frame(spooled) for spooled in EVENTS]
WHOLE = HEADER + b"".join(FRAMES)


def read(encoded: bytes) -> list[SpooledEvent | Damage]:
    """Return what stands behind the header."""
    return [found for found, _ in segment.read_frames(encoded, len(HEADER))]


def test_events_are_read_as_they_were_written() -> None:
    """Identity, order, sequence and every member survive."""
    assert segment.read_header(WHOLE) == (IDENTITY, len(HEADER))
    assert read(WHOLE) == EVENTS


def test_a_segment_torn_anywhere_yields_its_whole_events() -> None:
    """At each length exactly the frames that are whole are read, and nothing is called damage."""
    ends = [len(HEADER) + sum(map(len, FRAMES[: count + 1])) for count in range(3)]
    for length in range(len(HEADER), len(WHOLE) + 1):
        assert read(WHOLE[:length]) == EVENTS[: sum(end <= length for end in ends)]


def test_a_header_torn_anywhere_is_none() -> None:
    """A file of which not even the header is whole was promised to nobody."""
    assert all(segment.read_header(HEADER[:length]) is None for length in range(len(HEADER)))


@pytest.mark.parametrize(
    "header", [b"", b"KLSPOOL2" + HEADER[8:], HEADER[:8] + segment.encode_header(IDENTITY)[8:-1] + b"x"]
)
def test_another_file_is_no_segment(header: bytes) -> None:
    """Other magic, or a header whose checksum is wrong."""
    assert segment.read_header(header) is None


@given(place=st.integers(0, len(FRAMES[1]) - 1), flip=st.integers(1, 255))
def test_damage_in_the_middle_is_reported_and_costs_one_event(place: int, flip: int) -> None:
    """Wherever a byte of a frame is changed, its neighbours are read and the place is named."""
    changed = bytearray(WHOLE)
    begin = len(HEADER) + len(FRAMES[0])
    changed[begin + place] ^= flip
    assert read(bytes(changed)) == [EVENTS[0], Damage(begin, begin + len(FRAMES[1])), EVENTS[2]]


@given(st.binary(max_size=2000))
def test_any_bytes_are_read_without_an_error(garbage: bytes) -> None:
    """What stands behind a header can be anything."""
    assert all(isinstance(found, SpooledEvent | Damage) for found in read(HEADER + garbage))


@pytest.mark.parametrize("name", ["lock", "delivered", "x.segment", "-1.segment", ".segment"])
def test_other_names_are_no_segments(name: str) -> None:
    """Only numbered files are read."""
    assert segment.first_sequence(name) is None
    assert segment.first_sequence(segment.file_name(4096)) == 4096
