"""Keys and records of signing processors: what a Collector with the `signingprocessor` sends."""

from __future__ import annotations

import base64
import datetime as dt
import hmac
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from klyra_audit.audit_canonical import canonical_record
from klyra_audit.audit_integrity import fingerprint, signed_fields
from support import otlp

if TYPE_CHECKING:
    from pathlib import Path

SECRET = bytes(range(32))


@dataclass(frozen=True)
class Processor:
    """A signing processor.

    Attributes:
        algorithm: as its records say.
        private: its key; None for the shared secret.
        reference: what its records call the key.
    """

    algorithm: str
    private: Any
    reference: str

    @classmethod
    def of(cls, algorithm: str) -> Processor:
        """Return one with a fresh key."""
        private = {
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "RS256": lambda: rsa.generate_private_key(65537, 2048),
            "RS512": lambda: rsa.generate_private_key(65537, 2048),
            "HMAC-SHA256": lambda: None,
        }[algorithm]()
        made = cls(algorithm, private, "")
        return made if private is None else replace(made, reference=fingerprint(made.certificate))

    @property
    def certificate(self) -> x509.Certificate:
        """A certificate of its key, the same each time for keys whose signatures are."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signer")])
        start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        builder = x509.CertificateBuilder(name, name, self.private.public_key(), 1, start, start.replace(year=2046))
        identifier = x509.SubjectKeyIdentifier.from_public_key(self.private.public_key())
        builder = builder.add_extension(identifier, critical=False)
        digest = None if self.algorithm == "EdDSA" else hashes.SHA256()
        deterministic = {"ecdsa_deterministic": True} if self.algorithm == "ES256" else {}
        return builder.sign(self.private, digest, **deterministic)

    def sign(self, payload: bytes) -> bytes:
        """Return the signature as the processor makes it."""
        if self.algorithm == "EdDSA":
            return self.private.sign(payload)
        if self.algorithm == "ES256":
            return self.private.sign(payload, ec.ECDSA(hashes.SHA256()))
        if self.algorithm == "HMAC-SHA256":
            return hmac.digest(SECRET, payload, "sha256")
        digest = hashes.SHA512() if self.algorithm == "RS512" else hashes.SHA256()
        return self.private.sign(payload, padding.PKCS1v15(), digest)

    def signed(self, request: bytes) -> bytes:
        """Return a protobuf request as it leaves the processor."""
        message = ExportLogsServiceRequest.FromString(request)
        for resource_logs in message.resource_logs:
            said = {"audit.integrity.algorithm": self.algorithm}
            said |= {"audit.integrity.certificate": self.reference} if self.reference else {}
            for name, value in said.items():
                resource_logs.resource.attributes.add(key=name, value=otlp.any_value(value))
            for record in resource_logs.scope_logs[0].log_records:
                value = base64.b64encode(self.sign(canonical_record(signed_fields(record)))).decode()
                record.attributes.add(key="audit.integrity.value", value=otlp.any_value(value))
        return message.SerializeToString()

    def write_certificate(self, folder: Path) -> Path:
        """Write its certificate as PEM; return the path."""
        path = folder / "certificate.pem"
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return path

    def write_public_key(self, folder: Path) -> Path:
        """Write its bare public key as PEM; return the path."""
        path = folder / "public.pem"
        path.write_bytes(self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        return path
