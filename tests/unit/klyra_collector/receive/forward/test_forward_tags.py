"""Choosing an event type by a tag, with fluentd's patterns."""

from __future__ import annotations

import pytest

from klyra_collector.receive.forward.tags import TagTypes


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("a.b", ["a.b"], ["a", "a.b.c", "axb", "xa.b"]),
        ("a.*", ["a.b", "a."], ["a", "a.b.c", "b.a"]),
        ("*.a", ["b.a"], ["a", "c.b.a"]),
        ("a*.b", ["a.b", "axx.b"], ["a.x.b", "xa.b"]),
        ("a.**", ["a", "a.b", "a.b.c"], ["ab", "b.a", ""]),
        ("**.a", ["a", "b.a", "c.b.a"], ["ba", "a.b"]),
        ("a.**.b", ["a.b", "a.x.b", "a.x.y.b"], ["a", "ab", "a.bb"]),
        ("**", ["", "a", "a.b", "a\nb"], []),
        ("{a,b}.c", ["a.c", "b.c"], ["c", "a,b.c"]),
        ("{a,b.*}.c", ["a.c", "b.x.c"], ["b.c"]),
        ("x.{a,b}.{c,d}", ["x.a.c", "x.b.d"], ["x.a.b"]),
        ("a+(b)", ["a+(b)"], ["aab"]),
    ],
)
def test_patterns_match_as_fluentds(pattern, matching, others) -> None:
    """`*` is one part, `**` any number of them, braces are alternatives, everything else is itself."""
    types = TagTypes({pattern: "user.removed"})
    assert [tag for tag in matching if types.event_type(tag) != "user.removed"] == []
    assert [tag for tag in others if types.event_type(tag) != ""] == []


def test_the_first_pattern_that_matches_wins() -> None:
    """The order in the configuration is the order of the search."""
    types = TagTypes({"a.b": "first", "a.*": "second", "**": "third"})
    assert [types.event_type(tag) for tag in ("a.b", "a.c", "b")] == ["first", "second", "third"]


def test_without_patterns_no_tag_stands_for_anything() -> None:
    """Then only records that name a type have one."""
    assert TagTypes({}).event_type("a") == ""
