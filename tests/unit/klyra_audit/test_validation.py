"""What may be sealed: the schemas, judged by two implementations, and the rules beyond them."""

from __future__ import annotations

import copy
import datetime as dt
import json
import re
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klyra_audit import explanation, timestamps
from klyra_audit.catalog import ENTRY_SCHEMA, Catalog, compile_schema
from klyra_audit.errors import InvalidEvent, Rejected
from klyra_audit.format import canonical, sections
from klyra_audit.validation import Validator

if TYPE_CHECKING:
    from collections.abc import Iterator

CATALOG = Catalog.load()
VALIDATOR = Validator(CATALOG)
SCHEMAS = {schema_id: json.loads(encoded) for schema_id, encoded in CATALOG.schemas().items()}
ENTRY = SCHEMAS[ENTRY_SCHEMA]
FAST = {name: compile_schema(SCHEMAS[item.schema_id], ENTRY) for name, item in CATALOG.event_types.items()}
SLOW = {name: explanation.slow_validator(SCHEMAS[item.schema_id], ENTRY) for name, item in CATALOG.event_types.items()}
NOW = "2026-06-21T12:00:00Z"
NOW_US = timestamps.to_nanoseconds(NOW) // 1000

# The example of the product page, with the two members that the API does not show.
PAGE = {
    "id": "log_1a2b3c4d5e6f",
    "timestamp": "2023-06-15T14:30:45Z",
    "event_type": "moderation.created",
    "actor": {"type": "api_key", "id": "key_9z8y7x6w5v4u", "name": "Production API Key"},
    "resource": {"type": "moderation", "id": "mod_5t4r3q2p1o0n", "name": None},
    "action": "create",
    "status": "success",
    "metadata": {
        "client_ip": "198.51.100.123",
        "user_agent": "klyra-sdk/1.0.0 node/16.15.0",
        "content_type": "text",
        "content_hash": "a1b2c3d4e5f6",
        "categories": ["toxic", "harassment"],
    },
    "organization_id": "org_7f3a",
    "schema": "klyra.audit/1",
}
CONTROL_CHARACTERS = ["\0", "\t", "\n", "\r\n", "\x1f", "\x7f", "\x80", "\x85", "\x9f"]
SAMPLES = {
    "text": "a text",
    "words": ["one", "two"],
    "count": 3,
    "decimal": "0.87",
    "identifier": "x-1",
    "timestamp": "2026-06-15T14:30:45.123Z",
    "changes": {"threshold": {"from": "0.5", "to": None}},
    "selection": {"event_types": ["moderation.created"], "limit": 100},
    "url": "https://hooks.example.com/klyra",
    "email": "ana@example.com",
    "manifest_sha256": "ab" * 32,
    "subject_hmac": "cd" * 32,
}


def sample(member: str, schema: dict[str, Any]) -> Any:
    """Return a valid value for a member of the metadata."""
    schema = next((option for option in schema.get("anyOf", ()) if "$ref" in option), schema)
    if "$ref" in schema:
        return SAMPLES[schema["$ref"].rpartition("/")[2]]
    if "enum" in schema:
        return schema["enum"][0]
    by_kind = {"boolean": True, "integer": schema.get("minimum", 0)}
    return by_kind.get(schema["type"], SAMPLES.get(member))


def document(name: str, *, whole: bool = True) -> dict[str, Any]:
    """Return a valid document of a type with all metadata its schema knows, or only what is required."""
    item, schema = CATALOG.event_types[name], SCHEMAS[CATALOG.event_types[name].schema_id]["properties"]
    known = schema["metadata"]["properties"]
    members = known if whole else schema["metadata"].get("required", ())
    metadata = {member: sample(member, known[member]) for member in members}
    if whole:
        common = {"client_ip": "2001:db8::7", "user_agent": "Mozilla/5.0", "scores": {"toxic": "0.93", "spam": "-1e-7"}}
        metadata |= common | {"unknown": {"deep": [1, None, True, {"a": []}]}}
    return {
        "id": "log_0192f3c17c3e7d1a9a552f6c1d",
        "timestamp": "2026-06-15T14:30:45.123456789Z",
        "event_type": name,
        "actor": {"type": "user", "id": "usr_1", "name": "Zoë € 😀 \u2028"},
        "resource": {"type": item.resource_type, "id": "res_1", "name": None},
        "action": item.action,
        "status": schema.get("status", {}).get("const", "success"),
        "metadata": metadata,
        "organization_id": "org_7f3a",
        "schema": "klyra.audit/1",
    }


def changed(original: dict[str, Any], pointer: str, value: Any = ...) -> dict[str, Any]:
    """Return a copy with one member replaced or, without a value, removed."""
    copied = copy.deepcopy(original)
    *path, member = pointer[1:].split("/")
    parent = copied
    for part in path:
        parent = parent[part]
    if value is ...:
        del parent[member]
    else:
        parent[member] = value
    return copied


def valid_documents(name: str) -> Iterator[dict[str, Any]]:
    """Yield documents of a type that must be accepted."""
    whole = document(name)
    yield from (whole, document(name, whole=False))
    for pointer, values in {
        "/id": ["log_00000000", "log_" + "z" * 40],
        "/timestamp": ["1999-12-31T23:59:59Z", "2024-02-29T00:00:00.1Z", "1000-01-01T00:00:00.000000000Z"],
        "/actor/type": ["user", "api_key", "system"],
        "/actor/id": ["x" * 256, "é" * 256, "\u2028", "a b"],
        "/actor/name": [None, "", "line\nbreak", "x" * 5000],
        "/resource/name": [None, "a"],
        "/organization_id": ["org_a", "org_" + "Z-_9" * 16, "operator"],
        "/metadata/client_ip": ["198.51.100.7", "0.0.0.0", "::", "::ffff:198.51.100.7", "2001:DB8::A"],
        "/metadata/user_agent": ["", "x" * 4096, "a\tb"],
        "/metadata/scores": [{}, {"a": "0"}, {"a": "-12.50"}, {"a": "1E+9"}, {"a": "3.0"}],
        "/metadata/unknown": [None, 2**53 - 1, -(2**53) + 1, "", [[]], {"a": {"b": "c"}}],
    }.items():
        yield from (changed(whole, pointer, value) for value in values)


def invalid_documents(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield documents of a type that must be refused, each with the pointer of its one fault."""
    whole = document(name)
    required = SCHEMAS[CATALOG.event_types[name].schema_id]["properties"]["metadata"].get("required", [])
    for pointer in (
        *(f"/{member}" for member in ENTRY["required"]),
        *(f"/{party}/{member}" for party in ("actor", "resource") for member in ("type", "id", "name")),
        *(f"/metadata/{member}" for member in required),
    ):
        yield pointer, changed(whole, pointer)
    for pointer in ("/note", "/actor/role", "/resource/url"):
        yield pointer, changed(whole, pointer, "x")
    for member in set(whole) - {"event_type", "schema"}:
        yield f"/{member}", changed(whole, f"/{member}", 3)
    for pointer, values in bad_values(name).items():
        yield from ((pointer, changed(whole, pointer, value)) for value in values)


def bad_values(name: str) -> dict[str, list[Any]]:
    """Return values that one member cannot have."""
    item = CATALOG.event_types[name]
    actions = {"create", "read", "update", "delete"} - {item.action}
    broken_text = ["", "x" * 257, *(f"a{character}" for character in CONTROL_CHARACTERS)]
    return {
        "/id": ["", "log_", "log_1234567", "log_" + "a" * 41, "log_1A2B3C4D", "evt_12345678", "log_12345678\n", None],
        "/timestamp": BAD_TIMESTAMPS,
        "/actor": [None, [], "usr_1"],
        "/actor/type": ["", "User", "robot", None],
        "/actor/id": [*broken_text, None],
        "/resource/id": [*broken_text, None],
        "/resource/name": [3, []],
        "/resource/type": ["", "thing", item.resource_type.upper(), f"{item.resource_type}\n"],
        "/action": [*actions, "", "CREATE", None],
        "/status": ["", "ok", "Success", None],
        "/organization_id": ["", "7f3a", "org_", "org_" + "a" * 65, "org_ä", "Operator", "org_a\n", None],
        "/metadata": [None, [], "text"],
        "/metadata/client_ip": [
            "",
            "home",
            "1.2.3",
            "1.2.3.4.5",
            "256.1.1.1",
            "01.2.3.4",
            "1.2.3.4\n",
            "::g",
            "::1%e",
            7,
        ],
        "/metadata/user_agent": ["x" * 4097, None, 7],
        "/metadata/scores": [[], "0.9", None],
        "/metadata/scores/toxic": ["", "high", "0,9", ".9", "9.", "+1", "00.9", "NaN", "0.9\n", "1" * 65, 1, None, []],
        "/metadata/unknown": [2**53, -(2**53)],
    }


BAD_TIMESTAMPS = [
    "",
    "now",
    "2026-06-15",
    "2026-06-15T14:30Z",
    "2026-06-15t14:30:45Z",
    "2026-06-15T14:30:45z",
    "2026-06-15 14:30:45Z",
    "2026-06-15T14:30:45",
    "2026-06-15T14:30:45+00:00",
    "2026-06-15T14:30:45.Z",
    "2026-06-15T14:30:45.1234567890Z",
    "2026-06-15T14:30:45Z\n",
    "2026-13-15T14:30:45Z",
    "2026-00-15T14:30:45Z",
    "2026-02-29T14:30:45Z",
    "2026-04-31T14:30:45Z",
    "2026-06-00T14:30:45Z",
    "2026-06-15T24:00:00Z",
    "2026-06-15T14:60:00Z",
    "2016-12-31T23:59:60Z",
    "0000-01-01T00:00:00Z",
    "٢٠٢٦-06-15T14:30:45Z",
    None,
    1,
]


def check(event: dict[str, Any], *, now_us: int = NOW_US) -> None:
    """Validate a document, of the profile or not."""
    VALIDATOR.check(event, json.dumps(event).encode(), now_us=now_us)


def refusal(event: dict[str, Any], *, now_us: int = NOW_US) -> InvalidEvent:
    """Return the error that a document leads to."""
    with pytest.raises(InvalidEvent) as caught:
        check(event, now_us=now_us)
    return caught.value


class TestCorpus:
    """Valid and invalid documents of every type."""

    def test_the_example_of_the_product_page_is_valid(self) -> None:
        """Unchanged, with organization and schema added."""
        check(PAGE)

    @pytest.mark.parametrize("name", CATALOG.names())
    def test_valid_documents_are_accepted_by_both_implementations(self, name) -> None:
        """And have a canonical form, so that they can be sealed."""
        for event in valid_documents(name):
            assert FAST[name].is_valid(event), event
            assert SLOW[name].is_valid(event), event
            VALIDATOR.check(event, canonical.encode(event), now_us=NOW_US)

    @pytest.mark.parametrize("name", CATALOG.names())
    def test_invalid_documents_are_refused_by_both_at_the_same_place(self, name) -> None:
        """The error names the member at fault, as a Rejected that no retry will mend."""
        for pointer, event in invalid_documents(name):
            if pointer not in ("/event_type", "/schema"):
                assert not FAST[name].is_valid(event), (pointer, event)
                assert not SLOW[name].is_valid(event), (pointer, event)
            error = refusal(event)
            assert isinstance(error, Rejected)
            assert (error.code, error.pointer) == ("invalid_event", pointer), (error.reason, event)
            assert error.remedy == ""
            assert error.reason not in ("", "breaks the schema of its event type")
            assert "breaks the rule" not in error.reason

    @pytest.mark.parametrize("name", CATALOG.names())
    def test_known_metadata_of_the_wrong_type_are_refused(self, name) -> None:
        """Each member that the type's schema names is checked."""
        whole = document(name)
        for member in whole["metadata"]:
            if member != "unknown":
                wrong = 3 if isinstance(whole["metadata"][member], (str, list, dict, bool)) else "3"
                event = changed(whole, f"/metadata/{member}", wrong)
                assert not FAST[name].is_valid(event)
                assert not SLOW[name].is_valid(event)
                assert refusal(event).pointer == f"/metadata/{member}"

    @pytest.mark.parametrize("name", CATALOG.names())
    def test_the_split_by_the_catalogs_marks_joins_again(self, name) -> None:
        """Personal data leave the core and come back."""
        whole = document(name)
        parts = sections.split(whole, CATALOG.marks(name))
        assert sections.join(parts) == whole
        _, target = sections.pointers(parts)
        assert set(CATALOG.marks(name).target) <= set(target)

    def test_a_refused_attempt_cannot_be_a_success(self) -> None:
        """access.denied is a failure by its meaning."""
        error = refusal(changed(document("access.denied"), "/status", "success"))
        assert (error.pointer, error.reason) == ("/status", "must be failure")


class TestAgreement:
    """jsonschema-rs decides and jsonschema explains, so they must not differ."""

    @given(st.text("0123456789.:abcdefABCDEF%/ \n", max_size=20) | st.ip_addresses().map(str))
    def test_on_addresses(self, text) -> None:
        """IPv4 and IPv6 as both read them."""
        event = changed(PAGE, "/metadata/client_ip", text)
        assert FAST["moderation.created"].is_valid(event) == SLOW["moderation.created"].is_valid(event)

    @given(
        st.builds(
            "{:04d}-{:02d}-{:02d}T{:02d}:{:02d}:{:02d}{}".format,
            st.integers(0, 9999),
            st.integers(0, 13),
            st.integers(0, 32),
            st.integers(0, 25),
            st.integers(0, 61),
            st.integers(0, 61),
            st.sampled_from(["Z", ".5Z", ".123456789Z", ".0123456789Z", "z", "+00:00", "", "Z\n"]),
        )
    )
    def test_on_timestamps(self, text) -> None:
        """What is accepted is a moment that exists, which the rest of the software can read."""
        event = changed(PAGE, "/timestamp", text)
        accepted = FAST["moderation.created"].is_valid(event)
        assert accepted == SLOW["moderation.created"].is_valid(event)
        if accepted:
            timestamps.to_nanoseconds(text)

    @given(st.dates(dt.date(1000, 1, 1)), st.integers(0, 3))
    def test_on_every_day_of_the_calendar(self, day, past_the_end) -> None:
        """A day that exists is accepted, one after the end of its month is not."""
        text = f"{day.year:04d}-{day.month:02d}-{28 + past_the_end}T00:00:00Z"
        try:
            day.replace(day=28 + past_the_end)
            exists = True
        except ValueError:
            exists = False
        event = changed(PAGE, "/timestamp", text)
        assert FAST["moderation.created"].is_valid(event) is exists
        assert SLOW["moderation.created"].is_valid(event) is exists

    @given(st.text(max_size=300), st.sampled_from(["/id", "/actor/id", "/organization_id", "/metadata/scores/toxic"]))
    def test_on_any_text(self, text, pointer) -> None:
        """Lengths count characters, and patterns mean the same."""
        event = changed(document("moderation.created"), pointer, text)
        assert FAST["moderation.created"].is_valid(event) == SLOW["moderation.created"].is_valid(event)

    def test_where_they_differ_the_fast_one_decides(self, tmp_path) -> None:
        """An application's pattern ends in $, before which Python would let a line break pass."""
        own = {
            "name": "order.refunded",
            "title": "t",
            "description": "d",
            "group": "administrative",
            "action": "create",
            "resource_type": "moderation",
            "metadata_schema": {"properties": {"amount": {"pattern": "^[0-9]+$"}}},
        }
        path = tmp_path / "own.json"
        path.write_text(json.dumps({"schema": "klyra.audit/1", "event_types": [own]}))
        event = PAGE | {"event_type": "order.refunded", "metadata": {"amount": "12\n"}}
        with pytest.raises(InvalidEvent) as caught:
            Validator(Catalog.load(path)).check(event, canonical.encode(event), now_us=NOW_US)
        assert (caught.value.pointer, caught.value.reason) == ("", "breaks the schema of its event type")


class TestReasons:
    """What a refusal says."""

    @pytest.mark.parametrize(
        ("pointer", "value", "reason"),
        [
            ("/action", ..., "is required"),
            ("/actor/name", ..., "is required"),
            ("/note", 1, "is not a member that may stand here"),
            ("/actor", None, "must be an object"),
            ("/actor/type", "robot", "must be user, api_key or system"),
            ("/actor/id", "", "must not be empty"),
            ("/actor/id", "x" * 257, "must have at most 256 characters"),
            ("/actor/id", "a\x85", "must be 1 to 256 characters, none of them a control character"),
            ("/actor/name", 3, "must be a string or null"),
            ("/resource/type", "user", "must be moderation"),
            ("/action", "destroy", "must be create"),
            ("/status", "ok", "must be success or failure"),
            ("/id", "evt_1", "must be log_ and 8 to 40 lower-case letters or digits"),
            ("/metadata/client_ip", "home", "must be an IPv4 or IPv6 address"),
            ("/metadata/categories", "toxic", "must be a list"),
            ("/metadata/scores/toxic", "high", 'must be a decimal number as text, such as "0.87"'),
            ("/metadata/unknown", 2**53, "must be at most 9007199254740991"),
        ],
    )
    def test_each_says_what_would_be_right(self, pointer, value, reason) -> None:
        """One phrase after the pointer."""
        error = refusal(changed(document("moderation.created"), pointer, value))
        assert (error.pointer, error.reason) == (pointer, reason)
        assert str(error) == f"{pointer}: {reason}"

    def test_a_timestamp_is_explained_with_an_example(self) -> None:
        """Whatever is wrong with it."""
        assert refusal(changed(PAGE, "/timestamp", "2026-02-30T00:00:00Z")).reason.startswith(
            "must be an RFC 3339 time"
        )

    def test_the_deepest_fault_is_named_and_always_the_same(self) -> None:
        """Of several, so that whoever mends them one by one sees progress."""
        event = changed(document("moderation.created"), "/metadata/scores/toxic", "high")
        event = changed(changed(event, "/status"), "/actor/id", "")
        assert {refusal(event).pointer for _ in range(5)} == {"/metadata/scores/toxic"}

    def test_pointers_are_escaped(self) -> None:
        """As RFC 6901 asks."""
        event = changed(PAGE, "/metadata/scores", {"a/b~c": "high"})
        assert refusal(event).pointer == "/metadata/scores/a~1b~0c"

    def test_positions_in_lists_are_named(self) -> None:
        """From zero."""
        assert refusal(changed(PAGE, "/metadata/categories", ["toxic", 7])).pointer == "/metadata/categories/1"

    @pytest.mark.parametrize("pointer", ["/actor/id", "/actor/type", "/metadata/user_agent", "/metadata/client_ip"])
    def test_values_are_never_quoted(self, pointer) -> None:
        """They may be personal, and ten megabytes long."""
        error = refusal(changed(PAGE, pointer, "secret\0" * 1_500_000))
        assert "secret" not in f"{error} {error!r} {error.__cause__}"
        assert len(str(error)) < 300

    def test_a_long_name_of_a_surplus_member_is_cut(self) -> None:
        """It is the sender's as well."""
        assert refusal(PAGE | {"x" * 100_000: 1}).pointer == "/" + "x" * 128


class TestNames:
    """Which schema judges is said by `schema` and `event_type`."""

    @pytest.mark.parametrize(
        "value", ["moderation.deleted", "Moderation.created", "", "moderation.created\n", 3, None, []]
    )
    def test_an_unknown_event_type_is_refused(self, value) -> None:
        """Whatever it is."""
        error = refusal(PAGE | {"event_type": value})
        assert (error.pointer, error.code) == ("/event_type", "unknown_event_type")
        assert error.reason == "is not in the catalog of event types"

    @pytest.mark.parametrize("value", ["klyra.audit/2", "", "klyra.audit/1\n", 1, None, {}])
    def test_an_unknown_schema_is_refused(self, value) -> None:
        """Before the event type, whose meaning depends on it."""
        error = refusal(PAGE | {"schema": value, "event_type": "no.such_type"})
        assert (error.pointer, error.code, error.reason) == ("/schema", "unknown_schema", "must be klyra.audit/1")

    @pytest.mark.parametrize("member", ["schema", "event_type"])
    def test_both_are_required(self, member) -> None:
        """An empty document lacks the schema first."""
        assert refusal(changed(PAGE, f"/{member}")).pointer == f"/{member}"
        assert refusal({}).pointer == "/schema"


class TestFloats:
    """There are none, anywhere."""

    @pytest.mark.parametrize(
        "pointer",
        ["/metadata/scores/toxic", "/metadata/duration_ms", "/metadata/unknown", "/actor/name", "/status"],
    )
    @pytest.mark.parametrize("value", [0.93, 3.0, float("nan")])
    def test_a_float_is_refused_with_what_to_write_instead(self, pointer, value) -> None:
        """Also 3.0, which JSON Schema takes for an integer."""
        error = refusal(changed(document("moderation.completed"), pointer, value))
        assert error.pointer == pointer
        assert "scores and other fractions are decimal strings" in error.reason

    @pytest.mark.parametrize("value", [{"deep": [{"er": 3.0}]}, {"deep": [{"er": 0.5}]}])
    def test_a_float_deep_in_unknown_metadata_is_found(self, value) -> None:
        """In lists and objects."""
        assert refusal(changed(PAGE, "/metadata/categories", value)).pointer == "/metadata/categories/deep/0/er"

    @pytest.mark.parametrize("value", [[3.0], [[3.0]], {"a": 3.0}, {"a": [3.0]}])
    def test_a_whole_float_that_the_schema_would_take_is_refused(self, value) -> None:
        """Its canonical form would be an integer's, and the value another."""
        event = PAGE | {"metadata": {"unknown": value}}
        assert FAST["moderation.created"].is_valid(event)
        assert refusal(event).pointer.startswith("/metadata/unknown/")


class TestNul:
    """U+0000 is nowhere allowed."""

    @pytest.mark.parametrize("pointer", ["/actor/name", "/resource/name", "/metadata/user_agent", "/metadata/unknown"])
    def test_a_string_with_it_is_refused(self, pointer) -> None:
        """At its place."""
        event = changed(document("moderation.created"), pointer, "a\0b")
        with pytest.raises(InvalidEvent, match=re.escape("U+0000")) as caught:
            VALIDATOR.check(event, canonical.encode(event), now_us=NOW_US)
        assert caught.value.pointer == pointer

    def test_it_is_found_deep_inside(self) -> None:
        """In lists and objects, and in a key, where the object is named."""
        assert refusal(changed(PAGE, "/metadata/x", [{"y": "\0"}])).pointer == "/metadata/x/0/y"
        assert refusal(changed(PAGE, "/metadata/x", {"y": {"a\0": 1}})).pointer == "/metadata/x/y"

    @pytest.mark.parametrize("text", ["\\u0000", "\\\\u0000", "u0000", "\u0001"])
    def test_what_only_looks_like_it_is_kept(self, text) -> None:
        """A backslash in the text is escaped itself."""
        check(changed(PAGE, "/metadata/x", text))


class TestFuture:
    """A timestamp may be 15 minutes ahead of the collector's clock."""

    @pytest.mark.parametrize("text", ["2026-06-21T12:15:00Z", "2026-06-21T12:14:59.999999999Z", "1000-01-01T00:00:00Z"])
    def test_up_to_15_minutes_ahead_is_valid(self, text) -> None:
        """And so is anything old."""
        check(changed(PAGE, "/timestamp", text))

    @pytest.mark.parametrize("text", ["2026-06-21T12:15:00.000000001Z", "2026-06-21T12:15:01Z", "9999-12-31T23:59:59Z"])
    def test_more_is_not(self, text) -> None:
        """A sender's clock is wrong then."""
        error = refusal(changed(PAGE, "/timestamp", text))
        assert (error.pointer, error.code) == ("/timestamp", "future_timestamp")
        assert "15 minutes" in error.reason

    def test_the_limit_moves_with_the_clock_in_both_directions(self) -> None:
        """To the microsecond, though the limit is remembered for a second."""
        event = changed(PAGE, "/timestamp", "2026-06-21T12:15:00.500000Z")
        for microseconds, valid in ((500_000, True), (499_999, False), (1_000_000, True), (-1, False), (500_000, True)):
            if valid:
                check(event, now_us=NOW_US + microseconds)
            else:
                assert refusal(event, now_us=NOW_US + microseconds).code == "future_timestamp"


def test_threads_may_share_a_validator() -> None:
    """Each gets the verdict for its own clock."""
    event = changed(PAGE, "/timestamp", "2026-06-21T12:20:00Z")
    wrong: list[str] = []

    def judge(now_us: int, *, valid: bool) -> None:
        for _ in range(300):
            try:
                check(event, now_us=now_us)
            except InvalidEvent:
                wrong.extend(["refused"] if valid else [])
            else:
                wrong.extend([] if valid else ["accepted"])

    threads = [
        threading.Thread(target=judge, args=(NOW_US + minutes * 60_000_000,), kwargs={"valid": minutes >= 5})
        for minutes in (0, 10, 1, 20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_explaining_is_not_loaded_until_it_is_needed() -> None:
    """A process that sends valid events never imports the slow implementation."""
    program = [
        "import sys",
        "from klyra_audit.catalog import Catalog",
        "from klyra_audit.validation import Validator",
        "Validator(Catalog.load())",
        "sys.exit('jsonschema' in sys.modules)",
    ]
    assert subprocess.run([sys.executable, "-c", "\n".join(program)], check=False).returncode == 0
