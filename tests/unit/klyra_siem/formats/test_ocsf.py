"""Every event type is a valid event of OCSF.

The official schema comes from `ocsf-json-schema`, which packages what the schema server exports for each version up to
1.8.0; ours for 1.9.0 are checked against the newest it has, without what is new in 1.9.0. That is checked by what its
profile and class say (schema.ocsf.io, 1.9.0: "Record Integrity", "Attestation", "User Management").
"""

from __future__ import annotations

import json
from functools import cache

import jsonschema
import pytest

from klyra_audit.format import merkle
from klyra_audit.format.leaf import Leaf
from klyra_siem.formats import record_format
from klyra_siem.formats.mapping import ERASED, table
from support.entries import MemoryLedger
from support.siem.events import CATALOG, EVENT_TYPES, delivered, event, sealed, sealed_without

ocsf_json_schema = pytest.importorskip("ocsf_json_schema", reason="for want of ocsf-json-schema")

# User Management of 1.9.0: what it takes the place of, and its activities that are used here.
USER_MANAGEMENT = 3007
BEFORE_USER_MANAGEMENT = {1: (3001, 1), 3: (3001, 6), 16: (3005, 1), 99: (3001, 99)}
NEW_IN_1_9 = ("attestation_list", "iam_roles")
ATTESTATION = {"uid", "authority_uid", "chain_uid", "fingerprint", "prev_event", "signatures"}


@cache
def schema(version: str, class_uid: int, profiles: tuple[str, ...]) -> jsonschema.protocols.Validator:
    """Return the official schema of a class."""
    versions = ocsf_json_schema.get_packaged_versions()
    packaged = version if version in versions else "1.8.0"
    made = ocsf_json_schema.OcsfJsonSchemaEmbedded(ocsf_json_schema.get_ocsf_schema(version=packaged))
    name = made.lookup_class_name_from_uid(class_uid)
    return jsonschema.Draft202012Validator(made.get_class_schema(class_name=name, profiles=list(profiles)))


def ocsf(version: str, entry) -> dict:
    """Return an entry's event."""
    return json.loads(record_format(f"ocsf-{version}", None).encode(entry))


def problems(version: str, found: dict) -> list[str]:
    """Return what the official schema has against an event."""
    found = dict(found)
    profiles = tuple(found["metadata"].get("profiles", []))
    if version == "1.9.0":
        found = as_before_1_9(found)
        profiles = tuple(name for name in profiles if name != "record_integrity")
    errors = schema(version, found["class_uid"], profiles).iter_errors(found)
    return [f"{error.json_path}: {error.message}" for error in errors]


def as_before_1_9(found: dict) -> dict:
    """Return an event of 1.9.0 as 1.8.0 would have it."""
    kept = {name: value for name, value in found.items() if name not in NEW_IN_1_9}
    if found["class_uid"] != USER_MANAGEMENT:
        return kept
    class_uid, activity = BEFORE_USER_MANAGEMENT[found["activity_id"]]
    if class_uid == 3005:
        kept["privileges"] = [role["name"] for role in found["iam_roles"]]
    return kept | {"class_uid": class_uid, "activity_id": activity, "type_uid": class_uid * 100 + activity}


@pytest.mark.parametrize("version", ["1.1.0", "1.9.0"])
class TestOfficialSchema:
    """What the schema says of our events."""

    @pytest.mark.parametrize("event_type", EVENT_TYPES)
    @pytest.mark.parametrize("status", ["success", "failure"])
    def test_every_type_is_valid(self, version, event_type, status) -> None:
        """No attribute is missing, unknown or of another type."""
        (entry,) = sealed(event(event_type, status=status))
        found = ocsf(version, entry)
        assert problems(version, found) == []
        assert found["type_uid"] == found["class_uid"] * 100 + found["activity_id"]
        assert found["category_uid"] == found["class_uid"] // 1000
        assert found["metadata"]["version"] == version

    @pytest.mark.parametrize("event_type", EVENT_TYPES)
    def test_it_is_valid_without_what_was_erased(self, version, event_type) -> None:
        """Required names of people who were erased are `[erased]`."""
        names = ("actor", "target") if event_type.startswith(("user.", "role.")) else ("actor",)
        found = ocsf(version, sealed_without(event_type, *names))
        assert problems(version, found) == []
        assert found["actor"]["user"]["uid"] == ERASED

    def test_a_type_of_the_system_and_one_of_an_application_are_valid(self, version) -> None:
        """What has no row is told by its action."""
        for action, activity in (("create", 1), ("read", 2), ("update", 3), ("delete", 4)):
            (entry,) = sealed(event("user.added", event_type="acme.invoice", action=action, metadata={}))
            found = ocsf(version, entry)
            assert problems(version, found) == []
            assert (found["class_uid"], found["activity_id"]) == (6003, activity)

    def test_the_event_s_own_action_wins(self, version) -> None:
        """An event whose action is not its type's row's is what its action says."""
        (entry,) = sealed(event("webhook.updated", action="read"))
        found = ocsf(version, entry)
        assert (found["class_uid"], found["activity_id"]) == (6003, 2)

    def test_the_schema_does_find_faults(self, version) -> None:
        """A check that finds nothing must be one that can."""
        (entry,) = sealed(event("webhook.created"))
        found = ocsf(version, entry)
        assert problems(version, found | {"entity": {"type": "Webhook"}})
        assert problems(version, {name: value for name, value in found.items() if name != "time"})
        assert problems(version, found | {"made_up": 1})


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_the_catalog_s_types_have_the_classes_of_the_table(event_type) -> None:
    """All fifteen are mapped; user administration moved to User Management in 1.9.0."""
    (entry,) = sealed(event(event_type))
    former, present = ocsf("1.1.0", entry), ocsf("1.9.0", entry)
    if former["class_uid"] in {3001, 3005}:
        assert present["class_uid"] == USER_MANAGEMENT
        expected = (former["class_uid"], former["activity_id"])
        assert BEFORE_USER_MANAGEMENT[present["activity_id"]] == expected
    else:
        assert (former["class_uid"], former["activity_id"]) == (present["class_uid"], present["activity_id"])


def test_the_table_has_the_catalog_s_types() -> None:
    """Neither more nor fewer, each with the catalog's title and action."""
    rows = table("event_types")["event_types"]
    described = [CATALOG.event_types[name] for name in CATALOG.names() if CATALOG.event_types[name].group != "system"]
    assert sorted(rows) == sorted(one.name for one in described) == sorted(EVENT_TYPES)
    assert all((rows[one.name]["title"], rows[one.name]["action"]) == (one.title, one.action) for one in described)


class TestRecordIntegrity:
    """What 1.9.0's profile says of an entry's place in its ledger."""

    def test_attestations_are_chained_as_leaves_are(self) -> None:
        """Each names the fingerprint of the one before; taking one away shows."""
        ledger = MemoryLedger()
        for number, name in enumerate(EVENT_TYPES):
            ledger.seal(event(name, number), marks=CATALOG.marks(name))
        previous = None
        for entry in delivered(ledger):
            (attestation,) = ocsf("1.9.0", entry)["attestation_list"]
            assert set(attestation) <= ATTESTATION
            assert attestation["fingerprint"]["value"] == merkle.leaf_hash(entry.leaf).hex()
            told = attestation.get("prev_event", {}).get("fingerprint")
            assert told == previous
            previous = attestation["fingerprint"]

    def test_a_chain_is_one_organization_s_in_one_shard(self) -> None:
        """Its name says which."""
        (entry,) = sealed(event("user.added"))
        (attestation,) = ocsf("1.9.0", entry)["attestation_list"]
        assert attestation["chain_uid"] == f"{entry.origin}/{Leaf.unpack(entry.leaf).org_ref.hex()}"
        assert attestation["authority_uid"] == entry.origin.rpartition("/")[0]
        assert "prev_event" not in attestation
