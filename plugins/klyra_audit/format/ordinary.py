"""Ordinary bodies, read and checked in the fewest steps.

Nearly all bodies of a ledger are ordinary: nothing is erased, and no evidence of an emitter stands beside them. What is
found to be one here is exactly what was committed to; anything else, and anything that is wrong in any way, is left to
`frame.read_body` and to those who say what is wrong with it. A verifier and an export read every body of a ledger,
which is what this is for.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from klyra_audit.format.canonical import MAX_BYTES
from klyra_audit.format.frame import BODY_HEADER_SIZE, BODY_MAGIC
from klyra_audit.format.sections import ABSENT, DOMAIN_ACTOR, DOMAIN_CORE, DOMAIN_EVENT, DOMAIN_TARGET, SALT_SIZE

if TYPE_CHECKING:
    from klyra_audit.format.frame import Buffer

_HEADER: Final = struct.Struct(">4sQIIII32s32s32sII")
_CHECKED: Final = _HEADER.size - 4  # so much of a header is under its checksum
_COMMITMENTS: Final = 28  # where the three of them begin in a header
_COMMITMENTS_END: Final = 124

_sha256 = hashlib.sha256


class OrdinaryBody(NamedTuple):
    """A body that is what its header commits to. A tuple, since one is made for every body that is read.

    Attributes:
        leaf_index: of the leaf in its shard.
        end: offset behind the frame.
        commit: what a leaf must hold to be its leaf.
        core, actor, target: salt and canonical bytes of each section, one behind the other; None for an absent one.
    """

    leaf_index: int
    end: int
    commit: bytes
    core: bytes
    actor: bytes | None
    target: bytes | None


def read_ordinary(buffer: Buffer, offset: int) -> OrdinaryBody | None:
    """Return the ordinary body at an offset; None if none was found there."""
    content = offset + BODY_HEADER_SIZE
    if content > len(buffer):
        return None
    magic, index, core_size, actor_size, target_size, evidence, c_core, c_actor, c_target, crc, checksum = (
        _HEADER.unpack_from(buffer, offset)
    )
    if (
        magic != BODY_MAGIC
        or evidence
        or crc
        or c_core == ABSENT
        or core_size + actor_size + target_size > MAX_BYTES
        or zlib.crc32(buffer[offset : offset + _CHECKED]) != checksum
    ):
        return None
    end = content + SALT_SIZE + core_size
    core = bytes(buffer[content:end])
    actor = target = None
    if c_actor != ABSENT:
        begin, end = end, end + SALT_SIZE + actor_size
        actor = bytes(buffer[begin:end])
    if c_target != ABSENT:
        begin, end = end, end + SALT_SIZE + target_size
        target = bytes(buffer[begin:end])
    if (
        end > len(buffer)
        or _sha256(DOMAIN_CORE + core).digest() != c_core
        or (actor_size if actor is None else _sha256(DOMAIN_ACTOR + actor).digest() != c_actor)
        or (target_size if target is None else _sha256(DOMAIN_TARGET + target).digest() != c_target)
    ):
        return None
    commit = _sha256(DOMAIN_EVENT + buffer[offset + _COMMITMENTS : offset + _COMMITMENTS_END]).digest()
    return OrdinaryBody(index, end, commit, core, actor, target)
