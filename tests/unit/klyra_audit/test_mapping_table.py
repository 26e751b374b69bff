"""Every row of the mapping table, what an operator adds to it, and that nothing is dropped."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from klyra_audit import ids, resources
from klyra_audit.errors import InvalidEvent
from klyra_audit.format import canonical, sections
from klyra_audit.format.errors import ProfileError
from klyra_audit.mapping.foreign import Foreign
from klyra_audit.mapping.record import Arrival, Mapped, map_record, text_of, to_profile
from klyra_audit.mapping.table import (
    Additions,
    BadMapping,
    EventTypeRule,
    MappingTable,
    address,
    known_targets,
)
from klyra_collector.config import BadConfiguration, Settings
from support.otlp import CATALOG, NOW_US, VALIDATOR

TABLE = MappingTable(CATALOG)
TIME = 1_781_000_000_123_456_789
ARRIVAL = Arrival("org_acme", 1_781_000_001_000_000_000, bytes(range(32)))
ENOUGH = {"user.id": "u", "klyra.resource.id": "r"}  # what an event cannot do without
PAGE = Path(__file__).resolve().parents[3] / "docs/mapping.md"


def foreign(attributes: dict[str, Any], *, without: tuple[str, ...] = (), **members: Any) -> Foreign:
    """Return a record that can be mapped, with attributes added and left out."""
    given_members = {"event_name": "user.removed", "body": None, "time_unix_nano": TIME} | members
    kept = {name: value for name, value in (ENOUGH | attributes).items() if name not in without}
    return Foreign(attributes=kept, **({"observed_time_unix_nano": 0, "trace_id": "", "span_id": ""} | given_members))


def mapped(record: Foreign, table: MappingTable = TABLE, resource: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the document of a record, which keeps to the JSON profile."""
    document = map_record(record, resource or {}, ARRIVAL, table).document
    canonical.encode(document)
    return document


def at(document: Any, path: str) -> Any:
    """Return what stands at a dotted path, None if nothing does; `a.b/c.d` has the attribute name c.d at its end."""
    dotted, _, name = path.partition("/")
    for member in dotted.split("."):
        document = document.get(member, {})
    return document.get(name) if name else (None if document == {} else document)


KEYS = st.one_of(
    st.sampled_from([name.label for target in TABLE.targets.values() for name in target.names if not name.place]),
    st.sampled_from(["klyra.metadata.a", "klyra.metadata.client_ip", "klyra.metadata.tag", "tag", "flags", "a"]),
    st.from_regex(r"[!-~]{1,12}", fullmatch=True),
)
SCALARS = st.one_of(
    st.sampled_from(["service", "CREATE", "LOGIN", "success", "198.51.100.9", "host-1", "org_acme", "", "U"]),
    st.text(st.characters(blacklist_categories=["Cs"]), max_size=8),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.booleans(),
    st.binary(max_size=5),
    st.none(),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2))
MAPS = st.dictionaries(KEYS, VALUES, max_size=8)
RECORDS = st.builds(
    foreign,
    MAPS,
    event_name=st.sampled_from(["user.removed", "user.login.sso", "x"]),
    body=st.one_of(VALUES, MAPS),
    time_unix_nano=st.sampled_from([TIME, 1]),
    trace_id=st.sampled_from(["", "0a"]),
    severity_text=st.sampled_from(["", "WARN"]),
    flags=st.integers(0, 2),
    scope_attributes=st.dictionaries(KEYS, SCALARS, max_size=1),
    tag=st.sampled_from(["", "a.b"]),
)
EXTENDED = MappingTable(
    CATALOG,
    Additions(
        attributes={"actor.name": ["a", "body:a"], "metadata.own": ["resource:a", "b"], "status": ["record:flags"]},
        event_types=[EventTypeRule(match="user.login*", event_type="session.created")],
        values={"status": {"1": "failure", "u": "success"}},
        personal={"actor": ["a", "tag"], "target": ["body:a", "resource:tag"]},
    ),
)


def map_or_try_another(record: Foreign, resource: dict[str, Any], table: MappingTable) -> Mapped:
    """Map a random record; one that became invalid, whose bytes are quarantined whole, is not looked at."""
    try:
        return map_record(record, resource, ARRIVAL, table)
    except InvalidEvent:
        reject()


class TestEveryRow:
    """The table of DESIGN section 6, name by name."""

    @pytest.mark.parametrize(
        ("attributes", "path", "expected"),
        [
            ({"klyra.id": "log_0abcdefgh"}, "id", "log_0abcdefgh"),
            ({"klyra.id": "x1"}, "id", ids.log_id_of_foreign("klyra.id", "x1")),
            ({"klyra.id": "x1"}, "metadata.source_id", "x1"),
            ({"audit.record.id": "x2"}, "id", ids.log_id_of_foreign("audit.record.id", "x2")),
            ({"log.record.uid": "x3"}, "id", ids.log_id_of_foreign("log.record.uid", "x3")),
            ({}, "id", ids.log_id(ids.uuid7(TIME // 1_000_000, ARRIVAL.seed))),
            ({}, "organization_id", "org_acme"),
            ({"klyra.actor.type": "system"}, "actor.type", "system"),
            ({"audit.actor.type": "USER"}, "actor.type", "user"),
            ({"audit.actor.type": "service"}, "actor.type", "system"),
            ({"audit.actor.type": "service"}, "metadata.attributes/audit.actor.type", "service"),
            ({}, "actor.type", "user"),
            ({"klyra.actor.id": "a"}, "actor.id", "a"),
            ({"audit.actor.id": "a"}, "actor.id", "a"),
            ({"enduser.id": "e"}, "actor.id", "u"),
            ({"enduser.id": "e"}, "metadata.attributes/enduser.id", "e"),
            ({"user.id": 17}, "actor.id", "17"),
            ({"klyra.actor.name": "N"}, "actor.name", "N"),
            ({"user.name": "N"}, "actor.name", "N"),
            ({}, "actor.name", None),
            ({"klyra.resource.type": "user"}, "resource.type", "user"),
            ({"audit.target.type": "Team"}, "resource.type", "Team"),
            ({}, "resource.type", "user"),
            ({"audit.target.id": "t"}, "metadata.attributes/audit.target.id", "t"),
            ({"klyra.resource.name": "R"}, "resource.name", "R"),
            ({"klyra.action": "DELETE"}, "action", "delete"),
            ({"audit.action": "Create"}, "action", "create"),
            ({"audit.action": "LOGIN"}, "action", "delete"),
            ({"audit.action": "LOGIN"}, "metadata.attributes/audit.action", "LOGIN"),
            ({"klyra.action": "PURGE", "audit.action": "UPDATE"}, "action", "update"),
            ({}, "action", "delete"),
            ({"klyra.status": "Failure"}, "status", "failure"),
            ({"audit.outcome": "failure"}, "status", "failure"),
            ({"audit.outcome": "unknown"}, "status", "unknown"),
            ({}, "status", "success"),
            ({"klyra.client_ip": "2001:db8::1"}, "metadata.client_ip", "2001:db8::1"),
            ({"audit.source.id": "198.51.100.9"}, "metadata.client_ip", "198.51.100.9"),
            ({"client.address": "198.51.100.9"}, "metadata.client_ip", "198.51.100.9"),
            ({"audit.source.id": "host-1", "client.address": "198.51.100.9"}, "metadata.client_ip", "198.51.100.9"),
            ({"audit.source.id": "host-1"}, "metadata.client_ip", None),
            ({"audit.source.id": "host-1"}, "metadata.attributes/audit.source.id", "host-1"),
            ({"audit.source.type": "hostname"}, "metadata.attributes/audit.source.type", "hostname"),
            ({"klyra.metadata.client_ip": "198.51.100.9"}, "metadata.client_ip", "198.51.100.9"),
            ({"klyra.metadata.client_ip": "no"}, "metadata.attributes/klyra.metadata.client_ip", "no"),
            ({"user_agent.original": "curl/8"}, "metadata.user_agent", "curl/8"),
            ({"user_agent.original": "x" * 4097}, "metadata.attributes/user_agent.original", "x" * 4097),
            ({"klyra.metadata.ticket": ["T"]}, "metadata.ticket", ["T"]),
            ({"klyra.metadata.delivery": "sure"}, "metadata.attributes/klyra.metadata.delivery", "sure"),
            ({"klyra.metadata.": 1}, "metadata.attributes/klyra.metadata.", 1),
            ({"klyra.actor.name": ""}, "metadata.attributes/klyra.actor.name", ""),
            ({"anything": 0.1}, "metadata.attributes/anything", "0.1"),
        ],
    )
    def test_attributes(self, attributes, path, expected) -> None:
        """Each name gives its member, what does not fit stays an attribute, and what is silent has its default."""
        assert at(mapped(foreign(attributes)), path) == expected

    @pytest.mark.parametrize(
        ("members", "path", "expected"),
        [
            ({}, "timestamp", "2026-06-09T10:13:20.123456789Z"),
            ({"time_unix_nano": 0, "observed_time_unix_nano": TIME}, "timestamp", "2026-06-09T10:13:20.123456789Z"),
            ({"time_unix_nano": 0}, "timestamp", "2026-06-09T10:13:21Z"),
            ({"time_unix_nano": 0}, "metadata.timestamp_source", "collector"),
            ({"trace_id": "0a", "span_id": "0b"}, "metadata.trace_id", "0a"),
            ({"trace_id": "0a", "span_id": "0b"}, "metadata.span_id", "0b"),
            ({"trace_id": "00"}, "metadata.trace_id", None),
            ({"body": "text"}, "metadata.message", "text"),
            ({"body": [1, 0.5]}, "metadata.message", [1, "0.5"]),
            ({"body": {"reason": "left"}}, "metadata.reason", "left"),
            ({"body": {"client_ip": "198.51.100.9"}}, "metadata.client_ip", "198.51.100.9"),
            ({"body": {"client_ip": "host-1"}}, "metadata.body/client_ip", "host-1"),
            ({"body": {"user_agent": "curl/8"}}, "metadata.user_agent", "curl/8"),
            ({"body": {"attributes": {"a": 1}}}, "metadata.body/attributes", {"a": 1}),
            ({"body": {"trace_id": "mine"}, "trace_id": "0a"}, "metadata.body/trace_id", "mine"),
            ({"severity_text": "WARN"}, "metadata.attributes/severity_text", "WARN"),
            ({"severity_number": 13}, "metadata.attributes/severity_number", 13),
            ({"flags": 1}, "metadata.attributes/flags", 1),
            ({"scope_name": "lib"}, "metadata.attributes/otel.scope.name", "lib"),
            ({"scope_version": "1"}, "metadata.attributes/otel.scope.version", "1"),
            ({"scope_attributes": {"a": 0.5}}, "metadata.attributes/otel.scope.attributes", {"a": "0.5"}),
            ({"dropped_attributes_count": 3}, "metadata.dropped_attributes_count", 3),
            ({"tag": "app.login"}, "metadata.tag", "app.login"),
            ({"best_effort": True}, "metadata.delivery", "best_effort"),
        ],
    )
    def test_fields_and_body(self, members, path, expected) -> None:
        """What the record itself says has its place, too; members of a body whose place is taken are kept."""
        assert at(mapped(foreign({}, **members)), path) == expected

    @pytest.mark.parametrize(
        ("attributes", "members", "expected"),
        [
            ({"event.name": "user.added", "klyra.event_type": "user.invited"}, {}, "user.removed"),
            ({"event.name": "user.added", "klyra.event_type": "user.invited"}, {"event_name": ""}, "user.added"),
            ({"klyra.event_type": "user.invited"}, {"event_name": ""}, "user.invited"),
        ],
    )
    def test_the_event_type(self, attributes, members, expected) -> None:
        """The field comes first, then event.name, then ours."""
        assert mapped(foreign(attributes, **members))["event_type"] == expected

    def test_a_losing_event_name_is_kept(self) -> None:
        """It stays an attribute."""
        assert at(mapped(foreign({"event.name": "x"})), "metadata.attributes/event.name") == "x"

    @pytest.mark.parametrize(
        ("without", "members", "pointer"),
        [
            ((), {"event_name": ""}, "/event_type"),
            (("user.id",), {}, "/actor/id"),
            (("klyra.resource.id",), {}, "/resource/id"),
            ((), {"time_unix_nano": 2**64}, "/timestamp"),
            ((), {"time_unix_nano": -1}, "/timestamp"),
        ],
    )
    def test_what_an_event_cannot_do_without(self, without, members, pointer) -> None:
        """A record that has none of its names is invalid there."""
        with pytest.raises(InvalidEvent) as caught:
            mapped(foreign({}, without=without, **members))
        assert (caught.value.pointer, caught.value.code) == (pointer, "invalid_event")

    def test_the_resources_attributes_are_kept(self) -> None:
        """All but the organization's, which the key has said already."""
        resource = {"service.name": "shop", "pid": 2**60, "klyra.organization.id": "org_acme"}
        assert mapped(foreign({}), resource=resource)["metadata"]["resource"] == {
            "service.name": "shop",
            "pid": str(2**60),
        }

    def test_another_organization_is_not_followed_but_kept(self) -> None:
        """The key decides; that the record says otherwise can be seen."""
        document = mapped(foreign({"klyra.organization.id": "org_other"}))
        assert document["organization_id"] == "org_acme"
        assert document["metadata"]["attributes"] == {"klyra.organization.id": "org_other"}

    def test_a_field_and_an_attribute_of_one_name_are_both_kept(self) -> None:
        """The field stands behind a prefix."""
        kept = mapped(foreign({"flags": "x", "record.flags": "y"}, flags=1))["metadata"]["attributes"]
        assert kept == {"flags": "x", "record.flags": "y", "record.record.flags": 1}

    def test_the_body_whose_message_is_taken_is_kept(self) -> None:
        """klyra.metadata.message comes first."""
        metadata = mapped(foreign({"klyra.metadata.message": "mine"}, body="text"))["metadata"]
        assert (metadata["message"], metadata["body"]) == ("mine", "text")

    def test_the_origin_of_every_member_is_told(self) -> None:
        """By target, the name or what else gave it."""
        record = foreign({"audit.actor.id": "a", "klyra.metadata.ticket": "T"}, body={"reason": "left"}, tag="t")
        assert map_record(record, {}, ARRIVAL, TABLE).origins == {
            "event_type": "record:event_name",
            "timestamp": "record:time_unix_nano",
            "id": "the request and the record's position in it",
            "actor.type": "default",
            "actor.id": "audit.actor.id",
            "resource.type": "the catalog",
            "resource.id": "klyra.resource.id",
            "action": "the catalog",
            "status": "default",
            "organization_id": "the key",
            "metadata.ticket": "klyra.metadata.ticket",
            "metadata.reason": "body:reason",
            "metadata.tag": "record:tag",
        }


class TestPersonalData:
    """What names a person goes with the person, wherever it came to lie."""

    def test_losing_names_are_in_the_sections_of_their_person(self) -> None:
        """Another id of the actor and a host name are the actor's; another id of a user is the target's."""
        record = foreign({"audit.actor.id": "a", "audit.source.id": "host-1", "audit.target.id": "t", "x": "y"})
        found = map_record(record, {}, ARRIVAL, TABLE)
        canonical.encode(found.document)
        parts = sections.split(found.document, found.marks)
        assert orjson.loads(parts.actor or b"") == {
            "/actor/id": "a",
            "/actor/name": None,
            "/metadata/attributes/user.id": "u",
            "/metadata/attributes/audit.source.id": "host-1",
        }
        assert orjson.loads(parts.target or b"") == {
            "/resource/id": "r",
            "/resource/name": None,
            "/metadata/attributes/audit.target.id": "t",
        }
        assert sections.join(parts) == found.document

    def test_of_a_resource_that_is_no_user_they_stay_in_the_core(self) -> None:
        """The id of a webhook is nobody's personal data."""
        record = foreign({"audit.target.id": "t"}, event_name="webhook.created")
        found = map_record(record, {}, ARRIVAL, TABLE)
        canonical.encode(found.document)
        assert sections.split(found.document, found.marks).target is None

    def test_an_operator_names_more(self) -> None:
        """Attributes, members of the body and attributes of the resource."""
        names = {"actor": ["email", "resource:host.user"], "target": ["body:whom", "klyra.metadata.phone"]}
        table = MappingTable(CATALOG, Additions(personal=names))
        record = foreign({"email": "e", "klyra.metadata.phone": "1"}, body={"whom": "w"}, event_name="webhook.created")
        found = map_record(record, {"host.user": "h"}, ARRIVAL, table)
        canonical.encode(found.document)
        parts = sections.split(found.document, found.marks)
        assert orjson.loads(parts.actor or b"").items() >= {
            ("/metadata/attributes/email", "e"),
            ("/metadata/resource/host.user", "h"),
        }
        assert orjson.loads(parts.target or b"") == {"/metadata/whom": "w", "/metadata/phone": "1"}

    @pytest.mark.parametrize("name", ["body:client_ip", "body:attributes", "body:body", "body:resource"])
    def test_pointers_never_lie_in_each_other(self, name) -> None:
        """Such an addition is only taken as far as the entry can be joined again."""
        table = MappingTable(CATALOG, Additions(personal={"actor": [name], "target": [name]}))
        record = foreign({"audit.actor.id": "a"}, body={"attributes": {"a": 1}, "resource": 1, "body": 2})
        found = map_record(record, {}, ARRIVAL, table)
        canonical.encode(found.document)
        assert sections.join(sections.split(found.document, found.marks)) == found.document


class TestAdditions:
    """What an operator adds."""

    def test_names_come_after_ours_and_before_the_others(self) -> None:
        """In the order in which they stand."""
        table = MappingTable(CATALOG, Additions(attributes={"actor.id": ["sub", "principal"]}))
        assert mapped(foreign({"principal": "p"}), table)["actor"]["id"] == "p"
        assert mapped(foreign({"principal": "p", "sub": "s"}), table)["actor"]["id"] == "s"
        assert mapped(foreign({"sub": "s", "klyra.actor.id": "k"}), table)["actor"]["id"] == "k"

    def test_names_may_lie_anywhere(self) -> None:
        """In the resource, in the body, in the record's own fields; one may serve several members."""
        names = {
            "actor.id": ["resource:service.name"],
            "actor.name": ["resource:service.name"],
            "resource.id": ["body:order"],
            "resource.name": ["record:severity_text"],
        }
        table = MappingTable(CATALOG, Additions(attributes=names))
        record = foreign({}, without=tuple(ENOUGH), body={"order": 7}, severity_text="WARN")
        document = mapped(record, table, {"service.name": "shop"})
        assert document["actor"] == {"type": "user", "id": "shop", "name": "shop"}
        assert document["resource"] == {"type": "user", "id": "7", "name": "WARN"}
        assert document["metadata"] == {}

    def test_metadata_can_be_named(self) -> None:
        """They keep their kind, and klyra.metadata.… comes first."""
        table = MappingTable(CATALOG, Additions(attributes={"metadata.changes": ["diff"]}))
        assert mapped(foreign({"diff": [1, 0.5]}), table)["metadata"] == {"changes": [1, "0.5"]}
        both = mapped(foreign({"diff": 1, "klyra.metadata.changes": 2}), table)["metadata"]
        assert both == {"changes": 2, "attributes": {"diff": 1}}

    def test_constants_stand_in_for_what_is_not_found(self) -> None:
        """For metadata as for members."""
        constants = {"actor.type": "system", "resource.id": "all", "status": "failure", "metadata.source": "shop"}
        table = MappingTable(CATALOG, Additions(constants=constants | {"event_type": "user.added"}))
        document = mapped(foreign({}, without=("klyra.resource.id",), event_name=""), table)
        assert (document["actor"]["type"], document["resource"]["id"], document["status"]) == (
            "system",
            "all",
            "failure",
        )
        assert (document["metadata"], document["event_type"]) == ({"source": "shop"}, "user.added")
        assert mapped(foreign({"audit.outcome": "success"}), table)["status"] == "success"

    def test_words_are_translated_and_kept(self) -> None:
        """In any case of letters; a verb of one's own becomes an action."""
        values = {"status": {"OK": "success"}, "action": {"purge": "delete"}, "resource.type": {"Account": "user"}}
        table = MappingTable(CATALOG, Additions(values=values))
        sent = {"audit.outcome": "Ok", "audit.action": "PURGE", "audit.target.type": "ACCOUNT"}
        document = mapped(foreign(sent), table)
        assert (document["status"], document["action"], document["resource"]["type"]) == ("success", "delete", "user")
        assert document["metadata"]["attributes"] == sent

    @pytest.mark.parametrize(
        ("name", "attributes", "expected"),
        [
            ("user.login.sso", {}, "session.created"),
            ("user.added", {}, "user.added"),
            ("audit", {"http.route": "/logout"}, "user.removed"),
            ("audit", {"http.route": "/users"}, "audit"),
            ("", {"http.route": "/users", "code": 201}, "user.added"),
        ],
    )
    def test_rules_choose_the_event_type(self, name, attributes, expected) -> None:
        """By the name, by values, the first that matches; never for a name that the catalog knows."""
        rules = [
            EventTypeRule(match="user.login*", event_type="session.created"),
            EventTypeRule(match="audit", attributes={"http.route": "/log*"}, event_type="user.removed"),
            EventTypeRule(match="", attributes={"code": "2??"}, event_type="user.added"),
            EventTypeRule(match="user.*", event_type="webhook.created"),
        ]
        table = MappingTable(CATALOG, Additions(event_types=rules))
        document = mapped(foreign(attributes, event_name=name), table)
        assert document["event_type"] == expected
        kept = at(document, "metadata.attributes/event_name")
        assert kept == (name if name and name != expected else None)

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ('attributes = { "actor.idd" = ["a"] }', r"mapping.attributes.actor.idd.*none of.*actor.id.*metadata"),
            ('attributes = { "metadata.tag" = ["a"] }', r"mapping.attributes.metadata.tag.*collector writes itself"),
            ('attributes = { "metadata.signature" = ["a"] }', r"metadata.signature.*collector writes itself"),
            ('attributes = { "metadata." = ["a"] }', r"mapping.attributes.metadata.*cannot be one"),
            ('attributes = { "actor.id" = ["resource:"] }', r"mapping.attributes.actor.id.*empty"),
            ('constants = { "id" = "x" }', r"mapping.constants.id.*none of"),
            ('constants = { "action" = "create" }', r"mapping.constants.action.*none of"),
            ('constants = { "status" = "ok" }', r"mapping.constants.status.*success or failure"),
            ('values = { "actor.id" = { a = "b" } }', r"mapping.values.actor.id.*none of actor.type"),
            ('values = { status = { ok = "fine" } }', r"mapping.values.status.ok.*success or failure"),
            ('personal = { somebody = ["a"] }', r"mapping.personal.somebody.*actor, target"),
            ('personal = { actor = [""] }', r"mapping.personal.actor.*empty"),
            ('event_types = [{ event_type = "user.added" }]', r"mapping.event_types.0.*match everything"),
            ('event_types = [{ match = "a", event_type = "a", x = 1 }]', r"mapping.event_types.0.x"),
            ("other = 1", r"mapping.other"),
        ],
    )
    def test_mistakes_name_the_setting(self, tmp_path, text, match) -> None:
        """They are found when the configuration is read."""
        path = tmp_path / "a.toml"
        path.write_text(f"[mapping]\n{text}\n")
        with pytest.raises(BadConfiguration, match=match) as caught:
            Settings.load(path)
        assert (caught.value.code, bool(caught.value.remedy)) == ("bad_configuration", True)

    @pytest.mark.parametrize(
        ("additions", "setting"),
        [
            (Additions(event_types=[EventTypeRule(match="a", event_type="user.loggedin")]), "mapping.event_types.0"),
            (Additions(constants={"event_type": "user.loggedin"}), "mapping.constants.event_type"),
        ],
    )
    def test_an_event_type_must_be_in_the_catalog(self, additions, setting) -> None:
        """Otherwise everything that it matches would be quarantined."""
        with pytest.raises(BadMapping, match=f"{setting}.*user.loggedin") as caught:
            MappingTable(CATALOG, additions)
        assert (caught.value.code, "catalog" in caught.value.remedy) == ("bad_mapping", True)


class TestNothingIsDropped:
    """Whatever comes, all of it can be found again."""

    @given(RECORDS, MAPS, st.sampled_from([TABLE, EXTENDED]))
    @settings(max_examples=300, deadline=None)
    def test_every_name_and_value_can_be_found(self, record, resource, table) -> None:
        """A value is kept under its name, or its name gave the member in which it stands."""
        found = map_or_try_another(record, resource, table)
        document, metadata = found.document, found.document["metadata"]
        by_origin = {}
        for target, origin in found.origins.items():
            by_origin.setdefault(origin, []).append(target)

        def placed(label: str, value: Any) -> bool:
            targets = by_origin.get(label, [])
            values = [document["id"], metadata.get("source_id")] if "id" in targets else []
            for target in targets:
                inner = target.removeprefix("metadata.")
                values.append(metadata.get(inner) if inner != target else at(document, target))
            same = to_profile(value)
            text = text_of(value)
            return any(item == same or (text and str(item).lower() == text.lower()) for item in values) or (
                label.endswith("klyra.organization.id") and value == document["organization_id"]
            )

        for name, value in record.attributes.items():
            assert metadata.get("attributes", {}).get(name, object()) == to_profile(value) or placed(name, value)
        for name, value in resource.items():
            kept = metadata.get("resource", {}).get(name, object())
            assert kept == to_profile(value) or placed(f"resource:{name}", value)
        if isinstance(record.body, dict):
            for name, value in record.body.items():
                kept = metadata.get("body", {}).get(name, object())
                assert kept == to_profile(value) or placed(f"body:{name}", value)
        elif record.body is not None:
            assert to_profile(record.body) in (metadata.get("message", ...), metadata.get("body", ...))
        assert metadata.get("tag", "") == record.tag

    @given(RECORDS, MAPS, st.sampled_from([TABLE, EXTENDED]))
    @settings(max_examples=100, deadline=None)
    def test_the_same_again_is_the_same_and_can_be_split(self, record, resource, table) -> None:
        """A record that is sent again has the same id and content; sections join to the document."""
        first = map_or_try_another(record, resource, table)
        again = Arrival(ARRIVAL.organization_id, ARRIVAL.received_ns + 5_000_000_000, ARRIVAL.seed)
        assert map_record(record, resource, again, table).document == first.document
        try:
            canonical.encode(first.document)
        except ProfileError:  # nested too deeply
            reject()
        assert sections.join(sections.split(first.document, first.marks)) == first.document

    @given(st.one_of(st.ip_addresses().map(str), st.text(max_size=20), st.from_regex(r"[0-9.:a-f%]{1,20}")))
    def test_an_address_is_one_for_the_schema_too(self, text) -> None:
        """What is taken for client_ip never quarantines the record for it."""
        document = mapped(foreign({"klyra.client_ip": text}))
        assert ("client_ip" in document["metadata"]) == (address(text) is not None)
        if "client_ip" in document["metadata"]:
            VALIDATOR.check(document, canonical.encode(document), now_us=NOW_US)


class TestTheFile:
    """schemas/mapping.json and what is written about it."""

    def test_it_satisfies_its_schema(self) -> None:
        """Which is a JSON Schema itself."""
        schema = resources.load("schemas", "mapping.schema.json")
        Draft202012Validator.check_schema(schema)
        assert not list(Draft202012Validator(schema).iter_errors(resources.load("schemas", "mapping.json")))

    def test_the_page_names_every_target_with_its_names_in_their_order(self) -> None:
        """docs/mapping.md and the table cannot drift apart."""
        rows = {cells[1]: cells[2] for line in PAGE.read_text().splitlines() if len(cells := line.split("|")) > 3}
        for target in known_targets():
            written = re.findall(r"`([a-z_:.]+[a-z_])`", rows[f" `{target}` "])
            labels = [name.label for name in TABLE.targets[target].names]
            assert [name for name in written if name in labels] == labels

    def test_the_page_s_example_is_true(self) -> None:
        """Its record, mapped with its settings, is a valid user.removed."""
        blocks = dict(re.findall(r"^```(json|toml)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL))
        from klyra_collector.receive.wire_json import decode_json

        request = {"resourceLogs": [{"scopeLogs": [{"logRecords": [orjson.loads(blocks["json"])]}]}]}
        (record,) = decode_json(orjson.dumps(request))
        table = MappingTable(CATALOG, Settings(**tomllib.loads(blocks["toml"])).mapping.additions())
        found = map_record(record.foreign(), {}, ARRIVAL, table)
        document = found.document
        VALIDATOR.check(document, canonical.encode(document), now_us=NOW_US)
        assert (document["event_type"], document["actor"]["id"], document["resource"]["id"]) == (
            "user.removed",
            "usr_81",
            "usr_90",
        )
        assert document["metadata"] == {
            "client_ip": "198.51.100.9",
            "application": "shop",
            "result": "OK",
            "email": "zoe@example.org",
            "attributes": {"event_name": "account.member_dropped", "severity_text": "NOTICE"},
        }
        assert b"zoe@example.org" in (sections.split(document, found.marks).target or b"")
