"""Frames of a ledger's flat files: bodies, control documents and quarantined bytes, in index order.

The framing is this software's own (DESIGN section 5 leaves it open). A header under a checksum gives the index
and the lengths, so that a reader finds the next frame whatever became of this one's content; the content of a
body is checked by its commitments, everything else by the checksum.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from klyra_audit.format.errors import FrameError
from klyra_audit.format.sections import ABSENT, SALT_SIZE, Commitments, Salts, Sections

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY_MAGIC: Final = b"KLB1"
BLOB_MAGIC: Final = b"KLR1"
MAX_PART_BYTES: Final = 64 * 1024 * 1024  # no part is ever this long; a larger length is damage

_BODY = struct.Struct(">4sQIIII32s32s32sI")
_BLOB = struct.Struct(">4sQI")
_CHECKSUM = struct.Struct(">I")
_NO_SALT = bytes(SALT_SIZE)
BODY_HEADER_SIZE: Final = _BODY.size + _CHECKSUM.size
BLOB_HEADER_SIZE: Final = _BLOB.size + _CHECKSUM.size

Buffer = bytes | memoryview
# magic, index, lengths of core, actor, target and attachment, their Cs, checksum of the attachment
_Header = tuple[bytes, int, int, int, int, int, bytes, bytes, bytes, int]


@dataclass(frozen=True, slots=True)
class BodyFrame:
    """The content behind an EVENT or QUARANTINE leaf.

    Attributes:
        index: of the leaf in its shard.
        sections: canonical bytes; an absent section is None.
        salts: as drawn; read back as zeros for an absent section, whose salt is not kept.
        commitments: as they were when sealed; they stay when a section is erased.
        attachment: evidence kept with the body, such as an emitter's batch; empty when there is none.
    """

    index: int
    sections: Sections
    salts: Salts
    commitments: Commitments
    attachment: bytes = b""


@dataclass(frozen=True, slots=True)
class BlobFrame:
    """A control document's canonical bytes, or the raw bytes of a quarantined input."""

    index: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class BodyHeader:
    """What the checksummed header of a body frame says; `end` is the offset behind the frame."""

    index: int
    lengths: tuple[int, int, int, int]
    commitments: Commitments
    attachment_checksum: int
    content: int
    end: int


def encode_body(frame: BodyFrame) -> bytes:
    """Return the bytes of one body frame."""
    sections, salts, proofs = frame.sections, frame.salts, frame.commitments
    core, actor, target = sections.core, sections.actor or b"", sections.target or b""
    attachment = frame.attachment
    header = _BODY.pack(
        BODY_MAGIC,
        frame.index,
        len(core),
        len(actor),
        len(target),
        len(attachment),
        proofs.core,
        proofs.actor,
        proofs.target,
        zlib.crc32(attachment),
    )
    checksum = _CHECKSUM.pack(zlib.crc32(header))
    salt_actor = b"" if proofs.actor == ABSENT else salts.actor
    salt_target = b"" if proofs.target == ABSENT else salts.target
    return b"".join((header, checksum, salts.core, core, salt_actor, actor, salt_target, target, attachment))


def encode_blob(frame: BlobFrame) -> bytes:
    """Return the bytes of one blob frame."""
    header = _BLOB.pack(BLOB_MAGIC, frame.index, len(frame.payload))
    return header + _CHECKSUM.pack(zlib.crc32(frame.payload, zlib.crc32(header))) + frame.payload


def read_body_header(buffer: Buffer, offset: int) -> BodyHeader:
    """Read the header of the body frame at `offset`; the content need not be in the buffer yet.

    Raises:
        FrameError: torn (the buffer ends inside the header) or damaged.
    """
    _, index, core, actor, target, attachment, c_core, c_actor, c_target, checksum = _read_header(buffer, offset)
    lengths = (core, actor, target, attachment)
    content = offset + BODY_HEADER_SIZE
    end = content + sum(lengths) + _salt_size(c_core) + _salt_size(c_actor) + _salt_size(c_target)
    return BodyHeader(index, lengths, Commitments(c_core, c_actor, c_target), checksum, content, end)


def _read_header(buffer: Buffer, offset: int) -> _Header:
    content = offset + BODY_HEADER_SIZE
    if content > len(buffer):
        raise FrameError("a body frame is torn", offset, torn=True)
    header = bytes(buffer[offset : offset + _BODY.size])
    (checksum,) = _CHECKSUM.unpack_from(buffer, offset + _BODY.size)
    if header[:4] != BODY_MAGIC or zlib.crc32(header) != checksum:
        raise FrameError("a body frame's header is damaged", offset)
    fields: _Header = _BODY.unpack(header)
    if max(fields[2:6]) > MAX_PART_BYTES:
        raise FrameError("a body frame claims an impossible length", offset)
    return fields


def read_body(buffer: Buffer, offset: int) -> tuple[int, BodyFrame]:
    """Return the offset behind the body frame at `offset`, and the frame.

    Every body of a ledger goes through here, so that nothing is made that is not returned.

    Raises:
        FrameError: torn, its header damaged, or its attachment not the one that was written.
    """
    _, index, core, actor, target, attached, c_core, c_actor, c_target, checksum = _read_header(buffer, offset)
    actor_salt, target_salt = _salt_size(c_actor), _salt_size(c_target)
    core_at = _salt_size(c_core)
    actor_at = core_at + core + actor_salt
    target_at = actor_at + actor + target_salt
    attachment_at = target_at + target
    begin = offset + BODY_HEADER_SIZE
    end = begin + attachment_at + attached
    if end > len(buffer):
        raise FrameError("a body frame is torn", offset, torn=True)
    content = bytes(buffer[begin:end])
    attachment = content[attachment_at:]
    if zlib.crc32(attachment) != checksum:
        raise FrameError("a body frame's attachment is damaged", offset)
    salts = Salts(
        content[:core_at] or _NO_SALT,
        content[actor_at - actor_salt : actor_at] or _NO_SALT,
        content[target_at - target_salt : target_at] or _NO_SALT,
    )
    sections = Sections(
        content[core_at : core_at + core],
        _present(content[actor_at : actor_at + actor], c_actor),
        _present(content[target_at : target_at + target], c_target),
    )
    return end, BodyFrame(index, sections, salts, Commitments(c_core, c_actor, c_target), attachment)


def read_blob_header(header: bytes) -> tuple[int, int]:
    """Return the index and the payload's length that a blob frame's first `BLOB_HEADER_SIZE` bytes speak of.

    Raises:
        FrameError: it is no such header.
    """
    magic, index, length = _BLOB.unpack_from(header)
    if magic != BLOB_MAGIC or length > MAX_PART_BYTES:
        raise FrameError("a record frame's header is damaged", 0)
    return index, length


def read_blob(buffer: Buffer, offset: int) -> tuple[int, BlobFrame]:
    """Return the offset behind the blob frame at `offset`, and the frame.

    Raises:
        FrameError: torn or damaged.
    """
    content = offset + BLOB_HEADER_SIZE
    if content > len(buffer):
        raise FrameError("a record frame is torn", offset, torn=True)
    magic, index, length = _BLOB.unpack_from(buffer, offset)
    if magic != BLOB_MAGIC or length > MAX_PART_BYTES:
        raise FrameError("a record frame's header is damaged", offset)
    end = content + length
    if end > len(buffer):
        raise FrameError("a record frame is torn", offset, torn=True)
    payload = bytes(buffer[content:end])
    (checksum,) = _CHECKSUM.unpack_from(buffer, offset + _BLOB.size)
    header = bytes(buffer[offset : offset + _BLOB.size])
    if zlib.crc32(payload, zlib.crc32(header)) != checksum:
        raise FrameError("a record frame is damaged", offset)
    return end, BlobFrame(index, payload)


def read_body_frames(buffer: Buffer, offset: int = 0) -> Iterator[tuple[int, int, BodyFrame]]:
    """Yield (offset, end, frame) for each body frame up to the end of the buffer."""
    while offset < len(buffer):
        end, frame = read_body(buffer, offset)
        yield offset, end, frame
        offset = end


def read_blob_frames(buffer: Buffer, offset: int = 0) -> Iterator[tuple[int, int, BlobFrame]]:
    """Yield (offset, end, frame) for each blob frame up to the end of the buffer."""
    while offset < len(buffer):
        end, frame = read_blob(buffer, offset)
        yield offset, end, frame
        offset = end


def _salt_size(proof: bytes) -> int:
    """Return how many bytes of salt stand before a section: none before an absent one, where nothing checks them."""
    return 0 if proof == ABSENT else SALT_SIZE


def _present(encoded: bytes, proof: bytes) -> bytes | None:
    """Return None for a section that was absent when sealed; an erased one keeps its length in zeros."""
    return None if proof == ABSENT and not encoded else encoded
