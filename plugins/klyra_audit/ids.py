"""Identifiers: ``log_`` + a UUIDv7 in lower-case Crockford base32, so that ids sort by time (DESIGN section 4)."""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid

from klyra_audit.format.base32 import encode_base32

LOG_ID = re.compile(r"log_[0-9a-z]{8,40}")

_RANDOM_BYTES = 10
_VERSION = 0x7 << 76
_VARIANT = 0x2 << 62


def uuid7(milliseconds: int, random: bytes) -> uuid.UUID:
    """Return a UUIDv7 (RFC 9562 section 5.7) of a Unix time in milliseconds and 10 random bytes."""
    return uuid.UUID(int=_number7(milliseconds, random))


def _number7(milliseconds: int, random: bytes) -> int:
    bits = int.from_bytes(random[:_RANDOM_BYTES], "big")
    high = (milliseconds & 0xFFFFFFFFFFFF) << 80
    rand_a = (bits >> 62 & 0xFFF) << 64
    rand_b = bits & 0x3FFFFFFFFFFFFFFF
    return high | _VERSION | rand_a | _VARIANT | rand_b


def new_uuid7() -> uuid.UUID:
    """Return a UUIDv7 of now."""
    return uuid7(time.time_ns() // 1_000_000, os.urandom(_RANDOM_BYTES))


def log_id(value: uuid.UUID) -> str:
    """Return the entry id that stands for a UUID."""
    return f"log_{encode_base32(value.int)}"


def new_log_id() -> str:
    """Return a fresh entry id."""
    return f"log_{encode_base32(_number7(time.time_ns() // 1_000_000, os.urandom(_RANDOM_BYTES)))}"


def log_id_of_foreign(attribute: str, value: str) -> str:
    """Return the entry id for an id of another form (DESIGN section 6): a digest of attribute name and value."""
    digest = hashlib.sha256(attribute.encode() + b"\x00" + value.encode()).digest()
    return f"log_{encode_base32(int.from_bytes(digest[:16], 'big'))}"
