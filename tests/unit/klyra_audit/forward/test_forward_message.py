"""Taking Forward messages apart: every mode, every option, and what is broken."""

from __future__ import annotations

import contextlib
import gzip

import msgpack
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from klyra_audit.errors import InvalidEvent
from klyra_audit.forward.entry import decode_entry
from klyra_audit.forward.errors import MessageTooLarge, NotForward
from klyra_audit.forward.framing import Framer
from klyra_audit.forward.message import MAX_CHUNK_ID_BYTES, as_message, decode_message
from support.forward import (
    MODES,
    NANOSECONDS,
    TAG,
    TIME,
    entry,
    forward,
    gzipped,
    message,
    packed,
    packed_forward,
    zstandard_compressed,
)

ENTRIES = [entry(number) for number in range(3)]


def records(decoded) -> list[dict]:
    """Return the records of a message's entries."""
    return [decode_entry(item.raw).record for item in decoded.entries]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
def test_every_mode_gives_the_same_entries(mode) -> None:
    """Tag, times and records are the same however they were put into messages."""
    framer = Framer()
    framer.feed(mode(ENTRIES))
    decoded = [decode_message(raw) for raw in framer.messages()]
    assert {item.tag for item in decoded} == {TAG}
    assert [record for item in decoded for record in records(item)] == [record for _, record in ENTRIES]
    times = {decode_entry(raw.raw).time_unix_nano for item in decoded for raw in item.entries}
    assert times == {NANOSECONDS}


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
def test_every_mode_split_at_every_byte(mode) -> None:
    """A message that arrives in two pieces, cut anywhere, with another behind it, is the same message."""
    whole = mode(ENTRIES[:1], chunk="c\n", size=1)
    reference = decode_message(whole)
    for cut in range(len(whole) + 1):
        framer = Framer()
        framer.feed(whole[:cut])
        found = list(framer.messages())
        framer.feed(whole[cut:] + whole + b"\x93")
        found += framer.messages()
        assert [decode_message(raw) for raw in found] == [reference] * 2
        assert framer.held == 1


@pytest.mark.parametrize(
    "chunk", ["p8n9gmxTQVC8/nh2wlKKeQ==\n", "c", b"\x00\xff\n", "é"], ids=["newline", "short", "bin", "utf8"]
)
def test_the_chunk_is_kept_as_it_came(chunk) -> None:
    """A chunk's name is kept byte for byte, in the kind of string it came in."""
    decoded = decode_message(packed_forward(ENTRIES, chunk=chunk))
    assert decoded.raw_chunk == msgpack.packb(chunk)


def test_a_chunk_that_is_no_utf8_is_kept_as_it_came() -> None:
    """A str of any bytes is a chunk's name."""
    raw = b"\x93\xa1t\x90\x81\xa5chunk\xa2\xff\xfe"
    assert decode_message(raw).raw_chunk == b"\xa2\xff\xfe"


@pytest.mark.parametrize("options", [None, {}, {"chunk": None}, {"other": [1, {}]}, {7: 1, b"\xff": 2}])
def test_without_a_chunk_no_acknowledgement_is_asked_for(options) -> None:
    """Options may be nil, empty or unknown."""
    assert decode_message(msgpack.packb([TAG, ENTRIES, options])).raw_chunk is None


def test_sizes_are_announced() -> None:
    """The option `size` is what the sender counted; what is no integer counts nothing."""
    assert decode_message(forward(ENTRIES, size=3)).announced == 3
    assert decode_message(forward(ENTRIES, size="3")).announced is None


def test_nil_is_a_heartbeat() -> None:
    """A heartbeat is no message."""
    assert decode_message(b"\xc0") is None


@pytest.mark.parametrize(
    "value",
    [
        1,
        "text",
        {},
        [],
        [TAG],
        [TAG, 1],
        [TAG, 1.5, {}, {}, {}],
        [1, [], {}],
        [None, 1, {}],
        [TAG, TIME],
        [TAG, [], {}, {}],
        [TAG, [], "options"],
        [TAG, [], {"chunk": 7}],
        [TAG, [], {"chunk": "x" * (MAX_CHUNK_ID_BYTES + 1)}],
        [TAG, [], {"compressed": 7}],
    ],
    ids=repr,
)
def test_what_is_no_forward_message_is_refused(value) -> None:
    """A value of another shape is not guessed at."""
    with pytest.raises(NotForward) as caught:
        decode_message(msgpack.packb(value))
    assert (caught.value.code, bool(caught.value.remedy)) == ("not_forward", True)


def test_an_option_given_twice_is_refused() -> None:
    """Two chunk names in one message are no name."""
    with pytest.raises(NotForward):
        decode_message(b"\x93\xa1t\x90\x82\xa5chunk\xa1a\xa5chunk\xa1b")


def test_a_tag_that_is_no_utf8_has_no_text() -> None:
    """Such a tag is kept as it came, and its message is still a message."""
    decoded = decode_message(b"\x93\xa2\xff\xfe" + msgpack.packb(TIME) + b"\x80")
    assert (decoded.tag, decoded.raw_tag, len(decoded.entries)) == (None, b"\xa2\xff\xfe", 1)


def test_packed_entries_that_break_off_leave_the_others_whole() -> None:
    """The rest that cannot be told apart is one entry with a fault, and can be kept as a message of its own."""
    content = packed(ENTRIES)
    decoded = decode_message(msgpack.packb([TAG, content[:-5]]))
    assert [item.fault is None for item in decoded.entries] == [True, True, False]
    assert decoded.entries[2].fault.code == "malformed_entry"
    kept = msgpack.unpackb(as_message(decoded.raw_tag, decoded.entries[2]))
    assert kept == [TAG, packed(ENTRIES[2:])[:-5]]


def test_packed_bytes_that_are_no_msgpack_are_one_faulty_entry() -> None:
    """Bytes with no value in them are kept, and lose nothing that stands before them."""
    decoded = decode_message(msgpack.packb([TAG, packed(ENTRIES[:1]) + b"\xc1rest"]))
    assert [item.fault is None for item in decoded.entries] == [True, False]


@pytest.mark.parametrize(
    ("content", "compressed", "code"),
    [
        (b"not gzip", "gzip", "malformed_compression"),
        (gzip.compress(packed(ENTRIES))[:-4], "gzip", "malformed_compression"),
        (gzip.compress(packed(ENTRIES)) + b"rest", "gzip", "malformed_compression"),
        (b"", "gzip", "malformed_compression"),
        (b"not zstd", "zstd", "malformed_compression"),
        (b"", "zstd", "malformed_compression"),
        (b"".join(zstandard.compress(packed([item])) for item in ENTRIES)[:-1], "zstd", "malformed_compression"),
        (b"snappy", "snappy", "unknown_compression"),
        (gzip.compress(b"\xc0" * 10_001), "gzip", "inflates_too_far"),
        (zstandard.compress(b"\xc0" * 10_001), "zstd", "inflates_too_far"),
    ],
)
def test_entries_that_cannot_be_inflated_are_one_faulty_entry(content, compressed, code) -> None:
    """Such a message is kept whole, as it came, under its reason."""
    raw = msgpack.packb([TAG, content, {"compressed": compressed, "chunk": "c"}])
    decoded = decode_message(raw, max_inflated_bytes=10_000)
    assert [item.fault.code for item in decoded.entries] == [code]
    kept = msgpack.unpackb(as_message(decoded.raw_tag, decoded.entries[0]))
    assert kept[:2] == [TAG, content]
    assert kept[2]["compressed"] == compressed


@pytest.mark.parametrize("mode", [gzipped, zstandard_compressed], ids=lambda mode: mode.__name__)
def test_what_inflating_keeps_is_accounted_for_first(mode) -> None:
    """Whoever counts memory is told each piece, and may refuse it."""
    held: list[int] = []
    decode_message(mode(ENTRIES), hold=held.append)
    assert sum(held) == len(packed(ENTRIES))

    def refuse(_: int) -> None:
        raise MessageTooLarge("no more")

    with pytest.raises(MessageTooLarge):
        decode_message(mode(ENTRIES), hold=refuse)


@pytest.mark.parametrize("signal", [1, 2])
def test_metrics_and_traces_are_no_logs(signal) -> None:
    """What Fluent Bit marks as another signal is kept as one faulty entry."""
    decoded = decode_message(packed_forward(ENTRIES, fluent_signal=signal))
    assert [item.fault.code for item in decoded.entries] == ["not_logs"]
    assert decode_message(packed_forward(ENTRIES, fluent_signal=0)).entries[0].fault is None


def test_metadata_in_the_options_belongs_to_the_entry() -> None:
    """Fluent Bit in mode Message puts an entry's metadata into the options."""
    decoded = decode_message(message(ENTRIES[:1], metadata={"k": "v"}))
    assert decode_entry(decoded.entries[0].raw).metadata == {"k": "v"}


def test_an_entry_kept_as_a_message_is_the_same_entry() -> None:
    """What is quarantined can be read again, with its tag."""
    decoded = decode_message(message(ENTRIES[:1]))
    again = decode_message(as_message(decoded.raw_tag, decoded.entries[0]))
    assert (again.tag, again.entries) == (decoded.tag, decoded.entries)


@given(st.binary(max_size=200))
def test_any_message_is_taken_apart_or_refused(raw) -> None:
    """Whatever one msgpack value holds, only the codec's own errors are raised."""
    framer = Framer(10_000)
    framer.feed(raw)
    try:
        for item in framer.messages():
            decoded = decode_message(item, max_inflated_bytes=10_000)
            for part in decoded.entries if decoded else ():
                try_entry(part)
    except (NotForward, MessageTooLarge):
        pass


@given(st.binary(max_size=120), st.sampled_from(["text", "gzip", "zstd"]), st.booleans())
def test_any_packed_bytes_are_entries_or_faults(content, compressed, is_valid) -> None:
    """Whatever stands in a packed message, it stays a message: nothing is raised for it."""
    if is_valid:
        content = {"text": bytes, "gzip": gzip.compress, "zstd": zstandard.compress}[compressed](content)
    decoded = decode_message(msgpack.packb([TAG, content, {"compressed": compressed}]), max_inflated_bytes=10_000)
    for item in decoded.entries:
        try_entry(item)


def try_entry(item) -> None:
    """Decode an entry; only `InvalidEvent` may be raised."""
    if item.fault is None:
        with contextlib.suppress(InvalidEvent):
            decode_entry(item.raw)
