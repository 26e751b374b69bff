"""Kibana's query language, as much of it as the sources use, and what Elasticsearch is asked for it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kibana.fields import SourceWrong

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Query = dict[str, Any]
_Part = TypeVar("_Part")

_TOKEN: Final = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|([():])|(<=|>=|<|>)|([^\s():<>"]+))')
_COMPARISONS: Final = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def compiled(text: str) -> Query:
    """Return the query of the search API; everything for an empty text.

    Raises:
        SourceWrong: it is no query.
    """
    if not text.strip():
        return {"match_all": {}}
    parser = _Parser(list(_tokens(text)))
    query = parser.either()
    if parser.peek() is not None:
        raise SourceWrong(f"{text!r} goes on after its end, at {parser.peek()!r}")
    return query


def fields_of(query: Query) -> set[str]:
    """Return the fields that a query names."""
    found: set[str] = set()
    for kind, body in query.items():
        if kind == "exists":
            found.add(body["field"])
        elif kind == "bool":
            for clauses in body.values():
                if isinstance(clauses, list):
                    found |= {name for clause in clauses for name in fields_of(clause)}
        elif kind != "match_all":
            found |= body.keys()
    return found


def _tokens(text: str) -> Iterator[str]:
    position = 0
    stripped = text.rstrip()
    while position < len(stripped):
        match = _TOKEN.match(stripped, position)
        if match is None:
            raise SourceWrong(f"{text!r} cannot be read from {stripped[position:]!r} on")
        position = match.end()
        yield match[0].strip()


class _Parser:
    """Reads tokens from left to right: `not` binds strongest, then `and`, then `or`."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._next = 0

    def peek(self) -> str | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def either(self) -> Query:
        clauses = self._several("or", self._all)
        return clauses[0] if len(clauses) == 1 else _any_of(clauses)

    def _all(self) -> Query:
        clauses = self._several("and", self._one)
        return clauses[0] if len(clauses) == 1 else {"bool": {"filter": clauses}}

    def _one(self) -> Query:
        if self._taken("not"):
            return {"bool": {"must_not": [self._one()]}}
        if self._taken("("):
            inner = self.either()
            self._expect(")")
            return inner
        return self._comparison(_unquoted(self._take()))

    def _comparison(self, field: str) -> Query:
        operator = self._take()
        if operator in _COMPARISONS:
            return {"range": {field: {_COMPARISONS[operator]: self._take()}}}
        if operator != ":":
            raise SourceWrong(f"{field} is followed by {operator!r}")
        if self._taken("("):
            values = self._several("or", self._take)
            self._expect(")")
            return _any_of([_has(field, value) for value in values])
        return _has(field, self._take())

    def _several(self, word: str, part: Callable[[], _Part]) -> list[_Part]:
        found = [part()]
        while self._taken(word):
            found.append(part())
        return found

    def _taken(self, token: str) -> bool:
        if (self.peek() or "").lower() != token:
            return False
        self._next += 1
        return True

    def _take(self) -> str:
        token = self.peek()
        if token is None or token in ("(", ")"):
            raise SourceWrong(f"a name or a value is missing after {self._tokens[: self._next]}")
        self._next += 1
        return token

    def _expect(self, token: str) -> None:
        if not self._taken(token):
            raise SourceWrong(f"{token} is missing")


def _any_of(clauses: list[Query]) -> Query:
    return {"bool": {"should": clauses, "minimum_should_match": 1}}


def _has(field: str, value: str) -> Query:
    if value == "*":
        return {"exists": {"field": field}}
    if value.startswith('"'):
        return {"term": {field: _unquoted(value)}}
    return {"wildcard": {field: value}} if "*" in value else {"term": {field: value}}


def _unquoted(token: str) -> str:
    return token[1:-1].replace('\\"', '"') if token.startswith('"') else token
