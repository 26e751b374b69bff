"""Whether an event document satisfies its schema and the rules that JSON Schema cannot state (DESIGN section 4).

`check` is on the path of every event: one call into a compiled schema, then comparisons. Only a document that failed
is looked at again, slowly, for the place and the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from klyra_audit import timestamps
from klyra_audit.catalog import ENTRY_SCHEMA, compile_schema
from klyra_audit.errors import InvalidEvent
from klyra_audit.format.canonical import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jsonschema import Draft202012Validator

    from klyra_audit.catalog import Catalog
    from klyra_audit.format.canonical import JsonObject

MAX_FUTURE_SECONDS: Final = 15 * 60

_NUL_ESCAPED = b"\\u0000"
_SECONDS_LENGTH = len("2026-01-01T00:00:00")
_NANOSECONDS_PER_MICROSECOND = timestamps.NANOSECONDS // timestamps.MICROSECONDS


class Validator:
    """Checks event documents against the schemas of a catalog, each compiled once. Thread-safe."""

    def __init__(self, catalog: Catalog) -> None:
        self._schemas = {schema_id: orjson.loads(encoded) for schema_id, encoded in catalog.schemas().items()}
        self._schema_ids = {(item.schema, item.name): item.schema_id for item in catalog.event_types.values()}
        entry = self._schemas[ENTRY_SCHEMA]
        self._is_valid: dict[tuple[object, object], Callable[[object], bool]] = {
            key: compile_schema(self._schemas[schema_id], entry).is_valid for key, schema_id in self._schema_ids.items()
        }
        self._slow: dict[str, Draft202012Validator] = {}  # by schema id, each made when it is first needed
        self._latest = (0, "")  # a second of the clock, and the latest time that was still valid in it

    def check(self, document: JsonObject, encoded: bytes, *, now_us: int) -> None:
        """Return if the document may be sealed.

        Args:
            document: an event document of the JSON profile.
            encoded: its canonical bytes.
            now_us: microseconds since 1970 by the caller's clock, to judge timestamps in the future.

        Raises:
            InvalidEvent: with the pointer to the member and a reason that does not quote it.
        """
        try:
            is_valid = self._is_valid[document["schema"], document["event_type"]]
        except (KeyError, TypeError):
            raise self._unknown(document) from None
        if not is_valid(document) or _has_float(document["metadata"]):
            raise self._explain(document)
        if _NUL_ESCAPED in encoded:
            _refuse_nul(document)
        timestamp = document["timestamp"]
        if timestamp[:_SECONDS_LENGTH] >= self._latest_second(now_us):
            _refuse_future(timestamp, now_us)

    def _latest_second(self, now_us: int) -> str:
        """Return the second in which the valid future ends, as text that timestamps can be compared with."""
        second = now_us // timestamps.MICROSECONDS
        latest = self._latest
        if latest[0] != second:
            limit = timestamps.from_microseconds((second + MAX_FUTURE_SECONDS) * timestamps.MICROSECONDS)
            self._latest = latest = (second, limit[:_SECONDS_LENGTH])
        return latest[1]

    def _unknown(self, document: JsonObject) -> InvalidEvent:
        """Return the error for a document that no schema of the catalog is for."""
        schemas = sorted({schema for schema, _ in self._schema_ids})
        for member in ("schema", "event_type"):
            if member not in document:
                return InvalidEvent("is required", pointer=f"/{member}")
        if document["schema"] not in schemas:
            return InvalidEvent(f"must be {' or '.join(schemas)}", pointer="/schema", code="unknown_schema")
        return InvalidEvent("is not in the catalog of event types", pointer="/event_type", code="unknown_event_type")

    def _explain(self, document: JsonObject) -> InvalidEvent:
        """Return the error for a document that its schema, or the ban on floats, refuses."""
        from klyra_audit import explanation  # noqa: PLC0415 - slow to import, and most senders never need it

        pointer = next(_floats(document, ""), None)
        if pointer is not None:
            return InvalidEvent(
                'is a floating-point number; scores and other fractions are decimal strings, such as "0.87"',
                pointer=pointer,
            )
        schema_id = self._schema_ids[document["schema"], document["event_type"]]
        slow = self._slow.get(schema_id)
        if slow is None:
            slow = explanation.slow_validator(self._schemas[schema_id], self._schemas[ENTRY_SCHEMA])
            self._slow[schema_id] = slow
        fault = explanation.first_fault(slow, document)
        if fault is None:  # the two implementations differ, and the fast one decides
            return InvalidEvent("breaks the schema of its event type")
        return InvalidEvent(fault.reason, pointer=fault.pointer)


def _has_float(value: object) -> bool:
    """Say whether a float stands anywhere in JSON; a schema's integer also accepts 3.0."""
    kind = type(value)
    if kind is dict:
        value = value.values()  # type: ignore[attr-defined] # kind is dict
    elif kind is not list:
        return kind is float
    for member in value:  # type: ignore[attr-defined] # the members of a dict or a list
        kind = type(member)
        if kind is float or ((kind is dict or kind is list) and _has_float(member)):
            return True
    return False


def _floats(value: object, pointer: str) -> Iterator[str]:
    """Yield the pointers of all floats."""
    if isinstance(value, float):
        yield pointer
    for name, member in _members(value):
        yield from _floats(member, f"{pointer}/{escape(name)}")


def _refuse_nul(document: JsonObject) -> None:
    """Raise for the first string or key that has U+0000; a backslash before `u0000` in the text itself is none."""
    pointer = next(_nuls(document, ""), None)
    if pointer is not None:
        raise InvalidEvent("has the character U+0000, which is nowhere allowed", pointer=pointer)


def _nuls(value: object, pointer: str) -> Iterator[str]:
    """Yield the pointers of all strings with U+0000, and of the objects that have such a key."""
    if isinstance(value, str) and "\0" in value:
        yield pointer
    for name, member in _members(value):
        if "\0" in name:
            yield pointer
        yield from _nuls(member, f"{pointer}/{escape(name)}")


def _members(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from ((str(position), member) for position, member in enumerate(value))


def _refuse_future(timestamp: str, now_us: int) -> None:
    latest_us = now_us + MAX_FUTURE_SECONDS * timestamps.MICROSECONDS
    if timestamps.to_nanoseconds(timestamp) > latest_us * _NANOSECONDS_PER_MICROSECOND:
        raise InvalidEvent(
            "is more than 15 minutes in the future; check the sender's clock",
            pointer="/timestamp",
            code="future_timestamp",
        )
