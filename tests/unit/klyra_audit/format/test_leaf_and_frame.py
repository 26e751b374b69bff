"""Leaves and the frames of the flat files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klyra_audit.format import frame, sections
from klyra_audit.format.errors import FrameError, LeafError, UnknownLeafError
from klyra_audit.format.frame import BlobFrame, BodyFrame
from klyra_audit.format.leaf import LEAF_SIZE, Flag, Kind, Leaf
from klyra_audit.format.sections import Salts, Sections

LEAF = Leaf(Kind.EVENT, Flag.HAS_ACTOR, 20_000, bytes(16), 1, 2, 3, 4, bytes(32), bytes(range(32)))


def body(index: int, attachment: bytes = b"") -> BodyFrame:
    """Return a body with an actor section."""
    parts = Sections(b'{"a":1}', b'{"/actor/id":"x"}', None)
    salts = Salts.unpack(bytes(range(32)) + bytes(16))
    return BodyFrame(index, parts, salts, sections.commitments(parts, salts), attachment)


class TestLeaf:
    """112 bytes."""

    def test_round_trip(self) -> None:
        """A leaf unpacks to what was packed."""
        assert len(LEAF.pack()) == LEAF_SIZE
        assert Leaf.unpack(LEAF.pack()) == LEAF

    @pytest.mark.parametrize(("position", "value"), [(0, 2), (0, 0), (1, 14), (1, 255)])
    def test_an_unknown_version_or_kind_is_told_apart(self, position, value) -> None:
        """What a later version wrote is unverifiable, not broken."""
        encoded = bytearray(LEAF.pack())
        encoded[position] = value
        with pytest.raises(UnknownLeafError):
            Leaf.unpack(bytes(encoded))

    def test_reserved_flags_are_zero(self) -> None:
        """A set reserved flag is refused."""
        with pytest.raises(LeafError, match="reserved"):
            Leaf.unpack(LEAF._replace(flags=16).pack())

    @pytest.mark.parametrize("length", [0, 111, 113])
    def test_length_is_fixed(self, length) -> None:
        """Other lengths are refused."""
        with pytest.raises(LeafError, match="112"):
            Leaf.unpack(bytes(length))


class TestBodyFrames:
    """Bodies in a flat file."""

    def test_round_trip(self) -> None:
        """Frames read back in order with their offsets."""
        frames = [body(3), body(5, b"evidence")]
        buffer = b"".join(map(frame.encode_body, frames))
        read = list(frame.read_body_frames(buffer))
        assert [item for _, _, item in read] == frames
        assert read[-1][1] == len(buffer)

    @given(st.integers(0, frame.BODY_HEADER_SIZE * 8 - 1))
    def test_every_flipped_bit_of_a_header_is_noticed(self, bit) -> None:
        """The header is under a checksum."""
        buffer = bytearray(frame.encode_body(body(3)))
        buffer[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError, match="damaged"):
            frame.read_body(buffer, 0)

    def test_a_damaged_attachment_is_noticed(self) -> None:
        """The attachment has its own checksum."""
        buffer = bytearray(frame.encode_body(body(3, b"evidence")))
        buffer[-1] ^= 1
        with pytest.raises(FrameError, match="attachment"):
            frame.read_body(buffer, 0)

    def test_a_torn_tail_says_where_it_begins(self) -> None:
        """Every cut of the last frame is torn at its first byte."""
        first, second = frame.encode_body(body(3)), frame.encode_body(body(4))
        for cut in range(1, len(second)):
            with pytest.raises(FrameError, match="torn") as caught:
                list(frame.read_body_frames(first + second[:cut]))
            assert (caught.value.offset, caught.value.torn) == (len(first), True)

    def test_an_impossible_length_is_damage(self) -> None:
        """A header that claims gigabytes is refused without reading on."""
        encoded = frame._BODY.pack(frame.BODY_MAGIC, 1, 2**31, 0, 0, 0, bytes(32), bytes(32), bytes(32), 0)
        checksum = frame._CHECKSUM.pack(frame.zlib.crc32(encoded))
        with pytest.raises(FrameError, match="impossible"):
            frame.read_body(encoded + checksum, 0)

    def test_an_absent_section_is_none_and_an_erased_one_is_not(self) -> None:
        """Zeros in place of a section are present bytes, so that erasure is told from absence."""
        erased = BodyFrame(1, Sections(b"{}", bytes(9)), Salts.unpack(bytes(48)), body(1).commitments)
        read = frame.read_body(frame.encode_body(erased), 0)[1]
        assert (read.sections.actor, read.sections.target) == (bytes(9), None)


class TestBlobFrames:
    """Control documents and quarantined bytes."""

    def test_round_trip(self) -> None:
        """Frames read back in order."""
        frames = [BlobFrame(0, b"{}"), BlobFrame(9, b"")]
        buffer = b"".join(map(frame.encode_blob, frames))
        assert [item for _, _, item in frame.read_blob_frames(buffer)] == frames

    @given(st.data())
    def test_every_flipped_bit_is_noticed(self, data) -> None:
        """The checksum covers header and payload."""
        buffer = bytearray(frame.encode_blob(BlobFrame(7, b'{"type":"start"}')))
        bit = data.draw(st.integers(0, len(buffer) * 8 - 1))
        buffer[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError):
            frame.read_blob(bytes(buffer), 0)

    def test_a_torn_tail_is_noticed(self) -> None:
        """Every cut is torn."""
        encoded = frame.encode_blob(BlobFrame(7, b"payload"))
        for cut in range(1, len(encoded)):
            with pytest.raises(FrameError, match="torn"):
                frame.read_blob(encoded[:cut], 0)
