"""`/v1/audit` as clients of the OpenTelemetry audit draft meet it, in a running collector."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_der_public_key
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource

from klyra_audit import ids
from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind
from support import collector, otelcol, otlp
from support.collector import OTHER
from support.ports import free_ports
from support.signing import SECRET, Processor

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGS, AUDIT = "/v1/logs", "/v1/audit"
JSON = {"Content_Type": "application/json"}


@pytest.fixture(scope="module")
def signer() -> Processor:
    """A signing processor that the collector knows."""
    return Processor.of("EdDSA")


@pytest.fixture(scope="module")
def running(tmp_path_factory, signer) -> Iterator[collector.Running]:
    """One collector for all tests of this file, with a certificate and a shared secret registered."""
    root = tmp_path_factory.mktemp("data")
    secret = root / "hmac.secret"
    secret.write_text(base64.b64encode(SECRET).decode())
    keys = [{"certificate": str(signer.write_certificate(root))}, {"hmac_key": f"file:{secret}"}]
    started = collector.start(root, collector.make_keys(root), SIGNING_PROCESSOR=json.dumps(keys))
    yield started
    assert started.terminate() == 0


@pytest.fixture
def since(running):
    """Return the bodies of events and quarantined inputs sealed since the test began, as (kind, body)."""
    before = len(running.sealed())
    wanted = (Kind.EVENT, Kind.QUARANTINE)

    def read() -> list[Any]:
        found = [item for item in running.sealed(before) if item.leaf.kind in wanted]
        return [item for item in found if not is_own_doing(item)]

    return read


def is_own_doing(item: Any) -> bool:
    """Say whether a record is the product's own, sealed at a time of its choosing."""
    parts = item.body.sections
    return b'"access.denied"' in parts.core or b'"/actor/id":"tests"' in (parts.actor or b"")


def record(**attributes: Any) -> dict[str, Any]:
    """Return a record as the draft wants it, of an id of its own."""
    named = {f"audit.{name.replace('__', '.')}": value for name, value in attributes.items()}
    fresh = {"audit.record.id": str(uuid.uuid4())}
    return otlp.MAPPED | {"observed": otlp.MAPPED["time"] + 1, "attributes": otlp.MAPPED["attributes"] | fresh | named}


def id_of(sent: dict[str, Any]) -> str:
    """Return a record's `audit.record.id`."""
    return sent["attributes"]["audit.record.id"]


def entry_of(item: Any) -> dict[str, Any]:
    """Return the entry that a sealed record is."""
    return sections.join(item.body.sections)


def metric(running: collector.Running, name: str) -> float:
    """Return a counter's value."""
    lines = httpx.get(f"{running.url}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name}_total "))


class TestAccepted:
    """Batches that are sealed."""

    def test_one_record_is_answered_with_the_drafts_members(self, running, since) -> None:
        """The record's own answer stands at the top, its receipt in the list, its place in the sink's status."""
        sent = record()
        answer = running.post(AUDIT, otlp.foreign(sent))
        assert answer.status_code == 200
        members = answer.json()
        [receipt] = members["receipts"]
        assert members["record_id"] == receipt["record_id"] == id_of(sent)
        assert members["status"] == receipt["status"] == "delivered_all_sinks"
        assert (
            receipt["entry_id"] == entry_of(since()[0])["id"] == ids.log_id_of_foreign("audit.record.id", id_of(sent))
        )
        assert members["sink_status_map"]["ledger"] == {
            "exporter_name": "ledger",
            "sink_type": "klyra_ledger",
            "delivery_status": "success",
            "attempt_count": 1,
            "last_attempt_at": receipt["sink_timestamp"],
            "sink_ack_id": f"{receipt['log']}#{receipt['index']}",
        }
        assert members["sink_status_aggregate"] == {"ledger": "success"}
        assert members["record_status_map"] == {id_of(sent): receipt}
        assert "verify_status" not in receipt
        assert base64.b64decode(receipt["leaf"]) == since()[0].leaf.pack()

    def test_protobuf_and_json_are_answered_alike(self, running, since) -> None:
        """Both encodings of one record have one hash and one entry; the answer is JSON to both."""
        sent = record()
        first = running.post(AUDIT, otlp.foreign(sent))
        second = running.post(AUDIT, otlp.foreign_json(sent), **JSON)
        assert first.headers["content-type"] == second.headers["content-type"] == "application/json"
        assert second.json()["integrity_hash"] == first.json()["integrity_hash"]
        assert (first.json()["duplicate"], second.json()["duplicate"]) == (False, True)
        assert len(since()) == 1

    def test_repeats_are_answered_the_same(self, running, since) -> None:
        """The same batch again gives the first sealing's answer, batch id and all; nothing is sealed twice."""
        body = otlp.foreign(record(), record())
        first, second = (running.post(AUDIT, body).json() for _ in range(2))
        assert [item["duplicate"] for item in second["receipts"]] == [True, True]
        for item in (*first["receipts"], *second["receipts"]):
            del item["duplicate"]
        for members in (first, second):
            members["record_status_map"] = sorted(members["record_status_map"])
        assert first == second
        assert len(first["batch_id"]) == 32
        assert len(since()) == 2

    def test_the_same_record_twice_in_one_batch(self, running, since) -> None:
        """It is sealed once, and both places get its receipt."""
        sent = record()
        receipts = running.post(AUDIT, otlp.foreign(sent, record(), sent)).json()["receipts"]
        assert [item["duplicate"] for item in receipts] == [False, False, True]
        assert receipts[0]["index"] == receipts[2]["index"]
        assert len(since()) == 2

    def test_the_batch_of_an_emitter_keeps_its_short_answer(self, running) -> None:
        """Our own form gets receipts and a status, with the hash of the canonical document."""
        event = otlp.prepared()
        members = running.post(AUDIT, otlp.own_form(event, boot=str(ids.new_uuid7()))).json()
        assert set(members) == {"receipts", "status"}
        assert members["receipts"][0]["integrity_hash"] == hashlib.sha256(event.encoded).hexdigest()

    def test_own_form_and_foreign_records_in_one_batch(self, running) -> None:
        """Each gets what it is due, in the order of the request."""
        sent, event = record(), otlp.prepared()
        body = otlp.foreign(sent) + otlp.own_form(event, boot=str(ids.new_uuid7()))
        first, second = running.post(AUDIT, body).json()["receipts"]
        assert (first["record_id"], second["record_id"]) == (id_of(sent), event.record_id)
        assert "entry_id" not in second

    def test_a_chain_is_followed_and_its_breaks_are_told(self, running) -> None:
        """The next link may name the hash it was answered; a wrong one is sealed, remarked and counted."""
        stream = str(uuid.uuid4())
        first = record(sequence__number=1, sequence__stream_id=stream)
        digest = running.post(AUDIT, otlp.foreign(first)).json()["integrity_hash"]
        link = {"sequence__stream_id": stream, "sequence__previous_record_id": id_of(first)}
        good = record(sequence__number=2, sequence__previous_hash=digest, **link)
        assert "reason" not in running.post(AUDIT, otlp.foreign(first, good)).json()["receipts"][1]
        before = metric(running, "klyra_broken_audit_chains")
        bad = record(sequence__number=2, sequence__previous_hash="0" * 64, **link)
        receipt = running.post(AUDIT, otlp.foreign(first, bad)).json()["receipts"][1]
        assert receipt["sink_status_map"]["ledger"]["chain_warning"] == receipt["reason"]
        assert "previous_hash" in receipt["reason"]
        assert metric(running, "klyra_broken_audit_chains") == before + 1


class TestRefused:
    """Batches of which nothing is sealed."""

    def test_one_bad_record_refuses_the_batch(self, running, since) -> None:
        """400 names position, id, place and reason of each bad record; the good ones are not sealed either."""
        good, bad = record(), record(actor__type="robot")
        answer = running.post(AUDIT, otlp.foreign(good, bad))
        assert answer.status_code == 400
        members = answer.json()
        expected = {
            "position": 1,
            "record_id": id_of(bad),
            "pointer": "/attributes/audit.actor.type",
            "reason": "must be user, service or system",
            "code": "invalid_event",
        }
        assert members["status"] == "rejected_schema_invalid"
        assert (members["records"], members["record_status_map"]) == ([expected], {id_of(bad): expected})
        assert "partial" not in answer.text.lower()
        assert since() == []

    @pytest.mark.parametrize(
        ("changes", "pointer"),
        [
            ({"outcome": "unknown"}, "/status"),
            ({"target__id": None}, "/resource/id"),
            ({"action": "CREATE"}, "/action"),
        ],
        ids=str,
    )
    def test_what_the_draft_allows_and_our_entries_do_not(self, running, since, changes, pointer) -> None:
        """It is refused with the place in the entry it would have become; on /v1/logs it is kept in quarantine."""
        sent = record(**changes)
        sent["attributes"] = {name: value for name, value in sent["attributes"].items() if value is not None}
        answer = running.post(AUDIT, otlp.foreign(sent))
        assert (answer.status_code, answer.json()["records"][0]["pointer"]) == (400, pointer)
        assert running.post(LOGS, otlp.foreign(sent)).status_code == 200
        assert [item.leaf.kind for item in since()] == [Kind.QUARANTINE]

    def test_the_same_id_with_other_content(self, running, since) -> None:
        """409, whether the first was sealed before or stands in the same batch."""
        sent = record()
        running.post(AUDIT, otlp.foreign(sent))
        for body in (otlp.foreign(sent | {"body": "other"}), otlp.foreign(*_conflicting())):
            answer = running.post(AUDIT, body)
            assert (answer.status_code, answer.json()["records"][0]["code"]) == (409, "id_conflict")
        assert len(since()) == 1

    def test_keys(self, running) -> None:
        """401 without a key, 403 for a key that may not emit: rejected_authz."""
        for key, status in (("nonsense", 401), (running.keys["reader"], 403)):
            answer = running.post(AUDIT, otlp.foreign(record()), key=key)
            assert (answer.status_code, answer.json()["status"]) == (status, "rejected_authz")

    def test_text_that_is_not_utf_8(self, running, since) -> None:
        """On /v1/audit the batch is refused; on /v1/logs that record alone is quarantined, and the rest sealed."""
        body = otlp.foreign(record(), record() | {"body": "MARK"}).replace(b"MARK", b"\xff\xfe\xfd\xfc")
        answer = running.post(AUDIT, body)
        assert (answer.status_code, answer.json()["records"][0]["position"]) == (400, 1)
        assert "not UTF-8" in answer.json()["records"][0]["reason"]
        assert running.post(LOGS, body).status_code == 200
        assert [item.leaf.kind for item in since()] == [Kind.EVENT, Kind.QUARANTINE]

    def test_nan(self, running, since) -> None:
        """A record with NaN has no hash to answer with: 400; on /v1/logs it is sealed with the word NaN."""
        sent = record(ratio=float("nan"))
        assert "NaN" in running.post(AUDIT, otlp.foreign(sent)).json()["records"][0]["reason"]
        assert running.post(LOGS, otlp.foreign(sent)).status_code == 200
        assert [item.leaf.kind for item in since()] == [Kind.EVENT]


def _conflicting() -> tuple[dict[str, Any], dict[str, Any]]:
    sent = record()
    return sent, sent | {"body": "other"}


class TestSignatures:
    """Records that a signing processor signed on their way."""

    def test_a_valid_signature_is_kept(self, running, since, signer) -> None:
        """The entry says who signed what; the answer says passed."""
        members = running.post(AUDIT, signer.signed(otlp.foreign(record()))).json()
        assert members["verify_status"] == "passed"
        signature = entry_of(since()[0])["metadata"]["signature"]
        assert (signature["verified"], signature["algorithm"], signature["key"]) == (True, "EdDSA", signer.reference)
        public = load_der_public_key(base64.b64decode(signature["public_key"]))
        public.verify(base64.b64decode(signature["value"]), signature["payload"].encode())
        with pytest.raises(InvalidSignature):
            public.verify(base64.b64decode(signature["value"]), signature["payload"].encode() + b" ")

    def test_a_valid_mac_is_kept(self, running, since) -> None:
        """So is one made with a shared secret, which the entry does not show."""
        body = Processor.of("HMAC-SHA256").signed(otlp.foreign(record()))
        assert running.post(AUDIT, body).json()["verify_status"] == "passed"
        assert entry_of(since()[0])["metadata"]["signature"]["key"] == "hmac"

    def test_a_wrong_signature(self, running, since, signer) -> None:
        """/v1/audit refuses the batch as rejected_verify_failed; /v1/logs quarantines the record; both are counted."""
        body = signer.signed(otlp.foreign(record() | {"body": "signed"})).replace(b"signed", b"forged")
        before = metric(running, "klyra_bad_signatures")
        answer = running.post(AUDIT, body)
        assert (answer.status_code, answer.json()["status"]) == (400, "rejected_verify_failed")
        assert answer.json()["records"][0]["verify_status"] == "failed"
        assert since() == []
        assert running.post(LOGS, body).status_code == 200
        [kept] = since()
        assert kept.leaf.kind == Kind.QUARANTINE
        assert "signature" in json.loads(kept.body.sections.core)["reason"]
        assert metric(running, "klyra_bad_signatures") == before + 2

    def test_a_signature_of_an_unknown_key(self, running, since) -> None:
        """It is kept as unverified, since leaving it out would have been as easy as forging it: deferred."""
        members = running.post(AUDIT, Processor.of("ES256").signed(otlp.foreign(record()))).json()
        assert members["verify_status"] == "deferred"
        signature = entry_of(since()[0])["metadata"]["signature"]
        assert (signature["verified"], signature["reason"]) == (False, "unknown_key")

    def test_a_record_cannot_vouch_for_itself(self, running, since) -> None:
        """A `metadata.signature` that a record brings along stands under another name."""
        sent = record()
        sent["attributes"]["klyra.metadata.signature"] = {"verified": True}
        running.post(LOGS, otlp.foreign(sent))
        assert "signature" not in entry_of(since()[0])["metadata"]


def test_a_key_that_cannot_be_used_stops_the_start(tmp_path) -> None:
    """A collector that would believe nobody, or anybody, does not start; it names the setting."""
    absent = json.dumps([{"certificate": str(tmp_path / "absent.pem")}])
    with pytest.raises(AssertionError, match=r"signing_processor\[0\] names a file that cannot be read"):
        collector.start(tmp_path, collector.make_keys(tmp_path), SIGNING_PROCESSOR=absent)


@pytest.mark.parametrize("encoding", ["proto", "json"])
def test_sdk_and_collector_deliver_to_the_strict_endpoint(running, since, tmp_path, encoding) -> None:
    """What an application's SDK sends through a real Collector is sealed; the same again succeeds, sealed once."""
    [port] = free_ports(1)
    configuration = _FORWARDING.format(port=port, url=running.url, key=running.keys[OTHER], encoding=encoding)
    exporter = _Remembering(OTLPLogExporter(f"http://127.0.0.1:{port}/v1/logs"))
    provider = LoggerProvider(Resource({"service.name": "moderation-api"}), shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    sent = record()
    members = {name: value for name, value in sent["attributes"].items() if name != "nested"}
    with otelcol.running(tmp_path, configuration, [port]):
        for _ in range(2):
            provider.get_logger("moderation.api", "1.0").emit(
                timestamp=sent["time"],
                observed_timestamp=sent["observed"],
                event_name=sent["event_name"],
                body=sent["body"],
                attributes=members,
            )
        provider.shutdown()
    assert exporter.results == [LogRecordExportResult.SUCCESS] * 2
    [entry] = [entry_of(item) for item in since()]
    assert (entry["organization_id"], entry["metadata"]["source_id"]) == (OTHER, id_of(sent))


class _Remembering(LogRecordExporter):
    """Remembers what each export came to."""

    def __init__(self, exporter: LogRecordExporter) -> None:
        self._exporter = exporter
        self.results: list[LogRecordExportResult] = []

    def export(self, batch: Any) -> LogRecordExportResult:
        self.results.append(self._exporter.export(batch))
        return self.results[-1]

    def force_flush(self, timeout_millis: int = 10_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self) -> None:
        self._exporter.shutdown()


# Without a queue the exporter's answer is the receiver's: what is acknowledged to the client is sealed.
_FORWARDING = """
receivers:
  otlp:
    protocols:
      http:
        endpoint: 127.0.0.1:{port}
exporters:
  otlp_http:
    logs_endpoint: {url}/v1/audit
    encoding: {encoding}
    headers:
      authorization: Bearer {key}
    sending_queue:
      enabled: false
service:
  telemetry:
    metrics:
      level: none
  pipelines:
    logs:
      receivers: [otlp]
      exporters: [otlp_http]
"""
