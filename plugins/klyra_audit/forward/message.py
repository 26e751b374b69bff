"""A whole Forward message, taken apart into its tag, its entries and its options.

The modes (fluentd wiki, "Forward Protocol Specification v1"):

    Message                  [tag, time, record, option?]
    Forward                  [tag, [entry, entry, …], option?]
    PackedForward            [tag, bytes of entries one behind the other, option?]
    CompressedPackedForward  the same with option `compressed`

Entries are only told apart here, not decoded: one that is broken harms no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from klyra_audit.errors import InvalidEvent
from klyra_audit.forward import compression, library
from klyra_audit.forward.errors import NotForward
from klyra_audit.forward.framing import end_of_value

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_CHUNK_ID_BYTES: Final = 4096
MAX_ENTRIES: Final = 1_000_000  # of 64 bytes each at least, so that nothing real has more
HEARTBEAT: Final = b"\xc0"  # nil

_ARRAY_OF_1: Final = b"\x91"
_ARRAY_OF_2: Final = b"\x92"
_ARRAY_OF_3: Final = b"\x93"
_LOGS: Final = 0  # Fluent Bit's `fluent_signal`; 1 is metrics, 2 traces
_FEWEST, _MOST = 2, 4


class RawEntry(NamedTuple):
    """An entry as it came.

    Attributes:
        raw: the entry; or what could not be taken apart, if there is a fault.
        fault: None, or why this is no entry.
    """

    raw: bytes
    fault: InvalidEvent | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message, taken apart.

    Attributes:
        tag: None if it is no UTF-8.
        raw_tag: as it came, in msgpack.
        entries: in the message's order.
        content: the entries' bytes, inflated: what tells this chunk from another.
        raw_chunk: the option `chunk` as it came, in msgpack; None if the sender asks for no acknowledgement.
        announced: the option `size`, None if it was not given.
    """

    tag: str | None
    raw_tag: bytes
    entries: tuple[RawEntry, ...]
    content: bytes
    raw_chunk: bytes | None
    announced: int | None


def decode_message(
    raw: bytes,
    *,
    max_inflated_bytes: int = compression.MAX_INFLATED_BYTES,
    hold: Callable[[int], None] = lambda _: None,
) -> Message | None:
    """Return a message, None for a heartbeat.

    Args:
        raw: one whole msgpack value, as `Framer` yields it.
        max_inflated_bytes: how far compressed entries may inflate.
        hold: told how many bytes inflating is about to keep; what it raises is passed on.

    Raises:
        NotForward: it is no Forward message.
    """
    if raw == HEARTBEAT:
        return None
    parts = split_array(raw, _FEWEST, _MOST)
    raw_tag, second = parts[0], parts[1]
    tag = _text(raw_tag)
    if _is_array(second) or _is_bytes(second):
        if len(parts) == _MOST:
            raise _not_forward()
        options = _Options.read(parts[2:])
        whole = _Whole(raw_tag, second, options)
        if _is_array(second):
            entries, content = tuple(map(RawEntry, split_array(second))), second
        else:
            entries, content = whole.unpack(max_inflated_bytes, hold)
        entries = whole.check_signal(entries)
    else:
        if len(parts) == _FEWEST:
            raise _not_forward()
        options = _Options.read(parts[3:])
        content = _entry_of(second, parts[2], options)
        entries = (RawEntry(content),)
    return Message(
        tag=tag,
        raw_tag=raw_tag,
        entries=entries,
        content=content,
        raw_chunk=options.raw_chunk,
        announced=options.size,
    )


def as_message(raw_tag: bytes, entry: RawEntry) -> bytes:
    """Return an entry as a Forward message of its own, so that it can be kept and read again later."""
    if entry.fault is not None:
        return entry.raw
    return _ARRAY_OF_2 + raw_tag + _ARRAY_OF_1 + entry.raw


def split_array(raw: bytes, fewest: int = 0, most: int = MAX_ENTRIES) -> list[bytes]:
    """Return the values of a msgpack array as they came; `NotForward` if it is none or has another length."""
    count, position = _read_header(raw, arrays=True)
    if not fewest <= count <= most:
        raise _not_forward()
    parts: list[bytes] = []
    for _ in range(count):
        end = end_of_value(raw, position)
        if end is None:
            raise _not_forward()
        parts.append(raw[position:end])
        position = end
    return parts


def _read_header(raw: bytes, *, arrays: bool) -> tuple[int, int]:
    """Return how many values an array (pairs a map) holds and where the first begins."""
    short, short_mask, long = (0x90, 0xF0, 0xDC) if arrays else (0x80, 0xF0, 0xDE)
    first = raw[0] if raw else 0
    if first & short_mask == short:
        return first & 0x0F, 1
    if first not in (long, long + 1):
        raise _not_forward()
    digits = 2 if first == long else 4
    return int.from_bytes(raw[1 : 1 + digits], "big"), 1 + digits


@dataclass(frozen=True, slots=True)
class _Options:
    raw_chunk: bytes | None = None
    size: int | None = None
    compressed: str = compression.TEXT
    signal: int = _LOGS
    raw_metadata: bytes | None = None

    @classmethod
    def read(cls, parts: list[bytes]) -> _Options:
        if not parts or parts[0] == HEARTBEAT:
            return cls()
        raw = _pairs(parts[0])
        compressed = raw.get("compressed", HEARTBEAT)
        return cls(
            _chunk(raw.get("chunk")),
            _integer(raw.get("size")),
            compression.TEXT if compressed == HEARTBEAT else _text(compressed) or "",
            _integer(raw.get("fluent_signal")) or _LOGS,
            raw.get("metadata"),
        )


def _pairs(raw: bytes) -> dict[str | None, bytes]:
    """Return the members of a message's options as they came."""
    count, position = _read_header(raw, arrays=False)
    values = split_array(b"\xdd" + (2 * count).to_bytes(4, "big") + raw[position:])
    members: dict[str | None, bytes] = {}
    for key, value in zip(values[::2], values[1::2], strict=True):
        name = _text(key) if _is_bytes(key) else None
        if name is not None and name in members:
            raise _not_forward()
        members[name] = value
    return members


def _chunk(raw: bytes | None) -> bytes | None:
    if raw is None or raw == HEARTBEAT:
        return None
    if not _is_bytes(raw) or len(raw) > MAX_CHUNK_ID_BYTES:
        raise _not_forward()
    return raw


@dataclass(frozen=True, slots=True)
class _Whole:
    """A message whose entries stand in one array or one run of bytes."""

    raw_tag: bytes
    body: bytes
    options: _Options

    def unpack(self, limit: int, hold: Callable[[int], None]) -> tuple[tuple[RawEntry, ...], bytes]:
        """Return the entries of PackedForward, and their bytes inflated."""
        packed = _bytes(self.body)
        if self.options.compressed != compression.TEXT:
            try:
                packed = compression.inflate(packed, self.options.compressed, limit, hold)
            except InvalidEvent as error:
                return (RawEntry(self._kept(), error),), packed
        return tuple(_unpack(self.raw_tag, packed)), packed

    def check_signal(self, entries: tuple[RawEntry, ...]) -> tuple[RawEntry, ...]:
        """Return the entries; those of metrics and traces as one that is at fault."""
        if self.options.signal == _LOGS:
            return entries
        fault = InvalidEvent("the message carries metrics or traces, not logs", code="not_logs")
        return (RawEntry(self._kept(), fault),)

    def _kept(self) -> bytes:
        options = {"compressed": self.options.compressed, "fluent_signal": self.options.signal}
        packed: bytes = library.msgpack().packb(options)
        return _ARRAY_OF_3 + self.raw_tag + self.body + packed


def _unpack(raw_tag: bytes, packed: bytes) -> list[RawEntry]:
    """Return entries that stand one behind the other; what cannot be told apart at the end is one with a fault."""
    entries: list[RawEntry] = []
    position = 0
    while position < len(packed):
        if len(entries) == MAX_ENTRIES:
            raise _not_forward()
        try:
            end = end_of_value(packed, position)
        except NotForward:
            end = None
        if end is None:
            fault = InvalidEvent("the packed entries break off here", code="malformed_entry")
            rest: bytes = library.msgpack().packb(packed[position:])
            return [*entries, RawEntry(_ARRAY_OF_2 + raw_tag + rest, fault)]
        entries.append(RawEntry(packed[position:end]))
        position = end
    return entries


def _entry_of(raw_time: bytes, raw_record: bytes, options: _Options) -> bytes:
    """Return the only entry of a Message; Fluent Bit puts its metadata into the options."""
    if options.raw_metadata is not None:
        raw_time = _ARRAY_OF_2 + raw_time + options.raw_metadata
    return _ARRAY_OF_2 + raw_time + raw_record


def _is_array(raw: bytes) -> bool:
    return raw[0] & 0xF0 == 0x90 or raw[0] in (0xDC, 0xDD)  # noqa: PLR2004 - msgpack's array formats


def _is_bytes(raw: bytes) -> bool:
    return raw[0] & 0xE0 == 0xA0 or raw[0] in (0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB)  # noqa: PLR2004 - str, bin


def _bytes(raw: bytes) -> bytes:
    """Return the content of a str or a bin."""
    content: bytes = library.msgpack().unpackb(raw, raw=True, max_bin_len=len(raw), max_str_len=len(raw))
    return content


def _text(raw: bytes) -> str | None:
    """Return the text of a str or bin, None if it is no UTF-8; `NotForward` if it is neither."""
    if not _is_bytes(raw):
        raise _not_forward()
    try:
        return _bytes(raw).decode()
    except UnicodeDecodeError:
        return None


def _integer(raw: bytes | None) -> int | None:
    """Return an integer, None for anything else."""
    if raw is None or not (raw[0] <= 0x7F or 0xCC <= raw[0] <= 0xD3):  # noqa: PLR2004 - msgpack's integer formats
        return None
    number: int = library.msgpack().unpackb(raw)
    return number


def _not_forward() -> NotForward:
    return NotForward(
        "The stream holds something that is no Fluent Forward message.", remedy="Point a Fluent Forward sender here."
    )
