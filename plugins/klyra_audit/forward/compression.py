"""Compressed entries, inflated within a limit, so that a small message cannot fill the memory."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from klyra_audit import zstd
from klyra_audit.errors import InvalidEvent
from klyra_audit.forward import library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GZIP: Final = "gzip"
ZSTD: Final = "zstd"
TEXT: Final = "text"  # fluentd's word for not compressed
MAX_INFLATED_BYTES: Final = 256 * 1024 * 1024  # fluentd's own limit

_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_PIECE: Final = 1024 * 1024
_MAX_ZSTD_WINDOW: Final = 1 << 27  # what the zstd command line accepts without being asked


def inflate(
    content: bytes, compression: str, limit: int = MAX_INFLATED_BYTES, hold: Callable[[int], None] = lambda _: None
) -> bytes:
    """Return what was compressed.

    Args:
        content: gzip, of one or several members, or zstd, of one or several frames.
        compression: the message's option `compressed`.
        limit: bytes that may come out.
        hold: told how many bytes more are about to be kept; what it raises is passed on.

    Raises:
        InvalidEvent: `content` is not that, breaks off, or holds more than the limit.
    """
    if compression not in _INFLATERS:
        raise InvalidEvent("the entries are compressed in a way that is not read here", code="unknown_compression")
    pieces: list[bytes] = []
    length = 0
    for piece in _INFLATERS[compression](content):
        length += len(piece)
        if length > limit:
            raise InvalidEvent(f"the entries inflate to more than {limit} bytes", code="inflates_too_far")
        hold(len(piece))
        pieces.append(piece)
    return b"".join(pieces)


def compress(content: bytes, compression: str) -> bytes:
    """Return compressed bytes, the same for the same content; `KeyError` for a way that is not written here."""
    return _COMPRESSORS[compression](content)


def _inflate_gzip(content: bytes) -> Iterator[bytes]:
    rest = content
    while True:
        # One object a member: gzip allows several, one behind the other (RFC 1952 section 2.2).
        member = zlib.decompressobj(_GZIP_WINDOW)
        while not member.eof:
            try:
                piece = member.decompress(rest, _PIECE)
            except zlib.error as error:
                raise _unreadable() from error
            if not piece and _is_starved(member):
                raise _unreadable()
            rest = member.unconsumed_tail
            yield piece
        rest = member.unused_data
        if not rest:
            return


def _is_starved(member: zlib._Decompress) -> bool:
    return not member.eof and not member.unconsumed_tail


def _inflate_zstd(content: bytes) -> Iterator[bytes]:
    zstandard = library.zstandard()
    if not content:
        raise _unreadable()
    try:
        yield from zstd.inflate(zstandard, content, _MAX_ZSTD_WINDOW)
    except (EOFError, zstandard.ZstdError) as error:
        raise _unreadable() from error


def _compress_zstd(content: bytes) -> bytes:
    compressed: bytes = library.zstandard().ZstdCompressor().compress(content)
    return compressed


def _compress_gzip(content: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=_GZIP_WINDOW)
    return compressor.compress(content) + compressor.flush()


def _unreadable() -> InvalidEvent:
    return InvalidEvent("the entries are not compressed in the way their message says", code="malformed_compression")


_INFLATERS: Final = {GZIP: _inflate_gzip, ZSTD: _inflate_zstd}
_COMPRESSORS: Final = {GZIP: _compress_gzip, ZSTD: _compress_zstd}
