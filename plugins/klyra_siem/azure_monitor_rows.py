"""Rows of Azure Monitor: which columns a table has, and what an entry puts into them.

The columns are those of the data collection rule's stream and of the table: a column that the rule does not declare is
dropped without a word. `Record` is the record as the destination's format writes it, as text: nothing that Azure
reorders or rounds. A value longer than 64 KB is cut off by Azure, so that a long record goes on in `Record2` to
`Record4`; `strcat(Record, Record2, Record3, Record4)` is the whole.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

import orjson

from klyra_audit import timestamps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klyra_siem.destination import RecordFormat, SealedEntry

RECORD_COLUMNS: Final = ("Record", "Record2", "Record3", "Record4")

# Names that Azure keeps for itself (Azure Monitor, "Create a custom table", "Column names").
RESERVED: Final = frozenset({"id", "Title", "Type", "TenantId", "UniqueId", "_ResourceId", "_SubscriptionId"})

COLUMNS: Final[Mapping[str, str]] = {
    "TimeGenerated": "datetime",
    "EventTime": "datetime",
    "EventId": "string",
    "EventType": "string",
    "Action": "string",
    "Status": "string",
    "OrganizationId": "string",
    "ActorType": "string",
    "ActorId": "string",
    "ActorName": "string",
    "ResourceType": "string",
    "ResourceId": "string",
    "ResourceName": "string",
    "ClientIp": "string",
    "LogOrigin": "string",
    "LogIndex": "long",
    "Leaf": "string",
    "RecordFormat": "string",
    **dict.fromkeys(RECORD_COLUMNS, "string"),
}

VALUE_BYTES: Final = 60_000  # of 65,536

_NS_PER_MICROSECOND = 1000
_LONGEST_CHARACTER = 4


def row(entry: SealedEntry, record_format: RecordFormat) -> bytes:
    """Return an entry's row, JSON. Of a record that is too long (`fits`) the rest is in columns that do not exist."""
    document = entry.document
    parts = divided(record_format.encode(entry).decode())
    members = {
        "TimeGenerated": _moment(entry.filed_ns),
        "EventTime": _moment(timestamps.to_nanoseconds(document["timestamp"])),
        "EventId": entry.entry_id,
        "EventType": document["event_type"],
        "Action": document.get("action"),
        "Status": document.get("status"),
        "OrganizationId": entry.organization_id,
        **_named("Actor", document.get("actor")),
        **_named("Resource", document.get("resource")),
        "ClientIp": _member(document.get("metadata"), "client_ip"),
        "LogOrigin": entry.origin,
        "LogIndex": entry.index,
        "Leaf": base64.b64encode(entry.leaf).decode(),
        "RecordFormat": record_format.name,
        **{f"Record{number or ''}": part for number, part in zip((0, *range(2, len(parts) + 1)), parts, strict=True)},
    }
    return orjson.dumps({name: value for name, value in members.items() if value is not None})


def fits(record: bytes) -> bool:
    """Say whether the columns hold a record, wherever it is cut."""
    return len(record) <= len(RECORD_COLUMNS) * (VALUE_BYTES - _LONGEST_CHARACTER)


def divided(text: str) -> list[str]:
    """Return a text in pieces of at most `VALUE_BYTES` bytes of UTF-8, cut between characters."""
    encoded = text.encode()
    if len(encoded) <= VALUE_BYTES:
        return [text]
    parts, begin = [], 0
    while begin < len(encoded):
        end = min(begin + VALUE_BYTES, len(encoded))
        while end < len(encoded) and encoded[end] & 0xC0 == 0x80:  # noqa: PLR2004 - a byte inside a character
            end -= 1
        parts.append(encoded[begin:end].decode())
        begin = end
    return parts


def _named(column: str, party: object) -> dict[str, Any]:
    return {f"{column}{name.title()}": _member(party, name) for name in ("type", "id", "name")}


def _member(value: object, name: str) -> Any:  # noqa: ANN401 - any member of a document
    """Return a member of an object; None where it is absent, as what was erased is."""
    return value.get(name) if isinstance(value, dict) else None


def _moment(nanoseconds: int) -> str:
    """Return a time as Azure reads it, to the microsecond: its own clock ticks are 100 ns."""
    return timestamps.from_nanoseconds(nanoseconds // _NS_PER_MICROSECOND * _NS_PER_MICROSECOND)
