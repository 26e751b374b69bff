"""OTLP/JSON: each way in which a value may be written, and what a wrong one costs."""

from __future__ import annotations

import base64
import json
import math

import pytest

from klyra_audit.errors import InvalidEvent
from klyra_collector.receive.wire import DuplicateAttribute, MalformedRecord, MalformedRequest, UnreadableRecord
from klyra_collector.receive.wire_json import decode_json


def request_of(*records, resource=None, scope=None) -> dict:
    """Return a request of these records."""
    return {"resourceLogs": [{"resource": resource, "scopeLogs": [{"scope": scope, "logRecords": list(records)}]}]}


def read(record):
    """Return the only record of a request."""
    (found,) = decode_json(json.dumps(request_of(record)).encode())
    return found.foreign()


def value_of(value):
    """Return an attribute's value as it is read."""
    return read({"attributes": [{"key": "a", "value": value}]}).attributes["a"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"intValue": "9223372036854775807"}, 2**63 - 1),
        ({"intValue": -(2**63)}, -(2**63)),
        ({"intValue": 1e3}, 1000),
        ({"intValue": None}, None),
        ({"doubleValue": 1}, 1.0),
        ({"doubleValue": "1.5e-3"}, 0.0015),
        ({"doubleValue": "-Infinity"}, -math.inf),
        ({"boolValue": False}, False),
        ({"stringValue": "a\0b"}, "a\0b"),
        ({"bytesValue": "-_8"}, b"\xfb\xff"),
        ({"bytesValue": "+/8="}, b"\xfb\xff"),
        ({"arrayValue": {}}, []),
        ({"arrayValue": {"values": [{}, {"intValue": 1}]}}, [None, 1]),
        ({"kvlistValue": {"values": [{"key": "b", "value": {"boolValue": True}}]}}, {"b": True}),
        ({"laterValue": 1}, None),
        (None, None),
    ],
)
def test_a_value_is_read_however_it_may_be_written(written, expected) -> None:
    """proto3's JSON has several forms of one value; null and what is unknown are nothing."""
    assert value_of(written) == expected


def test_not_a_number_is_a_double() -> None:
    """NaN is written as a string; a bare one, which is no JSON, is let through."""
    assert math.isnan(value_of({"doubleValue": "NaN"}))
    assert math.isnan(value_of({"doubleValue": math.nan}))


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ({"intValue": "9223372036854775808"}, "between"),
        ({"intValue": 2**64}, "between|number"),
        ({"intValue": "1_0"}, "digits"),
        ({"intValue": 1.5}, "digits"),
        ({"intValue": True}, "digits"),
        ({"doubleValue": "1_0"}, "no number"),
        ({"doubleValue": True}, "no number"),
        ({"boolValue": 1}, "true nor false"),
        ({"bytesValue": "*"}, "base64"),
        ({"bytesValue": 5}, "string"),
        ({"stringValue": 5}, "string"),
        ({"arrayValue": []}, "object"),
        ({"arrayValue": {"values": 1}}, "list"),
        (5, "object"),
    ],
)
def test_a_wrong_value_costs_its_record(written, reason) -> None:
    """The record is quarantined with the reason; its id and its bytes are still to be had."""
    record = {"attributes": [{"key": "audit.record.id", "value": {"stringValue": "r"}}, {"key": "a", "value": written}]}
    good, bad = decode_json(json.dumps(request_of({}, record)).encode())
    assert good.foreign().attributes == {}
    with pytest.raises(MalformedRecord, match=reason) as caught:
        bad.foreign()
    assert (caught.value.code, isinstance(caught.value, InvalidEvent)) == ("malformed_record", True)
    assert bad.record_id() == "r"
    assert json.loads(bad.raw())["resourceLogs"][0]["scopeLogs"][0]["logRecords"] == [record]


def test_the_fields_of_a_record_are_read() -> None:
    """64-bit integers as digits, ids in either case, enumerations as numbers."""
    found = read(
        {
            "timeUnixNano": "18446744073709551615",
            "observedTimeUnixNano": 5,
            "traceId": "0AF7651916CD43DD8448EB211C80319C",
            "spanId": "b7AD6b7169203331",
            "severityNumber": 9,
            "severityText": "INFO",
            "flags": 1,
            "droppedAttributesCount": 3,
        }
    )
    assert (found.time_unix_nano, found.observed_time_unix_nano) == (2**64 - 1, 5)
    assert (found.trace_id, found.span_id) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    assert (found.severity_number, found.severity_text, found.flags, found.dropped_attributes_count) == (
        9,
        "INFO",
        1,
        3,
    )


@pytest.mark.parametrize(
    "record",
    [
        {"severityNumber": "SEVERITY_NUMBER_INFO"},
        {"traceId": "xyz"},
        {"spanId": "abc"},
        {"timeUnixNano": -1},
        {"timeUnixNano": 2**64},
        {"flags": 2**32},
        {"eventName": 5},
        {"attributes": {}},
        {"attributes": [{"key": 5}]},
        {"body": {"arrayValue": {"values": "x"}}},
    ],
)
def test_a_wrong_field_costs_its_record(record) -> None:
    """So does a field that is not what OTLP/JSON says it is."""
    with pytest.raises(MalformedRecord):
        read(record)


def test_nesting_is_bounded() -> None:
    """A value of 32 levels is read, a deeper one is not."""
    value: dict = {"intValue": 1}
    for _ in range(31):
        value = {"arrayValue": {"values": [value]}}
    assert value_of(value)
    with pytest.raises(MalformedRecord, match="nested"):
        value_of({"arrayValue": {"values": [value]}})


@pytest.mark.parametrize(
    "around",
    [
        {"resource": {"attributes": [{"key": "a", "value": {"intValue": "x"}}]}},
        {"scope": {"name": 5}},
        {"resource": {"attributes": [{"key": "a"}, {"key": "a"}]}},
    ],
)
def test_a_wrong_resource_or_scope_costs_its_records(around) -> None:
    """They cannot be read without it, and are kept with it; other resources' records are not concerned."""
    request = request_of({"eventName": "x"}, **around)
    request["resourceLogs"] += request_of({"eventName": "y"})["resourceLogs"]
    bad, good = decode_json(json.dumps(request).encode())
    with pytest.raises(MalformedRecord):
        bad.own_form()
    assert (bad.record_id(), bad.resource, bad.encoding) == (None, {}, "otlp-json")
    assert json.loads(bad.raw())["resourceLogs"][0]["scopeLogs"][0]["logRecords"] == [{"eventName": "x"}]
    assert good.foreign().event_name == "y"


def test_a_record_that_is_no_object_is_kept() -> None:
    """It stands where a record must."""
    bad, good = decode_json(json.dumps(request_of(5, {})).encode())
    assert (type(bad), good.foreign().body) == (UnreadableRecord, None)


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\\ud800", b"\xed\xa0\x80"])
def test_text_that_is_not_utf8_costs_only_its_record(text) -> None:
    """It is no JSON any more, but the good records beside it are taken, and the bad bytes are kept as they came."""
    whole = json.dumps(request_of({"eventName": "good"}, {"eventName": "bad", "body": {"stringValue": "MARK"}}))
    good, bad = decode_json(whole.encode().replace(b"MARK", text))
    assert good.foreign().event_name == "good"
    with pytest.raises(MalformedRecord, match="UTF-8"):
        bad.foreign()
    assert text in bad.raw()
    [again] = decode_json(bad.raw())
    assert (type(again), again.raw()) == (UnreadableRecord, bad.raw())


def test_the_same_key_twice_is_a_malformed_record() -> None:
    """Which of two values counts is anyone's guess."""
    with pytest.raises(DuplicateAttribute) as caught:
        read({"attributes": [{"key": "a"}, {"key": "a"}]})
    assert (caught.value.key, caught.value.code) == ("a", "duplicate_attribute")


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 200_000, b'{"a":' * 200_000, b'{"resourceLogs": 5}'])
def test_what_is_no_request_is_refused_whole(body) -> None:
    """However deep it is."""
    with pytest.raises(MalformedRequest) as caught:
        decode_json(body)
    assert caught.value.code == "malformed_request"


def test_own_form_needs_nothing_but_its_own_attributes() -> None:
    """What others added to the record, rightly or wrongly, does not hide it."""
    salts = base64.b64encode(bytes(48)).decode()
    attributes = [
        {"key": "klyra.salts", "value": {"bytesValue": salts}},
        {"key": "klyra.emitter.seq", "value": {"intValue": "7"}},
        {"key": "added", "value": {"intValue": "x"}},
    ]
    record = {"eventName": "e", "body": {"stringValue": "{}"}, "attributes": attributes}
    [found] = decode_json(json.dumps(request_of(record)).encode())
    own = found.own_form()
    assert own is not None
    assert (own.document, own.event_name, own.salts, own.sequence, own.sections) == (b"{}", "e", bytes(48), 7, None)
