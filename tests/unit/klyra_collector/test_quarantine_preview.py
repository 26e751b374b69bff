"""Quarantined input as text: readable where it can be read, and some text whatever it is."""

from __future__ import annotations

import os

import msgpack
import orjson
import pytest

from klyra_audit.format.quarantined import KeptInput
from klyra_collector.quarantine_preview import MAX_CHARACTERS, preview_of
from support import otlp


def preview(encoding: str, content: bytes) -> str:
    """Return an input's text."""
    return preview_of(KeptInput(encoding, None, content))


def test_protobuf_reads_as_json() -> None:
    """As OTLP's own JSON writes it."""
    shown = orjson.loads(preview("otlp-protobuf", otlp.foreign(otlp.MAPPED, resource={"service.name": "shop"})))
    [logs] = shown["resourceLogs"]
    assert logs["resource"]["attributes"] == [{"key": "service.name", "value": {"stringValue": "shop"}}]
    assert logs["scopeLogs"][0]["logRecords"][0]["eventName"] == "user.removed"


@pytest.mark.parametrize("encoding", ["otlp-json", "document"])
def test_json_is_indented(encoding) -> None:
    """For reading."""
    assert preview(encoding, b'{"a":[1]}') == '{\n  "a": [\n    1\n  ]\n}'


def test_forward_reads_with_its_tag() -> None:
    """Bytes become base64, other keys text."""
    message = msgpack.packb(["a.b", [[1, {"x": b"\xff", "y": {"z": None}}]]])
    shown = orjson.loads(preview("forward", message))
    [entry] = shown["entries"]
    assert (shown["tag"], entry["time_unix_nano"]) == ("a.b", 1_000_000_000)
    assert entry["record"] == {"x": "/w==", "y": {"z": None}}


@pytest.mark.parametrize(
    "encoding", ["otlp-protobuf", "otlp-json", "document", "forward", "forward-unacknowledged", "unknown", "later"]
)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc0",
        b"\xc1",
        b"plain",
        b"[" * 100_000,
        b'{"a":1',
        b"\x1b[2J\x00\n",
        b"\x92\xa1t\x91\x92\x01",
        os.urandom(999),
    ],
)
def test_any_bytes_give_some_text(encoding, content) -> None:
    """Hostile input never fails, and never drives a terminal."""
    text = preview(encoding, content)
    assert all(character.isprintable() or character == "\n" for character in text)


def test_a_long_one_is_cut() -> None:
    """And says so."""
    text = preview("unknown", b"x" * (2 * MAX_CHARACTERS))
    assert text.startswith("x" * MAX_CHARACTERS)
    assert "cut here" in text[MAX_CHARACTERS:]
