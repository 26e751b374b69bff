"""The bytes that the OpenTelemetry audit draft signs: one log record as canonical JSON. Pure.

Sources: the draft's data model, "Integrity Attributes", and the Collector's `signingprocessor`: an RFC 8785 object
with the members `event_name`, `body`, `timestamp`, `observed_timestamp`, `trace_id`, `span_id` and `attributes`, each
left out when empty. Scalars carry their OTLP type (`{"intValue":"123"}`), lists and maps stand bare, an unset value is
null. `audit.integrity.*`, severity, flags, scope and resource are not signed.

Ledger bytes are never made here: they have no fractions and are `klyra_audit.format.canonical`'s.
"""

from __future__ import annotations

import base64
import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from klyra_audit.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

INTEGRITY_PREFIX: Final = "audit.integrity."
MAX_DEPTH: Final = 128  # as the signingprocessor: deeper values are refused, not signed
MAX_BYTES: Final = 2 * 1024 * 1024

_MOST_DIGITS = 21  # ECMAScript writes larger numbers with an exponent
_LEAST_EXPONENT = -6


class NotCanonical(Rejected):
    """The record has no canonical form: NaN or infinity, no Unicode, too deep, too long, or not of OTLP."""

    code = "not_canonical"


class SignedFields(NamedTuple):
    """What of a log record is signed, its values as Python's own.

    Attributes:
        event_name: "" for none.
        body: None for an unset one.
        attributes: all of them; `audit.integrity.*` is left out here.
        time_unix_nano, observed_time_unix_nano: 0 for none.
        trace_id, span_id: lower-case hex, empty or zeros for none.
    """

    event_name: str
    body: Any
    attributes: Mapping[str, Any]
    time_unix_nano: int
    observed_time_unix_nano: int
    trace_id: str
    span_id: str


def canonical_record(fields: SignedFields) -> bytes:
    """Return the bytes that a signature covers; `NotCanonical` if there can be none."""
    members: list[tuple[str, str]] = []
    attributes = {name: value for name, value in fields.attributes.items() if not name.startswith(INTEGRITY_PREFIX)}
    if attributes:
        members.append(("attributes", _tagged(attributes, 0)))
    if fields.body is not None:
        members.append(("body", _tagged(fields.body, 0)))
    if fields.event_name:
        members.append(("event_name", _text(fields.event_name)))
    for name, time in (("timestamp", fields.time_unix_nano), ("observed_timestamp", fields.observed_time_unix_nano)):
        if time:
            members.append((name, f'"{time}"'))
    for name, identity in (("trace_id", fields.trace_id), ("span_id", fields.span_id)):
        if identity.strip("0"):
            members.append((name, _text(identity)))
    encoded = _object(members).encode()
    if len(encoded) > MAX_BYTES:
        raise NotCanonical(f"The canonical form is {len(encoded)} bytes long; the limit is {MAX_BYTES}.")
    return encoded


def _tagged(value: Any, depth: int) -> str:  # noqa: ANN401 - an OTLP value is anything
    """Return a value as JSON, scalars with their type."""
    if depth > MAX_DEPTH:
        raise NotCanonical(f"A value is nested deeper than {MAX_DEPTH} levels.")
    if value is None:
        return "null"
    if isinstance(value, dict):
        return _object([(name, _tagged(inner, depth + 1)) for name, inner in value.items()])
    if isinstance(value, list):
        return f"[{','.join([_tagged(inner, depth + 1) for inner in value])}]"
    scalar = _SCALARS.get(type(value))
    if scalar is None:
        raise NotCanonical(f"A value is of a kind that OTLP does not have: {type(value).__name__}.")
    name, write = scalar
    return f'{{"{name}":{write(value)}}}'


def _object(members: Sequence[tuple[str, str]]) -> str:
    """Return an object with its names in the order of RFC 8785: by UTF-16 code units."""
    if not all(isinstance(name, str) for name, _ in members):
        raise NotCanonical("A name in a map is no text.")
    ordered = sorted(members, key=lambda member: member[0].encode("utf-16-be", "surrogatepass"))
    return f"{{{','.join([f'{_text(name)}:{value}' for name, value in ordered])}}}"


def _text(text: str) -> str:
    try:
        return orjson.dumps(text).decode()
    except orjson.JSONEncodeError as error:
        raise NotCanonical("A text is not Unicode: it has a lone surrogate.") from error


def _number(value: float) -> str:
    """Return a double as ECMAScript writes it (RFC 8785 section 3.2.2.3)."""
    if not math.isfinite(value):
        raise NotCanonical("A doubleValue is NaN or infinite.", remedy="Send such a value as a string.")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    # repr gives the fewest digits that read back as the same double, as ECMAScript does; only their layout differs.
    _, numbers, exponent = Decimal(repr(abs(value))).as_tuple()
    digits = "".join(map(str, numbers))
    point = len(digits) + int(exponent)  # where the decimal point stands, counted from the first digit
    digits = digits.rstrip("0")
    if len(digits) <= point <= _MOST_DIGITS:
        return f"{sign}{digits}{'0' * (point - len(digits))}"
    if 0 < point <= _MOST_DIGITS:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if _LEAST_EXPONENT < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{point - 1:+d}"


_SCALARS: Final[dict[type, tuple[str, Callable[[Any], str]]]] = {
    str: ("stringValue", _text),
    bool: ("boolValue", lambda value: "true" if value else "false"),
    int: ("intValue", lambda value: f'"{value}"'),
    float: ("doubleValue", _number),
    bytes: ("bytesValue", lambda value: f'"{base64.b64encode(value).decode()}"'),
}
