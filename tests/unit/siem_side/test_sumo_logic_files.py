"""What customers install in Sumo Logic, compared with lines that are really sent."""

from __future__ import annotations

import re

import pytest

from support.siem.kusto import balanced
from support.siem.shipped import FOLDER, all_members, json_of, received, text_of

SEARCHES = sorted((FOLDER / "sumo-logic").glob("*.sumo"))
OPERATORS = {"json", "dedup", "timeslice", "count_distinct", "transpose", "where", "count"}
PARSED = re.compile(r'json ((?:"[\w.]+"(?:, )?)+) as ([\w, ]+?) nodrop')


def parsed(clause: str) -> dict[str, str]:
    """Return the fields that a `json` operator makes, and the path of each."""
    found = PARSED.fullmatch(clause)
    assert found is not None, clause
    return dict(zip(found[2].split(", "), re.findall(r'"([\w.]+)"', found[1]), strict=True))


def test_every_field_of_the_rule_is_in_a_line() -> None:
    """Names and paths are as many, and each path is sent; a line that lacks one keeps the others."""
    rule = json_of("sumo-logic", "field-extraction-rule.json")
    assert set(rule) == {"name", "scope", "parseExpression", "enabled"}
    assert len(rule["parseExpression"]) <= 16_000  # Sumo Logic, "Field Extraction Rules"
    fields = {name: path for clause in rule["parseExpression"].split(" | ") for name, path in parsed(clause).items()}
    assert set(fields.values()) <= all_members(received("sumo-logic"))
    assert {"event_id", "event_type", "organization_id", "klyra_log", "klyra_seq", "actor_id", "client_ip"} <= set(
        fields
    )
    assert len(set(fields.values())) == len(fields)


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.stem)
def test_every_search_names_what_it_has_parsed(path) -> None:
    """Scope, then one operator a line; a field is one that an operator before it has made."""
    scope, *operators = path.read_text().splitlines()
    assert re.fullmatch(r'_sourceCategory=klyra/audit\*( "[\w.]+")?', scope)
    fields = {"_timeslice"}
    for line in operators:
        operator = line.removeprefix("| ")
        assert balanced(operator)
        assert re.match(r"\w+", operator)[0] in OPERATORS  # type: ignore[index] - a line without a word is wrong as well
        if operator.startswith("json "):
            made = parsed(operator)
            assert set(made.values()) <= all_members(received("sumo-logic"))
            fields |= set(made)
            continue
        named = re.findall(r"(?:by|where|row|column) (\w+(?:, \w+)*)|\((\w+)\)", operator)
        assert {name for pair in named for group in pair for name in group.split(", ") if name} <= fields, line
        fields |= set(re.findall(r" as (\w+)", operator))


def test_scope_is_the_category_of_the_destination() -> None:
    """The default, and what begins with it."""
    assert json_of("sumo-logic", "field-extraction-rule.json")["scope"] == "_sourceCategory=klyra/audit*"


def test_repeats_are_left_out_by_the_entrys_id() -> None:
    """One of each."""
    assert text_of("sumo-logic", "deduplicate.sumo").splitlines()[-1] == "| dedup 1 by event_id"
    assert {line["id"] for line in received("sumo-logic")} == {line["audit"]["id"] for line in received("sumo-logic")}
