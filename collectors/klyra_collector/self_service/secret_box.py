"""Secrets of destinations, sealed so that only the follower can open them (HPKE, RFC 9180, base mode).

Whoever seals needs the public key alone: the API, which anybody on the network can talk to, never holds what opens
them. Each is bound to its destination and member, so that none can be put in another's place.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from klyra_audit.errors import Halted

if TYPE_CHECKING:
    from klyra_collector.seal.key_files import KeyFiles

KEY_FILE: Final = "destination-secrets.key"

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_PURPOSE = "klyra-audit destination secret v1"


class SecretUnreadable(Halted):
    """A stored secret cannot be opened with the follower's key."""

    code = "secret_unreadable"


class SecretBox:
    """The follower's half: opens what was sealed to it."""

    def __init__(self, private: bytes) -> None:
        """Take 32 secret bytes."""
        self._private = X25519PrivateKey.from_private_bytes(private)

    @classmethod
    def of(cls, files: KeyFiles) -> SecretBox:
        """Return the box of a collector, its key drawn on first use; errors as `KeyFiles.read`."""
        return cls(files.draw(KEY_FILE))

    @property
    def public(self) -> bytes:
        """What others seal to: 32 bytes."""
        return self._private.public_key().public_bytes_raw()

    def open(self, sealed: str, destination_id: str, name: str) -> str:
        """Return a secret.

        Raises:
            SecretUnreadable: it was sealed to another key, for another place, or was changed.
        """
        try:
            content = base64.b64decode(sealed, validate=True)
            return _SUITE.decrypt(content, self._private, info=_info(destination_id, name)).decode()
        except (InvalidTag, ValueError) as error:
            raise SecretUnreadable(
                f"The secret {name} of destination {destination_id} cannot be opened with this collector's key.",
                remedy="Give the destination its secrets again; they were sealed to another key.",
            ) from error


def seal(public: bytes, secret: str, destination_id: str, name: str) -> str:
    """Return a secret as only the holder of the key can open it, base64."""
    key = X25519PublicKey.from_public_bytes(public)
    return base64.b64encode(_SUITE.encrypt(secret.encode(), key, info=_info(destination_id, name))).decode()


def _info(destination_id: str, name: str) -> bytes:
    return f"{_PURPOSE}\n{destination_id}\n{name}".encode()
