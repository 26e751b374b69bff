"""One entry of a Forward message: its time and its record, as JSON could hold them.

What no JSON document can hold (bytes that are no UTF-8, a key twice, NaN) is the entry's own fault, not its
message's: it raises `InvalidEvent`, and the entries beside it are read all the same.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any, Final, NamedTuple

from klyra_audit import timestamps
from klyra_audit.errors import InvalidEvent
from klyra_audit.forward import library

MAX_ENTRY_BYTES: Final = 1024 * 1024  # an event has 32 KiB; decoding takes many times an entry's bytes
EVENT_TIME: Final = 0  # type of the extension that holds seconds and nanoseconds
NANOSECONDS: Final = 1_000_000_000

_EVENT_TIME_BYTES: Final = 8
_PAIR: Final = 2
_END_OF_TIME: Final = 253_402_300_800  # the year 10000, which RFC 3339 cannot write


class Entry(NamedTuple):
    """An entry, decoded.

    Attributes:
        time_unix_nano: 0 if the sender left it to the receiver.
        record: its members; keys are strings.
        metadata: what Fluent Bit (2.1 and later) keeps beside the record.
    """

    time_unix_nano: int
    record: dict[str, Any]
    metadata: dict[str, Any]


def decode_entry(raw: bytes) -> Entry:
    """Return an entry, `[time, record]` or `[[time, metadata], record]`.

    Raises:
        InvalidEvent: it is no such thing, or holds what JSON cannot.
    """
    value = _decode(raw)
    if not isinstance(value, list) or len(value) < _PAIR or not isinstance(value[1], dict):
        raise _malformed("the entry is not a time and a record")
    time, record = value[0], value[1]
    metadata: dict[str, Any] = {}
    if isinstance(time, list):
        if len(time) != _PAIR or not isinstance(time[1], dict):
            raise _malformed("the entry's time and metadata are not a pair")
        time, metadata = time
    return Entry(_nanoseconds(time), record, metadata)


def _decode(raw: bytes) -> Any:  # noqa: ANN401 - a stranger's value
    if len(raw) > MAX_ENTRY_BYTES:
        raise _malformed(f"the entry is larger than {MAX_ENTRY_BYTES} bytes")
    msgpack = library.msgpack()
    try:
        return msgpack.unpackb(
            raw,
            object_pairs_hook=_members,
            list_hook=_finite_items,
            ext_hook=_extension,
            strict_map_key=False,
        )
    except UnicodeDecodeError as error:
        raise _malformed("the entry has a string that is no UTF-8") from error
    except (ValueError, RecursionError) as error:  # what the library raises: broken off, nested too deep
        raise _malformed("the entry cannot be read") from error


def _members(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        if not isinstance(key, str):
            raise _malformed("a map of the entry has a key that is no string")
        if key in members:
            raise _malformed("a map of the entry has the same key twice", code="duplicate_attribute")
        _check_finite(value)
        members[key] = value
    return members


def _finite_items(items: list[Any]) -> list[Any]:
    for item in items:
        _check_finite(item)
    return items


def _check_finite(value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise _malformed("the entry has a number that is not finite")


def _extension(kind: int, content: bytes) -> Any:  # noqa: ANN401 - the library's own type of times
    if kind != EVENT_TIME or len(content) != _EVENT_TIME_BYTES:
        raise _malformed("the entry has an extension that is no time")
    return library.msgpack().Timestamp(int.from_bytes(content[:4], "big"), _nanosecond(content[4:]))


def _nanosecond(digits: bytes) -> int:
    nanosecond = int.from_bytes(digits, "big")
    if nanosecond >= NANOSECONDS:
        raise _malformed("the entry has a time of more nanoseconds than a second")
    return nanosecond


def _nanoseconds(time: object) -> int:
    """Return nanoseconds since 1970; nil and 0 are 0, as fluentd takes them."""
    if time is None:
        return 0
    if isinstance(time, bool) or not isinstance(time, int | float | library.msgpack().Timestamp):
        raise _malformed("the entry's time is none")
    if isinstance(time, int | float):
        return _from_number(_in_range(time))
    return int(_in_range(time.seconds)) * NANOSECONDS + int(time.nanoseconds)


def _in_range(seconds: float) -> float:
    if not 0 <= seconds < _END_OF_TIME:  # NaN is not, either
        raise _malformed("the entry's time is not between the years 1970 and 9999")
    return seconds


def _from_number(time: float) -> int:
    """Return nanoseconds; of a float those of its shortest decimal form, which is what its sender meant."""
    return time * NANOSECONDS if isinstance(time, int) else int(Decimal(repr(time)) * NANOSECONDS)


def plain(value: Any) -> Any:  # noqa: ANN401 - a stranger's value
    """Return a value with the times in it written out (RFC 3339): what JSON can hold, and bytes."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, library.msgpack().Timestamp):
        return timestamps.from_nanoseconds(_nanoseconds(value))
    return value


def _malformed(reason: str, code: str = "malformed_entry") -> InvalidEvent:
    return InvalidEvent(reason, code=code)
