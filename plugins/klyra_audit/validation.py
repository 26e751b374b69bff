"""Whether an event document satisfies its schema and the rules that JSON Schema cannot state (DESIGN section 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonschema_rs

from klyra_audit import timestamps
from klyra_audit.catalog import ENTRY_SCHEMA
from klyra_audit.errors import InvalidEvent
from klyra_audit.format.canonical import escape

if TYPE_CHECKING:
    from klyra_audit.catalog import Catalog
    from klyra_audit.explanation import Explainer
    from klyra_audit.format.canonical import JsonObject

MAX_FUTURE_US = 15 * 60 * timestamps.MICROSECONDS

_NUL_ESCAPED = b"\\u0000"


class Validator:
    """Checks event documents; compiled once for every type of a catalog. Thread-safe."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        schemas = catalog.schemas()
        entry = schemas[ENTRY_SCHEMA]
        registry = jsonschema_rs.Registry([(entry["$id"], entry)])
        self._compiled = {
            (item.schema, name): jsonschema_rs.validator_for(
                schemas[item.schema_id], registry=registry, validate_formats=True
            )
            for name, item in catalog.event_types.items()
        }
        self._explainer: Explainer | None = None

    def check(self, document: JsonObject, encoded: bytes, *, now_us: int) -> None:
        """Raise `InvalidEvent` with pointer and reason unless the document may be sealed.

        Args:
            document: of the JSON profile, so free of floats.
            encoded: its canonical bytes.
            now_us: microseconds since 1970, against which a future timestamp is judged.
        """
        event_type, schema = document.get("event_type"), document.get("schema")
        named = isinstance(schema, str) and isinstance(event_type, str)
        validator = self._compiled.get((schema, event_type)) if named else None  # type: ignore[arg-type] # both are str
        if validator is None:
            raise self._unknown(schema, event_type)
        if not validator.is_valid(document):
            raise self._explain(document)
        if _NUL_ESCAPED in encoded:
            _refuse_nul(document, "")
        _refuse_future(document["timestamp"], now_us)

    def _unknown(self, schema: object, event_type: object) -> InvalidEvent:
        known = {item.schema for item in self._catalog.event_types.values()}
        if schema not in known:
            return InvalidEvent(f"must be one of {', '.join(sorted(known))}", pointer="/schema")
        return InvalidEvent("is not an event type of the catalog", pointer="/event_type", code="unknown_event_type")

    def _explain(self, document: JsonObject) -> InvalidEvent:
        if self._explainer is None:
            from klyra_audit.explanation import Explainer  # noqa: PLC0415 - slow to import, rarely needed

            self._explainer = Explainer(self._catalog)
        return self._explainer.explain(document)


def _refuse_future(timestamp: str, now_us: int) -> None:
    try:
        event_us = timestamps.to_nanoseconds(timestamp) // 1000
    except ValueError as error:
        raise InvalidEvent("is no date and time that exists", pointer="/timestamp") from error
    if event_us > now_us + MAX_FUTURE_US:
        raise InvalidEvent(
            "lies more than 15 minutes in the future; check the sender's clock", pointer="/timestamp"
        )


def _refuse_nul(value: Any, pointer: str) -> None:  # noqa: ANN401 - any JSON
    """Raise for the first string that has U+0000; an escaped backslash before u0000 is none."""
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidEvent("has the character U+0000", pointer=pointer)
    elif isinstance(value, dict):
        for key, member in value.items():
            _refuse_nul(member, f"{pointer}/{escape(key)}")
    elif isinstance(value, list):
        for position, member in enumerate(value):
            _refuse_nul(member, f"{pointer}/{position}")
