"""Say why a document breaks its schema: where, and what would be right, without quoting what was sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonschema
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from klyra_audit.catalog import ENTRY_SCHEMA
from klyra_audit.errors import InvalidEvent
from klyra_audit.format.canonical import escape

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jsonschema import ValidationError

    from klyra_audit.catalog import Catalog
    from klyra_audit.format.canonical import JsonObject

_TEMPLATES = {
    "const": "must be {!r}",
    "enum": "must be one of {!r}",
    "minLength": "is too short",
    "maxLength": "is longer than {} characters",
    "minimum": "is less than {}",
    "maximum": "is more than {}",
    "format": "is not a valid {}",
    "pattern": "does not have the form {}",
    "not": "has a character that may not stand there",
}


class Explainer:
    """Slow and precise: asked only about documents that are known to be invalid."""

    def __init__(self, catalog: Catalog) -> None:
        schemas = catalog.schemas()
        entry = schemas[ENTRY_SCHEMA]
        registry: Registry[Any] = Registry().with_resource(entry["$id"], DRAFT202012.create_resource(entry))
        checker = FormatChecker(["date-time", "ipv4", "ipv6"])
        self._validators = {
            (item.schema, name): Draft202012Validator(
                schemas[item.schema_id], registry=registry, format_checker=checker
            )
            for name, item in catalog.event_types.items()
        }

    def errors(self, document: JsonObject) -> list[ValidationError]:
        """Return everything wrong with a document of a known type, the most telling first."""
        validator = self._validators[document["schema"], document["event_type"]]
        return sorted(validator.iter_errors(document), key=jsonschema.exceptions.relevance, reverse=True)

    def explain(self, document: JsonObject) -> InvalidEvent:
        """Return the error to raise for an invalid document."""
        found = self.errors(document)
        if not found:
            return InvalidEvent("breaks its schema")
        error = found[0]
        pointer = _pointer(error.absolute_path)
        if error.validator == "required":
            return InvalidEvent("is required", pointer=f"{pointer}/{escape(_missing(error))}")
        if error.validator == "additionalProperties":
            return InvalidEvent("is not a member that may stand here", pointer=f"{pointer}/{escape(_extra(error))}")
        return InvalidEvent(_reason(error), pointer=pointer)


def _reason(error: ValidationError) -> str:
    keyword = str(error.validator)
    wanted: Any = error.validator_value
    if keyword == "type" and isinstance(error.instance, float):
        return "is a floating-point number; scores and other fractions are decimal strings"
    if keyword == "type":
        return f"must be of type {wanted if isinstance(wanted, str) else ' or '.join(wanted)}"
    if keyword == "anyOf":
        return "is neither an IPv4 nor an IPv6 address" if _is_address(error) else "has none of the allowed forms"
    template = _TEMPLATES.get(keyword, f"breaks the rule {keyword} of its schema")
    return template.format(wanted)


def _is_address(error: ValidationError) -> bool:
    return isinstance(error.validator_value, list) and all("format" in str(item) for item in error.validator_value)


def _missing(error: ValidationError) -> str:
    instance: Any = error.instance
    wanted: Any = error.validator_value
    return next((name for name in wanted if name not in instance), "")


def _extra(error: ValidationError) -> str:
    """Return the first member that may not be there; its name is the sender's, so it is cut short."""
    known: Any = error.schema
    instance: Any = error.instance
    allowed = known.get("properties", {}) if isinstance(known, dict) else {}
    return next((str(name)[:128] for name in instance if name not in allowed), "")


def _pointer(path: Iterable[str | int]) -> str:
    return "".join(f"/{escape(str(part))}" for part in path)
