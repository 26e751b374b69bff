"""Segment files of a spool: a header that says whose they are, then one frame an event. Bytes only, no I/O.

A frame stands in the file whole or not at all as far as anybody was told: `emit` returns only behind an fsync. So what
is torn at the end was never promised to anyone and is left out; what is damaged in the middle was, and is reported.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from klyra_audit.otlp import EmitterIdentity
from klyra_audit.prepared import PreparedEvent

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC: Final = b"KLSPOOL1"
SUFFIX: Final = ".segment"
MAX_FRAME_BYTES: Final = 1024 * 1024

_LENGTH: Final = struct.Struct(">II")  # length of what follows, CRC-32 of length and content
_FIXED: Final = struct.Struct(">I48s32sHI")  # sequence, salts, commit, length of the record id, of the document
_LENGTH_ALONE: Final = struct.Struct(">I")
FRAME_HEAD_BYTES: Final = _LENGTH.size


class SpooledEvent(NamedTuple):
    """An event with its place in the sequence of its boot."""

    sequence: int
    event: PreparedEvent


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that hold no frame although frames may stand behind them; events that were promised may be in them."""

    begin: int
    end: int


def file_name(first_sequence: int) -> str:
    """Return the name of the segment that begins with a sequence number; names sort as the numbers do."""
    return f"{first_sequence:010d}{SUFFIX}"


def first_sequence(name: str) -> int | None:
    """Return with which sequence number a segment begins by its name; None if it is no segment."""
    digits = name.removesuffix(SUFFIX)
    return int(digits) if name.endswith(SUFFIX) and digits.isdecimal() else None


def encode_header(identity: EmitterIdentity) -> bytes:
    """Return the beginning of a segment file."""
    content = orjson.dumps(
        {
            "service_name": identity.service_name,
            "emitter_id": identity.emitter_id,
            "boot": identity.boot,
            "organization_id": identity.organization_id,
        }
    )
    return MAGIC + _framed(content)


def read_header(encoded: bytes) -> tuple[EmitterIdentity, int] | None:
    """Return whose segment it is and where its first frame begins; None if it was never finished, or is none."""
    if not encoded.startswith(MAGIC):
        return None
    content = _content(encoded, len(MAGIC))
    if content is None:
        return None
    try:
        return EmitterIdentity(**orjson.loads(content)), len(MAGIC) + FRAME_HEAD_BYTES + len(content)
    except (orjson.JSONDecodeError, TypeError):
        return None


def encode_frame(spooled: SpooledEvent) -> bytes:
    """Return the bytes of one event."""
    event = spooled.event
    record_id = event.record_id.encode()
    fixed = _FIXED.pack(spooled.sequence, event.salts, event.commit, len(record_id), len(event.encoded))
    return _framed(b"".join((fixed, record_id, event.encoded, (event.sections or "").encode())))


def read_frames(encoded: bytes, begin: int) -> Iterator[tuple[SpooledEvent | Damage, int]]:
    """Yield what stands in a segment from an offset on, with the offset behind it, up to what is torn at the end."""
    offset = begin
    while True:
        content = _content(encoded, offset)
        if content is not None:
            offset += FRAME_HEAD_BYTES + len(content)
            yield _read_event(content), offset
            continue
        next_frame = _resynchronise(encoded, offset + 1)
        if next_frame is None:
            return
        yield Damage(offset, next_frame), next_frame
        offset = next_frame


def _framed(content: bytes) -> bytes:
    return _LENGTH.pack(len(content), _checksum(content)) + content


def _checksum(content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(_LENGTH_ALONE.pack(len(content))))


def _content(encoded: bytes, offset: int) -> bytes | None:
    """Return what a frame at an offset holds; None if none stands there."""
    begin = offset + FRAME_HEAD_BYTES
    if begin > len(encoded):
        return None
    length, checksum = _LENGTH.unpack_from(encoded, offset)
    if not 0 < length <= MAX_FRAME_BYTES or begin + length > len(encoded):
        return None
    content = encoded[begin : begin + length]
    return content if _checksum(content) == checksum else None


def _resynchronise(encoded: bytes, offset: int) -> int | None:
    """Return where the next whole frame begins; None if there is none up to the end."""
    for place in range(offset, len(encoded) - FRAME_HEAD_BYTES):
        if _content(encoded, place) is not None:
            return place
    return None


def _read_event(content: bytes) -> SpooledEvent:
    sequence, salts, commit, id_size, document_size = _FIXED.unpack_from(content)
    id_end = _FIXED.size + id_size
    document_end = id_end + document_size
    encoded = content[id_end:document_end]
    event = PreparedEvent(
        record_id=content[_FIXED.size : id_end].decode(),
        document=orjson.loads(encoded),
        encoded=encoded,
        salts=salts,
        sections=content[document_end:].decode() or None,
        commit=commit,
    )
    return SpooledEvent(sequence, event)
