"""The leaf: 112 bytes in the ledger that commit to one event or control record (DESIGN section 5)."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from klyra_audit.format.errors import LeafError, UnknownLeafError

LEAF_SIZE: Final = 112
VERSION: Final = 1
NEVER: Final = 0xFFFFFFFF
NO_PREVIOUS: Final = bytes(32)

_STRUCT = struct.Struct(">BBHI16sQQII32s32s")


class Kind(IntEnum):
    """What a leaf commits to."""

    EVENT = 0
    HEADS = 1
    EXPIRY = 2
    ERASURE = 3
    HOLD = 4
    RELEASE = 5
    KEY = 6
    POLICY = 7
    SCHEMA = 8
    EXPORT = 9
    SHARD = 10
    START = 11
    EXTEND = 12
    QUARANTINE = 13

    @property
    def has_body(self) -> bool:
        """Whether the content is a body with an expiry day rather than a control document."""
        return self in (Kind.EVENT, Kind.QUARANTINE)


class Flag(IntFlag):
    """The low bits of a leaf's `flags`; all others are zero."""

    BATCH_CHECKED = 1
    HAS_ACTOR = 2
    HAS_TARGET = 4
    BACKFILLED = 8


_LAST_KIND = max(Kind).value
_RESERVED_FLAGS = 0xFFFF & ~sum(Flag)


class Leaf(NamedTuple):
    """One record of the ledger. A tuple, since one is made for every event that is sealed.

    Attributes:
        kind: what it commits to.
        flags: see `Flag`.
        expire_day: first UTC day on which the body may be absent; `NEVER` for control records.
        org_ref: 16 bytes; zeros for the operator.
        org_seq: 0, 1, 2 … without gaps per org_ref within the shard.
        ingest_us: collector clock, microseconds since 1970, never decreasing.
        emitter: ordinal of the KEY record of the emitter's boot; 0 for a source without sequence.
        emitter_seq: sequence within the boot.
        org_prev: leaf hash of the same org_ref's previous record, zeros for the first.
        commit: what the leaf commits to, 32 bytes.
    """

    kind: int
    flags: int
    expire_day: int
    org_ref: bytes
    org_seq: int
    ingest_us: int
    emitter: int
    emitter_seq: int
    org_prev: bytes
    commit: bytes

    def pack(self) -> bytes:
        """Return the 112 bytes."""
        return _STRUCT.pack(VERSION, *self)

    @classmethod
    def unpack(cls, encoded: bytes) -> Leaf:
        """Read 112 bytes.

        Raises:
            UnknownLeafError: another version or kind.
            LeafError: wrong length, or a flag that must be zero.
        """
        if len(encoded) != LEAF_SIZE:
            raise LeafError(f"a leaf is {LEAF_SIZE} bytes long, not {len(encoded)}")
        fields = _STRUCT.unpack(encoded)
        if fields[0] != VERSION:
            raise UnknownLeafError(f"leaf version {fields[0]} is not known")
        leaf = cls._make(fields[1:])
        if leaf.kind > _LAST_KIND:
            raise UnknownLeafError(f"leaf kind {leaf.kind} is not known")
        if leaf.flags & _RESERVED_FLAGS:
            raise LeafError("a reserved flag is set")
        return leaf
