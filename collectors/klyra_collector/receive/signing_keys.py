"""Public keys that may sign records on their way here, and how a record refers to one of them.

Such a key belongs to a Collector with the `signingprocessor`, or to whatever else fills `audit.integrity.*` of the
OpenTelemetry audit draft. It is configured, never taken from a record: a certificate that travels with what it is to
prove proves nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from klyra_audit.errors import Rejected
from klyra_collector.secret_reference import read_secret

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

EDDSA: Final = "EdDSA"
ES256: Final = "ES256"
RS256: Final = "RS256"
RS512: Final = "RS512"
HMAC_SHA256: Final = "HMAC-SHA256"
ALGORITHMS: Final = frozenset({EDDSA, ES256, RS256, RS512, HMAC_SHA256})

_SETTING = "signing_processor"
_LEAST_RSA_BITS = 2048
_LEAST_SECRET_BYTES = 16

PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class BadSigningKey(Rejected):
    """A configured key of a signing processor cannot be used."""

    code = "bad_signing_key"


class SigningKeySettings(Protocol):
    """One `[[signing_processor]]` of the configuration; see `config.SigningProcessorSettings`."""

    @property
    def certificate(self) -> Path | None:
        """PEM file with the certificate."""
        ...

    @property
    def public_key(self) -> Path | None:
        """PEM file with the bare public key."""
        ...

    @property
    def hmac_key(self) -> str | None:
        """Reference to the base64 of a shared secret."""
        ...

    @property
    def key_id(self) -> str | None:
        """What `audit.integrity.certificate` says when it is neither certificate nor fingerprint."""
        ...

    @property
    def organization_id(self) -> str | None:
        """Whose records it may sign."""
        ...

    @property
    def required(self) -> bool:
        """Whether those records must be signed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey:
    """A registered key.

    Attributes:
        name: its fingerprint `sha256:<hex>`: of the certificate's DER bytes, or of the public key's; for a shared
            secret its key id, or `hmac`.
        references: everything by which `audit.integrity.certificate` may mean it.
        public: the public key, None for a shared secret.
        secret: the shared secret, b"" for a public key.
        organization_id: whose records it may sign; None for everybody's.
        required: those records must have a signature that verifies.
    """

    name: str
    references: frozenset[str]
    public: PublicKey | None
    secret: bytes = b""
    organization_id: str | None = None
    required: bool = False

    @property
    def algorithms(self) -> frozenset[str]:
        """The algorithms this kind of key is used with."""
        if isinstance(self.public, ed25519.Ed25519PublicKey):
            return frozenset({EDDSA})
        if isinstance(self.public, ec.EllipticCurvePublicKey):
            return frozenset({ES256})
        return frozenset({RS256, RS512}) if self.public is not None else frozenset({HMAC_SHA256})

    @property
    def public_der(self) -> bytes | None:
        """SubjectPublicKeyInfo of the public key; None for a shared secret."""
        return None if self.public is None else _der(self.public)

    def verifies(self, algorithm: str, signature: bytes, payload: bytes) -> bool:
        """Say whether `signature` is this key's over `payload` by that algorithm."""
        public = self.public
        if algorithm not in self.algorithms:
            return False
        if public is None:
            return hmac.compare_digest(hmac.digest(self.secret, payload, "sha256"), signature)
        try:
            if isinstance(public, ed25519.Ed25519PublicKey):
                public.verify(signature, payload)
            elif isinstance(public, ec.EllipticCurvePublicKey):
                public.verify(signature, payload, ec.ECDSA(hashes.SHA256()))  # ASN.1 DER, not JOSE's r ‖ s
            else:
                digest = hashes.SHA512() if algorithm == RS512 else hashes.SHA256()
                public.verify(signature, payload, padding.PKCS1v15(), digest)
        except InvalidSignature:
            return False
        return True


def load_keys(settings: Iterable[SigningKeySettings]) -> tuple[TrustedKey, ...]:
    """Return the keys that the configuration names.

    Raises:
        BadSigningKey: names the setting's position and what is wrong with its key.
        SecretUnavailable: a shared secret is not where the configuration says.
    """
    return tuple(_load(item, f"{_SETTING}[{position}]") for position, item in enumerate(settings))


def _load(item: SigningKeySettings, setting: str) -> TrustedKey:
    if item.certificate is not None:
        return _of_certificate(_read(item.certificate, setting), setting, item)
    if item.public_key is not None:
        return _of_public_key(_read(item.public_key, setting), setting, item)
    secret = _secret(read_secret(item.hmac_key or "", f"{setting}.hmac_key"), setting)
    return TrustedKey(
        name=item.key_id or "hmac",
        references=frozenset(),
        public=None,
        secret=secret,
        organization_id=item.organization_id,
        required=item.required,
    )


def _of_certificate(pem: bytes, setting: str, item: SigningKeySettings) -> TrustedKey:
    """Return the key of a certificate, whose dates and issuer are not looked at: the operator vouches for it."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise _bad(setting, "is no certificate in PEM") from error
    der = certificate.public_bytes(Encoding.DER)
    fingerprint = f"sha256:{hashlib.sha256(der).hexdigest()}"
    references = {fingerprint, base64.b64encode(der).decode()}
    references.add(f"sha1:{hashlib.sha1(der, usedforsecurity=False).hexdigest()}")  # it only selects among our own
    try:
        identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        references.add(identifier.digest.hex())
    except x509.ExtensionNotFound:
        pass
    return TrustedKey(
        name=fingerprint,
        references=frozenset(references | ({item.key_id} if item.key_id else set())),
        public=_checked(certificate.public_key(), setting),
        organization_id=item.organization_id,
        required=item.required,
    )


def _of_public_key(pem: bytes, setting: str, item: SigningKeySettings) -> TrustedKey:
    try:
        public = _checked(load_pem_public_key(pem), setting)
    except ValueError as error:
        raise _bad(setting, "is no public key in PEM") from error
    fingerprint = f"sha256:{hashlib.sha256(_der(public)).hexdigest()}"
    return TrustedKey(
        name=fingerprint,
        references=frozenset({fingerprint, item.key_id or fingerprint}),
        public=public,
        organization_id=item.organization_id,
        required=item.required,
    )


def _checked(public: object, setting: str) -> PublicKey:
    """Return a key of a kind and strength that is believed."""
    if isinstance(public, ed25519.Ed25519PublicKey):
        return public
    if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1):
        return public
    if isinstance(public, rsa.RSAPublicKey) and public.key_size >= _LEAST_RSA_BITS:
        return public
    raise _bad(setting, f"is neither Ed25519, P-256 nor RSA of at least {_LEAST_RSA_BITS} bits")


def _secret(text: str, setting: str) -> bytes:
    """Return the shared secret that its base64 stands for, as the signingprocessor reads it."""
    try:
        secret = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad(setting, "refers to a secret that is not base64") from error
    if len(secret) < _LEAST_SECRET_BYTES:
        raise _bad(setting, f"refers to a secret of fewer than {_LEAST_SECRET_BYTES} bytes")
    return secret


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _bad(setting, f"names a file that cannot be read ({error.strerror})") from error


def _der(public: PublicKey) -> bytes:
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _bad(setting: str, what: str) -> BadSigningKey:
    return BadSigningKey(f"{setting} {what}.", remedy="See docs/opentelemetry-audit.md for the keys it takes.")
