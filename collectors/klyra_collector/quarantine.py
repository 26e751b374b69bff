"""The record that keeps an input which is no valid event: durable, visible, never dropped (DESIGN section 5).

The bytes that are kept speak for themselves, so that they can be read, and taken in again, years later: one line of
JSON says how they are written and whose key brought them, behind it stands the input as a request of its own. No
time is in the line, which the leaf has, so that the same input sent again is the same bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import orjson

from klyra_audit import ids
from klyra_audit.format import canonical, sections
from klyra_audit.format.merkle import leaf_hash
from klyra_audit.format.sections import Salts, Sections
from klyra_collector.stages import EmitterPosition, Record

if TYPE_CHECKING:
    from klyra_collector.stages import Tenancy

MAX_REASON_CHARACTERS = 1000
MAX_POINTER_CHARACTERS = 1024

REPLAYED: Final = "quarantine.replayed"  # the type of the entry that tells of a replay
DOCUMENT: Final = "document"
REPEAT: Final = "repeat"
UNKNOWN: Final = "unknown"

_VERSION = 1
_MARK = b'{"klyra_quarantine":'
_MAX_HEADER_BYTES = 1024
_REFERENCE_BYTES = 16


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


def quarantine_record(
    tenancy: Tenancy,
    raw: bytes,
    *,
    reason: str,
    pointer: str,
    position: EmitterPosition | None = None,
    key_id: str | None = None,
) -> Record:
    """Return the record of a quarantined input.

    Args:
        tenancy: whose key sent it.
        raw: what was received, as `KeptInput.pack` has it.
        reason: why it is no valid event, without quoting values.
        pointer: JSON Pointer to the offending member.
        position: in the emitter's sequence, so that a quarantined event leaves no gap.
        key_id: whose key brought it.
    """
    digest = hashlib.sha256(raw).hexdigest()
    core = canonical.encode(
        {
            "reason": reason[:MAX_REASON_CHARACTERS],
            "pointer": pointer[:MAX_POINTER_CHARACTERS],
            "sha256": digest,
            "size": len(raw),
        }
    )
    parts = Sections(core)
    salts = Salts.draw()
    return Record(
        tenancy=tenancy,
        record_id=quarantine_id(digest),
        content=digest.encode(),
        sections=parts,
        salts=salts,
        commitments=sections.commitments(parts, salts),
        position=position,
        quarantined=raw,
        key_id=key_id,
    )


def quarantine_id(digest: str) -> str:
    """Return under what name the quarantined bytes of a SHA-256 digest are recognised as a repeat."""
    return f"quarantine:{digest}"


def quarantine_reference(leaf: bytes) -> str:
    """Return what people call a QUARANTINE record: `qtn_` and its leaf's hash, shortened, in base32."""
    number = int.from_bytes(leaf_hash(leaf)[:_REFERENCE_BYTES], "big")
    return f"qtn_{ids.encode_base32(number)}"


def _members(header: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(header)
    except orjson.JSONDecodeError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
