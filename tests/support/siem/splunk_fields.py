"""Fields of an event as Splunk finds them when it searches, by the add-on's own files.

The order is Splunk's ("The sequence of search-time operations"): indexed fields, `REPORT-`, `KV_MODE`, `FIELDALIAS-`,
`EVAL-`, `LOOKUP-`. A field that is found twice has two values.
"""

from __future__ import annotations

import csv
import json
import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from support.siem.shipped import ADD_ON, conf

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Fields = dict[str, list[str]]

_FIELD: Final = re.compile(r"'([^']+)'")


def fields_of(sourcetype: str, event: Mapping[str, Any]) -> Fields:
    """Return the fields of an event that the HTTP Event Collector has taken."""
    stanza = conf("props")[sourcetype]
    raw = event["event"] if isinstance(event["event"], str) else json.dumps(event["event"])
    fields: Fields = {name: [value] for name, value in event["fields"].items()}
    for name, value in [*_reported(stanza, raw), *_automatic(stanza, raw)]:
        fields.setdefault(name, []).append(value)
    _alias(stanza, fields)
    fields |= _calculated(stanza, fields)
    _look_up(stanza, fields)
    return fields


def extracted(transform: str, raw: str) -> list[tuple[str, str]]:
    """Return what the regular expression of a stanza of transforms.conf finds in an event."""
    stanza = conf("transforms")[transform]
    found = re.finditer(stanza["REGEX"], raw)
    if stanza.get("FORMAT") == "$1::$2":
        return [(one[1], one[2]) for one in found]
    return [pair for one in found for pair in one.groupdict().items()]


def named_fields(expression: str) -> set[str]:
    """Return the fields that an expression reads, all of them in single quotes."""
    return set(_FIELD.findall(expression))


def _reported(stanza: Mapping[str, str], raw: str) -> Iterator[tuple[str, str]]:
    for name, value in stanza.items():
        if name.startswith("REPORT-"):
            for transform in value.split(", "):
                yield from extracted(transform, raw)


def _automatic(stanza: Mapping[str, str], raw: str) -> Iterator[tuple[str, str]]:
    if stanza["KV_MODE"] == "json":
        yield from _flat(json.loads(raw), "")


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield Splunk's names of the members of JSON: `a.b`, `a{}` for the items of a list."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _flat(inner, path + "{}")
    elif value is not None:
        yield path, str(value)


def _alias(stanza: Mapping[str, str], fields: Fields) -> None:
    for name, value in stanza.items():
        if name.startswith("FIELDALIAS-"):
            source, target = value.split(" ASNEW ")
            if source in fields and target not in fields:
                fields[target] = fields[source]


def _calculated(stanza: Mapping[str, str], fields: Fields) -> Fields:
    """Return what the `EVAL-` settings make; none of them sees another's result."""
    made = {}
    for name, expression in stanza.items():
        if name.startswith("EVAL-"):
            value = evaluated(expression, fields)
            if value is not None:
                made[name.removeprefix("EVAL-")] = value if isinstance(value, list) else [value]
    return made


def evaluated(expression: str, fields: Fields) -> Any:
    """Return the value of an expression of Splunk's `eval`; an error for a function that the add-on does not use."""
    python = _FIELD.sub(lambda found: f"field({found[1]!r})", expression).replace("if(", "if_(")

    def field(name: str) -> Any:
        values = fields.get(name)
        return values[0] if values is not None and len(values) == 1 else values

    functions = {
        "field": field,
        "coalesce": lambda *values: next((one for one in values if one is not None), None),
        "if_": lambda is_so, then, otherwise: then if is_so else otherwise,
        "null": lambda: None,
        "mvindex": lambda value, index: (value if isinstance(value, list) else [value])[index],
        "mvappend": _appended,
        "split": lambda text, separator: text.split(separator),
        "__builtins__": {},
    }
    return eval(python, functions)  # noqa: S307 - of our own file, without builtins


def _appended(*values: Any) -> list[str] | None:
    every = [one for value in values if value is not None for one in (value if isinstance(value, list) else [value])]
    return every or None


def _look_up(stanza: Mapping[str, str], fields: Fields) -> None:
    """Add what the first row says whose `event_type`, a pattern, and other inputs match."""
    for name, value in stanza.items():
        if name.startswith("LOOKUP-"):
            described, outputs = value.split(" OUTPUT ")
            lookup, *inputs = described.split()
            row = _row(lookup, {one: fields[one] for one in inputs})
            fields.update({one: [row[one]] for one in outputs.split() if row[one]})


def _row(lookup: str, inputs: Fields) -> dict[str, str]:
    stanza = conf("transforms")[lookup]
    assert stanza["match_type"] == "WILDCARD(event_type)"
    with (ADD_ON / "lookups" / stanza["filename"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(len(values) == 1 for values in inputs.values()), inputs
    return next(row for row in rows if all(fnmatchcase(values[0], row[name]) for name, values in inputs.items()))
