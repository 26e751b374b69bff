"""Read and decompress a request's body within limits, so that memory stays bounded whatever is sent."""

from __future__ import annotations

import importlib
import zlib
from typing import TYPE_CHECKING, Any, Final

from klyra_audit import zstd
from klyra_audit.errors import Rejected, RetryLater

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from klyra_collector.fair_budget import Reservation

MAX_REQUEST_BYTES = 64 * 1024 * 1024  # opentelemetry-proto specification 1.11: recommended default, also inflated

_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_RAW_DEFLATE: Final = -zlib.MAX_WBITS
_CHUNK: Final = 1024 * 1024
_MAX_ZSTD_WINDOW: Final = 8 * 1024 * 1024  # what RFC 8878 section 3.1.1.1.2 asks every decoder to support
_ZLIB_METHOD: Final = 8


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


class BodyTooSlow(RetryLater):
    """The body did not arrive in the time that is given to it."""

    code = "body_too_slow"


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
    """Return the body without its Content-Encoding.

    Args:
        body: as sent.
        encoding: `gzip`, `zstd`, `deflate`, `zlib`, `identity` or nothing.
        reservation: where the bytes are accounted for as they appear.
        limit: bytes the result may have.

    Raises:
        UnsupportedEncoding, MalformedBody, TooLarge, Overloaded.
    """
    if encoding in ("", "identity"):
        return body
    if encoding not in _DECODERS:
        raise UnsupportedEncoding(
            f"Content-Encoding {encoding[:40]!r} is not read here.",
            remedy="Set the exporter's compression to gzip, zstd, deflate or none.",
        )
    inflated: list[bytes] = []
    length = 0
    for chunk in _DECODERS[encoding](body):
        length += len(chunk)
        _refuse_large(length, limit)
        reservation.hold(len(chunk))
        inflated.append(chunk)
    return b"".join(inflated)


def _gunzip(body: bytes) -> Iterator[bytes]:
    """Yield what several members hold, one behind the other (RFC 1952 section 2.2)."""
    return _members(body, "gzip", lambda: zlib.decompressobj(_GZIP_WINDOW))


def _undeflate(body: bytes) -> Iterator[bytes]:
    """Yield what zlib holds (RFC 1950), which HTTP calls deflate; or bare deflate, which some clients send."""
    is_zlib = len(body) > 1 and body[0] & 0x0F == _ZLIB_METHOD and int.from_bytes(body[:2], "big") % 31 == 0
    window = zlib.MAX_WBITS if is_zlib else _RAW_DEFLATE
    return _members(body, "deflate", lambda: zlib.decompressobj(window))


def _members(body: bytes, name: str, begin: Callable[[], zlib._Decompress]) -> Iterator[bytes]:
    view, position = memoryview(body), 0
    while position < len(body):
        member = begin()
        while not member.eof:
            taken = view[position : position + _CHUNK]
            if not taken:
                raise _too_short(name)
            try:
                chunk = member.decompress(taken, _CHUNK)
            except zlib.error as error:
                raise _not_that(name, error) from error
            position += len(taken) - len(member.unconsumed_tail) - len(member.unused_data)
            yield chunk


def _unzstd(body: bytes) -> Iterator[bytes]:
    zstandard = _zstandard()
    try:
        yield from zstd.inflate(zstandard, body, _MAX_ZSTD_WINDOW)
    except EOFError as error:
        raise _too_short("zstd") from error
    except zstandard.ZstdError as error:
        raise _not_that("zstd", error) from error


def _zstandard() -> Any:  # noqa: ANN401 - a module
    try:
        return importlib.import_module("zstandard")
    except ImportError as error:
        raise UnsupportedEncoding(
            "Content-Encoding zstd is not read here: the library zstandard is missing.",
            remedy="Install klyra-audit[collector], or set the exporter's compression to gzip.",
        ) from error


def _too_short(name: str) -> MalformedBody:
    return MalformedBody(f"The {name} body ends too early.", remedy="Send the request again, whole.")


def _not_that(name: str, error: Exception) -> MalformedBody:
    return MalformedBody(
        f"The body is not {name}: {error}.", remedy="Check the exporter's compression and Content-Encoding."
    )


def _refuse_large(length: int, limit: int) -> None:
    if length > limit:
        raise TooLarge(
            f"The request is larger than {limit} bytes.", remedy="Set a smaller maximum batch size in the exporter."
        )


_DECODERS: Final[dict[str, Callable[[bytes], Iterator[bytes]]]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _undeflate,
    "zlib": _undeflate,  # what the OpenTelemetry Collector calls it
    "zstd": _unzstd,
}
