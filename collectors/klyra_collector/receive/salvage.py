"""Take an OTLP protobuf request apart whose text is not all UTF-8, so that one such record costs only itself. Pure.

The Go Collector passes on whatever bytes a string has; protobuf's Python parser then refuses the whole request, its
client drops it, and every event in it is lost. Here the request is cut into its records by the wire format alone
(protobuf encoding: a varint tag, then a varint, 4 or 8 bytes, or a length and that many bytes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_VARINT, _FIXED_64, _LENGTH_DELIMITED, _FIXED_32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10

# Field numbers: ExportLogsServiceRequest.resource_logs; ResourceLogs.resource and .scope_logs; ScopeLogs alike.
_RESOURCE_LOGS = 1
_ENVELOPE = 1
_INNER = 2


class Part(NamedTuple):
    """One record of a request with what stands around it, as bytes.

    Attributes:
        resource, scope: messages that hold for the record, b"" for none.
        record: the LogRecord.
    """

    resource: bytes
    scope: bytes
    record: bytes


class NotProtobuf(ValueError):  # noqa: N818 - a plain answer, not an error of the product
    """The bytes are no request in protobuf's wire format."""


def split_request(body: bytes) -> list[Part]:
    """Return the records of an ExportLogsServiceRequest; `NotProtobuf` if the bytes hold none."""
    parts: list[Part] = []
    for number, resource_logs in _messages(body):
        if number != _RESOURCE_LOGS:
            continue
        resource, scopes = _envelope(resource_logs)
        for scope_logs in scopes:
            scope, records = _envelope(scope_logs)
            for record in records:
                _check(record)
                parts.append(Part(resource, scope, record))
    if not parts:
        raise NotProtobuf
    return parts


def join_request(part: Part) -> bytes:
    """Return a request of one record alone, whatever its bytes are; `split_request` takes it apart again."""
    scope_logs = _field(_ENVELOPE, part.scope) + _field(_INNER, part.record)
    resource_logs = _field(_ENVELOPE, part.resource) + _field(_INNER, scope_logs)
    return _field(_RESOURCE_LOGS, resource_logs)


def _field(number: int, content: bytes) -> bytes:
    length = bytearray()
    rest = len(content)
    while rest > 0x7F:  # noqa: PLR2004 - seven bits of a varint
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes((number << 3 | _LENGTH_DELIMITED, *length, rest)) + content


def _envelope(message: bytes) -> tuple[bytes, list[bytes]]:
    """Return what holds for all (a resource, a scope) and those it holds for."""
    described, inner = b"", []
    for number, content in _messages(message):
        if number == _ENVELOPE:
            described = content
        elif number == _INNER:
            inner.append(content)
    return described, inner


def _check(record: bytes) -> None:
    for _ in _messages(record):
        pass


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of the fields that have a length."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            length, place = _varint(data, place)
            end = place + length
            if end <= len(data):
                yield tag >> 3, data[place:end]
        elif kind == _VARINT:
            _, end = _varint(data, place)
        elif kind in (_FIXED_64, _FIXED_32):
            end = place + (8 if kind == _FIXED_64 else 4)
        else:
            raise NotProtobuf
        if end > len(data):
            raise NotProtobuf
        place = end


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Return a number and the place behind it."""
    value = 0
    for position in range(_MAX_VARINT_BYTES):
        if place + position >= len(data):
            break
        byte = data[place + position]
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, place + position + 1
    raise NotProtobuf
