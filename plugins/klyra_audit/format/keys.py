"""Keys of signed notes: Ed25519 signatures (0x01) and timestamped cosignatures (0x04 Ed25519, 0x06 ML-DSA-44).

Sources: C2SP signed-note v1.0.0, tlog-cosignature v1.1.0.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from klyra_audit.format import ed25519_points
from klyra_audit.format.errors import NoteError

ALGORITHM_ED25519: Final = 0x01
ALGORITHM_COSIGNATURE: Final = 0x04
ALGORITHM_ML_DSA_44: Final = 0x06
COSIGNATURE_ALGORITHMS: Final = frozenset({ALGORITHM_COSIGNATURE, ALGORITHM_ML_DSA_44})
SEED_SIZE: Final = 32
KEY_ID_SIZE: Final = 4

_PUBLIC_SIZES = {ALGORITHM_ED25519: 32, ALGORITHM_COSIGNATURE: 32, ALGORITHM_ML_DSA_44: 1312}
_SIGNATURE_SIZES = {ALGORITHM_ED25519: 64, ALGORITHM_COSIGNATURE: 64, ALGORITHM_ML_DSA_44: 2420}
_TIME = struct.Struct(">Q")
_MAX_TIME = 2**63 - 1
_MAX_LABEL = 255
_HASH_SIZE = 32


class Signer(Protocol):
    """Holds a private key, here or in a key management service."""

    def sign(self, message: bytes) -> bytes:
        """Return the raw signature over `message`: 64 bytes of pure Ed25519, or 2,420 of ML-DSA-44."""
        ...


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key with its name, as written in a policy: ``<name>+<key id>+<base64>``.

    Attributes:
        name: of a log (its origin), a witness or an emitter.
        public: raw public key.
        algorithm: signature type of C2SP signed-note.
    """

    name: str
    public: bytes
    algorithm: int = ALGORITHM_ED25519

    @classmethod
    def parse(cls, vkey: str) -> VerifyingKey:
        """Read a verifier key line.

        Raises:
            NoteError: malformed, of an unknown algorithm, or a key that anyone could sign for.
        """
        name, separator, rest = vkey.partition("+")
        key_id, separator2, encoded = rest.partition("+")
        material = decode_base64(encoded)
        if not separator or not separator2 or not material:
            raise NoteError("a verifier key is not of the form name+id+base64")
        algorithm, public = material[0], material[1:]
        _check_public(algorithm, public)
        key = cls(checked_name(name), public, algorithm)
        if key.key_id.hex() != key_id:
            raise NoteError("a verifier key's id does not belong to its name and key")
        return key

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that select this key on a signature line."""
        return hashlib.sha256(self.name.encode() + b"\n" + self._material).digest()[:KEY_ID_SIZE]

    @property
    def is_cosigner(self) -> bool:
        """Whether its signatures carry the time at which they were made."""
        return self.algorithm in COSIGNATURE_ALGORITHMS

    @property
    def _material(self) -> bytes:
        return bytes([self.algorithm]) + self.public

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(self._material).decode()}"

    def check(self, text: str, signature: bytes) -> int | None:
        """Check what stands on a signature line behind the key id, over a note's text.

        Returns:
            The time of a cosignature in seconds since 1970; None for a signature without one.

        Raises:
            NoteError: it is not this key's signature.
        """
        time, raw = self._split(signature)
        try:
            message = signed_message(self, text, time)
            if self.algorithm == ALGORITHM_ML_DSA_44:
                MLDSA44PublicKey.from_public_bytes(self.public).verify(raw, message)
            else:
                Ed25519PublicKey.from_public_bytes(self.public).verify(raw, message)
        except (InvalidSignature, ValueError) as error:
            raise NoteError(f"the signature of {self.name} does not verify") from error
        return time

    def _split(self, signature: bytes) -> tuple[int | None, bytes]:
        time = None
        raw = signature
        if self.is_cosigner and len(signature) > _TIME.size:
            (time,) = _TIME.unpack_from(signature)
            raw = signature[_TIME.size :]
        if len(raw) != _SIGNATURE_SIZES[self.algorithm] or (time or 0) > _MAX_TIME:
            raise NoteError(f"the signature of {self.name} does not verify")
        return time, raw


class SigningKey:
    """A private key behind a `Signer`, with the name it signs under."""

    def __init__(self, name: str, signer: Signer, public: bytes, algorithm: int = ALGORITHM_ED25519) -> None:
        _check_public(algorithm, public)
        self._signer = signer
        self.verifying_key = VerifyingKey(checked_name(name), public, algorithm)

    @classmethod
    def from_seed(cls, name: str, seed: bytes, algorithm: int = ALGORITHM_ED25519) -> SigningKey:
        """Return the key that 32 secret bytes stand for."""
        if len(seed) != SEED_SIZE:
            raise NoteError(f"a seed is {len(seed)} bytes long, not {SEED_SIZE}")
        private: Ed25519PrivateKey | MLDSA44PrivateKey
        if algorithm == ALGORITHM_ML_DSA_44:
            private = MLDSA44PrivateKey.from_seed_bytes(seed)
        else:
            private = Ed25519PrivateKey.from_private_bytes(seed)
        return cls(name, private, private.public_key().public_bytes_raw(), algorithm)

    @property
    def vkey(self) -> str:
        """The verifier key line to publish."""
        return str(self.verifying_key)

    def signature_line(self, text: str, time: int | None = None) -> str:
        """Return this key's signature line for a note's text.

        Args:
            text: with its final newline.
            time: seconds since 1970, for a cosignature and only for one.

        Raises:
            NoteError: the text is none this kind of key can sign, or the signer gave a signature that is not its key's.
        """
        key = self.verifying_key
        if key.is_cosigner == (time is None):
            raise NoteError(f"{key.name} signs {'with' if key.is_cosigner else 'without'} a time")
        prefix = b"" if time is None else _TIME.pack(time)
        signature = prefix + self._signer.sign(signed_message(key, text, time))
        # A signer is another's program: what it returns must verify before anyone is shown it.
        key.check(text, signature)
        return f"\u2014 {key.name} {base64.b64encode(key.key_id + signature).decode()}\n"


def signed_message(key: VerifyingKey, text: str, time: int | None) -> bytes:
    """Return the bytes that a key signs for a note's text.

    Raises:
        NoteError: an ML-DSA-44 key signs heads of logs only, and this is none.
    """
    if key.algorithm == ALGORITHM_ED25519:
        return text.encode()
    if key.algorithm == ALGORITHM_COSIGNATURE:
        return f"cosignature/v1\ntime {time}\n{text}".encode()
    origin, size, root = _head(text)
    name = key.name.encode()
    if max(len(name), len(origin)) > _MAX_LABEL:
        raise NoteError("a name or origin is longer than 255 bytes")
    return b"".join(
        (
            b"subtree/v1\n\0",
            bytes([len(name)]) + name,
            struct.pack(">Q", time or 0),
            bytes([len(origin)]) + origin,
            struct.pack(">QQ", 0, size),
            root,
        )
    )


def _head(text: str) -> tuple[bytes, int, bytes]:
    lines = text.split("\n")
    try:
        origin, size, root = lines[0].encode(), int(lines[1]), decode_base64(lines[2])
    except (IndexError, ValueError) as error:
        raise NoteError("a text that is no head of a log cannot be cosigned") from error
    if len(root) != _HASH_SIZE or not 0 <= size <= _MAX_TIME:
        raise NoteError("a text that is no head of a log cannot be cosigned")
    return origin, size, root


def checked_name(name: str) -> str:
    """Return a key's name; `NoteError` if it cannot be one."""
    if not name or "+" in name or any(character.isspace() or character < " " for character in name):
        raise NoteError("a key name must not be empty or have spaces or a plus sign")
    return name


def decode_base64(encoded: str) -> bytes:
    """Return the bytes behind base64 in its only canonical spelling; `NoteError` for anything else."""
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoteError("base64 is malformed") from error
    # Python ignores spare bits in the last character; two spellings of one signature must not both pass.
    if base64.b64encode(decoded).decode() != encoded:
        raise NoteError("base64 is not in its only canonical spelling")
    return decoded


def _check_public(algorithm: int, public: bytes) -> None:
    size = _PUBLIC_SIZES.get(algorithm)
    if size is None:
        raise NoteError(f"signature algorithm 0x{algorithm:02x} is not supported here")
    if len(public) != size:
        raise NoteError(f"a public key is {len(public)} bytes long, not {size}")
    weak = None if algorithm == ALGORITHM_ML_DSA_44 else ed25519_points.weakness(public)
    if weak is not None:
        raise NoteError(f"the public key is refused: {weak}")
