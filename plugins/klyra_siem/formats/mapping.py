"""The tables of `mappings/*.json`: what an event is in other vocabularies.

`event_types.json` has a row for each of the catalog's moderation and administrative types. A type without a row, such
as one of an application's own catalog, and an event whose action is not its row's, is told by its action alone.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from klyra_audit.format.canonical import JsonObject

FAILURE: Final = "failure"
ERASED: Final = "[erased]"

_HIGHEST_SEVERITY = 3


@cache
def table(name: str) -> JsonObject:
    """Return one of the tables, by its file's name without `.json`."""
    loaded: JsonObject = orjson.loads((files("klyra_siem.formats") / "mappings" / f"{name}.json").read_bytes())
    return loaded


def row_of(document: JsonObject) -> JsonObject:
    """Return what an event is: its type's row, or that of its action."""
    types = table("event_types")
    row: JsonObject | None = types["event_types"].get(document["event_type"])
    if row is not None and row["action"] == document["action"]:
        return row
    title = str(document["event_type"]) if row is None else row["title"]
    return {"title": title, **types["actions"][document["action"]]}


def severity_of(document: JsonObject, row: JsonObject) -> int:
    """Return 1 (informational), 2 or 3: one more than its row's for what failed."""
    severity: int = row["severity"]
    return min(severity + int(document["status"] == FAILURE), _HIGHEST_SEVERITY)


def member(document: JsonObject, *path: str) -> Any:  # noqa: ANN401 - any member of a document
    """Return a member of a document; None where it is absent, as what was erased is."""
    value: Any = document
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def without_none(members: JsonObject) -> JsonObject:
    """Return an object without the members that are None or empty objects."""
    return {name: value for name, value in members.items() if value is not None and value != {}}
