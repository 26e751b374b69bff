"""OTLP log requests as JSON (opentelemetry-proto specification, JSON Protobuf Encoding; elsewhere proto3's own).

What is no OTLP request is refused whole. What is wrong inside one record, or in its resource or scope, costs only the
records it is about: they are quarantined. That holds for text that is not UTF-8, too, though it is no JSON: clients
would drop, or send for ever, the good records beside it.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import orjson

from klyra_audit.mapping.foreign import Foreign
from klyra_collector.receive.wire import (
    OTLP_JSON,
    OWN_PREFIX,
    RECORD_ID,
    SALTS,
    SECTIONS,
    SEQUENCE,
    DuplicateAttribute,
    MalformedRecord,
    MalformedRequest,
    OwnForm,
    Scope,
    UnreadableRecord,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from klyra_collector.receive.wire import WireRecord

_MAX_NESTING: Final = 32
_INTEGER: Final = re.compile(r"-?[0-9]{1,20}")
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?|NaN|-?Infinity")
_HEXADECIMAL: Final = re.compile(r"([0-9a-fA-F]{2})*")
_URL_SAFE: Final = str.maketrans("-_", "+/")
_MAX_EXACT: Final = 2**53
_MIN_INT64, _MAX_INT64 = -(2**63), 2**63 - 1
_MAX_UINT64, _MAX_UINT32 = 2**64 - 1, 2**32 - 1
_MIN_INT32, _MAX_INT32 = -(2**31), 2**31 - 1


def decode_json(body: bytes) -> list[WireRecord]:
    """Return the records of an OTLP/JSON request; `MalformedRequest` if it is none."""
    check: Callable[[object], None] = _accept_text
    try:
        request = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        request = _loads_what_is_not_utf8(body, error)
        check = _require_utf8
    records: list[WireRecord] = []
    for resource_logs in _objects_of(_request(request), "resourceLogs"):
        resource_members = _object_of(resource_logs, "resource")
        for scope_logs in _objects_of(resource_logs, "scopeLogs"):
            around = (resource_members, _object_of(scope_logs, "scope"))
            records.extend(_records(around, _listed(scope_logs, "logRecords"), check))
    return records


def _records(
    around: tuple[dict[str, Any], dict[str, Any]], listed: list[Any], check: Callable[[object], None]
) -> Iterator[WireRecord]:
    """Yield the records of one scope, their text checked; all of them are unreadable if it or the resource is."""
    try:
        check(around)
        resource, scope = _attributes_once(around[0]), _scope(around[1])
    except MalformedRecord as error:
        yield from (UnreadableRecord(_encode(around, members), OTLP_JSON, error.reason) for members in listed)
        return
    for members in listed:
        try:
            check(members)
            yield JsonRecord(resource, scope, _object(members), around)
        except MalformedRecord as error:
            yield UnreadableRecord(_encode(around, members), OTLP_JSON, error.reason)


class JsonRecord:
    """A record of an OTLP/JSON request; `around` are the objects of its resource and its scope."""

    __slots__ = ("_around", "_members", "_scope", "resource")
    encoding = OTLP_JSON

    def __init__(
        self,
        resource: dict[str, Any],
        scope: Scope,
        members: dict[str, Any],
        around: tuple[dict[str, Any], dict[str, Any]],
    ) -> None:
        self.resource = resource
        self._scope = scope
        self._members = members
        self._around = around

    def own_form(self) -> OwnForm | None:
        """See `WireRecord`."""
        own: dict[str, Any] = {}
        for attribute in _objects(self._members, "attributes"):
            key = _text(attribute.get("key"))
            if key.startswith(OWN_PREFIX):
                if key in own:
                    raise DuplicateAttribute(key)
                own[key] = _value(attribute.get("value"), _MAX_NESTING)
        if SALTS not in own:
            return None
        body = _value(self._members.get("body"), _MAX_NESTING)
        salts, sequence, sections = own[SALTS], own.get(SEQUENCE), own.get(SECTIONS)
        return OwnForm(
            body.encode() if isinstance(body, str) else b"",
            _text(self._members.get("eventName")),
            salts if isinstance(salts, bytes) else b"",
            sequence if isinstance(sequence, int) else None,
            sections if isinstance(sections, str) else None,
        )

    def foreign(self) -> Foreign:
        """See `WireRecord`."""
        members = self._members
        return Foreign(
            _text(members.get("eventName")),
            _value(members.get("body"), _MAX_NESTING),
            _attributes_once(members),
            _integer(members.get("timeUnixNano"), 0, _MAX_UINT64),
            _integer(members.get("observedTimeUnixNano"), 0, _MAX_UINT64),
            _hexadecimal(members.get("traceId")),
            _hexadecimal(members.get("spanId")),
            _enumeration(members.get("severityNumber")),
            _text(members.get("severityText")),
            _integer(members.get("flags"), 0, _MAX_UINT32),
            _integer(members.get("droppedAttributesCount"), 0, _MAX_UINT32),
            *self._scope,
        )

    def record_id(self) -> str | None:
        """See `WireRecord`; also of a record with which something is wrong."""
        attributes = self._members.get("attributes")
        for attribute in attributes if isinstance(attributes, list) else []:
            if isinstance(attribute, dict) and attribute.get("key") == RECORD_ID:
                value = attribute.get("value")
                found = value.get("stringValue") if isinstance(value, dict) else None
                return found if isinstance(found, str) else None
        return None

    def raw(self) -> bytes:
        """See `WireRecord`."""
        return _encode(self._around, self._members)


def _loads_what_is_not_utf8(body: bytes, error: orjson.JSONDecodeError) -> Any:  # noqa: ANN401 - any JSON
    """Return JSON whose text is not UTF-8 in places or has half a surrogate pair; a NaN is let through, too."""
    try:
        return json.loads(body.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        raise MalformedRequest(
            f"The body is not JSON: {error}.", remedy="Check the exporter's protocol and Content-Type."
        ) from error


def _encode(around: tuple[Any, Any], members: Any) -> bytes:  # noqa: ANN401 - whatever stood where a record should
    """Return a request of one record; what was not UTF-8 comes out as it came in, or escaped if that cannot be."""
    resource, scope = around
    scope_logs = {"scope": scope, "logRecords": [members]}
    request = {"resourceLogs": [{"resource": resource, "scopeLogs": [scope_logs]}]}
    try:
        return orjson.dumps(request)
    except TypeError:
        pass
    try:
        return json.dumps(request, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return json.dumps(request).encode()


def _accept_text(_: object) -> None:
    """Check nothing: the parser has."""


def _require_utf8(value: object) -> None:
    try:
        orjson.dumps(value)
    except TypeError as error:
        raise MalformedRecord("the record, its resource or its scope has text that is not UTF-8") from error


def _scope(members: dict[str, Any]) -> Scope:
    return Scope(_text(members.get("name")), _text(members.get("version")), _attributes_once(members))


def _attributes_once(members: dict[str, Any]) -> dict[str, Any]:
    return _map(_objects(members, "attributes"), _MAX_NESTING)


def _map(pairs: list[dict[str, Any]], nesting: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        key = _text(pair.get("key"))
        if key in values:
            raise DuplicateAttribute(key)
        values[key] = _value(pair.get("value"), nesting)
    return values


def _value(value: object, nesting: int) -> Any:  # noqa: ANN401 - an AnyValue holds anything
    """Return an AnyValue as Python's own; null and what we do not know are nothing."""
    if value is None:
        return None
    if nesting == 0:
        raise MalformedRecord(f"a value is nested deeper than {_MAX_NESTING} levels")
    for name, content in _object(value).items():
        if content is None:
            continue
        convert = _SCALARS.get(name)
        if convert is not None:
            return convert(content)
        if name == "arrayValue":
            return [_value(item, nesting - 1) for item in _objects(_object(content), "values")]
        if name == "kvlistValue":
            return _map(_objects(_object(content), "values"), nesting - 1)
    return None


def _int64(content: object) -> int:
    return _integer(content, _MIN_INT64, _MAX_INT64)


def _integer(content: object, least: int, most: int) -> int:
    """Read an integer, which proto3's JSON writes as digits, in a string if it has 64 bits; 0 if it is not there."""
    if content is None:
        return 0
    if _is_integer(content):
        content = int(content)
    if isinstance(content, bool) or not isinstance(content, int):
        raise MalformedRecord("an integer is neither a number nor a string of digits")
    if not least <= content <= most:
        raise MalformedRecord(f"an integer is not between {least} and {most}")
    return content


def _is_integer(content: object) -> TypeGuard[str | float]:
    """Recognise digits in a string, and a number with a fraction of zero or an exponent."""
    if isinstance(content, str):
        return _INTEGER.fullmatch(content) is not None
    return isinstance(content, float) and content.is_integer() and abs(content) <= _MAX_EXACT


def _enumeration(content: object) -> int:
    """Read an enumeration, which OTLP/JSON writes only as its number."""
    if isinstance(content, str):
        raise MalformedRecord("an enumeration is written by its name; OTLP/JSON has its number")
    return _integer(content, _MIN_INT32, _MAX_INT32)


def _hexadecimal(content: object) -> str:
    """Read a trace or span id, which OTLP/JSON writes in hexadecimal of either case; as lower case."""
    text = _text(content)
    if _HEXADECIMAL.fullmatch(text) is None:
        raise MalformedRecord("a trace or span id is not hexadecimal")
    return text.lower()


def _bytes(content: object) -> bytes:
    """Read base64, standard or for URLs, padded or not: proto3's JSON allows all four."""
    text = _text(content).translate(_URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedRecord("a bytesValue is not base64") from error


def _double(content: object) -> float:
    if isinstance(content, str) and _NUMBER.fullmatch(content):
        return float(content)
    if isinstance(content, int | float) and not isinstance(content, bool):
        return _as_double(content)
    raise MalformedRecord("a doubleValue is no number")


def _as_double(content: float) -> float:
    try:
        return float(content)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf if content > 0 else -math.inf


def _boolean(content: object) -> bool:
    if isinstance(content, bool):
        return content
    raise MalformedRecord("a boolValue is neither true nor false")


def _text(content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    raise MalformedRecord("a member that must be a string is none")


_SCALARS: Final[dict[str, Callable[[object], Any]]] = {
    "stringValue": _text,
    "intValue": _int64,
    "doubleValue": _double,
    "boolValue": _boolean,
    "bytesValue": _bytes,
}


def _object(value: object) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise MalformedRecord("the record has something else where a JSON object must be")


def _objects(members: dict[str, Any], name: str) -> list[dict[str, Any]]:
    listed = members.get(name)
    if listed is None:
        return []
    if isinstance(listed, list) and all(isinstance(item, dict) for item in listed):
        return listed
    raise MalformedRecord(f"{name} is not a list of objects")


def _request(value: object) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise MalformedRequest("The request is not a JSON object.")


def _object_of(members: dict[str, Any], name: str) -> dict[str, Any]:
    """Return an object of the request's frame."""
    value = members.get(name)
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise MalformedRequest(f"{name} is not a JSON object.")


def _objects_of(members: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return a list of objects of the request's frame."""
    listed = _listed(members, name)
    if all(isinstance(item, dict) for item in listed):
        return listed
    raise MalformedRequest(f"{name} is not a list of objects.")


def _listed(members: dict[str, Any], name: str) -> list[Any]:
    listed = members.get(name)
    if listed is None:
        return []
    if isinstance(listed, list):
        return listed
    raise MalformedRequest(f"{name} is not a list.")
