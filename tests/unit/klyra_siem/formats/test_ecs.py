"""Documents of Elastic Common Schema: known fields with values of their types, `klyra.*` for the rest."""

from __future__ import annotations

import json
import re

import pytest

from klyra_siem.formats import record_format
from klyra_siem.formats.mapping import table
from support.siem.events import EVENT_TYPES, event, sealed

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")

# The fields of ECS that are used, with their types (ECS reference, 9.0).
FIELDS = {
    "@timestamp": "date",
    "ecs.version": "keyword",
    "message": "text",
    "event.kind": "keyword",
    "event.category": "list",
    "event.type": "list",
    "event.action": "keyword",
    "event.outcome": "keyword",
    "event.id": "keyword",
    "event.dataset": "keyword",
    "event.provider": "keyword",
    "event.sequence": "long",
    "event.hash": "keyword",
    "user.id": "keyword",
    "user.name": "keyword",
    "user.roles": "list",
    "user.target.id": "keyword",
    "user.target.name": "keyword",
    "user.target.email": "keyword",
    "organization.id": "keyword",
    "source.ip": "keyword",
    "user_agent.original": "keyword",
    "related.ip": "list",
}
# Which types the schema expects in a category ("ECS Categorization Field: event.category").
TYPES = {
    "api": {
        *("access", "admin", "allowed", "change", "creation", "deletion", "denied", "end", "info", "start", "user"),
    },
    "iam": {"admin", "change", "creation", "deletion", "group", "info", "user"},
    "configuration": {"access", "change", "creation", "deletion", "info"},
}


def flat(members: dict, prefix: str = "") -> dict[str, object]:
    """Return the fields of a document by their dotted names."""
    found: dict[str, object] = {}
    for name, value in members.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def ecs(entry) -> dict:
    """Return an entry's document."""
    return json.loads(record_format("ecs", None).encode(entry))


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_every_field_is_of_the_schema_or_ours(event_type) -> None:
    """No field that ECS may one day give another meaning."""
    (entry,) = sealed(event(event_type))
    found = {name: value for name, value in flat(ecs(entry)).items() if not name.startswith("klyra.")}
    assert set(found) <= set(FIELDS)
    kinds = {"keyword": str, "text": str, "date": str, "long": int, "list": list}
    assert all(isinstance(value, kinds[FIELDS[name]]) for name, value in found.items())
    assert TIMESTAMP.fullmatch(found["@timestamp"])
    assert (found["event.id"], found["event.action"]) == (entry.entry_id, event_type)


def test_categories_and_types_go_together() -> None:
    """Each row's types are among those that ECS expects in its category."""
    rows = [*table("event_types")["event_types"].values(), *table("event_types")["actions"].values()]
    for row in rows:
        (category,) = row["ecs"]["category"]
        assert set(row["ecs"]["type"]) <= TYPES[category]


def test_a_user_acted_upon_is_the_target() -> None:
    """Who acts is `user`, whom it is about `user.target`."""
    (entry,) = sealed(event("user.invited"))
    user = ecs(entry)["user"]
    assert (user["id"], user["target"]["id"], user["target"]["email"]) == ("usr_1", "usr_2", "grace@example.com")


def test_metadata_are_kept() -> None:
    """What ECS has no field for stands under `klyra`."""
    (entry,) = sealed(event("moderation.flagged"))
    own = ecs(entry)["klyra"]
    assert own["metadata"]["categories"] == ["hate", "threat"]
    assert own["resource"] == {"type": "moderation", "id": "mod_1", "name": None}
