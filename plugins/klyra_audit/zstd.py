"""zstd inflated piece by piece: several frames, one behind the other (RFC 8878 section 3), each of them whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# A zstd block of 4 bytes can stand for 128 KiB, and the library inflates all it is given: 16 MiB for this much.
_CHUNK: Final = 512


def inflate(zstandard: Any, content: bytes, max_window: int) -> Iterator[bytes]:  # noqa: ANN401 - a module without types
    """Yield what all frames hold, at most some mebibytes at once.

    Args:
        zstandard: the library, which not every installation has.
        content: the frames.
        max_window: bytes of memory that a frame may ask for.

    Raises:
        EOFError: the last frame is not whole; the library's own reader of streams takes that for the end.
        zstandard.ZstdError: this is not zstd.
    """
    view, position = memoryview(content), 0
    while position < len(content):
        frame = zstandard.ZstdDecompressor(max_window_size=max_window).decompressobj()
        while not frame.eof:
            taken = view[position : position + _CHUNK]
            if not taken:
                raise EOFError("the last frame is not whole")
            piece = frame.decompress(taken)
            position += len(taken) - len(frame.unused_data)
            yield piece
