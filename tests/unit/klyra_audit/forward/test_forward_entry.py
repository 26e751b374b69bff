"""Decoding one entry: its time, its record, and everything JSON cannot hold."""

from __future__ import annotations

import math

import msgpack
import pytest

from klyra_audit.errors import InvalidEvent
from klyra_audit.forward.encoding import event_time
from klyra_audit.forward.entry import MAX_ENTRY_BYTES, decode_entry, plain
from support.forward import NANOSECONDS, TIME

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("time", "nanoseconds"),
    [
        (TIME, NANOSECONDS),
        (1_781_000_000, 1_781_000_000 * SECOND),
        (1_781_000_000.5, 1_781_000_000 * SECOND + SECOND // 2),
        (0, 0),
        (None, 0),
        (msgpack.Timestamp(1_781_000_000, 7), 1_781_000_000 * SECOND + 7),
        ([TIME, {}], NANOSECONDS),
    ],
    ids=["EventTime", "integer", "float", "zero", "nil", "msgpack's own", "Fluent Bit"],
)
def test_times_are_nanoseconds(time, nanoseconds) -> None:
    """Every form of time that senders use is understood."""
    assert decode_entry(msgpack.packb([time, {}])).time_unix_nano == nanoseconds


def test_event_time_as_ext8_is_understood() -> None:
    """Some senders write the eight bytes of a time with their length in front."""
    fixext8 = msgpack.packb(TIME)
    raw = b"\x92\xc7\x08\x00" + fixext8[2:] + b"\x80"
    assert decode_entry(raw).time_unix_nano == NANOSECONDS


def test_metadata_stands_beside_the_record() -> None:
    """Fluent Bit's form keeps metadata apart from the record."""
    decoded = decode_entry(msgpack.packb([[TIME, {"m": 1}], {"r": 2}]))
    assert (decoded.metadata, decoded.record) == ({"m": 1}, {"r": 2})


def test_times_in_a_record_are_written_out() -> None:
    """A time among a record's values becomes RFC 3339; bytes stay bytes."""
    decoded = decode_entry(msgpack.packb([0, {"at": [TIME], "raw": b"\xff", "deep": {"at": TIME}}]))
    written = "2026-06-09T10:13:20.123456789Z"
    assert plain(decoded.record) == {"at": [written], "raw": b"\xff", "deep": {"at": written}}


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (msgpack.packb(None), "malformed_entry"),
        (msgpack.packb([]), "malformed_entry"),
        (msgpack.packb([1]), "malformed_entry"),
        (msgpack.packb([1, "text"]), "malformed_entry"),
        (msgpack.packb([1, [{}]]), "malformed_entry"),
        (msgpack.packb(["yesterday", {}]), "malformed_entry"),
        (msgpack.packb([True, {}]), "malformed_entry"),
        (msgpack.packb([-1, {}]), "malformed_entry"),
        (msgpack.packb([253_402_300_800, {}]), "malformed_entry"),
        (msgpack.packb([math.nan, {}]), "malformed_entry"),
        (msgpack.packb([math.inf, {}]), "malformed_entry"),
        (msgpack.packb([1e300, {}]), "malformed_entry"),
        (msgpack.packb([[1], {}]), "malformed_entry"),
        (msgpack.packb([[1, "m"], {}]), "malformed_entry"),
        (msgpack.packb([[[1, {}], {}], {}]), "malformed_entry"),
        (msgpack.packb([msgpack.ExtType(0, b"\x00" * 4), {}]), "malformed_entry"),
        (msgpack.packb([msgpack.ExtType(0, b"\xff" * 8), {}]), "malformed_entry"),
        (msgpack.packb([msgpack.ExtType(9, b"\x00" * 8), {}]), "malformed_entry"),
        (b"\x92\x01\x81\xa1a\xc7\x05\xff12345", "malformed_entry"),
        (msgpack.packb([1, {"a": math.nan}]), "malformed_entry"),
        (msgpack.packb([1, {"a": [[math.inf]]}]), "malformed_entry"),
        (msgpack.packb([1, {1: 2}]), "malformed_entry"),
        (msgpack.packb([1, {b"bin": 2}]), "malformed_entry"),
        (msgpack.packb([1, {"a": {None: 2}}]), "malformed_entry"),
        (b"\x92\x01\x81\x90\x01", "malformed_entry"),
        (b"\x92\x01\x81\x80\x01", "malformed_entry"),
        (b"\x92\x01\x81\xa1a\xa2\xff\xfe", "malformed_entry"),
        (b"\x92\x01\x81\xa2\xff\xfe\x01", "malformed_entry"),
        (b"\x92\x01\x81\xa1a\xa3\xed\xa0\x80", "malformed_entry"),
        (b"\x92\x01\x82\xa1a\x01\xa1a\x02", "duplicate_attribute"),
        (b"\x92\x01\x81\xa1n\x82\xa1a\x01\xa1a\x01", "duplicate_attribute"),
        (b"\x92\x01\x81\xa1a" + b"\x91" * 5000 + b"\xc0", "malformed_entry"),
        (msgpack.packb([1, {"a": "x" * MAX_ENTRY_BYTES}]), "malformed_entry"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_json_cannot_hold_is_the_entrys_own_fault(raw, code) -> None:
    """Each is an invalid event with a code and a reason, and nothing worse."""
    with pytest.raises(InvalidEvent) as caught:
        decode_entry(raw)
    assert caught.value.code == code
    assert caught.value.reason


def test_event_time_holds_nanoseconds() -> None:
    """A time that was written is read the same."""
    assert decode_entry(msgpack.packb([event_time(SECOND + 1), {}])).time_unix_nano == SECOND + 1
