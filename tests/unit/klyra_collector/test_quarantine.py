"""The bytes that are kept of an invalid input, and the name of its record."""

from __future__ import annotations

import hashlib
import json

import msgpack
import pytest

from klyra_audit.format.quarantined import KeptInput, quarantine_reference
from klyra_audit.forward.message import decode_message
from klyra_collector.quarantine import quarantine_record
from klyra_collector.receive.forward.record import records_of
from klyra_collector.receive.forward.tags import TagTypes
from klyra_collector.receive.wire import decode_protobuf
from klyra_collector.receive.wire_json import decode_json
from support import otlp
from support.records import STARTUP

RESOURCE = {"service.name": "api", "klyra.organization.id": "org_acme"}


class TestKeptInput:
    """One line that says what it is, then the input."""

    @pytest.mark.parametrize("content", [b"", b"\n", b"\xff\x00", b"x" * 5000, b'{"klyra_quarantine":1}\n'])
    @pytest.mark.parametrize("key_id", ["key_1", None])
    def test_what_is_packed_is_unpacked(self, content, key_id) -> None:
        """Content of any bytes and length comes back, with what was said of it."""
        kept = KeptInput("otlp-json", key_id, content)
        assert KeptInput.unpack(kept.pack()) == kept

    def test_the_line_is_json_and_has_no_time(self) -> None:
        """The same input sent again is the same bytes, so that it is recognised."""
        header, content = KeptInput("forward", "key_1", b"input").pack().split(b"\n")
        assert json.loads(header) == {"klyra_quarantine": 1, "encoding": "forward", "key": "key_1"}
        assert content == b"input"

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"\x0a\x05abc",
            b'{"body":{}}\nmore',
            b'{"klyra_quarantine":1',
            b'{"klyra_quarantine":2,"encoding":"forward"}\nx',
            b'{"klyra_quarantine":1,"encoding":7}\nx',
            b'{"klyra_quarantine":\n',
        ],
    )
    def test_what_has_no_line_of_ours_is_of_unknown_encoding(self, raw) -> None:
        """What an earlier version kept, and what only looks like ours, stays whole."""
        assert KeptInput.unpack(raw) == KeptInput("unknown", None, raw)


class TestRecords:
    """What each protocol keeps is a request of one record, which reads back as the record did."""

    def test_protobuf_keeps_resource_and_scope(self) -> None:
        """Both are needed to read the record as it was."""
        first, second = decode_protobuf(otlp.foreign(otlp.MAPPED, otlp.MAPPED | {"body": "b"}, resource=RESOURCE))
        [again] = decode_protobuf(second.raw())
        assert (again.foreign(), again.resource, again.encoding) == (second.foreign(), RESOURCE, "otlp-protobuf")
        assert again.raw() == second.raw() != first.raw()

    def test_json_keeps_resource_and_scope(self) -> None:
        """Both are needed to read the record as it was."""
        scope = {"name": "lib", "version": "1"}
        record = {"eventName": "user.added", "timeUnixNano": "7"}
        attributes = [{"key": "service.name", "value": {"stringValue": "api"}}]
        logs = {"resource": {"attributes": attributes}, "scopeLogs": [{"scope": scope, "logRecords": [record, record]}]}
        found = decode_json(json.dumps({"resourceLogs": [logs]}).encode())
        [again] = decode_json(found[1].raw())
        assert (again.foreign(), again.resource, again.encoding) == (
            found[1].foreign(),
            {"service.name": "api"},
            "otlp-json",
        )

    def test_what_protobuf_refuses_is_refused_again(self) -> None:
        """A record with text that is not UTF-8 comes back as the same bytes."""
        long = otlp.MAPPED | {"body": "MARK" + "x" * 300}
        [bad] = decode_protobuf(otlp.foreign(long).replace(b"MARK", b"\xed\xa0\x80\xff"))
        [again] = decode_protobuf(bad.raw())
        assert (type(again), again.raw()) == (type(bad), bad.raw())

    @pytest.mark.parametrize(("options", "encoding"), [({}, "forward-unacknowledged"), ({"chunk": "c"}, "forward")])
    def test_forward_keeps_its_tag_and_how_it_was_sent(self, options, encoding) -> None:
        """Whether it was acknowledged shows in the entry, so it is kept."""
        message = decode_message(msgpack.packb(["a.b", [[1, {"x": 1}]], options]))
        [record] = records_of(message, TagTypes({}))
        [again] = records_of(decode_message(record.raw()), TagTypes({}))
        assert (record.encoding, again.foreign().tag) == (encoding, "a.b")


def test_the_record_speaks_of_all_that_is_kept() -> None:
    """Digest and size are of the line and the input together."""
    raw = KeptInput("forward", "key_1", b"input").pack()
    record = quarantine_record(STARTUP, raw, reason="r" * 2000, pointer="/p", key_id="key_1")
    core = json.loads(record.sections.core)
    assert core == {"reason": "r" * 1000, "pointer": "/p", "sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw)}
    assert (record.quarantined, record.key_id) == (raw, "key_1")


def test_a_record_is_called_after_its_leaf() -> None:
    """Anyone who has the leaf can say the name."""
    assert quarantine_reference(bytes(112)) == quarantine_reference(bytes(112))
    assert quarantine_reference(bytes(112)).startswith("qtn_")
    assert len(quarantine_reference(bytes(112))) == 30
