"""What a cluster is told: the plans' days, names that are ours, mappings for what the catalog knows; in data files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from klyra_collector.registry.policies import Policies
from klyra_collector.store.elasticsearch import names
from klyra_collector.store.elasticsearch.connection import Flavor
from klyra_collector.store.elasticsearch.definitions import Retained, definitions, flattened, keys

SOLD = [Retained(name, plan.retention_days) for name, plan in Policies.load().plans.items()]
POLICIES = [*SOLD, Retained("enterprise-730d", 730)]
ROOT = Path(__file__).parents[5]


def bodies(kind: str, flavor: Flavor = Flavor.DEFAULT) -> dict[str, Any]:
    """Return the bodies of one kind by name."""
    return {item.name: item.body for item in definitions(POLICIES, flavor) if item.kind == kind}


class TestNames:
    """What streams and indexes are called."""

    def test_none_begins_with_logs(self) -> None:
        """Such a stream would be of another mode, which rewrites documents."""
        assert all(item.name.startswith("klyra-audit-") for item in definitions(POLICIES))
        for body in bodies("index template").values():
            assert all(pattern.startswith("klyra-audit-") for pattern in body["index_patterns"])

    def test_each_policy_has_its_streams(self) -> None:
        """One for entries and one for quarantined input, both under its own lifecycle."""
        streams = bodies("data stream")
        for policy in POLICIES:
            for name in (names.entry_stream(policy.name), names.quarantine_stream(policy.name)):
                assert name in streams
                settings = bodies("index template")[name]["template"]["settings"]
                assert settings["index"]["lifecycle"]["name"] == names.entry_stream(policy.name)

    def test_no_two_templates_match_one_name(self) -> None:
        """Templates of one priority must not overlap: a dedicated stream belongs to one policy."""
        patterns = [pattern for body in bodies("index template").values() for pattern in body["index_patterns"]]
        stems = [pattern.removesuffix("*") for pattern in patterns if pattern.endswith("*")]
        plain = [pattern for pattern in patterns if not pattern.endswith("*")]
        assert len(set(patterns)) == len(patterns)
        assert not [
            (stem, name) for stem in stems for name in [*plain, *stems] if name != stem and name.startswith(stem)
        ]

    def test_an_organization_with_capitals_has_a_stream(self) -> None:
        """Names of streams are lower-case."""
        assert names.dedicated_stream("startup", "org_ABC") == "klyra-audit-startup-at-org_abc"

    def test_readers_see_every_entry_stream_and_nothing_else(self) -> None:
        """Quarantine, ledger and health are none of a search's business."""
        stems = [pattern.removesuffix("*") for pattern in names.ENTRY_STREAMS.split(",")]
        seen = {name for name in bodies("data stream") if any(name.startswith(stem) for stem in stems)}
        assert seen == {names.entry_stream(policy.name) for policy in POLICIES} | {names.HELD_STREAM}


class TestContent:
    """What stands in the bodies."""

    @pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
    def test_the_days_are_those_of_the_plan(self, policy) -> None:
        """They come from the plans' own files."""
        phases = bodies("lifecycle policy")[names.entry_stream(policy.name)]["policy"]["phases"]
        assert phases["delete"]["min_age"] == f"{policy.days}d"

    def test_held_entries_are_deleted_by_nobody(self) -> None:
        """A legal hold stops expiry: their stream has no lifecycle."""
        assert "lifecycle" not in json.dumps(bodies("index template")[names.HELD_STREAM])
        assert "lifecycle" not in json.dumps(bodies("index template")[names.LEDGER_INDEX])

    def test_no_stream_has_a_failure_store(self) -> None:
        """It would take what the mapping refuses, and answer that all is well."""
        for body in bodies("index template").values():
            if "data_stream" in body:
                assert body["template"]["data_stream_options"] == {"failure_store": {"enabled": False}}

    def test_serverless_has_streams_with_a_lifecycle_of_their_own(self) -> None:
        """There are no lifecycle policies there, and no settings that name one."""
        assert not bodies("lifecycle policy", Flavor.SERVERLESS)
        templates = bodies("index template", Flavor.SERVERLESS)
        for policy in POLICIES:
            template = templates[names.entry_stream(policy.name)]["template"]
            assert template["lifecycle"] == {"data_retention": f"{policy.days}d"}
            assert "settings" not in template
        assert "lifecycle" not in templates[names.HELD_STREAM]["template"]

    def test_the_writer_may_only_add(self) -> None:
        """No key that runs later may change what is set up, and only the sweeper may delete."""
        rights = {
            purpose: {
                right
                for role in key["role_descriptors"].values()
                for index in role["indices"]
                for right in index["privileges"]
            }
            for purpose, key in keys().items()
        }
        assert rights["writer"] == {"create_doc"}
        assert rights["reader"] == {"read", "view_index_metadata"}
        assert not rights["sweeper"] & {"index", "write", "manage", "all", "delete_index"}
        assert keys()["writer"]["role_descriptors"]["klyra_audit_writer"]["cluster"] == []

    def test_the_table_of_keys_says_what_they_may(self) -> None:
        """Whoever decides by it whom to give a key must not be misled."""
        told = {}
        for line in (ROOT / "docs/elasticsearch.md").read_text().splitlines():
            cells = line.strip("|").split("|")
            if cells[0].strip().endswith(".key`"):
                told[cells[0].strip(" `").removesuffix(".key")] = [
                    re.findall(r"`([a-z_]+)`", cell) for cell in cells[1:3]
                ]
        assert told == {
            purpose: [role["indices"][0]["privileges"], role["cluster"]]
            for purpose, key in keys().items()
            for role in key["role_descriptors"].values()
        }
        for key in keys().values():
            (role,) = key["role_descriptors"].values()
            assert [one["names"] for one in role["indices"]] == [["klyra-audit-*"]]

    def test_texts_of_the_catalog_can_be_searched(self) -> None:
        """Whatever scalar metadata an event type declares has a field of its own, of the fitting kind."""
        mapped = bodies("component template")["klyra-audit-entries"]["template"]["mappings"]["properties"]["metadata"]
        for name, kinds in declared().items():
            kind = mapped["properties"].get(name, {}).get("type")
            assert kind in kinds, (name, kind, kinds)


_FITTING: dict[str, set[str | None]] = {
    "object": {None},
    "integer": {"long"},
    "boolean": {"boolean"},
    "string": {"keyword", "ip"},
    "array": {"keyword"},
}


def declared() -> dict[str, set[str | None]]:
    """Return metadata name → the field types that fit what the schemas of the event types say of it."""
    definitions_of_entries = json.loads((ROOT / "schemas" / "entry.schema.json").read_text())["$defs"]
    found: dict[str, set[str | None]] = {}
    for file in sorted((ROOT / "schemas" / "events").glob("*.json")):
        for members in metadata_of(json.loads(file.read_text())):
            for name, schema in members.items():
                target = schema.get("$ref", "").rpartition("/")[2]
                kind = definitions_of_entries[target].get("type") if target else schema.get("type")
                found[name] = _FITTING.get(str(kind), {"keyword", "ip", "long", None})
    return found


def metadata_of(schema: Any) -> list[dict[str, Any]]:
    """Return every place of a schema that says what metadata has."""
    if isinstance(schema, list):
        return [found for item in schema for found in metadata_of(item)]
    if not isinstance(schema, dict):
        return []
    own = schema.get("properties", {}).get("metadata", {}).get("properties")
    return ([own] if own else []) + [found for item in schema.values() for found in metadata_of(item)]


class TestFlattened:
    """How things are compared."""

    def test_numbers_are_the_texts_that_servers_make_of_them(self) -> None:
        """A setting sent as a number comes back as a text."""
        assert dict(flattened({"a": {"b": 1, "c": "1"}, "d": [1, 2], "e": True})) == {
            "a.b": "1",
            "a.c": "1",
            "d": "[1, 2]",
            "e": "true",
        }
