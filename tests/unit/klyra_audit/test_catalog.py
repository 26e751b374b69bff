"""The catalog, the schema files it names, and an application's own types."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from klyra_audit import explanation
from klyra_audit.catalog import CONTROL_KINDS, ENTRY_SCHEMA, BadCatalog, Catalog
from klyra_audit.errors import InvalidEvent, Rejected
from klyra_audit.event import Actor, AuditEvent, Resource
from klyra_audit.format import canonical
from klyra_audit.format.sections import NO_MARKS, Marks
from klyra_audit.validation import Validator

SCHEMAS = Path(__file__).resolve().parents[3] / "schemas"
FILES = sorted(SCHEMAS.rglob("*.schema.json"))
CATALOG = Catalog.load()
NOW_US = 1_800_000_000_000_000

MODERATION = ("created", "completed", "flagged", "appealed", "overridden")
ADMINISTRATIVE = (
    "api_key.created",
    "api_key.revoked",
    "webhook.created",
    "webhook.updated",
    "webhook.deleted",
    "user.invited",
    "user.added",
    "user.removed",
    "role.assigned",
    "settings.updated",
)
SYSTEM = {
    "audit_log.queried",
    "audit_log.exported",
    "audit_log.verified",
    "siem_destination.created",
    "siem_destination.updated",
    "siem_destination.deleted",
    "heartbeat.sent",
    "retention.changed",
    "legal_hold.placed",
    "legal_hold.released",
    "personal_data.erased",
    "emitter_key.added",
    "emitter_key.revoked",
    "access.denied",
    "session.created",
    "viewer_token.created",
    "quarantine.replayed",
    "operator.accessed",
}
POINTS_AT_PEOPLE = ("filters", "selection", "subject", "subject_hmac", "entry_id", "email", "author_id")


def load(path: Path) -> dict[str, Any]:
    """Parse a file of `schemas/`."""
    return json.loads(path.read_bytes())


def metadata_of(name: str) -> dict[str, Any]:
    """Return what a type's schema says of its metadata."""
    return load(SCHEMAS / "events" / f"{name}.schema.json")["properties"]["metadata"]


def subschemas(schema: Any):
    """Yield every object within a schema."""
    if isinstance(schema, dict):
        yield schema
        schema = list(schema.values())
    if isinstance(schema, list):
        for inner in schema:
            yield from subschemas(inner)


def relative(path: Path) -> str:
    """Name a test's parameter."""
    return str(path.relative_to(SCHEMAS))


class TestProduct:
    """The types of the product page, and those by which the product audits itself."""

    def test_the_types_of_the_page_come_first_in_its_order(self) -> None:
        """5 moderation and 10 administrative ones."""
        assert CATALOG.names("moderation") == tuple(f"moderation.{name}" for name in MODERATION)
        assert CATALOG.names("administrative") == ADMINISTRATIVE
        assert CATALOG.names()[:15] == (*CATALOG.names("moderation"), *ADMINISTRATIVE)

    def test_the_system_types_are_complete(self) -> None:
        """Nothing the product does to the log is without a type."""
        assert set(CATALOG.names("system")) == SYSTEM
        assert set(CATALOG.names()) == {*CATALOG.names("moderation"), *ADMINISTRATIVE, *SYSTEM}

    def test_a_type_says_what_is_fixed_for_it(self) -> None:
        """Name, words for people, action, resource type, schema and marks."""
        invited = CATALOG.get("user.invited")
        assert invited is not None
        assert (invited.group, invited.action, invited.resource_type) == ("administrative", "create", "user")
        assert invited.schema_id == "klyra.audit/1#user.invited"
        assert invited.marks == CATALOG.marks("user.invited") == Marks(target=("/metadata/email",))

    def test_an_unknown_type_is_none_and_has_no_marks(self) -> None:
        """So that what is to be quarantined can still be split."""
        assert CATALOG.get("no.such_type") is None
        assert CATALOG.marks("no.such_type") == NO_MARKS

    def test_the_types_cannot_be_replaced(self) -> None:
        """A catalog is shared by everything in the process."""
        with pytest.raises(TypeError):
            CATALOG.event_types["moderation.created"] = CATALOG.event_types["user.added"]  # type: ignore[index]

    def test_titles_and_descriptions_are_for_people(self) -> None:
        """No two titles alike, and one sentence each."""
        types = CATALOG.event_types.values()
        assert len({item.title for item in types}) == len(types)
        assert all(re.fullmatch(r"[A-Z][^.]+\.", item.description) for item in types)

    def test_the_catalog_has_the_form_it_asks_of_others(self) -> None:
        """catalog.json satisfies catalog.schema.json."""
        form = explanation.slow_validator(load(SCHEMAS / "catalog.schema.json"))
        assert explanation.first_fault(form, load(SCHEMAS / "catalog.json")) is None


class TestFiles:
    """The files are what outsiders verify with."""

    def test_every_type_has_a_file_and_every_file_a_type(self) -> None:
        """None is missing, none is left over."""
        assert {path.name.removesuffix(".schema.json") for path in (SCHEMAS / "events").glob("*.json")} == set(
            CATALOG.names()
        )
        assert {path.name.removesuffix(".schema.json") for path in (SCHEMAS / "control").glob("*.json")} == set(
            CONTROL_KINDS
        )

    @pytest.mark.parametrize("path", FILES, ids=relative)
    def test_every_file_is_a_schema(self, path) -> None:
        """Judged by the metaschema of 2020-12, which the file names; its id ends as its path does."""
        schema = load(path)
        assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
        Draft202012Validator.check_schema(schema)
        family = "control/1/" if path.parent.name == "control" else "audit/1/"
        tail = path.name if path.parent.name == "control" else relative(path)
        assert schema["$id"] == f"https://schemas.klyra.io/{family}{tail}"

    @pytest.mark.parametrize("path", FILES, ids=relative)
    def test_no_schema_allows_a_fraction(self, path) -> None:
        """There is no type `number`, and no number in the file is a float."""
        for schema in subschemas(load(path)):
            kinds = schema.get("type", [])
            assert "number" not in ([kinds] if isinstance(kinds, str) else kinds)
            assert not any(isinstance(value, float) for value in schema.values())

    @pytest.mark.parametrize("path", FILES, ids=relative)
    def test_what_a_pattern_wants_is_said_in_words(self, path) -> None:
        """Else a refusal could not say what would be right."""
        for schema in subschemas(load(path)):
            if isinstance(schema.get("pattern"), str) and set(schema) != {"pattern"}:
                assert schema["description"]

    @pytest.mark.parametrize("name", CATALOG.names())
    def test_file_and_catalog_agree(self, name) -> None:
        """What is fixed is written in both: the file judges, the catalog fills in."""
        item = CATALOG.event_types[name]
        schema = load(SCHEMAS / "events" / f"{name}.schema.json")
        fixed = schema["properties"]
        assert (schema["title"], schema["description"]) == (item.title, item.description)
        assert fixed["event_type"] == {"const": name}
        assert fixed["action"] == {"const": item.action}
        assert fixed["resource"] == {"properties": {"type": {"const": item.resource_type}}}
        assert set(fixed["metadata"].get("required", [])) <= set(fixed["metadata"]["properties"])

    @pytest.mark.parametrize("name", CATALOG.names())
    def test_what_points_at_people_is_marked(self, name) -> None:
        """Subjects, filters and selections are the target's; a mark names a member that the schema knows."""
        members, marks = metadata_of(name)["properties"], CATALOG.marks(name)
        assert {pointer.removeprefix("/metadata/") for pointer in (*marks.actor, *marks.target)} <= set(members)
        assert {f"/metadata/{member}" for member in POINTS_AT_PEOPLE if member in members} <= set(marks.target)

    def test_the_hashes_are_those_of_the_files(self) -> None:
        """An auditor gets them with sha256sum."""
        hashes = CATALOG.schema_hashes()
        created = SCHEMAS / "events" / "moderation.created.schema.json"
        assert hashes["klyra.audit/1#moderation.created"] == hashlib.sha256(created.read_bytes()).hexdigest()
        assert hashes.keys() == CATALOG.schemas().keys()
        assert CATALOG.schemas()[ENTRY_SCHEMA] == (SCHEMAS / "entry.schema.json").read_bytes()
        others = ("catalog", "export-manifest", "mapping")
        not_sealed = {(SCHEMAS / f"{name}.schema.json").read_bytes() for name in others}
        files = {path.read_bytes() for path in FILES} - not_sealed
        assert set(CATALOG.schemas().values()) == files


HEX16, HEX32 = "0f" * 16, "0f" * 32
CONTROL = {
    "start": {
        "type": "start",
        "software": "klyra-audit 0.1.0",
        "clock_source": "synchronised",
        "org_salt_sha256": HEX32,
        "recovered": {"size": 7, "cut": 2, "reason": "torn body"},
    },
    "policy": {
        "type": "policy",
        "org_ref": HEX16,
        "plan": "enterprise",
        "policy": "enterprise-730d",
        "retention_days": 730,
    },
    "schema": {"type": "schema", "id": "klyra.audit/1#moderation.created", "sha256": HEX32},
    "key": {
        "type": "key",
        "ordinal": 1,
        "emitter_id": "api@host-1",
        "boot": "0193585e-5a00-7000-8000-000000000000",
        "vkey": None,
        "org_ref": HEX16,
        "revoked_after_seq": None,
    },
    "shard": {"type": "shard", "role": "close", "next_origin": "klyra/c1/2027", "next_vkey": "klyra/c1/2027+0+AA"},
    "heads": {"type": "heads", "size": 7, "count": 2, "root": HEX32},
    "expiry": {
        "type": "expiry",
        "org_ref": HEX16,
        "cutoff_day": 20_700,
        "count": 3,
        "seq_digest": HEX32,
        "held": [[4, 4], [6, 9]],
    },
    "erasure": {
        "type": "erasure",
        "org_ref": HEX16,
        "actor": [[1, 3]],
        "target": [],
        "basis": "art17",
        "requested_day": 20_600,
    },
    "extend": {"type": "extend", "org_ref": HEX16, "first_seq": 0, "last_seq": 9, "retention_days": 90},
    "hold": {
        "type": "hold",
        "hold_id": "hold_1",
        "org_ref": HEX16,
        "from_us": 0,
        "to_us": None,
        "selection_c": None,
    },
    "release": {"type": "release", "hold_id": "hold_1"},
    "export": {"type": "export", "sha256": HEX32},
}


class TestControlDocuments:
    """The control documents of DESIGN section 5."""

    def validator(self, kind: str) -> Draft202012Validator:
        """Return what judges a kind."""
        return explanation.slow_validator(load(SCHEMAS / "control" / f"{kind}.schema.json"))

    @pytest.mark.parametrize("kind", CONTROL_KINDS)
    def test_an_example_is_valid(self, kind) -> None:
        """Also with null for what is not known."""
        assert explanation.first_fault(self.validator(kind), CONTROL[kind]) is None

    @pytest.mark.parametrize("kind", CONTROL_KINDS)
    def test_they_are_strict(self, kind) -> None:
        """Nothing may be added or left out, and the type says the kind."""
        validator, document = self.validator(kind), CONTROL[kind]
        assert not validator.is_valid(document | {"note": "x"})
        assert not validator.is_valid(document | {"type": "another"})
        for member in document:
            assert not validator.is_valid({name: value for name, value in document.items() if name != member})

    def test_hashes_are_lower_case_hexadecimal(self) -> None:
        """Of the exact length, without a line break."""
        for digest in (HEX32.upper(), HEX32[:-1], HEX32 + "\n", HEX16):
            assert not self.validator("schema").is_valid(CONTROL["schema"] | {"sha256": digest})

    def test_a_dropped_shard_is_a_policy_as_well(self) -> None:
        """In a form of its own, not mixed with the other."""
        dropped = {"type": "policy", "dropped_origin": "klyra/c1/2026", "size": 5, "root": HEX32}
        assert self.validator("policy").is_valid(dropped)
        assert not self.validator("policy").is_valid(dropped | CONTROL["policy"])


OWN_TYPE = {
    "name": "order.refunded",
    "title": "Order refunded",
    "description": "The price of an order was paid back.",
    "group": "administrative",
    "action": "update",
    "resource_type": "order",
}


def write(tmp_path: Path, *types: dict[str, Any], **members: Any) -> Path:
    """Write a catalog file and return its path."""
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"schema": "klyra.audit/1", "event_types": list(types), **members}))
    return path


def refund(**metadata: Any) -> dict[str, Any]:
    """Return the document of an application's own event."""
    return AuditEvent(
        event_type="order.refunded",
        actor=Actor.user("usr_1"),
        resource=Resource("order", "ord_1"),
        action="update",
        metadata=metadata,
        timestamp="2026-06-15T14:30:45Z",
    ).document("org_acme")


def check(catalog: Catalog, document: dict[str, Any]) -> None:
    """Validate a document."""
    Validator(catalog).check(document, canonical.encode(document), now_us=NOW_US)


class TestOwnTypes:
    """An application adds a file of its own."""

    def test_the_readme_example_works(self, tmp_path) -> None:
        """Its type is listed last, checked, marked and hashed like the product's."""
        (example,) = re.findall(r"```json\n(.*?)```", (SCHEMAS / "README.md").read_text(), re.DOTALL)
        path = tmp_path / "own.json"
        path.write_text(example)
        catalog = Catalog.load(path)
        assert catalog.names()[-1] == "order.refunded"
        assert catalog.marks("order.refunded") == Marks(target=("/metadata/customer_id",))
        check(catalog, refund(amount="12.50", customer_id="cus_1", note="kept"))
        encoded = catalog.schemas()["klyra.audit/1#order.refunded"]
        assert catalog.schema_hashes()["klyra.audit/1#order.refunded"] == hashlib.sha256(encoded).hexdigest()
        assert encoded == Catalog.load(path).schemas()["klyra.audit/1#order.refunded"]

    @pytest.mark.parametrize(
        ("changes", "pointer"),
        [
            ({"action": "delete"}, "/action"),
            ({"resource": {"type": "user", "id": "usr_1", "name": None}}, "/resource/type"),
            ({"metadata": {}}, "/metadata/amount"),
            ({"metadata": {"amount": "much"}}, "/metadata/amount"),
        ],
    )
    def test_an_own_type_is_judged_like_the_products(self, tmp_path, changes, pointer) -> None:
        """By what the file fixes and by its metadata schema."""
        schema = {"required": ["amount"], "properties": {"amount": {"$ref": "../entry.schema.json#/$defs/decimal"}}}
        catalog = Catalog.load(write(tmp_path, OWN_TYPE | {"metadata_schema": schema}))
        with pytest.raises(InvalidEvent) as caught:
            check(catalog, refund(amount="1") | changes)
        assert caught.value.pointer == pointer

    def test_a_type_without_metadata_schema_takes_any_metadata(self, tmp_path) -> None:
        """The rules for all entries hold all the same."""
        catalog = Catalog.load(write(tmp_path, OWN_TYPE))
        check(catalog, refund(anything=[1, {"a": None}]))
        with pytest.raises(InvalidEvent, match="IPv4 or IPv6"):
            check(catalog, refund(client_ip="home"))

    @pytest.mark.parametrize("name", ["moderation.created", "audit_log.queried"])
    def test_the_products_names_cannot_be_redefined(self, tmp_path, name) -> None:
        """Else an application could loosen what the product promises."""
        with pytest.raises(BadCatalog, match=f"defines {name}, which exists already") as caught:
            Catalog.load(write(tmp_path, OWN_TYPE | {"name": name}))
        assert isinstance(caught.value, Rejected)
        assert (caught.value.code, caught.value.remedy) == ("bad_catalog", "Give your type another name.")

    def test_a_name_is_defined_once(self, tmp_path) -> None:
        """Not twice in the own file either."""
        with pytest.raises(BadCatalog, match=r"order\.refunded, which exists already"):
            Catalog.load(write(tmp_path, OWN_TYPE, OWN_TYPE))

    def test_the_group_system_is_the_products(self, tmp_path) -> None:
        """The page hides that group at first, so nobody else's events may go there."""
        with pytest.raises(BadCatalog, match="into the group system") as caught:
            Catalog.load(write(tmp_path, OWN_TYPE | {"group": "system"}))
        assert (caught.value.code, caught.value.remedy[:16]) == ("bad_catalog", "That group is th")

    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"name": "Refund"}, "/event_types/0/name must be two or more words"),
            ({"name": "order.refunded\n"}, "/event_types/0/name must be two or more words"),
            ({"name": "order/../../x.y"}, "/event_types/0/name must be two or more words"),
            ({"action": "refund"}, "/event_types/0/action must be create, read, update or delete"),
            ({"title": ""}, "/event_types/0/title must not be empty"),
            ({"actor_metadata": ["/actor/id"]}, "/event_types/0/actor_metadata/0 must be a JSON Pointer"),
            ({"target_metadata": ["/metadata/a~2"]}, "/event_types/0/target_metadata/0 must be a JSON Pointer"),
            ({"target_metadata": ["/metadata/"]}, "/event_types/0/target_metadata/0 must be a JSON Pointer"),
            ({"resourcetype": "x"}, "/event_types/0/resourcetype is not a member that may stand here"),
            ({"metadata_schema": True}, "/event_types/0/metadata_schema must be an object"),
        ],
    )
    def test_a_file_of_another_form_is_refused_with_the_place(self, tmp_path, changes, complaint) -> None:
        """And with where to look for the right form."""
        with pytest.raises(BadCatalog, match=re.escape(complaint)) as caught:
            Catalog.load(write(tmp_path, OWN_TYPE | changes))
        assert (caught.value.code, caught.value.remedy) == (
            "bad_catalog",
            "Compare it with the example in schemas/README.md.",
        )

    def test_another_schema_family_is_refused(self, tmp_path) -> None:
        """This software knows one."""
        with pytest.raises(BadCatalog, match=r"/schema must be klyra\.audit/1"):
            Catalog.load(write(tmp_path, OWN_TYPE, schema="klyra.audit/2"))

    @pytest.mark.parametrize(
        ("marks", "named"),
        [
            ({"actor_metadata": ["/metadata/a"], "target_metadata": ["/metadata/a"]}, "/metadata/a"),
            ({"target_metadata": ["/metadata/a", "/metadata/a-b", "/metadata/a/b"]}, "/metadata/a/b"),
            ({"target_metadata": ["/metadata/client_ip"]}, "/metadata/client_ip"),
            ({"actor_metadata": ["/metadata/user_agent/os"]}, "/metadata/user_agent/os"),
        ],
    )
    def test_marks_that_overlap_are_refused(self, tmp_path, marks, named) -> None:
        """Their sections could not be joined again."""
        with pytest.raises(BadCatalog, match=f"marks {named} of order") as caught:
            Catalog.load(write(tmp_path, OWN_TYPE | marks))
        assert caught.value.remedy.startswith("Mark each member of the metadata once")

    def test_marking_what_is_the_actors_anyway_changes_nothing(self, tmp_path) -> None:
        """client_ip may be named."""
        catalog = Catalog.load(write(tmp_path, OWN_TYPE | {"actor_metadata": ["/metadata/client_ip"]}))
        assert catalog.marks("order.refunded").actor == ("/metadata/client_ip",)

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "objekt"},
            {"properties": {"a": {"pattern": "("}}},
            {"$ref": "https://example.com/elsewhere.json"},
            {"$ref": "../entry.schema.json#/$defs/nothing"},
        ],
    )
    def test_a_metadata_schema_that_cannot_be_used_is_refused(self, tmp_path, schema) -> None:
        """A reference to elsewhere is never fetched."""
        with pytest.raises(BadCatalog, match=r"metadata_schema of order\.refunded") as caught:
            Catalog.load(write(tmp_path, OWN_TYPE | {"metadata_schema": schema}))
        assert caught.value.remedy.startswith("Refer to nothing but")

    def test_a_missing_file_is_named(self, tmp_path) -> None:
        """With the setting to check."""
        with pytest.raises(BadCatalog, match=r"none\.json cannot be read: No such file") as caught:
            Catalog.load(tmp_path / "none.json")
        assert caught.value.remedy == "Check the setting `catalog`."

    @pytest.mark.parametrize("text", ["{", "[]", "null"])
    def test_a_file_that_is_no_json_object_is_refused(self, tmp_path, text) -> None:
        """Whatever it is instead."""
        path = tmp_path / "own.json"
        path.write_text(text)
        with pytest.raises(BadCatalog, match=r"own\.json (is not JSON|the file must be an object)"):
            Catalog.load(path)

    def test_loading_an_own_file_leaves_the_products_catalog_alone(self, tmp_path) -> None:
        """Each catalog is its own."""
        before = copy.copy(CATALOG.schema_hashes())
        Catalog.load(write(tmp_path, OWN_TYPE))
        assert CATALOG.get("order.refunded") is None
        assert CATALOG.schema_hashes() == before == Catalog.load().schema_hashes()
