"""From a tag to an event type, by patterns as fluentd writes them. Pure.

`*` is one part of a tag, `**` any number of parts, none included, `{a,b}` one of the alternatives. The first
pattern that matches wins (fluentd documentation, "How do the match patterns work?").
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_REMEMBERED: Final = 4096  # tags; a sender has few, but a hostile one has many
_ANY: Final = "**"


class TagTypes:
    """Which event type a tag stands for."""

    def __init__(self, patterns: Mapping[str, str]) -> None:
        """Take pattern → event type, in the order in which they are tried."""
        self._patterns = [(_expression(pattern), event_type) for pattern, event_type in patterns.items()]
        self._find = lru_cache(_REMEMBERED)(self._search)

    def event_type(self, tag: str) -> str:
        """Return the event type, "" if no pattern matches."""
        return self._find(tag) if self._patterns else ""

    def _search(self, tag: str) -> str:
        return next((event_type for pattern, event_type in self._patterns if pattern.fullmatch(tag)), "")


def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile("|".join(map(_alternative, _expand(pattern))), re.DOTALL)


def _expand(pattern: str) -> list[str]:
    """Return the pattern once for each choice among its braces."""
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [whole for choice in found[1].split(",") for whole in _expand(before + choice.strip() + after)]


def _alternative(pattern: str) -> str:
    expression = ""
    separator = ""  # what stands between what was written so far and the next part
    for part in pattern.split("."):
        if part == _ANY:
            expression += r"(?:\.[^.]+)*" if separator else r"(?:[^.]+\.)*"
            continue
        expression += separator + "[^.]*".join(re.escape(piece) for piece in part.split("*"))
        separator = r"\."
    return ".*" if pattern == _ANY else expression
