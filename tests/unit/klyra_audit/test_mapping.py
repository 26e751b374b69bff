"""The mapping of foreign OTLP records, and the two encodings read alike."""

from __future__ import annotations

import pytest

from klyra_audit import ids
from klyra_audit.errors import InvalidEvent
from klyra_audit.format import canonical
from klyra_audit.mapping.record import Arrival, map_record, to_profile
from klyra_audit.mapping.table import MappingTable
from klyra_collector.receive.wire import DuplicateAttribute, MalformedRequest, decode_protobuf
from klyra_collector.receive.wire_json import decode_json
from support import otlp
from support.otlp import CATALOG, MAPPED

ARRIVAL = Arrival("org_acme", 1_781_000_001_000_000_000, bytes(range(32)))
TABLE = MappingTable(CATALOG)
MANY = Arrival(None, ARRIVAL.received_ns, ARRIVAL.seed)


def mapped(record, resource=None, arrival=ARRIVAL):
    """Return the document of a record given as a dict."""
    (item,) = decode_protobuf(otlp.foreign(record, resource=resource))
    return map_record(item.foreign(), item.resource, arrival, TABLE).document


def changed(without=(), **attributes):
    """Return MAPPED with attributes added or taken away."""
    kept = {key: value for key, value in MAPPED["attributes"].items() if key not in without}
    return MAPPED | {"attributes": kept | attributes}


def test_the_whole_table() -> None:
    """Every column finds its place, foreign values become profile values, and nothing is dropped."""
    document = mapped(MAPPED)
    assert document == {
        "id": ids.log_id_of_foreign("audit.record.id", "6f1d"),
        "timestamp": "2026-06-09T10:13:20.123456789Z",
        "event_type": "user.removed",
        "actor": {"type": "user", "id": "usr_1", "name": None},
        "resource": {"type": "user", "id": "usr_2", "name": None},
        "action": "delete",
        "status": "success",
        "metadata": {
            "source_id": "6f1d",
            "client_ip": "198.51.100.9",
            "user_agent": "curl/8",
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
            "message": "removed by hand",
            "ticket": "T-1",
            "attributes": {
                "ratio": "0.1",
                "big": str(2**60),
                "blob": "AP8=",
                "nested": {"list": [1, "0.5", None]},
            },
        },
        "organization_id": "org_acme",
        "schema": "klyra.audit/1",
    }
    otlp.VALIDATOR.check(document, canonical.encode(document), now_us=otlp.NOW_US)


def test_protobuf_and_json_read_alike() -> None:
    """The same record in both encodings gives the same foreign record."""
    (binary,) = decode_protobuf(otlp.foreign(MAPPED, resource={"service.name": "x"}))
    (text,) = decode_json(otlp.foreign_json(MAPPED, resource={"service.name": "x"}))
    assert binary.foreign() == text.foreign()
    assert binary.resource == text.resource
    assert binary.record_id() == text.record_id() == "6f1d"


@pytest.mark.parametrize(
    ("attributes", "without", "member", "expected"),
    [
        ({"klyra.actor.id": "a"}, (), "actor", {"type": "user", "id": "a", "name": None}),
        ({"user.id": "u", "user.name": "N"}, ("audit.actor.id",), "actor", {"type": "user", "id": "u", "name": "N"}),
        ({"enduser.id": "e"}, ("audit.actor.id",), "actor", {"type": "user", "id": "e", "name": None}),
        ({"klyra.actor.type": "service"}, (), "actor", {"type": "system", "id": "usr_1", "name": None}),
        ({"klyra.resource.name": "R"}, (), "resource", {"type": "user", "id": "usr_2", "name": "R"}),
        ({}, ("audit.target.type",), "resource", {"type": "user", "id": "usr_2", "name": None}),
        ({}, ("audit.action",), "action", "delete"),
        ({"klyra.status": "FAILURE"}, (), "status", "failure"),
        ({}, ("audit.outcome",), "status", "success"),
        ({"klyra.id": "log_abcdefgh"}, (), "id", "log_abcdefgh"),
    ],
)
def test_first_match_wins(attributes, without, member, expected) -> None:
    """Our own attribute names come before the draft's, and the catalog fills what is silent."""
    assert mapped(changed(without, **attributes))[member] == expected


def test_a_losing_attribute_is_kept() -> None:
    """What another name decided is not dropped."""
    document = mapped(changed(**{"klyra.actor.id": "a"}))
    assert document["metadata"]["attributes"]["audit.actor.id"] == "usr_1"


def test_a_record_without_id_gets_one_of_time_and_seed() -> None:
    """The id is repeatable: the same arrival gives the same id, and it sorts by the event's time."""
    record = changed(("audit.record.id",))
    assert mapped(record)["id"] == ids.log_id(ids.uuid7(MAPPED["time"] // 1_000_000, ARRIVAL.seed))


def test_a_record_without_time_takes_the_receive_time_and_says_so() -> None:
    """metadata.timestamp_source tells whose clock it was."""
    document = mapped(MAPPED | {"time": 0})
    assert document["timestamp"] == "2026-06-09T10:13:21Z"
    assert document["metadata"]["timestamp_source"] == "collector"


def test_a_map_body_becomes_metadata() -> None:
    """Its members stand beside what attributes say, which come first."""
    metadata = mapped(MAPPED | {"body": {"reason": "left", "client_ip": "ignored"}})["metadata"]
    assert (metadata["reason"], metadata["client_ip"]) == ("left", "198.51.100.9")


class TestOrganization:
    """Whose event it is."""

    def test_is_the_keys(self) -> None:
        """A key of one organization decides, whatever the record claims."""
        assert mapped(changed(**{"klyra.organization.id": "org_other"}))["organization_id"] == "org_acme"

    def test_of_a_key_for_many_is_named_by_record_then_resource(self) -> None:
        """The record's own attribute comes before the resource's."""
        resource = {"klyra.organization.id": "org_resource"}
        assert mapped(MAPPED, resource, MANY)["organization_id"] == "org_resource"
        record = changed(**{"klyra.organization.id": "org_record"})
        assert mapped(record, resource, MANY)["organization_id"] == "org_record"

    def test_must_be_named_for_a_key_of_many(self) -> None:
        """Without it the record is invalid."""
        with pytest.raises(InvalidEvent) as caught:
            mapped(MAPPED, None, MANY)
        assert caught.value.pointer == "/organization_id"


@pytest.mark.parametrize(
    ("record", "pointer"),
    [
        (MAPPED | {"event_name": ""}, "/event_type"),
        (changed(("audit.actor.id",)), "/actor/id"),
        (changed(("audit.target.id",)), "/resource/id"),
    ],
)
def test_what_cannot_be_found_is_named(record, pointer) -> None:
    """A record that names no type, actor or resource is invalid there."""
    with pytest.raises(InvalidEvent) as caught:
        mapped(record)
    assert (caught.value.pointer, caught.value.code) == (pointer, "invalid_event")


def test_the_event_type_can_be_an_attribute() -> None:
    """event.name and klyra.event_type stand in for the field."""
    for name in ("event.name", "klyra.event_type"):
        assert mapped(changed(**{name: "user.removed"}) | {"event_name": ""})["event_type"] == "user.removed"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        (1e22, "1e+22"),
        (-(2**53), str(-(2**53))),
        (2**53 - 1, 2**53 - 1),
        (True, True),
    ],
)
def test_foreign_numbers_become_profile_values(value, expected) -> None:
    """Doubles and large integers become strings that read back exactly."""
    assert to_profile(value) == expected


class TestMalformed:
    """Requests that are none."""

    @pytest.mark.parametrize("body", [b"\xff\xff\xff", b"\x0a\x05ab"])
    def test_broken_protobuf_is_refused(self, body) -> None:
        """A body that does not parse raises MalformedRequest with a remedy."""
        with pytest.raises(MalformedRequest) as caught:
            decode_protobuf(body)
        assert (caught.value.code, bool(caught.value.remedy)) == ("malformed_request", True)

    @pytest.mark.parametrize(
        "body",
        [
            b"{",
            b"[]",
            b'{"resourceLogs": {}}',
            b'{"resourceLogs": [1]}',
            b'{"resourceLogs": [{"scopeLogs": "x"}]}',
            b'{"resourceLogs": [{"resource": 5}]}',
            b'{"resourceLogs": [{"scopeLogs": [{"scope": 1}]}]}',
            b'{"resourceLogs": [{"scopeLogs": [{"logRecords": {}}]}]}',
            b"[" * 100_000,
        ],
    )
    def test_broken_json_is_refused(self, body) -> None:
        """So is JSON that is no OTLP request."""
        with pytest.raises(MalformedRequest):
            decode_json(body)

    def test_the_same_key_twice_is_noticed(self) -> None:
        """Which of two values counts is anyone's guess, so neither does, in both encodings."""
        (text,) = decode_json(otlp.foreign_json(MAPPED).replace(b'"nested"', b'"ratio"'))
        (binary,) = decode_protobuf(otlp.foreign(changed(("big",), ratia=1)).replace(b"ratia", b"ratio"))
        for item in (text, binary):
            with pytest.raises(DuplicateAttribute):
                item.foreign()

    def test_unknown_json_members_are_ignored(self) -> None:
        """A later protocol version adds members; they do no harm."""
        assert decode_json(b'{"resourceLogs": [{"later": 1, "scopeLogs": [{"scope": {}, "logRecords": []}]}]}') == []


class TestOwnForm:
    """Our own form, whatever came in between."""

    def test_is_found_wherever_its_attributes_stand(self) -> None:
        """A collector on the way may reorder and add attributes."""
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

        event = otlp.prepared(
            event_type="user.invited",
            resource={"type": "user", "id": "usr_2", "name": None},
            metadata={"email": "zoe@example.org"},
        )
        request = ExportLogsServiceRequest.FromString(otlp.own_form(event, first=5))
        message = request.resource_logs[0].scope_logs[0].log_records[0]
        (plain,) = decode_protobuf(request.SerializeToString())
        reversed_attributes = list(message.attributes)[::-1]
        del message.attributes[:]
        message.attributes.extend(reversed_attributes)
        (shuffled,) = decode_protobuf(request.SerializeToString())
        assert plain.own_form() == shuffled.own_form()
        assert (plain.own_form().sequence, plain.own_form().sections is None) == (5, False)

    def test_a_foreign_record_is_none(self) -> None:
        """Without our salts it is another's."""
        (item,) = decode_protobuf(otlp.foreign(MAPPED))
        assert item.own_form() is None
