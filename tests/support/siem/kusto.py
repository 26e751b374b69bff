"""Which columns a query in the Kusto Query Language reads, operator by operator, and whether they are there.

Of the language only what our queries use is known; anything else is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_STRING: Final = re.compile(r'"[^"\n]*"')
_NAME: Final = re.compile(r"(?<![\w.$])([A-Za-z_]\w*)(?!\w)(?!\s*\()")
_WORDS: Final = {"and", "or", "by", "in", "has_any", "has", "kind", "on", "true", "false", "leftouter", "inner"}
_FUNCTIONS: Final = {
    *("ago", "arg_max", "array_length", "bag_pack", "case", "coalesce", "dynamic", "has_any_ipv4_prefix", "iff", "int"),
    *("isempty", "isnull", "max", "not", "parse_json", "split", "strcat", "tostring", "now", "null"),
}
_NOT_CALLS: Final = {"and", "or", "in", "has_any", "by", "on", "extend", "where", "project"}


@dataclass
class Scope:
    """What a query may name.

    Attributes:
        tables: columns of each table and `let`.
        parameters: of the function around it.
        read: columns of the first table that were read.
    """

    tables: Mapping[str, Iterable[str]]
    parameters: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)


def balanced(text: str) -> bool:
    """Say whether brackets close in the order in which they were opened, and quotes close on their line."""
    if any(line.count('"') % 2 for line in text.splitlines()):
        return False
    waiting = []
    for character in _STRING.sub("", text):
        if character in "([{":
            waiting.append(")]}"["([{".index(character)])
        elif character in ")]}" and (not waiting or waiting.pop() != character):
            return False
    return not waiting


def without_comments(text: str) -> str:
    """Return a query without comments."""
    return re.sub(r"^\s*//.*\n", "", text, flags=re.MULTILINE)


def columns_of(pipeline: str, scope: Scope) -> set[str]:
    """Return the columns that a pipeline gives; `AssertionError` for one that is not there when it is read."""
    table, *operators = [one.strip() for one in re.split(r"^\s*\|", pipeline, flags=re.MULTILINE)]
    columns = set(scope.tables[table])
    scope.read |= {name for operator in operators for name in _names(operator, scope) if name in columns}
    for operator in operators:
        word, _, rest = operator.partition(" ") if " " in operator.split("\n")[0] else operator.partition("\n")
        columns = _after(word.strip(), rest.strip(), columns, scope)
    return columns


def _after(word: str, rest: str, columns: set[str], scope: Scope) -> set[str]:
    operators = {
        "where": _filtered,
        "extend": _extended,
        "project": _projected,
        "project-away": _removed,
        "project-rename": _renamed,
        "summarize": _summarized,
        "lookup": _looked_up,
    }
    assert word in operators, word
    return operators[word](rest, columns, scope)


def _filtered(rest: str, columns: set[str], scope: Scope) -> set[str]:
    _expect(rest, columns, scope)
    return columns


def _extended(rest: str, columns: set[str], scope: Scope) -> set[str]:
    return columns | _projected(rest, columns, scope)


def _projected(rest: str, columns: set[str], scope: Scope) -> set[str]:
    return {name for name, _ in _assigned(rest, columns, scope)}


def _removed(rest: str, columns: set[str], scope: Scope) -> set[str]:
    _expect(rest, columns, scope)
    return columns - _names(rest, scope)


def _renamed(rest: str, columns: set[str], scope: Scope) -> set[str]:
    pairs = _assigned(rest, columns, scope)
    return columns - {old for _, old in pairs} | {new for new, _ in pairs}


def _summarized(rest: str, columns: set[str], scope: Scope) -> set[str]:
    made, _, keys = rest.partition(" by ")
    _expect(keys, columns, scope)
    if made.startswith("arg_max(TimeGenerated, *)"):
        return columns
    return _projected(made, columns, scope) | _names(keys, scope)


def _looked_up(rest: str, columns: set[str], scope: Scope) -> set[str]:
    """Return the columns of both sides; one that both have, and is no key, gets a 1 on the right."""
    found = re.fullmatch(r"kind=(?:leftouter|inner) (\w+) on ([\w, ]+)", rest)
    assert found is not None, rest
    keys, right = set(found[2].split(", ")), set(scope.tables[found[1]])
    assert keys <= columns & right, rest
    return columns | {f"{name}1" if name in columns else name for name in right - keys}


def _assigned(rest: str, columns: set[str], scope: Scope) -> list[tuple[str, str]]:
    """Return the names and expressions of `a = …, b`; an error if an expression reads what is not there."""
    pairs = []
    for one in _parts(rest):
        name, equals, expression = one.partition(" = ")
        pairs.append((name.strip(), (expression if equals else name).strip()))
        _expect(pairs[-1][1], columns, scope)
    return pairs


def _parts(text: str) -> list[str]:
    """Return what stands between the commas that are in no bracket."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part.strip()]


def _expect(text: str, columns: set[str], scope: Scope) -> None:
    unknown = _names(text, scope) - columns
    assert not unknown, (unknown, text)
    called = set(re.findall(r"(\w+)\(", _STRING.sub("", text))) - _NOT_CALLS
    assert called <= _FUNCTIONS, called - _FUNCTIONS


def _names(text: str, scope: Scope) -> set[str]:
    bare = re.sub(r"\b\d+[dhms]\b", "", _STRING.sub("", text))
    return set(_NAME.findall(bare)) - _WORDS - scope.parameters - _FUNCTIONS
