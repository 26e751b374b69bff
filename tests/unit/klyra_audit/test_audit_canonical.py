"""The canonical form that the OpenTelemetry audit draft signs."""

from __future__ import annotations

import base64
import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from klyra_audit.audit_canonical import MAX_DEPTH, NotCanonical, SignedFields, canonical_record
from klyra_audit.audit_integrity import signed_fields

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "signing_processor.json").read_text())["vectors"]


def fields(body: Any = None, event_name: str = "", **attributes: Any) -> SignedFields:
    """Return a record of a body and attributes alone."""
    return SignedFields(event_name, body, attributes, 0, 0, "", "")


def nested(depth: int) -> list[Any]:
    """Return lists in each other."""
    return [] if depth == 0 else [nested(depth - 1)]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_what_the_signing_processor_signs(vector) -> None:
    """The bytes of each of its records are reproduced exactly."""
    request = ExportLogsServiceRequest.FromString(base64.b64decode(vector["protobuf"]))
    record = request.resource_logs[0].scope_logs[0].log_records[0]
    assert canonical_record(signed_fields(record)) == vector["canonical"].encode()


def test_doubles_are_written_as_ecmascript_does() -> None:
    """Any finite double is written as an independent RFC 8785 library writes it."""
    chance = random.Random(8785)  # noqa: S311 - the same numbers each time
    values = [5e-324, 1.7976931348623157e308, 1e21, 1e-7, 123456789012345680000.0, 0.000001, -0.0, 100.0]
    values += [struct.unpack(">d", chance.randbytes(8))[0] for _ in range(4000)]
    values += [chance.uniform(-1e25, 1e25) for _ in range(500)] + [chance.randint(0, 10**6) / 1000 for _ in range(500)]
    for value in values:
        if value == value and abs(value) != float("inf"):  # noqa: PLR0124 - not NaN
            assert canonical_record(fields(value)) == rfc8785.dumps({"body": {"doubleValue": value}})


def test_names_stand_in_the_order_of_utf_16() -> None:
    """Names beyond the basic plane sort before its last rows, as RFC 8785 wants."""
    values = {"\ufb33": "a", "\U0001f600": "b", "\u20ac": "c", "": "d", 'a\u2028"\\\x1f': "e"}
    expected = rfc8785.dumps({"attributes": {name: {"stringValue": value} for name, value in values.items()}})
    assert canonical_record(fields(**values)) == expected


def test_types_of_equal_text_stay_distinct() -> None:
    """123 as number, text, fraction and bytes are four different records; so are no body and an empty one."""
    distinct = {canonical_record(fields(value)) for value in (123, "123", 123.0, b"123", True, [], {}, "", None)}
    assert len(distinct) == 9


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [{"deep": -float("inf")}]])
def test_numbers_that_json_lacks(value) -> None:
    """NaN and infinity have no canonical form, and it is said so."""
    with pytest.raises(NotCanonical) as caught:
        canonical_record(fields(value))
    assert caught.value.code == "not_canonical"
    assert caught.value.remedy == "Send such a value as a string."


@pytest.mark.parametrize("where", [fields("\ud800"), fields(event_name="\udfff"), fields(**{"\ud83d": 1})])
def test_text_that_is_not_unicode(where) -> None:
    """A lone surrogate anywhere, even in a name, has no canonical form."""
    with pytest.raises(NotCanonical, match="not Unicode"):
        canonical_record(where)


@pytest.mark.parametrize("value", [{1: "x"}, [(1, 2)], object()], ids=["name", "tuple", "object"])
def test_values_that_otlp_lacks(value) -> None:
    """What another protocol may carry and OTLP may not is refused, never guessed at."""
    with pytest.raises(NotCanonical):
        canonical_record(fields(value))


def test_depth_and_length() -> None:
    """128 levels are signed and 129 are not; nor is what is longer than 2 MiB."""
    canonical_record(fields(nested(MAX_DEPTH)))
    with pytest.raises(NotCanonical, match="deeper than 128"):
        canonical_record(fields(nested(MAX_DEPTH + 1)))
    with pytest.raises(NotCanonical, match="bytes long"):
        canonical_record(fields("x" * 2**21))
