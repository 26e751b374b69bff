"""Renderings of an export: from entries as the store has them to the bytes of a file (DESIGN section 7)."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

COLUMNS: Final = (
    "id",
    "timestamp",
    "event_type",
    "actor_type",
    "actor_id",
    "actor_name",
    "resource_type",
    "resource_id",
    "resource_name",
    "action",
    "status",
    "client_ip",
    "user_agent",
    "metadata",
)

# A spreadsheet takes a cell that begins with one of these for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Rendering:
    """A format of export files.

    Attributes:
        media_type: Content-Type of the file.
        render: turns batches of entries (JSON text each) into chunks of the file, the last with its end.
    """

    media_type: str
    render: Callable[[Iterable[list[bytes]]], Iterator[bytes]]


def json_array(batches: Iterable[list[bytes]]) -> Iterator[bytes]:
    """Yield one JSON array with an entry on each line."""
    opening = b"[\n"
    for batch in batches:
        if batch:
            yield opening + b",\n".join(batch)
            opening = b",\n"
    yield b"\n]\n" if opening == b",\n" else b"[]\n"


def ndjson(batches: Iterable[list[bytes]]) -> Iterator[bytes]:
    """Yield one entry on each line and nothing else."""
    for batch in batches:
        if batch:
            yield b"\n".join(batch) + b"\n"


def comma_separated(batches: Iterable[list[bytes]]) -> Iterator[bytes]:
    """Yield RFC 4180 with CRLF in UTF-8: a header, then a row for each entry."""
    yield _csv([COLUMNS])
    for batch in batches:
        if batch:
            yield _csv(row_of(orjson.loads(entry)) for entry in batch)


RENDERINGS: Final[Mapping[str, Rendering]] = MappingProxyType(
    {
        "json": Rendering("application/json", json_array),
        "ndjson": Rendering("application/x-ndjson", ndjson),
        "csv": Rendering("text/csv; charset=utf-8; header=present", comma_separated),
    }
)


def row_of(entry: Mapping[str, Any]) -> list[str]:
    """Return the cells of an entry, in the order of `COLUMNS`."""
    actor, resource, metadata = entry["actor"], entry["resource"], entry["metadata"]
    cells = (
        entry["id"],
        entry["timestamp"],
        entry["event_type"],
        actor["type"],
        actor["id"],
        actor["name"],
        resource["type"],
        resource["id"],
        resource["name"],
        entry["action"],
        entry["status"],
        metadata.get("client_ip"),
        metadata.get("user_agent"),
        orjson.dumps(metadata).decode(),
    )
    return [_cell(value) for value in cells]


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return f"'{text}" if text.startswith(_FORMULA) else text


def _csv(rows: Iterable[Iterable[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()
