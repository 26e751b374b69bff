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
    from collections.abc import Callable, Iterable, Mapping

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
    members: dict[str, Any] = {}
    attributes = {name: value for name, value in fields.attributes.items() if not name.startswith(INTEGRITY_PREFIX)}
    # The members stand in their order already: RFC 8785 sorts names.
    if attributes:
        members["attributes"] = _tagged(attributes, 0)
    if fields.body is not None:
        members["body"] = _tagged(fields.body, 0)
    if fields.event_name:
        members["event_name"] = fields.event_name
    if fields.observed_time_unix_nano:
        members["observed_timestamp"] = str(fields.observed_time_unix_nano)
    if fields.span_id.strip("0"):
        members["span_id"] = fields.span_id
    if fields.time_unix_nano:
        members["timestamp"] = str(fields.time_unix_nano)
    if fields.trace_id.strip("0"):
        members["trace_id"] = fields.trace_id
    try:
        encoded = orjson.dumps(members)
    except orjson.JSONEncodeError as error:
        raise NotCanonical("A text is not Unicode: it has a lone surrogate.") from error
    if len(encoded) > MAX_BYTES:
        raise NotCanonical(f"The canonical form is {len(encoded)} bytes long; the limit is {MAX_BYTES}.")
    return encoded


def _tagged(value: Any, depth: int) -> Any:  # noqa: ANN401 - an OTLP value is anything
    """Return a value as its JSON is to be: scalars with their type, names in order."""
    kind = type(value)
    scalar = _SCALARS.get(kind)
    if scalar is not None:
        name, convert = scalar
        return {name: value if convert is None else convert(value)}
    if value is None:
        return None
    if depth > MAX_DEPTH:
        raise NotCanonical(f"A value is nested deeper than {MAX_DEPTH} levels.")
    if kind is dict:
        return {name: _tagged(value[name], depth + 1) for name in _in_order(value)}
    if kind is list:
        return [_tagged(inner, depth + 1) for inner in value]
    raise NotCanonical(f"A value is of a kind that OTLP does not have: {kind.__name__}.")


def _in_order(names: Iterable[str]) -> list[str]:
    """Return names in the order of RFC 8785: by UTF-16 code units."""
    try:
        if "".join(names).isascii():
            return sorted(names)
        return sorted(names, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
    except TypeError as error:
        raise NotCanonical("A name in a map is no text.") from error


def _double(value: float) -> orjson.Fragment:
    return orjson.Fragment(_number(value).encode())


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


_SCALARS: Final[dict[type, tuple[str, Callable[[Any], object] | None]]] = {
    str: ("stringValue", None),
    bool: ("boolValue", None),
    int: ("intValue", str),
    float: ("doubleValue", _double),
    bytes: ("bytesValue", lambda value: base64.b64encode(value).decode()),
}
