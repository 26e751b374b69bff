"""Read and decompress a request's body within limits, so that memory stays bounded whatever is sent."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from klyra_audit.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from klyra_collector.receive.budget import Reservation

MAX_REQUEST_BYTES = 64 * 1024 * 1024  # opentelemetry-proto specification 1.11: recommended default, also inflated

_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_CHUNK = 1024 * 1024


class TooLarge(Rejected):
    """The body is larger than a request may be, as sent or after decompression."""

    code = "request_too_large"


class UnsupportedMediaType(Rejected):
    """The body is neither protobuf nor JSON by its header."""

    code = "unsupported_media_type"


class UnsupportedEncoding(Rejected):
    """The body is compressed in a way this endpoint does not read."""

    code = "unsupported_encoding"


class MalformedBody(Rejected):
    """The body is not compressed in the way its header says."""

    code = "malformed_body"


async def read_body(
    chunks: AsyncIterator[bytes], announced: int | None, reservation: Reservation, limit: int = MAX_REQUEST_BYTES
) -> bytes:
    """Return the whole body as sent.

    Args:
        chunks: as they arrive.
        announced: Content-Length, None if it was not given.
        reservation: where the bytes are accounted for before they are kept.
        limit: bytes a request may have.

    Raises:
        TooLarge, Overloaded.
    """
    if announced is not None:
        _refuse_large(announced, limit)
    received: list[bytes] = []
    length = 0
    async for chunk in chunks:
        length += len(chunk)
        _refuse_large(length, limit)
        # Held as it arrives: what is only announced must not keep others out.
        reservation.hold(len(chunk))
        received.append(chunk)
    return b"".join(received)


def decompress(body: bytes, encoding: str, reservation: Reservation, limit: int = MAX_REQUEST_BYTES) -> bytes:
    """Return the body without its Content-Encoding; identity and gzip are read.

    Raises:
        UnsupportedEncoding, MalformedBody, TooLarge, Overloaded.
    """
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise UnsupportedEncoding(
            f"Content-Encoding {encoding[:40]!r} is not read here.", remedy="Set the exporter's compression to gzip."
        )
    inflated: list[bytes] = []
    length = 0
    rest = body
    while rest:
        # One object a member: gzip allows several, one behind the other (RFC 1952 section 2.2).
        member = zlib.decompressobj(_GZIP_WINDOW)
        while not member.eof:
            chunk = _inflate(member, rest)
            rest = member.unconsumed_tail or member.unused_data
            length += len(chunk)
            _refuse_large(length, limit)
            reservation.hold(len(chunk))
            inflated.append(chunk)
            if not chunk and not rest and not member.eof:
                raise MalformedBody("The gzip body ends too early.", remedy="Send the request again, whole.")
    return b"".join(inflated)


def _inflate(member: zlib._Decompress, data: bytes) -> bytes:
    try:
        return member.decompress(data, _CHUNK)
    except zlib.error as error:
        raise MalformedBody(
            f"The body is not gzip: {error}.", remedy="Check the exporter's compression and Content-Encoding."
        ) from error


def _refuse_large(length: int, limit: int) -> None:
    if length > limit:
        raise TooLarge(
            f"The request is larger than {limit} bytes.", remedy="Set a smaller maximum batch size in the exporter."
        )
