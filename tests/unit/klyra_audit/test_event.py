"""Actors, resources and events, and the documents they become."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections import OrderedDict
from decimal import Decimal
from enum import IntEnum, StrEnum
from types import MappingProxyType

import pytest

from klyra_audit import ids, timestamps
from klyra_audit.catalog import Catalog
from klyra_audit.errors import InvalidEvent, Rejected
from klyra_audit.event import SCHEMA, Actor, AuditEvent, Resource
from klyra_audit.format import canonical
from klyra_audit.format.errors import ProfileError
from klyra_audit.validation import Validator


def event(**members) -> AuditEvent:
    """Return an event; `members` replace its own."""
    return AuditEvent(
        **{
            "event_type": "moderation.created",
            "actor": Actor.user("usr_1", "Ana"),
            "resource": Resource("moderation", "mod_1"),
            "action": "create",
            **members,
        }
    )


class TestActor:
    """Who did it."""

    def test_there_are_three_kinds(self) -> None:
        """A person, a program with a key, a part of the system."""
        assert Actor.user("usr_1", "Ana") == Actor("user", "usr_1", "Ana")
        assert Actor.api_key("key_1") == Actor("api_key", "key_1", None)
        assert Actor.system("moderation-engine") == Actor("system", "moderation-engine")

    def test_actors_and_resources_cannot_be_changed(self) -> None:
        """They are shared between events."""
        with pytest.raises(dataclasses.FrozenInstanceError):
            Actor.user("usr_1").id = "usr_2"  # type: ignore[misc]
        with pytest.raises(dataclasses.FrozenInstanceError):
            Resource("user", "usr_1").name = "Ana"  # type: ignore[misc]


class TestDocument:
    """What is validated, split and sealed."""

    def test_it_has_the_eight_members_and_two_more(self) -> None:
        """In the order of the product page."""
        document = event(
            id="log_1a2b3c4d5e6f", timestamp="2026-06-15T14:30:45Z", metadata={"content_type": "text"}, status="failure"
        ).document("org_acme")
        assert list(document.items()) == [
            ("id", "log_1a2b3c4d5e6f"),
            ("timestamp", "2026-06-15T14:30:45Z"),
            ("event_type", "moderation.created"),
            ("actor", {"type": "user", "id": "usr_1", "name": "Ana"}),
            ("resource", {"type": "moderation", "id": "mod_1", "name": None}),
            ("action", "create"),
            ("status", "failure"),
            ("metadata", {"content_type": "text"}),
            ("organization_id", "org_acme"),
            ("schema", SCHEMA),
        ]

    def test_a_fresh_one_is_valid(self) -> None:
        """Success, no metadata, an id and the present time in milliseconds."""
        before = time.time_ns()
        document = event().document("org_acme")
        after = time.time_ns()
        assert ids.LOG_ID.fullmatch(document["id"])
        assert len(document["id"]) == 30
        assert len(document["timestamp"]) == len("2026-06-15T14:30:45.123Z")
        assert before - 1_000_000 < timestamps.to_nanoseconds(document["timestamp"]) <= after
        assert (document["status"], document["metadata"]) == ("success", {})
        Validator(Catalog.load()).check(document, canonical.encode(document), now_us=after // 1000)

    def test_id_and_timestamp_are_of_the_same_moment(self) -> None:
        """The id begins with the milliseconds of the timestamp."""
        document = event().document("org_acme")
        milliseconds = timestamps.to_nanoseconds(document["timestamp"]) // 1_000_000
        assert document["id"][:13] == ids.log_id(ids.uuid7(milliseconds, bytes(10)))[:13]

    def test_every_call_draws_another_id(self) -> None:
        """Unless the event has one."""
        assert event().document("org_a")["id"] != event().document("org_a")["id"]
        named = event(id="log_1a2b3c4d5e6f")
        assert named.document("org_a")["id"] == named.document("org_a")["id"] == "log_1a2b3c4d5e6f"

    def test_it_shares_nothing_with_the_event(self) -> None:
        """Changing a document changes no other, nor does changing what the event was made of."""
        metadata = {"categories": ["toxic"], "nested": {"a": 1}}
        made = event(metadata=metadata)
        expected = copy.deepcopy(metadata)
        metadata["categories"].append("spam")
        made.document("org_a")["metadata"]["nested"]["a"] = 2
        assert made.document("org_a")["metadata"] == made.metadata == expected


class Decision(StrEnum):
    """Such as an application has."""

    FLAGGED = "flagged"


class Level(IntEnum):
    """Such as an application has."""

    HIGH = 3


class TestMetadata:
    """Applications have other values than JSON has."""

    def test_what_means_json_becomes_json(self) -> None:
        """Mappings, tuples and enumerations; booleans and null stay."""
        metadata = MappingProxyType(
            {
                "mapping": OrderedDict(a=(1, (2,))),
                "decision": Decision.FLAGGED,
                "level": Level.HIGH,
                "plain": [True, None, "x"],
            }
        )
        document = event(metadata=metadata).document("org_a")
        assert document["metadata"] == {
            "mapping": {"a": [1, [2]]},
            "decision": "flagged",
            "level": 3,
            "plain": [True, None, "x"],
        }
        assert canonical.parse_canonical(canonical.encode(document)) == document

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("0.87", "0.87"),
            ("0.10", "0.10"),
            ("1E+2", "100"),
            ("1E-7", "0.0000001"),
            ("0E+2", "0"),
            ("-0", "0"),
            ("-12.5", "-12.5"),
        ],
    )
    def test_a_decimal_becomes_a_decimal_string(self, value, text) -> None:
        """Digits as given, without exponent, which the schemas accept."""
        document = event(metadata={"scores": {"toxic": Decimal(value)}}).document("org_a")
        assert document["metadata"] == {"scores": {"toxic": text}}
        Validator(Catalog.load()).check(document, canonical.encode(document), now_us=time.time_ns() // 1000)

    @pytest.mark.parametrize("value", [0.87, 3.0, float("nan"), float("inf")])
    def test_a_float_is_refused_where_it_is_given(self, value) -> None:
        """With the place, and with what to write instead."""
        with pytest.raises(InvalidEvent, match="pass a Decimal or a decimal string instead") as caught:
            event(metadata={"scores": {"to/xic": [value]}})
        assert isinstance(caught.value, Rejected)
        assert (caught.value.code, caught.value.pointer) == ("invalid_event", "/metadata/scores/to~1xic/0")
        assert caught.value.remedy == ""

    @pytest.mark.parametrize("value", ["NaN", "sNaN", "Infinity", "-Infinity"])
    def test_a_decimal_that_is_no_number_is_refused(self, value) -> None:
        """It has no decimal notation."""
        with pytest.raises(InvalidEvent, match="not a finite number") as caught:
            event(metadata={"x": Decimal(value)})
        assert (caught.value.code, caught.value.pointer) == ("invalid_event", "/metadata/x")

    @pytest.mark.parametrize("value", [b"bytes", {1, 2}, object()])
    def test_what_is_no_json_is_left_for_the_encoder_to_refuse(self, value) -> None:
        """Nothing is coerced silently."""
        with pytest.raises(ProfileError, match="is not a JSON value"):
            canonical.encode(event(metadata={"x": value}).document("org_a"))

    def test_a_copy_with_changes_is_an_event_as_well(self) -> None:
        """`dataclasses.replace` checks the metadata again."""
        assert dataclasses.replace(event(), metadata={"a": (1,)}).metadata == {"a": [1]}
        with pytest.raises(InvalidEvent):
            dataclasses.replace(event(), metadata={"a": 0.5})
