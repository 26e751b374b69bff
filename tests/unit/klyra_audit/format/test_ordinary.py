"""What is read as an ordinary body is exactly what was committed to; everything else is left to others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klyra_audit.format import sections
from klyra_audit.format.canonical import MAX_BYTES
from klyra_audit.format.frame import BodyFrame, encode_body, read_body
from klyra_audit.format.ordinary import OrdinaryBody, read_ordinary
from klyra_audit.format.sections import Salts, Sections

ZEROS = bytes(16)


def body(parts: Sections, attachment: bytes = b"") -> BodyFrame:
    """Return the frame of sections with fresh salts."""
    salts = Salts.draw()
    return BodyFrame(7, parts, salts, sections.commitments(parts, salts), attachment)


BOTH = Sections(b'{"a":1}', b'{"/actor/id":"u"}', b'{"/resource/id":"r"}')
PRESENCE = [BOTH, replace(BOTH, actor=None), replace(BOTH, target=None), Sections(b"{}")]


@pytest.mark.parametrize("parts", PRESENCE)
@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
def test_an_ordinary_body_is_read_like_any_other(parts: Sections, buffer) -> None:
    """Index, end, sections, salts and what its leaf must hold are those of the general reader."""
    encoded = b"before" + encode_body(body(parts)) + b"behind"
    end, general = read_body(encoded, 6)
    found = read_ordinary(buffer(encoded), 6)
    assert found is not None
    assert (found.leaf_index, found.end, found.commit) == (7, end, general.commitments.event_commit())
    for name in ("core", "actor", "target"):
        encoded_section = getattr(general.sections, name)
        salted = None if encoded_section is None else getattr(general.salts, name) + encoded_section
        assert getattr(found, name) == salted


@pytest.mark.parametrize(
    "frame",
    [
        body(BOTH, b"evidence"),
        replace(body(BOTH), sections=replace(BOTH, actor=bytes(len(BOTH.actor or b"")))),
        replace(body(BOTH), salts=Salts(ZEROS, ZEROS, ZEROS)),
        replace(body(BOTH), commitments=sections.Commitments(sections.ABSENT, sections.ABSENT, sections.ABSENT)),
        body(Sections(b"x" * (MAX_BYTES + 1))),
    ],
    ids=["evidence", "erased section", "other salts", "no core", "too large"],
)
def test_what_is_not_ordinary_is_left_to_others(frame: BodyFrame) -> None:
    """Nothing is said about it."""
    assert read_ordinary(encode_body(frame), 0) is None


@given(st.integers(0), st.integers(1, 255), st.sampled_from(PRESENCE))
def test_no_changed_byte_is_read_as_ordinary(place: int, flip: int, parts: Sections) -> None:
    """Wherever one byte of a frame is changed, nothing is found."""
    encoded = bytearray(encode_body(body(parts)))
    encoded[place % len(encoded)] ^= flip
    assert read_ordinary(bytes(encoded), 0) is None


@pytest.mark.parametrize("parts", PRESENCE)
def test_a_torn_body_is_never_ordinary(parts: Sections) -> None:
    """However much of the end is missing, nothing is found."""
    encoded = encode_body(body(parts))
    assert all(read_ordinary(encoded[:length], 0) is None for length in range(len(encoded)))
    assert isinstance(read_ordinary(encoded, 0), OrdinaryBody)
