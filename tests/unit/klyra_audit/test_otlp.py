"""Our OTLP form, as other tools on the way see it."""

from __future__ import annotations

import pytest

from klyra_collector.receive.audit_record import examine
from klyra_collector.receive.wire import decode_protobuf
from support import otlp


def as_others_see_it(**members):
    """Return a record of our emitter as any OTLP client's."""
    [record] = decode_protobuf(otlp.own_form(otlp.prepared(**members)))
    return record.foreign()


@pytest.mark.parametrize(
    ("actor_type", "word"), [("user", "user"), ("api_key", "service"), ("system", "system")], ids=str
)
def test_it_keeps_the_rules_of_the_audit_draft(actor_type, word) -> None:
    """Every MUST that the draft has for a record is met by our own, whoever acts."""
    record = as_others_see_it(actor={"type": actor_type, "id": "a1", "name": None})
    examined = examine(record, None)
    assert record.attributes["audit.actor.type"] == word
    assert examined.record_id == record.attributes["audit.record.id"]
    assert (record.severity_number, record.severity_text, record.scope_name) == (0, "", "")


def test_it_names_action_outcome_and_target() -> None:
    """The event's own words stand in the draft's attributes, the action in capitals."""
    attributes = as_others_see_it().attributes
    assert attributes["audit.action"].isupper()
    assert attributes["audit.outcome"] == "success"
    assert attributes["audit.target.id"]
    assert attributes["audit.target.type"]
    assert attributes["audit.schema.version"] == "klyra.audit/1"


@pytest.mark.parametrize(("address", "kind"), [("203.0.113.42", "ipv4"), ("2001:db8::1", "ipv6")])
def test_it_names_the_source(address, kind) -> None:
    """A client address is the draft's source, with its type; without one there is none."""
    own = otlp.prepared().document["metadata"]
    attributes = as_others_see_it(metadata=own | {"client_ip": address}).attributes
    assert (attributes["audit.source.id"], attributes["audit.source.type"]) == (address, kind)
    without = {name: value for name, value in own.items() if name != "client_ip"}
    assert "audit.source.id" not in as_others_see_it(metadata=without).attributes
