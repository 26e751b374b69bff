"""Walking over frames, across damage, from any place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klyra_audit.format import frame, sections
from klyra_audit.format.frame import BlobFrame, BodyFrame
from klyra_audit.format.sections import Sections
from klyra_collector.verify import walk
from klyra_collector.verify.walk import BlobWalker, BodyWalker, Damage
from support.ledgers import salts_of


class Bytes:
    """A source in memory."""

    def __init__(self, content: bytes) -> None:
        self.size = len(content)
        self._content = content

    def read(self, offset: int, length: int) -> bytes:
        """See `Source`."""
        return self._content[offset : offset + length]

    def data_from(self, offset: int) -> int:
        """See `Source`."""
        return min(offset, self.size)


def body(index: int, size: int = 50) -> bytes:
    """Return a body frame."""
    parts = Sections(b'{"a":"' + b"x" * size + b'"}')
    salts = salts_of(index)
    return frame.encode_body(BodyFrame(index, parts, salts, sections.commitments(parts, salts)))


def blob(index: int, payload: bytes = b"payload") -> bytes:
    """Return a record frame."""
    return frame.encode_blob(BlobFrame(index, payload))


def seen(walker, start: int = 0, stop: int = 1 << 62) -> list[tuple[int, int, object]]:
    """Return (offset, end, index or Damage) of everything walked over."""
    found = walker.walk(start, stop)
    return [(offset, end, item if isinstance(item, Damage) else item.index) for offset, end, item in found]


def test_whole_frames_follow_each_other() -> None:
    """Each with where it begins and ends."""
    frames = [body(1), body(5), body(9)]
    walked = seen(BodyWalker(Bytes(b"".join(frames))))
    assert [index for _, _, index in walked] == [1, 5, 9]
    assert [end - offset for offset, end, _ in walked] == list(map(len, frames))


def test_a_frame_longer_than_a_window_is_read_whole(monkeypatch) -> None:
    """The window grows for it."""
    monkeypatch.setattr(walk, "WINDOW_BYTES", 300)
    content = body(1) + body(2, 5000) + body(3)
    assert [index for _, _, index in seen(BodyWalker(Bytes(content)))] == [1, 2, 3]


@pytest.mark.parametrize("window", [10, 160, 1 << 20])
def test_a_damaged_header_costs_one_frame(monkeypatch, window) -> None:
    """The next whole one is found wherever the windows end."""
    monkeypatch.setattr(walk, "WINDOW_BYTES", window)
    first, second = body(1), bytearray(body(2))
    second[20] ^= 1
    walked = seen(BodyWalker(Bytes(first + second + body(3))))
    assert [item if isinstance(item, int) else type(item) for _, _, item in walked] == [1, Damage, 3]
    assert walked[1][:2] == (len(first), len(first) + len(second))
    assert not walked[1][2].torn


def test_a_damaged_record_ends_where_it_says() -> None:
    """Even if its content looks like frames itself."""
    hidden = blob(7)
    outer = bytearray(blob(1, b"quarantined " + hidden))
    outer[-1 - len(hidden)] ^= 1
    walked = seen(BlobWalker(Bytes(bytes(outer) + blob(2))))
    assert [item if isinstance(item, int) else type(item) for _, _, item in walked] == [Damage, 2]


@pytest.mark.parametrize(("encode", "walker"), [(body, BodyWalker), (blob, BlobWalker)])
def test_a_cut_frame_is_torn(encode, walker) -> None:
    """Wherever it is cut."""
    whole = encode(1)
    for length in range(1, len(encode(2))):
        walked = seen(walker(Bytes(whole + encode(2)[:length])))
        assert walked[0][2] == 1
        assert walked[1][2].torn


def test_a_frame_beyond_any_size_is_passed_over(monkeypatch) -> None:
    """Its header says where it ends."""
    monkeypatch.setattr(BodyWalker, "max_bytes", 1000)
    monkeypatch.setattr(walk, "WINDOW_BYTES", 300)
    walked = seen(BodyWalker(Bytes(body(1) + body(2, 5000) + body(3))))
    assert [item if isinstance(item, int) else type(item) for _, _, item in walked] == [1, Damage, 3]


def test_looking_for_frames_ends(monkeypatch) -> None:
    """What promises frames again and again, and has none, is given up."""
    monkeypatch.setattr(walk, "PROBE_BYTES", 10_000)
    walked = seen(BlobWalker(Bytes(blob(1)[:16] * 5000 + blob(2))))
    assert [type(item) for _, _, item in walked] == [Damage]


def test_the_first_frame_of_a_part() -> None:
    """At or behind its beginning; none if the next begins behind its end."""
    content = body(1) + body(2) + body(3)
    walker = BodyWalker(Bytes(content))
    size = len(body(1))
    assert walker.first_frame(0, 10) == 0
    assert walker.first_frame(1, 2 * size) == size
    assert walker.first_frame(size, 2 * size) == size
    assert walker.first_frame(size + 1, 2 * size) is None


@given(st.binary(max_size=600), st.sampled_from([BodyWalker, BlobWalker]), st.booleans())
def test_any_bytes_are_walked_over(content, walker, with_frames) -> None:
    """Everything is accounted for, without a gap, and the walk ends."""
    encode = body if walker is BodyWalker else blob
    whole = encode(1) + content + encode(2) if with_frames else content
    walked = seen(walker(Bytes(whole)))
    assert [offset for offset, _, _ in walked] == [0, *(end for _, end, _ in walked)][: len(walked)]
    assert (walked[-1][1] if walked else 0) == len(whole)
    if with_frames:
        assert walked[0][2] == 1
