"""The key that signs delivered records: the collector's own for this, made on first use (`keys/destination.key`).

It says that this collector sent a record (`audit.integrity.*`), and is no key of the ledger: it signs for speed and
for tools that know nothing of ledgers, while receipts and proofs rest on checkpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from klyra_audit.audit_integrity import RecordKey
from klyra_audit.format.keys import SigningKey, VerifyingKey

if TYPE_CHECKING:
    from klyra_collector.seal.key_files import KeyFiles

KEY_FILE: Final = "destination.key"
KEY_NAME: Final = "klyra-audit-destinations"


def destination_key(files: KeyFiles) -> RecordKey:
    """Return the key, drawn on first use; receivers know it by its verifier key.

    Raises:
        KeyLocked, LedgerDamaged: as `KeyFiles.read`.
    """
    return RecordKey(_private(files), verifier_key(files))


def verifier_key(files: KeyFiles) -> str:
    """Return the public half as `<name>+<id>+<base64>`: what records say in `audit.integrity.certificate`."""
    return str(VerifyingKey(KEY_NAME, _private(files).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)))


def note_key(files: KeyFiles) -> SigningKey:
    """Return the key as one that signs notes; errors as `destination_key`."""
    private = _private(files)
    return SigningKey(KEY_NAME, private, private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


def public_pem(files: KeyFiles) -> str:
    """Return the public half as PEM."""
    encoded = _private(files).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return encoded.decode()


def _private(files: KeyFiles) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(files.draw(KEY_FILE))
