"""Sign OTLP log records so that others can check them: `audit.integrity.*` of the OpenTelemetry audit draft.

    key = RecordKey(signer, certificate=fingerprint(certificate))   # any `format.keys.Signer` of an Ed25519 key
    sign_request(request, key)                                      # an ExportLogsServiceRequest, changed in place

or, record by record, `sign_record(record, key)` and once for its resource `describe_key(resource, key)`. The bytes
signed are those of the Collector's `signingprocessor` (`audit_canonical`), so whatever verifies its records verifies
ours. Sign last: an attribute set afterwards breaks the signature. The resource is not covered by it.

Such a signature says that this product sent the record, not that it is in the ledger: receipts and proofs say that.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from klyra_audit.audit_canonical import SignedFields, canonical_record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.x509 import Certificate
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource

    from klyra_audit.format.keys import Signer

VALUE: Final = "audit.integrity.value"
SIGNER: Final = "audit.integrity.signer"
CANONICALIZATION: Final = "audit.integrity.canonicalization"
ALGORITHM: Final = "audit.integrity.algorithm"
CERTIFICATE: Final = "audit.integrity.certificate"

JCS: Final = "jcs"
EDDSA: Final = "EdDSA"
COLLECTOR: Final = "collector"


@dataclass(frozen=True, slots=True)
class RecordKey:
    """The key that signs records.

    Attributes:
        signer: of an Ed25519 key, here or in a key management service.
        certificate: how receivers find the public key: `fingerprint` of its certificate, the certificate itself as
            `full_certificate`, or a key id they know it by.
    """

    signer: Signer
    certificate: str


def sign_request(request: ExportLogsServiceRequest, key: RecordKey) -> None:
    """Sign every record of a request in place; `NotCanonical` if one of them has no canonical form."""
    for resource_logs in request.resource_logs:
        for scope_logs in resource_logs.scope_logs:
            for record in scope_logs.log_records:
                sign_record(record, key)
        describe_key(resource_logs.resource, key)


def sign_record(record: LogRecord, key: RecordKey) -> None:
    """Set a record's `audit.integrity.value`, `.signer` and `.canonicalization`.

    Raises:
        NotCanonical: it has a value that canonical JSON cannot write, such as NaN.
    """
    signature = key.signer.sign(canonical_record(signed_fields(record)))
    _set(
        record.attributes,
        {VALUE: base64.b64encode(signature).decode(), SIGNER: COLLECTOR, CANONICALIZATION: JCS},
    )


def describe_key(resource: Resource, key: RecordKey) -> None:
    """Set a resource's `audit.integrity.algorithm` and `.certificate`, which hold for all records under it."""
    _set(resource.attributes, {ALGORITHM: EDDSA, CERTIFICATE: key.certificate})


def fingerprint(certificate: Certificate) -> str:
    """Return a certificate's reference `sha256:<hex>` of its DER bytes."""
    return f"sha256:{hashlib.sha256(_der(certificate)).hexdigest()}"


def full_certificate(certificate: Certificate) -> str:
    """Return the whole certificate as a reference: base64 of its DER bytes."""
    return base64.b64encode(_der(certificate)).decode()


def signed_fields(record: LogRecord) -> SignedFields:
    """Return what of a protobuf record is signed."""
    return SignedFields(
        record.event_name,
        _python_value(record.body),
        _python_map(record.attributes),
        record.time_unix_nano,
        record.observed_time_unix_nano,
        record.trace_id.hex(),
        record.span_id.hex(),
    )


def _der(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415 - whoever has one has it loaded

    return certificate.public_bytes(Encoding.DER)


def _set(attributes: RepeatedCompositeFieldContainer[KeyValue], values: dict[str, str]) -> None:
    """Set string attributes; a former one of the same name goes."""
    for position in reversed(range(len(attributes))):
        if attributes[position].key in values:
            del attributes[position]
    for name, value in values.items():
        attribute = attributes.add()
        attribute.key = name
        attribute.value.string_value = value


def _python_value(value: AnyValue) -> Any:  # noqa: ANN401 - an AnyValue holds anything
    kind = value.WhichOneof("value")
    if kind == "kvlist_value":
        return _python_map(value.kvlist_value.values)
    if kind == "array_value":
        return [_python_value(item) for item in value.array_value.values]
    return None if kind is None else getattr(value, kind)


def _python_map(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _python_value(pair.value) for pair in pairs}
