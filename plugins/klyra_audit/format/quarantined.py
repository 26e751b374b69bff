"""The bytes that are kept of an input which is no valid event, and the name of its record (README, section 2).

The bytes speak for themselves, so that they can be read, and taken in again, years later: one line of JSON says how
they are written and whose key brought them, behind it stands the input as a request of its own. No time is in the
line, which the leaf has, so that the same input sent again is the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import orjson

from klyra_audit.format.base32 import encode_base32
from klyra_audit.format.merkle import leaf_hash

UNKNOWN: Final = "unknown"

_VERSION: Final = 1
_MARK: Final = b'{"klyra_quarantine":'
_MAX_HEADER_BYTES: Final = 1024
_REFERENCE_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class KeptInput:
    """A quarantined input as it is kept.

    Attributes:
        encoding: `otlp-protobuf` and `otlp-json`: an OTLP log request of one record; `forward` and
            `forward-unacknowledged`: a Forward message of one entry, its sender asked for an acknowledgement or did
            not; `document`: an event's canonical bytes; `repeat`: what an event repeats, which was emitted anew with
            another place in its emitter's sequence; `unknown`: kept by a version that did not say.
        key_id: whose key brought it; None if that was not noted.
        content: what came.
    """

    encoding: str
    key_id: str | None
    content: bytes

    def pack(self) -> bytes:
        """Return the bytes to keep."""
        header = {"klyra_quarantine": _VERSION, "encoding": self.encoding, "key": self.key_id}
        return orjson.dumps(header) + b"\n" + self.content

    @classmethod
    def unpack(cls, kept: bytes) -> Self:
        """Return what bytes keep; those without a line of ours are an input of unknown encoding."""
        header, separator, content = kept[:_MAX_HEADER_BYTES].partition(b"\n")
        members = _members(header) if separator and header.startswith(_MARK) else {}
        encoding, key_id = members.get("encoding"), members.get("key")
        if members.get("klyra_quarantine") != _VERSION or not isinstance(encoding, str):
            return cls(UNKNOWN, None, kept)
        return cls(encoding, key_id if isinstance(key_id, str) else None, content + kept[_MAX_HEADER_BYTES:])


def quarantine_reference(leaf: bytes) -> str:
    """Return what people call a QUARANTINE record: `qtn_` and its leaf's hash, shortened, in base32."""
    number = int.from_bytes(leaf_hash(leaf)[:_REFERENCE_BYTES], "big")
    return f"qtn_{encode_base32(number)}"


def _members(header: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(header)
    except orjson.JSONDecodeError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
