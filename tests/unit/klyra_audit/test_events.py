"""One function for each event type of the product page."""

from __future__ import annotations

import inspect
import json
import time
import typing
from decimal import Decimal
from typing import Any

import pytest

from klyra_audit import events
from klyra_audit.catalog import Catalog
from klyra_audit.errors import InvalidEvent, Rejected
from klyra_audit.event import Actor, AuditEvent
from klyra_audit.format import canonical
from klyra_audit.validation import Validator

CATALOG = Catalog.load()
VALIDATOR = Validator(CATALOG)
PRODUCT = (*CATALOG.names("moderation"), *CATALOG.names("administrative"))
ACTOR = Actor.user("usr_1", "Ana")
SCORES = {"toxic": Decimal("0.93"), "spam": "0.1"}
CHANGES = {"threshold": {"from": "0.5", "to": "0.75"}}
CONTENT = {"content_type": "text", "content_hash": "a1b2", "content_id": "post_1", "author_id": "u_7"}
KEY = {"key_id": "key_1", "name": "Production", "scopes": ("moderate",)}
WEBHOOK = {"webhook_id": "wh_1", "name": "Alerts", "url": "https://hooks.example.com/a"}
USER = {"user_id": "usr_2", "name": "Bea", "email": "bea@example.com", "role": "moderator"}
LATER = "2026-12-31T00:00:00Z"

# Everything each function takes beside actor and context.
WHOLE: dict[str, dict[str, Any]] = {
    "moderation.created": {"moderation_id": "mod_1", "categories": ("toxic",), **CONTENT},
    "moderation.completed": {
        "moderation_id": "mod_1",
        "decision": "flagged",
        "categories": ["toxic"],
        "scores": SCORES,
        "duration_ms": 12,
        "model": "words-1",
        **CONTENT,
    },
    "moderation.flagged": {
        "moderation_id": "mod_1",
        "categories": ["toxic"],
        "scores": SCORES,
        "threshold": Decimal("0.50"),
        **CONTENT,
    },
    "moderation.appealed": {
        "moderation_id": "mod_1",
        "reason": "a quotation",
        "decision": "flagged",
        "appeal_id": "app_1",
        "author_id": "u_7",
    },
    "moderation.overridden": {
        "moderation_id": "mod_1",
        "decision": "approved",
        "previous_decision": "flagged",
        "reason": "seen by hand",
        "appeal_id": "app_1",
        "author_id": "u_7",
    },
    "api_key.created": {**KEY, "expires_at": LATER},
    "api_key.revoked": {**KEY, "reason": "leaked"},
    "webhook.created": {**WEBHOOK, "events": ["moderation.flagged"]},
    "webhook.updated": {**WEBHOOK, "events": ["moderation.flagged"], "changes": ["events"]},
    "webhook.deleted": {**WEBHOOK, "reason": "unused"},
    "user.invited": {**USER, "expires_at": LATER},
    "user.added": USER,
    "user.removed": {**USER, "reason": "left"},
    "role.assigned": {"user_id": "usr_2", "name": "Bea", "role": "admin", "previous_role": "moderator"},
    "settings.updated": {"settings_id": "set_1", "name": "Website", "changes": CHANGES, "project_id": "prj_1"},
}
IN_THE_RESOURCE = {"moderation_id", "key_id", "webhook_id", "user_id", "settings_id", "name"}


def function(name: str):
    """Return the function of an event type."""
    return getattr(events, name.replace(".", "_"))


def arguments(name: str) -> dict[str, inspect.Parameter]:
    """Return a function's own parameters, without actor and context."""
    parameters = inspect.signature(function(name)).parameters
    return {key: parameter for key, parameter in parameters.items() if key not in ("actor", "context", "content")}


def checked(made: AuditEvent) -> dict[str, Any]:
    """Return an event's document, once it is valid."""
    document = made.document("org_acme")
    VALIDATOR.check(document, canonical.encode(document), now_us=time.time_ns() // 1000)
    return document


@pytest.mark.parametrize("name", PRODUCT)
class TestEveryFunction:
    """They follow the catalog."""

    def test_the_whole_event_is_valid(self, name) -> None:
        """Every argument has its place, and what is fixed comes from the catalog."""
        document = checked(function(name)(actor=ACTOR, client_ip="198.51.100.7", user_agent="a/1", **WHOLE[name]))
        item = CATALOG.event_types[name]
        assert (document["event_type"], document["action"]) == (name, item.action)
        assert document["resource"]["type"] == item.resource_type
        assert document["resource"]["id"] in WHOLE[name].values()
        assert document["resource"]["name"] == WHOLE[name].get("name")
        assert document["actor"] == {"type": "user", "id": "usr_1", "name": "Ana"}
        assert set(document["metadata"]) == set(WHOLE[name]) - IN_THE_RESOURCE | {"client_ip", "user_agent"}

    def test_what_is_required_is_enough(self, name) -> None:
        """And leaves no null behind."""
        needed = {key for key, parameter in arguments(name).items() if parameter.default is inspect.Parameter.empty}
        document = checked(function(name)(actor=ACTOR, **{key: WHOLE[name][key] for key in needed}))
        assert None not in document["metadata"].values()

    def test_the_arguments_are_those_of_the_schema(self, name) -> None:
        """Every member that the schema knows can be given by name; what only this product writes cannot."""
        members = json.loads(CATALOG.schemas()[CATALOG.event_types[name].schema_id])["properties"]["metadata"]
        taken = set(arguments(name)) - IN_THE_RESOURCE
        if "content" in inspect.signature(function(name)).parameters:
            taken |= set(CONTENT)
        ours = {"emitter_ids", "rotated", "overlap_seconds", "scores"} | (
            {"expires_at"} if "revoked" in name else set()
        )
        assert set(members["properties"]) - ours == taken - ours
        required = {key for key, one in arguments(name).items() if one.default is inspect.Parameter.empty}
        assert required - IN_THE_RESOURCE == set(members.get("required", ()))

    def test_the_context_is_taken(self, name) -> None:
        """Status, id, time and further metadata."""
        needed = {key: WHOLE[name][key] for key in arguments(name) if key in WHOLE[name]}
        made = function(name)(
            actor=ACTOR,
            status="failure",
            id="log_1a2b3c4d5e6f",
            timestamp="2026-01-31T12:00:00Z",
            metadata={"failure_reason": "no", "nested": {"a": (1,)}},
            **needed,
        )
        document = checked(made)
        assert (document["status"], document["id"]) == ("failure", "log_1a2b3c4d5e6f")
        assert document["timestamp"] == "2026-01-31T12:00:00Z"
        assert document["metadata"]["failure_reason"] == "no"
        assert document["metadata"]["nested"] == {"a": [1]}

    def test_a_misspelt_argument_is_a_type_error(self, name) -> None:
        """As Python says it of any function."""
        with pytest.raises(
            TypeError, match=rf"{name.replace('.', '_')}\(\) got an unexpected keyword argument 'clientip'"
        ):
            function(name)(actor=ACTOR, clientip="198.51.100.7", **WHOLE[name])

    def test_every_type_is_annotated(self, name) -> None:
        """Type checkers see the arguments of an application."""
        hints = set(function(name).__annotations__)
        assert hints == {*inspect.signature(function(name)).parameters, "return"}


def test_there_is_a_function_for_each_type_of_the_page() -> None:
    """And no other public one."""
    public = {name for name, member in vars(events).items() if inspect.isfunction(member) and not name.startswith("_")}
    own = {name for name in public if getattr(events, name).__module__ == events.__name__}
    assert own == {name.replace(".", "_") for name in PRODUCT}


class TestScores:
    """A score is a decimal string."""

    @pytest.mark.parametrize("make", [events.moderation_completed, events.moderation_flagged])
    def test_decimals_and_strings_are_taken(self, make) -> None:
        """With the digits they were given with."""
        needed = {"decision": "flagged"} if make is events.moderation_completed else {"categories": ["toxic"]}
        made = make(actor=ACTOR, moderation_id="mod_1", scores={"a": Decimal("0.90"), "b": "0.1"}, **needed)
        assert checked(made)["metadata"]["scores"] == {"a": "0.90", "b": "0.1"}

    @pytest.mark.parametrize("value", [0.93, 1.0])
    def test_a_float_is_refused_at_once(self, value) -> None:
        """Before anything is sent, at its place, with what to write instead."""
        with pytest.raises(
            InvalidEvent, match=r'pass a Decimal or a decimal string instead, such as Decimal\("0\.87"\)'
        ) as caught:
            events.moderation_flagged(actor=ACTOR, moderation_id="mod_1", categories=["toxic"], scores={"toxic": value})
        assert isinstance(caught.value, Rejected)
        assert (caught.value.code, caught.value.pointer) == ("invalid_event", "/metadata/scores/toxic")


class TestContext:
    """What every event may say."""

    @pytest.mark.parametrize("member", ["client_ip", "categories"])
    def test_a_member_given_twice_is_refused(self, member) -> None:
        """Neither silently wins."""
        with pytest.raises(InvalidEvent, match="given both by name and in `metadata`") as caught:
            events.moderation_created(
                actor=ACTOR,
                moderation_id="mod_1",
                client_ip="198.51.100.7",
                categories=["toxic"],
                metadata={member: "x"},
            )
        assert (caught.value.code, caught.value.pointer) == ("invalid_event", f"/metadata/{member}")

    def test_members_about_content_are_for_the_three_types_that_have_them(self) -> None:
        """An appeal is about a decision."""
        with pytest.raises(TypeError, match="unexpected keyword argument 'content_hash'"):
            events.moderation_appealed(actor=ACTOR, moderation_id="mod_1", content_hash="a1")  # type: ignore[call-arg]

    def test_none_is_left_out(self) -> None:
        """So that callers may pass on what they do not know."""
        made = events.moderation_created(actor=ACTOR, moderation_id="mod_1", client_ip=None, content_type=None, id=None)
        assert checked(made)["metadata"] == {}

    def test_the_typed_dictionaries_can_be_extended(self) -> None:
        """An application keeps what all its calls share in one."""

        class By(events.Context):
            actor: Actor

        by: By = {"actor": ACTOR, "client_ip": "198.51.100.7"}
        assert typing.is_typeddict(By)
        assert events.user_added(user_id="usr_2", **by).metadata == {"client_ip": "198.51.100.7"}
