"""Where one msgpack value ends and the next begins, found without decoding any of it.

Values are counted, not nested, so that no depth can exhaust anything; what a header announces is refused before
it is waited for. Format: msgpack specification, "Formats".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from klyra_audit.forward.errors import MessageTooLarge, NotForward

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024


class _Head(NamedTuple):
    """What a value's first byte says of those that can be told from it alone.

    Attributes:
        length: bytes of the value without the values inside it.
        inside: how many values follow inside.
    """

    length: int
    inside: int


class _Sized(NamedTuple):
    """A value whose size stands behind its first byte.

    Attributes:
        digits: bytes of the size.
        extra: bytes that are not counted in it (the type of an extension).
        values_each: values that each unit of the size stands for; 0 if its units are bytes.
    """

    digits: int
    extra: int
    values_each: int


def _fixed(first: int) -> _Head | None:
    if first <= 0x7F or first >= 0xE0:  # noqa: PLR2004 - fixint
        return _Head(1, 0)
    if first <= 0x8F:  # noqa: PLR2004 - fixmap
        return _Head(1, 2 * (first & 0x0F))
    if first <= 0x9F:  # noqa: PLR2004 - fixarray
        return _Head(1, first & 0x0F)
    if first <= 0xBF:  # noqa: PLR2004 - fixstr
        return _Head(1 + (first & 0x1F), 0)
    return _SCALARS.get(first)


_SCALARS: Final = {
    0xC0: _Head(1, 0),  # nil
    0xC2: _Head(1, 0),  # false
    0xC3: _Head(1, 0),  # true
    0xCA: _Head(5, 0),  # float 32
    0xCB: _Head(9, 0),  # float 64
    **{0xCC + power: _Head(1 + (1 << power), 0) for power in range(4)},  # uint
    **{0xD0 + power: _Head(1 + (1 << power), 0) for power in range(4)},  # int
    **{0xD4 + power: _Head(2 + (1 << power), 0) for power in range(5)},  # fixext
}
_SIZED: Final = {
    **{0xC4 + power: _Sized(1 << power, 0, 0) for power in range(3)},  # bin
    **{0xC7 + power: _Sized(1 << power, 1, 0) for power in range(3)},  # ext
    **{0xD9 + power: _Sized(1 << power, 0, 0) for power in range(3)},  # str
    0xDC: _Sized(2, 0, 1),  # array 16
    0xDD: _Sized(4, 0, 1),  # array 32
    0xDE: _Sized(2, 0, 2),  # map 16
    0xDF: _Sized(4, 0, 2),  # map 32
}
_FIXED: Final = tuple(_fixed(first) for first in range(256))


class Measure:
    """Measures one value that may arrive in pieces; goes on where it stopped.

    Attributes:
        position: how far the value has been followed, from where it began.
    """

    __slots__ = ("_limit", "_values", "position")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values = 1  # still to come
        self.position = 0

    def follow(self, data: bytes | bytearray, start: int = 0) -> int | None:
        """Return the length of the value that begins at `start`, None while its end has not arrived.

        Args:
            data: everything from the value's first byte on that has arrived so far.
            start: where in `data` it begins.

        Raises:
            MessageTooLarge: it is longer than the limit, or announces so.
            NotForward: a byte that no msgpack value begins with.
        """
        position, values, arrived = start + self.position, self._values, len(data)
        longest = start + self._limit
        while values and position < arrived:
            head = _FIXED[data[position]] or _read_head(data, position)
            if head is None:
                break
            length, inside = head
            # Every value still to come has a byte at least.
            if position + length + values - 1 + inside > longest:
                raise _too_large(self._limit)
            if position + length > arrived:
                break
            position += length
            values += inside - 1
        self.position, self._values = position - start, values
        return None if values else self.position


def _read_head(data: bytes | bytearray, position: int) -> _Head | None:
    sized = _SIZED.get(data[position])
    if sized is None:
        raise NotForward(
            "The stream is not msgpack: it has a byte that no value begins with.",
            remedy="Point a Fluent Forward sender here; check whether it should use TLS.",
        )
    end = position + 1 + sized.digits
    if end > len(data):
        return None
    size = int.from_bytes(data[position + 1 : end], "big")
    if sized.values_each:
        return _Head(1 + sized.digits, size * sized.values_each)
    return _Head(1 + sized.digits + sized.extra + size, 0)


def _too_large(limit: int) -> MessageTooLarge:
    return MessageTooLarge(
        f"A message is larger than {limit} bytes.", remedy="Set a smaller chunk size in the sender's buffer."
    )


def end_of_value(data: bytes, start: int) -> int | None:
    """Return where the value that begins at `start` ends, None if it breaks off; `NotForward` as `Measure`."""
    try:
        length = Measure(max(len(data) - start, 0)).follow(data, start)
    except MessageTooLarge:
        return None
    return None if length is None else start + length


class Framer:
    """Cuts a stream into whole messages. Holds no more than one unfinished message and what was fed last."""

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._limit = max_message_bytes
        self._buffer = bytearray()
        self._measure = Measure(max_message_bytes)

    @property
    def held(self) -> int:
        """Bytes that have arrived and not been returned yet."""
        return len(self._buffer)

    def limit(self, max_message_bytes: int) -> None:
        """Allow messages of another size from the next one on."""
        self._limit = max_message_bytes
        self._measure = Measure(max_message_bytes)

    def feed(self, data: bytes) -> None:
        """Take what arrived."""
        self._buffer += data

    def messages(self) -> Iterator[bytes]:
        """Yield every whole message, in order, and forget it.

        Raises:
            MessageTooLarge: the unfinished message is longer than the limit, or announces so.
            NotForward: the stream is not msgpack.
        """
        start = 0
        try:
            while start < len(self._buffer):
                length = self._measure.follow(self._buffer, start)
                if length is None:
                    return
                self._measure = Measure(self._limit)
                message = bytes(memoryview(self._buffer)[start : start + length])
                start += length
                yield message
        finally:
            # Also when the caller stops in the middle: what was yielded is gone, the rest stays.
            del self._buffer[:start]
