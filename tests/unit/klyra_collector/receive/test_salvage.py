"""Requests of which protobuf's parser refuses a part."""

from __future__ import annotations

import pytest

from klyra_audit.errors import InvalidEvent
from klyra_collector.receive.salvage import NotProtobuf, split_request
from klyra_collector.receive.wire import MalformedRequest, UnreadableRecord, decode_protobuf
from support import otlp

GOOD = otlp.MAPPED
BAD = otlp.MAPPED | {"body": "MARK"}


def spoilt(*records, resource=None, mark: bytes = b"MARK") -> bytes:
    """Return a request in which the text MARK is not UTF-8."""
    return otlp.foreign(*records, resource=resource).replace(mark, b"\xed\xa0\x80\xff")


def test_one_bad_record_costs_only_itself() -> None:
    """The others are decoded as from a whole request, resource included; the bad one keeps its bytes."""
    resource = {"service.name": "api"}
    before, bad, after = decode_protobuf(spoilt(GOOD, BAD, GOOD, resource=resource))
    [whole] = decode_protobuf(otlp.foreign(GOOD, resource=resource))
    for record in (before, after):
        assert (record.foreign(), record.resource, record.raw()) == (whole.foreign(), resource, whole.raw())
    assert isinstance(bad, UnreadableRecord)
    assert b"\xed\xa0\x80\xff" in bad.raw()
    assert (bad.record_id(), bad.resource) == (None, {})


@pytest.mark.parametrize("read", ["own_form", "foreign"])
def test_a_bad_record_says_why(read) -> None:
    """Reading it raises what has it quarantined."""
    [bad] = decode_protobuf(spoilt(BAD))
    with pytest.raises(InvalidEvent, match="not UTF-8") as caught:
        getattr(bad, read)()
    assert (caught.value.code, caught.value.pointer) == ("malformed_record", "")


def test_a_bad_resource_spoils_its_records() -> None:
    """Without the resource it is not known whose records they are."""
    records = decode_protobuf(spoilt(GOOD, GOOD, resource={"service.name": "MARK"}))
    assert [type(record) for record in records] == [UnreadableRecord, UnreadableRecord]


@pytest.mark.parametrize(
    "body",
    [b"\xff\xff\xff", b"\x0a\x05ab", b"\x0b", b"MARK", b"\x0a\x00\x0f", b"\x80" * 11, b"\x0d\x00", b"\x0a\x02\x12\x01"],
)
def test_what_is_no_request_stays_malformed(body) -> None:
    """Bytes that are not fields of protobuf, or hold no record, are refused as before."""
    with pytest.raises(MalformedRequest) as caught:
        decode_protobuf(body)
    assert caught.value.code == "malformed_request"


def test_every_torn_request_is_refused_or_read() -> None:
    """A request cut anywhere never raises anything else than that it is malformed."""
    body = spoilt(GOOD, BAD, resource={"service.name": "api"})
    for length in range(len(body)):
        try:
            decode_protobuf(body[:length])
        except MalformedRequest:
            continue


def test_other_fields_are_skipped() -> None:
    """Numbers, fixed fields and unknown messages of later versions do not hinder the cut."""
    body = spoilt(BAD)
    later = b"\x50\x81\x01" + b"\x59" + bytes(8) + b"\x5d" + bytes(4) + b"\x62\x01x"
    assert split_request(later + body) == split_request(body)
    with pytest.raises(NotProtobuf):
        split_request(later)
