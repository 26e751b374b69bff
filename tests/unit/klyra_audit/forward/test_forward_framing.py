"""Cutting a stream of msgpack values into messages."""

from __future__ import annotations

import contextlib

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klyra_audit.forward.errors import MessageTooLarge, NotForward
from klyra_audit.forward.framing import Framer, Measure, end_of_value

EVERY_FORMAT = [
    None,
    True,
    0,
    127,
    -1,
    200,
    60_000,
    4_000_000_000,
    2**63,
    -100,
    -30_000,
    -2_000_000_000,
    -(2**62),
    1.5,
    "",
    "a" * 31,
    "a" * 32,
    "a" * 300,
    "a" * 70_000,
    b"",
    b"b" * 300,
    b"b" * 70_000,
    [],
    list(range(15)),
    list(range(20)),
    list(range(70_000)),
    {},
    {"a": 1},
    {str(number): number for number in range(20)},
    {str(number): number for number in range(70_000)},
    *(msgpack.ExtType(5, b"x" * length) for length in (0, 1, 2, 3, 4, 8, 16, 17, 300, 70_000)),
]


@pytest.mark.parametrize("value", EVERY_FORMAT, ids=lambda value: f"{type(value).__name__} {str(value)[:12]}")
def test_every_format_ends_where_it_ends(value) -> None:
    """The end of a value of any msgpack format is found, with other values before and behind it."""
    encoded = msgpack.packb(value)
    assert end_of_value(b"\xc0" + encoded + b"\xc0", 1) == 1 + len(encoded)
    assert end_of_value(encoded[:-1], 0) is None


def test_float_32_ends_where_it_ends() -> None:
    """A single-precision number is five bytes."""
    encoded = msgpack.packb(1.5, use_single_float=True)
    assert end_of_value(encoded, 0) == len(encoded) == 5


def test_nesting_is_no_matter() -> None:
    """A value nested a hundred thousand times over is followed to its end like any other."""
    encoded = b"\x91" * 100_000 + b"\xc0"
    assert end_of_value(encoded, 0) == len(encoded)


@pytest.mark.parametrize("announced", [b"\xc6\x00\x00\x10\x00", b"\xdd\x00\x00\x10\x00", b"\xdf\x00\x00\x10\x00"])
def test_what_is_announced_too_large_is_refused_before_it_comes(announced) -> None:
    """A header that announces more than the limit is enough to refuse the message."""
    framer = Framer(1000)
    framer.feed(announced)
    with pytest.raises(MessageTooLarge) as caught:
        list(framer.messages())
    assert caught.value.code == "message_too_large"
    assert caught.value.remedy


def test_many_small_values_are_refused_at_the_limit() -> None:
    """Containers that each announce little cannot announce more than the limit together."""
    framer = Framer(1000)
    framer.feed(b"\x9f" * 100)
    with pytest.raises(MessageTooLarge):
        list(framer.messages())


def test_a_message_of_exactly_the_limit_passes() -> None:
    """The limit itself is allowed, one byte more is not."""
    encoded = msgpack.packb(b"x" * 100)
    framer = Framer(len(encoded))
    framer.feed(encoded * 2)
    assert list(framer.messages()) == [encoded] * 2
    with pytest.raises(MessageTooLarge):
        Measure(len(encoded) - 1).follow(encoded)


def test_a_byte_that_begins_no_value_ends_the_stream() -> None:
    """What is no msgpack is refused, after the whole messages before it."""
    framer = Framer()
    framer.feed(b"\x01\x02\xc1")
    cut = framer.messages()
    assert [next(cut), next(cut)] == [b"\x01", b"\x02"]
    with pytest.raises(NotForward) as caught:
        next(cut)
    assert caught.value.code == "not_forward"
    assert caught.value.remedy


def test_messages_yielded_are_forgotten_when_the_caller_stops() -> None:
    """A caller that takes one message and stops finds the next one later."""
    framer = Framer()
    framer.feed(b"\x01\x02\x03")
    assert next(framer.messages()) == b"\x01"
    assert framer.held == 2
    assert list(framer.messages()) == [b"\x02", b"\x03"]
    assert framer.held == 0


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.lists(VALUES, max_size=4), st.data())
def test_any_values_in_any_pieces_come_out_whole(values, data) -> None:
    """However a stream is cut on its way, the same messages come out."""
    encoded = [msgpack.packb(value) for value in values]
    stream = b"".join(encoded)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    framer = Framer(10**6)
    found: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        framer.feed(stream[start:end])
        found += framer.messages()
    assert found == encoded
    assert framer.held == 0


@given(st.binary(max_size=300))
def test_any_bytes_end_in_messages_or_a_typed_error(stream) -> None:
    """Whatever comes, nothing but the codec's own errors is raised, and no byte is lost or made up."""
    framer = Framer(200)
    framer.feed(stream)
    found: list[bytes] = []
    with contextlib.suppress(NotForward, MessageTooLarge):
        found.extend(framer.messages())
    assert stream.startswith(b"".join(found))
    assert len(b"".join(found)) + framer.held == len(stream)
