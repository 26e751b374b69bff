"""Say why a document breaks its schema: where, and what would be right, without quoting what was sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from klyra_audit.format.canonical import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jsonschema import ValidationError

    from klyra_audit.format.canonical import JsonObject

# Of several faults at one place the first of these is named; any other keyword comes after them.
_PRECEDENCE: Final = ("type", "required", "additionalProperties", "const", "enum", "minLength", "maxLength")

_KINDS: Final = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}
_SENTENCES: Final = {
    "required": "is required",
    "additionalProperties": "is not a member that may stand here",
}
_LIMITS: Final = {
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "minLength": "must have at least {} characters",
    "maxLength": "must have at most {} characters",
    "minItems": "must have at least {} items",
    "maxItems": "must have at most {} items",
    "minProperties": "must have at least {} members",
    "maxProperties": "must have at most {} members",
}
_LOWER_LIMITS: Final = ("minLength", "minItems", "minProperties")
_DESCRIBED: Final = frozenset({"pattern", "format", "not", "anyOf", "oneOf"})
_MAX_NAME = 128


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a document.

    Attributes:
        pointer: JSON Pointer (RFC 6901) to the deepest member concerned, present or missing.
        reason: the rest of a sentence that begins with the pointer.
    """

    pointer: str
    reason: str


def slow_validator(schema: JsonObject, *others: JsonObject) -> Draft202012Validator:
    """Return a validator that can explain; `others` are what the schema refers to. Nothing is ever fetched."""
    resources = ((known["$id"], DRAFT202012.create_resource(known)) for known in (schema, *others))
    registry: Registry[Any] = Registry().with_resources(resources).crawl()  # crawled once, not at every reference
    return Draft202012Validator(schema, registry=registry, format_checker=Draft202012Validator.FORMAT_CHECKER)


def first_fault(validator: Draft202012Validator, document: object) -> Fault | None:
    """Return the fault that lies deepest, and of several such the same one every time; None if there is none."""
    faults = [_locate(error) for error in validator.iter_errors(document)]
    if not faults:
        return None
    path, _, error = min(faults, key=lambda located: (-len(located[0]), located[0], located[1]))
    return Fault("".join(f"/{escape(part)}" for part in path), _reason(error))


def _locate(error: ValidationError) -> tuple[list[str], int, ValidationError]:
    """Return the path of the member concerned, which may be one that is missing or one too many, and the rank."""
    path = [str(part) for part in error.absolute_path]
    if error.validator == "required":
        path.append(_missing(error))
    elif error.validator == "additionalProperties":
        path.append(_surplus(error))
    keyword = str(error.validator)
    return path, _PRECEDENCE.index(keyword) if keyword in _PRECEDENCE else len(_PRECEDENCE), error


def _missing(error: ValidationError) -> str:
    wanted: list[str] = error.validator_value  # type: ignore[assignment] # of `required`
    found: JsonObject = error.instance  # type: ignore[assignment] # `required` applies to objects alone
    return next(name for name in wanted if name not in found)


def _surplus(error: ValidationError) -> str:
    """Return the first member that may not be there. Its name is the sender's, so it is cut short."""
    schema: JsonObject = error.schema  # type: ignore[assignment] # one with `additionalProperties` is no boolean
    found: JsonObject = error.instance  # type: ignore[assignment] # `additionalProperties` applies to objects alone
    return min(name for name in found if name not in schema.get("properties", {}))[:_MAX_NAME]


def _reason(error: ValidationError) -> str:
    keyword = str(error.validator)
    wanted: Any = error.validator_value
    schema: Any = error.schema
    if keyword in _SENTENCES:
        return _SENTENCES[keyword]
    if keyword in _CHOICES:
        return f"must be {_any_of(_CHOICES[keyword](wanted))}"
    if keyword in _LIMITS:
        return "must not be empty" if keyword in _LOWER_LIMITS and wanted == 1 else _LIMITS[keyword].format(wanted)
    if keyword in _DESCRIBED and "description" in schema:
        return f"must be {schema['description']}"
    return f"breaks the rule {keyword} of its schema"


def _kinds(wanted: str | list[str]) -> list[str]:
    return [_KINDS[kind] for kind in ([wanted] if isinstance(wanted, str) else wanted)]


def _any_of(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


_CHOICES: Final[Mapping[str, Callable[[Any], list[str]]]] = {
    "type": _kinds,
    "const": lambda wanted: [str(wanted)],
    "enum": lambda wanted: [str(word) for word in wanted],
}
