"""Which fields the documents have, from the mappings that `klyra-audit setup elasticsearch` installs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

DEFINITIONS: Final = ("collectors", "klyra_collector", "store", "elasticsearch", "definitions")
RECORDS: Final = "___records___"  # what Lens calls the documents themselves

# stream of a data view → file of its mapping
_FILES: Final = {"entries": "entries", "quarantine": "quarantine", "health": "health-stream"}
_KINDS: Final = {
    "keyword": "string",
    "text": "string",
    "flattened": "string",
    "ip": "ip",
    "boolean": "boolean",
    "date": "date",
    "date_nanos": "date",
    "integer": "number",
    "long": "number",
    "double": "number",
}


class SourceWrong(Exception):  # noqa: N818 - said of the sources
    """A source that cannot be made into what it says."""


Fields = dict[str, dict[str, Any]]


def mappings(root: Path) -> dict[str, Fields]:
    """Return stream → dotted field name → its definition, as written."""
    found: dict[str, Fields] = {}
    for stream, file in _FILES.items():
        body = json.loads(root.joinpath(*DEFINITIONS, f"{file}.json").read_text())
        found[stream] = dict(_flat(body["template"]["mappings"]["properties"]))
    return found


def resolved(fields: Fields, name: str) -> dict[str, Any]:
    """Return the definition of a field, that of its target for an alias.

    Raises:
        SourceWrong: there is no such field.
    """
    field = fields.get(name)
    if field is None:
        raise SourceWrong(f"there is no field {name}")
    return resolved(fields, field["path"]) if field["type"] == "alias" else field


def kind_of(fields: Fields, name: str) -> str:
    """Return what Lens calls a field's type; errors as `resolved`."""
    return _KINDS[resolved(fields, name)["type"]]


def is_aggregatable(fields: Fields, name: str) -> bool:
    """Say whether values of a field can be counted, not only found; errors as `resolved`."""
    field = resolved(fields, name)
    return field["type"] not in ("text", "flattened") and bool(field.get("doc_values", True))


def is_searchable(fields: Fields, name: str) -> bool:
    """Say whether a query may name a field; errors as `resolved`."""
    field = resolved(fields, name)
    return bool(field.get("index", True) or field.get("doc_values", True))


def _flat(properties: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in properties.items():
        if "properties" in field:
            yield from _flat(field["properties"], f"{prefix}{name}.")
            continue
        yield f"{prefix}{name}", field
        for inner, multi in field.get("fields", {}).items():
            yield f"{prefix}{name}.{inner}", multi
