"""Renderings of entries for people and programs: the eight members, JSON, and CSV (DESIGN section 7).

What an export writes and what a verifier writes again from a packet's entries must agree byte for byte, so both do
it here.
"""

from __future__ import annotations

import csv
import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

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
_FORMULA = frozenset("=+-@\t\r")


def entry_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the eight members of an event document in the product page's order; null stands for what was erased.

    Raises:
        KeyError, TypeError, AttributeError: it is no event document.
    """
    return {
        "id": document["id"],
        "timestamp": document["timestamp"],
        "event_type": document["event_type"],
        "actor": _party(document["actor"]),
        "resource": _party(document["resource"]),
        "action": document["action"],
        "status": document["status"],
        "metadata": document["metadata"],
    }


def joined(core: bytes, *parts: bytes | None) -> dict[str, Any]:
    """Return the eight members, out of an event's sections.

    The sections must be known to be what was sealed, and so to join: nothing is judged again. An erased or absent
    one is None.

    Raises:
        KeyError, TypeError, AttributeError, ValueError: they do not join to an event document.
    """
    document = orjson.loads(core)
    for encoded in parts:
        if encoded is None:
            continue
        for pointer, value in orjson.loads(encoded).items():
            *path, member = _tokens(pointer)
            parent = document
            for token in path:
                parent = parent[token]
            parent[member] = value
    return entry_of(document)


def json_array(batches: Iterable[list[bytes]]) -> Iterator[bytes]:
    """Yield one JSON array with an entry (JSON text) on each line."""
    opening = b"[\n"
    for batch in batches:
        if batch:
            yield opening + b",\n".join(batch)
            opening = b",\n"
    yield b"\n]\n" if opening == b",\n" else b"[]\n"


def comma_separated(batches: Iterable[list[bytes]]) -> Iterator[bytes]:
    """Yield RFC 4180 with CRLF in UTF-8: a header, then a row for each entry (JSON text)."""
    return comma_separated_entries([orjson.loads(entry) for entry in batch] for batch in batches)


def json_array_of_entries(batches: Iterable[list[dict[str, Any]]]) -> Iterator[bytes]:
    """Yield what `json_array` does, of entries that are not JSON text yet."""
    return json_array([orjson.dumps(entry) for entry in batch] for batch in batches)


def comma_separated_entries(batches: Iterable[list[dict[str, Any]]]) -> Iterator[bytes]:
    """Yield what `comma_separated` does, of entries that are not JSON text yet."""
    yield _csv([COLUMNS])
    for batch in batches:
        if batch:
            yield _csv(map(row_of, batch))


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
    # Most cells are plain text and need no call.
    return [cell if type(cell) is str and cell[:1] not in _FORMULA else _cell(cell) for cell in cells]


@lru_cache(maxsize=4096)
def _tokens(pointer: str) -> tuple[str, ...]:
    """Return the reference tokens of a JSON Pointer (RFC 6901 section 4)."""
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in pointer[1:].split("/"))


def _party(members: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": members["type"], "id": members.get("id"), "name": members.get("name")}


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return f"'{text}" if text[:1] in _FORMULA else text


def _csv(rows: Iterable[Iterable[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()
