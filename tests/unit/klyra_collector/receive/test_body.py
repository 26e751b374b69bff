"""Compressed bodies: every encoding, whole and broken, and small ones that inflate too far."""

from __future__ import annotations

import gzip
import zlib

import pytest
import zstandard

from klyra_collector.fair_budget import FairBudget
from klyra_collector.receive.body import MalformedBody, TooLarge, UnsupportedEncoding, decompress
from klyra_collector.receive.ingest import MAX_INFLIGHT_BYTES

CONTENT = bytes(range(256)) * 5000
LIMIT = 2_000_000


def raw_deflate(content: bytes) -> bytes:
    """Return deflate without a frame."""
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(content) + compressor.flush()


def streamed_zstd(content: bytes) -> bytes:
    """Return a frame that does not say how long its content is."""
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(content) + compressor.flush()


COMPRESSED = {
    "gzip": [gzip.compress(CONTENT), gzip.compress(CONTENT[:1000]) + gzip.compress(CONTENT[1000:])],
    "x-gzip": [gzip.compress(CONTENT)],
    "deflate": [zlib.compress(CONTENT), raw_deflate(CONTENT)],
    "zlib": [zlib.compress(CONTENT)],
    "zstd": [
        zstandard.compress(CONTENT),
        streamed_zstd(CONTENT),
        streamed_zstd(CONTENT[:999]) + zstandard.compress(CONTENT[999:]),
    ],
}
EACH = [(encoding, body) for encoding, bodies in COMPRESSED.items() for body in bodies]
BOMB = bytes(200_000_000)


def inflate(body: bytes, encoding: str, limit: int = LIMIT) -> tuple[bytes, int]:
    """Return what was compressed, and how many bytes were accounted for."""
    with FairBudget(MAX_INFLIGHT_BYTES).reservation() as reservation:
        return decompress(body, encoding, reservation, limit), reservation.held


@pytest.mark.parametrize(("encoding", "body"), EACH)
def test_each_encoding_is_read_and_accounted_for(encoding, body) -> None:
    """Of several members or frames, too."""
    assert inflate(body, encoding) == (CONTENT, len(CONTENT))


@pytest.mark.parametrize("encoding", ["", "identity", *COMPRESSED])
def test_nothing_is_nothing(encoding) -> None:
    """An empty body needs no frame."""
    assert inflate(b"", encoding) == (b"", 0)


@pytest.mark.parametrize(("encoding", "body"), EACH)
@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_body_that_breaks_off_is_refused(encoding, body, cut) -> None:
    """Half an export must not be taken for a whole one."""
    with pytest.raises(MalformedBody, match="too early") as caught:
        inflate(body[:-cut], encoding)
    assert (caught.value.code, bool(caught.value.remedy)) == ("malformed_body", True)


@pytest.mark.parametrize("encoding", COMPRESSED)
def test_what_is_not_compressed_is_refused(encoding) -> None:
    """The header says otherwise."""
    with pytest.raises(MalformedBody, match=r"is not|too early"):
        inflate(b"\x0a\x05hello", encoding)


@pytest.mark.parametrize(("encoding", "body"), EACH)
def test_garbage_behind_it_is_refused(encoding, body) -> None:
    """What is not understood may have been somebody's event."""
    with pytest.raises(MalformedBody):
        inflate(body + b"garbage", encoding)


@pytest.mark.parametrize(
    ("encoding", "bomb"),
    [("gzip", gzip.compress(BOMB)), ("deflate", zlib.compress(BOMB)), ("zstd", streamed_zstd(BOMB))],
)
def test_a_small_body_that_inflates_too_far_is_refused(encoding, bomb) -> None:
    """It is measured as it grows, and no more is accounted for than a request may have."""
    budget = FairBudget(LIMIT + 1)
    with budget.reservation() as reservation, pytest.raises(TooLarge) as caught:
        decompress(bomb, encoding, reservation, LIMIT)
    assert (caught.value.code, bool(caught.value.remedy), budget.held) == ("request_too_large", True, 0)


def test_a_zstd_window_larger_than_decoders_must_have_is_refused() -> None:
    """It would be memory that nobody accounted for."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(MalformedBody, match="zstd"):
        inflate(compressor.compress(CONTENT) + compressor.flush(), "zstd")


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "x"])
def test_another_encoding_is_refused_and_those_that_are_read_are_named(encoding) -> None:
    """The exporter's operator can choose one."""
    with pytest.raises(UnsupportedEncoding, match="gzip, zstd, deflate or none") as caught:
        inflate(b"x", encoding)
    assert caught.value.code == "unsupported_encoding"


def test_without_its_library_zstd_is_refused_by_name(monkeypatch) -> None:
    """The remedy names the extra."""
    import sys

    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UnsupportedEncoding, match=r"klyra-audit\[collector\]"):
        inflate(COMPRESSED["zstd"][0], "zstd")
