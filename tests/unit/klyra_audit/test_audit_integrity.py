"""Signatures that our OTLP output carries, checked without our code."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from klyra_audit import audit_integrity
from klyra_audit.audit_canonical import NotCanonical
from klyra_audit.audit_integrity import RecordKey
from support import otlp

PUBLISHED = json.loads((Path(__file__).parents[2] / "vectors" / "signing_processor.json").read_text())
CERTIFICATE = x509.load_pem_x509_certificate(PUBLISHED["certificate_pem"].encode())
KEY = RecordKey(
    Ed25519PrivateKey.from_private_bytes(bytes.fromhex(PUBLISHED["seed"])), audit_integrity.fingerprint(CERTIFICATE)
)


def independent_value(value: dict[str, Any]) -> Any:
    """Return a value of protobuf's own JSON as the signingprocessor's README describes it."""
    if "kvlistValue" in value:
        return {pair["key"]: independent_value(pair["value"]) for pair in value["kvlistValue"].get("values", [])}
    if "arrayValue" in value:
        return [independent_value(item) for item in value["arrayValue"].get("values", [])]
    return value or None


def independent_payload(record: Any) -> bytes:
    """Return the signed bytes of a record, by another JSON writer and another canonicaliser."""
    written = MessageToDict(record)
    members = {"attributes": {}}
    for attribute in written.get("attributes", []):
        if not attribute["key"].startswith("audit.integrity."):
            members["attributes"][attribute["key"]] = independent_value(attribute["value"])
    for name, member in (("eventName", "event_name"), ("timeUnixNano", "timestamp")):
        if name in written:
            members[member] = written[name]
    if "observedTimeUnixNano" in written:
        members["observed_timestamp"] = written["observedTimeUnixNano"]
    if "body" in written:
        members["body"] = independent_value(written["body"])
    if record.trace_id:
        members["trace_id"] = record.trace_id.hex()
    return rfc8785.dumps(members)


def signed(content: bytes) -> ExportLogsServiceRequest:
    """Return a request with its records signed."""
    request = ExportLogsServiceRequest.FromString(content)
    audit_integrity.sign_request(request, KEY)
    return request


def attributes(of: Any) -> dict[str, str]:
    """Return string attributes by name."""
    return {attribute.key: attribute.value.string_value for attribute in of.attributes}


@pytest.mark.parametrize("vector", PUBLISHED["vectors"], ids=lambda vector: vector["name"])
def test_signatures_equal_the_signing_processors(vector) -> None:
    """With the same key, our signature of its records is byte for byte its own."""
    record = signed(base64.b64decode(vector["protobuf"])).resource_logs[0].scope_logs[0].log_records[0]
    assert attributes(record)["audit.integrity.value"] == vector["value"]


@pytest.mark.parametrize("content", [otlp.foreign(otlp.MAPPED), otlp.own_form(otlp.prepared(), otlp.prepared())])
def test_another_verifier_accepts_and_notices_changes(content) -> None:
    """The certificate's key verifies every record by an independent canonicaliser, and none that was changed."""
    resource_logs = signed(content).resource_logs[0]
    for record in resource_logs.scope_logs[0].log_records:
        value = base64.b64decode(attributes(record)["audit.integrity.value"])
        CERTIFICATE.public_key().verify(value, independent_payload(record))
        record.attributes[0].key += "!"
        with pytest.raises(InvalidSignature):
            CERTIFICATE.public_key().verify(value, independent_payload(record))


def test_what_is_said_of_the_signature() -> None:
    """The record says who signed which form, the resource by which algorithm and key; former words are replaced."""
    request = ExportLogsServiceRequest.FromString(otlp.foreign(otlp.MAPPED, resource={"service.name": "api"}))
    for _ in range(2):
        audit_integrity.sign_request(request, KEY)
    resource_logs = request.resource_logs[0]
    said = [item.key for item in resource_logs.scope_logs[0].log_records[0].attributes if "integrity" in item.key]
    assert sorted(said) == [
        "audit.integrity.canonicalization",
        "audit.integrity.signer",
        "audit.integrity.value",
    ]
    assert attributes(resource_logs.scope_logs[0].log_records[0])["audit.integrity.signer"] == "collector"
    assert attributes(resource_logs.resource) == {
        "service.name": "api",
        "audit.integrity.algorithm": "EdDSA",
        "audit.integrity.certificate": PUBLISHED["certificate"],
    }


def test_references_of_a_certificate() -> None:
    """A certificate is referred to by the fingerprint of its DER bytes, or stands there whole."""
    assert audit_integrity.fingerprint(CERTIFICATE) == PUBLISHED["certificate"]
    assert base64.b64decode(audit_integrity.full_certificate(CERTIFICATE)) == CERTIFICATE.public_bytes(Encoding.DER)


def test_a_record_that_cannot_be_signed() -> None:
    """A record with NaN raises, and carries no signature afterwards."""
    request = ExportLogsServiceRequest.FromString(otlp.foreign({"attributes": {"ratio": float("nan")}}))
    with pytest.raises(NotCanonical):
        audit_integrity.sign_request(request, KEY)
    assert set(attributes(request.resource_logs[0].scope_logs[0].log_records[0])) == {"ratio"}
