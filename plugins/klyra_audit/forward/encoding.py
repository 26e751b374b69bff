"""What a client sends: entries packed one behind the other, and the acknowledgement it waits for."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any, Final

from klyra_audit.forward import compression, library
from klyra_audit.forward.entry import EVENT_TIME, NANOSECONDS
from klyra_audit.forward.errors import NotForward

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_CHUNK_ID_BYTES: Final = 16


def pack_entries(entries: Iterable[tuple[int, Mapping[str, Any]]]) -> tuple[bytes, int]:
    """Return the entries' bytes and how many they are.

    Args:
        entries: nanoseconds since 1970 and record each.
    """
    msgpack = library.msgpack()
    packed = [msgpack.packb([event_time(nanoseconds), record]) for nanoseconds, record in entries]
    return b"".join(packed), len(packed)


def event_time(nanoseconds: int) -> Any:  # noqa: ANN401 - the library's own type of extensions
    """Return the extension that holds a time to the nanosecond."""
    seconds, rest = divmod(nanoseconds, NANOSECONDS)
    return library.msgpack().ExtType(EVENT_TIME, seconds.to_bytes(4, "big") + rest.to_bytes(4, "big"))


def chunk_id(tag: str, packed: bytes) -> str:
    """Return the name of a chunk, made of its content: the same entries sent again are recognised by it."""
    digest = hashlib.sha256(tag.encode() + b"\x00" + packed).digest()
    return base64.b64encode(digest[:_CHUNK_ID_BYTES]).decode()


def packed_forward(tag: str, packed: bytes, count: int, chunk: str, compressed: str | None = None) -> bytes:
    """Return a message of PackedForward, or CompressedPackedForward with `compressed` gzip or zstd."""
    options: dict[str, Any] = {"size": count, "chunk": chunk}
    if compressed is not None:
        packed = compression.compress(packed, compressed)
        options["compressed"] = compressed
    message: bytes = library.msgpack().packb([tag, packed, options])
    return message


def acknowledgement(raw_chunk: bytes) -> bytes:
    """Return `{"ack": chunk}` with the chunk as it came, in msgpack."""
    return b"\x81\xa3ack" + raw_chunk


def acknowledged(raw: bytes) -> str:
    """Return which chunk a server acknowledges; `NotForward` if it says something else."""
    try:
        answer = library.msgpack().unpackb(raw)
    except (ValueError, TypeError) as error:
        raise _no_acknowledgement() from error
    chunk = answer.get("ack") if isinstance(answer, dict) else None
    if isinstance(chunk, bytes):
        return chunk.decode(errors="replace")
    if not isinstance(chunk, str):
        raise _no_acknowledgement()
    return chunk


def _no_acknowledgement() -> NotForward:
    return NotForward("The server answered with something else than an acknowledgement.")
