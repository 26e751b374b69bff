"""A quarantined input as text that a person can read. Hostile input gives some text, never an error."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

import orjson
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from klyra_audit.errors import KlyraError
from klyra_audit.forward.entry import decode_entry, plain
from klyra_audit.forward.message import decode_message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from klyra_audit.format.quarantined import KeptInput

MAX_CHARACTERS: Final = 64 * 1024

_CUT: Final = "\n… (cut here; the bytes have the rest)"


def preview_of(kept: KeptInput) -> str:
    """Return what came, as indented JSON where it can be read, else its printable characters."""
    read = _READERS.get(kept.encoding)
    try:
        text = _printable(kept.content) if read is None else _json(read(kept.content))
    except (ValueError, RecursionError, DecodeError, KlyraError, TypeError):
        text = _printable(kept.content)
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + _CUT


def _protobuf(content: bytes) -> Any:  # noqa: ANN401 - JSON
    return MessageToDict(ExportLogsServiceRequest.FromString(content))


def _forward(content: bytes) -> Any:  # noqa: ANN401 - JSON
    message = decode_message(content)
    if message is None:
        raise ValueError("a heartbeat")
    entries = [decode_entry(entry.raw) for entry in message.entries if entry.fault is None]
    shown = [{"time_unix_nano": entry.time_unix_nano, "record": plain(entry.record)} for entry in entries]
    return {"tag": message.tag, "entries": shown}


_READERS: Final[Mapping[str, Callable[[bytes], Any]]] = {
    "otlp-protobuf": _protobuf,
    "otlp-json": orjson.loads,
    "document": orjson.loads,
    "forward": _forward,
    "forward-unacknowledged": _forward,
}


def _json(value: Any) -> str:  # noqa: ANN401 - JSON
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(value, default=_as_text, option=options).decode()


def _as_text(value: object) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _printable(content: bytes) -> str:
    text = content[: 4 * MAX_CHARACTERS].decode("utf-8", "replace")
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)
